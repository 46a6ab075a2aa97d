//! What a packet socket has taken goes no further up the IP stack of its host, and all else does: what that counts, what rules
//! see, and what is left when the daemon is gone.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_netlink::nftables::{Family, Hook, Nftables, TableId, accept_only};
use greway_testbed::{Host, LinkOptions, PingOptions, poll_until, privilege, require};

use crate::ip_stack::{ipv4, ipv6, with_200};
use crate::pair::{Pair, inner};
use crate::support::{EARLY_DROP, SOON, in_vain};

/// A pair whose right end drops early.
fn pair(words: &str) -> Pair {
    let pair = Pair::new(&format!("datapath userspace {words}"));
    pair.answers(&PingOptions::default());
    wait_for_it(&pair, true);
    pair
}

fn wait_for_it(pair: &Pair, there: bool) {
    let dropped =
        || (pair.status(1)["datapath"]["early_drop"].as_bool().unwrap_or(false) == there).then_some(());
    poll_until(SOON, "whether it drops early", dropped).unwrap();
}

/// What is entered on a host.
fn entered(host: &Host) -> usize {
    let ruleset = host.run(|| Nftables::open().unwrap().ruleset().unwrap()).unwrap();
    let ours = ruleset.sets.iter().filter(|set| set.table.name == EARLY_DROP);
    ours.map(|set| set.elements.len()).sum()
}

/// How much right's IP stack gives to its protocols when 200 datagrams come through the tunnel.
fn delivered_of_200(pair: &Pair) -> u64 {
    with_200(pair, || ipv4(&pair.right, "InDelivers"))
}

#[test]
fn what_the_packet_socket_has_taken_goes_no_further() {
    require!(privilege::check());
    for words in ["", "key 43", "key 43 csum seq"] {
        let pair = pair(words);
        // The payload packets themselves.
        let count = delivered_of_200(&pair);
        assert!((200..300).contains(&count), "{words}: {count}");
        pair.change("underlay raw");
        wait_for_it(&pair, false);
        let count = delivered_of_200(&pair);
        assert!(count >= 400, "{words}: {count}");
        pair.change("underlay auto");
        wait_for_it(&pair, true);
        pair.answers(&PingOptions::default());
    }
}

#[test]
fn over_ipv6_too() {
    require!(privilege::check());
    let pair = Pair::bare(&LinkOptions::default());
    let ends = ["fd00:47::1", "fd00:47::2"];
    for (node, host) in [&pair.left, &pair.right].into_iter().enumerate() {
        host.sysctl("ipv6/conf/wan0/disable_ipv6", "0").unwrap();
        host.address("wan0", &format!("{}/64", ends[node])).unwrap();
        let (local, remote) = (ends[node], ends[1 - node]);
        let words =
            format!("tunnel add tun0 mode ip6gre local {local} remote {remote} key 7 datapath userspace");
        pair.nodes[node].words(&words).ok();
        host.address("tun0", &format!("{}/30", inner(node))).unwrap();
    }
    pair.answers(&PingOptions::default());
    wait_for_it(&pair, true);
    // Neighbours ask for each other now and then.
    let count = with_200(&pair, || ipv6(&pair.right, "Ip6InDelivers"));
    assert!(count < 100, "{count}");
    pair.change("underlay raw");
    wait_for_it(&pair, false);
    let count = with_200(&pair, || ipv6(&pair.right, "Ip6InDelivers"));
    assert!(count >= 200, "{count}");
}

#[test]
fn a_tunnel_that_becomes_another_is_followed_at_once() {
    require!(privilege::check());
    let pair = pair("");
    assert_eq!(entered(&pair.right), 2);
    for words in ["key 7", "key 8 csum", "nokey nocsum"] {
        pair.change(words);
        pair.answers(&PingOptions::default());
        wait_for_it(&pair, true);
        assert_eq!(entered(&pair.right), 2, "{words}");
    }
    pair.nodes[1].words("tunnel del tun0").ok();
    assert_eq!(entered(&pair.right), 0);
}

#[test]
fn a_rule_on_input_sees_the_packets_and_holds() {
    require!(privilege::check());
    let pair = pair("");
    let nftables = pair.right.run(Nftables::open).unwrap();
    require!(nftables.as_ref());
    let nftables = nftables.unwrap();
    nftables.apply(&accept_only("strict", &[Hook::Input], &[1, 17])).unwrap();
    poll_until(SOON, "a rule that holds", || {
        let report = pair.ping(&in_vain());
        (report.received() == 0).then_some(())
    })
    .unwrap();
    wait_for_it(&pair, false);
    assert_eq!(entered(&pair.right), 0);
    assert!(nftables.delete_table(&TableId::new(Family::Inet, "strict")).unwrap());
    wait_for_it(&pair, true);
    pair.answers(&PingOptions::default());
}

#[test]
fn what_is_for_an_address_of_another_host_is_forwarded() {
    require!(privilege::check());
    let pair = pair("");
    let netlink = pair.right.netlink().unwrap();
    let index = pair.right.index("wan0").unwrap();
    let own = netlink.addresses(Some(index)).unwrap();
    let own = own.iter().find(|own| own.address.local.is_ipv4()).unwrap().address;
    netlink.delete_address(index, own).unwrap();
    poll_until(SOON, "a host that is not meant", || (entered(&pair.right) == 0).then_some(())).unwrap();
    netlink.add_address(index, own).unwrap();
    wait_for_it(&pair, true);
    pair.answers(&PingOptions::default());
}

#[test]
fn nothing_is_dropped_that_no_daemon_takes() {
    require!(privilege::check());
    let mut pair = pair("");
    let tables = |host: &Host| host.run(|| Nftables::open().unwrap().tables().unwrap()).unwrap();
    let ours = |host: &Host| tables(host).iter().filter(|table| table.id.name == EARLY_DROP).count();
    assert_eq!(ours(&pair.right), 1);
    pair.daemons[1].take().unwrap().kill();
    poll_until(SOON, "no table", || (ours(&pair.right) == 0).then_some(())).unwrap();
    pair.daemons[1] = Some(pair.nodes[1].daemon());
    wait_for_it(&pair, true);
    pair.answers(&PingOptions::default());
}
