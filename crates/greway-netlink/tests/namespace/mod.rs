//! A network namespace of its own for each test, on a thread of its own.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use greway_netlink::{Link, LinkChange, Netlink, VethEnd, VethPair, VethSpec};

/// Runs `body` in a new, empty network namespace, which goes with it. Without the privilege to make one
/// the test is reported as not run.
pub(crate) fn in_namespace(test: &str, body: impl FnOnce(&Netlink) + Send) {
    std::thread::scope(|scope| {
        let run = || match greway_linux::netns::unshare_net() {
            Err(error) => eprintln!("not run: {test}: no network namespace: {error}"),
            Ok(()) => body(&Netlink::open().unwrap()),
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Asks again until the answer is as wanted.
#[allow(dead_code, reason = "not every test file polls")]
pub(crate) fn eventually<T: Debug>(mut ask: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = ask();
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "still {answer:?}");
        std::thread::yield_now();
    }
}

/// An end as greway makes them: no ARP, no multicast, no IPv6 address of the kernel's own.
#[allow(dead_code, reason = "not every test file makes links")]
pub(crate) fn quiet_end(name: &str, last: u8) -> VethEnd {
    VethEnd {
        address: Some([2, 0, 0, 0, 0, last]),
        arp: false,
        multicast: false,
        addr_gen_mode_none: true,
        ..VethEnd::new(name)
    }
}

/// The pair tun0 and peer0, up and carrying.
#[allow(dead_code, reason = "not every test file makes links")]
pub(crate) fn tunnel_pair(netlink: &Netlink) -> VethPair {
    let spec = VethSpec { end: quiet_end("tun0", 1), peer: quiet_end("peer0", 2), peer_netns: None };
    let pair = netlink.create_veth(&spec).unwrap();
    for index in [pair.index, pair.peer_index] {
        netlink.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
    }
    for index in [pair.index, pair.peer_index] {
        eventually(|| netlink.link_by_index(index).unwrap().unwrap(), Link::operational);
    }
    pair
}
