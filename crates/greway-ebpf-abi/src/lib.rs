//! What the BPF programs and userspace agree on, byte for byte.
//!
//! The programs of `greway-ebpf` write these maps and `greway-fastpath` reads them, possibly in another
//! process and another version of greway, because pinned maps outlive both. So the layout is spelled out,
//! its sizes are asserted here, and a change of any of them raises [`LAYOUT`], which is part of the path of
//! the pins: two layouts never meet in one map.
//!
//! This crate refuses to hold logic, dependencies and anything whose size differs between the two sides
//! (`usize`, references, enums as stored values).
//!
//! ```text
//! map greway_counters: per-CPU array, one element an attach point (Point::index)
//!
//!  0        8        16                                     16 + 8 × Decline::COUNT
//!  +--------+--------+--------+--------+-- ... --+--------+
//!  |  seen  |  gre   |        declined, by Decline         |    native-endian u64, packets
//!  +--------+--------+--------+--------+-- ... --+--------+
//! ```
#![no_std]

/// The version of everything in this crate; raised with any change of layout or meaning.
pub const LAYOUT: u32 = 1;

/// Name of the per-CPU counters map. The kernel keeps 15 bytes of a name.
pub const COUNTERS_MAP: &str = "greway_counters";

/// Where on the host a program of ours looks at packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Point {
    /// tc ingress of the peer end of a tunnel's veth pair: payload packets on their way out.
    Overlay = 0,
    /// tc ingress of a device that carries the delivery packets.
    Underlay = 1,
}

impl Point {
    /// How many points there are, which is the number of elements of the counters map.
    pub const COUNT: u32 = 2;

    /// Every point, in the order of [`Self::index`].
    pub const ALL: [Self; Self::COUNT as usize] = [Self::Overlay, Self::Underlay];

    /// The element of the counters map that belongs to this point.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The word for it in output, and in the names of pins.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Underlay => "underlay",
        }
    }

    /// The program that is attached here, as the kernel lists it (15 bytes at most).
    pub const fn program(self) -> &'static str {
        match self {
            Self::Overlay => "greway_overlay",
            Self::Underlay => "greway_underlay",
        }
    }
}

/// Why a program left a packet to those behind it. The number is the index into [`Counters::declined`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Decline {
    /// The program could have taken it; it only counts so far.
    CountsOnly = 0,
    /// Neither IPv4 nor IPv6: ARP, for one.
    NotIp = 1,
    /// IP, but the protocol is not 47.
    NotGre = 2,
    /// Shorter than its headers say, or than a header is.
    Truncated = 3,
    /// It carries a VLAN tag, so it belongs to another device.
    VlanTagged = 4,
    /// Addressed on the link to somebody else, or to several (`pkt_type` is not `PACKET_HOST`).
    OtherHost = 5,
    /// The delivery header has IPv4 options.
    IpOptions = 6,
    /// The delivery packet is a fragment.
    Fragment = 7,
    /// GRE version other than 0: PPTP uses 1 (RFC 2637 §4.1).
    GreVersion = 8,
    /// The routing bit of RFC 1701 is set.
    GreRouting = 9,
    /// A checksum or a sequence number, which userspace checks (RFC 2784 §2.3, RFC 2890 §2.2).
    GreCheckedField = 10,
}

impl Decline {
    /// How many reasons there are.
    pub const COUNT: usize = 11;

    /// Every reason, in the order of its index.
    pub const ALL: [Self; Self::COUNT] = [
        Self::CountsOnly,
        Self::NotIp,
        Self::NotGre,
        Self::Truncated,
        Self::VlanTagged,
        Self::OtherHost,
        Self::IpOptions,
        Self::Fragment,
        Self::GreVersion,
        Self::GreRouting,
        Self::GreCheckedField,
    ];

    /// The word for it in `status`, metrics and tests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CountsOnly => "counts-only",
            Self::NotIp => "not-ip",
            Self::NotGre => "not-gre",
            Self::Truncated => "truncated",
            Self::VlanTagged => "vlan-tagged",
            Self::OtherHost => "other-host",
            Self::IpOptions => "ip-options",
            Self::Fragment => "fragment",
            Self::GreVersion => "gre-version",
            Self::GreRouting => "gre-routing",
            Self::GreCheckedField => "gre-checked-field",
        }
    }
}

/// One CPU's counters of one point, in packets since the map was made. `seen` is the sum of `declined`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Packets the program looked at. A super-packet counts once.
    pub seen: u64,
    /// Those of them whose IP protocol is 47.
    pub gre: u64,
    /// Packets left to those behind, by reason.
    pub declined: [u64; Decline::COUNT],
}

/// [`Counters`] as plain words, which is how userspace reads the map without `unsafe`.
pub type CounterWords = [u64; 2 + Decline::COUNT];

impl Counters {
    /// The counters that stand in `words`.
    pub fn from_words(words: &CounterWords) -> Self {
        let [seen, gre, declined @ ..] = *words;
        Self { seen, gre, declined }
    }

    /// Packets declined for `reason`.
    pub fn declined_for(&self, reason: Decline) -> u64 {
        self.declined[reason as usize]
    }

    /// Adds another CPU's counters to these. Wraps, as the kernel's do.
    pub fn add(&mut self, other: &Self) {
        self.seen = self.seen.wrapping_add(other.seen);
        self.gre = self.gre.wrapping_add(other.gre);
        for (sum, more) in self.declined.iter_mut().zip(other.declined) {
            *sum = sum.wrapping_add(more);
        }
    }
}

const _: () = assert!(size_of::<Counters>() == 104);
const _: () = assert!(align_of::<Counters>() == 8);
const _: () = assert!(size_of::<CounterWords>() == size_of::<Counters>());
const _: () = assert!(core::mem::offset_of!(Counters, gre) == 8);
const _: () = assert!(core::mem::offset_of!(Counters, declined) == 16);
const _: () = assert!(COUNTERS_MAP.len() <= 15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_own_index() {
        for (index, reason) in Decline::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.name());
        }
        for (index, point) in Point::ALL.into_iter().enumerate() {
            assert_eq!(point.index() as usize, index, "{}", point.name());
            assert!(point.program().len() <= 15, "the kernel cuts {}", point.program());
        }
    }

    #[test]
    fn words_and_counters_are_the_same_numbers() {
        let words: CounterWords = core::array::from_fn(|index| index as u64 + 1);
        let mut counters = Counters::from_words(&words);
        assert_eq!(counters.seen, 1);
        assert_eq!(counters.gre, 2);
        assert_eq!(counters.declined_for(Decline::CountsOnly), 3);
        assert_eq!(counters.declined_for(Decline::GreCheckedField), 13);
        counters.add(&Counters::from_words(&words));
        assert_eq!(counters.declined_for(Decline::GreCheckedField), 26);
    }
}
