//! The tc program on the points where a fast path will sit, with a tunnel at work: it sees every packet, takes
//! none, and a program of somebody else behind it sees them all too (T1).
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod support;

use greway_fastpath::{Counters, Fastpath, Options, PinPolicy, Point};
use greway_testbed::{PingOptions, ping, poll_until, privilege, require};
use support::{SOON, inner, two_hosts};

/// The data plane's end of tun0 and the underlay device of linux1.
const OVERLAY: &str = "gw-tun0";
const UNDERLAY: &str = "wan0";
const PINGS: u16 = 10;

#[test]
fn t1_a_tunnel_works_behind_programs_that_count_and_decline() {
    require!(privilege::check());
    let lab = two_hosts();
    // Nothing but the pings may be counted.
    for host in [&lab.guide.linux1, &lab.guide.linux2] {
        host.sysctl("ipv6/conf/all/disable_ipv6", "1").unwrap();
        host.sysctl("ipv6/conf/default/disable_ipv6", "1").unwrap();
    }
    let _daemons = [lab.one.daemon(), lab.two.daemon()];
    for underlay in ["packet", "raw"] {
        lab.tunnel(&format!("underlay {underlay}"));
        let counted = lab.one.run(|| {
            let options = Options { pins: PinPolicy::Never, ..Options::default() };
            let mut ours = match Fastpath::load_with(&options) {
                Ok(fastpath) => fastpath,
                Err(error) => {
                    eprintln!("not run: t1_a_tunnel_works_behind_programs: {error}");
                    return None;
                }
            };
            // The second one stands for another user of tc on the same device.
            let mut other = Fastpath::load_with(&options).unwrap();
            for fastpath in [&mut ours, &mut other] {
                fastpath.attach(OVERLAY, Point::Overlay).unwrap();
                fastpath.attach(UNDERLAY, Point::Underlay).unwrap();
            }
            let options = PingOptions { count: PINGS, ..PingOptions::default() };
            let report = ping(&lab.guide.linux1, inner(1), &options).unwrap();
            assert!(report.complete(), "{underlay}: {report}");
            let wanted = u64::from(PINGS);
            let all = |fastpath: &Fastpath| {
                let counters = |point| -> Counters { fastpath.counters(point).unwrap() };
                (counters(Point::Overlay).seen, counters(Point::Underlay).gre)
            };
            for (name, fastpath) in [("ours", &ours), ("the other", &other)] {
                poll_until(SOON, "every packet in the counters", || {
                    (all(fastpath).1 >= wanted).then_some(())
                })
                .unwrap();
                assert_eq!(all(fastpath), (wanted, wanted), "{underlay}: {name}");
            }
            ours.remove_all().unwrap();
            other.remove_all().unwrap();
            Some(())
        });
        if counted.is_none() {
            return;
        }
        lab.one.words("tunnel del tun0").ok();
        lab.two.words("tunnel del tun0").ok();
    }
}
