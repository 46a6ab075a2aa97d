//! The programs of this checkout that are measured, and the one that measures, as users get them: optimised.

use std::path::PathBuf;

use anyhow::Context;
use greway_testbed::ovs;
use serde_json::Value;

use crate::{peers, shell};

/// Built programs.
pub(super) struct Programs {
    pub(super) greway: PathBuf,
    /// Makes and counts traffic.
    pub(super) load: PathBuf,
}

impl Programs {
    /// Open vSwitch: unpacked below the target directory, where that can be done, or installed; or why there is none.
    pub(super) fn open_vswitch(&self) -> Result<ovs::Programs, String> {
        let folder = peers::unpacked("openvswitch").map_err(|why| format!("no Open vSwitch: {why}"));
        match folder {
            Ok(folder) => ovs::Programs::find(&folder),
            // It may be installed.
            Err(why) => ovs::Programs::find(std::path::Path::new("/")).map_err(|_| why),
        }
    }
}

/// Builds both. Cargo shows how far it is.
pub(super) fn build() -> anyhow::Result<Programs> {
    eprintln!("bench: building greway and greway-load, optimised");
    // At once: greway alone would be built with other features of what both use, and then again.
    let packages = ["--package", "greway", "--package", "greway-testbed"];
    let mut cargo = shell::cargo(&["build", "--release", "--bin", "greway", "--bin", "greway-load"]);
    shell::run(cargo.args(packages))?;
    let output = shell::cargo(&["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let target = metadata["target_directory"].as_str().context("cargo names its target directory")?;
    let release = PathBuf::from(target).join("release");
    Ok(Programs { greway: release.join("greway"), load: release.join("greway-load") })
}
