//! The guide's topology without a kernel's help: for places where no network namespace may be made.
//!
//! The hosts and the links are simulated in this process; the tunnel is not. The files are read by greway's own
//! readers, and every packet that enters or leaves tun0 goes through the engine that the daemon uses. What is
//! not shown here is the way between the kernel and the engine: sockets, devices, the fast path.

mod host;
mod net;
mod packet;
mod tcp;
mod tunnel;

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Result, bail};

use super::world::{HostName, Leftover, Next, Ping, Said, Status, Tap, Transfer, TunnelFile, Way, World};
use host::{Device, Route};
use net::Net;
use tcp::{Ends, Receiver, Sender};
use tunnel::Tunnel;

/// The simulated world.
pub(super) struct Simulated {
    net: Net,
    /// Identifier of the last echo request.
    echoes: u16,
}

impl Simulated {
    /// The topology, with no tunnel yet.
    pub(super) fn new() -> Self {
        Self { net: Net::new(), echoes: 0 }
    }
}

/// TCP ports of the transfer.
const FROM_PORT: u16 = 40_000;
const TO_PORT: u16 = 5_001;

impl World for Simulated {
    fn up(&mut self, host: HostName, file: &TunnelFile) -> Result<Said> {
        let parsed = greway_dialects::parse(&file.text, file.name)?;
        let notes = parsed.warnings.iter().map(ToString::to_string).collect();
        let spec = parsed.into_spec()?;
        let host = self.net.host(host);
        host.forward |= spec.inner.forward;
        for route in &spec.inner.routes {
            if let std::net::IpAddr::V4(network) = route.destination.address {
                host.routes.push(Route { network, length: route.destination.length, device: Device::Tunnel });
            }
        }
        match &mut host.tunnel {
            Some(tunnel) => tunnel.change(spec),
            None => host.tunnel = Some(Tunnel::new(spec)),
        }
        Ok(Said { actions: Vec::new(), notes })
    }

    fn down(&mut self, host: HostName) -> Result<()> {
        let host = self.net.host(host);
        if host.tunnel.take().is_none() {
            bail!("there is no tun0");
        }
        host.routes.retain(|route| route.device != Device::Tunnel);
        Ok(())
    }

    fn forward(&mut self, host: HostName) -> Result<()> {
        self.net.host(host).forward = true;
        Ok(())
    }

    fn route_add(&mut self, host: HostName, way: Way) -> Result<()> {
        let host = self.net.host(host);
        let device = match way.next {
            Next::Tunnel if host.tunnel.is_none() => bail!("there is no tun0"),
            Next::Tunnel => Device::Tunnel,
            // Only the LAN hosts have gateways, and they have one port.
            Next::Via(_) => Device::Port(0),
        };
        host.routes.push(Route { network: way.network, length: way.length, device });
        Ok(())
    }

    fn route_del(&mut self, host: HostName, way: Way) -> Result<()> {
        let routes = &mut self.net.host(host).routes;
        routes.retain(|route| (route.network, route.length) != (way.network, way.length));
        Ok(())
    }

    fn ping(&mut self, from: HostName, to: Ipv4Addr, taps: &[Tap]) -> Result<Ping> {
        self.echoes += 1;
        let identifier = self.echoes;
        self.net.open(taps);
        let started = Instant::now();
        self.net.act(from, |host, out| host.ask(to, identifier, out));
        let elapsed = started.elapsed();
        let replied = self.net.host(from).echoed.contains(&identifier);
        Ok(Ping { reply: replied.then_some(elapsed), seen: self.net.close() })
    }

    fn transfer(&mut self, from: HostName, to: HostName, bytes: u64) -> Result<Transfer> {
        let Some(address) = self.net.host(to).ports.first().map(|port| port.address) else {
            bail!("{to} has no address")
        };
        let sender = self.net.host(from);
        let Some(source) = sender.source_towards(address) else { bail!("{from} has no way to {address}") };
        let ends = Ends { from: source, from_port: FROM_PORT, to: address, to_port: TO_PORT };
        let mtu = sender.mtu_towards(address);
        sender.sender = Some(Sender::new(ends, bytes, mtu));
        self.net.host(to).receiver = Some(Receiver::new(TO_PORT));
        let started = Instant::now();
        while self.net.host(from).sender.as_ref().is_some_and(|sender| !sender.is_over()) {
            self.net.act(from, |host, out| {
                let mut packets = Vec::new();
                if let Some(sender) = &mut host.sender {
                    sender.quiet(&mut packets);
                }
                packets.into_iter().for_each(|packet| host.send(packet, out));
            });
        }
        let elapsed = started.elapsed();
        self.net.host(from).sender = None;
        let receiver = self.net.host(to).receiver.take();
        let received = receiver.as_ref().map_or(0, Receiver::received);
        Ok(Transfer { bytes: received, elapsed, intact: receiver.is_some_and(|end| end.is_intact()) })
    }

