//! Classic BPF socket filters: enough to drop everything, or all but one IP protocol, before a
//! packet costs a wake-up.
//!
//! The loads of the filters for packet sockets are relative to the network header (`SKF_NET_OFF`), so
//! one filter serves raw and cooked ones alike. A filter is not a firewall: what it refuses is only not copied to
//! this socket.

/// One instruction (`struct sock_filter`, linux include/uapi/linux/filter.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) value: u32,
}

impl Instruction {
    pub(crate) const fn new(code: u16, jump_true: u8, jump_false: u8, value: u32) -> Self {
        Self { code, jump_true, jump_false, value }
    }
}

/// A filter that refuses every packet, for a socket that only has to be there.
#[must_use]
pub const fn drop_all() -> [Instruction; 1] {
    [ret(0)]
}

/// A filter that accepts every packet whole.
#[must_use]
pub const fn accept_all() -> [Instruction; 1] {
    [ret(WHOLE)]
}

/// A filter for packets that were not sent by this host, which a packet socket for every ethertype sees as well.
#[must_use]
pub const fn not_outgoing() -> [Instruction; 4] {
    [
        load(BYTE_ABS, ANCILLARY + ANCILLARY_PACKET_TYPE),
        jump_unless_equal(PACKET_OUTGOING, 1),
        ret(0),
        ret(WHOLE),
    ]
}

/// A filter for IPv4 packets of one protocol (47 is GRE), fragments included.
#[must_use]
pub const fn ip_protocol(protocol: u8) -> [Instruction; 6] {
    [
        load(HALF_ABS, ANCILLARY + ANCILLARY_PROTOCOL),
        jump_unless_equal(ETHERTYPE_IPV4, 3),
        load(BYTE_ABS, NETWORK + 9),
        jump_unless_equal(protocol as u32, 1),
        ret(WHOLE),
        ret(0),
    ]
}

/// A filter for IPv6 packets of one protocol (47 is GRE), and for those that may turn out to be one: behind
/// hop-by-hop, routing and destination options the next header is looked at once, and a chain of more of them
/// is accepted. So are fragments of either.
#[must_use]
pub const fn ipv6_protocol(protocol: u8) -> [Instruction; 16] {
    let protocol = protocol as u32;
    [
        load(HALF_ABS, ANCILLARY + ANCILLARY_PROTOCOL),
        jump_unless_equal(ETHERTYPE_IPV6, 13),
        load(BYTE_ABS, NETWORK + 6),
        jump_if_equal(protocol, 10),
        jump_if_equal(HOP_BY_HOP, 3),
        jump_if_equal(ROUTING, 2),
        jump_if_equal(FRAGMENT, 1),
        jump_unless_equal(DESTINATION_OPTIONS, 7),
        // The fixed header has 40 bytes; each of these begins with the number of the one behind it.
        load(BYTE_ABS, NETWORK + 40),
        jump_if_equal(protocol, 4),
        jump_if_equal(HOP_BY_HOP, 3),
        jump_if_equal(ROUTING, 2),
        jump_if_equal(FRAGMENT, 1),
        jump_unless_equal(DESTINATION_OPTIONS, 1),
        ret(WHOLE),
        ret(0),
    ]
}

/// A filter for packets whose link-layer destination is another host, by the header or by whoever said so since, and
/// that arrived on none of these devices.
///
/// # Panics
///
/// With more than 100 devices.
#[must_use]
pub fn other_host(devices: &[u32]) -> Vec<Instruction> {
    let mut program = on_none_of(devices);
    program.extend([
        load(BYTE_ABS, ANCILLARY + ANCILLARY_PACKET_TYPE),
        jump_unless_equal(PACKET_OTHERHOST, 1),
        ret(WHOLE),
        ret(0),
    ]);
    program
}

/// A filter for packets whose link-layer destination is not this host, and that arrived on a device whose index is
/// within one of these ranges, ends included; `parity`: and of which the lowest bit is this.
///
/// # Panics
///
/// With more than [`MOST_RANGES`].
#[must_use]
pub fn not_for_host_within(ranges: &[(u32, u32)], parity: Option<u32>) -> Vec<Instruction> {
    assert!(ranges.len() <= MOST_RANGES, "jumps are short");
    let mut program = vec![
        load(BYTE_ABS, ANCILLARY + ANCILLARY_PACKET_TYPE),
        jump_unless_equal(PACKET_HOST, 1),
        ret(0),
        load(WORD_ABS, ANCILLARY + ANCILLARY_IFINDEX),
    ];
    if let Some(parity) = parity {
        program.extend([
            load(AND, 1),
            jump_if_equal(parity, 1),
            ret(0),
            load(WORD_ABS, ANCILLARY + ANCILLARY_IFINDEX),
        ]);
    }
    for (position, (first, last)) in ranges.iter().enumerate() {
        // To the last instruction, past the other ranges and the refusal.
        let accept = ((ranges.len() - position - 1) * 2 + 1) as u8;
        program.push(Instruction { code: JUMP_AT_LEAST, jump_true: 0, jump_false: 1, value: *first });
        program.push(Instruction { code: JUMP_ABOVE, jump_true: 0, jump_false: accept, value: *last });
    }
    program.extend([ret(0), ret(WHOLE)]);
    program
}

