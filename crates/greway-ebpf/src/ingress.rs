//! From the underlay to the peer end: the delivery header comes off and the payload packet goes into the pair.
//!
//! ```text
//!           | link |outer|GRE|   inner   |                | link |outer|GRE| frame |
//!               └──────────┐
//! layer 3   | link |        inner        |     Ethernet   |      frame       |
//! ```
//!
//! All that the IP stack would have looked at before GRE is looked at here (T3): whom the frame is for, whether the
//! datagram is whole, its checksum, its options. Whatever is not as it should be is left to those who can say so.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::r#gen::{
        bpf_redirect, bpf_redirect_peer, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_proto,
    },
    programs::TcContext,
};
use greway_ebpf_abi::{Decline, Dropped, IngressEntry, IngressKey, ingress, key};

use crate::{
    End, INGRESS, LOCAL, Stop,
    count::Seen,
    egress::not_a_handshake,
    packet::{
        self, DESTINATION_OPTIONS, ERSPAN, ERSPAN2, ETHERNET_LEN, GRE, Head, IPV4, IPV4_LEN, IPV6, IPV6_LEN,
        LEAST_ETHERTYPE, QINQ, TEB, VLAN, WCCP, be16, load, store, store_link,
    },
    witness,
};

/// Fewer bytes of GRE than this are dropped with IPv4 outside (RX-01).
const LEAST_GRE: u32 = 12;
/// Bytes of a VLAN tag, by which a veth end lets packets be larger than its MTU (T5).
const TAG: u32 = 4;

/// How a packet begins, read at once: over IPv4 down to the payload packet's header, over IPv6 down to the key.
struct Start {
    head: Head<START_WORDS>,
    /// All of it. Else only the delivery header without options and extension headers.
    whole: bool,
}

const START_WORDS: usize = 12;

impl Start {
    /// `LEAST`: words of the delivery header.
    #[inline(always)]
    fn load<const LEAST: usize>(ctx: &TcContext) -> Result<Self, Stop> {
        let mut head = Head([0; START_WORDS]);
        if head.fill(ctx, 0) {
            return Ok(Self { head, whole: true });
        }
        let least = Head::<LEAST>::load(ctx, 0).ok_or(Decline::Truncated)?;
        head.0[..LEAST].copy_from_slice(&least.0);
        Ok(Self { head, whole: false })
    }

    /// The word at `at`, a multiple of four that is one of few: the header's options and the key make the difference.
    #[inline(always)]
    fn word(&self, ctx: &TcContext, at: u32) -> Result<u32, Stop> {
        match at {
            20 if self.whole => Ok(self.head.0[5]),
            24 if self.whole => Ok(self.head.0[6]),
            28 if self.whole => Ok(self.head.0[7]),
            40 if self.whole => Ok(self.head.0[10]),
            44 if self.whole => Ok(self.head.0[11]),
            _ => Ok(Head::<1>::load(ctx, at).ok_or(Decline::Truncated)?.0[0]),
        }
    }
}

/// The delivery header.
struct Outer {
    remote: [u32; 4],
    local: [u32; 4],
    tos: u8,
    ipv6: bool,
    /// Bytes of it.
    len: u32,
    /// Bytes with what it delivers.
    total: u32,
    /// Nothing is in front of it: the device has no link header.
    bare: bool,
}

/// An [`IngressKey`] in words.
#[repr(C)]
struct Wanted {
    remote: [u32; 4],
    local: [u32; 4],
    key: u32,
    flags: u32,
}

const _: () = assert!(size_of::<Wanted>() == size_of::<IngressKey>());

/// The GRE header.
struct Gre {
    protocol: u16,
    key: Option<u32>,
    len: u32,
}

/// The first bytes of the payload packet as they become. No enum: a variant's unused bytes would be whatever a
/// register holds, which the verifier forbids where it is a pointer.
struct Mend {
    /// 0: nothing changes.
    len: u32,
    bytes: [u8; IPV4_MENDED],
}

