//! The guide's file and its variations (the golden rows of ifcfg).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]


use greway_dialects::{Diagnostic, Parsed, ifcfg, parse};
use greway_spec::{Origin, Ttl, TunnelSpec};

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
fn g94_g100_not_there_yet() {
    let nbma = refused(&without("PEER_OUTER_IPADDR"));
    assert!(nbma.message.contains("PEER_OUTER_IPADDR is missing"), "{nbma}");
    for (kind, part) in [
        ("GRE6", "is not there yet"),
        ("IPIP", "is not there yet"),
        ("gre", "capitals"),
        ("Ethernet", "is no tunnel"),
    ] {
        let error = refused(&with(&[&format!("TYPE={kind}")]));
        assert!(
            error.message.contains(&format!("TYPE \"{kind}\"")) && error.message.contains(part),
            "{error}"
        );
    }
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
        ("PEER_OUTER_IPADDR=any", 19, "explicit peer"),
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
        ("IPV6INIT=yes", "IPV6INIT is not there yet"),
        ("GATEWAY=10.0.0.1", "GATEWAY has no meaning for a tunnel"),
        ("PEER_OUTER_IPADR=1.2.3.4", "is PEER_OUTER_IPADDR meant?"),
        ("TOS=CS6", "the network-scripts ignore it"),
    ] {
        let parsed = read(&with(&["KEY=42", line]));
        assert_eq!(parsed.warnings.len(), 1, "{line}: {:?}", parsed.warnings);
        assert!(parsed.warnings[0].message.contains(part), "{line}: {}", parsed.warnings[0]);
    }
    for line in ["NAME=tun0", "NM_CONTROLLED=no", "USERCTL=no", "IPV6INIT=no", "ZONE=", "UUID=1-2"] {
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