/// Ranges that [`not_for_host_within`] has room for.
pub const MOST_RANGES: usize = 100;

/// Goes on behind its end, unless the packet arrived on one of the devices.
fn on_none_of(devices: &[u32]) -> Vec<Instruction> {
    assert!(devices.len() <= 100, "jumps are short");
    let Some(last) = devices.len().checked_sub(1) else { return Vec::new() };
    let mut program = vec![load(WORD_ABS, ANCILLARY + ANCILLARY_IFINDEX)];
    for (position, device) in devices.iter().enumerate() {
        // To the return that is behind the last comparison and the jump over it.
        let skip = (last - position) as u8 + 1;
        program.push(jump_if_equal(*device, skip));
    }
    program.extend([jump_over(1), ret(0)]);
    program
}

/// A filter for a raw ICMP socket ([`crate::raw::RawSocket::open_icmp`]): messages that quote a packet of one
/// protocol.
#[must_use]
pub const fn icmp_about(protocol: u8) -> [Instruction; 5] {
    [
        // X: bytes of the IPv4 header. Behind it are eight of ICMP, then the quoted header.
        load(LOAD_HEADER_LENGTH, 0),
        load(BYTE_BEHIND, 8 + 9),
        jump_unless_equal(protocol as u32, 1),
        ret(WHOLE),
        ret(0),
    ]
}

/// The same for ICMPv6 ([`crate::raw::RawSocket::open_icmpv6`]), where a packet begins with the message. A
/// quoted packet whose first header is an option or a fragment is accepted: it may be one of the protocol.
#[must_use]
pub const fn icmpv6_about(protocol: u8) -> [Instruction; 8] {
    [
        load(BYTE_ABS, 8 + 6),
        jump_if_equal(protocol as u32, 4),
        jump_if_equal(HOP_BY_HOP, 3),
        jump_if_equal(ROUTING, 2),
        jump_if_equal(FRAGMENT, 1),
        jump_unless_equal(DESTINATION_OPTIONS, 1),
        ret(WHOLE),
        ret(0),
    ]
}

const fn load(code: u16, at: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value: at }
}

const fn jump_unless_equal(value: u32, skip: u8) -> Instruction {
    Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: skip, value }
}

const fn jump_if_equal(value: u32, skip: u8) -> Instruction {
    Instruction { code: JUMP_EQUAL, jump_true: skip, jump_false: 0, value }
}

const fn jump_over(instructions: u32) -> Instruction {
    Instruction { code: JUMP, jump_true: 0, jump_false: 0, value: instructions }
}

const fn ret(value: u32) -> Instruction {
    Instruction { code: RETURN, jump_true: 0, jump_false: 0, value }
}

const WORD_ABS: u16 = 0x20;
const HALF_ABS: u16 = 0x28;
const BYTE_ABS: u16 = 0x30;
/// `BPF_LD | BPF_B | BPF_IND`: X bytes further on.
const BYTE_BEHIND: u16 = 0x50;
/// `BPF_LDX | BPF_B | BPF_MSH`: X = 4 * (byte & 15), made for IPv4.
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const JUMP_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K` and `BPF_JGT`.
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ABOVE: u16 = 0x25;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
const WHOLE: u32 = u32::MAX;
const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
// Extension headers of IPv6 (RFC 8200 §4).
const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const FRAGMENT: u32 = 44;
const DESTINATION_OPTIONS: u32 = 60;
/// `SKF_NET_OFF`: offsets from the network header.
const NETWORK: u32 = (-0x10_0000_i32) as u32;
/// `SKF_AD_OFF` and `SKF_AD_PROTOCOL`: the ethertype, known without reading the packet.
const ANCILLARY: u32 = (-0x1000_i32) as u32;
const ANCILLARY_PROTOCOL: u32 = 0;
/// `SKF_AD_IFINDEX`.
const ANCILLARY_IFINDEX: u32 = 8;
/// `SKF_AD_PKTTYPE`.
const ANCILLARY_PACKET_TYPE: u32 = 4;
// linux include/uapi/linux/if_packet.h
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;
const PACKET_OUTGOING: u32 = 4;

const _: () = assert!(size_of::<Instruction>() == 8);
