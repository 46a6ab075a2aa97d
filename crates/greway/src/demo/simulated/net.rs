//! The guide's five hosts and the links between them.
//!
//! A link carries IP packets without a link header, in order, at once, and loses none. The network is run until it
//! is quiet: time plays no part, so that a run is the same every time.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use crate::demo::world::{HostName, Sighting, Tap};

use super::host::{Device, Host, Outbox, Port, Route};
use super::packet::Packet;

/// One end of a link: a host and the number of its port.
type Plug = (HostName, usize);

use HostName::{Lan1, Lan2, Linux1, Linux2, Router};

/// lan1 – linux1 – router – linux2 – lan2, in [`HostName::ALL`]'s order. Port 0 of linux1 and linux2 is the outer one.
const LINKS: [[Plug; 2]; 4] = [
    [(Lan1, 0), (Linux1, 1)],
    [(Linux1, 0), (Router, 0)],
    [(Router, 1), (Linux2, 0)],
    [(Linux2, 1), (Lan2, 0)],
];

/// The hosts, and the packets on the links between them.
pub(super) struct Net {
    hosts: [Host; 5],
    travelling: VecDeque<(Plug, Packet)>,
    /// Open taps and what they saw.
    taps: Vec<Tap>,
    seen: Vec<Sighting>,
}

impl Net {
    /// The guide's addresses; linux1 and linux2 have a route to each other's outer network, the router forwards.
    pub(super) fn new() -> Self {
        let mut net = Self {
            hosts: Default::default(),
            travelling: VecDeque::new(),
            taps: Vec::new(),
            seen: Vec::new(),
        };
        let ports: [(HostName, &[[u8; 4]]); 5] = [
            (Lan1, &[[10, 10, 1, 100]]),
            (Linux1, &[[100, 0, 1, 100], [10, 10, 1, 1]]),
            (Router, &[[100, 0, 1, 1], [100, 0, 2, 1]]),
            (Linux2, &[[100, 0, 2, 100], [10, 10, 2, 1]]),
            (Lan2, &[[10, 10, 2, 100]]),
        ];
        for (name, addresses) in ports {
            let port = |octets: &[u8; 4]| Port { address: Ipv4Addr::from(*octets), length: 24 };
            net.host(name).ports = addresses.iter().map(port).collect();
        }
        net.host(Router).forward = true;
        for host in [Linux1, Linux2] {
            let everywhere = Route { network: Ipv4Addr::UNSPECIFIED, length: 0, device: Device::Port(0) };
            net.host(host).routes.push(everywhere);
        }
        net
    }

    /// A host.
    pub(super) fn host(&mut self, name: HostName) -> &mut Host {
        &mut self.hosts[name as usize]
    }

    /// Opens taps, and forgets what earlier ones saw.
    pub(super) fn open(&mut self, taps: &[Tap]) {
        self.taps = taps.to_vec();
        self.seen.clear();
    }

    /// Closes the taps; what they saw.
    pub(super) fn close(&mut self) -> Vec<Sighting> {
        self.taps.clear();
        std::mem::take(&mut self.seen)
    }

    /// Lets a host do something, and the network carry what comes of it until it is quiet.
    pub(super) fn act(&mut self, name: HostName, action: impl FnOnce(&mut Host, &mut Outbox)) {
        let mut out = Outbox::default();
        action(self.host(name), &mut out);
        self.collect(name, out);
        while let Some(((name, port), packet)) = self.travelling.pop_front() {
            self.look(name, port, &packet);
            let mut out = Outbox::default();
            self.host(name).receive(Device::Port(port), packet, &mut out);
            self.collect(name, out);
        }
    }

    fn collect(&mut self, name: HostName, out: Outbox) {
        if name == Linux2 && self.taps.contains(&Tap::Tunnel) {
            self.seen.extend(
                out.tunnelled.into_iter().map(|packet| Sighting { tap: Tap::Tunnel, packet: packet.bytes }),
            );
        }
        for (port, packet) in out.sent {
            self.look(name, port, &packet);
            if let Some(plug) = far_end((name, port)) {
                self.travelling.push_back((plug, packet));
            }
        }
    }

    fn look(&mut self, name: HostName, port: usize, packet: &Packet) {
        let tap = match (name, port) {
            (Linux2, 0) => Tap::Underlay,
            (Lan2, 0) => Tap::Lan,
            _ => return,
        };
        if self.taps.contains(&tap) {
            self.seen.push(Sighting { tap, packet: packet.bytes.clone() });
        }
    }
}

fn far_end(plug: Plug) -> Option<Plug> {
    LINKS.iter().find_map(|[a, b]| {
        if *a == plug {
            Some(*b)
        } else if *b == plug {
            Some(*a)
        } else {
            None
        }
    })
}
