//! Programs that divide packets among several sockets by the flow inside: two packets of one flow always come to the
//! same socket, and so stay in their order.
//!
//! A flow is what has the same addresses and protocol, and the same ports where TCP, UDP or SCTP is not in fragments.
//! The kernel's own choice (`PACKET_FANOUT_HASH`) is not taken: it cannot be told that a sequence number counts all
//! flows of a tunnel together, and a raw socket has none. Whatever is not understood here (options, GRE with sequence
//! numbers, fragments of the delivery packet, a cut header) is the first socket's, so that it is one place's too.
//!
//! Classic BPF, which every kernel takes and nobody has to be privileged for. A program that reads past the end of
//! a packet ends with 0 there and then: as the choice among a group's members that is the first one, but as a filter
//! it is a refusal. So a filter compares lengths before it reads.

use crate::filter::Instruction;

/// Where the packets come from that a program divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arriving {
    /// At an IP protocol's packet socket: GRE behind an IPv4 header.
    GreOverIpv4,
    /// The same behind an IPv6 header, that may have one small destination option (the encapsulation limit).
    GreOverIpv6,
    /// At a packet socket of any device: IP packets, without tunnel.
    Plain,
}

/// What packets are compared with: their addresses and ports, by multiplication (D. Knuth, TAOCP 3, §6.4).
const GOLDEN: u32 = 0x9e37_79b1;

/// Chooses one of `shares` members of a fanout group ([`crate::packet::PacketSocket::open_group`]).
///
/// # Panics
///
/// Without a share.
#[must_use]
pub fn choice(arriving: Arriving, shares: u32) -> Vec<Instruction> {
    let mut program = Program::new(shares, Tail::Choice);
    match arriving {
        Arriving::GreOverIpv4 => {
            program.load(BYTE_ABS, 9);
            program.odd_unless(GRE);
            program.load(HALF_ABS, 6);
            program.odd_if_any(FRAGMENT_BITS);
            program.push(LOAD_HEADER_LENGTH, 0);
            program.gre();
        }
        Arriving::GreOverIpv6 => {
            program.load(BYTE_ABS, 6);
            let gre = program.jump(JUMP_EQUAL, GRE);
            program.odd_unless(DESTINATION_OPTIONS);
            program.load(HALF_ABS, IPV6);
            // GRE comes next, and these are eight bytes.
            program.odd_unless(GRE << 8);
            program.push(LOAD_X, IPV6 + 8);
            let go_on = program.jump_always();
            program.land(gre);
            program.push(LOAD_X, IPV6);
            program.land_always(go_on);
            program.gre();
        }
        Arriving::Plain => {
            program.push(LOAD_X, 0);
            program.load(HALF_ABS, ANCILLARY_PROTOCOL);
            program.by_ethertype();
        }
    }
    program.finish()
}

/// Accepts one `share` of `shares` of the GRE packets that a raw socket would get; a raw socket of IPv4 sees the
/// delivery header, one of IPv6 does not. Divides as [`choice`] does.
///
/// # Panics
///
/// Without a share.
#[must_use]
pub fn raw_share(over_ipv6: bool, share: u32, shares: u32) -> Vec<Instruction> {
    let mut program = Program::new(shares, Tail::Filter { share });
    match over_ipv6 {
        false => program.push(LOAD_HEADER_LENGTH, 0),
        true => program.push(LOAD_X, 0),
    }
    program.gre();
    program.finish()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    Choice,
    Filter { share: u32 },
}

/// A program that is being written, with the jumps whose ends are not known yet.
struct Program {
    code: Vec<Instruction>,
    shares: u32,
    tail: Tail,
    /// Jumps to the end that is the first share's, when true or when false.
    odd: Vec<(usize, bool)>,
    /// Jumps to where the sum is turned into a share.
    summed: Vec<Jump>,
}

/// A conditional jump that is to be taken when true, or an unconditional one.
#[derive(Clone, Copy)]
struct Jump(usize);

// Cells of scratch memory.
const SUM: u32 = 0;
const BASE: u32 = 1;
const KIND: u32 = 2;
const FLAGS: u32 = 3;

impl Program {
    fn new(shares: u32, tail: Tail) -> Self {
        assert!(shares > 0, "nobody to divide among");
        Self { code: Vec::with_capacity(160), shares, tail, odd: Vec::new(), summed: Vec::new() }
    }

    fn push(&mut self, code: u16, value: u32) {
        self.code.push(Instruction::new(code, 0, 0, value));
    }

    fn load(&mut self, code: u16, at: u32) {
        self.push(code, at);
    }

