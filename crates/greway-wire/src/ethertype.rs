//! Protocol types of GRE that the product knows by name (the EtherType registry, RFC 2784 §2.4).

/// IPv4.
pub const IPV4: u16 = 0x0800;
/// ARP.
pub const ARP: u16 = 0x0806;
/// Transparent Ethernet bridging: an Ethernet frame (RFC 1701 §2, `gretap`).
pub const TEB: u16 = 0x6558;
/// An 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// An 802.1ad service tag.
pub const QINQ: u16 = 0x88a8;
/// IPv6 (RFC 7676).
pub const IPV6: u16 = 0x86dd;
/// PPP, the payload of PPTP (RFC 2637 §4.1).
pub const PPP: u16 = 0x880b;
/// MPLS unicast (RFC 4023).
pub const MPLS: u16 = 0x8847;
/// WCCP's IPv4 in GRE (linux include/uapi/linux/if_tunnel.h, v6.18).
pub const WCCP: u16 = 0x883e;
/// ERSPAN type I and II.
pub const ERSPAN: u16 = 0x88be;
/// ERSPAN type III.
pub const ERSPAN2: u16 = 0x22eb;

/// A name for people, where there is one.
pub fn name(protocol_type: u16) -> Option<&'static str> {
    Some(match protocol_type {
        0 => "none (keepalive)",
        IPV4 => "IPv4",
        ARP => "ARP",
        TEB => "Ethernet",
        VLAN => "802.1Q",
        QINQ => "802.1ad",
        IPV6 => "IPv6",
        PPP => "PPP",
        MPLS => "MPLS",
        WCCP => "WCCP",
        ERSPAN => "ERSPAN",
        ERSPAN2 => "ERSPAN III",
        _ => return None,
    })
}
