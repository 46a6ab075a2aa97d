//! The programs that the kernel runs for greway at tc ingress: so far they look, count and decline.
//!
//! ```text
//!  tun0 ══ veth ══► peer end:        tc ingress  greway_overlay   ──► packet socket (the engine)
//!  wire ──► underlay device:         tc ingress  greway_underlay  ──► packet socket, then the IP stack
//! ```
//!
//! They decline by [`NEXT`] and by nothing else: `TC_ACT_OK` would end the chain, and every other program
//! and filter on the device would see no packet any more. They refuse to change, redirect or drop a packet,
//! and to decide anything from one they could not read whole: a short read is [`Decline::Truncated`].
//!
//! All reads go through `bpf_skb_load_bytes_relative`, counted from the network header. It checks its own
//! bounds, reads past the linear part of a super-packet, and works on devices without a link header.
#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_hdr_start_off::BPF_HDR_START_NET,
    helpers::r#gen::bpf_skb_load_bytes_relative,
    macros::{classifier, map},
    maps::PerCpuArray,
    programs::TcContext,
};
use greway_ebpf_abi::{Counters, Decline, Point};

#[map(name = "greway_counters")]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(Point::COUNT, 0);

// The section is `classifier`, which the macro writes: aya 0.14 rejects `tc`.
#[classifier]
pub fn greway_overlay(ctx: TcContext) -> i32 {
    count(Point::Overlay, overlay(&ctx));
    NEXT
}

#[classifier]
pub fn greway_underlay(ctx: TcContext) -> i32 {
    count(Point::Underlay, underlay(&ctx));
    NEXT
}

/// `TC_ACT_UNSPEC` for a clsact filter and `TCX_NEXT` for a tcx link: go on with the next in the chain
/// (include/uapi/linux/pkt_cls.h and bpf.h, v6.6).
const NEXT: i32 = -1;

/// What a look at a packet found.
struct Look {
    gre: bool,
    reason: Decline,
}

/// A payload packet about to be encapsulated.
#[inline(always)]
fn overlay(ctx: &TcContext) -> Look {
    if vlan_tagged(ctx) {
        return not_gre(Decline::VlanTagged);
    }
    let protocol = match ethertype(ctx) {
        ETH_P_IP => load::<IPV4_LEN>(ctx, 0).map(|ipv4| ipv4[9]),
        ETH_P_IPV6 => load::<IPV6_LEN>(ctx, 0).map(|ipv6| ipv6[6]),
        _ => return not_gre(Decline::NotIp),
    };
    match protocol {
        None => not_gre(Decline::Truncated),
        Some(protocol) => Look { gre: protocol == IPPROTO_GRE, reason: Decline::CountsOnly },
    }
}

/// Whatever arrives on the underlay: ours, another's GRE, or anything at all.
#[inline(always)]
fn underlay(ctx: &TcContext) -> Look {
    if vlan_tagged(ctx) {
        return not_gre(Decline::VlanTagged);
    }
    let (protocol, ip) = match ethertype(ctx) {
        ETH_P_IP => match load::<IPV4_LEN>(ctx, 0) {
            None => return not_gre(Decline::Truncated),
            Some(ipv4) => (ipv4[9], delivery_ipv4(&ipv4)),
        },
        // An extension header stands in the way of the 47: userspace reads those.
        ETH_P_IPV6 => match load::<IPV6_LEN>(ctx, 0) {
            None => return not_gre(Decline::Truncated),
            Some(ipv6) => (ipv6[6], Ok(IPV6_LEN as u32)),
        },
        _ => return not_gre(Decline::NotIp),
    };
    if protocol != IPPROTO_GRE {
        return not_gre(Decline::NotGre);
    }
    if !to_this_host(ctx) {
        return Look { gre: true, reason: Decline::OtherHost };
    }
    let reason = match ip {
        Err(reason) => reason,
        Ok(header_len) => gre(ctx, header_len),
    };
    Look { gre: true, reason }
}

/// The length of a plain IPv4 header, or why userspace has to look at this one (RFC 791 §3.1).
#[inline(always)]
fn delivery_ipv4(ipv4: &[u8; IPV4_LEN]) -> Result<u32, Decline> {
    let more_fragments_or_offset = u16::from_be_bytes([ipv4[6], ipv4[7]]) & 0x3fff;
    match ipv4[0] & 0x0f {
        5 if more_fragments_or_offset == 0 => Ok(IPV4_LEN as u32),
        5 => Err(Decline::Fragment),
        0..5 => Err(Decline::Truncated),
        _ => Err(Decline::IpOptions),
    }
}

/// The first four bytes of GRE: C, R, K, S and the version (RFC 2784 §2.1, RFC 1701, RFC 2890 §2).
#[inline(always)]
fn gre(ctx: &TcContext, offset: u32) -> Decline {
    let Some(header) = load::<4>(ctx, offset) else {
        return Decline::Truncated;
    };
    let flags = u16::from_be_bytes([header[0], header[1]]);
    if flags & 0x0007 != 0 {
        Decline::GreVersion
    } else if flags & 0x4000 != 0 {
        Decline::GreRouting
    } else if flags & (0x8000 | 0x1000) != 0 {
        Decline::GreCheckedField
    } else {
        Decline::CountsOnly
    }
}

#[inline(always)]
fn not_gre(reason: Decline) -> Look {
    Look { gre: false, reason }
}

#[inline(always)]
fn count(point: Point, look: Look) {
    let Some(counters) = COUNTERS.get_ptr_mut(point.index()) else {
        return;
    };
    // SAFETY: the pointer is to this CPU's element, which the map keeps alive while the program runs, and
    // tc ingress runs in softirq context, which is not re-entered on the same CPU.
    let counters = unsafe { &mut *counters };
    counters.seen += 1;
    counters.gre += u64::from(look.gre);
    if let Some(declined) = counters.declined.get_mut(look.reason as usize) {
        *declined += 1;
    }
}

/// `N` bytes from `offset`, counted from the network header; `None` when the packet has fewer.
#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper writes exactly N bytes to the buffer, or fails.
    let failed = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            bytes.as_mut_ptr().cast(),
            N as u32,
            BPF_HDR_START_NET,
        )
    };
    if failed != 0 {
        return None;
    }
    // SAFETY: all N bytes were written, see above.
    Some(unsafe { bytes.assume_init() })
}

#[inline(always)]
fn ethertype(ctx: &TcContext) -> u16 {
    // SAFETY: the context outlives the program's run.
    u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16)
}

#[inline(always)]
fn vlan_tagged(ctx: &TcContext) -> bool {
    // SAFETY: as in `ethertype`.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

#[inline(always)]
fn to_this_host(ctx: &TcContext) -> bool {
    // SAFETY: as in `ethertype`.
    unsafe { (*ctx.skb.skb).pkt_type == PACKET_HOST }
}

const PACKET_HOST: u32 = 0;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const IPPROTO_GRE: u8 = 47;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

/// Which licence the kernel may take this for: of the words it knows, the one that names ours
/// (kernel/bpf/syscall.c `license_is_gpl_compatible`, v6.6).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