    /// Jumps when A compares so; to where is said later.
    fn jump(&mut self, code: u16, value: u32) -> Jump {
        self.push(code, value);
        Jump(self.code.len() - 1)
    }

    fn jump_always(&mut self) -> Jump {
        self.push(JUMP, 0);
        Jump(self.code.len() - 1)
    }

    fn land(&mut self, Jump(from): Jump) {
        let distance = u8::try_from(self.code.len() - from - 1);
        assert!(distance.is_ok(), "jumps are short");
        self.code[from].jump_true = distance.unwrap_or(0);
    }

    fn land_always(&mut self, Jump(from): Jump) {
        self.code[from].value = (self.code.len() - from - 1) as u32;
    }

    /// The rest is for the first share unless A is `value`.
    fn odd_unless(&mut self, value: u32) {
        self.push(JUMP_EQUAL, value);
        self.odd.push((self.code.len() - 1, false));
    }

    /// The same if A has any of these bits.
    fn odd_if_any(&mut self, bits: u32) {
        self.push(JUMP_SET, bits);
        self.odd.push((self.code.len() - 1, true));
    }

    /// The same unless there are `bytes` bytes from X on. A is lost.
    fn need(&mut self, bytes: u32) {
        if self.tail == Tail::Choice {
            return;
        }
        // What is past the end is so by less than 2^31: signed would be negative, unsigned is large.
        self.push(LOAD_LENGTH, 0);
        self.push(SUBTRACT_X, 0);
        self.push(JUMP_GREATER, i32::MAX as u32);
        self.odd.push((self.code.len() - 1, true));
        self.push(JUMP_GREATER_EQUAL, bytes);
        self.odd.push((self.code.len() - 1, false));
    }

    /// X is where a GRE header begins.
    fn gre(&mut self) {
        self.need(4);
        self.load(HALF_BEHIND, 2);
        self.push(STORE, KIND);
        self.load(HALF_BEHIND, 0);
        // Anything but a checksum and a key.
        self.odd_if_any(!(CHECKSUM | KEY) & 0xffff);
        self.push(STORE, FLAGS);
        self.push(STORE_X, BASE);
        self.push(AND, CHECKSUM);
        // 4 bytes, or none.
        self.push(SHIFT_RIGHT, 13);
        self.push(TO_X, 0);
        self.push(LOAD_MEMORY, FLAGS);
        self.push(AND, KEY);
        self.push(SHIFT_RIGHT, 11);
        self.push(ADD_X, 0);
        self.push(ADD, 4);
        self.push(LOAD_X_MEMORY, BASE);
        self.push(ADD_X, 0);
        self.push(TO_X, 0);
        // A frame's own type takes the place of the one that says "frame".
        self.push(LOAD_MEMORY, KIND);
        let frame = self.jump(JUMP_EQUAL, TEB);
        let no_frame = self.jump_always();
        self.land(frame);
        self.need(14);
        self.load(HALF_BEHIND, 12);
        self.push(STORE, KIND);
        self.push(FROM_X, 0);
        self.push(ADD, 14);
        self.push(TO_X, 0);
        self.push(LOAD_MEMORY, KIND);
        let tags = [self.jump(JUMP_EQUAL, 0x8100), self.jump(JUMP_EQUAL, 0x88a8)];
        let untagged = self.jump_always();
        tags.into_iter().for_each(|tag| self.land(tag));
        self.need(4);
        self.load(HALF_BEHIND, 2);
        self.push(STORE, KIND);
        self.push(FROM_X, 0);
        self.push(ADD, 4);
        self.push(TO_X, 0);
        self.push(LOAD_MEMORY, KIND);
        self.land_always(untagged);
        self.land_always(no_frame);
        self.by_ethertype();
    }

    /// X is where a packet of ethertype A begins.
    fn by_ethertype(&mut self) {
        let ipv4 = self.jump(JUMP_EQUAL, 0x0800);
        self.odd_unless(0x86dd);
        self.ipv6();
        self.land(ipv4);
        self.ipv4();
    }

    fn ipv4(&mut self) {
        self.need(20);
        self.push(STORE_X, BASE);
        self.load(BYTE_BEHIND, 9);
        self.push(STORE, KIND);
        self.push(STORE, SUM);
        [12, 16].into_iter().for_each(|at| self.sum_up(at));
        self.push(LOAD_X_MEMORY, BASE);
        self.load(HALF_BEHIND, 6);
        let fragment = self.jump(JUMP_SET, FRAGMENT_BITS);
        self.summed.push(fragment);
        self.load(BYTE_BEHIND, 0);
        self.push(AND, 0x0f);
        self.push(SHIFT_LEFT, 2);
        self.push(ADD_X, 0);
        self.push(TO_X, 0);
        self.ports();
    }

