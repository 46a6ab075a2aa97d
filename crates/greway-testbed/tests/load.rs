//! The load generators count what arrives: over a cable that carries, and over one that is cut.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

use std::time::Duration;

use greway_testbed::load::{Sending, Way, Window, loaded, paced, round_trips, tcp, udp};
use greway_testbed::{Host, LinkOptions, link, privilege, require};

const SHORT: Window = Window { warm_up: Duration::from_millis(20), length: Duration::from_millis(60) };

fn hosts() -> [Host; 2] {
    let hosts = [Host::new("left").unwrap(), Host::new("right").unwrap()];
    link(&hosts[0], "eth0", &hosts[1], "eth0", &LinkOptions::default()).unwrap();
    for (host, address) in hosts.iter().zip(["10.0.0.1/24", "10.0.0.2/24"]) {
        host.address("eth0", address).unwrap();
    }
    hosts
}

fn way([from, to]: &[Host; 2]) -> Way<'_> {
    Way { from: from.namespace(), to: to.namespace(), address: "10.0.0.2".parse().unwrap() }
}

#[test]
fn what_arrives_in_the_window_is_counted() {
    require!(privilege::check());
    let hosts = hosts();
    for streams in [1, 3] {
        let stream = tcp(&way(&hosts), streams, SHORT, &[std::process::id()]).unwrap();
        let received = stream.received;
        assert!(received.count > 1_000_000 && received.elapsed >= SHORT.length, "{streams}: {stream:?}");
        assert!(stream.spent.machine > Duration::ZERO, "{streams}: {stream:?}");
    }
    for sending in [Sending::Batches, Sending::Singly] {
        let rate = udp(&way(&hosts), 64, sending, SHORT).unwrap();
        assert!(rate.received.elapsed >= SHORT.length, "{rate:?}");
        assert!((100..=rate.sent.count).contains(&rate.received.count), "{rate:?}");
    }
}

#[test]
fn every_round_trip_is_timed_and_no_path_is_told() {
    require!(privilege::check());
    let hosts = hosts();
    let trips = round_trips(&way(&hosts), 300).unwrap();
    assert_eq!((trips.nanos.len(), trips.lost), (300, 0));
    assert!(trips.nanos.is_sorted() && trips.median().unwrap() > 0);

    hosts[1].set_down("eth0").unwrap();
    let trips = round_trips(&way(&hosts), 300).unwrap();
    assert_eq!((trips.nanos.len(), trips.lost), (0, 5), "it gives up");
    let error = tcp(&way(&hosts), 1, SHORT, &[]).unwrap_err();
    assert!(error.to_string().starts_with("a TCP connection at 10.0.0.2 did not happen"), "{error}");
}

#[test]
fn round_trips_are_timed_beside_a_stream() {
    require!(privilege::check());
    let hosts = hosts();
    hosts[1].address("eth0", "10.0.0.3/24").unwrap();
    let window = Window { length: Duration::from_millis(200), ..SHORT };
    let (trips, stream) = loaded(&way(&hosts), "10.0.0.3".parse().unwrap(), window).unwrap();
    assert!(trips.nanos.len() > 5 && trips.lost == 0, "{trips:?}");
    assert!(stream.received.count > 1_000_000, "{stream:?}");
}

#[test]
fn a_paced_stream_misses_what_a_cut_cable_loses() {
    require!(privilege::check());
    let hosts = hosts();
    let stream =
        |then: &(dyn Fn() + Sync)| paced(&way(&hosts), 20_000, Duration::from_millis(300), then).unwrap();
    let seen = stream(&|| {});
    assert_eq!((seen.lost(), seen.duplicates, seen.late), (0, 0, 0), "{seen:?}");
    assert!((1..=6000).contains(&seen.sent), "{seen:?}");

    // What is sent to a device that is up, with a far end that is down, is lost on the cable.
    let seen = stream(&|| hosts[1].set_down("eth0").unwrap());
    assert!(seen.received > 0 && seen.lost() > 0, "{seen:?}");
    assert_eq!(seen.received + seen.lost(), seen.sent, "{seen:?}");
}
