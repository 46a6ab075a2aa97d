//! Witness packets: few of each tunnel's packets go the kernel's whole way, and the rest are carried while those
//! come through (the layout and who writes what: `greway_ebpf_abi::witness`).
//!
//! On the way in a witness is a packet that was carried: a clone goes into the pair at once, so that nothing is
//! overtaken, and the original gets its headers back and goes on to the IP stack, some bytes of it replaced by the trailer.
//! Whoever listens on the underlay has seen the original by then, and sees nothing of the witness.
//!
//! On the way out a witness is sent by userspace through a socket, and [`leaving`] takes it away behind OUTPUT and
//! POSTROUTING, in front of the device's queue and of whoever listens there.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::r#gen::{
        bpf_clone_redirect, bpf_ktime_get_ns, bpf_skb_adjust_room, bpf_skb_change_proto, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use greway_ebpf_abi::{
    Decline, EgressEntry, egress,
    witness::{Gate, IN_KEPT, Leave, OUT_FRONT, Passage, TRAILER, Verdict, differs},
};

use crate::{
    EGRESS, End, GATE, NEXT, SHOT, Stop, VERDICT,
    count::Seen,
    packet::{
        self, DESTINATION_OPTIONS, ETHERNET_LEN, GRE, IPV4, IPV4_LEN, IPV6, IPV6_LEN, be16, load, store,
    },
};

/// Whether a packet that goes out may be carried.
#[inline(always)]
pub(crate) fn may_go_out(peer: u32) -> Result<(), Stop> {
    let verdict = verdict(peer)?;
    passes(peer, &verdict.outbound, |gate| &mut gate.outbound)
}

/// Whether a packet that came in may be carried, and whether a witness is wanted of it.
#[inline(always)]
pub(crate) fn may_come_in(peer: u32) -> Result<bool, Stop> {
    let verdict = verdict(peer)?;
    passes(peer, &verdict.inbound, |gate| &mut gate.inbound)?;
    Ok(verdict.ask != 0 && gate(peer).is_some_and(|gate| gate.made != verdict.ask))
}

#[inline(always)]
fn verdict<'a>(peer: u32) -> Result<&'a Verdict, Stop> {
    // SAFETY: the element is not freed while the program runs; userspace replaces it whole.
    VERDICT.get_ptr(&peer).map(|verdict| unsafe { &*verdict }).ok_or(Stop::Decline(Decline::Closed))
}

#[inline(always)]
fn gate<'a>(peer: u32) -> Option<&'a mut Gate> {
    // SAFETY: as in `verdict`. Other CPUs may write the same words, each of which is whole at any time.
    GATE.get_ptr_mut(&peer).map(|gate| unsafe { &mut *gate })
}

#[inline(always)]
fn passes(peer: u32, leave: &Leave, passage: impl Fn(&mut Gate) -> &mut Passage) -> Result<(), Stop> {
    if leave.number != 0 && leave.at_once != 0 {
        return Ok(());
    }
    let Some(gate) = gate(peer) else { return Err(Decline::Closed.into()) };
    let passage = passage(gate);
    if leave.number != 0 {
        if passage.opened == leave.number {
            return Ok(());
        }
        if passage.last_ns == leave.at {
            passage.opened = leave.number;
            return Ok(());
        }
    }
    passage.declined += 1;
    // SAFETY: it only reads a clock. Not the coarse one: two packets must differ.
    passage.last_ns = unsafe { bpf_ktime_get_ns() };
    Err(Decline::Closed.into())
}

/// The headers of a packet as they came in, before they are taken away.
#[repr(C, align(8))]
pub(crate) struct Front {
    /// Not written where none are kept: that would cost every packet.
    bytes: MaybeUninit<[u8; FRONT_MAX]>,
    /// Bytes of them in front of what goes into the pair, without the link header; 0: none are kept.
    taken: u32,
    /// Bytes behind these that are kept too: [`TRANSLATED`] or 0.
    more: u32,
    /// Where in the rest of the payload packet the trailer is written.
    trailer: u32,
    ethertype: u16,
}

/// Link header, outer header with an encapsulation limit, GRE with key, the link header of a frame, and what goes with
/// a change of the IP version: 14 + 48 + 8 + 14 + 20; and what [`masked`] may make of it.
const FRONT_MAX: usize = 168;

/// Bytes that the kernel takes away when IPv6 becomes IPv4, and adds when it is the other way round.
const TRANSLATED: u32 = IPV6_LEN - IPV4_LEN;

impl Front {
    /// None are kept.
    #[inline(always)]
    pub(crate) fn none() -> Self {
        Self { bytes: MaybeUninit::uninit(), taken: 0, more: 0, trailer: 0, ethertype: 0 }
    }

