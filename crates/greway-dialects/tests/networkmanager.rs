//! NetworkManager's dialects: golden cases by number against the reader here and, where there is one, against
//! the real `nmcli --offline`, which prints the keyfile that it would store; round trips over all tunnels that
//! NetworkManager has words for; refusals with their places.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use greway_dialects::networkmanager::nmcli::{self, Refusal};
use greway_dialects::networkmanager::{Dhcp, Identity, Profile, keyfile, without_peers};
use greway_spec::{Draft, DraftAddress, DraftRoute, FlowLabel, Mode, Origin, Tos, Ttl, TunnelSpec};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

const UUID: &str = "d3e46929-43bb-4d32-9acc-f8460d0e955a";
const GUIDE: &str = "connection add con-name tun0 ifname tun0 type ip-tunnel mode gre \
    ip-tunnel.remote 100.0.2.100 ip-tunnel.local 100.0.1.100 ipv4.method manual ipv4.addresses 172.16.0.1/30";

/// The real nmcli: the one that is installed, or the one that `cargo xtask test` unpacked beside the build.
fn real_nmcli() -> Option<Command> {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../peers/networkmanager");
    let program = unpacked.join("usr/bin/nmcli");
    let mut command = if program.is_file() {
        let mut command = Command::new(program);
        command
            .env("LD_LIBRARY_PATH", unpacked.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH)));
        command
    } else if Path::new("/usr/bin/nmcli").is_file() {
        Command::new("/usr/bin/nmcli")
    } else {
        return None;
    };
    command.env("LC_ALL", "C.UTF-8");
    Some(command)
}

/// What a command line comes to.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    stdout: String,
    stderr: String,
    code: i32,
}

/// The real nmcli's answer, its random uuid replaced.
fn real(words: &[&str]) -> Option<Answer> {
    let output = real_nmcli()?.arg("--offline").args(words).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let own = |line: &str| {
        if line.starts_with("uuid=") && !words.iter().any(|word| word.contains("uuid")) {
            format!("uuid={UUID}\n")
        } else {
            format!("{line}\n")
        }
    };
    let stdout = stdout.lines().map(own).collect();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Some(Answer { stdout, stderr, code: output.status.code().unwrap_or(-1) })
}

/// Ours, as the personality gives it offline.
fn ours(words: &[&str]) -> Answer {
    let refused = |refusal: Refusal| Answer {
        stdout: String::new(),
        stderr: format!("{}\n", refusal.text),
        code: refusal.code.into(),
    };
    let words = ["--offline"].iter().chain(words).collect::<Vec<_>>();
    match nmcli::parse(&words) {
        Err(refusal) => refused(refusal),
        Ok(nmcli::Invocation { command: nmcli::Command::Add(add), .. }) => {
            let mut profile = add.profile;
            if profile.uuid().is_none() {
                profile.assign("connection", "uuid", UUID).unwrap();
            }
            match profile.verified() {
                Err(wrong) => refused(Refusal::new(format!("Error writing connection: {wrong}"), 1)),
                Ok(()) => Answer { stdout: keyfile::emit(&profile), stderr: String::new(), code: 0 },
            }
        }
        Ok(other) => panic!("{other:?}"),
    }
}

/// Says, once, that nothing was held against the real one.
fn without_it() {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| {
        eprintln!(
            "not run: networkmanager: there is no nmcli to compare with; `cargo xtask test` unpacks one"
        );
    });
}

/// Holds ours against the real one.
#[track_caller]
fn same(words: &[&str]) -> Answer {
    let ours = ours(words);
    match real(words) {
        Some(real) => assert_eq!(ours, real, "nmcli --offline {words:?}"),
        None => without_it(),
    }
    ours
}

