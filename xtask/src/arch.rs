//! `cargo xtask arch`: the arrows between the crates go one way, and only the ones written here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::shell;

/// Who may depend on whom (ARCHITECTURE.md, "Rooms"). Dev-dependencies are free, but for this:
/// nothing may depend on the binary.
const ALLOWED: &[(&str, &[&str])] = &[
    ("greway-wire", &[]),
    ("greway-spec", &["greway-wire"]),
    ("greway-dialects", &["greway-spec"]),
    ("greway-engine", &["greway-wire", "greway-spec"]),
    ("greway-inspect", &["greway-wire", "greway-spec", "greway-engine"]),
    ("greway-linux", &[]),
    ("greway-netlink", &[]),
    ("greway-nm", &["greway-spec"]),
    ("greway-ebpf-abi", &[]),
    ("greway-fastpath", &["greway-ebpf-abi", "greway-spec", "greway-linux"]),
    ("greway-datapath", &["greway-wire", "greway-engine", "greway-spec", "greway-linux"]),
    (
        "greway-control",
        &[
            "greway-wire",
            "greway-spec",
            "greway-dialects",
            "greway-engine",
            "greway-linux",
            "greway-netlink",
            "greway-fastpath",
            "greway-datapath",
        ],
    ),
    ("greway-testbed", &["greway-wire", "greway-linux", "greway-netlink"]),
    (
        "greway",
        &[
            "greway-wire",
            "greway-spec",
            "greway-dialects",
            "greway-engine",
            "greway-inspect",
            "greway-linux",
            "greway-netlink",
            "greway-nm",
            "greway-control",
            "greway-testbed",
        ],
    ),
    ("xtask", &["greway-testbed"]),
];

/// Third-party crates that stay behind one fence: (crate, the only one that may name it).
const FENCED: &[(&str, &[&str])] = &[
    ("netlink-packet-core", &["greway-netlink"]),
    ("netlink-packet-route", &["greway-netlink"]),
    ("netlink-sys", &["greway-netlink"]),
    ("aya", &["greway-fastpath"]),
    ("zbus", &["greway-nm"]),
    ("libc", &["greway-linux", "greway-netlink"]),
    ("anyhow", &["greway", "xtask"]),
    ("pcap-parser", &["greway-inspect"]),
];

/// Checks the graph.
pub(crate) fn run() -> anyhow::Result<()> {
    let wrong = violations(&graph()?);
    if !wrong.is_empty() {
        bail!("the architecture does not hold:\n  {}", wrong.join("\n  "));
    }
    println!("arch: {} crates, every arrow as ARCHITECTURE.md draws it", ALLOWED.len());
    Ok(())
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// The normal and build dependencies of each member of the workspace.
fn graph() -> anyhow::Result<Graph> {
    let output = shell::cargo(&["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    Ok(packages.iter().map(edges).collect())
}

fn edges(package: &Value) -> (String, BTreeSet<String>) {
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    let normal = dependencies.filter(|dependency| dependency["kind"] != "dev");
    (name(package), normal.map(name).collect())
}

fn violations(graph: &Graph) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, dependencies) in graph {
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
            wrong.push(format!("{name} is not in the table of xtask/src/arch.rs"));
            continue;
        };
        for dependency in dependencies {
            let inside = graph.contains_key(dependency);
            if inside && !allowed.contains(&dependency.as_str()) {
                wrong.push(format!("{name} may not depend on {dependency}"));
            }
            if let Some((_, owners)) = FENCED.iter().find(|(fenced, _)| fenced == dependency)
                && !owners.contains(&name.as_str())
            {
                wrong.push(format!("{dependency} stays inside {}, but {name} names it", owners.join(", ")));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph_of(edges: &[(&str, &[&str])]) -> Graph {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        edges.iter().map(|(name, to)| ((*name).to_owned(), set(to))).collect()
    }

    #[test]
    fn an_arrow_against_the_direction_is_found() {
        let graph = graph_of(&[("greway-wire", &["greway-engine"]), ("greway-engine", &["greway-wire"])]);
        assert_eq!(violations(&graph), ["greway-wire may not depend on greway-engine"]);
    }

    #[test]
    fn a_fenced_crate_outside_its_fence_is_found() {
        let graph = graph_of(&[("greway-control", &["aya"])]);
        assert_eq!(violations(&graph), ["aya stays inside greway-fastpath, but greway-control names it"]);
    }

    #[test]
    fn a_crate_that_nobody_drew_is_found() {
        let graph = graph_of(&[("greway-utils", &[])]);
        assert_eq!(violations(&graph).len(), 1);
    }
}
