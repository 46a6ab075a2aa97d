//! What the real tool prints of a tunnel, as pure functions: for the personality that adds our tunnels to
//! its output.
//!
//! `ip tunnel show` ([`tunnel_show`]) and the parts of `ip link show` that differ between a device of
//! ours and a kernel tunnel ([`splice_link_text`], [`splice_link_json`]). Colours (`-c`) are not imitated.

mod link;
mod members;
mod splice;
mod tunnel;

use greway_spec::TunnelSpec;

pub use link::{link_address_line, link_flags, link_kind_line, linkinfo_json};
pub use splice::{splice_link_json, splice_link_text};
pub use tunnel::tunnel_show;
pub(super) use tunnel::{json_list, text_of};

/// The global options that change what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-j`.
    pub json: bool,
    /// `-p`.
    pub pretty: bool,
    /// `-o`: line breaks become backslashes.
    pub oneline: bool,
    /// `-s`.
    pub statistics: bool,
    /// `-N`: TOS values by number.
    pub numeric: bool,
}

impl Options {
    /// A line break.
    fn line_break(&self) -> &'static str {
        if self.oneline { "\\" } else { "\n" }
    }
}

/// The counters of a device that `ip -s tunnel` prints; those of `struct rtnl_link_stats64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's names say what they are")]
pub struct Statistics {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub rx_frame_errors: u64,
    pub rx_fifo_errors: u64,
    pub multicast: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
    pub collisions: u64,
    pub tx_carrier_errors: u64,
    pub tx_dropped: u64,
}

/// A tunnel to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'s> {
    /// The tunnel.
    pub spec: &'s TunnelSpec,
    /// The counters of its device; looked at with `-s` only.
    pub statistics: Statistics,
}
