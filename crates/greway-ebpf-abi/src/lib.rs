//! What the BPF programs and userspace agree on, byte for byte.
//!
//! The programs of `greway-ebpf` read and write these maps and `greway-fastpath` does so too, possibly in
//! another process and another version of greway, because pinned maps outlive both. So the layout is spelled
//! out, its sizes are asserted here, and a change of any of them raises [`LAYOUT`], which is part of the path
//! of the pins: two layouts never meet in one map.
//!
//! This crate refuses to hold logic, dependencies and anything whose size differs between the two sides
//! (`usize`, references, enums as stored values) or whose bytes are not all written (implicit padding: a hash
//! map compares keys byte for byte).
//!
//! ```text
//! map              kind           key                       value
//! greway_counters  per-CPU array  Point::index              Counters
//! greway_egress    hash           index of the peer end     EgressEntry
//! greway_ingress   hash           IngressKey                IngressEntry
//! greway_tunnels   per-CPU hash   index of the peer end     TunnelCounters
//! greway_slots     per-CPU array  Slot::of                  Slot
//! greway_local     hash           address, 16 bytes         u32, not read
//! greway_state     array          0                         State
//! greway_devices   hash           index of the device       index of its peer end, u32
//! greway_verdict   hash           index of the peer end     witness::Verdict
//! greway_gate      hash           index of the peer end     witness::Gate
//! ```
//!
//! Addresses are 16 bytes everywhere; those of IPv4 are mapped (`::ffff:192.0.2.1`, RFC 4291 §2.5.5.2), all
//! zero is none. Numbers are native-endian unless a field says otherwise.
#![no_std]

mod counters;
mod entry;
mod reason;
pub mod witness;

pub use counters::{Counters, Slot, Traffic, TunnelCounters};
pub use entry::{EgressEntry, HEADER_MAX, IngressEntry, IngressKey, State, egress, ingress, key};
pub use reason::{Decline, Dropped};

/// The version of everything in this crate; raised with any change of layout or meaning.
pub const LAYOUT: u32 = 4;

/// Name of the per-CPU counters map. The kernel keeps 15 bytes of a name.
pub const COUNTERS_MAP: &str = "greway_counters";
/// Name of the map of tunnels by their peer end: what the overlay program goes by.
pub const EGRESS_MAP: &str = "greway_egress";
/// Name of the map of tunnels by outer addresses and key: what the underlay program goes by.
pub const INGRESS_MAP: &str = "greway_ingress";
/// Name of the per-CPU map of each tunnel's counters.
pub const TUNNELS_MAP: &str = "greway_tunnels";
/// Name of the per-CPU map of what was carried of the tunnels that have a slot.
pub const SLOTS_MAP: &str = "greway_slots";
/// Name of the set of this host's addresses, asked for tunnels without a `local`.
pub const LOCAL_MAP: &str = "greway_local";
/// Name of the map with what concerns all tunnels.
pub const STATE_MAP: &str = "greway_state";
/// Name of the map of tunnel devices that send without their pair.
pub const DIRECT_MAP: &str = "greway_devices";
/// Name of the map of what userspace decided about tunnels that need witnesses.
pub const VERDICT_MAP: &str = "greway_verdict";
/// Name of the map of what the programs saw of these.
pub const GATE_MAP: &str = "greway_gate";

/// Every map, in the order of the table above.
pub const MAPS: [&str; 10] = [
    COUNTERS_MAP,
    EGRESS_MAP,
    INGRESS_MAP,
    TUNNELS_MAP,
    SLOTS_MAP,
    LOCAL_MAP,
    STATE_MAP,
    DIRECT_MAP,
    VERDICT_MAP,
    GATE_MAP,
];

/// Most tunnels in one network namespace.
pub const MOST_TUNNELS: u32 = 16_384;
/// Most addresses of this host.
pub const MOST_ADDRESSES: u32 = 16_384;

/// How old the daemon's last sign of life may be in nanoseconds before next hops are the kernel's to find.
pub const HEARTBEAT_STALE_NS: u64 = 5_000_000_000;

/// What the overlay program declines and is neither IPv4, IPv6 nor ARP, or had a VLAN tag, goes to userspace behind a
/// service tag (EtherType 0x88a8) of its own with this content, which no frame has on a wire (IEEE 802.1Q table 9-2).
pub const SEALED_TCI: u16 = 0x0fff;

/// Where on the host a program of ours looks at packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Point {
    /// tc ingress of the peer end of a tunnel's veth pair: payload packets on their way out.
    Overlay = 0,
    /// tc ingress of a device that carries the delivery packets.
    Underlay = 1,
    /// tc egress of a tunnel device, where payload packets do not go through the pair (`direct`).
    Direct = 2,
    /// tc egress of a device that carries the delivery packets, while a tunnel needs witnesses.
    Witness = 3,
}

impl Point {
    /// How many points there are, which is the number of elements of the counters map.
    pub const COUNT: u32 = 4;

    /// Every point, in the order of [`Self::index`].
    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::Overlay, Self::Underlay, Self::Direct, Self::Witness];

    /// Those at tc ingress, which every tunnel needs; the others are at tc egress.
    pub const AT_INGRESS: [Self; 2] = [Self::Overlay, Self::Underlay];

    /// Whether packets are looked at that leave the device.
    pub const fn at_egress(self) -> bool {
        matches!(self, Self::Direct | Self::Witness)
    }

    /// The element of the counters map that belongs to this point.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The word for it in output, and in the names of pins.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Underlay => "underlay",
            Self::Direct => "direct",
            Self::Witness => "witness",
        }
    }

    /// The program that is attached here, as the kernel lists it (15 bytes at most).
    pub const fn program(self) -> &'static str {
        match self {
            Self::Overlay => "greway_overlay",
            Self::Underlay => "greway_underlay",
            Self::Direct => "greway_direct",
            Self::Witness => "greway_witness",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_keeps_every_name_whole() {
        for (index, point) in Point::ALL.into_iter().enumerate() {
            assert_eq!(point.index() as usize, index, "{}", point.name());
            assert!(point.program().len() <= 15, "the kernel cuts {}", point.program());
        }
        for (index, name) in MAPS.into_iter().enumerate() {
            assert!(name.len() <= 15, "the kernel cuts {name}");
            assert!(!MAPS[..index].contains(&name), "{name} twice");
        }
    }
}
