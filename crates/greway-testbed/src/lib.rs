//! The lab: hosts in network namespaces, cables between them, traffic, captures, and a real Linux kernel as a
//! peer. `greway demo` is made of it, and so are the tests that need whole tunnels.
//!
//! It needs no program of the system (no `ip`, no `ping`, PATH may be empty), leaves nothing behind, and touches
//! no namespace but its own. The exceptions are for tests only: [`uml`], which starts User Mode Linux, [`ovs`], which
//! starts Open vSwitch, and [`qemu`], which starts whole Debian machines.
//!
//! It knows nothing of tunnels: those are made by what is shown or tested, never by the lab. It asserts nothing
//! either; it reports, and the caller decides what is right.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use greway_testbed::{Guide, PingOptions, guide, ping};
//!
//! let guide = Guide::build()?;
//! let report = ping(&guide.linux1, guide::OUTER[1].into(), &PingOptions::default())?;
//! assert!(report.complete(), "{report}");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod bpffs;
pub mod build;
pub mod capture;
mod error;
pub mod guide;
mod host;
pub mod impair;
mod link;
pub mod load;
pub mod order;
pub mod ovs;
pub mod pattern;
pub mod pcap;
mod ping;
mod poll;
pub mod privilege;
mod programs;
pub mod qemu;
pub mod tcp;
pub mod uml;

pub use bpffs::Bpffs;
pub use capture::{Capture, CapturedPacket, inject};
pub use error::Error;
pub use guide::Guide;
pub use host::Host;
pub use link::{LinkOptions, link, offloads};
pub use ping::{IcmpError, PingOptions, PingReport, ping};
pub use poll::{Deadline, poll_until};
