//! Each packet is counted once at its point, and once for its tunnel where that is known.

use greway_ebpf_abi::{Point, Slot, Traffic};

use crate::{COUNTERS, End, SLOTS, Stop, TUNNELS};

/// What a look at a packet found.
pub(crate) struct Seen {
    point: Point,
    /// Its IP protocol is 47.
    pub(crate) gre: bool,
    /// The peer end of its tunnel; 0: not known.
    pub(crate) tunnel: u32,
    /// Bytes of the payload packet.
    pub(crate) bytes: u32,
    /// When, of a packet that is carried.
    pub(crate) now: u64,
}

impl Seen {
    #[inline(always)]
    pub(crate) fn at(point: Point) -> Self {
        Self { point, gre: false, tunnel: 0, bytes: 0, now: 0 }
    }
}

#[inline(always)]
pub(crate) fn count(seen: &Seen, end: &End) {
    if let Some(counters) = COUNTERS.get_ptr_mut(seen.point.index()) {
        // SAFETY: the pointer is to this CPU's element, which the map keeps alive while the program runs, and
        // tc ingress runs in softirq context, which is not re-entered on the same CPU.
        let counters = unsafe { &mut *counters };
        counters.seen += 1;
        counters.gre += u64::from(seen.gre);
        match end {
            Ok(_) => counters.carried += 1,
            Err(Stop::Drop(_)) => counters.dropped += 1,
            Err(Stop::Decline(reason)) => {
                if let Some(declined) = counters.declined.get_mut(*reason as usize) {
                    *declined += 1;
                }
            }
        }
    }
    if seen.tunnel == 0 {
        return;
    }
    // Most packets are of a tunnel with a slot: another hash map would be a twentieth of what the program costs.
    if end.is_ok()
        && let Some(slot) = SLOTS.get_ptr_mut(Slot::of(seen.tunnel))
    {
        // SAFETY: as above.
        let slot = unsafe { &mut *slot };
        if slot.peer == seen.tunnel {
            carried(seen, &mut slot.traffic);
            return;
        }
    }
    let Some(counters) = TUNNELS.get_ptr_mut(&seen.tunnel) else {
        return;
    };
    // SAFETY: as above.
    let counters = unsafe { &mut *counters };
    match end {
        // SAFETY: it begins with the same fields, see `greway-ebpf-abi`.
        Ok(_) => carried(seen, unsafe { &mut *(&raw mut *counters).cast() }),
        Err(Stop::Drop(reason)) => {
            if let Some(dropped) = counters.dropped.get_mut(*reason as usize) {
                *dropped += 1;
            }
        }
        Err(Stop::Decline(reason)) => {
            if let Some(declined) = counters.declined.get_mut(*reason as usize) {
                *declined += 1;
            }
        }
    }
}

#[inline(always)]
fn carried(seen: &Seen, traffic: &mut Traffic) {
    match seen.point {
        Point::Overlay | Point::Direct => {
            traffic.tx_packets += 1;
            traffic.tx_bytes += u64::from(seen.bytes);
            traffic.last_tx_ns = seen.now;
        }
        Point::Underlay => {
            traffic.rx_packets += 1;
            traffic.rx_bytes += u64::from(seen.bytes);
            traffic.last_rx_ns = seen.now;
        }
        // A witness is no packet of the tunnel's.
        Point::Witness => {}
    }
}
