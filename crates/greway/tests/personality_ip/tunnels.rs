//! Tunnels by the words of `ip`: made, shown, changed, deleted.

use greway_testbed::{Host, poll_until, privilege, require};
use serde_json::Value;

use crate::support::{Daemon, SOON};
use crate::{Shimmed, real};

/// A host with an address for each end that the tests name, and nothing of IPv6's own in the counters.
fn host() -> (Shimmed, Daemon, Host) {
    let host = Host::new("host").unwrap();
    host.sysctl("ipv6/conf/default/disable_ipv6", "1").unwrap();
    for address in ["5.6.7.8/32", "100.0.1.100/32"] {
        host.address("lo", address).unwrap();
    }
    host.route("default", "dev lo").unwrap();
    let ours = Shimmed::new(&host);
    let daemon = ours.node.daemon();
    (ours, daemon, host)
}

fn names(shown: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(shown).unwrap_or_else(|error| panic!("{error}: {shown}"));
    let list = list.as_array().unwrap().iter();
    list.map(|entry| entry["ifname"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn made_by_tunnel_and_by_link_they_are_the_same() {
    require!(privilege::check());
    let (ours, _daemon, _host) = host();
    ours.ip("tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8 key 5 csum ttl 64").ok();
    let by_tunnel = ours.ip("tunnel show tun1").ok().stdout;
    ours.ip("tunnel del tun1").ok();
    assert!(ours.node.links().is_empty() && ours.node.state_files().is_empty());
    ours.ip("link add tun1 mtu 1300 txqueuelen 77 type gre rem 1.2.3.4 loc 5.6.7.8 k 5 cs t 64").ok();
    assert_eq!(ours.ip("tunnel show tun1").ok().stdout, by_tunnel);
    let link = ours.node.link("tun1").unwrap();
    assert_eq!((link.mtu, link.txqlen, link.up), (1300, 77, true));
    ours.ip("link del dev tun1").ok();
    assert!(ours.node.links().is_empty() && ours.node.state_files().is_empty());
}

#[test]
fn g34_g35_change_by_both_grammars() {
    require!(privilege::check());
    let (ours, _daemon, _host) = host();
    let shown = || ours.ip("-o tunnel show tun1").ok().stdout;
    ours.ip("tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8 csum seq").ok();
    ours.ip("tunnel change tun1 ttl 5 key 9").ok();
    let flags = "\\  Drop packets out of sequence.\\  Checksum in received packet is required.\
                 \\  Sequence packets on output.\\  Checksum output packets.";
    let line = "tun1: gre/ip remote 1.2.3.4 local 5.6.7.8";
    assert_eq!(shown(), format!("{line} ttl 5 key 9{flags}\n"), "G34");
    ours.ip("tunnel change mode gre tun1 remote 1.2.3.4 local 5.6.7.8 tos 10").ok();
    assert_eq!(shown(), format!("{line} ttl inherit tos 0x10\n"), "G35");
    ours.ip("link set tun1 type gre key 7 ttl 9").ok();
    assert_eq!(shown(), format!("{line} ttl 9 tos 0x10 key 7\n"));
    ours.ip("link set dev tun1 type gre nokey").ok();
    assert_eq!(shown(), format!("{line} ttl 9 tos 0x10\n"));
}

#[test]
fn lists_hold_the_kernels_and_ours() {
    require!(privilege::check());
    let (ours, _daemon, _host) = host();
    for (name, remote) in [("tun1", "1.2.3.4"), ("tun2", "1.2.3.5")] {
        ours.ip(&format!("tunnel add {name} mode gre remote {remote} local 5.6.7.8")).ok();
    }
    assert_eq!(names(&ours.ip("-j tunnel show").ok().stdout), ["tun1", "tun2"]);
    assert_eq!(names(&ours.ip("-j -p tunnel").ok().stdout), ["tun1", "tun2"]);
    // G42
    assert_eq!(names(&ours.ip("-j tunnel show remote 1.2.3.5").ok().stdout), ["tun2"]);
    assert_eq!(ours.ip("tunnel show local 9.9.9.9").ok().stdout, "");
    assert_eq!(ours.ip("tunnel show nosuch").ok().stdout, "");
    // By kind, with and without details; each device is there once.
    for words in [
        "-j link show type gre",
        "-j -d link show type gre",
        "-j -p -d addr show type gre",
        "-j link ls type gre up",
    ] {
        let mut found = names(&ours.ip(words).ok().stdout);
        found.sort();
        assert_eq!(found, ["tun1", "tun2"], "{words}");
    }
    assert_eq!(names(&ours.ip("-j link show tun2 type gre").ok().stdout), ["tun2"]);
    let text = ours.ip("-d link show type gre").ok().stdout;
    assert_eq!(text.matches("    gre remote 1.2.3.").count(), 2, "{text}");
    assert!(!text.contains("veth"), "{text}");
    // The whole list, with the other ends and lo as they are.
    let all = ours.ip("-d link").ok().stdout;
    assert_eq!(all.matches("    veth ").count(), 2, "the data plane's ends: {all}");
    assert!(all.contains("link/loopback"), "{all}");
    assert_eq!(names(&ours.ip("-j -d link").ok().stdout), names(&real(&ours.node, "ip -j link").ok().stdout));
    // Colours cannot hide a name.
    let plain = ours.ip("-d link show tun1").ok().stdout;
    assert_eq!(ours.ip("-c=always -d link show tun1").ok().stdout, plain);
}

#[test]
fn g75_details_in_text_and_json() {
    require!(privilege::check());
    let (ours, _daemon, _host) = host();
    ours.ip("link add gre1 type gre local 100.0.1.100 remote 100.0.2.100 key 42").ok();
    let shown = ours.ip("-d link show gre1").ok().stdout;
    let lines = shown.lines().collect::<Vec<_>>();
    assert!(lines[0].contains(": gre1@NONE: <POINTOPOINT,NOARP,UP,LOWER_UP> mtu 1472 "), "{shown}");
    assert!(lines[1].starts_with("    link/gre 100.0.1.100 peer 100.0.2.100 promiscuity 0 "), "{shown}");
    let third =
        "    gre remote 100.0.2.100 local 100.0.1.100 ttl inherit ikey 0.0.0.42 okey 0.0.0.42 addrgenmode ";
    assert!(lines[2].starts_with(third), "{shown}");
    let one_line = ours.ip("-o -d link show gre1").ok().stdout;
    assert_eq!((one_line.lines().count(), one_line.contains(&format!("\\{third}"))), (1, true), "{one_line}");
    let json: Value = serde_json::from_str(&ours.ip("-j -d addr show gre1").ok().stdout).unwrap();
    let info = &json[0]["linkinfo"];
    assert_eq!(info["info_kind"], "gre", "{json}");
    assert_eq!(info["info_data"]["okey"], "0.0.0.42", "{json}");
    assert_eq!(info["info_data"]["remote"], "100.0.2.100", "{json}");
}

/// The kernel's own words for what it would refuse, and the reason where it has none.
#[test]
fn refusals_in_the_kernels_words() {
    require!(privilege::check());
    let (ours, _daemon, _host) = host();
    ours.ip("tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8").ok();
    let exists = "add tunnel \"gre0\" failed: File exists\n";
    for words in [
        "tun1 mode gre remote 9.9.9.9",
        "lo mode gre remote 9.9.9.9",
        "gre0 mode gre remote 9.9.9.9",
        "tun2 mode gre remote 1.2.3.4 local 5.6.7.8",
    ] {
        let refused = ours.ip(&format!("tunnel add {words}"));
        assert_eq!((refused.code, refused.stderr.as_str()), (Some(1), exists), "{words}");
    }
    let by_link = ours.ip("link add tun1 type gre remote 9.9.9.9");
    assert_eq!((by_link.code, by_link.stderr.as_str()), (Some(2), "RTNETLINK answers: File exists\n"));
    // What the words ask beside the tunnel and cannot be had: nothing is left.
    let before = ours.node.belongings();
    let half = ours.ip("link add tun3 master nosuch type gre remote 9.9.9.9");
    assert_eq!(half.code, real(&ours.node, "ip link set lo master nosuch").code, "{half}");
    let half = ours.ip("link add tun3 address 1:2:3 type gre remote 9.9.9.9");
    assert!(half.code.is_some_and(|code| code != 0), "{half}");
    assert_eq!(ours.node.belongings(), before);
    for (words, code, stock, reason) in [
        (
            "link add tun4 type gretap",
            2,
            "RTNETLINK answers: Invalid argument\n",
            "an Ethernet tunnel has one far end",
        ),
        ("link add tun4 type gre external", 2, "RTNETLINK answers: Operation not supported\n", "external"),
        ("tunnel change tun1 remote any", 1, "add tunnel \"tun1\" failed: Invalid argument\n", "remote any"),
    ] {
        let refused = ours.ip(words);
        assert_eq!(refused.code, Some(code), "{words}: {refused}");
        let rest = refused.stderr.strip_prefix(stock).unwrap_or_else(|| panic!("{words}: {refused}"));
        assert!(rest.starts_with("ip: greway: ") && rest.contains(reason), "{words}: {rest}");
    }
    assert_eq!(ours.node.belongings(), before);
}

#[test]
fn up_on_create_can_be_turned_off() {
    require!(privilege::check());
    let (ours, _daemon, _host) = host();
    ours.node.file("greway.toml", "[shim]\nup_on_create = false\n");
    ours.ip("tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8").ok();
    ours.ip("link add tun2 type gre remote 1.2.3.5 local 5.6.7.8").ok();
    ours.ip("link add tun3 up type gre remote 1.2.3.6 local 5.6.7.8").ok();
    let up = |name: &str| ours.node.link(name).unwrap().up;
    assert_eq!([up("tun1"), up("tun2"), up("tun3")], [false, false, true]);
    ours.node.file("greway.toml", "[shim]\nup_on_crate = false\n");
    let wrong = ours.ip("tunnel add tun4 mode gre remote 1.2.3.7");
    assert_eq!(wrong.code, Some(1), "{wrong}");
    assert!(wrong.stderr.contains("greway.toml:2:1: ") && wrong.stderr.contains("up_on_crate"), "{wrong}");
    // What is not ours does not care.
    ours.ip("link show lo").ok();
}

/// Which backend takes a GRE command; the kernel of this host, or its words, tell.
#[test]
fn the_kernel_gets_what_is_the_kernels() {
    require!(privilege::check());
    let (ours, _daemon, host) = host();
    let with = |backend: &str, words: &str| {
        let mut command = ours.shell(&format!("ip {words}"));
        command.env("GREWAY_BACKEND", backend);
        ours.node.execute(command)
    };
    let add = "tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8";
    let straight =
        real(&ours.node, &format!("ip {add}; code=$?; ip tunnel del tun1 2>/dev/null; exit $code"));
    let through = with("kernel", add);
    assert_eq!((through.code, &through.stderr), (straight.code, &straight.stderr));
    assert!(ours.node.state_files().is_empty());
    if straight.code == Some(0) {
        real(&ours.node, "ip tunnel del tun1").ok();
    }
    ours.ip(add).ok();
    // The name is ours now, with any backend.
    with("kernel", "tunnel change tun1 ttl 7").ok();
    assert!(with("kernel", "tunnel show tun1").ok().stdout.contains(" ttl 7\n"));
    let again = with("kernel", add);
    assert_eq!((again.code, again.stderr.as_str()), (Some(1), "add tunnel \"gre0\" failed: File exists\n"));
    with("kernel", "tunnel del tun1").ok();
    assert!(host.index("tun1").is_err());
    let wrong = with("tun", add);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("GREWAY_BACKEND is \"tun\""), "{wrong}");
}

#[test]
fn a_device_that_somebody_deleted_is_no_tunnel_any_more() {
    require!(privilege::check());
    let (ours, daemon, _host) = host();
    let add = "tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8";
    ours.ip(add).ok();
    real(&ours.node, "ip link del tun1").ok();
    poll_until(SOON, "the end of the tunnel", || ours.node.state_files().is_empty().then_some(())).unwrap();
    ours.ip(add).ok();
    daemon.kill();
    real(&ours.node, "ip link del tun1").ok();
    assert_eq!(ours.node.state_files(), ["tun1.json"], "nobody was there to see it");
    assert_eq!(ours.ip("tunnel show").ok().stdout, "");
    let _daemon = ours.node.daemon();
    let gone = ours.ip("tunnel del tun1");
    assert_eq!(
        (gone.code, gone.stderr.as_str()),
        (Some(1), "delete tunnel \"tun1\" failed: No such device\n")
    );
}
