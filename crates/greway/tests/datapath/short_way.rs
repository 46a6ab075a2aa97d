//! The short way out: past the IP stack of the host, to a neighbour whose hardware address the kernel knows. What the
//! stack counts, what neighbours hear and what rules refuse is the same as on the long way.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::Command;

use greway_netlink::nftables::{Family, Hook, Nftables, TableId, accept_only};
use greway_netlink::{NeighbourState, NetlinkError};
use greway_testbed::{Capture, Host, PingOptions, poll_until, privilege, require};

use crate::ip_stack::{ipv4, with_200};
use crate::pair::{INNER, OUTER, Pair, inner, mac, udp};
use crate::support::{SOON, in_vain};

/// A pair whose left packets leave by the short way.
fn pair(words: &str) -> Pair {
    let pair = Pair::new(&format!("datapath userspace {words}"));
    pair.answers(&PingOptions::default());
    wait_for_exit(&pair, true);
    pair
}

fn wait_for_exit(pair: &Pair, there: bool) {
    let exit = || (pair.status(0)["datapath"]["exit"].is_string() == there).then_some(());
    poll_until(SOON, "another way out", exit).unwrap();
}

fn ip(host: &Host, words: &str) {
    let output = host.output(Command::new("ip").args(words.split_whitespace())).unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// How often left's IP stack is asked to send when 200 datagrams go through the tunnel.
fn asked_for_200(pair: &Pair) -> u64 {
    with_200(pair, || ipv4(&pair.left, "OutRequests"))
}

#[test]
fn packets_leave_past_the_ip_stack_where_nothing_on_it_concerns_them() {
    require!(privilege::check());
    let pair = pair("");
    // The payload packets themselves, and some for the neighbour's sake.
    let asked = asked_for_200(&pair);
    assert!((200..350).contains(&asked), "{asked}");
    pair.change("underlay raw");
    wait_for_exit(&pair, false);
    let asked = asked_for_200(&pair);
    assert!(asked >= 400, "{asked}");
}

#[test]
fn what_has_a_priority_or_an_identification_takes_the_long_way() {
    require!(privilege::check());
    for words in ["tos 0xb8", "nopmtudisc ignore-df"] {
        let pair = pair(words);
        let asked = asked_for_200(&pair);
        assert!(asked >= 400, "{words}: {asked}");
    }
}

#[test]
fn a_neighbour_with_another_hardware_address_is_followed() {
    require!(privilege::check());
    let pair = pair("");
    ip(&pair.right, "link set wan0 address 02:00:00:00:00:77");
    ip(&pair.left, &format!("neighbour replace {} lladdr 02:00:00:00:00:77 dev wan0", OUTER[1]));
    let arrives = Capture::start(&pair.right, "wan0").unwrap();
    poll_until(SOON, "an answer", || pair.ping(&in_vain()).complete().then_some(())).unwrap();
    wait_for_exit(&pair, true);
    let shown = pair.status(0)["datapath"]["exit"].as_str().unwrap().to_owned();
    assert_eq!(shown, "02:00:00:00:00:77 on wan0");
    let to_it = |frame: &[u8]| frame[..6] == [2, 0, 0, 0, 0, 0x77];
    assert!(arrives.stop().iter().any(|packet| packet.gre().is_some() && to_it(&packet.frame)));
}

#[test]
fn a_neighbour_that_is_forgotten_is_asked_for_and_nothing_is_lost() {
    require!(privilege::check());
    let pair = pair("");
    let index = pair.left.index("wan0").unwrap();
    for _ in 0..5 {
        // It may be forgotten still: who is told of it a moment later goes on sending to it.
        let deleted = pair.left.netlink().unwrap().delete_neighbour(index, OUTER[1].into());
        assert!(deleted.as_ref().err().is_none_or(NetlinkError::is_not_found), "{deleted:?}");
        let report = pair.ping(&PingOptions::default());
        assert!(report.complete(), "{report}");
    }
    wait_for_exit(&pair, true);
}

#[test]
fn the_kernel_looks_after_a_neighbour_that_only_the_tunnel_uses() {
    require!(privilege::check());
    let pair = pair("");
    // The time between use and question (5 s of old).
    pair.left.sysctl("ipv4/neigh/wan0/delay_first_probe_time", "1").unwrap();
    let address = mac(&pair.right, "wan0");
    ip(&pair.left, &format!("neighbour replace {} lladdr {address} dev wan0 nud stale", OUTER[1]));
    let index = pair.left.index("wan0").unwrap();
    let netlink = pair.left.netlink().unwrap();
    let sender = udp(&pair.left, inner(0));
    poll_until(SOON, "a neighbour that has answered", || {
        sender.send_to(&[1], (INNER[1], 9)).unwrap();
        let known = netlink.neighbours(index).unwrap();
        let known = known.iter().find(|known| known.address == OUTER[1]).unwrap();
        (known.state == NeighbourState::Reachable).then_some(())
    })
    .unwrap();
}

#[test]
fn a_rule_on_output_closes_the_short_way_and_holds() {
    require!(privilege::check());
    let pair = pair("");
    let nftables = pair.left.run(Nftables::open).unwrap();
    require!(nftables.as_ref());
    let nftables = nftables.unwrap();
    nftables.apply(&accept_only("strict", &[Hook::Output], &[1, 17])).unwrap();
    poll_until(SOON, "a rule that holds", || {
        let report = pair.ping(&in_vain());
        (report.received() == 0).then_some(())
    })
    .unwrap();
    wait_for_exit(&pair, false);
    assert!(pair.drops(0, "firewall-refused") > 0);
    assert!(nftables.delete_table(&TableId::new(Family::Inet, "strict")).unwrap());
    wait_for_exit(&pair, true);
    pair.answers(&PingOptions::default());
}
