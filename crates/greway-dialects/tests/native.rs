//! Our own files: what they say, what is refused with which place, and the way back.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_dialects::native::{parse, render};
use greway_dialects::{Diagnostic, Parsed};
use greway_spec::{
    DatapathChoice, DeviceName, FirewallPolicy, FlowLabel, Inner, InnerAddress, InnerNeighbour, InnerRoute,
    Mode, MssClamp, Origin, OverlayChoice, Prefix, SeqMode, Tos, Ttl, TunnelSpec, UnderlayChoice,
};
use proptest::prelude::*;

const FILE: &str = "/etc/greway/tunnels.d/tun0.toml";

fn read(text: &str) -> Parsed {
    parse(text, FILE).unwrap_or_else(|error| panic!("{}", error.render(text)))
}

fn spec(text: &str) -> TunnelSpec {
    read(text).into_spec().unwrap_or_else(|error| panic!("{}", error.render(text)))
}

fn refused(text: &str) -> Diagnostic {
    parse(text, FILE).and_then(Parsed::into_carried_spec).expect_err(text)
}

#[test]
fn the_smallest_file() {
    let parsed = read("remote = \"100.0.2.100\"");
    assert!(parsed.onboot);
    assert_eq!(parsed.warnings, []);
    let spec = parsed.into_spec().unwrap();
    assert_eq!(spec.describe(), "tun0: gre/ip remote 100.0.2.100 local any ttl inherit");
    assert_eq!(spec.origin, Origin::File(FILE.to_owned()));
}

#[test]
fn every_key() {
    let text = r#"
        name = "gre-a"
        mode = "gre"
        local = "100.0.1.100"
        remote = "100.0.2.100"
        ikey = 1
        okey = "0.0.0.2"
        icsum = true
        oseq = true
        ttl = "inherit"
        tos = "inherit/CS6"
        pmtudisc = false
        ignore_df = true
        dev = "eth0"
        mtu = 1400
        datapath = "userspace"
        underlay = "packet"
        overlay = "veth"
        firewall = "bypass"
        seq_mode = "rfc2890"
        onboot = false
        strict_keys = true

        [inner]
        address = "172.16.0.1"
        peer = "172.16.0.2/30"
        routes = ["10.10.2.0/24", { to = "10.10.3.0/24", via = "172.16.0.2", metric = 50 }, "10.10.4.4", "default"]
        forward = true
        snat = "10.10.2.1"
    "#;
    let parsed = read(text);
    assert!(!parsed.onboot);
    let spec = parsed.into_spec().unwrap();
    assert_eq!(
        spec.describe(),
        "gre-a: gre/ip remote 100.0.2.100 local 100.0.1.100 dev eth0 ttl inherit tos inherit/CS6 nopmtudisc ikey 1 okey 2"
    );
    assert_eq!([spec.icsum, spec.ocsum, spec.iseq, spec.oseq], [true, false, false, true]);
    assert_eq!((spec.ignore_df, spec.mtu, spec.seq_mode), (true, Some(1400), SeqMode::Rfc2890));
    assert_eq!((spec.datapath, spec.underlay), (DatapathChoice::Userspace, UnderlayChoice::Packet));
    assert_eq!((spec.overlay, spec.firewall), (OverlayChoice::Veth, FirewallPolicy::Bypass));
    assert!(!spec.direct);
    assert_eq!(spec.inner.addresses[0].to_string(), "172.16.0.1 peer 172.16.0.2/30");
    let routes: Vec<_> = spec.inner.routes.iter().map(ToString::to_string).collect();
    assert_eq!(
        routes,
        ["10.10.2.0/24", "10.10.3.0/24 via 172.16.0.2 metric 50", "10.10.4.4/32", "0.0.0.0/0"]
    );
    assert_eq!((spec.inner.forward, spec.inner.snat), (true, Some(Ipv4Addr::new(10, 10, 2, 1))));
}

