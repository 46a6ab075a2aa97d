//! Behind a firewall the programs carry as long as witness packets show that the host's rules would let the packets
//! pass; where they would not, the rules have every packet. No rule is read for it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests; times are for people")]

#[path = "support/pair.rs"]
mod pair;
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use greway_testbed::{
    Capture, CapturedPacket, Host, LinkOptions, PingOptions, order, poll_until, privilege, require,
};
use serde_json::Value;

use pair::{Pair, inside, seen};
use support::{SOON, in_vain};

/// A firewall as people have them: what is not allowed is dropped, GRE is allowed.
const ACCEPTS: &str = "table inet t {
  chain in { type filter hook input priority 0; policy drop; ct state established accept; ip protocol gre accept; \
     ip protocol { icmp, tcp } accept; ip6 nexthdr icmpv6 accept; }
  chain out { type filter hook output priority 0; policy accept; }
  chain post { type nat hook postrouting priority 100; policy accept; }
}";

/// Replaces the rules of a host; the old ones are gone in the same moment.
fn rules(host: &Host, rules: &str) {
    nft(host, &format!("add table inet t; delete table inet t; {rules}"));
}

fn nft(host: &Host, rules: &str) {
    let output = host.run(|| Command::new("nft").arg(rules).output()).unwrap().unwrap();
    assert!(output.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&output.stderr));
}

fn one() -> PingOptions {
    PingOptions { count: 1, timeout: Duration::from_millis(100), ..PingOptions::default() }
}

fn ebpf(status: &Value) -> bool {
    status["datapath"]["datapath"] == "ebpf"
}

/// A pair whose left end has a firewall that accepts. `None`: no programs on this machine, or not wanted.
fn behind_a_firewall(words: &str) -> Option<Pair> {
    behind(words, ACCEPTS)
}

/// The same with these rules.
fn behind(words: &str, firewall: &str) -> Option<Pair> {
    let pair = Pair::new(words);
    if std::env::var_os("GREWAY_FAST_PATH").is_some_and(|value| value == "off") {
        return None;
    }
    pair.carried_by(0, "ebpf");
    rules(&pair.left, firewall);
    pair.wait_for_underlay(0, "raw");
    opens(&pair, "a firewall that accepts");
    Some(pair)
}

/// With traffic, left's end gets onto the fast path again.
#[track_caller]
fn opens(pair: &Pair, what: &str) {
    let since = Instant::now();
    let opened = poll_until(SOON, "the fast path opens", || {
        pair.ping(&one());
        ebpf(&pair.status(0)).then_some(())
    });
    assert!(opened.is_ok(), "{what}: {}\n{}", pair.status(0)["datapath"], log(pair));
    println!("{what}: open after {:.0} ms", since.elapsed().as_secs_f64() * 1e3);
    let carried = &pair.status(0)["datapath"];
    let shown = carried["witnesses"].as_str().unwrap_or_default();
    assert!(shown.contains("witness packets pass the host's rules"), "{what}: {carried}");
}

/// With traffic, left's end leaves the fast path, for this reason.
#[track_caller]
fn closes(pair: &Pair, why: &str) {
    let since = Instant::now();
    let closed = poll_until(SOON, "the fast path closes", || {
        pair.ping(&one());
        let status = pair.status(0);
        let told = status["datapath"]["not_ebpf"].as_str().unwrap_or_default().to_owned();
        (!ebpf(&status) && told.contains(why)).then_some(())
    });
    assert!(closed.is_ok(), "{why}: {}\n{}", pair.status(0)["datapath"], log(pair));
    println!("{why}: closed after {:.0} ms", since.elapsed().as_secs_f64() * 1e3);
}

fn log(pair: &Pair) -> String {
    pair.daemons[0].as_ref().map(|daemon| daemon.log()).unwrap_or_default()
}

/// Left's packets left to userspace for want of leave.
fn closed_packets(status: &Value) -> u64 {
    let reasons = status["left_to_userspace"].as_array().unwrap();
    let closed = reasons.iter().find(|left| left["reason"] == "closed");
    closed.map_or(0, |left| left["packets"].as_u64().unwrap())
}

/// Open, every packet is on the cable once and no witness is; a bulk transfer is not reordered by them.
#[test]
fn what_the_rules_accept_is_carried_by_the_programs() {
    require!(privilege::check());
    for words in ["", "key 7"] {
        let Some(pair) = behind_a_firewall(words) else { return };
        let before = pair.status(0);
        let cable = Capture::start(&pair.left, "wan0").unwrap();
        let many =
            PingOptions { count: 60, interval: Some(Duration::from_millis(20)), ..PingOptions::default() };
        let report = pair.ping(&many);
        assert!(report.complete(), "{report}");
        let packets = cable.stop();
        let gre: Vec<&CapturedPacket> = packets.iter().filter(|packet| packet.gre().is_some()).collect();
        let icmp = |packet: &&&CapturedPacket| {
            inside(packet).is_some_and(|(_, inner)| inner[0] == 0x45 && inner[9] == 1 && inner.len() == 84)
        };
        assert_eq!(gre.iter().filter(icmp).count(), gre.len(), "nothing but pings is on the cable");
        let [out, back] = [true, false].map(|out| gre.iter().filter(|packet| packet.outgoing == out).count());
        assert_eq!((out, back), (60, 60), "each once");
        let after = pair.status(0);
        assert!(ebpf(&after), "{after}");
        assert_eq!(closed_packets(&after), closed_packets(&before), "none is left to userspace");
        for count in ["sent_packets", "received_packets"] {
            let [before, after] = [&before, &after].map(|status| status["counters"][count].as_u64().unwrap());
            assert_eq!(after - before, 60, "{count}: no witness is a packet of the tunnel");
        }
        order::on_one_cpu().unwrap();
        let hosts = [&pair.left, &pair.right];
        let in_order = hosts.map(|host| order::out_of_order(host).unwrap());
        pair.bulk(150_000_000, "with witnesses");
        assert!(ebpf(&pair.status(0)), "{}", log(&pair));
        let after = hosts.map(|host| order::out_of_order(host).unwrap());
        assert_eq!(after, in_order, "none overtakes: {}", log(&pair));
    }
}

