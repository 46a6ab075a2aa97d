//! The notices of what is compiled into the program: MIT and the BSD licences ask for their text to go with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::shell;

/// All third-party crates of the program for `target`, their licences, and each text once.
pub(super) fn notices(target: &str) -> anyhow::Result<String> {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", target];
    let metadata: Value =
        serde_json::from_slice(&shell::cargo(&arguments).output()?.stdout).context("cargo metadata")?;
    let used = reachable(&metadata).context("cargo metadata has no graph")?;
    let mut list = String::from(
        "What is compiled into greway beside its own code (MIT or Apache-2.0, see there).\n\
         Where a crate offers a choice of licences, any of them may be taken.\n\n",
    );
    let mut texts = BTreeMap::<String, BTreeSet<String>>::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |field: &str| package[field].as_str().unwrap_or_default();
        if !used.contains(text("id")) || package["source"].is_null() {
            continue;
        }
        let name = format!("{} {}", text("name"), text("version"));
        list.push_str(&format!("  {name}: {}\n", text("license")));
        for words in texts_beside(Path::new(text("manifest_path")))? {
            texts.entry(words).or_default().insert(name.clone());
        }
    }
    for (words, names) in texts {
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        list.push_str(&format!("\n{}\n{names}\n\n{}\n", "-".repeat(80), words.trim()));
    }
    Ok(list)
}

/// The packages that the binary is linked from: no dependencies of tests or build scripts.
fn reachable(metadata: &Value) -> Option<BTreeSet<String>> {
    let nodes = metadata["resolve"]["nodes"].as_array()?;
    let packages = metadata["packages"].as_array()?;
    let root = packages.iter().find(|package| package["name"] == "greway")?["id"].as_str()?;
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(id) = open.pop() {
        let Some(node) = nodes.iter().find(|node| node["id"] == id.as_str()) else { continue };
        if !found.insert(id) {
            continue;
        }
        let is_linked = |dependency: &&Value| {
            dependency["dep_kinds"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
        };
        let linked = node["deps"].as_array()?.iter().filter(is_linked);
        open.extend(linked.filter_map(|dependency| Some(dependency["pkg"].as_str()?.to_owned())));
    }
    Some(found)
}

/// The licence and notice files in a package's folder.
fn texts_beside(manifest: &Path) -> anyhow::Result<Vec<String>> {
    const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];
    let mut texts = Vec::new();
    for (name, path) in super::tree::files(manifest.parent().context("a manifest has a folder")?)? {
        if NAMES.iter().any(|start| name.to_uppercase().starts_with(start)) {
            texts.push(String::from_utf8_lossy(&fs::read(path)?).into_owned());
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_named_and_what_only_builds_or_tests_is_not() {
        let notices = notices("x86_64-unknown-linux-musl").unwrap();
        for linked in ["  clap ", "  serde_json ", "Permission is hereby granted"] {
            assert!(notices.contains(linked), "{linked}");
        }
        for other in ["  proptest ", "  greway "] {
            assert!(!notices.contains(other), "{other}");
        }
    }
}
