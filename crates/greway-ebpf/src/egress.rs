//! From the peer end to the underlay: a payload packet gets its delivery header and goes to the next hop.
//!
//! ```text
//! layer 3   | link |        inner        |     Ethernet   |      frame       |
//!               └──┐                                       └─── not moved ───┐
//!           | link |outer|GRE|   inner   |                | link |outer|GRE| frame |
//! ```
//!
//! With `direct` it is the tunnel device itself that the packet leaves so, and not its peer end.
//!
//! IP packets get their room by `bpf_skb_adjust_room`, which keeps a super-packet whole and tells the kernel that
//! it is GRE. That helper refuses every other packet (T13); those get it by `bpf_skb_change_head`, and since that
//! leaves the kernel in the belief that the packet is still an ARP one, they go once round through the receive
//! path of the peer end, which reads the EtherType anew ([`second_round`]).

use core::mem::offset_of;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_GRE, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_INGRESS, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh,
        bpf_redir_neigh__bindgen_ty_1,
    },
    helpers::r#gen::{
        bpf_get_hash_recalc, bpf_get_prandom_u32, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room,
        bpf_skb_change_head, bpf_skb_change_type, bpf_skb_store_bytes, bpf_skb_vlan_push,
    },
    programs::TcContext,
};
use greway_ebpf_abi::{Decline, Dropped, EgressEntry, HEADER_MAX, HEARTBEAT_STALE_NS, SEALED_TCI, egress};

use crate::{
    DIRECT, EGRESS, End, NEXT, SHOT, STATE, Stop,
    count::Seen,
    packet::{
        self, ARP, DESTINATION_OPTIONS, ETHERNET_LEN, FRAGMENT, GRE, HOP_BY_HOP, Head, IPV4, IPV4_LEN, IPV6,
        IPV6_LEN, LARGEST, QINQ, ROUTING, TCP, UDP, VLAN, load, load_link, store, two_be16,
    },
    witness,
};

/// What comes before the payload packet, in words as in [`packet::Head`].
#[repr(C, align(8))]
struct Front {
    /// Two bytes that align the header to the map's, then the link header.
    link: [u32; 4],
    header: [u32; HEADER_WORDS],
    /// Never written to a packet: see [`write_front`].
    spare: [u32; 8],
}

const HEADER_WORDS: usize = HEADER_MAX / 4;

/// What the delivery header takes over from the payload packet.
///
/// No field may be undefined: what the compiler puts aside of such a one the verifier finds never written, and before
/// Linux 6.1.192 or so that was an error (6.1.176 refuses it).
struct Inner {
    ip: bool,
    tos: u8,
    /// Means something where `ip` is set.
    ttl: u8,
    dont_fragment: bool,
    flow_label: u32,
}

