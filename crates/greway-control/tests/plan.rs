//! The planner: what leads from what is to what should be, and back when a step fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::IpAddr;

use greway_control::apply::{self, StepError, System};
use greway_control::observe::{Observed, ObservedDevice};
use greway_control::plan::{self, Action, PlanError};
use greway_control::sysctl::Forwarding;
use greway_engine::nbma;
use greway_spec::{
    Draft, InnerAddress, InnerNeighbour, InnerRoute, InnerRule, Mode, Prefix, RuleAction, TunnelSpec,
};

fn bare() -> TunnelSpec {
    let address = |text: &str| text.parse().unwrap();
    Draft::new("tun0".parse().unwrap(), address("100.0.1.100"), address("100.0.2.100")).into_spec().unwrap()
}

/// The guide's scenario 1, as linux2 sees it.
fn guide() -> TunnelSpec {
    let mut spec = bare();
    spec.inner.addresses = vec![InnerAddress {
        local: "172.16.0.2".parse().unwrap(),
        peer: Some("172.16.0.1".parse().unwrap()),
        prefix_length: 30,
    }];
    spec.inner.routes = vec![route("10.10.1.0", 24)];
    spec.inner.forward = true;
    spec.inner.snat = Some("10.10.2.1".parse().unwrap());
    spec
}

fn route(address: &str, length: u8) -> InnerRoute {
    let destination = Prefix { address: address.parse().unwrap(), length };
    InnerRoute::to(destination)
}

fn in_the_table(neighbour: &InnerNeighbour) -> (IpAddr, [u8; 6]) {
    (neighbour.address, nbma::link_address(neighbour.endpoint))
}

/// What is observed after `spec` was set up.
fn after(spec: &TunnelSpec) -> Observed {
    Observed {
        device: Some(ObservedDevice {
            index: 7,
            ours: true,
            kind: "veth".into(),
            up: true,
            mtu: plan::default_mtu(spec, Some(1500)),
            ipv6_mtu: None,
            addresses: spec.inner.addresses.clone(),
            routes: spec.inner.routes.clone(),
            neighbours: spec.inner.neighbours.iter().map(in_the_table).collect(),
        }),
        path_mtu: Some(1500),
        forwarding_v4: spec.inner.forward,
        forwarding_v6: false,
        snat_present: Some(spec.inner.snat.is_some()),
        sealed: Some(true),
        rules: spec.inner.rules.clone(),
        to_stop: Vec::new(),
    }
}

fn words(plan: &[Action]) -> Vec<String> {
    plan.iter().map(ToString::to_string).collect()
}

#[test]
fn a_new_tunnel_is_made_in_the_order_that_survives_a_crash() {
    let observed = Observed { path_mtu: Some(1500), ..Observed::default() };
    let plan = plan::up(&guide(), None, &observed).unwrap();
    assert_eq!(
        words(&plan),
        [
            "remember tun0",
            "create device tun0, mtu 1476",
            "carry tun0 to 100.0.2.100",
            "set tun0 up",
            "add address 172.16.0.2 peer 172.16.0.1/30 to tun0",
            "add route 10.10.1.0/24 dev tun0",
            "set net.ipv4.ip_forward = 1",
            "translate source 172.16.0.1 to 10.10.2.1 for what leaves by other devices than tun0",
        ]
    );
}

#[test]
fn what_is_there_needs_nothing() {
    for spec in [bare(), guide()] {
        assert_eq!(plan::up(&spec, Some(&spec), &after(&spec)).unwrap(), []);
    }
}

#[test]
fn tables_that_somebody_flushed_come_back() {
    let spec = guide();
    let flushed = Observed { snat_present: Some(false), sealed: Some(false), ..after(&spec) };
    let translation =
        "translate source 172.16.0.1 to 10.10.2.1 for what leaves by other devices than tun0".to_owned();
    let plan = plan::up(&spec, Some(&spec), &flushed).unwrap();
    assert_eq!(words(&plan), ["seal the data plane's end of tun0".to_owned(), translation]);
    // Where tables cannot be read, nothing is known to be missing.
    let hidden = Observed { snat_present: None, sealed: None, ..after(&spec) };
    assert_eq!(plan::up(&spec, Some(&spec), &hidden).unwrap(), []);
    // A tunnel that asks for no translation gets none.
    let plan = plan::up(&bare(), Some(&bare()), &Observed { snat_present: Some(false), ..after(&bare()) });
    assert_eq!(plan.unwrap(), []);
}

