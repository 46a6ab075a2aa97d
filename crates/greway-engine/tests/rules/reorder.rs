//! Packets put in order by their numbers: RFC 2890 §2.2, and peers that begin again.

use greway_engine::reorder::{
    LARGEST_LOSS, MAX_BYTES, MAX_PACKETS, MAX_WAIT_MS, Order, Payload, RESTART_PACKETS,
};
use greway_engine::{
    DropReason, Offload, Partial, Receipt, Reorder, SequenceCounters, TunnelCounters, TunnelIndex, Verdict,
    release,
};
use greway_spec::{SeqMode, TunnelSpec};
use greway_wire::gre::GreHeader;
use proptest::prelude::*;

use crate::support::{Host, LOCAL, PLAIN, REMOTE, datagram, gre, ipv4, spec};

/// A tunnel whose payload packets are their numbers.
#[derive(Default)]
struct Line {
    order: Reorder,
    counters: TunnelCounters,
    out: Vec<u32>,
    now_ms: u64,
}

impl Line {
    fn following(expected: u32) -> Self {
        Self { order: Reorder::following(expected), ..Self::default() }
    }

    fn arrive(&mut self, number: u32) -> Result<Order, DropReason> {
        let bytes = &number.to_be_bytes()[..];
        let payload = Payload { protocol_type: 0x0800, offload: Offload::NONE, bytes };
        let order = self.order.arrive(number, Some(payload), self.now_ms, self.counters.sequence());
        if order == Ok(Order::Next) {
            self.out.push(number);
        }
        self.drain();
        order
    }

    fn all(&mut self, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            let _ = self.arrive(number);
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        self.order.expire(self.now_ms, self.counters.sequence());
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(released) = self.order.pop() {
            self.out.push(u32::from_be_bytes(released.bytes[..].try_into().unwrap()));
        }
    }

    /// Lost, reordered, restarts.
    fn counted(&self) -> [u64; 3] {
        let now = self.counters.snapshot();
        [now.lost, now.reordered, now.restarts]
    }
}

#[test]
fn rfc2890_an_early_packet_waits_for_those_before_it() {
    let mut line = Line::following(10);
    line.all([10, 13, 12]);
    assert_eq!(line.out, [10]);
    assert_eq!((line.order.waiting(), line.order.waiting_bytes()), (2, 8));
    line.all([11, 14]);
    assert_eq!(line.out, [10, 11, 12, 13, 14]);
    assert_eq!((line.order.waiting(), line.order.waiting_bytes()), (0, 0));
    assert_eq!((line.order.deadline_ms(), line.counted()), (None, [0, 2, 0]));
}

#[test]
fn rfc2890_the_timer_ends_a_wait_and_goes_on_in_sorted_order() {
    let mut line = Line::following(10);
    line.all([10, 12]);
    line.now_ms = 15;
    line.all([15, 16]);
    assert_eq!(line.order.deadline_ms(), Some(MAX_WAIT_MS));
    line.wait(4);
    assert_eq!(line.out, [10], "19 ms are not long enough");
    line.wait(1);
    assert_eq!(line.out, [10, 12]);
    assert_eq!((line.order.deadline_ms(), line.counted()[0]), (Some(15 + MAX_WAIT_MS), 1));
    line.all([13]);
    line.wait(15);
    assert_eq!(line.out, [10, 12, 13, 15, 16]);
    assert_eq!(line.counted(), [2, 1, 0]);
    assert_eq!(line.arrive(11), Err(DropReason::SequenceLate));
    assert_eq!(line.arrive(11), Err(DropReason::SequenceDuplicate), "by now it came once");
}

#[test]
fn rfc2890_a_waiting_packet_that_is_overdue_takes_those_before_it_along() {
    let mut line = Line::following(10);
    line.all([15]);
    line.now_ms = 19;
    line.all([13]);
    line.wait(1);
    assert_eq!(line.out, [13, 15]);
    assert_eq!((line.order.waiting(), line.counted()), (0, [4, 1, 0]));
}

