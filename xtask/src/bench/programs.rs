//! The programs of this checkout that are measured, and the one that measures, as users get them: optimised.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;

use crate::shell;

/// Built programs.
pub(super) struct Programs {
    pub(super) greway: PathBuf,
    /// Makes and counts traffic.
    pub(super) load: PathBuf,
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
