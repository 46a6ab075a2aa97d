//! Carries packets: threads, queues and batches between tunnel devices and the underlay.
//!
//! What is done to a packet is decided in `greway-engine`; this crate moves the bytes. It makes no
//! device, reads no configuration and sets no rule of the host. Worker threads own all sockets, buffers and
//! tunnel states; others reach them by commands ([`Datapath`]) and read counters without a lock. There may be
//! one or several, each with its share of the flows (`crew.rs`).
//!
//! ```text
//!  tun0 ══ veth ══ peer end                                  underlay devices
//!             │ packet socket,                          packet socket │ or raw socket
//!             │ virtio-net header             (sees offload facts)    │ (behind the firewall)
//!             ▼                                                       ▼
//!          [ batch ] ── encapsulate ─► train ─► raw socket ─►   [ batch ] ── decapsulate ─┐
//!             ▲                                                                           │
//!             └──────────────── virtio-net header, link header, payload in place ◄────────┘
//! ```
//!
//! What is sent always goes by a raw socket, so the host's routes, neighbours, OUTPUT rules and
//! IPsec policies hold for it (`IP_HDRINCL` would pass a policy by). What is received goes by a
//! packet socket where nothing on the host could filter it, else by a raw socket; see [`Receive`].

#![forbid(unsafe_code)]

mod arrived;
mod backlog;
mod close;
mod command;
mod crew;
mod exit;
mod gather;
mod groups;
mod handle;
mod handover;
mod held;
mod icmp;
mod into_device;
mod local;
mod lull;
mod news;
mod offload;
mod others;
mod overlay;
mod path_mtu;
mod port;
mod receive;
mod reverse_path;
mod send;
mod shared;
mod turn;
mod underlay;
mod whole;
mod witness;
mod worker;

pub use crew::Workers;
pub use exit::{Exit, Injection, SuperPackets};
pub use handle::{Datapath, DatapathError};
pub use icmp::{Answers, IcmpReport, TunnelIcmp};
pub use local::LocalAddresses;
pub use lull::BusyPoll;
pub use news::News;
pub use others::Silence;
pub use overlay::{Overlay, SEALED, Tap};
pub use port::{PortSpec, ReserveSequence, Traffic};
pub use reverse_path::{Filter, ReversePaths};
pub use underlay::Receive;
pub use witness::{Passages, Recogniser, Through};