#[test]
fn rfc2890_a_full_buffer_lets_its_head_go() {
    let mut line = Line::following(10);
    line.all(11..75);
    assert_eq!((line.out.len(), line.order.waiting()), (0, MAX_PACKETS));
    line.all([76]);
    assert_eq!(line.out, (11..75).collect::<Vec<_>>(), "and what follows it");
    assert_eq!((line.order.waiting(), line.order.expected(), line.counted()[0]), (1, Some(75), 1));
    // Of packets with gaps between them it is the head alone.
    let mut line = Line::following(10);
    line.all((0..65).map(|step| 12 + 2 * step));
    assert_eq!((line.out.clone(), line.order.waiting(), line.counted()[0]), (vec![12], MAX_PACKETS, 2));
}

#[test]
fn rfc2890_bytes_are_bounded_too() {
    let mut order = Reorder::following(10);
    let counters = SequenceCounters::default();
    let bytes = &[0; 60_000][..];
    for number in 11..20 {
        let payload = Payload { protocol_type: 0x0800, offload: Offload::NONE, bytes };
        assert_eq!(order.arrive(number + number % 2, Some(payload), 0, &counters).is_ok(), number % 2 == 1);
        while order.pop().is_some() {}
        assert!(order.waiting_bytes() <= MAX_BYTES);
    }
    assert_eq!((order.waiting(), order.expected()), (4, Some(13)));
}

#[test]
fn rfc2890_what_came_before_is_a_duplicate_what_did_not_is_late() {
    let mut line = Line::following(100);
    line.all([100, 101, 103]);
    assert_eq!(line.arrive(101), Err(DropReason::SequenceDuplicate));
    assert_eq!(line.arrive(103), Err(DropReason::SequenceDuplicate), "it waits");
    line.wait(MAX_WAIT_MS);
    line.all(104..230);
    assert_eq!(line.arrive(102), Err(DropReason::SequenceLate));
    assert_eq!(line.arrive(103), Err(DropReason::SequenceDuplicate));
    line.all(230..232);
    assert_eq!(line.arrive(103), Err(DropReason::SequenceLate), "too long ago to be remembered");
    assert_eq!(line.out.len(), 131);
}

#[test]
fn rfc2890_the_counter_wraps() {
    let mut line = Line::following(u32::MAX - 2);
    line.all([u32::MAX - 2, 1, u32::MAX, 0]);
    assert_eq!(line.out, [u32::MAX - 2]);
    line.all([u32::MAX - 1, 3, 2]);
    assert_eq!(line.out, [u32::MAX - 2, u32::MAX - 1, u32::MAX, 0, 1, 2, 3]);
    assert_eq!(line.arrive(u32::MAX), Err(DropReason::SequenceDuplicate));
    assert_eq!(line.counted(), [0, 4, 0]);
}

#[test]
fn rfc2890_half_the_circle_is_ahead_the_other_half_behind() {
    let mut line = Line::following(1001);
    assert_eq!(line.arrive(1001 + 0x8000_0000), Err(DropReason::SequenceLate));
    assert_eq!(line.arrive(1001 + 0x7fff_ffff), Ok(Order::Held));
}

#[test]
fn rfc2890_it_begins_at_0_and_joins_a_peer_that_sends_already() {
    let mut line = Line::default();
    line.all([1, 2, 0]);
    assert_eq!((line.out.clone(), line.counted()[0]), (vec![0, 1, 2], 0));
    let mut line = Line::default();
    line.all([7_000_000, 7_000_001]);
    assert_eq!((line.out.clone(), line.counted()), (vec![7_000_000, 7_000_001], [0; 3]));
    // What was sent before this end was there is not lost.
    let mut line = Line::default();
    line.all([3]);
    line.wait(MAX_WAIT_MS);
    line.all([5]);
    line.wait(MAX_WAIT_MS);
    assert_eq!((line.out.clone(), line.counted()), (vec![3, 5], [1, 0, 0]));
}

#[test]
fn a_peer_that_begins_again_is_followed_after_a_few_packets() {
    let mut line = Line::following(5_000_000);
    line.all([5_000_000, 5_000_001]);
    line.all(0..20);
    assert_eq!(line.out[..2], [5_000_000, 5_000_001]);
    assert_eq!(line.out[2..], (3..20).collect::<Vec<_>>());
    assert_eq!(line.counted(), [0, 0, 1]);
    // Out of order from the first packet on, and with a packet waiting from before.
    let mut line = Line::following(5_000_000);
    line.all([5_000_000, 5_000_002]);
    line.all([1, 0, 3, 2, 5, 4, 6, 7, 9, 8, 10]);
    assert_eq!(line.out, [5_000_000, 5_000_002, 6, 7, 8, 9, 10]);
    assert_eq!(line.counted(), [1, 1, 1]);
}