#[test]
fn what_still_has_its_device_is_not_forgotten() {
    let plan = plan::down(&guide(), &[Forwarding::Ipv4]);
    let device = plan.iter().position(|action| matches!(action, Action::DeleteDevice(_))).unwrap();
    let mut host = Fake { fails_at: device, done: Vec::new() };
    let failures = apply::tear_down(&plan, &mut host);
    assert_eq!(failures, ["cannot delete device tun0: no space left on device"]);
    assert_eq!(host.done.last().unwrap(), "set net.ipv4.ip_forward = 0, as it was");
}

#[test]
fn cf06_the_mtu_leaves_room_for_the_headers() {
    let mut spec = bare();
    assert_eq!(plan::default_mtu(&spec, Some(1500)), 1476);
    assert_eq!(plan::default_mtu(&spec, None), 1476, "no route yet");
    assert_eq!(plan::default_mtu(&spec, Some(9001)), 8977);
    spec.okey = Some(0);
    assert_eq!(plan::default_mtu(&spec, Some(1500)), 1472, "key 0 is a key");
    (spec.ocsum, spec.oseq) = (true, true);
    assert_eq!(plan::default_mtu(&spec, Some(1500)), 1464);
    assert_eq!(plan::default_mtu(&spec, Some(80)), 68);
    // Over IPv6 with the encapsulation limit; never less than IPv6 asks of a link.
    let mut draft = Draft::from(&spec);
    (draft.mode, draft.ttl, draft.encaplimit) = (Some(Mode::Ip6Gre.into()), None, Some(Some(4).into()));
    let [near, far] = ["fd00::1", "fd00::2"].map(|text| text.parse::<IpAddr>().unwrap());
    (draft.local, draft.remote) = (Some(near.into()), Some(far.into()));
    (draft.okey, draft.ocsum, draft.oseq) = (None, None, None);
    let spec = draft.into_spec().unwrap();
    assert_eq!([Some(1500), Some(1300), None].map(|path| plan::default_mtu(&spec, path)), [1448, 1280, 1448]);
}

#[test]
fn cf05_the_mtu_follows_a_change_of_the_headers_and_only_that() {
    let old = bare();
    let mut observed = after(&old);
    let mut keyed = old.clone();
    keyed.okey = Some(42);
    let plan = plan::up(&keyed, Some(&old), &observed).unwrap();
    assert!(words(&plan).contains(&"set mtu of tun0 from 1476 to 1472".to_owned()), "{plan:?}");
    // An operator's own MTU stays where the headers do.
    if let Some(device) = &mut observed.device {
        device.mtu = 1400;
    }
    let mut other_ttl = old.clone();
    other_ttl.ttl = greway_spec::Ttl::Fixed(9);
    let plan = plan::up(&other_ttl, Some(&old), &observed).unwrap();
    assert_eq!(words(&plan), ["remember tun0", "carry tun0 with the changed parameters"]);
}

#[test]
fn what_the_file_no_longer_says_goes_and_what_others_added_stays() {
    let old = guide();
    let mut observed = after(&old);
    if let Some(device) = &mut observed.device {
        device.routes.push(route("192.0.2.0", 24));
    }
    let mut new = old.clone();
    new.inner.routes = vec![route("10.10.3.0", 24)];
    new.inner.snat = None;
    let plan = plan::up(&new, Some(&old), &observed).unwrap();
    assert_eq!(
        words(&plan),
        [
            "remember tun0",
            "remove route 10.10.1.0/24 dev tun0",
            "add route 10.10.3.0/24 dev tun0",
            "stop translating source 172.16.0.1 to 10.10.2.1",
        ]
    );
}

#[test]
fn a_name_of_somebody_else_is_refused() {
    let mut observed = after(&bare());
    if let Some(device) = &mut observed.device {
        (device.ours, device.kind) = (false, "dummy".into());
    }
    let refused = plan::up(&bare(), None, &observed).unwrap_err();
    assert!(matches!(&refused, PlanError::NameTaken { kind, .. } if kind == "dummy"));
    assert!(refused.to_string().contains("ip link del tun0"), "{refused}");
    // Marked as ours, but not of this daemon: no tunnel to take over.
    assert!(plan::up(&bare(), None, &after(&bare())).is_err());
}

