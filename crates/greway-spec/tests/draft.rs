//! Which drafts become tunnels, what they become, and what is said about the others.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr};

use greway_spec::{
    Change, Conflict, Draft, DraftAddress, DraftRoute, FirewallPolicy, FlowLabel, Given, InnerNeighbour,
    Mode, OverlayChoice, Problem, RecreateReason, SeqMode, Span, SpecError, Tos, Ttl, TunnelSpec,
    UnderlayChoice,
};

fn draft() -> Draft {
    let remote = Ipv4Addr::new(1, 2, 3, 4);
    Draft::new("tun1".parse().unwrap(), Ipv4Addr::new(5, 6, 7, 8), remote)
}

fn spec(fill: impl FnOnce(&mut Draft)) -> TunnelSpec {
    refine(fill).unwrap()
}

fn refine(fill: impl FnOnce(&mut Draft)) -> Result<TunnelSpec, SpecError> {
    let mut draft = draft();
    fill(&mut draft);
    draft.into_carried_spec()
}

/// As the model sees it, whatever this version carries.
fn refine_model(fill: impl FnOnce(&mut Draft)) -> Result<TunnelSpec, SpecError> {
    let mut draft = draft();
    fill(&mut draft);
    draft.into_spec()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn given<T>(value: T) -> Option<Given<T>> {
    Some(value.into())
}

fn address(local: &str, peer: Option<&str>, prefix_length: u8) -> Option<Vec<Given<DraftAddress>>> {
    Some(vec![DraftAddress { local: ip(local), peer: peer.map(ip), prefix_length }.into()])
}

fn route(destination: &str, length: u8, via: Option<&str>) -> Given<DraftRoute> {
    DraftRoute { via: via.map(ip), ..DraftRoute::to(ip(destination), length) }.into()
}

#[test]
fn defaults_are_those_of_iproute2() {
    let spec = spec(|_| {});
    assert_eq!(spec.mode, Mode::Gre);
    assert_eq!(
        (spec.ttl, spec.tos, spec.pmtudisc, spec.ignore_df),
        (Ttl::Inherit, Tos::default(), true, false)
    );
    assert_eq!((spec.ikey, spec.okey, spec.mtu), (None, None, None));
    assert_eq!([spec.icsum, spec.ocsum, spec.iseq, spec.oseq], [false; 4]);
    assert_eq!(spec.describe(), "tun1: gre/ip remote 1.2.3.4 local 5.6.7.8 ttl inherit");
    assert_eq!(spec.overhead(), 24);
}

#[test]
fn an_unspecified_local_is_any() {
    let any = spec(|draft| draft.local = given(ip("0.0.0.0")));
    assert_eq!(any.local, None);
    assert_eq!(any, spec(|draft| draft.local = None));
    assert_eq!(any.describe(), "tun1: gre/ip remote 1.2.3.4 local any ttl inherit");
}

type Fill = fn(&mut Draft);

fn neighbour(address: &str, endpoint: &str) -> Option<Vec<Given<InnerNeighbour>>> {
    Some(vec![InnerNeighbour { address: ip(address), endpoint: ip(endpoint) }.into()])
}

#[test]
fn refused_with_what_would_be_right() {
    let cases: [(&str, Fill); 39] = [
        ("tunnel: name: is missing", |d| d.name = None),
        ("tunnel gre0: name \"gre0\": is a reserved name", |d| d.name = given("gre0".parse().unwrap())),
        ("tunnel gretap0: name \"gretap0\": is a reserved", |d| d.name = given("gretap0".parse().unwrap())),
        ("tunnel erspan0: name \"erspan0\": is a reserved", |d| d.name = given("erspan0".parse().unwrap())),
        ("tunnel all: name \"all\": is a reserved name", |d| d.name = given("all".parse().unwrap())),
        ("tunnel tun1: remote: is missing; give the outer address", |d| d.remote = None),
        ("remote \"any\": is not for mode gretap: an Ethernet tunnel has one far end", |d| {
            (d.mode, d.remote) = (given(Mode::Gretap), given(ip("0.0.0.0")));
        }),
        ("overlay \"tun\": cannot be with remote any: a TUN device has no neighbours", |d| {
            (d.remote, d.overlay) = (given(ip("0.0.0.0")), given(OverlayChoice::Tun));
        }),
        ("underlay \"packet\": cannot be with a group as remote: anybody may send into it", |d| {
            (d.remote, d.underlay) = (given(ip("224.1.2.3")), given(UnderlayChoice::Packet));
        }),
        ("firewall \"bypass\": cannot be with remote any: anybody may send into it", |d| {
            (d.remote, d.firewall) = (given(ip("0.0.0.0")), given(FirewallPolicy::Bypass));
        }),
        ("inner neighbour \"10.0.0.2\": is for tunnels of modes gre and ip6gre with remote any", |d| {
            d.neighbours = neighbour("10.0.0.2", "203.0.113.5");
        }),
        ("inner neighbour \"224.0.0.1\": is no address of a host", |d| {
            (d.remote, d.neighbours) = (given(ip("0.0.0.0")), neighbour("224.0.0.1", "203.0.113.5"));
        }),
        ("inner neighbour endpoint \"fd00::5\": is of the wrong family; an IPv4 address", |d| {
            (d.remote, d.neighbours) = (given(ip("0.0.0.0")), neighbour("10.0.0.2", "fd00::5"));
        }),
        ("inner neighbour endpoint \"239.1.1.1\": is no address of a host", |d| {
            (d.remote, d.neighbours) = (given(ip("0.0.0.0")), neighbour("10.0.0.2", "239.1.1.1"));
        }),
        ("inner neighbour \"10.0.0.2\": is there twice", |d| {
            let one = InnerNeighbour { address: ip("10.0.0.2"), endpoint: ip("203.0.113.5") };
            (d.remote, d.neighbours) = (given(ip("0.0.0.0")), Some(vec![one.into(), one.into()]));
        }),
        ("remote \"255.255.255.255\": is no address of a host", |d| d.remote = given(ip("255.255.255.255"))),
        ("remote \"fd00::1\": is of the wrong family; an IPv4 address", |d| d.remote = given(ip("fd00::1"))),
        ("local \"fd00::1\": is of the wrong family; an IPv4 address", |d| d.local = given(ip("fd00::1"))),
        ("local \"224.0.0.1\": is no address of a host", |d| d.local = given(ip("224.0.0.1"))),
        ("remote \"5.6.7.8\": is the local address too", |d| d.remote = given(ip("5.6.7.8"))),
        ("ignore-df: needs nopmtudisc", |d| d.ignore_df = given(true)),
        ("mtu \"67\": 68 to 65511 is right", |d| d.mtu = given(Some(67))),
        ("mtu \"65512\": 68 to 65511 is right", |d| d.mtu = given(Some(65_512))),
        ("mtu \"65508\": 68 to 65507 is right", |d| {
            (d.mtu, d.okey) = (given(Some(65_508)), given(Some(0)));
        }),
        ("mtu \"1279\": is less than the 1280", |d| {
            (d.mtu, d.addresses) = (given(Some(1279)), address("fd00::1", None, 64));
        }),
        ("dev \"tun1\": is the tunnel itself", |d| d.dev = given(Some("tun1".parse().unwrap()))),
        ("inner address \"172.16.0.2/33\": a prefix length of 0 to 32", |d| {
            d.addresses = address("172.16.0.1", Some("172.16.0.2"), 33);
        }),
        ("inner address \"0.0.0.0\": is no address of a host", |d| {
            d.addresses = address("0.0.0.0", None, 32);
        }),
        ("inner peer \"fd00::2\": is of the wrong family; an IPv4 address", |d| {
            d.addresses = address("172.16.0.1", Some("fd00::2"), 30);
        }),
        ("inner peer \"172.16.0.1\": is our own inner address", |d| {
            d.addresses = address("172.16.0.1", Some("172.16.0.1"), 30);
        }),
        ("inner peer \"1.2.3.4\": is the peer's outer address too", |d| {
            d.addresses = address("172.16.0.1", Some("1.2.3.4"), 32);
        }),
        ("inner address \"172.16.0.1/30\": is there twice", |d| {
            let one = DraftAddress { local: ip("172.16.0.1"), peer: None, prefix_length: 30 };
            d.addresses = Some(vec![one.into(), one.into()]);
        }),
        ("inner route \"10.10.2.1/24\": has bits set beyond its prefix length; 10.10.2.0/24 is right", |d| {
            d.routes = Some(vec![route("10.10.2.1", 24, None)]);
        }),
        ("inner route \"fd00::1/0\": has bits set beyond its prefix length; ::/0 is right", |d| {
            d.routes = Some(vec![route("fd00::1", 0, None)]);
        }),
        ("inner route \"10.10.2.0/24\": is there twice", |d| {
            d.routes = Some(vec![route("10.10.2.0", 24, None), route("10.10.2.0", 24, None)]);
        }),
        ("inner route via \"fd00::1\": is of the wrong family; an IPv4", |d| {
            d.routes = Some(vec![route("10.10.2.0", 24, Some("fd00::1"))]);
        }),
        ("inner route via \"172.16.0.1\": is this host's own inner address", |d| {
            d.addresses = address("172.16.0.1", Some("172.16.0.2"), 30);
            d.routes = Some(vec![route("10.10.2.0", 24, Some("172.16.0.1"))]);
        }),
        ("inner snat \"10.10.2.1\": needs an inner IPv4 address with a peer", |d| {
            (d.snat, d.addresses) = (given(ip("10.10.2.1")), address("172.16.0.2", None, 30));
        }),
        ("inner snat \"fd00::1\": is of the wrong family", |d| d.snat = given(ip("fd00::1"))),
    ];
    for (expected, fill) in cases {
        let message = refine(fill).expect_err(expected).to_string();
        assert!(message.contains(expected), "wanted {expected:?}, got {message:?}");
        assert!(message.starts_with("tunnel"), "{message}");
    }
}

#[test]
fn the_error_keeps_the_place() {
    let span = Span::File { file: "tun1.toml".into(), line: 3, column: 10 };
    let error = refine(|d| d.remote = Some(Given::at(ip("5.6.7.8"), span.clone()))).unwrap_err();
    assert_eq!(error.span, Some(span));
    assert_eq!(error.problem, Problem::SameEnds);
    assert_eq!((error.field, error.value.as_deref()), ("remote", Some("5.6.7.8")));
}

#[test]
fn the_inside_of_the_guide() {
    let spec = spec(|d| {
        d.addresses = address("172.16.0.2", Some("172.16.0.1"), 30);
        d.routes = Some(vec![route("10.10.1.0", 24, None), route("0.0.0.0", 0, Some("172.16.0.1"))]);
        (d.forward, d.snat) = (given(true), given(ip("10.10.2.1")));
    });
    let address = &spec.inner.addresses[0];
    assert_eq!(address.to_string(), "172.16.0.2 peer 172.16.0.1/30");
    assert_eq!(address.connected().to_string(), "172.16.0.0/30");
    assert!(address.connected().contains(ip("172.16.0.3")));
    assert!(!address.connected().contains(ip("172.16.0.4")));
    let routes: Vec<_> = spec.inner.routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["10.10.1.0/24", "0.0.0.0/0 via 172.16.0.1"]);
    assert_eq!((spec.inner.forward, spec.inner.snat), (true, Some(Ipv4Addr::new(10, 10, 2, 1))));
}