/// Encapsulates the packet and sends it, or leaves it as it is and says why.
#[inline(always)]
pub(crate) fn carry(ctx: &TcContext, entry: &mut EgressEntry, seen: &mut Seen) -> End {
    if packet::vlan_tagged(ctx) {
        return Err(Decline::VlanTagged.into());
    }
    if entry.flags & egress::WITHHELD != 0 {
        return Err(Decline::Withheld.into());
    }
    if entry.flags & egress::WITNESSED != 0 {
        witness::may_go_out(seen.tunnel)?;
    }
    if entry.decline_next > 0 {
        // Two CPUs at once may see a few packets more declined than was asked for, never fewer.
        entry.decline_next -= 1;
        return Err(Decline::Asked.into());
    }
    if entry.next_hop_ifindex == 0 {
        return Err(Decline::Unresolved.into());
    }
    let ethernet = entry.flags & egress::ETHERNET != 0;
    let length = packet::length(ctx);
    if length < ETHERNET_LEN {
        return Err(Decline::Truncated.into());
    }
    seen.bytes = if ethernet { length } else { length - ETHERNET_LEN };
    let protocol = packet::ethertype(ctx);
    let inner = read(ctx, entry, protocol, ethernet, length - ETHERNET_LEN)?;

    let header_len = entry.header_len;
    if !(24..=HEADER_MAX as u32).contains(&header_len) {
        return Err(Decline::Withheld.into());
    }
    let total = seen.bytes + header_len;
    if total > LARGEST {
        return Err(Decline::TooBig.into());
    }
    let mut front = Front { link: LINK, header: [0; HEADER_WORDS], spare: [0; 8] };
    let outer_ipv6 = entry.flags & egress::OUTER_IPV6 != 0;
    let tos = match inner.ip && entry.flags & egress::TOS_INHERIT != 0 {
        true => inner.tos,
        false => entry.tos,
    };
    let ttl = match inner.ip && entry.flags & egress::TTL_INHERIT != 0 {
        true => inner.ttl,
        false => entry.ttl,
    };
    if ttl == 0 {
        return Err(Decline::TtlExhausted.into());
    }
    let protocol_type = if ethernet { packet::TEB } else { protocol };
    if outer_ipv6 {
        let hash = match entry.flow_label | inner.flow_label {
            // The host's own choice, which spreads flows over equal paths (RFC 6438).
            // SAFETY: the helper reads the packet and writes its hash.
            0 => (unsafe { bpf_get_hash_recalc(ctx.skb.skb) }) & 0xf_ffff,
            label => label,
        };
        front.header = *header_of(entry);
        front.header[0] = (0x6000_0000 | u32::from(tos) << 20 | hash).to_be();
        front.header[1] |= two_be16((total - IPV6_LEN) as u16, u16::from(ttl));
        let gre = if entry.flags & egress::ENCAP_LIMIT != 0 { 12 } else { 10 };
        front.header[gre] |= two_be16(0, protocol_type);
        front.link[3] |= two_be16(0, IPV6);
    } else {
        ipv4_header(&mut front.header, entry, &inner, tos, ttl, total as u16);
        front.header[5] |= two_be16(0, protocol_type);
        front.link[3] |= two_be16(0, IPV4);
    }
    // Before it is changed: nothing may stop it afterwards.
    let frame_link = match ethernet && inner.ip {
        true => load_link::<{ ETHERNET_LEN as usize }>(ctx).ok_or(Decline::Truncated)?,
        false => [0; ETHERNET_LEN as usize],
    };
    let front_len = ETHERNET_LEN + header_len;
    if inner.ip {
        make_room(ctx, entry, header_len, ethernet)?;
    } else {
        let room = header_len + if ethernet { ETHERNET_LEN } else { 0 };
        // SAFETY: the helper changes the packet; no pointer into it is held.
        if unsafe { bpf_skb_change_head(ctx.skb.skb, room, 0) } != 0 {
            return Err(Decline::Refused.into());
        }
    }
    let written = write_front(ctx, &front, front_len)
        && (!(ethernet && inner.ip) || store(ctx, front_len, &frame_link, 0));
    if !written {
        return Err(Stop::Drop(Dropped::SendFailed));
    }
    seen.now = packet::now();
    if inner.ip {
        return Ok(send(ctx, entry, seen.now));
    }
    packet::set_mark(ctx, SECOND_ROUND);
    // SAFETY: the helper notes where the packet is to go.
    Ok(unsafe { bpf_redirect(packet::ifindex(ctx), u64::from(BPF_F_INGRESS)) } as i32)
}

/// The same for a packet that has not been through the pair. What cannot be carried as it is goes there.
#[inline(always)]
pub(crate) fn carry_direct(ctx: &TcContext, seen: &mut Seen) -> End {
    // SAFETY: the elements are not freed while the program runs; userspace replaces them whole.
    let peer = DIRECT.get_ptr(&packet::ifindex(ctx)).map(|peer| unsafe { *peer }).unwrap_or(0);
    let Some(entry) = EGRESS.get_ptr_mut(&peer) else {
        return Err(Decline::NoTunnel.into());
    };
    // SAFETY: as above.
    let entry = unsafe { &mut *entry };
    seen.tunnel = peer;
    if !matches!(packet::ethertype(ctx), IPV4 | IPV6) {
        // ARP comes round again by the peer end.
        return Err(Decline::NotIp.into());
    }
    if entry.decline_next > 0 {
        // Counted down where userspace sees it.
        return Err(Decline::Asked.into());
    }
    // The packet still has the route that led it here, and what has to wait for its neighbour would follow that. So
    // it is for userspace to say, lately, that the neighbour is known.
    if !alive(packet::now(), HEARTBEAT_STALE_NS - 1_000_000_000) {
        return Err(Decline::Unresolved.into());
    }
    carry(ctx, entry, seen)
}