#[test]
fn a_route_to_the_same_place_on_the_device_is_replaced() {
    let mut spec = bare();
    spec.inner.routes = vec![route("10.10.1.0", 24)];
    let mut observed = after(&bare());
    let by_hand = InnerRoute { via: Some("172.16.0.9".parse().unwrap()), ..route("10.10.1.0", 24) };
    if let Some(device) = &mut observed.device {
        device.routes = vec![by_hand, InnerRoute { metric: Some(5), ..by_hand }];
    }
    let plan = plan::up(&spec, Some(&bare()), &observed).unwrap();
    let lines = ["remove route 10.10.1.0/24 via 172.16.0.9 dev tun0", "add route 10.10.1.0/24 dev tun0"];
    assert_eq!(words(&plan)[1..], lines, "the one with another metric is beside it");
}

fn rule(words_of: [u8; 4]) -> InnerRule {
    let from = Some(Prefix { address: words_of.into(), length: 24 });
    InnerRule { from, ..InnerRule::all(false, RuleAction::Table(100)) }
}

#[test]
fn rules_come_after_the_routes_and_go_first_and_others_stay() {
    let mut spec = bare();
    spec.inner.rules = vec![rule([10, 10, 1, 0]), rule([10, 10, 9, 0])];
    let mut observed = Observed { path_mtu: Some(1500), ..Observed::default() };
    // One is there already, with the order that the kernel gave it.
    observed.rules.push(InnerRule { priority: Some(32_765), ..rule([10, 10, 9, 0]) });
    let plan = plan::up(&spec, None, &observed).unwrap();
    assert_eq!(words(&plan).last().unwrap(), "add rule from 10.10.1.0/24 table 100 for tun0");
    assert_eq!(plan.iter().filter(|action| matches!(action, Action::AddRule(..))).count(), 1);

    let mut fewer = spec.clone();
    fewer.inner.rules.pop();
    let mut present = after(&spec);
    present.rules.push(rule([192, 0, 2, 0]));
    let plan = plan::up(&fewer, Some(&spec), &present).unwrap();
    assert_eq!(words(&plan), ["remember tun0", "remove rule from 10.10.9.0/24 table 100 of tun0"]);

    let down = words(&plan::down(&spec, &[]));
    assert_eq!(down[..2].iter().filter(|line| line.starts_with("remove rule")).count(), 2, "{down:?}");
}

#[test]
fn a_rule_does_not_go_with_the_device_and_is_taken_back() {
    let mut spec = bare();
    spec.inner.rules = vec![rule([10, 10, 1, 0]), rule([10, 10, 9, 0])];
    let observed = Observed { path_mtu: Some(1500), ..Observed::default() };
    let plan = plan::up(&spec, None, &observed).unwrap();
    let mut host = Fake { fails_at: plan.len() - 1, done: Vec::new() };
    apply::set_up(&plan, None, &mut host).unwrap_err();
    assert!(
        host.done.contains(&"remove rule from 10.10.1.0/24 table 100 of tun0".to_owned()),
        "{:?}",
        host.done
    );
}

#[test]
fn a_link_that_is_to_stay_down_is_not_set_up() {
    let mut spec = bare();
    spec.inner.link_down = true;
    let observed = Observed { path_mtu: Some(1500), ..Observed::default() };
    let made = words(&plan::up(&spec, None, &observed).unwrap());
    assert!(!made.contains(&"set tun0 up".to_owned()), "{made:?}");
    let plan = plan::up(&spec, Some(&bare()), &after(&bare())).unwrap();
    assert_eq!(words(&plan), ["remember tun0", "set tun0 down"]);
    let mut down = after(&spec);
    if let Some(device) = &mut down.device {
        device.up = false;
    }
    assert_eq!(plan::up(&spec, Some(&spec), &down).unwrap(), []);
}