#[test]
fn values_in_their_forms() {
    let with = |line: &str| spec(&format!("remote = \"1.2.3.4\"\n{line}"));
    assert_eq!((with("key = 42").ikey, with("key = 42").okey), (Some(42), Some(42)));
    assert_eq!(with("key = 0x2a").okey, Some(42));
    assert_eq!(with("key = \"052\"").okey, Some(42));
    assert_eq!(with("key = 0").ikey, Some(0));
    assert_eq!(with("tos = 0x10").tos, Tos { inherit: false, value: 0x10 });
    assert_eq!(with("tos = \"CS6\"").tos, Tos { inherit: false, value: 0xc0 });
    assert_eq!(with("tos = 1").tos, Tos { inherit: true, value: 0 });
    assert_eq!(with("ttl = 64").ttl, Ttl::Fixed(64));
    assert_eq!(with("ttl = 0").ttl, Ttl::Inherit);
    assert_eq!(with("mtu = \"auto\"").mtu, None);
    assert_eq!(with("local = \"any\"").local, None);
    let seq = with("seq = true\ncsum = true");
    assert_eq!([seq.icsum, seq.ocsum, seq.iseq, seq.oseq], [true; 4]);
    let several = with(
        "[inner]\naddresses = [\"10.0.0.1/24\", { address = \"172.16.0.1\", peer = \"172.16.0.2/30\" }, \"fd00::1/64\"]",
    );
    let printed: Vec<_> = several.inner.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(printed, ["10.0.0.1/24", "172.16.0.1 peer 172.16.0.2/30", "fd00::1/64"]);
}

#[test]
fn a_textual_key() {
    let text = "remote = \"1.2.3.4\"\nkey = \"lichenhao\"\n";
    let parsed = read(text);
    let [warning] = parsed.warnings.as_slice() else { panic!("{:?}", parsed.warnings) };
    assert!(
        warning.to_string().starts_with(
            "/etc/greway/tunnels.d/tun0.toml:2:7: warning: tunnel tun0: key \"lichenhao\" is not a number; using \
             63077743 (0x03c27d6f); a peer that is not greway must be given that number"
        ),
        "{warning}"
    );
    assert_eq!(parsed.into_spec().unwrap().ikey, Some(63_077_743));
    let strict = refused(&format!("strict_keys = true\n{text}"));
    assert_eq!((strict.line, strict.column), (3, 7));
    assert!(strict.message.contains("key \"lichenhao\" is no key: 0 to 4294967295"), "{strict}");
}

#[test]
fn the_prefix_length_of_our_own_address_is_not_used() {
    let text = "remote = \"1.2.3.4\"\n[inner]\naddress = \"172.16.0.1/30\"\npeer = \"172.16.0.2\"\n";
    let parsed = read(text);
    assert!(parsed.warnings[0].message.contains("here /32"), "{}", parsed.warnings[0]);
    assert_eq!(parsed.into_spec().unwrap().inner.addresses[0].to_string(), "172.16.0.1 peer 172.16.0.2/32");
    let agreeing =
        read("remote = \"1.2.3.4\"\n[inner]\naddress = \"172.16.0.1/30\"\npeer = \"172.16.0.2/30\"\n");
    assert_eq!(agreeing.warnings, []);
}

