//! Tunnels as files of the network-scripts, and back.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_dialects::ifcfg::{Files, Rendered, Tables, Text, parse_files, render};
use greway_spec::{
    Draft, FirewallPolicy, FlowLabel, Inner, InnerAddress, InnerRoute, InnerRule, Mode, Prefix, RuleAction,
    SeqMode, Tos, Ttl, TunnelSpec,
};
use proptest::prelude::*;

fn guide() -> TunnelSpec {
    let [local, remote] = [[100, 0, 1, 100], [100, 0, 2, 100]].map(Ipv4Addr::from);
    let mut spec = Draft::new("tun0".parse().unwrap(), local, remote).into_spec().unwrap();
    (spec.ikey, spec.okey) = (Some(42), Some(42));
    let (local, peer) = ([172, 16, 0, 1].into(), Some([172, 16, 0, 2].into()));
    spec.inner.addresses.push(InnerAddress { local, peer, prefix_length: 30 });
    spec
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
}

fn read(files: &Rendered, name: &str) -> Result<(TunnelSpec, Vec<String>), String> {
    let names = ["route", "route6", "rule", "rule6"].map(|kind| format!("{kind}-{name}"));
    let texts = [&files.route, &files.route6, &files.rule, &files.rule6];
    let beside = names.iter().zip(texts).filter_map(|(file, text)| Some(Text { file, text: text.as_ref()? }));
    let parsed = parse_files(&Files {
        network: None,
        ifcfg: Text { file: "ifcfg-x", text: &files.ifcfg },
        keys: None,
        beside: beside.collect(),
        tables: &Tables::default(),
    });
    let parsed = parsed.map_err(|error| error.to_string())?;
    let warnings = parsed.warnings.iter().map(|warning| warning.message.clone()).collect();
    Ok((parsed.into_spec().map_err(|error| error.to_string())?, warnings))
}

#[test]
fn the_guides_file_in_the_guides_order() {
    let mut spec = guide();
    spec.inner.routes.push(InnerRoute::to(prefix("10.10.2.0/24")));
    let from = Some(prefix("10.10.1.0/24"));
    spec.inner.rules.push(InnerRule { from, ..InnerRule::all(false, RuleAction::Table(100)) });
    let files = render(&spec).unwrap();
    assert_eq!(
        files.ifcfg,
        "DEVICE=tun0\nONBOOT=yes\nTYPE=GRE\nPEER_OUTER_IPADDR=100.0.2.100\nPEER_INNER_IPADDR=172.16.0.2/30\n\
         MY_OUTER_IPADDR=100.0.1.100\nMY_INNER_IPADDR=172.16.0.1\nKEY=42\nBOOTPROTO=none\n"
    );
    assert_eq!(files.route.as_deref(), Some("10.10.2.0/24 dev tun0\n"));
    assert_eq!(files.rule.as_deref(), Some("from 10.10.1.0/24 table 100\n"));
    assert_eq!((&files.route6, &files.rule6), (&None, &None));
}

#[test]
fn what_the_scripts_do_not_know_is_said_when_it_is_read() {
    let mut spec = guide();
    (spec.icsum, spec.ocsum) = (true, true);
    spec.dev = Some("eth 0".parse().unwrap_or_else(|_| "eth0".parse().unwrap()));
    let (again, warnings) = read(&render(&spec).unwrap(), "tun0").unwrap();
    assert_eq!((again.icsum, &again.dev), (true, &spec.dev));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().all(|warning| warning.contains("the network-scripts ignore it")), "{warnings:?}");
}

