//! The kernel's own selftests of GRE that need nothing but namespaces, as cases of ours: what its tunnels are held to,
//! greway's are. Those that need VRF, VLAN devices or tc's matchall are steps in a guest (`tests/guest`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, and helpers of tests; ratios are for people"
)]

#[path = "../support/pair.rs"]
mod pair;
#[path = "../support/mod.rs"]
mod support;

mod gso;
mod multipath;