    fn status(&mut self, host: HostName) -> Result<Status> {
        let peer = self.net.host(host).tunnel.as_ref().and_then(Tunnel::peer);
        let answer = match peer {
            Some(peer) => self.ping(host, peer, &[])?.reply,
            None => None,
        };
        match &self.net.host(host).tunnel {
            Some(tunnel) => tunnel.status(answer),
            None => bail!("there is no tun0"),
        }
    }

    fn remove(&mut self) -> Result<Vec<Leftover>> {
        self.net = Net::new();
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::render::{Page, Style};
    use crate::demo::script::{self, Programme};
    use crate::demo::{anatomy, files};

    const LAN2: Ipv4Addr = Ipv4Addr::new(10, 10, 2, 100);

    fn played(scenario: Option<u8>) -> String {
        let mut out = Vec::new();
        let mut page = Page::new(&mut out, Style { colour: false, unicode: true });
        let programme = Programme { scenario, transfer: 8 << 20, keep: false };
        script::play(&mut Simulated::new(), &mut page, programme).unwrap();
        let (held, count) = (page.all_held(), page.checks().len());
        page.finish().unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(held && count > 10, "{count} checks:\n{text}");
        text
    }

    #[test]
    fn both_scenarios_hold() {
        let text = played(None);
        assert!(text.contains("Scenario 1") && text.contains("Scenario 2"), "{text}");
        assert!(text.contains("using 63077743"), "{text}");
        assert!(text.contains("GREv0, key=0x3c27d6f, length 92: IP 10.10.1.100 >"), "{text}");
    }

    #[test]
    fn each_scenario_stands_alone() {
        let first = played(Some(1));
        assert!(!first.contains("Scenario 2") && first.contains("linux1 → lan2, TCP"), "{first}");
        let second = played(Some(2));
        assert!(!second.contains("Scenario 1") && second.contains("lan1 → lan2, TCP"), "{second}");
    }

    /// linux1 and linux2 with tunnels, and linux1's route to the LAN behind linux2.
    fn joined(snat: Option<Ipv4Addr>) -> Simulated {
        let mut world = Simulated::new();
        world.up(HostName::Linux1, &files::guide(HostName::Linux1, false)).unwrap();
        world.up(HostName::Linux2, &files::native(snat)).unwrap();
        let way = Way { network: Ipv4Addr::new(10, 10, 2, 0), length: 24, next: Next::Tunnel };
        world.route_add(HostName::Linux1, way).unwrap();
        world
    }

    #[test]
    fn a_route_into_the_tunnel_needs_a_tunnel() {
        let way = Way { network: Ipv4Addr::new(10, 10, 2, 0), length: 24, next: Next::Tunnel };
        assert!(Simulated::new().route_add(HostName::Linux1, way).is_err());
    }

    #[test]
    fn the_answer_needs_a_way_back() {
        let ping = joined(None).ping(HostName::Linux1, LAN2, &[Tap::Lan, Tap::Underlay]).unwrap();
        assert!(ping.reply.is_none());
        assert_eq!(ping.seen.len(), 2, "the request on both sides of linux2 and nothing back");
        let translated =
            joined(Some(Ipv4Addr::new(10, 10, 2, 1))).ping(HostName::Linux1, LAN2, &[Tap::Tunnel]).unwrap();
        assert!(translated.reply.is_some());
        let lines: Vec<String> = translated.seen.iter().map(|seen| anatomy::line(&seen.packet)).collect();
        assert!(lines[0].starts_with("IP 172.16.0.1 > 10.10.2.100: ICMP echo request"), "{lines:?}");
        assert!(lines[1].starts_with("IP 10.10.2.100 > 172.16.0.1: ICMP echo reply"), "{lines:?}");
    }

    #[test]
    fn bulk_tcp_is_translated_and_split() {
        let mut world = joined(Some(Ipv4Addr::new(10, 10, 2, 1)));
        world.net.open(&[Tap::Underlay]);
        let transfer = world.transfer(HostName::Linux1, HostName::Lan2, 1 << 20).unwrap();
        assert!(transfer.intact && transfer.bytes == 1 << 20, "{transfer:?}");
        let longest = world.net.close().iter().map(|seen| seen.packet.len()).max();
        assert_eq!(longest, Some(1500), "full segments, and none over the link's MTU");
    }

    #[test]
    fn a_wrong_key_is_counted_and_named() {
        let mut world = joined(None);
        world.up(HostName::Linux1, &files::guide(HostName::Linux1, true)).unwrap();
        assert!(world.ping(HostName::Linux1, Ipv4Addr::new(172, 16, 0, 2), &[]).unwrap().reply.is_none());
        let status = world.status(HostName::Linux2).unwrap();
        assert!(!status.up, "{status:?}");
        assert!(status.lines[0].contains("key 63077743"), "{status:?}");
    }
}
