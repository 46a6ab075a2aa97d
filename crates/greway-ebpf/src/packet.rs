//! What is read of a packet, and the numbers that headers consist of.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_hdr_start_off::{BPF_HDR_START_MAC, BPF_HDR_START_NET},
    helpers::r#gen::{
        bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_skb_load_bytes_relative, bpf_skb_store_bytes,
    },
    programs::TcContext,
};

/// EtherTypes (the IANA registry); numbers in host order.
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const QINQ: u16 = 0x88a8;
pub(crate) const TEB: u16 = 0x6558;
pub(crate) const WCCP: u16 = 0x883e;
pub(crate) const ERSPAN: u16 = 0x88be;
pub(crate) const ERSPAN2: u16 = 0x22eb;
/// Below this the field is a length (IEEE 802.3 §3.2.6).
pub(crate) const LEAST_ETHERTYPE: u16 = 0x0600;

/// Protocol numbers.
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const GRE: u8 = 47;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

/// Bytes of headers.
pub(crate) const ETHERNET_LEN: u32 = 14;
pub(crate) const IPV4_LEN: u32 = 20;
pub(crate) const IPV6_LEN: u32 = 40;

/// The largest datagram in bytes, either family's (no jumbograms).
pub(crate) const LARGEST: u32 = 65_535;

const PACKET_HOST: u32 = 0;

/// The beginning of a header, in words as they lie in the packet. The compiler reads and writes an array of bytes
/// one by one, since it does not know how that is aligned: a third of a packet's time went there.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub(crate) struct Head<const WORDS: usize>(pub(crate) [u32; WORDS]);

impl<const WORDS: usize> Head<WORDS> {
    /// That many words from `offset`, counted from the network header; `None` when the packet has fewer.
    #[inline(always)]
    pub(crate) fn load(ctx: &TcContext, offset: u32) -> Option<Self> {
        let mut head = Self([0; WORDS]);
        head.fill(ctx, offset).then_some(head)
    }

    /// The same in place; `false` when the packet has fewer, and then nothing is in it.
    #[inline(always)]
    pub(crate) fn fill(&mut self, ctx: &TcContext, offset: u32) -> bool {
        let length = WORDS as u32 * 4;
        let words = self.0.as_mut_ptr().cast();
        // SAFETY: the helper writes as many bytes as there are in the words, or fails.
        unsafe { bpf_skb_load_bytes_relative(ctx.as_ptr(), offset, words, length, BPF_HDR_START_NET) == 0 }
    }

    /// That many words from the packet's first byte; `None` when it has fewer.
    #[inline(always)]
    pub(crate) fn load_first(ctx: &TcContext) -> Option<Self> {
        let mut head = Self([0; WORDS]);
        let words = head.0.as_mut_ptr().cast();
        let length = WORDS as u32 * 4;
        // SAFETY: as in `fill`.
        let failed =
            unsafe { bpf_skb_load_bytes_relative(ctx.as_ptr(), 0, words, length, BPF_HDR_START_MAC) };
        (failed == 0).then_some(head)
    }

    /// The link header at `offset`.
    #[inline(always)]
    pub(crate) fn load_link_header(ctx: &TcContext, offset: u32) -> Option<Self> {
        const { assert!(WORDS * 4 >= ETHERNET_LEN as usize) };
        let mut head = Self([0; WORDS]);
        let words = head.0.as_mut_ptr().cast();
        // SAFETY: the helper writes that many bytes, for which there is room, or fails.
        let failed = unsafe {
            bpf_skb_load_bytes_relative(ctx.as_ptr(), offset, words, ETHERNET_LEN, BPF_HDR_START_NET)
        };
        (failed == 0).then_some(head)
    }

    /// The byte at `at`.
    #[inline(always)]
    pub(crate) fn byte(&self, at: usize) -> u8 {
        (self.0[at / 4] >> (at % 4 * 8)) as u8
    }

    /// The number at `at`, which is even.
    #[inline(always)]
    pub(crate) fn be16(&self, at: usize) -> u16 {
        u16::from_be((self.0[at / 4] >> (at % 4 * 8)) as u16)
    }
}

/// Two numbers of a header, the first in front.
#[inline(always)]
pub(crate) fn two_be16(first: u16, second: u16) -> u32 {
    u32::from(first.to_be()) | u32::from(second.to_be()) << 16
}

// What comes first in memory is the lower part of a word.
const _: () = assert!(cfg!(target_endian = "little"));

/// `N` bytes from `offset`, counted from the network header; `None` when the packet has fewer.
#[inline(always)]
pub(crate) fn load<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u8; N]> {
    load_from(ctx, offset, BPF_HDR_START_NET)
}