/// Bytes of an IPv4 header up to its checksum, and of an IPv6 header up to its traffic class.
const IPV4_MENDED: usize = 12;
const IPV6_MENDED: usize = 2;

/// Decapsulates the packet and sends it into the pair, or leaves it as it is and says why.
#[inline(always)]
pub(crate) fn carry(ctx: &TcContext, seen: &mut Seen) -> End {
    if packet::vlan_tagged(ctx) {
        return Err(Decline::VlanTagged.into());
    }
    let (start, outer) = match packet::ethertype(ctx) {
        IPV4 => {
            let start = Start::load::<5>(ctx)?;
            let outer = outer_ipv4(ctx, &start.head, seen)?;
            (start, outer)
        }
        IPV6 => {
            let start = Start::load::<10>(ctx)?;
            let outer = outer_ipv6(ctx, &start.head, seen)?;
            (start, outer)
        }
        _ => return Err(Decline::NotIp.into()),
    };
    let gre = gre(ctx, &start, &outer)?;
    let entry = find(ctx, &outer, &gre)?;
    seen.tunnel = entry.peer;
    if entry.flags & ingress::WITHHELD != 0 {
        return Err(Decline::Withheld.into());
    }
    if entry.via != 0 && entry.via != packet::ifindex(ctx) {
        return Err(Decline::OtherDevice.into());
    }
    let wanted = entry.flags & ingress::WITNESSED != 0 && {
        if outer.bare {
            // The link header that it would be lent cannot be taken back.
            return Err(Decline::Closed.into());
        }
        witness::may_come_in(entry.peer)?
    };

    let ethernet = gre.protocol == TEB;
    let at = outer.len + gre.len;
    if at > outer.total {
        return Err(Decline::Truncated.into());
    }
    let length = outer.total - at;
    seen.bytes = length;
    let (link_len, protocol, link) = match ethernet {
        true => {
            let link = Head::<4>::load_link_header(ctx, at).ok_or(Decline::Truncated)?;
            if length < ETHERNET_LEN {
                return Err(Decline::Truncated.into());
            }
            (ETHERNET_LEN, link.be16(12), link)
        }
        false => (0, gre.protocol, layer3_link(entry, gre.protocol)),
    };
    let gso_size = packet::gso_size(ctx);
    if gso_size == 0 && length > link_len + entry.device_mtu + TAG {
        return Err(Decline::TooBig.into());
    }
    let mend = inner(ctx, &start, entry, &outer, protocol, at + link_len, length - link_len, gso_size != 0)?;

    let mut front = witness::Front::none();
    if wanted {
        front.keep(ctx, at + link_len, length - link_len, protocol);
    }
    if outer.bare {
        lend_link_header(ctx)?;
    }
    take_away(ctx, at + link_len, protocol, outer.ipv6, gso_size != 0)?;
    let mended = match mend.len as usize {
        0 => true,
        IPV6_MENDED => store(ctx, ETHERNET_LEN, &mend.bytes[..IPV6_MENDED], RECOMPUTE),
        _ => store(ctx, ETHERNET_LEN, &mend.bytes, RECOMPUTE),
    };
    if !mended || !store_link(ctx, &link) {
        return Err(Stop::Drop(Dropped::DeviceRefused));
    }
    seen.now = packet::now();
    if front.kept()
        && let Some(verdict) = witness::send_and_witness(ctx, entry.peer, &front)
    {
        return Ok(verdict);
    }
    // The far end of the pair reads neither the EtherType nor whom a frame is for, so both have to be right by now: for
    // an IP packet, where the kernel was told what is inside.
    // Not where witnesses are made: a clone can only go through the pair, and would be overtaken.
    const STRAIGHT: u32 = ingress::HAND_OVER | ingress::WITNESSED;
    if entry.flags & STRAIGHT == ingress::HAND_OVER && !ethernet && packet::ethertype(ctx) == protocol {
        // SAFETY: the helper notes where the packet is to go.
        return Ok(unsafe { bpf_redirect_peer(entry.peer, 0) } as i32);
    }
    // SAFETY: the helper notes where the packet is to go.
    Ok(unsafe { bpf_redirect(entry.peer, 0) } as i32)
}

