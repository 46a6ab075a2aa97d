//! A tunnel as `ip` commands, and `ip` commands as a tunnel.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_dialects::iproute2::{commands, parse_commands};
use greway_spec::{
    DatapathChoice, DeviceName, Draft, DraftAddress, DraftRoute, FirewallPolicy, FlowLabel, Inner,
    InnerAddress, InnerRoute, InnerRule, Mode, Origin, OverlayChoice, Prefix, RuleAction, SeqMode, Tos, Ttl,
    TunnelSpec, UnderlayChoice,
};
use proptest::prelude::*;

fn read(text: &str) -> Result<TunnelSpec, String> {
    let parsed = parse_commands(text, "tun0.sh").map_err(|error| error.to_string())?;
    parsed.into_spec().map_err(|error| error.to_string())
}

/// The commands of the guide, for the first host.
const GUIDE: &str = "\
ip tunnel add tun0 mode gre remote 100.0.2.100 local 100.0.1.100
ip link set dev tun0 up
ip addr add 172.16.0.1 peer 172.16.0.2/30 dev tun0
ip route add 10.10.2.0/24 dev tun0
";

fn guide() -> Draft {
    let mut draft =
        Draft::new("tun0".parse().unwrap(), Ipv4Addr::new(100, 0, 1, 100), Ipv4Addr::new(100, 0, 2, 100));
    let (local, peer) = (Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 2));
    let address = DraftAddress { local: local.into(), peer: Some(peer.into()), prefix_length: 30 };
    draft.addresses = Some(vec![address.into()]);
    draft.routes = Some(vec![DraftRoute::to(Ipv4Addr::new(10, 10, 2, 0).into(), 24).into()]);
    draft
}

#[test]
fn the_guide_as_commands() {
    assert_eq!(commands(&guide().into_spec().unwrap()).unwrap().join("\n") + "\n", GUIDE);
}

#[test]
fn ip_link_where_ip_tunnel_has_no_word() {
    let build = |change: fn(&mut Draft)| {
        let mut draft = guide();
        (draft.addresses, draft.routes) = (None, None);
        change(&mut draft);
        commands(&draft.into_spec().unwrap()).unwrap()
    };
    let marked = build(|draft| {
        draft.fwmark = Some(16.into());
        draft.tos = Some(Tos { inherit: true, value: 0x10 }.into());
        draft.mtu = Some(Some(1400).into());
    });
    assert_eq!(
        marked,
        [
            "ip link add name tun0 type gre remote 100.0.2.100 local 100.0.1.100 tos 0x11 fwmark 0x10",
            "ip link set dev tun0 mtu 1400 up"
        ]
    );
    let tap = build(|draft| {
        draft.mode = Some(Mode::Gretap.into());
        draft.ikey = Some(Some(1).into());
        draft.ocsum = Some(true.into());
        draft.link_down = Some(true.into());
    });
    assert_eq!(
        tap,
        [
            "ip link add name tun0 type gretap remote 100.0.2.100 local 100.0.1.100 ikey 1 ocsum",
            "ip link set dev tun0 down"
        ]
    );
    let six = build(|draft| {
        draft.mode = Some(Mode::Ip6Gre.into());
        draft.local = None;
        draft.remote = Some("fd00::1".parse::<IpAddr>().unwrap().into());
        draft.ttl = Some(Ttl::Inherit.into());
        draft.encaplimit = Some(None.into());
        draft.name = Some("he".parse::<DeviceName>().unwrap().into());
    });
    assert_eq!(six[0], "ip -6 tunnel add name he mode ip6gre remote fd00::1 ttl 0 encaplimit none");
}

