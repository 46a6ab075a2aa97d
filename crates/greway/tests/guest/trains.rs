//! Trains of datagrams on a kernel whose virtio-net header has no word for them (before Linux 6.2): nothing is lost for
//! that, neither of what arrives together nor of what a program sends together.

use greway_linux::sockopt::set_receive_buffer;
use greway_testbed::{PingOptions, require};

use crate::bursts::{all_arrive, burst, send_train};
use crate::lab::inside;
use crate::pair::{Pair, inner, udp};

#[test]
#[ignore = "a step in the guest"]
fn datagrams_go_in_one_by_one() {
    require!(inside());
    for words in ["datapath userspace underlay packet", "datapath userspace underlay raw"] {
        let pair = Pair::new(words);
        pair.answers(&PingOptions::default());
        let (sender, receiver) = (udp(&pair.left, inner(0)), udp(&pair.right, inner(1)));
        set_receive_buffer(&receiver, 4 << 20).unwrap();
        let received = || pair.status(1)["counters"]["received_packets"].as_u64().unwrap();
        let before = received();
        let sizes = [64; 100];
        let daemon = pair.daemons[1].as_ref().unwrap();
        for _ in 0..2 {
            burst(&sender, receiver.local_addr().unwrap(), &sizes, daemon, (&pair.right, "wan0"));
            all_arrive(&receiver, &sizes, words);
        }
        assert_eq!(received() - before, 200, "{words}");
        pair.none_dropped(words);
    }
}

#[test]
#[ignore = "a step in the guest"]
fn a_program_may_send_trains() {
    require!(inside());
    let pair = Pair::new("datapath userspace");
    pair.answers(&PingOptions::default());
    let (sender, receiver) = (udp(&pair.left, inner(0)), udp(&pair.right, inner(1)));
    set_receive_buffer(&receiver, 4 << 20).unwrap();
    for (size, count) in [(64, 50), (1_000, 40)] {
        send_train(&sender, receiver.local_addr().unwrap(), size, count);
        all_arrive(&receiver, &vec![size; count], "a train");
    }
    pair.none_dropped("trains");
}