/// An INPUT rule that appears has every packet soon, and no more when it goes.
#[test]
fn an_input_rule_closes() {
    require!(privilege::check());
    let Some(pair) = behind_a_firewall("") else { return };
    nft(&pair.left, "insert rule inet t in ip protocol gre drop");
    closes(&pair, "PREROUTING and INPUT");
    assert_eq!(pair.ping(&in_vain()).received(), 0, "the rule has every packet");
    rules(&pair.left, ACCEPTS);
    opens(&pair, "the rule is gone");
}

/// The same for OUTPUT; what is refused is counted as ever.
#[test]
fn an_output_rule_closes() {
    require!(privilege::check());
    let Some(pair) = behind_a_firewall("") else { return };
    nft(&pair.left, "insert rule inet t out ip protocol gre drop");
    closes(&pair, "OUTPUT and POSTROUTING");
    let before = pair.drops(0, "firewall-refused");
    let cable = Capture::start(&pair.left, "wan0").unwrap();
    assert_eq!(pair.ping(&in_vain()).received(), 0, "the rule has every packet");
    assert_eq!(seen(cable, |packet| packet.outgoing && packet.gre().is_some()), 0);
    assert!(pair.drops(0, "firewall-refused") > before);
    rules(&pair.left, ACCEPTS);
    opens(&pair, "the rule is gone");
}

/// A translation of what leaves is found out by what it does, and then done to every packet.
#[test]
fn an_outer_snat_closes() {
    require!(privilege::check());
    // Without connection tracking: what is tracked already is not translated anew.
    let untracked = "table inet t { chain in { type filter hook input priority 0; policy accept; }; }";
    let Some(pair) = behind("", untracked) else { return };
    pair.left.address("wan0", "10.0.0.77/24").unwrap();
    // What comes in is not tracked, or what leaves would belong to it, and answers are not translated.
    let snat = "table inet t {
      chain in { type filter hook input priority 0; policy accept; }
      chain pre { type filter hook prerouting priority -300; ip protocol gre notrack; }
      chain post { type nat hook postrouting priority 100; ip protocol gre snat ip to 10.0.0.77; }
    }";
    rules(&pair.left, snat);
    closes(&pair, "source address");
    let cable = Capture::start(&pair.right, "wan0").unwrap();
    pair.ping(&in_vain());
    let from = |packet: &CapturedPacket| packet.payload()[12..16] == [10, 0, 0, 77];
    let packets = cable.stop();
    let gre = packets.iter().filter(|packet| !packet.outgoing && packet.gre().is_some()).collect::<Vec<_>>();
    assert!(!gre.is_empty() && gre.iter().all(|packet| from(packet)), "translated: {}", gre.len());
}

/// Kill -9: what was open stays open, what was closed stays closed, and the next daemon goes on from there.
#[test]
fn a_dead_daemons_last_verdict_holds() {
    require!(privilege::check());
    if std::env::var_os("GREWAY_FAST_PATH").is_some_and(|value| value == "off") {
        return;
    }
    let mut pair = Pair::bare(&LinkOptions::default());
    pair.daemons[0] = None;
    // Filters stay when their process dies, pins or not.
    let variables = [("GREWAY_BPFFS", "/nowhere")];
    pair.daemons[0] = Some(pair.nodes[0].daemon_with(&variables));
    pair.add("tun0", "");
    pair.left.address("tun0", "172.16.0.1 peer 172.16.0.2/30").unwrap();
    pair.right.address("tun0", "172.16.0.2 peer 172.16.0.1/30").unwrap();
    pair.carried_by(0, "ebpf");
    rules(&pair.left, ACCEPTS);
    pair.wait_for_underlay(0, "raw");
    opens(&pair, "a firewall that accepts");
    pair.daemons[0].take().unwrap().kill();
    let many = PingOptions { count: 50, interval: Some(Duration::from_millis(20)), ..PingOptions::default() };
    let report = pair.ping(&many);
    assert!(report.complete(), "nobody is there: {report}");
    pair.daemons[0] = Some(pair.nodes[0].daemon_with(&variables));
    opens(&pair, "the next daemon");
    nft(&pair.left, "insert rule inet t in ip protocol gre drop");
    closes(&pair, "PREROUTING and INPUT");
    pair.daemons[0].take().unwrap().kill();
    rules(&pair.left, ACCEPTS);
    assert_eq!(pair.ping(&in_vain()).received(), 0, "closed, and nobody there to open it");
}