/// `c a type ip-tunnel ifname tun0` and these words, `_` standing for a blank inside of one.
#[track_caller]
fn add(words: &str) -> Answer {
    let line = format!("c a type ip-tunnel ifname tun0 {words}");
    let words = line.split_whitespace().map(|word| word.replace('_', " ")).collect::<Vec<_>>();
    same(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[track_caller]
fn refused(words: &str, text: &str, code: i32) {
    let answer = add(words);
    assert_eq!((answer.stderr.as_str(), answer.code), (format!("Error: {text}\n").as_str(), code), "{words}");
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn profile_of(line: &str) -> Profile {
    match nmcli::parse(&words(line)).unwrap().command {
        nmcli::Command::Add(add) => add.profile,
        other => panic!("{other:?}"),
    }
}

fn spec_of(line: &str) -> TunnelSpec {
    profile_of(line).draft("nmcli", Dhcp::LeftOut).unwrap().0.into_spec().unwrap()
}

#[test]
fn the_guides_command_and_the_file_it_stores() {
    let answer = same(&words(GUIDE));
    let text = format!(
        "[connection]\nid=tun0\nuuid={UUID}\ntype=ip-tunnel\ninterface-name=tun0\n\n[ip-tunnel]\n\
         local=100.0.1.100\nmode=2\nremote=100.0.2.100\n\n[ipv4]\naddress1=172.16.0.1/30\nmethod=manual\n\n\
         [ipv6]\naddr-gen-mode=default\nmethod=auto\n\n[proxy]\n"
    );
    assert_eq!(answer, Answer { stdout: text.clone(), stderr: String::new(), code: 0 });
    let parsed = keyfile::parse(&text, "tun0.nmconnection").unwrap();
    assert!(parsed.onboot && parsed.warnings.is_empty(), "{parsed:?}");
    let spec = parsed.into_spec().unwrap();
    assert_eq!(spec.describe(), spec_of(GUIDE).describe());
    assert_eq!(spec.local, Some(IpAddr::from([100, 0, 1, 100])));
    assert_eq!(spec.remote, Some(IpAddr::from([100, 0, 2, 100])));
    assert_eq!(spec.inner.addresses[0].to_string(), "172.16.0.1/30");
    assert_eq!((spec.ttl, spec.pmtudisc, spec.ikey), (Ttl::Inherit, true, None));
}

#[test]
fn g104_mode_and_remote_are_required() {
    refused("mode gre", "'remote' argument is required.", 2);
    refused("remote 1.2.3.4", "'mode' argument is required.", 2);
    refused("", "'mode' argument is required.", 2);
}

#[test]
fn g105_modes_by_full_lower_case_word_or_number() {
    let modes = "ipip,gre,sit,isatap,vti,ip6ip6,ipip6,ip6gre,vti6,gretap,ip6gretap";
    for word in ["foo", "gr", "GRE"] {
        let text = format!("failed to modify ip-tunnel.mode: invalid option '{word}', use one of [{modes}].");
        refused(&format!("mode {word} remote 1.2.3.4"), &text, 2);
    }
    for (word, number) in [("gre", 2), ("2", 2), ("gretap", 10), ("ipip", 1)] {
        let answer = add(&format!("mode {word} remote 1.2.3.4"));
        assert!(answer.stdout.contains(&format!("\nmode={number}\n")), "{answer:?}");
    }
    for number in [0, 12] {
        let text = format!("Error writing connection: ip-tunnel.mode: '{number}' is not a valid tunnel mode");
        refused(&format!("mode {number} remote 1.2.3.4"), &text, 1);
    }
}

#[test]
fn g107_ends_of_the_modes_family() {
    let wrong = |words: &str, name: &str, value: &str, family: u8| {
        let text = format!(
            "Error writing connection: ip-tunnel.{name}: '{value}' is not a valid IPv{family} address"
        );
        refused(words, &text, 1);
    };
    wrong("mode ip6gre remote 1.2.3.4", "remote", "1.2.3.4", 6);
    wrong("mode gre remote fe80::1", "remote", "fe80::1", 4);
    wrong("mode gre remote host", "remote", "host", 4);
    wrong("mode gre remote any", "remote", "any", 4);
    wrong("mode gre remote 1.2.3.4 local any", "local", "any", 4);
    wrong("mode gre remote 1.2.3.4 local ::1", "local", "::1", 4);
    assert_eq!(add("mode gre remote 0.0.0.0").code, 0);
    assert_eq!(spec_of("c a type ip-tunnel ifname t mode gre remote 0.0.0.0").remote, None);
}

#[test]
fn g109_keys_are_decimal_and_for_gre() {
    let text = "Error writing connection: tunnel keys can only be specified for GRE and VTI tunnels";
    refused("mode ipip remote 1.2.3.4 ip-tunnel.input-key 4", text, 1);
    for key in ["lichenhao", "0x2a", "1.2.3.4", "-1", "4294967296"] {
        let text =
            format!("Error writing connection: ip-tunnel.input-key: '{key}' is not a valid tunnel key");
        refused(&format!("mode gre remote 1.2.3.4 ip-tunnel.input-key {key}"), &text, 1);
    }
    assert!(
        add("mode gre remote 1.2.3.4 ip-tunnel.output-key 4294967295")
            .stdout
            .contains("output-key=4294967295")
    );
    // A leading zero is no octal number here, unlike everywhere else.
    let spec = spec_of("c a type ip-tunnel ifname t mode gre remote 1.2.3.4 ip-tunnel.input-key 042");
    assert_eq!((spec.ikey, spec.okey), (Some(42), None));
}

#[test]
fn g111_numbers_have_no_words() {
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.ttl 300",
        "failed to modify ip-tunnel.ttl: '300' is out of range [0, 255].",
        2,
    );
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.ttl inherit",
        "failed to modify ip-tunnel.ttl: 'inherit' is not a valid number.",
        2,
    );
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.tos 0x10",
        "failed to modify ip-tunnel.tos: '0x10' is not a valid number.",
        2,
    );
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.ttl -1",
        "failed to modify ip-tunnel.ttl: '-1' is out of range [0, 255].",
        2,
    );
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.flow-label 4000000",
        "failed to modify ip-tunnel.flow-label: '4000000' is out of range [0, 1048575].",
        2,
    );
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.path no ip-tunnel.ttl 5",
        "Error writing connection: ip-tunnel.ttl: a fixed TTL is allowed only when path MTU discovery is enabled",
        1,
    );
}

#[test]
fn g112_no_mark_on_gre() {
    let text = "Error writing connection: ip-tunnel.fwmark: can be set only on VTI tunnels";
    refused("mode gre remote 1.2.3.4 ip-tunnel.fwmark 1", text, 1);
}

#[test]
fn g113_routes() {
    let answer =
        add("mode gre remote 1.2.3.4 ipv4.routes 10.10.2.0/24 +ipv4.routes 10.10.3.0/24_172.16.0.2_100");
    assert!(
        answer.stdout.contains("route1=10.10.2.0/24\nroute2=10.10.3.0/24,172.16.0.2,100\n"),
        "{answer:?}"
    );
    let more = add("mode gre remote 1.2.3.4 ipv4.routes 10.0.0.0/8_100,11.0.0.0/8_src=1.2.3.4_table=5");
    assert!(
        more.stdout.contains(
            "route1=10.0.0.0/8,0.0.0.0,100\nroute2=11.0.0.0/8\nroute2_options=src=1.2.3.4,table=5\n"
        ),
        "{more:?}"
    );
}

#[test]
fn g114_manual_needs_an_address() {
    for family in ["ipv4", "ipv6"] {
        let text = format!(
            "Error writing connection: {family}.addresses: this property cannot be empty for 'method=manual'"
        );
        refused(&format!("mode gre remote 1.2.3.4 {family}.method manual"), &text, 1);
    }
}

