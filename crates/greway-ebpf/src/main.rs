//! The programs that the kernel runs for greway at tc: they carry the common packets and leave the rest.
//!
//! ```text
//!  tun0 ══ veth ══► peer end:        tc ingress  greway_overlay   ──► underlay device
//!                                         └ declined ──► packet socket (the engine)
//!  wire ──► underlay device:         tc ingress  greway_underlay  ──► peer end ══ veth ══► tun0
//!                                         └ declined ──► packet socket, then the IP stack
//!  tun0 itself, on request:      tc egress   greway_direct    ──► underlay device
//!                                         └ declined ──► the pair, see above
//! ```
//!
//! They decide nothing that the engine would decide otherwise: what is not as plain as can be is left to it, by
//! [`NEXT`] and by nothing else. `TC_ACT_OK` would end the chain, and every other program and filter on the
//! device would see no packet any more. A packet is changed only when nothing stands in its way any more.
//!
//! All reads go through `bpf_skb_load_bytes_relative`, counted from the network header. It checks its own
//! bounds, reads past the linear part of a super-packet, and works on devices without a link header.
#![no_std]
#![no_main]

mod count;
mod egress;
mod ingress;
mod packet;
mod witness;

use aya_ebpf::{
    macros::{classifier, map},
    maps::{Array, HashMap, PerCpuArray, PerCpuHashMap},
    programs::TcContext,
};
use greway_ebpf_abi::{
    Counters, Decline, Dropped, EgressEntry, IngressEntry, IngressKey, MOST_ADDRESSES, MOST_TUNNELS, Point,
    Slot, State, TunnelCounters,
    witness::{Gate, Verdict},
};

#[map(name = "greway_counters")]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(Point::COUNT, 0);

#[map(name = "greway_egress")]
static EGRESS: HashMap<u32, EgressEntry> = HashMap::with_max_entries(MOST_TUNNELS, NO_PREALLOC);

#[map(name = "greway_ingress")]
static INGRESS: HashMap<IngressKey, IngressEntry> = HashMap::with_max_entries(MOST_TUNNELS, NO_PREALLOC);

#[map(name = "greway_tunnels")]
static TUNNELS: PerCpuHashMap<u32, TunnelCounters> =
    PerCpuHashMap::with_max_entries(MOST_TUNNELS, NO_PREALLOC);

#[map(name = "greway_slots")]
static SLOTS: PerCpuArray<Slot> = PerCpuArray::with_max_entries(Slot::COUNT, 0);

#[map(name = "greway_local")]
static LOCAL: HashMap<[u8; 16], u32> = HashMap::with_max_entries(MOST_ADDRESSES, NO_PREALLOC);

#[map(name = "greway_state")]
static STATE: Array<State> = Array::with_max_entries(1, 0);

#[map(name = "greway_devices")]
static DIRECT: HashMap<u32, u32> = HashMap::with_max_entries(MOST_TUNNELS, NO_PREALLOC);

#[map(name = "greway_verdict")]
static VERDICT: HashMap<u32, Verdict> = HashMap::with_max_entries(MOST_TUNNELS, NO_PREALLOC);

#[map(name = "greway_gate")]
static GATE: HashMap<u32, Gate> = HashMap::with_max_entries(MOST_TUNNELS, NO_PREALLOC);

// The section is `classifier`, which the macro writes: aya 0.14 rejects `tc`.
#[classifier]
pub fn greway_overlay(ctx: TcContext) -> i32 {
    if let Some(verdict) = egress::second_round(&ctx) {
        return verdict;
    }
    let peer = packet::ifindex(&ctx);
    let mut seen = count::Seen::at(Point::Overlay);
    let end = match EGRESS.get_ptr_mut(&peer) {
        // SAFETY: the element is not freed while the program runs; userspace replaces it whole.
        Some(entry) => {
            seen.tunnel = peer;
            egress::carry(&ctx, unsafe { &mut *entry }, &mut seen)
        }
        None => Err(Stop::Decline(Decline::NoTunnel)),
    };
    count::count(&seen, &end);
    match end {
        Err(Stop::Decline(_)) => egress::seal(&ctx),
        end => verdict(end),
    }
}

/// At the tunnel device itself. What it declines goes through the pair, and is the overlay program's to count.
#[classifier]
pub fn greway_direct(ctx: TcContext) -> i32 {
    let mut seen = count::Seen::at(Point::Direct);
    let end = egress::carry_direct(&ctx, &mut seen);
    if let Err(Stop::Decline(_)) = end {
        seen.tunnel = 0;
    }
    count::count(&seen, &end);
    verdict(end)
}

#[classifier]
pub fn greway_underlay(ctx: TcContext) -> i32 {
    let mut seen = count::Seen::at(Point::Underlay);
    let end = ingress::carry(&ctx, &mut seen);
    count::count(&seen, &end);
    verdict(end)
}

#[classifier]
pub fn greway_witness(ctx: TcContext) -> i32 {
    let mut seen = count::Seen::at(Point::Witness);
    let end = witness::leaving(&ctx, &mut seen);
    count::count(&seen, &end);
    verdict(end)
}

/// The verdict that sends a packet on its way, or why there is none.
type End = Result<i32, Stop>;

/// Why a packet is not carried.
#[derive(Clone, Copy)]
enum Stop {
    Decline(Decline),
    Drop(Dropped),
}

impl From<Decline> for Stop {
    #[inline(always)]
    fn from(reason: Decline) -> Self {
        Self::Decline(reason)
    }
}

#[inline(always)]
fn verdict(end: End) -> i32 {
    match end {
        Ok(verdict) => verdict,
        Err(Stop::Decline(_)) => NEXT,
        Err(Stop::Drop(_)) => SHOT,
    }
}

/// `TC_ACT_UNSPEC` for a clsact filter and `TCX_NEXT` for a tcx link: go on with the next in the chain
/// (include/uapi/linux/pkt_cls.h and bpf.h, v6.6).
const NEXT: i32 = -1;
/// `TC_ACT_SHOT` and `TCX_DROP`.
const SHOT: i32 = 2;
/// `BPF_F_NO_PREALLOC`: elements are made when they are added. Replaced ones are not reused for another key while
/// a program reads them.
const NO_PREALLOC: u32 = 1;

/// Which licence the kernel may take this for: of the words it knows, the one that names ours
/// (kernel/bpf/syscall.c `license_is_gpl_compatible`, v6.6).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