#[test]
fn refused_with_line_and_column() {
    const OF_THE_HOST: &str =
        "it is about the host and not about one tunnel; its place is /etc/greway/greway.toml";
    let cases = [
        ("remot = \"1.2.3.4\"", 1, 1, "unknown key \"remot\"", Some("is \"remote\" meant?")),
        (
            "remote = \"1.2.3.4\"\nignore-df = true",
            2,
            1,
            "unknown key \"ignore-df\"",
            Some("is \"ignore_df\" meant?"),
        ),
        (
            "remote = \"1.2.3.4\"\n[inner]\nrouts = []",
            3,
            1,
            "unknown key \"inner.routs\"",
            Some("is \"routes\" meant?"),
        ),
        ("remote = \"1.2.3.4\"\nbusy-poll = 5", 2, 1, "unknown key \"busy-poll\"", Some(OF_THE_HOST)),
        (
            "remote = \"1.2.3.4\"\n[daemon]\nsteer = \"rps\"",
            2,
            2,
            "unknown key \"daemon\"",
            Some(OF_THE_HOST),
        ),
        (
            "remote = \"1.2.3.4\"\nremote = \"1.2.3.5\"",
            2,
            1,
            "the key remote is there twice: once is right",
            None,
        ),
        ("remote = \"1.2.3", 1, 16, "", None),
        ("remote = 1.2", 1, 10, "remote \"1.2\" is wrong: a string is right", None),
        ("remote = \"010.0.0.1\"", 1, 10, "remote \"010.0.0.1\" is wrong: an IPv4 address", None),
        ("remote = \"fd00::1\"", 1, 10, "remote \"fd00::1\": is of the wrong family", None),
        ("mode = \"gretap\"\nremote = \"any\"", 2, 10, "remote \"any\": is not for mode gretap", None),
        (
            "remote = \"any\"\nunderlay = \"packet\"",
            2,
            12,
            "underlay \"packet\": cannot be with remote any",
            None,
        ),
        (
            "remote = \"any\"\nfirewall = \"bypass\"",
            2,
            12,
            "firewall \"bypass\": cannot be with remote any",
            None,
        ),
        (
            "remote = \"any\"\n[[inner.neighbours]]\naddress = \"10.0.0.2\"",
            2,
            1,
            "inner.neighbours: an entry without endpoint",
            None,
        ),
        (
            "remote = \"1.2.3.4\"\n[inner]\nneighbours = [{ address = \"10.0.0.2\", endpoint = \"1.2.3.5\" }]",
            3,
            15,
            "inner neighbour \"10.0.0.2\": is for tunnels of modes gre and ip6gre with remote any",
            None,
        ),
        ("", 0, 0, "remote: is missing", None),
        ("name = \"a/b\"", 1, 8, "name \"a/b\" is wrong: 1 to 15 bytes", None),
        ("mode = \"ipip\"", 1, 8, "mode \"ipip\" is wrong: gre or ip6gre or", None),
        ("key = 4294967296", 1, 7, "key \"4294967296\" is wrong: 0 to 4294967295", None),
        ("key = -1", 1, 7, "key \"-1\" is wrong", None),
        ("key = \"4294967296\"", 1, 7, "key \"4294967296\" is no key", None),
        ("key = 99999999999999999999", 1, 7, "key \"99999999999999999999\" is wrong", None),
        ("key = true", 1, 7, "key \"true\" is wrong: a number or a string is right", None),
        ("key = 1\nikey = 2", 2, 8, "ikey beside key", None),
        ("csum = true\nocsum = false", 2, 9, "ocsum beside csum", None),
        ("csum = \"yes\"", 1, 8, "csum \"yes\" is wrong: true or false is right", None),
        ("ttl = 256", 1, 7, "ttl \"256\" is wrong: 1 to 255", None),
        ("ttl = \"64\"", 1, 7, "ttl \"64\" is wrong", None),
        ("tos = \"zz\"", 1, 7, "tos \"zz\" is wrong", None),
        ("mtu = 20\nremote = \"1.2.3.4\"", 1, 7, "mtu \"20\": 68 to 65511 is right", None),
        ("seq_mode = \"tcp\"", 1, 12, "seq_mode \"tcp\" is wrong: linux or rfc2890 is right", None),
        ("datapath = \"fast\"", 1, 12, "datapath \"fast\" is wrong: auto or ebpf or userspace", None),
        ("inner = 1", 1, 9, "inner \"1\" is wrong: a table", None),
        ("[inner]\npeer = \"172.16.0.2/30\"", 2, 8, "inner.peer without inner.address", None),
        (
            "[inner]\naddress = \"1.1.1.1\"\naddresses = []",
            3,
            13,
            "inner.addresses beside inner.address",
            None,
        ),
        ("[inner]\naddress = \"172.16.0.1/x\"", 2, 11, "inner.address \"172.16.0.1/x\" is wrong", None),
        ("[inner]\naddresses = [{ peer = \"1.1.1.1\" }]", 2, 14, "without address", None),
        (
            "remote = \"1.2.3.4\"\n[inner]\nroutes = [\"10.10.2.1/24\"]",
            3,
            11,
            "inner route \"10.10.2.1/24\": has bits set beyond its prefix length; 10.10.2.0/24 is right",
            None,
        ),
        ("[inner]\nroutes = [\"x\"]", 2, 11, "inner.routes \"x\" is wrong: a destination such as", None),
        ("[inner]\nroutes = \"10.0.0.0/8\"", 2, 10, "an array of routes is right", None),
        ("[inner]\nroutes = [{ via = \"1.1.1.1\" }]", 2, 11, "without to", None),
        (
            "[inner]\nroutes = [{ to = \"10.0.0.0/8\", metric = -1 }]",
            2,
            41,
            "inner.routes.metric \"-1\" is wrong",
            None,
        ),
        (
            "[inner]\nroutes = [{ to = \"10.0.0.0/8\", gw = 1 }]",
            2,
            32,
            "unknown key \"inner.routes.gw\"",
            None,
        ),
        ("[inner]\nsnat = \"x\"", 2, 8, "inner.snat \"x\" is wrong", None),
    ];
    for (text, line, column, part, help) in cases {
        let error = refused(text);
        assert!(error.message.contains(part), "{text}: {error}");
        assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
        assert_eq!(error.file, FILE);
        if help.is_some() {
            assert_eq!(error.help.as_deref(), help, "{text}");
        }
    }
    let nameless = parse("remote = \"1.2.3.4\"", "/tmp/a name with blanks.toml").unwrap_err();
    assert!(nameless.message.contains("is no device name, and there is no key name"), "{nameless}");
}