#[test]
fn a_spec_is_its_own_draft() {
    let spec = spec(|d| {
        (d.ikey, d.tos) = (given(Some(0)), given(Tos { inherit: true, value: 0xc0 }));
        (d.pmtudisc, d.ignore_df, d.mtu) = (given(false), given(true), given(Some(1400)));
        d.seq_mode = given(SeqMode::Rfc2890);
        d.addresses = address("172.16.0.1", Some("172.16.0.2"), 30);
        d.routes = Some(vec![route("10.10.2.0", 24, None)]);
        (d.snat, d.local) = (given(ip("10.10.2.1")), None);
    });
    assert_eq!(Draft::from(&spec).into_spec(), Ok(spec));
}

#[test]
fn g34_change_keeps_what_it_does_not_name() {
    let present = spec(|d| {
        (d.icsum, d.ocsum, d.iseq, d.oseq) = (given(true), given(true), given(true), given(true));
    });
    let change =
        Draft { ttl: given(Ttl::Fixed(5)), ikey: given(Some(9)), okey: given(Some(9)), ..Draft::default() };
    let changed = change.overlay_on(&present).unwrap();
    assert_eq!(changed.describe(), "tun1: gre/ip remote 1.2.3.4 local 5.6.7.8 ttl 5 key 9");
    assert!(changed.icsum && changed.ocsum && changed.iseq && changed.oseq);
    assert_eq!(Change::between(&present, &changed), Change::InPlace(vec!["ikey", "okey", "ttl"]));

    let back = Draft { ikey: given(None), okey: given(None), ttl: given(Ttl::Inherit), ..Draft::default() };
    assert_eq!(back.overlay_on(&changed), Ok(present));
}

