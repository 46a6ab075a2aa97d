//! The other end of a tunnel, as far as it can be known from this one: ends, inner addresses, keys and options
//! swapped. What is this host's own affair is left out, and each thing that is left out is said.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_netlink::{Family, Netlink, RouteFilter, RouteKind, RouteOptions, protocol, table};
use greway_spec::{DeviceName, Draft, DraftAddress, InnerAddress, Prefix, SeqMode, TunnelSpec};

/// The other end.
#[derive(Clone, Debug)]
pub(crate) struct OtherEnd {
    /// The tunnel as the other host has to make it.
    pub(crate) spec: TunnelSpec,
    /// What the reader should know, a sentence each.
    pub(crate) notes: Vec<String>,
}

/// Why there is no other end to be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoOtherEnd {
    /// `remote any`.
    #[error("tunnel {0}: remote any has no one other end; name the peer in remote")]
    AnyRemote(String),
    /// The far ends are a group.
    #[error(
        "{name}: its far ends are the group {group}; each of them has the same remote, and a local of its own"
    )]
    Group {
        /// The tunnel here.
        name: String,
        /// The group.
        group: IpAddr,
    },
    /// `local any`, and no route tells.
    #[error(
        "tunnel {name}: local is any and there is no route to {remote}, so the other end's remote is unknown: set local"
    )]
    AnyLocal {
        /// The tunnel.
        name: String,
        /// Its remote.
        remote: IpAddr,
    },
    /// It would be no tunnel.
    #[error("{0}")]
    Impossible(String),
}

/// Turns a tunnel round. `source` is this host's address towards the remote, for a tunnel with `local any`.
pub(crate) fn of(spec: &TunnelSpec, source: Option<IpAddr>) -> Result<OtherEnd, NoOtherEnd> {
    let remote = spec.remote.ok_or_else(|| NoOtherEnd::AnyRemote(spec.name.to_string()))?;
    if remote.is_multicast() {
        return Err(NoOtherEnd::Group { name: spec.name.to_string(), group: remote });
    }
    let local = spec.local.or(source);
    let local = local.ok_or_else(|| NoOtherEnd::AnyLocal { name: spec.name.to_string(), remote })?;
    let mut notes = Vec::new();
    if spec.local.is_none() {
        notes.push(format!(
            "local is any here; {local} is the address that packets to {remote} leave with now"
        ));
    }
    let mut draft = Draft::from(spec);
    draft.local = Some(remote.into());
    draft.remote = Some(local.into());
    (draft.ikey, draft.okey) = (draft.okey, draft.ikey);
    (draft.icsum, draft.ocsum) = (draft.ocsum, draft.icsum);
    (draft.iseq, draft.oseq) = (draft.oseq, draft.iseq);
    draft.addresses =
        Some(spec.inner.addresses.iter().filter_map(|inner| swapped(inner, &mut notes)).collect());
    own_affairs(spec, &mut draft, &mut notes);
    if [local, remote].iter().any(|end| matches!(end, IpAddr::V6(end) if end.is_unicast_link_local())) {
        notes.push(format!(
            "{local} and {remote} are addresses of one link: name the device of that link there, dev DEVICE"
        ));
    }
    let spec = draft.into_spec().map_err(|error| NoOtherEnd::Impossible(error.to_string()))?;
    Ok(OtherEnd { spec, notes })
}

fn swapped(inner: &InnerAddress, notes: &mut Vec<String>) -> Option<greway_spec::Given<DraftAddress>> {
    let InnerAddress { local, peer, prefix_length } = *inner;
    match peer {
        Some(peer) => Some(DraftAddress { local: peer, peer: Some(local), prefix_length }.into()),
        None => match only_neighbour(local, prefix_length) {
            Some(other) => Some(DraftAddress { local: other, peer: None, prefix_length }.into()),
            None => {
                notes.push(format!(
                    "{inner} does not tell the other end's inner address: give it one of {} there",
                    Prefix::containing(local, prefix_length)
                ));
                None
            }
        },
    }
}

/// The other host's address in a network of two.
fn only_neighbour(local: IpAddr, length: u8) -> Option<IpAddr> {
    match local {
        IpAddr::V4(address) if length == 31 => Some(Ipv4Addr::from_bits(address.to_bits() ^ 1).into()),
        IpAddr::V4(address) if length == 30 => {
            let other = Ipv4Addr::from_bits(address.to_bits() ^ 3);
            // The network's own address and its broadcast have no neighbour.
            (matches!(address.to_bits() & 3, 1 | 2)).then_some(other.into())
        }
        IpAddr::V6(address) if length == 127 => Some(Ipv6Addr::from_bits(address.to_bits() ^ 1).into()),
        IpAddr::V6(address) if length == 126 => {
            let other = Ipv6Addr::from_bits(address.to_bits() ^ 3);
            (matches!(address.to_bits() & 3, 1 | 2)).then_some(other.into())
        }
        _ => None,
    }
}

