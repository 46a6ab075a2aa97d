//! Keyfiles: all they can say, and what is refused with its place.

use crate::*;

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