#[test]
fn a_peer_that_begins_again_soon_after_its_beginning_is_followed() {
    let mut line = Line::default();
    line.all(0..30);
    // Repeated by the network: at once, and no new beginning however many they are.
    line.all(10..20);
    assert_eq!((line.out.len(), line.counted()), (30, [0; 3]));
    line.wait(MAX_WAIT_MS);
    line.all(0..30);
    assert_eq!(line.out[30..], (3..30).collect::<Vec<_>>());
    assert_eq!(line.counted(), [0, 0, 1]);
}

#[test]
fn stray_late_packets_are_no_new_beginning() {
    let mut line = Line::following(5_000_000);
    for (step, number) in (0..40).zip(5_000_000..) {
        assert_eq!(line.arrive(number), Ok(Order::Next));
        assert_eq!(line.arrive(step), Err(DropReason::SequenceLate));
    }
    // One that is repeated over and over, and some that have nothing to do with each other.
    for number in [7, 7, 7, 7, 7, 500, 90_000, 12, 4_000, 6] {
        assert!(line.arrive(number).is_err());
    }
    assert_eq!((line.out.len(), line.counted()), (40, [0; 3]));
}

#[test]
fn a_step_far_ahead_is_a_new_beginning_and_a_stray_one_costs_little() {
    let mut line = Line::following(100);
    line.all([100, 65_636, 65_637]);
    line.wait(MAX_WAIT_MS);
    assert_eq!((line.out.clone(), line.counted()), (vec![100, 65_636, 65_637], [0, 0, 1]));
    // That was a stray, and the peer goes on where it was.
    line.all(101..110);
    assert_eq!(line.out[3..], (104..110).collect::<Vec<_>>());
    // As far as can be a loss it is one.
    line.all([110 + LARGEST_LOSS]);
    line.wait(MAX_WAIT_MS);
    assert_eq!(line.counted(), [u64::from(LARGEST_LOSS), 0, 2]);
}

#[test]
fn a_packet_that_is_dropped_for_what_is_in_it_is_not_waited_for() {
    let mut line = Line::following(10);
    line.all([12, 13]);
    let dropped = |line: &mut Line, number| {
        let order = line.order.arrive(number, None, line.now_ms, line.counters.sequence());
        line.drain();
        order
    };
    assert_eq!(dropped(&mut line, 11), Ok(Order::Held));
    assert_eq!(dropped(&mut line, 10), Ok(Order::Next));
    assert_eq!((line.out.clone(), line.order.waiting(), line.counters.snapshot().lost), (vec![12, 13], 0, 0));
}

#[test]
fn nothing_overtakes_what_is_ready_and_not_taken_yet() {
    let counters = SequenceCounters::default();
    let mut order = Reorder::following(10);
    let bytes = [10_u8, 11, 12, 13, 14];
    let arrive = |order: &mut Reorder, number: u32| {
        let bytes = &bytes[number as usize - 10..][..1];
        let payload = Payload { protocol_type: 0x0800, offload: Offload::NONE, bytes };
        order.arrive(number, Some(payload), 0, &counters)
    };
    assert_eq!(arrive(&mut order, 11), Ok(Order::Held));
    assert_eq!(arrive(&mut order, 10), Ok(Order::Next));
    // 11 is ready now; who does not take it gets all that comes in its turn.
    assert_eq!(arrive(&mut order, 13), Ok(Order::Held));
    assert_eq!(arrive(&mut order, 12), Ok(Order::Held));
    assert_eq!(arrive(&mut order, 14), Ok(Order::Held));
    let out = std::iter::from_fn(|| order.pop()).map(|released| released.bytes[0]).collect::<Vec<_>>();
    assert_eq!(out, [11, 12, 13, 14]);
}

#[test]
fn giving_up_empties_it() {
    let mut line = Line::following(10);
    line.all([12, 14]);
    line.order.give_up(line.counters.sequence());
    line.drain();
    assert_eq!((line.out.clone(), line.order.waiting()), (vec![12, 14], 0));
    assert_eq!((line.order.expected(), line.counted()), (Some(15), [3, 0, 0]));
}