#[test]
fn the_mtu_for_ipv6_comes_after_the_devices_own() {
    let mut spec = bare();
    spec.inner.ipv6_mtu = Some(1300);
    let mut observed = after(&bare());
    let set_ipv6 = |mtu: Option<u32>, observed: &mut Observed| {
        if let Some(device) = &mut observed.device {
            device.ipv6_mtu = mtu;
        }
    };
    set_ipv6(Some(1476), &mut observed);
    let plan = plan::up(&spec, Some(&bare()), &observed).unwrap();
    assert_eq!(words(&plan), ["remember tun0", "set mtu of tun0 for IPv6 to 1300"]);
    set_ipv6(Some(1300), &mut observed);
    assert_eq!(plan::up(&spec, Some(&spec), &observed).unwrap(), []);
    // The kernel copies the device's to it.
    let mut smaller = spec.clone();
    smaller.mtu = Some(1400);
    let lines = words(&plan::up(&smaller, Some(&spec), &observed).unwrap());
    assert_eq!(lines[1..], ["set mtu of tun0 from 1476 to 1400", "set mtu of tun0 for IPv6 to 1300"]);
    // Given up, it is the device's again.
    let lines = words(&plan::up(&bare(), Some(&spec), &observed).unwrap());
    assert_eq!(lines, ["remember tun0", "set mtu of tun0 for IPv6 to 1476"]);
}

/// A host that fails at the nth action and remembers what it did.
struct Fake {
    fails_at: usize,
    done: Vec<String>,
}

impl System for Fake {
    fn execute(&mut self, action: &Action) -> Result<(), StepError> {
        if self.done.len() == self.fails_at {
            self.fails_at = usize::MAX;
            return Err(StepError("no space left on device".into()));
        }
        self.done.push(action.to_string());
        Ok(())
    }
}

#[test]
fn a_failure_takes_back_everything_before_it_wherever_it_strikes() {
    let observed = Observed { path_mtu: Some(1500), ..Observed::default() };
    let plan = plan::up(&guide(), None, &observed).unwrap();
    for fails_at in 0..plan.len() {
        let mut host = Fake { fails_at, done: Vec::new() };
        let error = apply::set_up(&plan, None, &mut host).unwrap_err();
        assert!(error.to_string().contains("no space left on device"), "{error}");
        let undone = &host.done[fails_at..];
        let has = |word: &str| undone.iter().any(|line| line == word);
        assert_eq!(has("forget tun0"), fails_at > 0, "{fails_at}: {undone:?}");
        assert_eq!(has("delete device tun0"), fails_at > 1, "{fails_at}: {undone:?}");
        assert_eq!(has("stop carrying tun0"), fails_at > 2, "{fails_at}: {undone:?}");
        assert_eq!(has("set net.ipv4.ip_forward = 0, as it was"), fails_at > 6, "{fails_at}: {undone:?}");
    }
}

#[test]
fn a_failed_change_restores_the_old_tunnel() {
    let old = guide();
    let mut new = old.clone();
    new.okey = Some(42);
    new.inner.routes = vec![route("10.10.3.0", 24)];
    let plan = plan::up(&new, Some(&old), &after(&old)).unwrap();
    let mut host = Fake { fails_at: plan.len() - 1, done: Vec::new() };
    apply::set_up(&plan, Some(&old), &mut host).unwrap_err();
    let undone = &host.done[plan.len() - 1..];
    assert_eq!(
        undone,
        [
            "add route 10.10.1.0/24 dev tun0",
            "set mtu of tun0 from 1472 to 1476",
            "carry tun0 with the changed parameters",
            "remember tun0",
        ]
    );
}

#[test]
fn teardown_goes_on_after_a_failure() {
    let plan = plan::down(&guide(), &[Forwarding::Ipv4]);
    let mut host = Fake { fails_at: 1, done: Vec::new() };
    let failures = apply::tear_down(&plan, &mut host);
    assert_eq!(failures, ["cannot stop carrying tun0: no space left on device"]);
    assert_eq!(host.done.len(), plan.len() - 1);
}

fn address(text: &str) -> InnerAddress {
    let (local, length) = text.split_once('/').unwrap();
    InnerAddress { local: local.parse().unwrap(), peer: None, prefix_length: length.parse().unwrap() }
}