/// Leaves a packet to userspace and to nobody else: the host's own stack shall not take what comes out of a tunnel a
/// second time, multicast for one. Userspace taps it behind tc, by its EtherType.
///
/// That is one of three, or it is made to be the one of a service tag in front of all: EtherTypes are without number,
/// a socket for all of them would look at every packet before we have it, and behind us the kernel forgets a tag that
/// it took off (`__netif_receive_skb_core` in linux net/core/dev.c, v6.18). So two tags are put on: the first is written
/// into the packet when the second comes, behind whatever the packet had itself, and the second is what is forgotten.
#[inline(always)]
pub(crate) fn seal(ctx: &TcContext) -> i32 {
    const PACKET_OTHERHOST: u32 = 3;
    if packet::vlan_tagged(ctx) || !matches!(packet::ethertype(ctx), IPV4 | IPV6 | ARP) {
        // SAFETY: the helper changes the packet; no pointer into it is held.
        let tag = || unsafe { bpf_skb_vlan_push(ctx.skb.skb, QINQ.to_be(), SEALED_TCI) };
        if tag() != 0 || tag() != 0 {
            return SHOT;
        }
    }
    // SAFETY: the helper writes one field; it has nothing to say against this value.
    unsafe { bpf_skb_change_type(ctx.skb.skb, PACKET_OTHERHOST) };
    NEXT
}

/// A packet that is not IP, now in its delivery packet, comes by again: it goes to the next hop like every other.
#[inline(always)]
pub(crate) fn second_round(ctx: &TcContext) -> Option<i32> {
    if packet::mark(ctx) != SECOND_ROUND {
        return None;
    }
    // Marks are root's to set, and so is this: a packet of somebody else's with it has another link header.
    let link = load_link::<12>(ctx)?;
    if link != LINK_ADDRESSES {
        return None;
    }
    // SAFETY: the element is not freed while the program runs.
    let entry = EGRESS.get_ptr(&packet::ifindex(ctx)).map(|entry| unsafe { &*entry });
    Some(match entry {
        Some(entry) if entry.flags & egress::WITHHELD == 0 => send(ctx, entry, packet::now()),
        // The tunnel went away meanwhile, and nobody here may take this for a packet of the tunnel.
        _ => SHOT,
    })
}

/// Reads what the delivery header depends on, and finds out whether the packet is one to carry.
#[inline(always)]
fn read(
    ctx: &TcContext,
    entry: &EgressEntry,
    protocol: u16,
    ethernet: bool,
    length: u32,
) -> Result<Inner, Stop> {
    let outer_ipv6 = entry.flags & egress::OUTER_IPV6 != 0;
    let gso_size = packet::gso_size(ctx);
    let link_len = if ethernet { ETHERNET_LEN } else { 0 };
    let (inner, transport, header_len) = match protocol {
        IPV4 => {
            let ip = Head::<5>::load(ctx, 0).ok_or(Decline::Truncated)?;
            let header_len = u32::from(ip.byte(0) & 0x0f) * 4;
            if ip.byte(0) >> 4 != 4 || header_len < IPV4_LEN {
                return Err(Decline::Truncated.into());
            }
            if ip.byte(9) == GRE && !outer_ipv6 && ip.0[4] == header_of(entry)[4] {
                return Err(Decline::Recursion.into());
            }
            let dont_fragment = ip.byte(6) & 0x40 != 0;
            let inner = Inner { ip: true, tos: ip.byte(1), ttl: ip.byte(8), dont_fragment, flow_label: 0 };
            (inner, ip.byte(9), header_len)
        }
        IPV6 => {
            let ip = Head::<10>::load(ctx, 0).ok_or(Decline::Truncated)?;
            if ip.byte(0) >> 4 != 6 {
                return Err(Decline::Truncated.into());
            }
            let word = u32::from_be(ip.0[0]);
            let next_header = ip.byte(6);
            if outer_ipv6 {
                // A tunnel encapsulation limit may be in there (T6-03), or GRE of our own behind it.
                let upper = behind_extension(ctx, IPV6_LEN, next_header)?;
                let outer = header_of(entry);
                let is_remote = |at: usize| (0..4).all(|word| ip.0[at + word] == outer[6 + word]);
                if is_remote(2) || (upper == GRE && is_remote(6)) {
                    return Err(Decline::Recursion.into());
                }
            }
            let inherits = outer_ipv6 && entry.flags & egress::FLOW_INHERIT != 0;
            let flow_label = if inherits { word & 0xf_ffff } else { 0 };
            let tos = (word >> 20) as u8;
            let inner = Inner { ip: true, tos, ttl: ip.byte(7), dont_fragment: false, flow_label };
            (inner, next_header, IPV6_LEN)
        }
        VLAN | QINQ => return Err(Decline::VlanTagged.into()),
        _ if protocol != ARP => return Err(Decline::PayloadType.into()),
        _ if gso_size != 0 => return Err(Decline::SuperPacket.into()),
        _ if !ethernet && length == 0 => return Err(Decline::Truncated.into()),
        _ => (Inner { ip: false, tos: 0, ttl: 0, dont_fragment: false, flow_label: 0 }, 0, 0),
    };
    let clamps = inner.ip && entry.flags & egress::CLAMPS != 0;
    if clamps && gso_size == 0 {
        not_a_handshake(ctx, 0, protocol, transport, header_len)?;
    }
    let longest = match gso_size {
        0 => length,
        size => header_len + transport_len(ctx, transport, header_len)? + size,
    };
    if link_len + longest + entry.header_len > entry.path_mtu {
        return Err(Decline::TooBig.into());
    }
    Ok(inner)
}