    /// `taken`: the bytes behind the link header that are going to be taken away; `left`: the payload packet's that are
    /// left then, without the link header of a frame, and `protocol` its EtherType.
    #[inline(always)]
    pub(crate) fn keep(&mut self, ctx: &TcContext, taken: u32, left: u32, protocol: u16) {
        if left < TRAILER as u32 {
            return;
        }
        self.ethertype = packet::ethertype(ctx);
        self.more = if self.ethertype == IPV4 && protocol == IPV6 { TRANSLATED } else { 0 };
        // The verifier wants to see all that a length of many values may reach written.
        let bytes = self.bytes.write([0; FRONT_MAX]).as_mut_ptr().cast();
        // SAFETY: the helper writes `masked` bytes, which are there, or fails.
        let failed =
            unsafe { bpf_skb_load_bytes(ctx.as_ptr().cast_const(), 0, bytes, masked(taken + self.more)) };
        self.taken = if failed == 0 { taken } else { 0 };
        self.trailer = match left < (IN_KEPT + TRAILER) as u32 {
            true => left - TRAILER as u32,
            false => IN_KEPT as u32,
        };
    }

    #[inline(always)]
    pub(crate) fn kept(&self) -> bool {
        self.taken != 0
    }
}

/// Bytes of a [`Front`]. The verifier of Linux 6.1 takes no comparison, only a mask. All are the least, 14 + 20 + 4, and
/// an even number.
#[inline(always)]
fn masked(taken: u32) -> u32 {
    const LEAST: u32 = ETHERNET_LEN + IPV4_LEN + 4;
    // SAFETY: a reference may be read. The compiler knows the bounds and would leave out the mask.
    let taken = unsafe { core::ptr::read_volatile(&taken) };
    LEAST + ((ETHERNET_LEN + taken).wrapping_sub(LEAST) & 0x7e)
}

/// Sends the payload packet that is left in `ctx` into the pair at once, and makes a witness of what remains. `None`: it
/// could not be sent so.
#[inline(always)]
pub(crate) fn send_and_witness(ctx: &TcContext, peer: u32, front: &Front) -> Option<i32> {
    // SAFETY: the helper sends a copy; no pointer into the packet is held.
    if unsafe { bpf_clone_redirect(ctx.skb.skb, peer, 0) } < 0 {
        return None;
    }
    Some(match make(ctx, peer, front) {
        Some(()) => NEXT,
        // What should have become a witness is a packet that was carried; userspace misses the number.
        None => SHOT,
    })
}

#[inline(always)]
fn make(ctx: &TcContext, peer: u32, front: &Front) -> Option<()> {
    let verdict = verdict(peer).ok()?;
    let gate = gate(peer)?;
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
    let mut room = front.taken;
    if packet::ethertype(ctx) != front.ethertype {
        // The kernel was told what is inside. To tell it by a flag what is outside works only where it knows that what
        // it had before is gone, so the packet is translated, as far as the kernel does that.
        // SAFETY: the helper changes the packet; no pointer into it is held.
        if unsafe { bpf_skb_change_proto(ctx.skb.skb, front.ethertype.to_be(), 0) } != 0 {
            return None;
        }
        room = match front.ethertype {
            IPV4 => room + TRANSLATED,
            _ => room - TRANSLATED,
        };
    }
    // SAFETY: as above.
    if unsafe { bpf_skb_adjust_room(ctx.skb.skb, room as i32, BPF_ADJ_ROOM_MAC, flags) } != 0 {
        return None;
    }
    let from = front.bytes.as_ptr().cast();
    // SAFETY: the helper reads `masked` bytes, which are there.
    if unsafe { bpf_skb_store_bytes(ctx.as_ptr().cast(), 0, from, masked(front.taken + front.more), 0) } != 0
    {
        return None;
    }
    let number = verdict.ask;
    let mut trailer = [0; TRAILER];
    trailer[..16].copy_from_slice(&verdict.secret);
    trailer[16..20].copy_from_slice(&peer.to_be_bytes());
    trailer[20..24].copy_from_slice(&number.to_be_bytes());
    if !store(ctx, ETHERNET_LEN + front.taken + front.trailer, &trailer, 0) {
        return None;
    }
    gate.made = number;
    Some(())
}