#[test]
fn g115_an_address_without_length_is_its_full_length() {
    let answer = add("mode gre remote 1.2.3.4 ipv4.method manual ipv4.addresses 172.16.0.1");
    assert!(answer.stdout.contains("address1=172.16.0.1/32\n"), "{answer:?}");
}

#[test]
fn g116_aliases_come_after_the_type_and_in_full() {
    for (line, text) in [
        ("c a mode gre type ip-tunnel", "invalid <setting>.<property> 'mode'."),
        ("c a remote 1.2.3.4 type ip-tunnel", "invalid <setting>.<property> 'remote'."),
        ("c a type ip-tunnel ifname tun0 mode gre rem 1.2.3.4", "invalid <setting>.<property> 'rem'."),
        ("c a typ ip-tunnel", "invalid <setting>.<property> 'typ'."),
        ("c a ifname x", "'type' argument is required."),
        ("c a type", "value for 'type' is missing."),
        ("c a type ip mode gre", "bad connection type: 'ip' is ambiguous: ip-tunnel, ipv4, ipv6"),
        (
            "c a ip-tunnel.mode gre type ip-tunnel",
            "invalid or not allowed setting 'ip-tunnel': 'ip-tunnel' not among [connection, match, ipv4, ipv6, \
             hostname, tc, proxy].",
        ),
    ] {
        let answer = same(&words(line));
        assert_eq!((answer.stderr, answer.code), (format!("Error: {text}\n"), 2), "{line}");
    }
    let types = same(&["c", "a", "type", "gre", "mode", "gre"]);
    assert!(types.stderr.starts_with("Error: bad connection type: 'gre' not among [6lowpan, "), "{types:?}");
    same(&["c", "a", "type", ""]);
}

/// Whatever else was found out about the real one: each line is answered alike.
#[test]
fn as_the_real_one_word_for_word() {
    for line in [
        "mode gre remote",
        "mode gre remote 1.2.3.4 foo",
        "mode gre remote 1.2.3.4 foo bar",
        "mode gre remote 1.2.3.4 foo.bar x",
        "mode gre remote 1.2.3.4 ip-tunnel.foo x",
        "mode gre remote 1.2.3.4 ip-tunnel.m 5",
        "mode gre remote 1.2.3.4 ip.ttl 5",
        "mode gre remote 1.2.3.4 connection.foo 5",
        "mode gre remote 1.2.3.4 ipv4.foo 5",
        "mode gre remote 1.2.3.4 ipv6.foo 5",
        "mode gre remote 1.2.3.4 match.foo 5",
        "mode gre remote 1.2.3.4 proxy.foo 5",
        "mode gre remote 1.2.3.4 802-3-ethernet.foo 5",
        "mode gre remote 1.2.3.4 ip-t.path maybe",
        "mode gre remote 1.2.3.4 ip-tunnel.path no",
        "mode gre remote 1.2.3.4 autoconnect no save yes",
        "mode gre remote 1.2.3.4 autoconnect maybe",
        "mode gre remote 1.2.3.4 autoconnect o",
        "mode gre remote 1.2.3.4 autoconnect of",
        "mode gre remote 1.2.3.4 autoconnect 0",
        "mode gre remote 1.2.3.4 autoconnect N",
        "mode gre remote 1.2.3.4 ip-tunnel.ttl 010",
        "mode gre remote 1.2.3.4 ip-tunnel.mtu 99999999999",
        "mode gre remote 1.2.3.4 ipv4.method foo",
        "mode gre remote 1.2.3.4 ipv4.method m",
        "mode gre remote 1.2.3.4 ipv4.addresses foo",
        "mode gre remote 1.2.3.4 ipv4.addresses 1.2.3.4/x",
        "mode gre remote 1.2.3.4 ipv4.addresses 1.2.3.4/33",
        "mode gre remote 1.2.3.4 ipv4.addresses 1.2.3.4/24_peer_1.2.3.5",
        "mode gre remote 1.2.3.4 ipv4.addresses 1.2.3.4/24,5.6.7.8/24",
        "mode gre remote 1.2.3.4 ipv4.addresses 1.2.3.4/24 ipv4.addresses 2.2.2.2/24",
        "mode gre remote 1.2.3.4 +ipv4.addresses 1.1.1.1/24 +ipv4.addresses 2.2.2.2/24",
        "mode gre remote 1.2.3.4 ip4 1.2.3.4/24 ip4 2.2.2.2/24",
        "mode gre remote 1.2.3.4 +ip4 1.1.1.1/8",
        "mode gre remote 1.2.3.4 ip4 1.2.3.4/24 gw4 1.2.3.1",
        "mode gre remote 1.2.3.4 ip6 fd00::1/64",
        "mode gre remote 1.2.3.4 ipv4.gateway x",
        "mode gre remote 1.2.3.4 ipv4.gateway 1.1.1.1",
        "mode gre remote 1.2.3.4 ipv4.method manual ipv4.addresses 1.1.1.1/24 gw4 1.1.1.2 ipv4.never-default yes",
        "mode gre remote 1.2.3.4 ipv4.never-default yes ipv4.method manual ipv4.addresses 1.1.1.1/8 gw4 1.1.1.2",
        "mode gre remote 1.2.3.4 ipv4.method disabled ipv4.addresses 1.2.3.4/24",
        "mode gre remote 1.2.3.4 ipv4.method disabled ipv4.routes 10.0.0.0/8",
        "mode gre remote 1.2.3.4 ipv4.routes 10.0.0.0/8_x",
        "mode gre remote 1.2.3.4 ipv4.routes 10.10.2.0/33",
        "mode gre remote 1.2.3.4 ipv4.routes 10.0.0.0/8_foo=bar",
        "mode gre remote 1.2.3.4 ipv4.routes default",
        "mode gre remote 1.2.3.4 ipv4.routes 10.0.0.0/8_metric=5",
        "mode gre remote 1.2.3.4 ipv4.routes 10.0.0.0",
        "mode gre remote 1.2.3.4 ipv6.routes 10.0.0.0/8",
        "mode gre remote 1.2.3.4 ipv4.routes fe80::/64",
        "mode gre remote 1.2.3.4 ipv4.routes 10.10.2.1/24",
        "mode gre remote 1.2.3.4 ipv4.route-metric x",
        "mode gre remote 1.2.3.4 ipv4.route-metric 50",
        "mode gre remote 1.2.3.4 ipv4.route-metric -2",
        "mode gre remote 1.2.3.4 dev eth5",
        "mode gre remote 1.2.3.4 dev a_b",
        "mode gre remote 1.2.3.4 remote 5.5.5.5",
        "mode gre remote 1.2.3.4 ip-tunnel.flags foo",
        "mode gre remote 1.2.3.4 ip-tunnel.flags none",
        "mode gre remote 1.2.3.4 connection.uuid xx",
        "mode gre remote 1.2.3.4 connection.id foo",
        "mode gre remote 1.2.3.4 connection.type foo",
        "mode gre remote 1.2.3.4 connection.interface-name foo",
        "mode gre remote 1.2.3.4 -ip-tunnel.ttl 5",
        "mode gre remote 1.2.3.4 -ipv4.routes 0",
        "mode gre remote 1.2.3.4 ipv6.method disabled",
        "mode gre remote 1.2.3.4 ipv6.method link-local",
        "mode gre remote 1.2.3.4 con-name __sp_ace\\_back",
        "mode gre remote 1.2.3.4 -- ipv4.method disabled",
        "mode ip6gre remote fd00::2 local fd00::1 ip-tunnel.encapsulation-limit 4 ip-tunnel.flow-label 5",
        "mode ip6gretap remote fd00::2",
        "mode gre remote 1.2.3.4 ip-tunnel.input-key 42 ip-tunnel.output-key 43",
        "mode gre remote 1.2.3.4 connection.zone foo connection.stable-id x ipv4.may-fail no",
    ] {
        add(line);
    }
    for name in ["all", ".", "a/b", "a%b", "toolongname12345678", "a b", "", "*"] {
        same(&["c", "a", "type", "ip-tunnel", "ifname", name, "mode", "gre", "remote", "1.2.3.4"]);
    }
    same(&words(
        "conn add con-name foo ifname bar type ip-t mode gre ip-t.rem 1.2.3.4 ipv4.meth man ipv4.addr 1.1.1.1/8",
    ));
    same(&words("c show"));
}