#[inline(always)]
fn outer_ipv4(ctx: &TcContext, ip: &Head<START_WORDS>, seen: &mut Seen) -> Result<Outer, Stop> {
    if ip.byte(9) != GRE {
        return Err(Decline::NotGre.into());
    }
    seen.gre = true;
    if !packet::to_this_host(ctx) {
        return Err(Decline::OtherHost.into());
    }
    match ip.byte(0) {
        0x45 => {}
        0x46..=0x4f => return Err(Decline::IpOptions.into()),
        _ => return Err(Decline::Truncated.into()),
    }
    if ip.be16(6) & 0x3fff != 0 {
        return Err(Decline::Fragment.into());
    }
    let total = u32::from(ip.be16(2));
    let bare = whole(ctx, total, [ip.0[0], ip.0[1], ip.0[2], ip.0[3], ip.0[4]])?;
    if total < IPV4_LEN + LEAST_GRE {
        return Err(Decline::Truncated.into());
    }
    // In any byte order the sum of a right header is all ones.
    let sum: u64 = ip.0[..5].iter().map(|word| u64::from(*word)).sum();
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    if packet::fold(sum as u32) != 0xffff {
        return Err(Decline::OuterChecksum.into());
    }
    if ip.byte(16) & 0xf0 == 0xe0 {
        return Err(Decline::Multicast.into());
    }
    Ok(Outer {
        remote: packet::mapped_words(ip.0[3]),
        local: packet::mapped_words(ip.0[4]),
        tos: ip.byte(1),
        ipv6: false,
        len: IPV4_LEN,
        total,
        bare,
    })
}

#[inline(always)]
fn outer_ipv6(ctx: &TcContext, ip: &Head<START_WORDS>, seen: &mut Seen) -> Result<Outer, Stop> {
    let len = match ip.byte(6) {
        GRE => IPV6_LEN,
        DESTINATION_OPTIONS => match load::<8>(ctx, IPV6_LEN) {
            // The tunnel encapsulation limit and padding, as Linux sends them (RFC 2473 §4.1.1; T11).
            Some([GRE, 0, 4, 1, _, 1, 1, 0]) => IPV6_LEN + 8,
            Some([GRE, ..]) => {
                seen.gre = true;
                return Err(Decline::IpOptions.into());
            }
            _ => return Err(Decline::NotGre.into()),
        },
        // An extension header stands in the way of the 47: userspace reads those.
        _ => return Err(Decline::NotGre.into()),
    };
    seen.gre = true;
    if !packet::to_this_host(ctx) {
        return Err(Decline::OtherHost.into());
    }
    if ip.byte(0) >> 4 != 6 {
        return Err(Decline::Truncated.into());
    }
    let total = IPV6_LEN + u32::from(ip.be16(4));
    let bare = whole(ctx, total, [ip.0[0], ip.0[1], ip.0[2], ip.0[3], ip.0[4]])?;
    if ip.byte(24) == 0xff {
        return Err(Decline::Multicast.into());
    }
    let remote = [ip.0[2], ip.0[3], ip.0[4], ip.0[5]];
    let local = [ip.0[6], ip.0[7], ip.0[8], ip.0[9]];
    let tos = (ip.be16(0) >> 4) as u8;
    Ok(Outer { remote, local, tos, ipv6: true, len, total, bare })
}

/// Is the datagram all that is in the frame? Where it is more, the frame is cut off, or the device has no link header
/// (ppp, tun, wireguard), which is what is returned; where it is less, there is padding. `ip`: how the datagram
/// begins.
#[inline(always)]
fn whole(ctx: &TcContext, total: u32, ip: [u32; 5]) -> Result<bool, Stop> {
    let there = packet::length(ctx);
    if there == ETHERNET_LEN + total {
        return Ok(false);
    }
    if there > ETHERNET_LEN + total {
        return Err(Decline::Padded.into());
    }
    // A frame that has lost 14 bytes is as long, but it begins with a link header.
    match there == total && Head::load_first(ctx).is_some_and(|first| first.0 == ip) {
        true => Ok(true),
        false => Err(Decline::Truncated.into()),
    }
}