/// Leaves a TCP handshake to userspace, and what may hide one. `at`: where the IP header is.
#[inline(always)]
pub(crate) fn not_a_handshake(
    ctx: &TcContext,
    at: u32,
    protocol: u16,
    transport: u8,
    header_len: u32,
) -> Result<(), Stop> {
    const FLAGS: u32 = 13;
    const SYN: u8 = 0x02;
    if transport == TCP && load::<1>(ctx, at + header_len + FLAGS).is_some_and(|[flags]| flags & SYN != 0) {
        return Err(Decline::Handshake.into());
    }
    if protocol == IPV6
        && has_extensions(transport)
        && behind_extension(ctx, at + header_len, transport)? == TCP
    {
        return Err(Decline::InnerOptions.into());
    }
    Ok(())
}

/// The protocol behind one extension header that begins at `at`; more than one, and destination options, are
/// userspace's to read.
#[inline(always)]
fn behind_extension(ctx: &TcContext, at: u32, next_header: u8) -> Result<u8, Stop> {
    if !has_extensions(next_header) {
        return Ok(next_header);
    }
    let [upper] = load::<1>(ctx, at).ok_or(Decline::Truncated)?;
    match next_header == DESTINATION_OPTIONS || has_extensions(upper) {
        true => Err(Decline::InnerOptions.into()),
        false => Ok(upper),
    }
}