#[test]
fn g119_selectors_and_other_commands() {
    let command = |line: &str| nmcli::parse(&words(line)).map(|invocation| invocation.command);
    assert!(matches!(command("c up nosuch"), Ok(nmcli::Command::Up(selector)) if selector.text == "nosuch"));
    assert!(matches!(command("c d a uuid b"), Ok(nmcli::Command::Down(two)) if two.len() == 2));
    assert!(matches!(command("con del tun0"), Ok(nmcli::Command::Delete(one)) if one.len() == 1));
    assert!(matches!(command("-t -f NAME c"), Ok(nmcli::Command::Show { active: false, .. })));
    for line in
        ["", "d", "general", "c reload", "c add type bridge ifname br0", "c add type wifi", "-v", "c up help"]
    {
        assert_eq!(command(line), Ok(nmcli::Command::NotOurs), "{line}");
    }
    for (line, text, code) in [
        ("c up", "neither a valid connection nor device given.", 10),
        ("c down", "No connection specified.", 2),
        ("c delete", "No connection specified.", 10),
        ("c modify", "No connection specified.", 2),
        ("-x c", "Option '-x' is unknown, try 'nmcli -help'.", 2),
        ("-f", "missing argument for '-f' option.", 2),
        ("--wait x c up a", "'x' is not a valid timeout.", 2),
        ("-m foo c", "'foo' is not a valid argument for 'foo' option.", 2),
    ] {
        assert_eq!(command(line), Err(Refusal::new(text, code)), "{line}");
    }
}

#[test]
fn modify_adds_takes_away_and_says_what_is_wrong() {
    let mut profile = profile_of(GUIDE);
    let mut change = |words: &str| {
        let words = format!("c modify tun0 {words}");
        let words = words.split_whitespace().map(|word| word.replace('_', " ")).collect::<Vec<_>>();
        match nmcli::parse(&words).unwrap().command {
            nmcli::Command::Modify(modify) => modify.apply(&mut profile).map(|()| keyfile::emit(&profile)),
            other => panic!("{other:?}"),
        }
    };
    let text = change("+ipv4.routes 10.1.0.0/16_172.16.0.2 ip-tunnel.ttl 64").unwrap();
    assert!(text.contains("route1=10.1.0.0/16,172.16.0.2\n") && text.contains("ttl=64\n"), "{text}");
    let text =
        change("+ipv4.routes 10.2.0.0/16 -ipv4.routes 10.1.0.0/16_172.16.0.2 -ip-tunnel.ttl 64").unwrap();
    assert!(text.contains("route1=10.2.0.0/16\n") && !text.contains("ttl="), "{text}");
    assert!(!change("-ipv4.routes 0").unwrap().contains("route1"));
    assert!(change("remote 5.5.5.5 con-name foo").unwrap().contains("id=foo\n"));
    for (words, text) in [
        ("", "<setting>.<property> argument is missing."),
        ("ip-tunnel.ttl", "value for 'ip-tunnel.ttl' is missing."),
        ("ip-tunnel.ttl 500", "failed to modify ip-tunnel.ttl: '500' is out of range [0, 255]."),
        ("connection.type foo", "failed to modify connection.type: Can not change the connection type."),
        (
            "-ipv4.routes foo",
            "failed to remove a value from ipv4.routes: invalid route: Invalid IPv4 address 'foo'. The valid \
             syntax is: 'ip[/prefix] [next-hop] [metric] [attribute=val]... [,ip[/prefix] ...]'.",
        ),
    ] {
        assert_eq!(change(words), Err(Refusal::new(text, 2)), "{words}");
    }
}

