//! Choices that are ours, not iproute2's.

use serde::{Deserialize, Serialize};

/// Which data plane may carry a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatapathChoice {
    /// The fastest that works here.
    #[default]
    Auto,
    /// The eBPF fast path or an error.
    Ebpf,
    /// Userspace only.
    Userspace,
}

/// Which sockets the userspace data plane uses on the underlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnderlayChoice {
    /// Packet socket unless the firewall, an IPsec policy or the kernel speak against it.
    #[default]
    Auto,
    /// Packet socket: sees offload facts, passes INPUT rules by.
    Packet,
    /// Raw IP socket: behind the host's firewall and IPsec policies.
    Raw,
}

/// Which kind of device a tunnel is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverlayChoice {
    /// One end of a veth pair, or TUN where veth is refused.
    #[default]
    Auto,
    /// One end of a veth pair.
    Veth,
    /// A TUN device.
    Tun,
}

/// Whether the host's firewall holds for the GRE packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirewallPolicy {
    /// GRE passes only where the host's rules let it pass.
    #[default]
    Honour,
    /// The shortest path, past the host's rules.
    Bypass,
}

/// What becomes of received packets by their sequence numbers, where they must have them (`iseq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeqMode {
    /// As Linux has it: what comes late is dropped, and a packet without a number too.
    #[default]
    Linux,
    /// RFC 2890 §2.2: packets are put in order in a small buffer; a peer that starts again is followed.
    Rfc2890,
}

/// Whether the maximum segment size that TCP connections announce through the tunnel is lowered to what
/// fits (RFC 9293 §3.7.1). Hosts behind a router do not see the tunnel's MTU, and not all let the path tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MssClamp {
    /// To the tunnel's MTU, while this host forwards.
    #[default]
    Auto,
    /// Never.
    Off,
    /// To this many bytes, never 0.
    Fixed(u16),
}