#[test]
fn errors_show_the_line() {
    let text = "remote = \"1.2.3.4\"\nttl = 256\n";
    assert_eq!(
        refused(text).render(text),
        "/etc/greway/tunnels.d/tun0.toml:2:7: tunnel tun0: ttl \"256\" is wrong: 1 to 255, or \"inherit\", is \
         right\n2 | ttl = 256\n  |       ^\n"
    );
}

#[test]
fn rendered_without_defaults() {
    let text = "remote = \"100.0.2.100\"\nlocal = \"100.0.1.100\"\nkey = 42\n[inner]\naddress = \"172.16.0.1\"\npeer = \"172.16.0.2/30\"\nroutes = [\"10.10.2.0/24\"]\n";
    assert_eq!(
        render(&spec(text)),
        "name = \"tun0\"\nmode = \"gre\"\nlocal = \"100.0.1.100\"\nremote = \"100.0.2.100\"\nkey = 42\n\n[inner]\naddress = \"172.16.0.1\"\npeer = \"172.16.0.2/30\"\nroutes = [\n    \"10.10.2.0/24\",\n]\n"
    );
}

fn device_name() -> impl Strategy<Value = DeviceName> {
    prop_oneof!["[a-zäöü\"'\\\\#=.,{}$-]{1,7}", "[a-z]{2}[0-9]{1,3}"].prop_filter_map(
        "a name that is free",
        |text| {
            let reserved = ["all", "default", "lo", "gre0", "gretap0", "erspan0"].contains(&text.as_str());
            text.parse().ok().filter(|_| !reserved)
        },
    )
}

fn inner() -> impl Strategy<Value = Inner> {
    let v4 = |network: u8| (1..=254_u8).prop_map(move |host| Ipv4Addr::new(172, 16, network, host));
    let with_peer = (v4(0), v4(1), 0..=32_u8).prop_map(|(local, peer, prefix_length)| InnerAddress {
        local: local.into(),
        peer: Some(peer.into()),
        prefix_length,
    });
    let alone = (v4(2), 0..=32_u8).prop_map(|(local, prefix_length)| InnerAddress {
        local: local.into(),
        peer: None,
        prefix_length,
    });
    let v6 = (1..=u16::MAX, 0..=128_u8).prop_map(|(host, prefix_length)| InnerAddress {
        local: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host).into(),
        peer: None,
        prefix_length,
    });
    let addresses = (proptest::option::of(with_peer), proptest::option::of(alone), proptest::option::of(v6))
        .prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect::<Vec<_>>());
    let route = (any::<IpAddr>(), 0..=128_u8, any::<bool>(), any::<Option<u32>>()).prop_map(
        |(address, length, via, metric)| {
            let next_hop: IpAddr = if address.is_ipv4() {
                Ipv4Addr::new(172, 16, 9, 9).into()
            } else {
                Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1).into()
            };
            let destination = Prefix::containing(address, length);
            InnerRoute { via: via.then_some(next_hop), metric, ..InnerRoute::to(destination) }
        },
    );
    let routes = proptest::collection::vec(route, 0..4).prop_map(|mut routes: Vec<InnerRoute>| {
        let mut seen = Vec::new();
        routes.retain(|route| {
            let identity = (route.destination, route.metric);
            let new = !seen.contains(&identity);
            seen.push(identity);
            new
        });
        routes
    });
    (addresses, routes, any::<bool>(), any::<bool>()).prop_map(|(addresses, routes, forward, snat)| {
        let has_peer = addresses.iter().any(|address| address.peer.is_some());
        let snat = (snat && has_peer).then_some(Ipv4Addr::new(10, 10, 2, 1));
        Inner { addresses, routes, forward, snat, ..Inner::default() }
    })
}