    fn ipv6(&mut self) {
        self.need(IPV6);
        self.push(STORE_X, BASE);
        self.load(BYTE_BEHIND, 6);
        self.push(STORE, KIND);
        self.push(STORE, SUM);
        // All of both addresses but the first 32 bits, which are a provider's.
        [12, 16, 20, 28, 32, 36].into_iter().for_each(|at| self.sum_up(at));
        self.push(LOAD_X_MEMORY, BASE);
        self.push(FROM_X, 0);
        self.push(ADD, IPV6);
        self.push(TO_X, 0);
        self.ports();
    }

    /// X is where a header of protocol KIND begins; its ports are part of the flow where it has any.
    fn ports(&mut self) {
        self.push(LOAD_MEMORY, KIND);
        let with_ports = [TCP, UDP, SCTP].map(|protocol| self.jump(JUMP_EQUAL, protocol));
        let none = self.jump_always();
        self.summed.push(none);
        with_ports.into_iter().for_each(|jump| self.land(jump));
        self.need(4);
        self.push(STORE_X, BASE);
        self.sum_up(0);
        let done = self.jump_always();
        self.summed.push(done);
    }

    /// Four bytes at X, which is in BASE as well, become part of the sum. Afterwards X is something else.
    fn sum_up(&mut self, at: u32) {
        self.push(LOAD_X_MEMORY, BASE);
        self.load(WORD_BEHIND, at);
        self.push(LOAD_X_MEMORY, SUM);
        self.push(XOR_X, 0);
        self.push(MULTIPLY, GOLDEN);
        self.push(STORE, SUM);
    }

    fn finish(mut self) -> Vec<Instruction> {
        for jump in std::mem::take(&mut self.summed) {
            if self.code[jump.0].code == JUMP { self.land_always(jump) } else { self.land(jump) }
        }
        self.push(LOAD_MEMORY, SUM);
        // The upper bits depend on all below them.
        self.push(SHIFT_RIGHT, 16);
        self.push(MODULO, self.shares);
        let (share, odd) = match self.tail {
            Tail::Choice => {
                self.push(RETURN_A, 0);
                (None, 0)
            }
            Tail::Filter { share } => (Some(share), if share == 0 { WHOLE } else { 0 }),
        };
        if let Some(share) = share {
            let mine = self.jump(JUMP_EQUAL, share);
            self.push(RETURN, 0);
            self.land(mine);
            self.push(RETURN, WHOLE);
        }
        // A jump reaches 255 instructions, and no program has more.
        let end = self.code.len();
        for (from, when) in std::mem::take(&mut self.odd) {
            let distance = u8::try_from(end - from - 1);
            assert!(distance.is_ok(), "jumps are short");
            let jump = if when { &mut self.code[from].jump_true } else { &mut self.code[from].jump_false };
            *jump = distance.unwrap_or(0);
        }
        self.push(RETURN, odd);
        self.code
    }
}

// linux include/uapi/linux/bpf_common.h: class, size or operation, mode or source.
const BYTE_ABS: u16 = 0x30;
const HALF_ABS: u16 = 0x28;
const BYTE_BEHIND: u16 = 0x50;
const HALF_BEHIND: u16 = 0x48;
const WORD_BEHIND: u16 = 0x40;
const LOAD_LENGTH: u16 = 0x80;
const LOAD_MEMORY: u16 = 0x60;
const LOAD_X: u16 = 0x01;
const LOAD_X_MEMORY: u16 = 0x61;
/// X = 4 * (byte & 15).
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const STORE: u16 = 0x02;
const STORE_X: u16 = 0x03;
const ADD: u16 = 0x04;
const ADD_X: u16 = 0x0c;
const SUBTRACT_X: u16 = 0x1c;
const MULTIPLY: u16 = 0x24;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const SHIFT_RIGHT: u16 = 0x74;
const MODULO: u16 = 0x94;
const XOR_X: u16 = 0xac;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;
const TO_X: u16 = 0x07;
const FROM_X: u16 = 0x87;
const WHOLE: u32 = u32::MAX;
/// `SKF_AD_OFF` and `SKF_AD_PROTOCOL`: the ethertype, known without reading the packet.
const ANCILLARY_PROTOCOL: u32 = (-0x1000_i32) as u32;