#[inline(always)]
fn has_extensions(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Bytes of the transport header in each segment of a super-packet.
#[inline(always)]
fn transport_len(ctx: &TcContext, transport: u8, at: u32) -> Result<u32, Stop> {
    match transport {
        TCP => {
            let [offset] = load::<1>(ctx, at + 12).ok_or(Decline::Truncated)?;
            Ok(u32::from(offset >> 4) * 4)
        }
        UDP => Ok(8),
        _ => Err(Decline::SuperPacket.into()),
    }
}

/// The fields of an IPv4 header that are each packet's own, and its checksum from the tunnel's partial sum.
#[inline(always)]
fn ipv4_header(
    header: &mut [u32; HEADER_WORDS],
    entry: &EgressEntry,
    inner: &Inner,
    tos: u8,
    ttl: u8,
    total: u16,
) {
    // A packet marked CE travels as ECT(0) (linux include/net/inet_ecn.h, v6.18, `INET_ECN_encapsulate`).
    let tos = match entry.flags & egress::ECN != 0 {
        true => (tos & 0xfc) | if inner.tos & 3 == 3 { 2 } else { inner.tos & 3 },
        false => tos,
    };
    let copies = entry.flags & egress::IGNORE_DF == 0;
    let dont_fragment = entry.flags & egress::PMTUDISC != 0 || (inner.dont_fragment && copies);
    // An atomic datagram needs no identification (RFC 6864 §4.1); the kernel writes 0 too.
    let (fragment, identification) = match dont_fragment {
        true => (0x4000, 0),
        // SAFETY: the helper only makes a number.
        false => (0, (unsafe { bpf_get_prandom_u32() }) as u16 | 1),
    };
    let sum = entry.partial_sum
        + u32::from(tos)
        + u32::from(total)
        + u32::from(identification)
        + fragment
        + (u32::from(ttl) << 8);
    let checksum = !packet::fold(sum);
    let ready = header_of(entry);
    header[0] = ready[0] | u32::from(tos) << 8 | two_be16(0, total);
    header[1] = two_be16(identification, fragment as u16);
    header[2] = ready[2] | u32::from(ttl) | two_be16(0, checksum);
    header[3] = ready[3];
    header[4] = ready[4];
    header[5] = ready[5];
    header[6] = ready[6];
}

/// The prebuilt header in words.
#[inline(always)]
fn header_of(entry: &EgressEntry) -> &[u32; HEADER_WORDS] {
    const { assert!(align_of::<EgressEntry>() == 8 && offset_of!(EgressEntry, header) == 0) };
    // SAFETY: as many bytes, aligned as the entry is.
    unsafe { &*entry.header.as_ptr().cast() }
}

#[inline(always)]
fn make_room(ctx: &TcContext, entry: &EgressEntry, header_len: u32, ethernet: bool) -> Result<(), Stop> {
    const EALREADY: i64 = -114;
    let mut flags =
        u64::from(BPF_F_ADJ_ROOM_ENCAP_L4_GRE | BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
    flags |= u64::from(match entry.flags & egress::OUTER_IPV6 != 0 {
        true => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        false => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    });
    let mut room = header_len;
    if ethernet {
        flags |= u64::from(ETHERNET_LEN) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
        flags |= u64::from(BPF_F_ADJ_ROOM_ENCAP_L2_ETH);
        room += ETHERNET_LEN;
    }
    // SAFETY: the helper changes the packet; no pointer into it is held.
    match unsafe { bpf_skb_adjust_room(ctx.skb.skb, room as i32, BPF_ADJ_ROOM_MAC, flags) } {
        0 => Ok(()),
        EALREADY => Err(Decline::AlreadyEncapsulated.into()),
        _ => Err(Decline::Refused.into()),
    }
}

/// Writes link header, delivery header and GRE header.
#[inline(always)]
fn write_front(ctx: &TcContext, front: &Front, length: u32) -> bool {
    const LEAST: u32 = ETHERNET_LEN + 24;
    // The compiler knows the bounds and would leave out what the verifier wants to see: that of Linux 6.1 takes no
    // comparison, only a mask. All lengths are the least one and a multiple of four.
    // SAFETY: a reference may be read.
    let length = unsafe { core::ptr::read_volatile(&length) };
    let length = LEAST + (length.wrapping_sub(LEAST) & 0x3c);
    // SAFETY: behind the two bytes that align it.
    let first = unsafe { (&raw const *front).cast::<u8>().add(2) };
    // SAFETY: the helper reads that many bytes, which are there.
    let failed = unsafe { bpf_skb_store_bytes(ctx.as_ptr().cast(), 0, first.cast(), length, 0) };
    failed == 0
}

/// To the next hop that userspace found, or where nobody has looked after it lately, to the one that the kernel
/// finds now (T2).
#[inline(always)]
fn send(ctx: &TcContext, entry: &EgressEntry, now: u64) -> i32 {
    packet::set_mark(ctx, entry.mark);
    let verdict = if alive(now, HEARTBEAT_STALE_NS) {
        const { assert!(offset_of!(EgressEntry, next_hop).is_multiple_of(4)) };
        // SAFETY: as many bytes, aligned as the entry is.
        let ipv6_nh = unsafe { *entry.next_hop.as_ptr().cast::<[u32; 4]>() };
        let mut next_hop = bpf_redir_neigh {
            nh_family: entry.next_hop_family,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh },
        };
        // SAFETY: the helper reads the next hop and notes it.
        unsafe {
            bpf_redirect_neigh(entry.next_hop_ifindex, &mut next_hop, size_of::<bpf_redir_neigh>() as i32, 0)
        }
    } else {
        // SAFETY: as above, without a next hop.
        unsafe { bpf_redirect_neigh(entry.next_hop_ifindex, core::ptr::null_mut(), 0, 0) }
    };
    verdict as i32
}

/// Whether the daemon has given a sign of life in the last `within` nanoseconds before `now`.
#[inline(always)]
fn alive(now: u64, within: u64) -> bool {
    let beat = STATE.get(0).map_or(0, |state| state.heartbeat_ns);
    // A beat from a moment ago may be ahead of the coarse clock.
    beat != 0 && now.saturating_sub(beat) < within
}

/// The addresses in the link header until the next hop's take their place: unicast, for the kernel sends nothing on
/// to a group.
const LINK_ADDRESSES: [u8; 12] = *b"\x02grwyo\x02grwyi";

/// The link header, without an EtherType and behind two bytes.
const LINK: [u32; 4] = {
    let at = LINK_ADDRESSES;
    [
        u32::from_le_bytes([0, 0, at[0], at[1]]),
        u32::from_le_bytes([at[2], at[3], at[4], at[5]]),
        u32::from_le_bytes([at[6], at[7], at[8], at[9]]),
        u32::from_le_bytes([at[10], at[11], 0, 0]),
    ]
};

/// The mark of a packet that comes by for the second time.
const SECOND_ROUND: u32 = 0x6772_7779;