/// What happens to the inside when the only address becomes another.
fn moving(from: &str, to: &str) -> Vec<String> {
    let [old, new] = [from, to].map(|text| {
        let mut spec = guide();
        spec.inner.addresses = vec![address(text)];
        spec.inner.routes.truncate(1);
        (spec.inner.forward, spec.inner.snat) = (false, None);
        spec
    });
    let plan = plan::up(&new, Some(&old), &after(&old)).unwrap();
    words(&plan).into_iter().filter(|line| line != "remember tun0").collect()
}

#[test]
fn an_address_comes_before_the_old_one_goes() {
    let plan = moving("172.16.0.1/24", "172.17.0.1/24");
    assert_eq!(plan, ["add address 172.17.0.1/24 to tun0", "remove address 172.16.0.1/24 from tun0"]);
    let plan = moving("fd00::1/64", "fd00::2/64");
    assert_eq!(plan, ["add address fd00::2/64 to tun0", "remove address fd00::1/64 from tun0"]);
    let plan = moving("172.16.0.1/24", "172.16.0.1/16");
    assert_eq!(plan, ["add address 172.16.0.1/16 to tun0", "remove address 172.16.0.1/24 from tun0"]);
}

#[test]
fn routes_are_put_back_where_the_last_address_has_to_go_first() {
    let plan = moving("172.16.0.1/24", "172.16.0.9/24");
    let (first, last) = (plan.first().unwrap(), plan.last().unwrap());
    let route = first.strip_prefix("remove route ").unwrap();
    assert_eq!(*last, format!("add route {route}"));
    assert_eq!(plan[1..3], ["remove address 172.16.0.1/24 from tun0", "add address 172.16.0.9/24 to tun0"]);
    let plan = moving("fd00::1/64", "fd00::1/48");
    assert_eq!(plan, ["remove address fd00::1/64 from tun0", "add address fd00::1/48 to tun0"]);
}

#[test]
fn forwarding_that_nobody_asks_for_any_more_is_the_last_to_go() {
    let old = guide();
    let mut new = old.clone();
    new.inner.forward = false;
    let observed = Observed { to_stop: vec![Forwarding::Ipv4], ..after(&old) };
    let plan = plan::up(&new, Some(&old), &observed).unwrap();
    assert_eq!(words(&plan).last().unwrap(), "set net.ipv4.ip_forward = 0, as it was");
    assert!(
        !words(&plan::up(&old, Some(&old), &observed).unwrap())
            .iter()
            .any(|line| line.contains("ip_forward"))
    );
}

#[test]
fn tx02_neighbours_come_and_go_with_the_file() {
    let neighbour = |address: &str, endpoint: &str| InnerNeighbour {
        address: address.parse().unwrap(),
        endpoint: endpoint.parse().unwrap(),
    };
    let with = |neighbours: &[InnerNeighbour]| {
        let mut spec = bare();
        spec.remote = None;
        spec.inner.neighbours = neighbours.to_vec();
        spec
    };
    let (one, other) = (neighbour("10.0.0.2", "203.0.113.5"), neighbour("10.0.0.3", "203.0.113.6"));
    let moved = neighbour("10.0.0.2", "203.0.113.7");
    let made = words(&plan::up(&with(&[one]), None, &Observed::default()).unwrap());
    assert_eq!(made.last().unwrap(), "add neighbour 10.0.0.2 lladdr 203.0.113.5 dev tun0");
    assert_eq!(plan::up(&with(&[one]), Some(&with(&[one])), &after(&with(&[one]))).unwrap(), []);
    let changed = plan::up(&with(&[moved]), Some(&with(&[one, other])), &after(&with(&[one, other])));
    assert_eq!(
        words(&changed.unwrap())[2..],
        [
            "remove neighbour 10.0.0.3 lladdr 203.0.113.6 dev tun0",
            "add neighbour 10.0.0.2 lladdr 203.0.113.7 dev tun0",
        ]
    );
    // The kernel forgot it with the device going down.
    let mut forgotten = after(&with(&[one]));
    forgotten.device.as_mut().unwrap().neighbours.clear();
    let again = plan::up(&with(&[one]), Some(&with(&[one])), &forgotten).unwrap();
    assert_eq!(words(&again), ["add neighbour 10.0.0.2 lladdr 203.0.113.5 dev tun0"]);
}
