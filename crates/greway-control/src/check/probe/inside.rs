//! Probes that go through the tunnel device as anybody's packets would.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use greway_linux::echo::{EchoSocket, Options};
use greway_netlink::{Netlink, RouteOptions};

use super::listen::{Heard, Listener, echo_message};
use crate::check::facts::{Destination, Device, Echo, HostFacts, InnerPeer, Seen, Sizes, WayBack};

/// Data of an echo that only asks whether somebody is there, in bytes.
const SMALL: usize = 24;
/// How long an answer may take of which one was had already.
const AGAIN: Duration = Duration::from_millis(400);
/// Networks that are asked for at most.
const MOST: usize = 4;

/// What sends through the tunnel.
pub(super) struct Inside<'a> {
    device: &'a Device,
    listener: &'a mut Listener,
}

/// An identifier of echoes that no other probe of this process has.
pub(super) fn identifier() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    (std::process::id() as u16).wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether an echo with this identifier was answered by this address.
pub(super) fn replied(heard: &[Heard], who: IpAddr, wanted: u16) -> bool {
    heard.iter().any(|heard| matches!(heard, Heard::Reply { from, identifier, .. } if *from == who && *identifier == wanted))
}

impl<'a> Inside<'a> {
    pub(super) fn new(device: &'a Device, listener: &'a mut Listener) -> Self {
        Self { device, listener }
    }

    /// Asks the peer whether it is there, twice at most.
    pub(super) fn echo(&mut self, peer: &InnerPeer, within: Duration) -> Seen<Echo> {
        let options =
            Options { device: Some(&self.device.name), source: Some(peer.own.local), ..Options::default() };
        let to = peer.address;
        let socket = EchoSocket::open(to, &options).map_err(|error| cannot_send(&error))?;
        let id = identifier();
        let begin = Instant::now();
        let mut echo = Echo { peer: Some(to), ..Echo::default() };
        for (sequence, wait) in [(0, within.mul_f64(0.4)), (1, within)] {
            socket.send(to, &echo_message(to, id, sequence, SMALL)).map_err(|error| cannot_send(&error))?;
            echo.sent += 1;
            let left = wait.saturating_sub(begin.elapsed());
            self.listener.collect(left, |heard| replied(heard, to, id));
            if replied(&self.listener.heard, to, id) {
                echo.answered = 1;
                break;
            }
        }
        for heard in &self.listener.heard {
            if let Heard::Refused { from, kind, code, identifier, .. } = heard
                && *identifier == id
            {
                let text = format!("{from} says: ICMP type {kind} code {code}");
                if !echo.errors.contains(&text) {
                    echo.errors.push(text);
                }
            }
        }
        Ok(echo)
    }

    /// Which sizes pass, DF set: the device's whole MTU, and when that does not, what does.
    pub(super) fn sizes(&mut self, peer: &InnerPeer, mtu: u32) -> Seen<Sizes> {
        let to = peer.address;
        let options = Options {
            device: Some(&self.device.name),
            source: Some(peer.own.local),
            dont_fragment: true,
            ..Options::default()
        };
        let socket = EchoSocket::open(to, &options).map_err(|error| cannot_send(&error))?;
        // Whatever larger sizes a device claims, 64 KiB is the largest packet.
        let mtu = mtu.min(65_535);
        // A lost packet is no black hole: three must be lost.
        for _ in 0..3 {
            if self.largest(&socket, to, &[mtu]).is_some() {
                return Ok(Sizes { mtu, passes: mtu });
            }
        }
        let ladder = LADDER.iter().copied().filter(|size| *size < mtu).collect::<Vec<_>>();
        let Some(passes) = self.largest(&socket, to, &ladder) else {
            // Not even the small ones, now: that says nothing of sizes.
            return Err("the answers of the inner peer do not come regularly".to_owned());
        };
        let above = ladder.iter().copied().filter(|size| *size > passes).min().unwrap_or(mtu);
        let between = (passes + 1..above).rev().step_by(4).take(24).collect::<Vec<_>>();
        let finer = self.largest(&socket, to, &between).unwrap_or(passes);
        Ok(Sizes { mtu, passes: finer.max(passes) })
    }