#[test]
fn what_ip_has_no_word_for() {
    let refuse = |change: fn(&mut Draft)| {
        let mut draft = guide();
        change(&mut draft);
        let unsayable = commands(&draft.into_spec().unwrap()).unwrap_err();
        let text = unsayable.to_string();
        assert!(
            text.starts_with(&format!("tunnel tun0: {} \"{}\" ", unsayable.field, unsayable.value)),
            "{text}"
        );
        unsayable.field
    };
    assert_eq!(refuse(|draft| draft.datapath = Some(DatapathChoice::Ebpf.into())), "datapath");
    assert_eq!(refuse(|draft| draft.underlay = Some(UnderlayChoice::Raw.into())), "underlay");
    assert_eq!(refuse(|draft| draft.overlay = Some(OverlayChoice::Tun.into())), "overlay");
    assert_eq!(refuse(|draft| draft.direct = Some(true.into())), "direct");
    assert_eq!(refuse(|draft| draft.firewall = Some(FirewallPolicy::Bypass.into())), "firewall");
    assert_eq!(refuse(|draft| draft.seq_mode = Some(SeqMode::Rfc2890.into())), "seq-mode");
    assert_eq!(refuse(|draft| draft.forward = Some(true.into())), "inner forward");
    assert_eq!(refuse(|draft| draft.ipv6_mtu = Some(1300.into())), "inner ipv6_mtu");
    assert_eq!(
        refuse(|draft| draft.snat = Some(IpAddr::V4(Ipv4Addr::new(10, 10, 2, 1)).into())),
        "inner snat"
    );
    assert_eq!(
        refuse(|draft| draft.remote = Some(IpAddr::V4(Ipv4Addr::new(224, 1, 2, 3)).into())),
        "ikey",
        "ip would make the group the key"
    );
}

#[test]
fn scripts_as_people_write_them() {
    let text = "#!/bin/sh\n# to the other side\n\nsudo ip tunnel add tun0 mode gre remote 100.0.2.100 local 100.0.1.100 # \
                the tunnel\n/sbin/ip a add 172.16.0.1/30 peer 172.16.0.2/255.255.255.252 dev 'tun0'\nip link set tun0 \
                up\nip r add 10.10.2.0/24 dev tun0\n";
    assert_eq!(
        read(text).unwrap(),
        TunnelSpec { origin: Origin::File("tun0.sh".to_owned()), ..guide().into_spec().unwrap() }
    );
    // The guide leaves the link down; it is meant to be up.
    let without_up = GUIDE.replace("ip link set dev tun0 up\n", "");
    assert!(!read(&without_up).unwrap().inner.link_down);
    let more = "ip tunnel add tun0 mode gre remote 1.2.3.4\nip -6 addr add fd00::1 peer fd00::2 dev tun0\nip addr add \
                10.0.0.1 dev tun0\nip -6 route add default dev tun0 metric 5\nip rule add from 10.0.0.0/8 table 100\n";
    let inner = read(more).unwrap().inner;
    let addresses: Vec<String> = inner.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["fd00::1 peer fd00::2/128", "10.0.0.1/32"]);
    assert_eq!(inner.routes[0].to_string(), "::/0 metric 5");
    assert_eq!(inner.rules[0].to_string(), "from 10.0.0.0/8 table 100");
}