/// Makes a frame of a packet from a device without a link header: from here on it is like every other, also for
/// those behind, should it be declined after all (sch_handle_ingress in linux net/core/dev.c, v6.18, takes away as
/// much as there is).
#[inline(always)]
fn lend_link_header(ctx: &TcContext) -> Result<(), Stop> {
    // SAFETY: the helper changes the packet; no pointer into it is held.
    match unsafe { bpf_skb_change_head(ctx.skb.skb, ETHERNET_LEN, 0) } {
        0 => Ok(()),
        _ => Err(Decline::Refused.into()),
    }
}

/// The GRE header: C, R, K, S and the version (RFC 2784 §2.1, RFC 1701, RFC 2890 §2).
#[inline(always)]
fn gre(ctx: &TcContext, start: &Start, outer: &Outer) -> Result<Gre, Stop> {
    const KEY: u16 = 0x2000;
    let base = u32::from_be(start.word(ctx, outer.len)?);
    let flags = (base >> 16) as u16;
    let protocol = base as u16;
    if flags & 0x0007 != 0 {
        return Err(Decline::GreVersion.into());
    }
    if flags & 0x4000 != 0 {
        return Err(Decline::GreRouting.into());
    }
    if flags & (0x8000 | 0x1000) != 0 {
        return Err(Decline::GreCheckedField.into());
    }
    if flags & !KEY != 0 {
        return Err(Decline::GreFlags.into());
    }
    match protocol {
        0 => return Err(Decline::Keepalive.into()),
        WCCP | ERSPAN | ERSPAN2 | VLAN | QINQ => return Err(Decline::PayloadType.into()),
        _ if protocol < LEAST_ETHERTYPE => return Err(Decline::PayloadType.into()),
        _ => {}
    }
    if flags & KEY == 0 {
        return Ok(Gre { protocol, key: None, len: 4 });
    }
    let key = start.word(ctx, outer.len + 4)?;
    Ok(Gre { protocol, key: Some(u32::from_be(key)), len: 8 })
}

/// The tunnel, by the kernel's order of precedence as far as it leads to one without doubt (RX-12).
#[inline(always)]
fn find<'a>(ctx: &TcContext, outer: &Outer, gre: &Gre) -> Result<&'a IngressEntry, Stop> {
    let number = gre.key.unwrap_or(0);
    // Over IPv6 no key and key 0 are one.
    let keyed = if outer.ipv6 { number != 0 } else { gre.key.is_some() };
    let flags = if keyed { key::KEYED } else { 0 } | if gre.protocol == TEB { key::ETHERNET } else { 0 };
    let mut wanted = Wanted { remote: outer.remote, local: outer.local, key: number, flags };
    let device = packet::ifindex(ctx);
    let exact = lookup(&wanted);
    if let Some(entry) = exact {
        if entry.flags & ingress::AMBIGUOUS != 0 {
            return Err(Decline::Ambiguous.into());
        }
        if entry.flags & ingress::CONTESTED == 0 || entry.dev == device {
            return Ok(entry);
        }
    }
    wanted.local = [0; 4];
    let Some(entry) = lookup(&wanted) else {
        return Err(if exact.is_some() { Decline::Ambiguous } else { Decline::NoTunnel }.into());
    };
    // SAFETY: as many bytes, aligned better.
    if LOCAL.get_ptr(unsafe { &*(&raw const outer.local).cast::<[u8; 16]>() }).is_none() {
        return Err(Decline::NotLocal.into());
    }
    let undisputed = exact.is_none() && entry.flags & ingress::CONTESTED == 0;
    match entry.flags & ingress::AMBIGUOUS == 0 && (undisputed || entry.dev == device) {
        true => Ok(entry),
        false => Err(Decline::Ambiguous.into()),
    }
}

