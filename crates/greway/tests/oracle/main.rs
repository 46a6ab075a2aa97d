//! greway in the kernel's place: every packet that a Linux 6.1 kernel was given, put on the wire of a host that runs
//! greway, and what comes of it compared with what that kernel did. The record is that of the engine's own tests,
//! `crates/greway-engine/tests/oracle`; here the sockets, the daemon, the device pair and the host's stack are part
//! of the answer.
//!
//! ```text
//!   wire   u0 ---------------- wan0 10.9.0.2, fd09::2   host
//!   frames by hand             plain, key, csum …: greway's tunnels, one for each of the kernel's
//! ```
//!
//! Each row is a case of its own: all that differ are listed before a test fails, with their rules. What differs on
//! purpose is in `deviations.rs`, and fails as well once it does not differ any more.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../support/mod.rs"]
mod support;

mod accept;
mod deviations;
mod encap;
mod lab;
mod masked;
mod record;
mod report;

/// The ways in which the same tunnels can be carried: a name, and the words that choose it. All carry all rows.
macro_rules! ways {
    ($($way:ident: $words:literal;)+) => {$(
        mod $way {
            #[test]
            fn rx01_to_rx28_as_the_kernel() {
                greway_testbed::require!(greway_testbed::privilege::check());
                crate::accept::run(stringify!($way), $words);
            }

            #[test]
            fn tx03_to_tx08_and_t6_as_the_kernel() {
                greway_testbed::require!(greway_testbed::privilege::check());
                crate::encap::run(stringify!($way), $words);
            }
        }
    )+};
}

ways! {
    packet_socket: "underlay packet datapath userspace";
    raw_socket: "underlay raw datapath userspace";
    ebpf: "datapath ebpf";
}