/// As `ip link` and the kernel have it; `ip tunnel` alone refuses it, and says so itself.
#[test]
fn a_fixed_ttl_without_path_mtu_discovery() {
    let fixed = spec(|d| (d.ttl, d.pmtudisc) = (given(Ttl::Fixed(64)), given(false)));
    assert_eq!(fixed.describe(), "tun1: gre/ip remote 1.2.3.4 local 5.6.7.8 ttl 64 nopmtudisc");
    let present = spec(|d| (d.pmtudisc, d.ignore_df) = (given(false), given(true)));
    let changed = Draft { ttl: given(Ttl::Fixed(5)), ..Draft::default() }.overlay_on(&present).unwrap();
    assert_eq!((changed.ttl, changed.pmtudisc, changed.ignore_df), (Ttl::Fixed(5), false, true));
}

#[test]
fn what_the_one_line_leaves_out() {
    assert_eq!(spec(|_| {}).further_words(), [""; 0]);
    let four = spec(|d| {
        (d.icsum, d.ocsum, d.oseq) = (given(true), given(true), given(true));
        (d.pmtudisc, d.ignore_df, d.fwmark) = (given(false), given(true), given(7));
        d.mtu = given(Some(1_300));
    });
    assert_eq!(four.further_words(), ["csum", "oseq", "ignore-df", "fwmark 0x7", "mtu 1300"]);
    let six = |fill: Fill| {
        refine(|d| {
            (d.mode, d.local, d.remote) = (given(Mode::Ip6Gre), None, given(ip("2001:db8::2")));
            fill(d);
        })
        .unwrap()
    };
    assert_eq!(six(|_| {}).further_words(), [""; 0]);
    let six = six(|d| {
        (d.iseq, d.seq_mode, d.encaplimit) = (given(true), given(SeqMode::Rfc2890), given(None));
        (d.flowlabel, d.dscp_inherit) = (given(FlowLabel::Inherit), given(true));
        d.allow_localremote = given(true);
    });
    let words = ["iseq", "seq-mode rfc2890", "encaplimit none", "flowlabel inherit", "dscp inherit"];
    assert_eq!(six.further_words(), [&words[..], &["allow-localremote"]].concat());
}

