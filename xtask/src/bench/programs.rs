//! The programs of this checkout that are measured, and the one that measures, as users get them: optimised.

use std::path::{Path, PathBuf};

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
        match peers::unpacked("openvswitch") {
            Ok(folder) => ovs::Programs::find(&folder),
            // It may be installed.
            Err(why) => {
                ovs::Programs::find(Path::new("/")).map_err(|missing| format!("{missing} (here: {why})"))
            }
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
    let release = target_directory()?.join("release");
    Ok(Programs { greway: release.join("greway"), load: release.join("greway-load") })
}

/// Where cargo puts what it builds.
pub(super) fn target_directory() -> anyhow::Result<PathBuf> {
    let output = shell::cargo(&["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    Ok(metadata["target_directory"].as_str().context("cargo names its target directory")?.into())
}