fn in_order() -> Host {
    Host::new(&[TunnelSpec { iseq: true, seq_mode: SeqMode::Rfc2890, ..spec(LOCAL, REMOTE) }])
}

/// A datagram with such a number whose payload packet is `inner`.
fn numbered(number: Option<u32>, tos: u8, inner: &[u8]) -> Vec<u8> {
    let header = GreHeader { protocol_type: 0x0800, checksum: None, key: None, sequence_number: number };
    datagram(tos, REMOTE, LOCAL, 47, &gre(header, inner))
}

fn receive(host: &mut Host, number: Option<u32>, tos: u8, inner: &[u8]) -> Verdict {
    host.receive(&mut numbered(number, tos, inner), PLAIN)
}

/// What the tunnel has ready.
fn released(host: &mut Host) -> Vec<Vec<u8>> {
    let (tunnel, state) = &mut host.tunnels[0];
    std::iter::from_fn(|| release(tunnel, state, 1)).map(|released| released.bytes.into_vec()).collect()
}

const HELD: Verdict = Verdict::Hold { tunnel: TunnelIndex(0) };

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop { tunnel: Some(TunnelIndex(0)), reason }
}

#[test]
fn rfc2890_datagrams_are_held_released_and_counted_once() {
    let mut host = in_order();
    let packets = [1, 2, 3].map(|mark| ipv4(17, &[mark; 40]));
    assert_eq!(receive(&mut host, Some(2), 0, &packets[2]), HELD);
    assert_eq!(receive(&mut host, Some(1), 0, &packets[1]), HELD);
    assert_eq!((released(&mut host).len(), host.counted()), (0, 0), "counted when delivered");
    assert!(matches!(receive(&mut host, Some(0), 0, &packets[0]), Verdict::Deliver(_)));
    assert_eq!(released(&mut host), packets[1..]);
    assert_eq!(receive(&mut host, Some(1), 0, &packets[1]), dropped(DropReason::SequenceDuplicate));
    let now = host.tunnels[0].0.counters().snapshot();
    assert_eq!((now.rx_packets, now.rx_bytes, now.reordered, now.lost), (3, 180, 1 + 1, 0));
    assert_eq!(now.drops, [(DropReason::SequenceDuplicate, 1)]);
}

#[test]
fn rfc2890_a_packet_without_a_number_is_in_sequence() {
    let mut host = in_order();
    let packet = ipv4(17, &[1; 40]);
    assert_eq!(receive(&mut host, Some(5), 0, &packet), HELD);
    assert!(matches!(receive(&mut host, None, 0, &packet), Verdict::Deliver(_)));
    assert!(matches!(receive(&mut host, Some(0), 0, &packet), Verdict::Deliver(_)));
    let mut linux = Host::new(&[TunnelSpec { iseq: true, ..spec(LOCAL, REMOTE) }]);
    assert_eq!(receive(&mut linux, None, 0, &packet), dropped(DropReason::SequenceMissing));
}

#[test]
fn rx22_before_rx23_and_rx24_and_a_damaged_packet_is_not_waited_for() {
    let mut host = in_order();
    let packet = ipv4(17, &[1; 40]);
    assert_eq!(receive(&mut host, Some(2), 0, &packet), HELD);
    // Too short inside, and CE on a payload that is not ECN-capable; in front of what waits and behind it.
    assert_eq!(receive(&mut host, Some(1), 0, &packet[..19]), dropped(DropReason::InnerTruncated));
    assert_eq!(receive(&mut host, Some(0), 3, &packet), dropped(DropReason::EcnCorrupted));
    assert_eq!(released(&mut host), std::slice::from_ref(&packet));
    assert_eq!(receive(&mut host, Some(0), 3, &packet), dropped(DropReason::SequenceDuplicate));
    assert_eq!(host.tunnels[0].0.counters().snapshot().lost, 0);
}