/// Looks at a packet that leaves an underlay device: a witness of ours ends here.
#[inline(always)]
pub(crate) fn leaving(ctx: &TcContext, seen: &mut Seen) -> End {
    const REST: u32 = (OUT_FRONT + TRAILER) as u32;
    // Nearly every packet ends here. Not every device has a link header.
    let length = packet::length(ctx);
    if !(IPV4_LEN + 4 + REST..=ETHERNET_LEN + IPV6_LEN + 16 + REST).contains(&length) {
        return Err(Decline::NoTunnel.into());
    }
    let outer = match packet::ethertype(ctx) {
        IPV4 => outer_ipv4(ctx)?,
        IPV6 => outer_ipv6(ctx)?,
        _ => return Err(Decline::NotIp.into()),
    };
    seen.gre = true;
    let base = load::<2>(ctx, outer.len).ok_or(Decline::Truncated)?;
    let at = outer.len + if base[0] & 0x20 != 0 { 8 } else { 4 };
    if at + REST != outer.total {
        return Err(Decline::NoTunnel.into());
    }
    let trailer = load::<TRAILER>(ctx, at + OUT_FRONT as u32).ok_or(Decline::Truncated)?;
    let word =
        |at: usize| u32::from_be_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]]);
    let (peer, number) = (word(16), word(20));
    let Some(verdict) = VERDICT.get_ptr(&peer) else { return Err(Decline::NoTunnel.into()) };
    // SAFETY: the element is not freed while the program runs; userspace replaces it whole.
    if unsafe { (*verdict).secret } != trailer[..16] {
        return Err(Decline::NoTunnel.into());
    }
    // It is ours, and nobody else's business from here on.
    // SAFETY: as above.
    if let (Some(gate), Some(entry)) = (gate(peer), EGRESS.get_ptr(&peer).map(|entry| unsafe { &*entry })) {
        gate.differs = difference(ctx, entry, &outer);
        gate.left = number;
    }
    Ok(SHOT)
}

/// What of the delivery header is compared.
struct Outer {
    source: [u8; 16],
    destination: [u8; 16],
    ttl: u8,
    tos: u8,
    ipv6: bool,
    len: u32,
    total: u32,
}

#[inline(always)]
fn outer_ipv4(ctx: &TcContext) -> Result<Outer, Stop> {
    let ip = load::<{ IPV4_LEN as usize }>(ctx, 0).ok_or(Decline::Truncated)?;
    if ip[9] != GRE {
        return Err(Decline::NotGre.into());
    }
    if ip[0] != 0x45 {
        return Err(Decline::IpOptions.into());
    }
    Ok(Outer {
        source: packet::mapped([ip[12], ip[13], ip[14], ip[15]]),
        destination: packet::mapped([ip[16], ip[17], ip[18], ip[19]]),
        ttl: ip[8],
        tos: ip[1],
        ipv6: false,
        len: IPV4_LEN,
        total: u32::from(be16(&ip, 2)),
    })
}

#[inline(always)]
fn outer_ipv6(ctx: &TcContext) -> Result<Outer, Stop> {
    let ip = load::<{ IPV6_LEN as usize }>(ctx, 0).ok_or(Decline::Truncated)?;
    let len = match ip[6] {
        GRE => IPV6_LEN,
        DESTINATION_OPTIONS => match load::<1>(ctx, IPV6_LEN) {
            Some([GRE]) => IPV6_LEN + 8,
            _ => return Err(Decline::NotGre.into()),
        },
        _ => return Err(Decline::NotGre.into()),
    };
    let mut source = [0; 16];
    let mut destination = [0; 16];
    source.copy_from_slice(&ip[8..24]);
    destination.copy_from_slice(&ip[24..40]);
    Ok(Outer {
        source,
        destination,
        ttl: ip[7],
        tos: (be16(&ip, 0) >> 4) as u8,
        ipv6: true,
        len,
        total: IPV6_LEN + u32::from(be16(&ip, 4)),
    })
}

/// How the witness differs from what the overlay program would send.
#[inline(always)]
fn difference(ctx: &TcContext, entry: &EgressEntry, outer: &Outer) -> u32 {
    let header = &entry.header;
    let ipv6 = entry.flags & egress::OUTER_IPV6 != 0;
    let (mut source, mut destination) = ([0; 16], [0; 16]);
    if ipv6 {
        source.copy_from_slice(&header[8..24]);
        destination.copy_from_slice(&header[24..40]);
    } else {
        source = packet::mapped([header[12], header[13], header[14], header[15]]);
        destination = packet::mapped([header[16], header[17], header[18], header[19]]);
    }
    let bit = |differs: bool, bit: u32| if differs { bit } else { 0 };
    bit(ipv6 != outer.ipv6 || source != outer.source, differs::SOURCE)
        | bit(destination != outer.destination, differs::DESTINATION)
        | bit(entry.ttl != outer.ttl, differs::TTL)
        | bit(entry.tos & 0xfc != outer.tos & 0xfc, differs::TOS)
        | bit(entry.mark != packet::mark(ctx), differs::MARK)
        | bit(entry.next_hop_ifindex != packet::ifindex(ctx), differs::DEVICE)
}