#[inline(always)]
fn lookup<'a>(wanted: &Wanted) -> Option<&'a IngressEntry> {
    // SAFETY: the same bytes in the same places.
    let wanted = unsafe { &*(&raw const *wanted).cast::<IngressKey>() };
    // SAFETY: the element is not freed while the program runs; userspace replaces it whole.
    INGRESS.get_ptr(wanted).map(|entry| unsafe { &*entry })
}

/// Link header of a layer 3 packet.
#[inline(always)]
fn layer3_link(entry: &IngressEntry, protocol: u16) -> Head<4> {
    const {
        assert!(offset_of!(IngressEntry, from) == offset_of!(IngressEntry, to) + 6);
        assert!(offset_of!(IngressEntry, to).is_multiple_of(4) && align_of::<IngressEntry>() == 4);
    }
    // SAFETY: both addresses, one behind the other, aligned as the entry is.
    let [first, second, third] =
        unsafe { *(&raw const *entry).byte_add(offset_of!(IngressEntry, to)).cast() };
    Head([first, second, third, u32::from(protocol.to_be())])
}

/// Looks at the payload packet at `at` and says how its header is to be mended (RX-23, RX-24).
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "all of it is in registers")]
fn inner(
    ctx: &TcContext,
    start: &Start,
    entry: &IngressEntry,
    outer: &Outer,
    protocol: u16,
    at: u32,
    length: u32,
    merged: bool,
) -> Result<Mend, Stop> {
    let clamps = entry.flags & ingress::CLAMPS != 0 && !merged;
    match protocol {
        IPV4 => {
            if length < IPV4_LEN {
                return Err(Decline::Truncated.into());
            }
            let first = Head([start.word(ctx, at)?]);
            if clamps {
                let [protocol] = load::<1>(ctx, at + 9).ok_or(Decline::Truncated)?;
                not_a_handshake(ctx, at, IPV4, protocol, u32::from(first.byte(0) & 0x0f) * 4)?;
            }
            let tos = combined(entry, outer.tos, first.byte(1))?;
            if tos == first.byte(1) {
                return Ok(NOTHING);
            }
            let mut header = load::<IPV4_MENDED>(ctx, at).ok_or(Decline::Truncated)?;
            // RFC 1624 §3, equation 3.
            let old = be16(&header, 0);
            let new = (old & 0xff00) | u16::from(tos);
            let sum = u32::from(!be16(&header, 10)) + u32::from(!old) + u32::from(new);
            header[1] = tos;
            header[10..12].copy_from_slice(&(!packet::fold(sum)).to_be_bytes());
            Ok(Mend { len: IPV4_MENDED as u32, bytes: header })
        }
        IPV6 => {
            if length < IPV6_LEN {
                return Err(Decline::Truncated.into());
            }
            let first = Head([start.word(ctx, at)?]);
            if clamps {
                let [next_header] = load::<1>(ctx, at + 6).ok_or(Decline::Truncated)?;
                not_a_handshake(ctx, at, protocol, next_header, IPV6_LEN)?;
            }
            let class = (first.be16(0) >> 4) as u8;
            let new = combined(entry, outer.tos, class)?;
            if new == class {
                return Ok(NOTHING);
            }
            let mut bytes = [0; IPV4_MENDED];
            bytes[0] = (first.byte(0) & 0xf0) | new >> 4;
            bytes[1] = (first.byte(1) & 0x0f) | new << 4;
            Ok(Mend { len: IPV6_MENDED as u32, bytes })
        }
        VLAN | QINQ => Err(Decline::VlanTagged.into()),
        _ => Ok(NOTHING),
    }
}

/// The payload packet's TOS or traffic class after decapsulation (RFC 6040 §4.2).
#[inline(always)]
fn combined(entry: &IngressEntry, outer: u8, inner: u8) -> Result<u8, Stop> {
    let inner = match entry.flags & ingress::DSCP_INHERIT != 0 {
        true => (outer & 0xfc) | (inner & 3),
        false => inner,
    };
    match (inner & 3, outer & 3) {
        (0, 3) => Err(Stop::Drop(Dropped::EcnCorrupted)),
        (1 | 2, 3) => Ok(inner | 3),
        (2, 1) => Ok((inner & 0xfc) | 1),
        _ => Ok(inner),
    }
}