#[test]
fn refused_with_the_place() {
    let first = "ip tunnel add tun0 mode gre remote 1.2.3.4\n";
    for (text, message) in [
        ("", "tun0.sh: no tunnel is made here"),
        ("ip addr add 10.0.0.1/30 dev tun0\n", "tun0.sh:1:1: the tunnel comes first"),
        (
            "ip tunnel add tun0 mode gre key lichenhao\n",
            "tun0.sh:1:1: invalid value for \"key\": \"lichenhao\"",
        ),
        ("ip tunnel add tun0 mode ipip\n", "tun0.sh:1:1: no GRE tunnel"),
        ("ip link add tun0 type gre remote 1.2.3.4 external\n", "tun0.sh:1:1: tunnel tun0: external: "),
        (
            "ip link add tun0 txqueuelen 5 type gre remote 1.2.3.4\n",
            "\"txqueuelen\" is no setting of a tunnel",
        ),
        ("ip link add tun0 type gre remotely 1.2.3.4\n", "tun0.sh:1:1: ip does not know one of these words"),
        ("modprobe ip_gre\n", "tun0.sh:1:1: only commands of ip can be read here"),
        (&format!("{first}ip tunnel add tun1 mode gre\n"), "tun0.sh:2:1: a second tunnel beside tun0"),
        (
            &format!("{first}ip addr add 10.0.0.1/30 dev eth0\n"),
            "tun0.sh:2:1: device \"eth0\" is another one",
        ),
        (&format!("{first}ip addr add 10.0.0.1/30\n"), "no device is named; the tunnel here is tun0"),
        (
            &format!("{first}ip addr add 1772.16.0.1 dev tun0\n"),
            "tun0.sh:2:13: \"1772.16.0.1\" is no address",
        ),
        (&format!("{first}ip addr add 10.0.0.1/33 dev tun0\n"), "tun0.sh:2:13: tunnel tun0: inner address"),
        (&format!("{first}ip addr add 10.0.0.1/30 dev tun0 label x\n"), "tun0.sh:2:34: \"label\" is no word"),
        (&format!("{first}ip addr del 10.0.0.1/30 dev tun0\n"), "tun0.sh:2:9: only \"add\" can be read"),
        (&format!("{first}ip link set tun0 up txqueuelen 5\n"), "tun0.sh:2:21: \"txqueuelen\" is no setting"),
        (&format!("{first}ip link set tun0 mtu big\n"), "tun0.sh:2:22: mtu \"big\" is wrong"),
        (&format!("{first}ip route add 10.0.0.0/8 dev tun0 proto 5\n"), "tun0.sh:2:14: "),
        (&format!("{first}ip neigh add 10.0.0.1 dev tun0\n"), "tun0.sh:2:10: no neighbour of a tunnel"),
        (&format!("{first}ip neigh del 10.0.0.1 lladdr 1.2.3.5 dev tun0\n"), "no neighbour of a tunnel"),
        (
            &format!("{first}ip neigh add 10.0.0.1 lladdr 1.2.3.5 dev tun0 nud stale\n"),
            "tun0.sh:2:47: no setting of a tunnel's neighbour",
        ),
        (
            &format!("{first}ip neigh add 10.0.0.1 lladdr 1.2.3.5 dev tun0\n"),
            "inner neighbour \"10.0.0.1\": is for tunnels of modes gre and ip6gre with remote any",
        ),
        (&format!("{first}ip -s\n"), "tun0.sh:2:1: no command of ip"),
        ("ip tunnel add $NAME mode gre\n", "tun0.sh:1:15: '$' means something to a shell"),
        ("ip tunnel add tun0 mode gre; reboot\n", "tun0.sh:1:28: ';' means something to a shell"),
        ("ip tunnel add tun0 \\\n", "a line cannot be continued here"),
        ("ip tunnel add 'tun0\n", "a quote is not closed"),
        (
            "ip tunnel add tun0 mode gre remote 1.2.3.4 local 1.2.3.4\n",
            "tun0.sh:1:1: tunnel tun0: remote \"1.2.3.4\"",
        ),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.contains(message), "{text}: {error}");
    }
}

prop_compose! {
    fn inner()(
        addresses in proptest::collection::vec((any::<bool>(), 1..=200_u8, any::<bool>(), 8..=32_u8), 0..3),
        routes in proptest::collection::vec((any::<bool>(), 1..=200_u8, any::<bool>(), proptest::option::of(1..9_u32),
            proptest::option::of(100..110_u32)), 0..3),
        rule in proptest::option::of((any::<bool>(), 1..=200_u8, 1..300_u32)),
        link_down in any::<bool>(),
    ) -> Inner {
        let host = |ipv6: bool, net: u8, host: u8| -> IpAddr {
            match ipv6 {
                true => Ipv6Addr::new(0xfd00, 0, 0, u16::from(net), 0, 0, 0, u16::from(host)).into(),
                false => Ipv4Addr::new(172, 16, net, host).into(),
            }
        };
        let mut inner = Inner { link_down: link_down && routes.is_empty(), ..Inner::default() };
        for (ipv6, net, peer, prefix_length) in addresses {
            let local = host(ipv6, net, 1);
            if inner.addresses.iter().all(|other: &InnerAddress| other.local != local) {
                let peer = peer.then(|| host(ipv6, net, 2));
                inner.addresses.push(InnerAddress { local, peer, prefix_length });
            }
        }
        for (ipv6, net, via, metric, table) in routes {
            let destination = Prefix::containing(host(ipv6, net, 0), if ipv6 { 64 } else { 24 });
            if inner.routes.iter().all(|other: &InnerRoute| other.destination != destination) {
                let via = via.then(|| host(ipv6, net, 9));
                inner.routes.push(InnerRoute { destination, via, metric, table, source: None });
            }
        }
        if let Some((ipv6, net, table)) = rule {
            let from = Some(Prefix::containing(host(ipv6, net, 0), if ipv6 { 64 } else { 24 }));
            inner.rules.push(InnerRule { from, ..InnerRule::all(ipv6, RuleAction::Table(table)) });
        }
        inner
    }
}