const IPV6: u32 = 40;
const GRE: u32 = 47;
const TCP: u32 = 6;
const UDP: u32 = 17;
const SCTP: u32 = 132;
const DESTINATION_OPTIONS: u32 = 60;
/// "More fragments" and the offset (RFC 791 §3.1).
const FRAGMENT_BITS: u32 = 0x3fff;
// RFC 2784 §2.1, RFC 2890 §2: flags; a frame as payload (RFC 1701).
const CHECKSUM: u32 = 0x8000;
const KEY: u32 = 0x2000;
const TEB: u32 = 0x6558;

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as linux kernel/bpf/core.c would; a load past the end is 0.
    fn run(program: &[Instruction], packet: &[u8], ethertype: u16) -> u32 {
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; 16], 0);
        let bytes = |from: u32, len: usize| {
            let from = from as usize;
            let bytes = packet.get(from..from + len)?;
            Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        };
        loop {
            let Instruction { code, jump_true, jump_false, value } = program[at];
            at += 1;
            let loaded = match code {
                HALF_ABS if value == ANCILLARY_PROTOCOL => Some(u32::from(ethertype)),
                BYTE_ABS => bytes(value, 1),
                HALF_ABS => bytes(value, 2),
                BYTE_BEHIND => bytes(x + value, 1),
                HALF_BEHIND => bytes(x + value, 2),
                WORD_BEHIND => bytes(x + value, 4),
                _ => Some(a),
            };
            let Some(loaded) = loaded else { return 0 };
            a = loaded;
            let holds = match code {
                JUMP_EQUAL => Some(a == value),
                JUMP_GREATER => Some(a > value),
                JUMP_GREATER_EQUAL => Some(a >= value),
                JUMP_SET => Some(a & value != 0),
                _ => None,
            };
            if let Some(holds) = holds {
                at += usize::from(if holds { jump_true } else { jump_false });
                continue;
            }
            match code {
                BYTE_ABS | HALF_ABS | BYTE_BEHIND | HALF_BEHIND | WORD_BEHIND => {}
                LOAD_LENGTH => a = packet.len() as u32,
                LOAD_MEMORY => a = memory[value as usize],
                LOAD_X => x = value,
                LOAD_X_MEMORY => x = memory[value as usize],
                LOAD_HEADER_LENGTH => x = 4 * (bytes(value, 1).unwrap_or(0) & 15),
                STORE => memory[value as usize] = a,
                STORE_X => memory[value as usize] = x,
                ADD => a = a.wrapping_add(value),
                ADD_X => a = a.wrapping_add(x),
                SUBTRACT_X => a = a.wrapping_sub(x),
                MULTIPLY => a = a.wrapping_mul(value),
                AND => a &= value,
                SHIFT_LEFT => a <<= value,
                SHIFT_RIGHT => a >>= value,
                MODULO => a %= value,
                XOR_X => a ^= x,
                TO_X => x = a,
                FROM_X => a = x,
                JUMP => at += value as usize,
                RETURN => return value,
                RETURN_A => return a,
                code => panic!("{code:#x}"),
            }
        }
    }

    /// An IPv4 packet of a UDP flow.
    fn udp4(host: u8, port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 1, host, 10, 0, 2, host];
        packet.extend(port.to_be_bytes());
        packet.extend([0x13, 0x89, 0, 8, 0, 0]);
        packet
    }

    fn udp6(host: u8, port: u16) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        let address = |net: u8| [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, net][..], &[0; 7], &[host]].concat();
        packet.extend([address(1), address(2)].concat());
        packet.extend(port.to_be_bytes());
        packet.extend([0x13, 0x89, 0, 8, 0, 0]);
        packet
    }

    fn gre(flags: u16, kind: u16, inner: &[u8]) -> Vec<u8> {
        let options = [0x8000, 0x2000, 0x1000].into_iter().filter(|flag| flags & flag != 0).count();
        let mut packet = [flags.to_be_bytes(), kind.to_be_bytes()].concat();
        packet.extend(vec![0xa5; 4 * options]);
        [packet, inner.to_vec()].concat()
    }

    fn over4(gre: &[u8]) -> Vec<u8> {
        let header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 47, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        [&header[..], gre].concat()
    }

    fn over6(options: bool, gre: &[u8]) -> Vec<u8> {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, if options { 60 } else { 47 }, 64];
        header.extend([0x20; 32]);
        if options {
            header.extend([47, 0, 4, 1, 4, 1, 1, 0]);
        }
        [&header[..], gre].concat()
    }

    const SHARES: u32 = 5;

    /// Which share each way of looking at a GRE packet gives; they must agree.
    fn share(gre: &[u8]) -> u32 {
        let over_ipv4 = run(&choice(Arriving::GreOverIpv4, SHARES), &over4(gre), 0x0800);
        for options in [false, true] {
            let over_ipv6 = run(&choice(Arriving::GreOverIpv6, SHARES), &over6(options, gre), 0x86dd);
            assert_eq!(over_ipv6, over_ipv4);
        }
        for (over_ipv6, seen) in [(false, over4(gre)), (true, gre.to_vec())] {
            let takes = |share| run(&raw_share(over_ipv6, share, SHARES), &seen, 0) != 0;
            let taken = (0..SHARES).filter(|share| takes(*share)).collect::<Vec<_>>();
            assert_eq!(taken, [over_ipv4], "exactly one raw socket has it");
        }
        over_ipv4
    }

    #[test]
    fn a_flow_has_one_share_whatever_carries_it() {
        for (kind, inner) in [(0x0800, udp4(1, 7)), (0x86dd, udp6(1, 7))] {
            let plain = run(&choice(Arriving::Plain, SHARES), &inner, kind);
            let frame = [&[2; 12][..], &kind.to_be_bytes(), &inner].concat();
            let tagged = [&[2; 12][..], &[0x81, 0, 0, 9], &kind.to_be_bytes(), &inner].concat();
            for flags in [0, 0x8000, 0x2000, 0xa000] {
                assert_eq!(share(&gre(flags, kind, &inner)), plain, "{flags:#x} {kind:#x}");
                assert_eq!(share(&gre(flags, 0x6558, &frame)), plain);
                assert_eq!(share(&gre(flags, 0x6558, &tagged)), plain);
            }
        }
    }

    #[test]
    fn flows_are_spread() {
        type Flow = fn(u16) -> (u16, Vec<u8>);
        let many: [Flow; 4] = [
            |number| (0x0800, udp4(1, 40_000 + number)),
            |number| (0x0800, udp4(number as u8, 40_000)),
            |number| (0x86dd, udp6(1, 40_000 + number)),
            |number| (0x86dd, udp6(number as u8, 40_000)),
        ];
        for (index, flow) in many.into_iter().enumerate() {
            for shares in [2, 3, 4, 8] {
                let mut counts = vec![0; shares as usize];
                for number in 0..200 {
                    let (kind, inner) = flow(number);
                    counts[run(&choice(Arriving::Plain, shares), &inner, kind) as usize] += 1;
                }
                let fair = 200 / shares;
                assert!(
                    counts.iter().all(|count| (fair / 2..=2 * fair).contains(count)),
                    "{index} {shares} {counts:?}"
                );
            }
        }
    }

    #[test]
    fn fragments_of_a_datagram_stay_together_whatever_their_ports_look_like() {
        let fragment = |offset: u16, fill: u8| {
            let mut packet = udp4(1, 7);
            packet[6..8].copy_from_slice(&offset.to_be_bytes());
            packet[20..].fill(fill);
            packet
        };
        let shares = [fragment(0x2000, 1), fragment(0x2010, 2), fragment(0x0020, 3)]
            .map(|packet| share(&gre(0, 0x0800, &packet)));
        assert_eq!(shares, [shares[0]; 3]);
    }

    #[test]
    fn what_counts_all_flows_and_what_is_odd_is_the_first_ones() {
        let apart = (0..200).find(|port| share(&gre(0, 0x0800, &udp4(1, *port))) != 0).unwrap();
        let inner = udp4(1, apart);
        // Sequence number, routing, version 1, a reserved bit, and what is no IP.
        for flags in [0x1000, 0x3000, 0xb000, 0x4000, 0x0001, 0x0800] {
            assert_eq!(share(&gre(flags, 0x0800, &inner)), 0, "{flags:#x}");
        }
        assert_eq!(share(&gre(0, 0x0806, &inner)), 0);
        assert_eq!(share(&gre(0, 0x6558, &[&[2; 12][..], &[8, 6], &inner].concat())), 0);
        // Cut anywhere: one raw socket takes it all the same.
        let whole = gre(0xa000, 0x0800, &inner);
        for len in 0..whole.len() {
            share(&whole[..len]);
        }
        let whole = gre(0, 0x86dd, &udp6(1, 7));
        for len in 0..whole.len() {
            share(&whole[..len]);
        }
        let fragment = |offset: u8| {
            let mut packet = over4(&gre(0, 0x0800, &inner));
            packet[6] = offset;
            run(&choice(Arriving::GreOverIpv4, SHARES), &packet, 0x0800)
        };
        assert_eq!([fragment(0) == 0, fragment(0x20) == 0], [false, true]);
    }
}
