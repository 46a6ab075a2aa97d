//! What a packet socket has taken goes no further up the IP stack of its host, and all else does: what that counts, what rules
//! see, and what is left when the daemon is gone.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_netlink::nftables::{Family, Hook, Nftables, TableId, accept_only};
use greway_testbed::{Host, PingOptions, poll_until, privilege, require};

use crate::pair::{Pair, inner, udp};
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

/// Packets that a host's IP stack gave to any of its protocols.
fn delivered(host: &Host) -> u64 {
    let read = |path: &'static str| host.run(move || std::fs::read_to_string(path)).unwrap().unwrap();
    let table = read("/proc/thread-self/net/snmp");
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("Ip: ")).map(str::split_whitespace);
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let ipv4 = names.zip(values).find(|(name, _)| *name == "InDelivers").unwrap().1.parse::<u64>().unwrap();
    let table = read("/proc/thread-self/net/snmp6");
    let ipv6 = table.lines().find_map(|line| line.strip_prefix("Ip6InDelivers")).unwrap().trim();
    ipv4 + ipv6.parse::<u64>().unwrap()
}

/// How much right's IP stack delivers when 200 datagrams come through the tunnel.
fn delivered_of_200(pair: &Pair) -> u64 {
    let (receiver, sender) = (udp(&pair.right, inner(1)), udp(&pair.left, inner(0)));
    let to = receiver.local_addr().unwrap();
    let before = delivered(&pair.right);
    let mut buffer = [0; 64];
    for number in 0..200_u8 {
        sender.send_to(&[number; 32], to).unwrap();
        let (length, _) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], [number; 32]);
    }
    delivered(&pair.right) - before
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