/// Takes `bytes` behind the link header away. Flags that tell the kernel what is inside exist from Linux 6.3 on, and
/// from some later version on one that says it was GRE, so that the packet may be encapsulated once more (T12).
/// Which of them this kernel has is found out by the first packet. Without any it takes the payload for what the
/// delivery packet was until the pair reads the EtherType anew.
#[inline(always)]
fn take_away(ctx: &TcContext, bytes: u32, protocol: u16, outer_ipv6: bool, merged: bool) -> Result<(), Stop> {
    const EINVAL: i64 = -22;
    const ENOTSUPP: i64 = -524;
    const DECAP_L4_GRE: u64 = 1 << 9;
    let inside = u64::from(match protocol {
        IPV6 => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        // Of anything else too: it means at least so many bytes as of IPv4 are left.
        _ => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
    });
    // SAFETY: one word, which CPUs may read and write at once: each finds out the same.
    let known = unsafe { (&raw const GREWAY_DECAP_FLAGS).read_volatile() };
    let mut done = EINVAL;
    if known > 1 {
        done = adjust(ctx, bytes, inside | DECAP_L4_GRE);
    }
    if done == EINVAL && known > 0 {
        done = adjust(ctx, bytes, inside);
        // Not when it was the packet that was refused.
        if known > 1 && done == 0 {
            // SAFETY: as above.
            unsafe { (&raw mut GREWAY_DECAP_FLAGS).write_volatile(1) };
        }
    }
    if done == EINVAL {
        // Without the flags a merged packet goes on as one of the delivery header's IP version, and its segments are
        // lost where the payload is of the other.
        let other_version = matches!((protocol, outer_ipv6), (IPV6, false) | (IPV4, true));
        if merged && other_version {
            return Err(Decline::SuperPacket.into());
        }
        done = adjust(ctx, bytes, 0);
        if known > 0 && done == 0 {
            // SAFETY: as above.
            unsafe { (&raw mut GREWAY_DECAP_FLAGS).write_volatile(0) };
        }
    }
    if done == ENOTSUPP && outer_ipv6 && !merged {
        // Without the flags as many bytes have to be left as an IPv6 header has, and ARP has fewer: the delivery
        // header becomes an IPv4 one first, which is 20 bytes less. As many have to be left then.
        if packet::length(ctx) < ETHERNET_LEN + bytes + IPV4_LEN {
            return Err(Decline::Refused.into());
        }
        // SAFETY: the helper changes the packet; no pointer into it is held.
        if unsafe { bpf_skb_change_proto(ctx.skb.skb, IPV4.to_be(), 0) } != 0 {
            return Err(Decline::Refused.into());
        }
        return match adjust(ctx, bytes - (IPV6_LEN - IPV4_LEN), 0) {
            0 => Ok(()),
            _ => Err(Stop::Drop(Dropped::DeviceRefused)),
        };
    }
    if done == 0 { Ok(()) } else { Err(Decline::Refused.into()) }
}

#[inline(always)]
fn adjust(ctx: &TcContext, bytes: u32, flags: u64) -> i64 {
    let flags = flags | u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
    // SAFETY: the helper changes the packet; no pointer into it is held.
    unsafe { bpf_skb_adjust_room(ctx.skb.skb, -(bytes as i32), BPF_ADJ_ROOM_MAC, flags) }
}

/// How many of the flags of [`take_away`] to try, the newest last. In `.data`, where a test can set it.
#[unsafe(link_section = ".data")]
#[unsafe(no_mangle)]
static mut GREWAY_DECAP_FLAGS: u32 = 2;

const NOTHING: Mend = Mend { len: 0, bytes: [0; IPV4_MENDED] };

const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;
