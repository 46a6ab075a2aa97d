//! Two hosts on a cable with a tunnel between them that nobody but the programs carries.
//!
//! ```text
//!  left                                                          right
//!  tun0 ══ gw-tun0 ─► overlay ─► eth0 ─────────── eth0 ─► underlay ─► gw-tun0 ══ tun0
//!  172.16.0.1, fd00::1          192.0.2.1, 2001:db8::1                          .2, ::2
//! ```

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use greway_fastpath::{Counters, Fastpath, Member, NextHop, Options, Place, Point, Table, TunnelCounters};
use greway_netlink::{LinkChange, VethEnd, VethSpec};
use greway_spec::{Draft, TunnelSpec};
use greway_testbed::{Host, LinkOptions, link, poll_until};

use crate::support::options;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One end.
pub(crate) struct End {
    pub(crate) host: Host,
    pub(crate) fastpath: Fastpath,
    pub(crate) spec: TunnelSpec,
    pub(crate) place: Place,
}

pub(crate) struct Tunnel {
    pub(crate) left: End,
    pub(crate) right: End,
}

pub(crate) fn outer4(end: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, end).into()
}

pub(crate) fn outer6(end: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, end.into()).into()
}

pub(crate) fn inner4(end: u8) -> IpAddr {
    Ipv4Addr::new(172, 16, 0, end).into()
}

pub(crate) fn inner6(end: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, end.into()).into()
}

/// Two hosts on a cable; `None` without the privilege.
pub(crate) fn hosts(options: &LinkOptions) -> Option<[Host; 2]> {
    let hosts = [Host::new("left").ok()?, Host::new("right").ok()?];
    let [left, right] = &hosts;
    link(left, "eth0", right, "eth0", options).unwrap();
    end_addresses(left, 1);
    end_addresses(right, 2);
    Some(hosts)
}

/// Gives an end of the cable its addresses.
pub(crate) fn end_addresses(host: &Host, end: u8) {
    host.address("eth0", &format!("192.0.2.{end}/24")).unwrap();
    host.address("eth0", &format!("2001:db8::{end}/64")).unwrap();
}

impl Tunnel {
    /// The tunnel, its knobs turned by `change`; both ends' the same way.
    pub(crate) fn new(hosts: [Host; 2], change: impl Fn(&mut TunnelSpec)) -> Self {
        Self::with([&options(), &options()], hosts, change)
    }

    /// The same, the programs loaded like this at the left and at the right end.
    pub(crate) fn with(
        [left_options, right_options]: [&Options; 2],
        hosts: [Host; 2],
        change: impl Fn(&mut TunnelSpec),
    ) -> Self {
        let [left, right] = hosts;
        let spec = |local: u8, remote: u8| {
            let mut spec =
                Draft::new("tun0".parse().unwrap(), Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 9))
                    .into_spec()
                    .unwrap();
            change(&mut spec);
            let outer = if spec.mode.over_ipv6() { outer6 } else { outer4 };
            spec.local = Some(outer(local));
            spec.remote = Some(outer(remote));
            spec
        };
        Self {
            left: End::new(left_options, left, spec(1, 2), 1),
            right: End::new(right_options, right, spec(2, 1), 2),
        }
    }
}

impl End {
    fn new(options: &Options, host: Host, spec: TunnelSpec, number: u8) -> Self {
        let netlink = host.netlink().unwrap();
        let device_mac = [2, 0, 0, 0, 1, number];
        let peer_mac = [2, 0, 0, 0, 2, number];
        let arp = spec.mode.is_ethernet();
        let device_mtu = 1500 - spec.overhead();
        let pair = netlink
            .create_veth(&VethSpec {
                end: VethEnd {
                    address: Some(device_mac),
                    mtu: Some(device_mtu),
                    arp,
                    ..VethEnd::new("tun0")
                },
                peer: VethEnd {
                    address: Some(peer_mac),
                    mtu: Some(65_535),
                    arp: false,
                    addr_gen_mode_none: true,
                    ..VethEnd::new("gw-tun0")
                },
                peer_netns: None,
            })
            .unwrap();
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        netlink.change_link(pair.index, &up).unwrap();
        netlink.change_link(pair.peer_index, &up).unwrap();
        host.address("tun0", &format!("172.16.0.{number}/24")).unwrap();
        host.address("tun0", &format!("fd00::{number}/64")).unwrap();
        let address = spec.remote.unwrap();
        let place = Place {
            peer: pair.peer_index,
            device: Some(pair.index),
            device_mtu,
            device_mac,
            peer_mac,
            next_hop: Some(NextHop { ifindex: host.index("eth0").unwrap(), address }),
            neighbour_known: true,
            path_mtu: 1500,
            ..Place::default()
        };
        let fastpath = host
            .run(|| {
                let mut fastpath = Fastpath::load_with(options).unwrap();
                fastpath.apply(&Table::of([Member { spec: &spec, place, wanted: true }])).unwrap();
                fastpath.attach("gw-tun0", Point::Overlay).unwrap();
                fastpath.attach("eth0", Point::Underlay).unwrap();
                if spec.direct {
                    fastpath.attach("tun0", Point::Direct).unwrap();
                }
                fastpath
            })
            .unwrap();
        let operational =
            || netlink.link_by_index(pair.index).unwrap().is_some_and(|link| link.operational());
        poll_until(PATIENCE, "tun0 carries", || operational().then_some(())).unwrap();
        Self { host, fastpath, spec, place }
    }

    pub(crate) fn counters_of(&self, point: Point) -> Counters {
        self.fastpath.counters(point).unwrap()
    }

    pub(crate) fn counters(&self) -> TunnelCounters {
        self.fastpath.tunnel_counters(self.place.peer).unwrap().unwrap()
    }
}