#[test]
fn a_change_that_cannot_be() {
    let present = spec(|_| {});
    let ignored = Draft { ignore_df: given(true), ..Draft::default() }.overlay_on(&present).unwrap_err();
    assert_eq!(ignored.problem, Problem::IgnoreDfNeedsNopmtudisc);
    let renamed = Draft { name: given("tun2".parse().unwrap()), ..Draft::default() };
    assert_eq!(
        renamed.overlay_on(&present).unwrap_err().to_string(),
        "tunnel tun1: name \"tun2\": cannot be changed from tun1; delete the tunnel and add it again"
    );
}

#[test]
fn what_needs_a_new_device() {
    let present = spec(|_| {});
    assert_eq!(Change::between(&present, &present.clone()), Change::None);
    let elsewhere =
        TunnelSpec { origin: greway_spec::Origin::File("/etc/x.toml".to_owned()), ..present.clone() };
    assert_eq!(Change::between(&present, &elsewhere), Change::None);
    let tun = TunnelSpec { overlay: OverlayChoice::Tun, mtu: Some(1400), ..present.clone() };
    assert_eq!(Change::between(&present, &tun), Change::Recreate(RecreateReason::Overlay));
    let renamed = TunnelSpec { name: "tun2".parse().unwrap(), ..present.clone() };
    assert_eq!(Change::between(&present, &renamed), Change::Recreate(RecreateReason::Name));
}

#[test]
fn cf01_who_cannot_be_beside_whom() {
    let present = spec(|d| (d.ikey, d.okey) = (given(Some(42)), given(Some(42))));
    let other = |fill: Fill| {
        spec(|d| {
            d.name = given("tun2".parse().unwrap());
            (d.ikey, d.okey) = (given(Some(42)), given(Some(42)));
            fill(d);
        })
    };
    let twin = other(|_| {}).conflicts(&present).unwrap();
    assert_eq!(
        twin.to_string(),
        "tunnel tun2: tunnel tun1 has remote 1.2.3.4, local 5.6.7.8, ikey 42 already; one of these has to differ"
    );
    assert_eq!(spec(|_| {}).conflicts(&present), Some(Conflict::Name("tun1".parse().unwrap())));
    // The key of sent packets tells nothing apart.
    assert!(other(|d| d.okey = given(Some(7))).conflicts(&present).is_some());
    let different: [Fill; 5] = [
        |d| d.ikey = given(Some(0)),
        |d| d.ikey = None,
        |d| d.local = None,
        |d| d.remote = given(ip("1.2.3.5")),
        |d| d.dev = given(Some("eth9".parse().unwrap())),
    ];
    for fill in different {
        assert_eq!(other(fill).conflicts(&present), None);
    }
}