#[test]
fn rx24_what_is_held_has_its_congestion_mark_and_its_offload() {
    let mut host = in_order();
    let mut packet = ipv4(17, &[1; 40]);
    packet[1] = 2;
    // Outer header of 20 bytes, GRE header of 8, IPv4 header of 20.
    let partial = |start| Offload { partial: Some(Partial { start, offset: 6 }), gso: None };
    let receipt = Receipt::Facts { offload: partial(48), ifindex: 2 };
    assert_eq!(host.receive(&mut numbered(Some(1), 3, &packet), receipt), HELD);
    let (tunnel, state) = &mut host.tunnels[0];
    state.reorder.give_up(tunnel.counters().sequence());
    let held = release(tunnel, state, 7).unwrap();
    assert_eq!((held.bytes[1], held.offload, held.protocol_type), (3, partial(20), 0x0800));
    assert_eq!(tunnel.counters().snapshot().last_rx_ms, 7);
}

#[test]
fn a_change_of_the_mode_keeps_the_place() {
    let tunnel = |iseq, seq_mode| {
        let spec = TunnelSpec { iseq, seq_mode, ..spec(LOCAL, REMOTE) };
        greway_engine::Tunnel::new(&spec, std::sync::Arc::default())
    };
    let [off, linux, rfc] = [(false, SeqMode::Rfc2890), (true, SeqMode::Linux), (true, SeqMode::Rfc2890)]
        .map(|(a, b)| tunnel(a, b));
    let mut state = greway_engine::TunnelState { expected_sequence: 500, ..Default::default() };
    state.change(&linux, &rfc);
    assert_eq!(state.reorder.expected(), Some(500));
    state.change(&rfc, &rfc);
    assert_eq!(state.reorder.expected(), Some(500), "another parameter changed");
    let counters = SequenceCounters::default();
    assert_eq!(state.reorder.arrive(500, None, 0, &counters), Ok(Order::Next));
    state.change(&rfc, &linux);
    assert_eq!((state.expected_sequence, state.reorder.expected()), (501, None));
    state.change(&linux, &rfc);
    state.change(&rfc, &off);
    assert_eq!((state.expected_sequence, state.reorder.expected()), (0, None));
    state.change(&off, &rfc);
    assert_eq!(state.reorder.expected(), None);
}

/// Each number with the number of later ones that overtake it, at most `reach`.
fn shuffled(length: usize, reach: usize) -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0..=reach, length).prop_map(|delays| {
        let mut order =
            (0..).zip(delays).map(|(number, delay)| (number as usize + delay, number)).collect::<Vec<_>>();
        order.sort_unstable();
        order.into_iter().map(|(_, number)| number).collect()
    })
}