/// Takes out what belongs to this host alone.
fn own_affairs(spec: &TunnelSpec, draft: &mut Draft, notes: &mut Vec<String>) {
    let mut leave_out = |said: bool, what: String| {
        if said {
            notes.push(format!("{what} is this host's own affair and left out"));
        }
    };
    if let Some(dev) = &spec.dev {
        leave_out(true, format!("dev {dev}"));
    }
    leave_out(spec.fwmark != 0, format!("fwmark {:#x}", spec.fwmark));
    leave_out(spec.seq_mode != SeqMode::Linux, format!("seq-mode {}", spec.seq_mode));
    leave_out(spec.inner.forward, "forward".to_owned());
    if let Some(snat) = spec.inner.snat {
        leave_out(true, format!("snat {snat}"));
    }
    for rule in &spec.inner.rules {
        leave_out(true, format!("rule {rule}"));
    }
    leave_out(spec.inner.link_down, "link_down".to_owned());
    leave_out(spec.allow_localremote, "allow-localremote".to_owned());
    for route in &spec.inner.routes {
        leave_out(true, format!("route {route}"));
    }
    draft.dev = None;
    draft.fwmark = None;
    draft.seq_mode = None;
    draft.forward = None;
    draft.snat = None;
    draft.rules = None;
    draft.neighbours = None;
    draft.link_down = None;
    draft.allow_localremote = None;
    draft.routes = None;
    // Which data plane carries it is decided where it is carried.
    (draft.datapath, draft.underlay, draft.overlay, draft.firewall) = (None, None, None, None);
    draft.direct = None;
}

/// By what the way to a remote is looked up, as the tunnel will: its `dev`, where that is there, and its `fwmark`.
pub(crate) fn way_options(netlink: &Netlink, dev: Option<&DeviceName>, fwmark: u32) -> RouteOptions {
    let link = dev.and_then(|dev| netlink.link_by_name(dev.as_str()).ok().flatten());
    let mark = Some(fwmark).filter(|mark| *mark != 0);
    RouteOptions { mark, oif: link.map(|link| link.index), ..RouteOptions::default() }
}

/// The address that packets of this tunnel to its remote leave with; `None` where there is no way.
pub(crate) fn source_of(netlink: &Netlink, spec: &TunnelSpec) -> Option<IpAddr> {
    let options = way_options(netlink, spec.dev.as_ref(), spec.fwmark);
    let route = netlink.route_to(spec.remote?, &options).ok()?;
    route.source.filter(|_| route.kind == RouteKind::Unicast)
}

/// A network that is connected to this host and could be what the other end wants to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lan {
    /// The network.
    pub(crate) prefix: Prefix,
    /// The device it is on.
    pub(crate) dev: String,
}

/// Networks connected to this host, but for those of the way to `remote`, of tunnels and of containers.
/// What cannot be read is none.
pub(crate) fn lans(netlink: &Netlink, remote: IpAddr, tunnels: &[String]) -> Vec<Lan> {
    let underlay = netlink.route_to(remote, &RouteOptions::default()).map_or(0, |route| route.ifindex);
    let mut lans = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let filter =
            RouteFilter { table: Some(table::MAIN), ifindex: None, protocol: Some(protocol::KERNEL) };
        for route in netlink.routes(family, &filter).unwrap_or_default() {
            let Some(index) = route.ifindex else { continue };
            let Ok(Some(link)) = netlink.link_by_index(index) else { continue };
            let (address, length) = (route.destination.address, route.destination.length);
            let link_local =
                matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast());
            let container =
                ["docker", "virbr", "cni", "br-", "podman"].iter().any(|kind| link.name.starts_with(kind));
            let own = link.alias.as_deref().is_some_and(|alias| alias.starts_with("greway "));
            if index == underlay
                || link.name == "lo"
                || link_local
                || container
                || own
                || tunnels.contains(&link.name)
            {
                continue;
            }
            let lan = Lan { prefix: Prefix::containing(address, length), dev: link.name };
            if !lans.contains(&lan) {
                lans.push(lan);
            }
        }
    }
    lans
}

/// Whether an address is one that only this side of a translator knows (RFC 1918, RFC 6598, RFC 4193).
pub(crate) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64,
        IpAddr::V6(v6) => v6.octets()[0] & 0xfe == 0xfc,
    }
}

/// A remark for a tunnel between a private address here and a public one there.
pub(crate) fn nat_remark(local: IpAddr, remote: IpAddr) -> Option<String> {
    (is_private(local) && !is_private(remote)).then(|| {
        format!(
            "{local} is a private address and {remote} is not: if a translator (cloud 1:1 NAT) stands between them, \
             the other host must say this host's public address wherever {local} stands below"
        )
    })
}