/// A neighbour for each inner address, where the tunnel may have any.
fn neighbours(may: bool, over_ipv6: bool, inner: &Inner) -> Vec<InnerNeighbour> {
    let endpoint = |number: u8| match over_ipv6 {
        true => Ipv4Addr::new(100, 0, 3, number).to_ipv6_mapped().into(),
        false => IpAddr::from([100, 0, 3, number]),
    };
    let addresses = inner.addresses.iter().zip(1..).filter(|_| may);
    let mut neighbours = Vec::<InnerNeighbour>::new();
    for (inner, number) in addresses {
        let address = inner.peer.unwrap_or(inner.local);
        if !neighbours.iter().any(|known| known.address == address) {
            neighbours.push(InnerNeighbour { address, endpoint: endpoint(number) });
        }
    }
    neighbours
}

prop_compose! {
    fn any_spec()(
        (name, dev) in (device_name(), proptest::option::of(device_name())).prop_filter("two devices", |(name, dev)| Some(name) != dev.as_ref()),
        local in proptest::option::of((1..=254_u8).prop_map(|host| Ipv4Addr::new(100, 0, 1, host))),
        remote in (1..=254_u8).prop_map(|host| Ipv4Addr::new(100, 0, 2, host)),
        (ikey, okey, one_key) in any::<(Option<u32>, Option<u32>, bool)>(),
        [icsum, ocsum, iseq, oseq, in_order] in any::<[bool; 5]>(),
        (ttl, pmtudisc, ignore_df) in any::<(u8, bool, bool)>(),
        (tos_inherit, tos_value) in any::<(bool, u8)>(),
        mtu in proptest::option::of(1280..=65_000_u32),
        datapath in prop_oneof![Just(DatapathChoice::Auto), Just(DatapathChoice::Ebpf), Just(DatapathChoice::Userspace)],
        underlay in prop_oneof![Just(UnderlayChoice::Auto), Just(UnderlayChoice::Packet), Just(UnderlayChoice::Raw)],
        overlay in prop_oneof![Just(OverlayChoice::Auto), Just(OverlayChoice::Veth), Just(OverlayChoice::Tun)],
        firewall in prop_oneof![Just(FirewallPolicy::Honour), Just(FirewallPolicy::Bypass)],
        mss in prop_oneof![Just(MssClamp::Auto), Just(MssClamp::Off), (1..=u16::MAX).prop_map(MssClamp::Fixed)],
        mode in proptest::sample::select(Mode::ALL.to_vec()),
        (encaplimit, flowlabel, inherit_flowlabel) in any::<(Option<u8>, u32, bool)>(),
        direct in any::<bool>(),
        (dscp_inherit, allow_localremote, fwmark, any_remote) in any::<(bool, bool, u32, bool)>(),
        inner in inner(),
    ) -> TunnelSpec {
        let over_ipv6 = mode.over_ipv6();
        let pmtudisc = pmtudisc || over_ipv6;
        let of_family = |address: Ipv4Addr| match over_ipv6 {
            true => IpAddr::V6(address.to_ipv6_mapped()),
            false => IpAddr::V4(address),
        };
        let flowlabel = match inherit_flowlabel {
            true => FlowLabel::Inherit,
            false => FlowLabel::Fixed(flowlabel & 0xf_ffff),
        };
        TunnelSpec {
            name,
            mode,
            local: local.map(of_family),
            remote: (!any_remote).then(|| of_family(remote)),
            encaplimit: encaplimit.filter(|_| over_ipv6),
            flowlabel: if over_ipv6 { flowlabel } else { FlowLabel::default() },
            dscp_inherit: dscp_inherit && over_ipv6,
            allow_localremote: allow_localremote && over_ipv6,
            fwmark,
            ikey,
            okey: if one_key { ikey } else { okey },
            icsum,
            ocsum,
            iseq,
            oseq,
            seq_mode: if in_order { SeqMode::Rfc2890 } else { SeqMode::Linux },
            ttl: if pmtudisc { Ttl::from(ttl) } else { Ttl::Inherit },
            tos: Tos { inherit: tos_inherit, value: tos_value & !1 },
            pmtudisc,
            ignore_df: ignore_df && !pmtudisc,
            dev,
            mtu,
            datapath,
            // What anybody may send into is not passed by.
            underlay: if any_remote && underlay == UnderlayChoice::Packet { UnderlayChoice::Raw } else { underlay },
            overlay,
            firewall,
            // Not with what keeps a tunnel from the programs.
            direct: direct && datapath != DatapathChoice::Userspace && underlay == UnderlayChoice::Auto && overlay != OverlayChoice::Tun,
            mss,
            inner: Inner { neighbours: neighbours(any_remote && !mode.is_ethernet(), over_ipv6, &inner), ..inner },
            origin: Origin::File("x.toml".to_owned()),
        }
    }
}