/// Beginnings on both sides of the wrap.
fn beginning() -> impl Strategy<Value = u32> {
    prop_oneof![1..=u32::MAX, u32::MAX - 300..=u32::MAX]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_order_they_come_in_they_go_out_in_theirs_and_once(
        start in beginning(),
        order in (1..300_usize).prop_flat_map(|length| shuffled(length, MAX_PACKETS)),
        copies in proptest::collection::vec(any::<bool>(), 300),
    ) {
        let mut line = Line::following(start);
        let mut repeated = 0;
        for number in &order {
            prop_assert!(line.arrive(start.wrapping_add(*number)).is_ok());
            if copies[*number as usize] {
                repeated += 1;
                let copy = line.arrive(start.wrapping_add(*number));
                prop_assert_eq!(copy, Err(DropReason::SequenceDuplicate));
            }
            prop_assert!(line.order.waiting() <= MAX_PACKETS);
        }
        let sent = (0..order.len() as u32).map(|number| start.wrapping_add(number)).collect::<Vec<_>>();
        prop_assert_eq!(&line.out, &sent);
        let late = order.iter().enumerate().filter(|(at, number)| order[..*at].iter().any(|before| before > number));
        prop_assert_eq!(line.counted(), [0, late.count() as u64, 0]);
        prop_assert!(repeated <= sent.len());
    }

    #[test]
    fn what_is_lost_delays_the_others_by_no_more_than_the_timer_and_is_counted(
        start in beginning(),
        // With pauses no more than what cannot look like a new beginning.
        (pause, order) in (0..30_u64, 2..200_usize).prop_flat_map(|(pause, length)| {
            (Just(pause), shuffled(length, if pause < 4 { 8 } else { usize::from(RESTART_PACKETS) - 1 }))
        }),
        lost in proptest::collection::vec(prop::bool::weighted(0.1), 200),
    ) {
        let mut line = Line::following(start);
        let mut arrived = std::collections::HashMap::new();
        let mut seen = 0;
        let survivors = order.iter().filter(|number| !lost[**number as usize]).collect::<Vec<_>>();
        for number in &survivors {
            let number = start.wrapping_add(**number);
            line.wait(pause / 4);
            arrived.insert(number, line.now_ms);
            // With pauses a packet can come when it was given up.
            let _ = line.arrive(number);
            line.wait(0);
            for out in &line.out[seen..] {
                prop_assert!(line.now_ms - arrived[out] <= MAX_WAIT_MS + pause / 4);
            }
            seen = line.out.len();
        }
        line.wait(MAX_WAIT_MS);
        prop_assert_eq!((line.order.waiting(), line.order.deadline_ms()), (0, None));
        let steps = line.out.iter().map(|number| number.wrapping_sub(start)).collect::<Vec<_>>();
        prop_assert!(steps.is_sorted_by(|a, b| a < b), "{:?}", steps);
        // What did not go out up to the last one is what was counted.
        let [counted, _, restarts] = line.counted();
        prop_assert_eq!(restarts, 0);
        prop_assert_eq!(counted, steps.last().map_or(0, |last| u64::from(*last) + 1 - steps.len() as u64));
        if pause < 4 {
            prop_assert_eq!(steps.len(), survivors.len(), "without pauses only the lost ones are missing");
        }
    }

    #[test]
    fn a_new_beginning_costs_a_few_packets_and_no_more(
        before in beginning(),
        sent in 1..100_u32,
        back in 200..0x7fff_ff00_u32,
        reach in 0..4_usize,
        order in shuffled(60, 3),
    ) {
        let mut line = Line::following(before);
        line.all((0..sent).map(|step| before.wrapping_add(step)));
        let again = before.wrapping_sub(back);
        let order = if reach == 0 { (0..60).collect() } else { order };
        line.all(order.iter().map(|step| again.wrapping_add(*step)));
        line.wait(MAX_WAIT_MS);
        let after = line.out[sent as usize..].iter().map(|number| number.wrapping_sub(again)).collect::<Vec<_>>();
        prop_assert!(after.is_sorted_by(|a, b| a < b), "{:?}", after);
        prop_assert_eq!(*after.last().unwrap(), 59);
        // Those that overtook it are missing too.
        let most = u32::from(RESTART_PACKETS) - 1 + 6;
        prop_assert!(after.len() as u32 >= 60 - most, "{:?}", after);
        if reach == 0 {
            prop_assert_eq!(after.len() as u32, 61 - u32::from(RESTART_PACKETS));
        }
        prop_assert_eq!(line.counted()[2], 1);
    }

    #[test]
    fn noise_never_holds_more_than_the_bounds_and_nothing_is_lost_inside(
        start in any::<u32>(),
        packets in proptest::collection::vec(
            (prop_oneof![0..200_u32, any::<u32>()], 0..20_000_usize, 0..8_u64), 0..400,
        ),
    ) {
        let mut order = Reorder::following(start);
        let counters = SequenceCounters::default();
        let (mut now_ms, mut accepted, mut released) = (0, 0, 0);
        for (step, length, pause) in packets {
            now_ms += pause;
            order.expire(now_ms, &counters);
            let bytes = &vec![0; length][..];
            let payload = Payload { protocol_type: 0x0800, offload: Offload::NONE, bytes };
            match order.arrive(start.wrapping_add(step), Some(payload), now_ms, &counters) {
                Ok(Order::Next) => (accepted, released) = (accepted + 1, released + 1),
                Ok(Order::Held) => accepted += 1,
                Err(DropReason::SequenceLate | DropReason::SequenceDuplicate) => {}
                Err(other) => panic!("{other}"),
            }
            released += std::iter::from_fn(|| order.pop()).count();
            prop_assert!(order.waiting() <= MAX_PACKETS && order.waiting_bytes() <= MAX_BYTES);
            prop_assert_eq!(order.deadline_ms().is_some(), order.waiting() > 0);
            prop_assert!(order.deadline_ms().is_none_or(|deadline| deadline > now_ms));
            prop_assert_eq!(accepted, released + order.waiting());
        }
        order.give_up(&counters);
        released += std::iter::from_fn(|| order.pop()).count();
        prop_assert_eq!((accepted, order.waiting(), order.waiting_bytes()), (released, 0, 0));
    }
}
