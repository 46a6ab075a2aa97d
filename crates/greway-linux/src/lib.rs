//! The Linux calls that greway needs and `std` does not have: packet and raw sockets in batches,
//! TUN devices, network namespaces, ethtool features, epoll.
//!
//! This is the only crate with `unsafe`, so that the question "can this corrupt memory?" has one
//! place to be asked. It therefore knows nothing of tunnels, GRE or configuration: it moves bytes
//! and says what the kernel said. The rules inside:
//!
//! - one system call a function, and the SAFETY comment argues from the manual page;
//! - `OwnedFd` and `BorrowedFd` only, no raw descriptor crosses a function boundary;
//! - no `libc` type and no raw pointer in a public signature;
//! - layouts shared with the kernel are our own `repr(C)` types, asserted in size, because the C
//!   libraries disagree on `msghdr` and `cmsghdr` (musl pads them; its `sendmmsg` is a loop).
//!
//! Nothing here allocates for each packet.
#![allow(unsafe_code, reason = "this crate is the fence: every other crate denies unsafe code")]
#![deny(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]
#![cfg(target_os = "linux")]

mod abi;
pub mod batch;
pub mod bpf;
pub mod clock;
pub mod echo;
pub mod errno;
mod error_queue;
pub mod ethtool;
pub mod event;
pub mod filter;
pub mod flow;
pub mod inherited;
pub mod injector;
pub mod mac;
pub mod multicast;
pub mod netns;
pub mod packet;
pub mod process;
pub mod raw;
pub mod signal;
pub mod sockopt;
pub mod sysfs;
pub mod tun;
pub mod unix;
pub mod vnet;
pub mod xtables;

pub use abi::OpenError;
pub use mac::MacAddr;
