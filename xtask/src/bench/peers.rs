//! What is measured beside what.

/// With what the reason begins when a peer is not part of this machine.
pub(super) const NOT_HERE: &str = "not on this machine: ";

/// A way from one namespace to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// The veth link that all others go over.
    Bare,
    /// Another one, for the noise. In guests that of the other machine.
    BareAgain,
    /// The kernel's VXLAN, with its defaults.
    Vxlan,
    /// The kernel's own GRE.
    IpGre,
    /// Open vSwitch at both ends, its datapath in userspace: Ethernet in GRE, with its defaults.
    Ovs,
    /// greway without BPF.
    Userspace,
    /// The same with a checksum and a key in every packet, which no program carries.
    UserspaceCsum,
    /// greway's fast path.
    Ebpf,
}

impl Peer {
    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Bare => "bare veth",
            Self::BareAgain => "bare veth again",
            Self::Vxlan => "kernel VXLAN",
            Self::IpGre => "kernel ip_gre",
            Self::Ovs => "Open vSwitch",
            Self::Userspace => "greway userspace",
            Self::UserspaceCsum => "greway userspace, csum+key",
            Self::Ebpf => "greway ebpf",
        }
    }

    /// For programs.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::BareAgain => "bare-again",
            Self::Vxlan => "vxlan",
            Self::IpGre => "ip-gre",
            Self::Ovs => "ovs",
            Self::Userspace => "userspace",
            Self::UserspaceCsum => "userspace-csum",
            Self::Ebpf => "ebpf",
        }
    }

    /// Whether there is no tunnel.
    pub(super) fn is_bare(self) -> bool {
        matches!(self, Self::Bare | Self::BareAgain)
    }

    /// The word for `datapath`, where it is a greway.
    pub(super) fn datapath(self) -> Option<&'static str> {
        match self {
            Self::Userspace | Self::UserspaceCsum => Some("userspace"),
            Self::Ebpf => Some("ebpf"),
            _ => None,
        }
    }

    /// What the tunnel has beside its ends, as `tunnel add` takes it, where it is a greway.
    pub(super) fn words(self) -> &'static str {
        if self == Self::UserspaceCsum { "csum" } else { "" }
    }
}