proptest! {
    #[test]
    fn what_is_rendered_reads_the_same(spec in any_spec()) {
        let text = render(&spec);
        let parsed = parse(&text, "x.toml").map_err(|error| TestCaseError::fail(error.render(&text)))?;
        prop_assert_eq!(&parsed.warnings, &[]);
        let again = parsed.into_spec().map_err(|error| TestCaseError::fail(error.render(&text)))?;
        prop_assert_eq!(again, spec, "{}", text);
    }

    #[test]
    fn noise_is_refused_with_a_place_inside(text in "[a-z\\[\\]\"'=.,{}0-9#\n /\\\\ä-]{0,60}") {
        for file in ["x.toml", "ifcfg-x"] {
            if let Err(error) = greway_dialects::parse(&text, file) {
                let lines = text.split('\n').count();
                prop_assert!(error.line as usize <= lines, "{error}");
                prop_assert!(!error.message.is_empty());
                prop_assert!(error.render(&text).starts_with(file));
            }
        }
    }
}

#[test]
fn rules_tables_and_the_link() {
    let text = "remote = \"100.0.2.100\"\n\n[inner]\nlink = \"down\"\nipv6_mtu = 1300\n\
                rules = [\"from 10.10.1.0/24 table 100\", \"-6 iif tun0 prohibit\", \"to fd00::/8 priority 5 table 9\"]\n";
    let spec = parse(text, FILE).and_then(Parsed::into_spec).unwrap();
    assert!(spec.inner.link_down);
    assert_eq!(spec.inner.ipv6_mtu, Some(1300));
    assert_eq!(spec.inner.rules.iter().map(|rule| rule.ipv6).collect::<Vec<_>>(), [false, true, true]);
    let again = parse(&render(&spec), FILE).and_then(Parsed::into_spec).unwrap();
    assert_eq!(again, spec, "{}", render(&spec));
    let text = "remote = \"100.0.2.100\"\n[inner]\nroutes = [{ to = \"default\", src = \"172.16.0.1\", table = 100 }]\n";
    let spec = parse(text, FILE).and_then(Parsed::into_spec).unwrap();
    assert_eq!(spec.inner.routes[0].to_string(), "0.0.0.0/0 src 172.16.0.1 table 100");
    let again = parse(&render(&spec), FILE).and_then(Parsed::into_spec).unwrap();
    assert_eq!(again, spec, "{}", render(&spec));
    for (line, place, part) in [
        ("rules = [\"from x table 1\"]", "3:10", "inner.rules \"from x table 1\" is wrong: from \"x\""),
        ("rules = [\"from 10.0.0.0/8 goto 5\"]", "3:10", "\"goto\" is not there"),
        ("rules = \"from all\"", "3:9", "an array of rules"),
        ("link = \"off\"", "3:8", "\"up\" or \"down\" is right"),
        ("ipv6_mtu = 100", "3:12", "1280 to 65535 is right"),
        ("routes = [{ to = \"10.0.0.0/8\", table = 255 }]", "3:18", "254 is main"),
        ("link = \"down\"\nroutes = [\"10.0.0.0/8\"]", "4:11", "needs a device that is up"),
    ] {
        let error = refused(&format!("remote = \"100.0.2.100\"\n[inner]\n{line}\n")).to_string();
        assert!(error.contains(&format!(":{place}: ")) && error.contains(part), "{line}: {error}");
    }
}