#[test]
fn every_mode_has_its_own_defaults_and_is_carried() {
    let ipv6 = |mode: Mode| {
        refine_model(move |d| {
            d.mode = given(mode);
            (d.local, d.remote) = (given(ip("2001:db8::1")), given(ip("2001:db8::2")));
        })
    };
    for mode in [Mode::Ip6Gre, Mode::Ip6Gretap] {
        let spec = ipv6(mode).unwrap();
        assert_eq!((spec.ttl, spec.encaplimit, spec.pmtudisc), (Ttl::Fixed(64), Some(4), true));
        assert_eq!(spec.carried(), Ok(()), "{mode}");
    }
    // RFC 2473 §4.1.1: the limit option makes the delivery header 8 bytes longer; Ethernet adds 14.
    assert_eq!(ipv6(Mode::Ip6Gre).unwrap().overhead(), 40 + 8 + 4);
    assert_eq!(ipv6(Mode::Ip6Gretap).unwrap().overhead(), 40 + 8 + 4 + 14);
    let gretap = refine_model(|d| d.mode = given(Mode::Gretap)).unwrap();
    assert_eq!((gretap.overhead(), gretap.ttl, gretap.encaplimit), (20 + 4 + 14, Ttl::Inherit, None));
    assert!(spec(|_| ()).carried().is_ok() && gretap.carried().is_ok());
    let refused = TunnelSpec { overlay: OverlayChoice::Tun, ..gretap }.carried().unwrap_err();
    assert_eq!(
        refused.to_string(),
        "tunnel tun1: overlay \"tun\": is not for mode gretap; a TUN device has no Ethernet header; overlay auto or \
         veth is right"
    );
}

#[test]
fn a_field_of_another_delivery_header_is_refused() {
    let cases: [(&str, Fill); 7] = [
        ("encaplimit \"3\": is not for mode gre; modes ip6gre", |d| d.encaplimit = given(Some(3))),
        ("flowlabel \"inherit\": is not for mode gre", |d| d.flowlabel = given(FlowLabel::Inherit)),
        ("dscp \"inherit\": is not for mode gre", |d| d.dscp_inherit = given(true)),
        ("allow-localremote \"on\": is not for mode gre", |d| d.allow_localremote = given(true)),
        ("pmtudisc \"off\": is not for mode ip6gre", |d| {
            (d.mode, d.pmtudisc) = (given(Mode::Ip6Gre), given(false));
        }),
        ("flowlabel \"1048576\": is no flow label; 0 to 0xfffff is right", |d| {
            (d.mode, d.flowlabel) = (given(Mode::Ip6Gre), given(FlowLabel::Fixed(0x10_0000)));
        }),
        ("remote \"1.2.3.4\": is of the wrong family; an IPv6 address is right", |d| {
            d.mode = given(Mode::Ip6Gre)
        }),
    ];
    for (expected, fill) in cases {
        let message = refine(fill).expect_err(expected).to_string();
        assert!(message.contains(expected), "wanted {expected:?}, got {message:?}");
    }
    let group = refine(|d| (d.local, d.remote) = (None, given(ip("224.1.2.3")))).unwrap_err();
    assert!(group.to_string().contains("needs a local address to send from"), "{group}");
}

#[test]
fn cf02_one_far_end_a_group_and_none_are_three_kinds_of_tunnels() {
    let with = |remote: &str| spec(|draft| draft.remote = given(ip(remote)));
    let (one, other, group, any) = (with("1.2.3.4"), with("1.2.3.5"), with("239.1.1.1"), with("0.0.0.0"));
    for (from, to) in [(&one, &group), (&one, &any), (&group, &any), (&any, &one)] {
        assert_eq!(Change::between(from, to), Change::Recreate(RecreateReason::Remote));
    }
    assert_eq!(Change::between(&one, &other), Change::InPlace(vec!["remote"]));
    assert_eq!(Change::between(&group, &with("239.1.1.2")), Change::InPlace(vec!["remote"]));
    let neighbour = spec(|draft| {
        (draft.remote, draft.neighbours) = (given(ip("0.0.0.0")), neighbour("10.0.0.2", "203.0.113.5"));
    });
    assert_eq!(Change::between(&any, &neighbour), Change::InPlace(vec!["inner neighbours"]));
    // gretap has one kind of device for both.
    let ethernet =
        |remote: &str| spec(|draft| (draft.mode, draft.remote) = (given(Mode::Gretap), given(ip(remote))));
    assert_eq!(
        Change::between(&ethernet("1.2.3.4"), &ethernet("239.1.1.1")),
        Change::InPlace(vec!["remote"])
    );
}
