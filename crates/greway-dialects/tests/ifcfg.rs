//! The guide's file and its variations (the golden rows of ifcfg).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use greway_dialects::ifcfg::{self, Files, Kind, Tables, Text, companions, survey};
use greway_dialects::{Diagnostic, Parsed, parse};
use greway_spec::{Mode, Origin, Ttl, TunnelSpec};

const FILE: &str = "/etc/sysconfig/network-scripts/ifcfg-tun0";

const G01: &str = "\
DEVICE=tun0
ONBOOT=yes
TYPE=GRE
PEER_OUTER_IPADDR=100.0.2.100
PEER_INNER_IPADDR=172.16.0.2/30
MY_OUTER_IPADDR=100.0.1.100
MY_INNER_IPADDR=172.16.0.1
KEY=lichenhao
BOOTPROTO=none
";

/// The guide's file with `line` at the end or in place of the line of the same variable.
fn with(lines: &[&str]) -> String {
    let mut text = G01.to_owned();
    for line in lines {
        let name = line.split_inclusive('=').next().unwrap();
        text = text.lines().filter(|old| !old.starts_with(name)).map(|old| format!("{old}\n")).collect();
        text += &format!("{line}\n");
    }
    text
}

fn without(name: &str) -> String {
    G01.lines()
        .filter(|line| !line.starts_with(&format!("{name}=")))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn read(text: &str) -> Parsed {
    ifcfg::parse(text, FILE).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn spec(text: &str) -> TunnelSpec {
    read(text).into_spec().unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> Diagnostic {
    ifcfg::parse(text, FILE).and_then(Parsed::into_carried_spec).expect_err(text)
}

#[test]
fn g01_the_guide_as_it_is() {
    let parsed = parse(G01, FILE).unwrap();
    assert!(parsed.onboot);
    let [warning] = parsed.warnings.as_slice() else { panic!("{:?}", parsed.warnings) };
    assert_eq!(
        warning.to_string(),
        "/etc/sysconfig/network-scripts/ifcfg-tun0:8:5: warning: tunnel tun0: KEY \"lichenhao\" is not a number; \
         using 63077743 (0x03c27d6f); a peer that is not greway must be given that number; the key is sent in \
         clear and is no password"
    );
    let spec = parsed.into_spec().unwrap();
    assert_eq!(spec.describe(), "tun0: gre/ip remote 100.0.2.100 local 100.0.1.100 ttl inherit key 63077743");
    assert!(spec.pmtudisc);
    assert_eq!(spec.overhead(), 28);
    assert_eq!(spec.inner.addresses.len(), 1);
    assert_eq!(spec.inner.addresses[0].to_string(), "172.16.0.1 peer 172.16.0.2/30");
    assert_eq!(spec.origin, Origin::File(FILE.to_owned()));
}

#[test]
fn g88_key_ttl_mtu() {
    let parsed = read(&with(&["KEY=42", "TTL=64", "MTU=1400"]));
    assert_eq!(parsed.warnings, []);
    let spec = parsed.into_spec().unwrap();
    assert_eq!(spec.describe(), "tun0: gre/ip remote 100.0.2.100 local 100.0.1.100 ttl 64 key 42");
    assert_eq!((spec.ttl, spec.mtu), (Ttl::Fixed(64), Some(1400)));
}

#[test]
fn g89_inner_peer_that_is_the_outer_peer() {
    let parsed = read(&with(&["KEY=42", "PEER_INNER_IPADDR=100.0.2.100"]));
    assert!(parsed.warnings[0].message.contains("is left out"), "{}", parsed.warnings[0]);
    assert_eq!(parsed.into_spec().unwrap().inner.addresses[0].to_string(), "172.16.0.1/32");
}

#[test]
fn g90_reserved_names() {
    for name in ["gre0", "tunl0", "ip6tnl0"] {
        let error = refused(&with(&[&format!("DEVICE={name}")]));
        assert_eq!(error.message, format!("Device '{name}' isn't supported as a valid GRE device name."));
        assert_eq!(error.line, 9);
    }
    assert!(refused(&with(&["DEVICE=erspan0"])).message.contains("reserved name"));
}

#[test]
fn g92_g93_onboot() {
    for word in ["no", "NO", "n", "off", "False", "f", "0"] {
        assert!(!read(&with(&[&format!("ONBOOT={word}")])).onboot, "{word}");
    }
    for word in ["yes", "y", "true", "1", "on", "t", "maybe", ""] {
        assert!(read(&with(&[&format!("ONBOOT={word}")])).onboot, "{word}");
    }
    assert!(read(&without("ONBOOT")).onboot);
}

#[test]
fn g94_without_an_outer_peer_there_are_many() {
    let text = without("PEER_OUTER_IPADDR");
    let spec = spec(&text);
    assert_eq!(spec.remote, None);
    assert_eq!(spec.describe(), "tun0: gre/ip remote any local 100.0.1.100 ttl inherit key 63077743");
    assert_eq!(spec.carried(), Ok(()));
    let explicit = read(&with(&["PEER_OUTER_IPADDR=any"])).into_spec().unwrap();
    assert_eq!((explicit.remote, explicit.carried()), (None, Ok(())));
}

#[test]
fn g100_gre6() {
    let text = "DEVICE=tun6\nTYPE=GRE6\nMY_OUTER_IPADDR=2001:db8::1\nPEER_OUTER_IPADDR=2001:db8::2\n\
                MY_INNER_IPADDR=172.16.0.1\nPEER_INNER_IPADDR=172.16.0.2/30\nKEY=42\n";
    let parsed = read(text);
    assert_eq!(parsed.warnings, []);
    let spec = parsed.into_spec().unwrap();
    assert_eq!(spec.mode, Mode::Ip6Gre);
    assert_eq!(spec.describe(), "tun6: gre/ipv6 remote 2001:db8::2 local 2001:db8::1 ttl 64 key 42");
    assert_eq!(spec.carried(), Ok(()));
    let mixed = refused(&text.replace("2001:db8::2", "100.0.2.100"));
    assert!(
        mixed.message.contains("remote \"100.0.2.100\": is of the wrong family; an IPv6 address"),
        "{mixed}"
    );
}

#[test]
fn other_types_are_not_ours() {
    for (kind, part) in [
        ("IPIP", "a tunnel of another kind"),
        ("SIT", "a tunnel of another kind"),
        ("gre", "capitals"),
        ("Ethernet", "is no tunnel"),
    ] {
        let text = with(&[&format!("TYPE={kind}")]);
        assert_eq!(survey(&text).kind, Kind::Other, "{kind}");
        let error = refused(&text);
        assert!(
            error.message.contains(&format!("TYPE \"{kind}\"")) && error.message.contains(part),
            "{error}"
        );
    }
    assert_eq!(survey(G01).kind, Kind::Gre);
    assert!(refused(&without("TYPE")).message.contains("TYPE is missing"));
    assert!(refused(&without("DEVICE")).message.contains("DEVICE is missing"));
}

#[test]
fn g98_quoting() {
    for line in ["KEY=\"42\" # c", "KEY='42'", "KEY=42;"] {
        assert_eq!(spec(&with(&[line])).ikey, Some(42), "{line}");
    }
    let error = refused(&with(&["KEY=$(cat /etc/key)"]));
    assert_eq!((error.line, error.column), (9, 5));
    assert_eq!(error.file, FILE);
}

#[test]
fn wrong_values_have_their_place() {
    for (line, column, part) in [
        ("KEY=4294967296", 5, "KEY \"4294967296\" is no key: 0 to 4294967295"),
        ("KEY=1.2.3.400", 5, "KEY \"1.2.3.400\" is no key: up to four numbers"),
        ("TTL=256", 5, "TTL \"256\" is wrong"),
        ("MTU=big", 5, "MTU \"big\" is wrong"),
        ("MTU=20", 5, "mtu \"20\": 68 to 65507 is right"),
        ("DEVICE=a/b", 8, "DEVICE \"a/b\" is wrong"),
        ("MY_OUTER_IPADDR=100.0.2.100", 19, "remote \"100.0.2.100\": is the local address too"),
        ("PEER_OUTER_IPADDR=peer.example", 19, "PEER_OUTER_IPADDR \"peer.example\" is wrong"),
        ("PEER_OUTER_IPADDR=fd00::1", 19, "is of the wrong family"),
        ("MY_INNER_IPADDR=172.16.0.1/33", 17, "MY_INNER_IPADDR \"172.16.0.1/33\" is wrong"),
        ("PEER_INNER_IPADDR=foo", 19, "PEER_INNER_IPADDR \"foo\" is wrong"),
        ("PEER_INNER_IPADDR=100.0.2.100/30", 19, "is the peer's outer address too"),
    ] {
        let error = refused(&with(&[line]));
        assert!(error.message.contains(part), "{line}: {error}");
        assert!(error.message.contains("tun") || line.starts_with("DEVICE"), "{line}: {error}");
        assert_eq!(error.column, column, "{line}: {error}");
    }
}

#[test]
fn a_word_on_what_has_no_effect() {
    for (line, part) in [
        ("ZONE=trusted", "ZONE is not there yet and has no effect"),
        ("IPV6FORWARDING=yes", "IPV6FORWARDING is not there yet"),
        ("PEER_INNER_ADDRESS=172.16.0.2", "unknown variable PEER_INNER_ADDRESS has no effect"),
        ("TUNNEL_TTL=64", "unknown variable TUNNEL_TTL has no effect"),
        ("OKEYS=5", "is OKEY meant?"),
        ("GATEWAY=10.0.0.1", "GATEWAY has no meaning for a tunnel"),
        ("PEER_OUTER_IPADR=1.2.3.4", "is PEER_OUTER_IPADDR meant?"),
        ("TOS=CS6", "the network-scripts ignore it"),
    ] {
        let parsed = read(&with(&["KEY=42", line]));
        assert_eq!(parsed.warnings.len(), 1, "{line}: {:?}", parsed.warnings);
        assert!(parsed.warnings[0].message.contains(part), "{line}: {}", parsed.warnings[0]);
    }
    for line in [
        "NAME=tun0",
        "NM_CONTROLLED=no",
        "USERCTL=no",
        "IPV6INIT=no",
        "IPV6INIT=yes",
        "ZONE=",
        "UUID=1-2",
        "SITE_OWNER=me",
    ] {
        assert_eq!(read(&with(&["KEY=42", line])).warnings, [], "{line}");
    }
}

#[test]
fn extensions() {
    let parsed = read(&with(&["IKEY=1", "OKEY=2", "TOS=inherit/c0", "CSUM=yes", "SEQ=no", "PHYSDEV=eth0"]));
    assert_eq!(
        parsed.into_spec().unwrap().describe(),
        "tun0: gre/ip remote 100.0.2.100 local 100.0.1.100 dev eth0 ttl inherit tos inherit/CS6 ikey 1 okey 2"
    );
    assert!(spec(&with(&["CSUM=yes"])).icsum);
    assert!(!spec(&with(&["PMTUDISC=no"])).pmtudisc);
}

#[test]
fn without_inner_addresses() {
    let none: String =
        G01.lines().filter(|line| !line.contains("_INNER_")).map(|l| format!("{l}\n")).collect();
    assert_eq!(spec(&none).inner.addresses, []);
    let only_peer = read(&without("MY_INNER_IPADDR"));
    assert!(only_peer.warnings.iter().any(|warning| warning.message.contains("no effect without")));
    let own_only = spec(&without("PEER_INNER_IPADDR").replace("172.16.0.1", "172.16.0.1/30"));
    assert_eq!(own_only.inner.addresses[0].to_string(), "172.16.0.1/30");
    assert_eq!(spec(&without("MY_OUTER_IPADDR")).local, None);
}

/// Files about tun0, by their names in the scripts' directory, and the names of the host's tables.
fn together(network: &str, keys: &str, beside: &[(&str, &str)]) -> Result<Parsed, Diagnostic> {
    let mut tables = Tables::default();
    tables.extend("100 vpn\n");
    fn named<'a>(file: &'a str, text: &'a str) -> Option<Text<'a>> {
        (!text.is_empty()).then_some(Text { file, text })
    }
    ifcfg::parse_files(&Files {
        network: named("/etc/sysconfig/network", network),
        ifcfg: Text { file: FILE, text: G01 },
        keys: named("keys-tun0", keys),
        beside: beside.iter().map(|(file, text)| Text { file, text }).collect(),
        tables: &tables,
    })
}

#[test]
fn the_global_file_is_below_and_the_keys_are_above() {
    let parsed = together("NETWORKING=yes\nMTU=1400\nKEY=1\nTTL=9\n", "KEY=7\n", &[]).unwrap();
    // Neither GATEWAY of the whole host nor the overridden KEY is worth a word, the derived one is gone.
    assert_eq!(parsed.warnings, []);
    let spec = parsed.into_spec().unwrap();
    assert_eq!((spec.mtu, spec.ttl, spec.ikey), (Some(1400), Ttl::Fixed(9), Some(7)));
}

#[test]
fn the_global_file_may_be_shell_where_it_is_about_other_things() {
    let shell = "HOSTNAME=$(hostname)\nNTPSERVERS=(a b)\nGATEWAY=10.0.0.1\n";
    assert_eq!(together(shell, "KEY=7\n", &[]).unwrap().warnings, []);
    for (text, place) in [
        ("A=1\nTTL=$(cat ttl)\n", "/etc/sysconfig/network:2:5: "),
        ("if true; then\nTTL=5\nfi\n", "/etc/sysconfig/network:1:3: "),
        (". /etc/more\n", "/etc/sysconfig/network:1:1: "),
    ] {
        let error = together(text, "", &[]).expect_err(text).to_string();
        assert!(error.starts_with(place), "{error}");
    }
    let error = together("TTL=300\n", "", &[]).unwrap_err().to_string();
    assert!(error.starts_with("/etc/sysconfig/network:1:5: tunnel tun0: TTL \"300\" is wrong"), "{error}");
    let error = together("", "KEY=99999999999\n", &[]).unwrap_err().to_string();
    assert!(error.starts_with("keys-tun0:1:5: tunnel tun0: KEY \"99999999999\""), "{error}");
}

#[test]
fn routes_and_rules_of_the_files_beside() {
    let beside = [
        ("route-tun0", "10.10.2.0/24 dev tun0\ndefault dev tun0 table vpn\n"),
        ("route6-tun0", "fd00:2::/64 dev tun0 metric 9\n"),
        ("tun0.route", "ADDRESS0=10.20.0.0\nNETMASK0=255.255.0.0\n"),
        ("rule-tun0", "from 10.10.1.0/24 lookup vpn\n"),
        ("rule6-tun0", "iif tun0 prohibit\n"),
    ];
    let spec = together("", "KEY=7\n", &beside).unwrap().into_spec().unwrap();
    let routes = spec.inner.routes.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(routes, ["10.10.2.0/24", "0.0.0.0/0 table 100", "fd00:2::/64 metric 9", "10.20.0.0/16"]);
    let rules = spec.inner.rules.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(rules, ["from 10.10.1.0/24 table 100", "from all iif tun0 prohibit"]);
    assert_eq!(spec.inner.rules.iter().map(|rule| rule.ipv6).collect::<Vec<_>>(), [false, true]);
    // One wrong line anywhere refuses the whole.
    for (file, text, place) in [
        ("route-tun0", "10.10.2.0/24 dev tun0\n10.10.3.1/24 dev tun0\n", "route-tun0:2:1: "),
        ("rule-tun0", "from 10.10.1.0/24 lookup dsl\n", "rule-tun0:1:26: "),
        ("rule-tun0", "from 10.0.0.0/8 table 1\nfrom 10.0.0.0/8 table 1\n", "rule-tun0:2:1: "),
    ] {
        let error = together("", "", &[(file, text)]).and_then(Parsed::into_spec).expect_err(text);
        assert!(error.to_string().starts_with(place), "{error}");
    }
    let none = together("NOROUTESET=yes\n", "", &beside).unwrap().into_spec().unwrap();
    assert!(none.inner.routes.is_empty() && none.inner.rules.is_empty());
}

#[test]
fn g97_a_numbered_file_without_its_first_is_skipped_with_a_warning() {
    let beside = [("route-tun0", "ADDRESS1=10.10.2.0\nNETMASK1=255.255.255.0\n")];
    let parsed = together("", "KEY=7\n", &beside).unwrap();
    let warnings = parsed.warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    let wanted =
        "route-tun0:1: warning: ADDRESS1 and what follows has no effect, because ADDRESS0 is missing";
    assert_eq!(warnings, [wanted]);
    assert!(parsed.into_spec().unwrap().inner.routes.is_empty());
}

#[test]
fn which_files_belong_to_a_tunnel() {
    let same = ["route-tun0", "route6-tun0", "tun0.route", "rule-tun0", "rule6-tun0"];
    assert_eq!(companions("tun0", "tun0"), same);
    let two = companions("tun0", "branch");
    assert_eq!(two.len(), 9);
    assert!(two.contains(&"route6-branch".to_owned()) && two.contains(&"branch.route".to_owned()), "{two:?}");
}

#[test]
fn ipv6_inside() {
    let lines = ["KEY=42", "IPV6ADDR=fd00::1", "IPV6ADDR_SECONDARIES='fd01::1/48 fd02::1'", "IPV6_MTU=1300"];
    let parsed = read(&with(&lines));
    assert_eq!(parsed.warnings, []);
    let spec = parsed.into_spec().unwrap();
    let addresses = spec.inner.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(addresses, ["172.16.0.1 peer 172.16.0.2/30", "fd00::1/64", "fd01::1/48", "fd02::1/64"]);
    assert_eq!(spec.inner.ipv6_mtu, Some(1300));
    let mut off = lines.to_vec();
    off.push("IPV6INIT=no");
    let spec = read(&with(&off)).into_spec().unwrap();
    assert_eq!((spec.inner.addresses.len(), spec.inner.ipv6_mtu), (1, None));
    for (line, part) in [
        ("IPV6ADDR=172.16.0.9", "IPV6ADDR \"172.16.0.9\" is wrong"),
        ("IPV6ADDR_SECONDARIES='fd00::2 x'", "IPV6ADDR_SECONDARIES \"x\" is wrong"),
        ("IPV6_MTU=1000", "inner ipv6_mtu \"1000\": 1280 to 65535 is right"),
    ] {
        let error = refused(&with(&[line]));
        assert!(error.message.contains(part) && error.line == 10, "{line}: {error}");
    }
}

#[test]
fn the_default_route_where_it_is_this_tunnels() {
    for (lines, route) in [
        (vec!["IPV6_DEFAULTDEV=tun0"], Some("::/0")),
        (vec!["IPV6_DEFAULTDEV=eth0"], None),
        (vec!["IPV6_DEFAULTGW=fe80::2%tun0"], Some("::/0 via fe80::2")),
        (vec!["IPV6_DEFAULTGW=fe80::2%eth0", "IPV6_DEFAULTDEV=tun0"], None),
        (vec!["IPV6_DEFAULTGW=fd00::2", "IPV6_DEFAULTDEV=tun0"], Some("::/0 via fd00::2")),
        (vec!["IPV6_DEFAULTGW=fd00::2"], Some("::/0 via fd00::2")),
        (vec!["IPV6_DEFAULTGW=::", "IPV6_DEFAULTDEV=tun0"], Some("::/0")),
    ] {
        let spec = spec(&with(&lines));
        let routes = spec.inner.routes.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(routes.first().map(String::as_str), route, "{lines:?}");
    }
    let global = together("IPV6_DEFAULTGW=fd00::2\n", "", &[]).unwrap().into_spec().unwrap();
    assert!(global.inner.routes.is_empty(), "of a device that nobody named");
}

#[test]
fn linkstatus_and_strict_keys() {
    assert!(spec(&with(&["LINKSTATUS=down"])).inner.link_down);
    assert!(!spec(&with(&["LINKSTATUS=Down"])).inner.link_down, "the scripts know one word");
    let error = refused(&with(&["LINKSTATUS=down", "IPV6_DEFAULTDEV=tun0"]));
    assert!(error.message.contains("needs a device that is up"), "{error}");
    let error = refused(&with(&["STRICT_KEYS=yes"]));
    assert!(error.message.contains("KEY \"lichenhao\" is no key") && error.line == 8, "{error}");
}

#[test]
fn variables_that_bash_assigned() {
    let values =
        [("DEVICE", "tun0"), ("TYPE", "GRE"), ("PEER_OUTER_IPADDR", "100.0.2.100"), ("PWD", "/"), ("_", "x")];
    let values = values
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect::<BTreeMap<_, _>>();
    let parsed = ifcfg::parse_values(&values, FILE, &[], &Tables::default()).unwrap();
    assert_eq!(parsed.warnings, []);
    assert_eq!(
        parsed.into_spec().unwrap().describe(),
        "tun0: gre/ip remote 100.0.2.100 local any ttl inherit"
    );
}