#[test]
fn what_no_variable_is_for_is_named() {
    let change = |change: &dyn Fn(&mut TunnelSpec)| {
        let mut spec = guide();
        change(&mut spec);
        render(&spec).unwrap_err().to_string()
    };
    for (error, parts) in [
        (change(&|spec| spec.mode = Mode::Gretap), ["mode \"gretap\"", "gre and ip6gre can"]),
        (change(&|spec| spec.icsum = true), ["csum \"received packets only\"", "both directions"]),
        (change(&|spec| spec.oseq = true), ["seq \"sent packets only\"", "both directions"]),
        (change(&|spec| spec.fwmark = 0x10), ["fwmark \"0x10\"", "ifcfg"]),
        (change(&|spec| spec.firewall = FirewallPolicy::Bypass), ["firewall \"bypass\"", "ifcfg"]),
        (change(&|spec| spec.direct = true), ["direct \"on\"", "ifcfg"]),
        (change(&|spec| spec.seq_mode = SeqMode::Rfc2890), ["seq-mode \"rfc2890\"", "ifcfg"]),
        (change(&|spec| spec.inner.forward = true), ["inner forward \"on\"", "ifcfg"]),
        (change(&|spec| spec.inner.snat = Some([10, 0, 0, 1].into())), ["inner snat \"10.0.0.1\"", "ifcfg"]),
        (
            change(&|spec| {
                let local = [172, 16, 1, 1].into();
                spec.inner.addresses.push(InnerAddress { local, peer: None, prefix_length: 24 });
            }),
            ["inner address \"172.16.1.1/24\"", "one address"],
        ),
    ] {
        assert!(error.starts_with("tunnel tun0: "), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let mut over_ipv6 = guide();
    over_ipv6.mode = Mode::Ip6Gre;
    over_ipv6.flowlabel = FlowLabel::Inherit;
    over_ipv6.encaplimit = Some(4);
    assert!(render(&over_ipv6).unwrap_err().to_string().contains("flowlabel \"inherit\""));
}

fn routes() -> impl Strategy<Value = Vec<InnerRoute>> {
    let route = ((any::<u32>(), any::<u128>()), (0..=32_u8, any::<[bool; 4]>(), 1..=200_u32)).prop_map(
        |((v4, v6), (length, [ipv6, via, metric, table], number))| {
            let destination = if ipv6 {
                Prefix::containing(Ipv6Addr::from(v6).into(), length)
            } else {
                Prefix::containing(Ipv4Addr::from(v4).into(), length)
            };
            let hop = if ipv6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { [172, 16, 0, 2].into() };
            InnerRoute {
                destination,
                via: via.then_some(hop),
                metric: metric.then_some(number),
                table: table.then_some(number),
                source: via.then_some(hop),
            }
        },
    );
    proptest::collection::vec(route, 0..4).prop_map(|mut routes: Vec<InnerRoute>| {
        // Each family has a file of its own.
        routes.sort_by_key(|route| route.destination.address.is_ipv6());
        let mut seen = Vec::new();
        routes.retain(|route| {
            let identity = (route.destination, route.metric, route.table);
            let new = !seen.contains(&identity);
            seen.push(identity);
            new
        });
        routes
    })
}

fn rules() -> impl Strategy<Value = Vec<InnerRule>> {
    let rule =
        ((any::<u32>(), 0..=32_u8, any::<[bool; 7]>()), (any::<u8>(), 1..=500_u32, any::<u32>(), 0..4_u8))
            .prop_map(|((address, length, flags), (tos, number, mark, action))| {
                let [ipv6, not, from, to, priority, fwmark, iif] = flags;
                let prefix = if ipv6 {
                    Prefix::containing(Ipv6Addr::from(u128::from(address) << 96).into(), length)
                } else {
                    Prefix::containing(Ipv4Addr::from(address).into(), length)
                };
                let action = match action {
                    0 => RuleAction::Blackhole,
                    1 => RuleAction::Unreachable,
                    2 => RuleAction::Prohibit,
                    _ => RuleAction::Table(number),
                };
                InnerRule {
                    ipv6,
                    priority: priority.then_some(number),
                    not,
                    from: from.then_some(prefix),
                    to: to.then_some(prefix),
                    tos,
                    fwmark: fwmark.then_some((mark, u32::MAX)),
                    iif: iif.then(|| "tun0".parse().unwrap()),
                    oif: (iif && not).then(|| "eth0".parse().unwrap()),
                    action,
                    suppress_prefix_length: (action == RuleAction::Table(number) && not).then_some(0),
                }
            });
    proptest::collection::vec(rule, 0..3).prop_map(|mut rules: Vec<InnerRule>| {
        rules.sort_by_key(|rule| rule.ipv6);
        rules.dedup();
        let mut seen: Vec<InnerRule> = Vec::new();
        rules.retain(|rule| {
            let new = !seen.contains(rule);
            seen.push(rule.clone());
            new
        });
        rules
    })
}

fn inner() -> impl Strategy<Value = Inner> {
    let addresses = (any::<[bool; 3]>(), 1..=30_u8, 64..=127_u8, 0..4_u8).prop_map(
        |([first, peer, six], length, length6, more)| {
            let mut addresses = Vec::new();
            if first {
                let peer = peer.then(|| [172, 16, 0, 2].into());
                addresses.push(InnerAddress { local: [172, 16, 0, 1].into(), peer, prefix_length: length });
            } else if six && peer {
                let (local, peer) = ("fd09::1".parse().unwrap(), "fd09::2".parse().ok());
                addresses.push(InnerAddress { local, peer, prefix_length: length6 });
            }
            addresses.extend((0..more).map(|number| InnerAddress {
                local: Ipv6Addr::new(0xfd00, u16::from(number), 0, 0, 0, 0, 0, 1).into(),
                peer: None,
                prefix_length: length6,
            }));
            addresses
        },
    );
    let mtu = proptest::option::of(1280..=9000_u32);
    (addresses, routes(), rules(), any::<bool>(), mtu).prop_map(
        |(addresses, routes, rules, down, ipv6_mtu)| {
            let link_down = down && routes.is_empty();
            Inner { addresses, routes, rules, link_down, ipv6_mtu, ..Inner::default() }
        },
    )
}

prop_compose! {
    fn any_spec()(
        name in "[a-zA-Z'\"$#;~&][a-z0-9.'\"\\\\$`#;~&|<>()*-]{0,9}",
        [over_ipv6, any_local, any_remote, same_key, csum, seq] in any::<[bool; 6]>(),
        (host, ikey, okey) in any::<(u8, Option<u32>, Option<u32>)>(),
        (hops, pmtudisc, tos_inherit, tos) in any::<(u8, bool, bool, u8)>(),
        mtu in proptest::option::of(1280..=65_000_u32),
        dev in proptest::option::of("[a-z]{1,5}[0-9]"),
        inner in inner(),
    ) -> TunnelSpec {
        let end = |side: u8| -> IpAddr {
            if over_ipv6 {
                Ipv6Addr::new(0x2001, 0xdb8, 0, side.into(), 0, 0, 0, u16::from(host) + 1).into()
            } else {
                Ipv4Addr::new(100, 0, side, host).into()
            }
        };
        let mut spec = guide();
        spec.name = name.parse().unwrap();
        let pmtudisc = pmtudisc || over_ipv6;
        if over_ipv6 {
            spec.mode = Mode::Ip6Gre;
            spec.encaplimit = Some(4);
        }
        spec.local = (!any_local).then(|| end(1));
        spec.remote = (!any_remote).then(|| end(2));
        spec.ikey = ikey;
        spec.okey = if same_key { ikey } else { okey };
        (spec.icsum, spec.ocsum, spec.iseq, spec.oseq) = (csum, csum, seq, seq);
        spec.ttl = Ttl::from(hops);
        spec.tos = Tos { inherit: tos_inherit, value: tos & !1 };
        spec.pmtudisc = pmtudisc;
        spec.dev = dev.and_then(|dev| dev.parse().ok()).filter(|dev| *dev != spec.name);
        spec.mtu = mtu;
        spec.inner = inner;
        spec
    }
}

proptest! {
    #[test]
    fn what_is_rendered_reads_the_same(spec in any_spec()) {
        // Only tunnels that can be; the rest is for other tests.
        let valid = Draft::from(&spec).into_spec();
        prop_assume!(valid.is_ok(), "{:?}", valid);
        let files = render(&spec).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let (mut again, _) = read(&files, spec.name.as_str())
            .map_err(|error| TestCaseError::fail(format!("{error}\n{files:?}")))?;
        again.origin = spec.origin.clone();
        prop_assert_eq!(again, spec, "{:?}", files);
    }
}