/// A keyfile with these lines in `[ip-tunnel]` and `[ipv4]`.
fn file(tunnel: &str, ipv4: &str) -> String {
    format!(
        "[connection]\nid=tun0\nuuid={UUID}\ntype=ip-tunnel\ninterface-name=tun0\n\n[ip-tunnel]\n{tunnel}\n\n\
         [ipv4]\n{ipv4}\n"
    )
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_place() {
    let ends = "local=100.0.1.100\nremote=100.0.2.100\nmode=2";
    let manual = "address1=172.16.0.1/30\nmethod=manual";
    for (text, place, parts) in [
        (
            file("remote=1.2.3.4\nmode=5", manual),
            "f:9:6",
            &["ip-tunnel.mode 5 (vti) is not GRE and not greway's"][..],
        ),
        (file("remote=1.2.3.4\nmode=1", manual), "f:9:6", &["(ipip) is not GRE"]),
        (file("remote=1.2.3.4\nmode=gre", manual), "f:9:6", &["ip-tunnel.mode \"gre\"", "2 is gre"]),
        (file(ends, "method=auto"), "f:13:8", &["ipv4.method \"auto\"", "DHCP", "manual"]),
        (file(ends, "address1=172.16.0.1/30\nmethod=shared"), "f:14:8", &["ipv4.method \"shared\""]),
        (
            file(ends, &format!("{manual}\ndns=8.8.8.8;")),
            "f:15:5",
            &["ipv4.dns \"8.8.8.8;\" cannot be honoured"],
        ),
        (file(ends, &format!("{manual}\nroute-table=5")), "f:15:13", &["ipv4.route-table \"5\""]),
        (
            file(ends, &format!("{manual}\nroute1=10.0.0.0/8\nroute1_options=mtu=1400")),
            "f:15:8",
            &["mtu=1400"],
        ),
        (
            file(ends, &format!("{manual}\nroute2_options=src=1.1.1.1")),
            "f:15:16",
            &["a route that is not there"],
        ),
        (file(ends, &format!("{manual}\nadres1=1.1.1.1/8")), "f:15:1", &["unknown property ipv4.adres1"]),
        (
            file(&format!("{ends}\nremot=1.1.1.1"), manual),
            "f:11:1",
            &["ip-tunnel.remot", "is ip-tunnel.remote meant?"],
        ),
        (file(&format!("{ends}\nttl=300"), manual), "f:11:5", &["ip-tunnel.ttl \"300\"", "0 to 255"]),
        (
            file(&format!("{ends}\nttl=9\npath-mtu-discovery=false"), manual),
            "f:11:5",
            &["ip-tunnel.ttl: a fixed TTL is allowed only when path MTU discovery is enabled"],
        ),
        (
            file(&format!("{ends}\ninput-key=lichenhao"), manual),
            "f:11:11",
            &["'lichenhao' is not a valid tunnel key"],
        ),
        (
            file(&format!("{ends}\nparent={UUID}"), manual),
            "f:11:8",
            &["uuid of a profile", "name of its device"],
        ),
        (file(&format!("{ends}\npath-mtu-discovery=no"), manual), "f:11:20", &["true or false"]),
        (file("mode=2", manual), "f", &["ip-tunnel.remote: property is missing"]),
        (file(ends, "address1=172.16.0.1/33\nmethod=manual"), "f:13:10", &["ADDRESS/LENGTH[,GATEWAY]"]),
        (file(ends, &format!("{manual}\nroute1=10.0.0.0/8,x")), "f:15:8", &["NEXT-HOP"]),
        (format!("{}[bridge]\nstp=true\n", file(ends, manual)), "f:15:1", &["[bridge]"]),
        (
            file(ends, manual).replace("ip-tunnel\ni", "ethernet\ni"),
            "f:4:6",
            &["connection.type \"ethernet\""],
        ),
        (file(ends, manual).replace("type=ip-tunnel\n", ""), "f", &["connection.type is missing"]),
        (file(ends, manual).replace("interface-name=tun0\n", ""), "f", &["interface-name is missing"]),
        (
            file(ends, manual).replace("interface-name=tun0", "zone=home\ninterface-name=tun0"),
            "f:5:6",
            &["connection.zone"],
        ),
    ] {
        let error = keyfile::parse(&text, "f").unwrap_err().to_string();
        assert!(error.starts_with(&format!("{place}: ")), "{place}: {error}\n{text}");
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn what_the_spec_refuses_is_refused_with_its_place_too() {
    let text = file("remote=100.0.2.100\nlocal=100.0.2.100\nmode=2", "method=disabled");
    let error = keyfile::parse(&text, "f").unwrap().into_spec().unwrap_err().to_string();
    assert!(error.starts_with("f:8:8: tunnel tun0: remote"), "{error}");
}

/// The traffic class has the ECN bits in it; the lowest of a tos over IPv4 says "inherit" instead.
#[test]
fn a_tos_with_its_lowest_bit_is_refused_over_ipv6_and_means_inherit_over_ipv4() {
    for (mode, tos, right) in
        [(8, 17, false), (8, 1, false), (11, 255, false), (8, 16, true), (11, 254, true)]
    {
        let settings = format!("remote=fd00::2\nlocal=fd00::1\nmode={mode}\ntos={tos}");
        match keyfile::parse(&file(&settings, "method=disabled"), "f") {
            Ok(parsed) => {
                let spec = parsed.into_spec().unwrap();
                assert!(
                    right && spec.tos == Tos { inherit: false, value: tos },
                    "{mode} {tos}: {:?}",
                    spec.tos
                );
            }
            Err(error) => {
                let text = format!("ip-tunnel.tos \"{tos}\" has an ECN bit set; an even number is right");
                assert!(!right && error.to_string().ends_with(&text), "{mode} {tos}: {error}");
                assert_eq!(error.line, 11);
            }
        }
    }
    let ipv4 = file("remote=100.0.2.100\nmode=2\ntos=17", "method=disabled");
    let spec = keyfile::parse(&ipv4, "f").unwrap().into_spec().unwrap();
    assert_eq!(spec.tos, Tos { inherit: true, value: 16 });
}

#[test]
fn the_whole_of_a_keyfile() {
    let text = "# made by hand\n[connection]\n id = tun0 \ntype=ip-tunnel\ninterface-name=tun0\nautoconnect=false\n\
        timestamp=1700000000\npermissions=\n\n[ip-tunnel]\nencapsulation-limit=3\nflags=20\ninput-key=042\n\
        local=fd00::1\nmode=8\nmtu=1400\noutput-key=43\nparent=eth5\nremote=fd00::2\ntos=16\nttl=9\n\n\
        [ipv4]\naddress2=10.9.0.1/24\naddress1=172.16.0.1/30,172.16.0.2\nmethod=manual\nroute-metric=70\n\
        route1=10.10.3.1/24,172.16.0.2,100\nroute2=10.10.4.0/24\nroute2_options=table=5,src=172.16.0.1\n\n\
        [ipv6]\naddr-gen-mode=stable-privacy\naddress1=fd01::1/64\nmethod=manual\nmtu=1300\nroute1=fd02::/48\n\n\
        [user]\nnote=x\n\n[proxy]\n";
    let parsed = keyfile::parse(text, "f").unwrap();
    assert!(!parsed.onboot);
    let warnings = parsed.warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    let masked = "f:28:8: warning: ipv4.routes \"10.10.3.1/24 172.16.0.2 100\" is taken as 10.10.3.0/24";
    assert!(warnings.len() == 1 && warnings[0].starts_with(masked), "{warnings:?}");
    let spec = parsed.into_spec().unwrap();
    assert_eq!((spec.mode, spec.ttl, spec.encaplimit), (Mode::Ip6Gre, Ttl::Fixed(9), Some(3)));
    assert_eq!((spec.flowlabel, spec.dscp_inherit), (FlowLabel::Inherit, true));
    assert_eq!((spec.ikey, spec.okey, spec.mtu), (Some(42), Some(43), Some(1400)));
    assert_eq!(
        (spec.tos, spec.dev.as_ref().map(|dev| dev.as_str())),
        (Tos { inherit: false, value: 16 }, Some("eth5"))
    );
    let inner = spec.inner.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(inner, ["172.16.0.1/30", "10.9.0.1/24", "fd01::1/64"]);
    let routes = spec.inner.routes.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        routes,
        [
            "10.10.3.0/24 via 172.16.0.2 metric 100",
            "10.10.4.0/24 metric 70 src 172.16.0.1 table 5",
            "0.0.0.0/0 via 172.16.0.2 metric 70",
            "fd02::/48",
        ]
    );
    assert_eq!(spec.inner.ipv6_mtu, Some(1300));
}

#[test]
fn a_field_without_a_property_is_an_error_that_names_it() {
    let spec = |change: &dyn Fn(&mut Draft)| {
        let mut draft = Draft::new("tun0".parse().unwrap(), [100, 0, 1, 100].into(), [100, 0, 2, 100].into());
        change(&mut draft);
        draft.into_spec().unwrap()
    };
    let peer =
        DraftAddress { local: [172, 16, 0, 1].into(), peer: Some([172, 16, 0, 2].into()), prefix_length: 30 };
    type Change<'c> = &'c dyn Fn(&mut Draft);
    let cases: [(&str, Change<'_>); 11] = [
        ("icsum", &|draft| draft.icsum = Some(true.into())),
        ("ocsum", &|draft| draft.ocsum = Some(true.into())),
        ("iseq", &|draft| draft.iseq = Some(true.into())),
        ("oseq", &|draft| draft.oseq = Some(true.into())),
        ("fwmark \"0x7\"", &|draft| draft.fwmark = Some(7.into())),
        ("inner peer \"172.16.0.2\"", &|draft| draft.addresses = Some(vec![peer.into()])),
        ("inner forward", &|draft| draft.forward = Some(true.into())),
        ("firewall \"bypass\"", &|draft| {
            draft.firewall = Some(greway_spec::FirewallPolicy::Bypass.into());
        }),
        ("direct \"on\"", &|draft| draft.direct = Some(true.into())),
        ("seq-mode \"rfc2890\"", &|draft| {
            draft.seq_mode = Some(greway_spec::SeqMode::Rfc2890.into());
        }),
        ("inner route \"10.0.0.0/8\"", &|draft| {
            draft.routes = Some(vec![DraftRoute::to([10, 0, 0, 0].into(), 8).into()]);
        }),
    ];
    for (field, change) in cases {
        let spec = spec(change);
        let identity = Identity::of(&spec);
        let error = keyfile::render(&spec, &identity).unwrap_err().to_string();
        assert!(error.starts_with(&format!("tunnel tun0: {field}")), "{field}: {error}");
        assert_eq!(nmcli::render(&spec, &identity).unwrap_err().to_string(), error);
    }
}

#[test]
fn a_peer_in_its_own_network_can_be_left_out() {
    let mut draft = Draft::new("tun0".parse().unwrap(), [100, 0, 1, 100].into(), [100, 0, 2, 100].into());
    let address =
        |peer, prefix_length| DraftAddress { local: [172, 16, 0, 1].into(), peer: Some(peer), prefix_length };
    draft.addresses = Some(vec![address([172, 16, 0, 2].into(), 30).into()]);
    let spec = draft.clone().into_spec().unwrap();
    let (plain, notes) = without_peers(&spec);
    assert_eq!(plain.inner.addresses[0].to_string(), "172.16.0.1/30");
    assert!(
        notes.len() == 1 && notes[0].contains("172.16.0.1/30 stands for 172.16.0.1 peer 172.16.0.2/30"),
        "{notes:?}"
    );
    assert_eq!(plain.inner.addresses[0].connected(), spec.inner.addresses[0].connected());
    // Outside of it the route would be another one.
    draft.addresses = Some(vec![address([10, 0, 0, 1].into(), 32).into()]);
    let spec = draft.into_spec().unwrap();
    assert_eq!(without_peers(&spec), (spec, Vec::new()));
}

#[test]
fn ready_to_paste() {
    let line = "c a type ip-tunnel con-name it's ifname tun0 mode gre remote 100.0.2.100 local 100.0.1.100 \
        ip-tunnel.ttl 64 ip-tunnel.input-key 7 ipv4.method manual ipv4.addresses 172.16.0.1/30 ipv6.method ignore";
    let mut profile = profile_of(line);
    profile.assign("ipv4", "routes", "10.10.2.0/24 172.16.0.2 5, 10.10.3.0/24").unwrap();
    let spec = profile.draft("f", Dhcp::Refused).unwrap().0.into_spec().unwrap();
    let identity = Identity { id: profile.id(), ..Identity::of(&spec) };
    assert_eq!(
        nmcli::render(&spec, &identity).unwrap(),
        "nmcli connection add type ip-tunnel con-name 'it'\\''s' ifname tun0 mode gre ipv4.method manual \
         ipv4.addresses 172.16.0.1/30 ipv4.routes '10.10.2.0/24 172.16.0.2 5, 10.10.3.0/24' ipv6.method ignore \
         local 100.0.1.100 remote 100.0.2.100 ip-tunnel.ttl 64 ip-tunnel.input-key 7"
    );
}

fn ipv4() -> impl Strategy<Value = IpAddr> {
    (1..=223_u8, any::<[u8; 2]>(), 1..=254_u8).prop_map(|(a, [b, c], d)| IpAddr::from([a, b, c, d]))
}

fn ipv6() -> impl Strategy<Value = IpAddr> {
    any::<[u8; 15]>().prop_map(|tail| {
        let mut octets = [0xfd; 16];
        octets[1..].copy_from_slice(&tail);
        IpAddr::from(octets)
    })
}

prop_compose! {
    /// Any tunnel that NetworkManager has words for.
    fn sayable()(
        mode in prop::sample::select(Mode::ALL.to_vec()),
        v4 in prop::collection::vec(ipv4(), 2),
        v6 in prop::collection::vec(ipv6(), 2),
        any_end in (any::<bool>(), any::<bool>()),
        keys in (any::<Option<u32>>(), any::<Option<u32>>()),
        ttl in any::<u8>(),
        tos in (any::<u8>(), any::<bool>()),
        pmtudisc in any::<bool>(),
        limit in any::<Option<u8>>(),
        label in prop::option::of(0..0x10_0000_u32),
        dscp_inherit in any::<bool>(),
        dev in any::<bool>(),
        mtu in prop::option::of(1280..9000_u32),
        inner in prop::collection::btree_map(ipv4(), 0..=32_u8, 0..3),
        inner6 in prop::collection::btree_map(ipv6(), 0..=128_u8, 0..3),
        routes in prop::collection::btree_map((ipv4(), 1..=32_u8), (any::<Option<u32>>(), any::<bool>()), 0..3),
        routes6 in prop::collection::btree_map((ipv6(), 1..=128_u8), prop::option::of(256..9999_u32), 0..3),
    ) -> Option<TunnelSpec> {
        let over_ipv6 = mode.over_ipv6();
        let ends = if over_ipv6 { v6 } else { v4 };
        let mut draft = Draft {
            name: Some("tun0".parse().unwrap()).map(|name: greway_spec::DeviceName| name.into()),
            mode: Some(mode.into()),
            ..Draft::default()
        };
        let any_address: IpAddr = if over_ipv6 { [0_u16; 8].into() } else { [0_u8; 4].into() };
        draft.local = Some(if any_end.0 { any_address } else { ends[0] }.into());
        draft.remote = Some(if any_end.1 { any_address } else { ends[1] }.into());
        (draft.ikey, draft.okey) = (Some(keys.0.into()), Some(keys.1.into()));
        draft.pmtudisc = Some((over_ipv6 || pmtudisc).into());
        draft.ttl = Some(if over_ipv6 || pmtudisc { Ttl::from(ttl) } else { Ttl::Inherit }.into());
        draft.tos = Some(Tos { inherit: tos.1, value: tos.0 & !1 }.into());
        if over_ipv6 {
            draft.encaplimit = Some(limit.into());
            draft.flowlabel = Some(label.map_or(FlowLabel::Inherit, FlowLabel::Fixed).into());
            draft.dscp_inherit = Some(dscp_inherit.into());
        }
        draft.dev = Some(dev.then(|| "eth5".parse().unwrap()).into());
        draft.mtu = Some(mtu.into());
        let addresses = inner.into_iter().chain(inner6);
        let addresses = addresses.map(|(local, prefix_length)| DraftAddress { local, peer: None, prefix_length }.into());
        draft.addresses = Some(addresses.collect());
        let masked = |address, length| greway_spec::Prefix::containing(address, length).address;
        let v4_routes = routes.into_iter().map(|((to, length), (metric, source))| DraftRoute {
            metric,
            source: source.then_some([192, 0, 2, 1].into()),
            ..DraftRoute::to(masked(to, length), length)
        }.into());
        let v6_routes = routes6.into_iter().map(|((to, length), table)| DraftRoute {
            table,
            ..DraftRoute::to(masked(to, length), length)
        }.into());
        draft.routes = Some(v4_routes.chain(v6_routes).collect());
        // Two equal routes, or IPv4 routes without an address: not of this property.
        let spec = draft.into_spec().ok()?;
        let v4 = |address: &IpAddr| address.is_ipv4();
        let routed = spec.inner.routes.iter().any(|route| v4(&route.destination.address));
        (!routed || spec.inner.addresses.iter().any(|inner| v4(&inner.local))).then_some(spec)
    }
}

/// The words of a command line, as a shell splits them.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

proptest! {
    #[test]
    fn round_trips(spec in sayable()) {
        let Some(spec) = spec else { return Ok(()) };
        let identity = Identity::of(&spec);
        let same = |mut read: TunnelSpec| {
            read.origin = Origin::default();
            assert_eq!(read, spec);
        };
        let text = keyfile::render(&spec, &identity).unwrap_or_else(|error| panic!("{error}"));
        // Flags over IPv6 are for later versions than the 1.42 that verifies here; all else passes.
        let parsed = keyfile::parse(&text, "f").unwrap_or_else(|error| panic!("{error}\n{text}"));
        same(parsed.into_spec().unwrap_or_else(|error| panic!("{error}\n{text}")));

        let line = nmcli::render(&spec, &identity).unwrap();
        let words = split(&line);
        let nmcli::Command::Add(add) = nmcli::parse(&words[1..]).unwrap_or_else(|error| panic!("{error}\n{line}")).command
            else { panic!("{line}") };
        prop_assert!(add.profile.verified().is_ok(), "{:?}\n{line}", add.profile.verified());
        same(add.profile.draft("f", Dhcp::Refused).unwrap().0.into_spec().unwrap());
    }

    #[test]
    fn noise_is_read_or_refused(text in "(\\[(connection|ip-tunnel|ipv4)\\]\n|(type|mode|remote|address1|method|route1)=[a-z0-9./;,-]{0,12}\n){0,12}") {
        if let Err(error) = keyfile::parse(&text, "f") {
            prop_assert!(error.to_string().starts_with('f'));
        }
    }
}

/// What is rendered means the same to the real one: it prints the same keyfile for the line as we write.
#[test]
fn rendered_lines_as_the_real_one_reads_them() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut held = 0;
    while held < 12 {
        let tree = sayable().new_tree(&mut runner).unwrap();
        let Some(spec) = tree.current() else { continue };
        // Flags over IPv6 came with 1.48.
        if spec.mode.over_ipv6()
            && (spec.tos.inherit
                || spec.dscp_inherit
                || spec.encaplimit.is_none()
                || spec.flowlabel == FlowLabel::Inherit)
        {
            continue;
        }
        held += 1;
        let identity = Identity::of(&spec);
        let words = split(&nmcli::render(&spec, &identity).unwrap());
        let Some(real) = real(&words[1..].iter().map(String::as_str).collect::<Vec<_>>()) else {
            without_it();
            return;
        };
        let ours = keyfile::render(&spec, &identity).unwrap().replace(&identity.uuid, UUID);
        assert_eq!((real.stdout, real.stderr.as_str()), (ours, ""), "{words:?}");
    }
}

/// The guide's profile as NetworkManager 1.42.4 showed it, in full.
#[test]
fn shown_as_the_real_one_shows_it() {
    use greway_dialects::networkmanager::show::{Shown, details, list};
    let mut profile = profile_of(GUIDE);
    profile.assign("connection", "uuid", UUID).unwrap();
    let shown = Shown { profile: &profile, device: None };
    for (option, expected) in [
        ("-e yes", include_str!("networkmanager_show/pretty.txt")),
        ("-t", include_str!("networkmanager_show/terse.txt")),
    ] {
        let options = nmcli::parse(&words(&format!("{option} c show tun0"))).unwrap().options;
        assert_eq!(details(&shown, &options).unwrap(), expected, "{option}");
    }
    let table = format!(
        "NAME  UUID                                  TYPE       DEVICE \ntun0  {UUID}  ip-tunnel  --     \n"
    );
    for (option, expected) in [
        ("-e yes", table.as_str()),
        ("-f name,device", "NAME  DEVICE \ntun0  --     \n"),
        ("-t -f NAME,DEVICE", "tun0:\n"),
        ("-g name", "tun0\n"),
    ] {
        let options = nmcli::parse(&words(&format!("{option} c"))).unwrap().options;
        assert_eq!(list(std::slice::from_ref(&shown), &options).unwrap(), expected, "{option}");
    }
    let options = nmcli::parse(&words("-f foo c")).unwrap().options;
    let error = list(&[], &options).unwrap_err();
    assert!(
        error.text.starts_with("Error: invalid field 'foo'; allowed fields: NAME,UUID,TYPE,")
            && error.code == 2
    );
}
