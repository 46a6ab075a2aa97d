//! Classic BPF socket filters: enough to drop everything, or all but one IP protocol, before a
//! packet costs a wake-up.
//!
//! The loads are relative to the network header (`SKF_NET_OFF`), so one filter serves raw and
//! cooked packet sockets alike. A filter is not a firewall: what it refuses is only not copied to
//! this socket.

/// One instruction (`struct sock_filter`, linux include/uapi/linux/filter.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    value: u32,
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

const fn load(code: u16, at: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value: at }
}

const fn jump_unless_equal(value: u32, skip: u8) -> Instruction {
    Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: skip, value }
}

const fn ret(value: u32) -> Instruction {
    Instruction { code: RETURN, jump_true: 0, jump_false: 0, value }
}

const HALF_ABS: u16 = 0x28;
const BYTE_ABS: u16 = 0x30;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const WHOLE: u32 = u32::MAX;
const ETHERTYPE_IPV4: u32 = 0x0800;
/// `SKF_NET_OFF`: offsets from the network header.
const NETWORK: u32 = (-0x10_0000_i32) as u32;
/// `SKF_AD_OFF` and `SKF_AD_PROTOCOL`: the ethertype, known without reading the packet.
const ANCILLARY: u32 = (-0x1000_i32) as u32;
const ANCILLARY_PROTOCOL: u32 = 0;

const _: () = assert!(size_of::<Instruction>() == 8);