prop_compose! {
    fn any_spec()(
        name in "[a-zA-Z0-9_.;$ '-]{1,15}|mode|name|h|help|ds|key|any|tos".prop_filter_map("name", |text| text.parse::<DeviceName>().ok())
            .prop_filter("reserved", |name| !matches!(name.as_str(), "lo" | "all" | "default") && !name.as_str().ends_with("0")),
        mode in proptest::sample::select(Mode::ALL.to_vec()),
        (local, remote) in (proptest::option::of(1..=254_u8), proptest::option::of(1..=254_u8)),
        (ikey, okey, one_key) in any::<(Option<u32>, Option<u32>, bool)>(),
        [icsum, ocsum, iseq, oseq] in any::<[bool; 4]>(),
        (ttl, pmtudisc, ignore_df) in any::<(u8, bool, bool)>(),
        (tos_inherit, tos_value) in any::<(bool, u8)>(),
        mtu in proptest::option::of(1280..=65_000_u32),
        (encaplimit, flowlabel, inherit_flowlabel) in any::<(Option<u8>, u32, bool)>(),
        (dscp_inherit, allow_localremote, fwmark) in any::<(bool, bool, Option<u32>)>(),
        dev in proptest::option::of(Just("eth9")),
        inner in inner(),
    ) -> TunnelSpec {
        let over_ipv6 = mode.over_ipv6();
        let pmtudisc = pmtudisc || over_ipv6;
        let end = |net: u8, host: u8| -> IpAddr {
            match over_ipv6 {
                true => Ipv6Addr::new(0x2001, 0xdb8, 0, u16::from(net), 0, 0, 0, u16::from(host)).into(),
                false => Ipv4Addr::new(100, 0, net, host).into(),
            }
        };
        let flowlabel = if inherit_flowlabel { FlowLabel::Inherit } else { FlowLabel::Fixed(flowlabel & 0xf_ffff) };
        let value = if over_ipv6 && tos_inherit { 0 } else { tos_value & !1 };
        TunnelSpec {
            name,
            mode,
            local: local.map(|host| end(1, host)),
            remote: remote.map(|host| end(2, host)),
            ikey,
            okey: if one_key { ikey } else { okey },
            icsum,
            ocsum,
            iseq,
            oseq,
            ttl: Ttl::from(ttl),
            tos: Tos { inherit: tos_inherit, value },
            pmtudisc,
            ignore_df: ignore_df && !pmtudisc,
            encaplimit: encaplimit.filter(|_| over_ipv6),
            flowlabel: if over_ipv6 { flowlabel } else { FlowLabel::default() },
            dscp_inherit: dscp_inherit && over_ipv6,
            allow_localremote: allow_localremote && over_ipv6,
            fwmark: fwmark.unwrap_or(0),
            dev: dev.map(|dev| dev.parse().unwrap()),
            mtu,
            datapath: DatapathChoice::Auto,
            underlay: UnderlayChoice::Auto,
            overlay: OverlayChoice::Auto,
            firewall: FirewallPolicy::Honour,
            direct: false,
            mss: greway_spec::MssClamp::Auto,
            seq_mode: SeqMode::Linux,
            inner,
            origin: Origin::File("tun0.sh".to_owned()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_the_same(spec in any_spec()) {
        let text = commands(&spec).map_err(|error| TestCaseError::fail(error.to_string()))?.join("\n");
        let again = read(&text).map_err(|error| TestCaseError::fail(format!("{text}\n{error}")))?;
        prop_assert_eq!(again, spec, "{}", text);
    }

    #[test]
    fn noise_is_refused_or_read_and_never_more(text in "(ip |tunnel |link |add |set |addr |route |rule |tun0 |mode |gre |type |dev |[a-z0-9./:'\"\\\\$#-]{0,5} |\n){0,16}") {
        if let Ok(parsed) = parse_commands(&text, "x") {
            prop_assert!(parsed.draft.name.is_some(), "{text}");
        }
    }
}