    /// The largest of these sizes that is answered; each is asked once.
    fn largest(&mut self, socket: &EchoSocket, to: IpAddr, sizes: &[u32]) -> Option<u32> {
        let id = identifier();
        let header = if to.is_ipv4() { 28 } else { 48 };
        for (sequence, size) in sizes.iter().enumerate() {
            let data = (*size as usize).saturating_sub(header);
            // Refused for its size: it does not pass.
            let _refused = socket.send(to, &echo_message(to, id, sequence as u16, data));
        }
        let answered = |heard: &[Heard]| {
            let answers = heard.iter().filter_map(|heard| match heard {
                Heard::Reply { from, identifier, sequence } if *from == to && *identifier == id => {
                    Some(*sequence)
                }
                _ => None,
            });
            answers.filter_map(|sequence| sizes.get(usize::from(sequence)).copied()).max()
        };
        self.listener.collect(AGAIN, |heard| answered(heard) == sizes.iter().copied().max());
        answered(&self.listener.heard)
    }

    /// Whether the peer answers to this host's other addresses: only then do hosts behind this one get answers.
    pub(super) fn ways_back(&mut self, host: &HostFacts, peer: &InnerPeer) -> Seen<Vec<WayBack>> {
        if host.routes.is_empty() {
            return Ok(Vec::new());
        }
        let IpAddr::V4(_) = peer.address else { return Err("only asked over IPv4".to_owned()) };
        if !host.forwards_v4 {
            return Err("this host does not forward, so that nobody behind it is served".to_owned());
        }
        let underlay = host.way.as_ref().ok().and_then(|way| way.as_ref()).map(|way| way.ifindex);
        let behind = host.devices.iter().filter(|device| {
            device.up
                && !device.loopback
                && device.index != self.device.index
                && Some(device.index) != underlay
        });
        let own = behind.flat_map(|device| &device.addresses).filter(|own| own.local.is_ipv4());
        let mut asked = Vec::new();
        for own in own.take(MOST) {
            let options =
                Options { device: Some(&self.device.name), source: Some(own.local), ..Options::default() };
            let socket = EchoSocket::open(peer.address, &options).map_err(|error| cannot_send(&error))?;
            let id = identifier();
            asked.push((*own, id, socket));
        }
        for _ in 0..2 {
            let heard = &self.listener.heard;
            let waiting = |(_, id, _): &&(_, u16, _)| !replied(heard, peer.address, *id);
            for (_, id, socket) in asked.iter().filter(waiting) {
                let message = echo_message(peer.address, *id, 0, SMALL);
                socket.send(peer.address, &message).map_err(|error| cannot_send(&error))?;
            }
            let all = |heard: &[Heard]| asked.iter().all(|(_, id, _)| replied(heard, peer.address, *id));
            self.listener.collect(AGAIN, all);
        }
        let heard = &self.listener.heard;
        let answer =
            |(own, id, _): &(_, u16, _)| WayBack { own: *own, answers: replied(heard, peer.address, *id) };
        Ok(asked.iter().map(answer).collect())
    }

    /// Asks a host behind the far end.
    pub(super) fn destination(&mut self, netlink: &Netlink, address: IpAddr) -> Seen<Destination> {
        let way = netlink.route_to(address, &RouteOptions::default()).map_err(|error| error.to_string())?;
        let through = way.ifindex == self.device.index;
        let mut destination = Destination { address, through, answers: false, source: way.source };
        if !through {
            return Ok(destination);
        }
        let socket = EchoSocket::open(address, &Options::default()).map_err(|error| cannot_send(&error))?;
        let id = identifier();
        for sequence in 0..2 {
            socket
                .send(address, &echo_message(address, id, sequence, SMALL))
                .map_err(|error| cannot_send(&error))?;
            self.listener.collect(AGAIN + AGAIN / 2, |heard| replied(heard, address, id));
        }
        destination.answers = replied(&self.listener.heard, address, id);
        Ok(destination)
    }
}

/// Sizes of packets that people meet, in bytes.
const LADDER: &[u32] = &[
    8976, 4000, 1476, 1472, 1464, 1456, 1448, 1440, 1430, 1420, 1400, 1380, 1360, 1340, 1320, 1300, 1280,
    1200, 1000, 576, 256,
];

fn cannot_send(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => format!("an echo cannot be sent from here: {error}"),
        _ => format!("an echo cannot be sent: {error}"),
    }
}
