//! Witness packets: what shows that the host's rules would let the packets pass that the programs carry past them.
//!
//! Userspace decides and writes [`Verdict`]; the programs count and write [`Gate`]. No field is written by both, so
//! that replacing the one never loses a count of the other. Where a tunnel has no element, nothing is carried.
//!
//! ```text
//! a witness that came in: a packet with            one that is on its way out
//! some of its bytes replaced
//! +--------+-----+------------+---------+---       +--------+-----+------------+---------+
//! | outer  | GRE | 128 bytes  | trailer | ...      | outer  | GRE |  16 bytes  | trailer |
//! +--------+-----+------------+---------+---       +--------+-----+------------+---------+
//!                  fewer in a shorter packet,                       see `OUT_FRONT`
//!                  which ends with the trailer
//!
//! trailer:  +----------------------------+------+--------+
//!           |           secret           | peer | number |   the last two in network byte order
//!           +----------------------------+------+--------+
//!                     16 bytes              4        4
//! ```

/// Bytes of the trailer.
pub const TRAILER: usize = 24;
/// Bytes of the payload packet, behind the link header of a frame, in front of the trailer of a witness that came in.
/// Rules that look inside find there what they look for. In a shorter packet the trailer replaces the last bytes.
pub const IN_KEPT: usize = 128;
/// Bytes between the GRE header and the trailer of a witness on its way out. For a layer 3 tunnel they are zero, which
/// is no IP packet of any version; for an Ethernet tunnel they begin with the header of a frame that no bridge forwards.
/// So a witness that left the host after all means nothing to the far end.
pub const OUT_FRONT: usize = 16;

/// What userspace has decided about a tunnel whose packets need witnesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Verdict {
    /// What nobody outside this host knows.
    pub secret: [u8; 16],
    /// About packets that come in.
    pub inbound: Leave,
    /// About packets that go out.
    pub outbound: Leave,
    /// The number of the witness that is wanted of the packets that come in; 0: none, or it was made.
    pub ask: u32,
    /// Zero.
    pub reserved: u32,
}

/// Leave to carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Leave {
    /// Each leave has a number of its own; 0: none is given.
    pub number: u32,
    /// 0: only if the last packet was declined when `at` says, which userspace has dealt with, so that none is
    /// overtaken. 1: at once.
    pub at_once: u32,
    /// A value of [`Passage::last_ns`].
    pub at: u64,
}

/// What the programs saw of such a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Gate {
    /// Packets that came in.
    pub inbound: Passage,
    /// Packets that went out.
    pub outbound: Passage,
    /// The number of the last witness that was made of a packet which came in.
    pub made: u32,
    /// The number of the last witness that was about to leave the host.
    pub left: u32,
    /// What was wrong with it, see [`differs`]; 0: nothing.
    pub differs: u32,
    /// Zero.
    pub reserved: u32,
}

/// One direction of a [`Gate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Passage {
    /// Packets declined for want of leave; of those that several CPUs decline at once some may be missing.
    pub declined: u64,
    /// When the last one was, in nanoseconds of CLOCK_MONOTONIC; 0: never.
    pub last_ns: u64,
    /// The number of the last leave that was made use of.
    pub opened: u32,
    /// Zero.
    pub reserved: u32,
}

/// Bits of [`Gate::differs`]: how a witness that was about to leave differs from what the program sends.
pub mod differs {
    /// The source address: a translation (SNAT).
    pub const SOURCE: u32 = 1 << 0;
    /// The destination address (DNAT).
    pub const DESTINATION: u32 = 1 << 1;
    /// TTL or hop limit.
    pub const TTL: u32 = 1 << 2;
    /// TOS or traffic class.
    pub const TOS: u32 = 1 << 3;
    /// The mark.
    pub const MARK: u32 = 1 << 4;
    /// It leaves by another device.
    pub const DEVICE: u32 = 1 << 5;

    /// All of them, with the words for people.
    pub const ALL: [(u32, &str); 6] = [
        (SOURCE, "source address"),
        (DESTINATION, "destination address"),
        (TTL, "ttl"),
        (TOS, "tos"),
        (MARK, "mark"),
        (DEVICE, "device"),
    ];
}

const _: () = assert!(size_of::<Verdict>() == 56 && size_of::<Leave>() == 16);
const _: () = assert!(size_of::<Gate>() == 64 && size_of::<Passage>() == 24);
const _: () = assert!(TRAILER == size_of::<[u8; 16]>() + 2 * size_of::<u32>());