/// The same, counted from the link header.
#[inline(always)]
pub(crate) fn load_link<const N: usize>(ctx: &TcContext) -> Option<[u8; N]> {
    load_from(ctx, 0, BPF_HDR_START_MAC)
}

#[inline(always)]
fn load_from<const N: usize>(ctx: &TcContext, offset: u32, start: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper writes exactly N bytes to the buffer, or fails.
    let failed = unsafe {
        bpf_skb_load_bytes_relative(ctx.as_ptr(), offset, bytes.as_mut_ptr().cast(), N as u32, start)
    };
    if failed != 0 {
        return None;
    }
    // SAFETY: all N bytes were written, see above.
    Some(unsafe { bytes.assume_init() })
}

/// Writes `bytes` at `offset`, counted from the first byte. `flags`: `BPF_F_RECOMPUTE_CSUM` behind the link
/// header, which what the device summed does not cover.
#[inline(always)]
pub(crate) fn store(ctx: &TcContext, offset: u32, bytes: &[u8], flags: u64) -> bool {
    // SAFETY: the helper reads `bytes.len()` bytes.
    let failed = unsafe {
        bpf_skb_store_bytes(ctx.as_ptr().cast(), offset, bytes.as_ptr().cast(), bytes.len() as u32, flags)
    };
    failed == 0
}

/// Writes the link header.
#[inline(always)]
pub(crate) fn store_link(ctx: &TcContext, link: &Head<4>) -> bool {
    // SAFETY: the helper reads that many bytes.
    unsafe { bpf_skb_store_bytes(ctx.as_ptr().cast(), 0, link.0.as_ptr().cast(), ETHERNET_LEN, 0) == 0 }
}

/// The EtherType of the network packet, as the device read it.
#[inline(always)]
pub(crate) fn ethertype(ctx: &TcContext) -> u16 {
    // SAFETY: the context outlives the program's run.
    u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16)
}

#[inline(always)]
pub(crate) fn vlan_tagged(ctx: &TcContext) -> bool {
    // SAFETY: as in `ethertype`.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

#[inline(always)]
pub(crate) fn to_this_host(ctx: &TcContext) -> bool {
    // SAFETY: as in `ethertype`.
    unsafe { (*ctx.skb.skb).pkt_type == PACKET_HOST }
}

/// Bytes from the link header on.
#[inline(always)]
pub(crate) fn length(ctx: &TcContext) -> u32 {
    // SAFETY: as in `ethertype`.
    unsafe { (*ctx.skb.skb).len }
}

/// Bytes of payload in each segment of a super-packet, 0 where it is none.
#[inline(always)]
pub(crate) fn gso_size(ctx: &TcContext) -> u32 {
    // SAFETY: as in `ethertype`.
    unsafe { (*ctx.skb.skb).gso_size }
}

/// Index of the device it is on.
#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as in `ethertype`.
    unsafe { (*ctx.skb.skb).ifindex }
}

#[inline(always)]
pub(crate) fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: as in `ethertype`.
    unsafe { (*ctx.skb.skb).mark }
}

#[inline(always)]
pub(crate) fn set_mark(ctx: &TcContext, mark: u32) {
    // SAFETY: as in `ethertype`; the mark may be written.
    unsafe { (*ctx.skb.skb).mark = mark };
}

#[inline(always)]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// An IPv4 address in the form of the maps.
#[inline(always)]
pub(crate) fn mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The same in words, of an address as it lies in the packet.
#[inline(always)]
pub(crate) fn mapped_words(address: u32) -> [u32; 4] {
    [0, 0, two_be16(0, 0xffff), address]
}

/// Nanoseconds of CLOCK_MONOTONIC as of the last tick, or of the one before.
///
/// A call of the kernel costs, and that for the clock makes three more; the tick costs none, the verifier puts a read
/// in its place. So the clock is asked once a tick, by one CPU for all.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: it only reads the tick.
    let tick = unsafe { bpf_jiffies64() };
    // SAFETY: one word each, which CPUs may read and write at once. The time is written first: who finds the new tick
    // with the time before it has the time of one tick earlier.
    unsafe {
        if (&raw const GREWAY_TICK).read_volatile() == tick {
            return (&raw const GREWAY_TICK_NS).read_volatile();
        }
        let now = bpf_ktime_get_coarse_ns();
        (&raw mut GREWAY_TICK_NS).write_volatile(now);
        (&raw mut GREWAY_TICK).write_volatile(tick);
        now
    }
}

#[unsafe(link_section = ".data")]
#[unsafe(no_mangle)]
static mut GREWAY_TICK: u64 = 0;
#[unsafe(link_section = ".data")]
#[unsafe(no_mangle)]
static mut GREWAY_TICK_NS: u64 = 0;

/// A sum of 16-bit words in one word (RFC 1071).
#[inline(always)]
pub(crate) fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