#[cfg(test)]
mod tests {
    use greway_dialects::native;

    use super::*;

    fn spec(text: &str) -> TunnelSpec {
        native::parse(text, "tun0.toml").unwrap().into_spec().unwrap()
    }

    #[test]
    fn turned_round_and_round_again() {
        let here = spec(
            "local = \"100.0.1.100\"\nremote = \"100.0.2.100\"\nikey = 1\nokey = 2\nicsum = true\noseq = true\n\
             ttl = 9\n[inner]\naddresses = [{ address = \"172.16.0.1\", peer = \"172.16.0.2/30\" }, \"fd00::/127\"]\n",
        );
        let there = of(&here, None).unwrap();
        assert!(there.notes.is_empty(), "{:?}", there.notes);
        let spec = &there.spec;
        assert_eq!((spec.local, spec.remote), (here.remote, here.local));
        assert_eq!((spec.ikey, spec.okey), (Some(2), Some(1)));
        assert_eq!((spec.icsum, spec.ocsum, spec.iseq, spec.oseq), (false, true, true, false));
        let inner = spec.inner.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(inner, ["172.16.0.2 peer 172.16.0.1/30", "fd00::1/127"]);
        assert_eq!(of(spec, None).unwrap().spec, here);
    }

    #[test]
    fn what_is_left_out_is_said() {
        let here = spec(
            "remote = \"100.0.2.100\"\ndev = \"wan0\"\n[inner]\naddress = \"10.0.0.1/24\"\n\
             routes = [\"10.10.2.0/24\"]\nforward = true\n",
        );
        let there = of(&here, Some([100, 0, 1, 100].into())).unwrap();
        let notes = there.notes.join("\n");
        for part in [
            "local is any here; 100.0.1.100",
            "dev wan0",
            "forward",
            "route 10.10.2.0/24",
            "one of 10.0.0.0/24",
        ] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
        assert_eq!((there.spec.dev.clone(), there.spec.inner.routes.len()), (None, 0));
        assert!(matches!(of(&here, None), Err(NoOtherEnd::AnyLocal { .. })));
        // The neighbour of .0/30 and .3/30 is nobody's.
        for end in ["172.16.0.0/30", "172.16.0.3/30"] {
            let (address, _) = end.split_once('/').unwrap();
            assert_eq!(only_neighbour(address.parse().unwrap(), 30), None);
        }
        assert_eq!(only_neighbour([172, 16, 0, 2].into(), 30), Some([172, 16, 0, 1].into()));
        let six = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(only_neighbour(six("fd00::1"), 126), Some(six("fd00::2")));
        assert_eq!(only_neighbour(six("fd00::"), 126), None);
    }

    #[test]
    fn over_ipv6_and_on_one_link() {
        let here = spec(
            "mode = \"ip6gre\"\nlocal = \"fe80::1\"\nremote = \"fe80::2\"\ndev = \"wan0\"\nkey = 7\n\
             encaplimit = \"none\"\nflowlabel = 0x123\n[inner]\naddress = \"fd00::1/126\"\n",
        );
        let there = of(&here, None).unwrap();
        let notes = there.notes.join("\n");
        assert!(notes.contains("dev wan0") && notes.contains("addresses of one link"), "{notes}");
        assert_eq!((there.spec.local, there.spec.remote), (here.remote, here.local));
        assert_eq!((there.spec.mode, there.spec.encaplimit), (here.mode, None));
        assert_eq!((there.spec.flowlabel, there.spec.ikey), (here.flowlabel, Some(7)));
        assert_eq!(there.spec.inner.addresses[0].to_string(), "fd00::2/126");
    }

    #[test]
    fn many_far_ends_have_no_one_other_end() {
        let any = spec("local = \"10.0.0.1\"\nremote = \"any\"\nkey = 7\n");
        assert!(of(&any, None).unwrap_err().to_string().contains("remote any has no one other end"));
        let group = spec("local = \"10.0.0.1\"\nremote = \"239.1.1.1\"\nkey = 7\n");
        assert!(of(&group, None).unwrap_err().to_string().contains("the group 239.1.1.1"));
    }

    #[test]
    fn private_is_seen_from_the_other_side() {
        for (local, remote, remark) in [
            ("10.0.0.5", "203.0.113.1", true),
            ("100.64.0.1", "203.0.113.1", true),
            ("100.0.1.100", "100.0.2.100", false),
            ("10.0.0.5", "10.0.0.6", false),
            ("203.0.113.1", "10.0.0.5", false),
            ("fd00::1", "2001:db8::1", true),
        ] {
            let found = nat_remark(local.parse().unwrap(), remote.parse().unwrap()).is_some();
            assert_eq!(found, remark, "{local} {remote}");
        }
    }
}
