//! ICMP, both ways: errors that others send about our packets, and what others are told whose packets match
//! no tunnel. What follows from an error, and what an answer looks like, is the engine's to say
//! (`greway_engine::errors`, `greway_engine::answer`); here are the sockets.
//!
//! A raw ICMP socket sees every message that is for this host; a filter lets only those wake us that quote a GRE
//! packet. The kernel has its own copy and keeps the path MTU by it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use greway_engine::{
    Answer, Consequence, ErrorMessage, HeardEntry, RateLimit, TunnelIndex, TunnelTable, errors,
};
use greway_linux::batch::{Control, ReceiveBatch, SendStorage, Source, Target};
use greway_linux::event::{Interest, Poller};
use greway_linux::filter;
use greway_linux::raw::{MtuDiscovery, RawSocket};
use greway_spec::DeviceName;
use greway_wire::{ethertype, icmp, ipv6};

use crate::news::{News, Newsroom};
use crate::others::{Others, Silence};
use crate::port::Port;
use crate::send;
use crate::underlay::GRE;

/// Address family of the delivery packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

/// What was said about the packets of a tunnel.
#[derive(Clone, Debug, Default)]
pub struct TunnelIcmp {
    /// Errors received, by kind and sender.
    pub heard: Vec<HeardEntry>,
    /// How often a sender of payload packets was told that the far end cannot be reached.
    pub told: u64,
}

/// What became of packets that matched no tunnel and might have been answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// "Port unreachable" was sent.
    pub answered: u64,
    /// No more may be sent to that host, or to all, in this time.
    pub limited: u64,
    /// Nobody was told, for a reason that is in [`Answers::silence`].
    pub withheld: u64,
    /// The kernel did not send the answer.
    pub unsent: u64,
    /// Why nobody was told when last there was a packet; `None`: somebody would have been.
    pub silence: Option<Silence>,
}

/// All that the data plane knows of ICMP.
#[derive(Clone, Debug, Default)]
pub struct IcmpReport {
    /// By tunnel.
    pub tunnels: HashMap<DeviceName, TunnelIcmp>,
    /// What matched none.
    pub answers: Answers,
}

/// Hears errors.
pub(crate) struct Icmp {
    ipv4: Option<RawSocket>,
    ipv6: Option<RawSocket>,
    /// Without a socket that queues errors the kernel does not learn the path MTU of raw IPv6 packets (linux
    /// net/ipv6/raw.c v6.18, `rawv6_err`); over IPv4 it does. It cannot be the one that sends, whose next packet
    /// would not be sent but fail with the error.
    learner: Option<RawSocket>,
    /// The tunnels by what they send.
    sent: TunnelTable,
    /// For errors that are passed on.
    relayed: RateLimit,
    news: Newsroom,
    /// Whose paths are to be asked for again, with which tunnels, until others are told ([`Icmp::take_doubts`]).
    doubts: BTreeMap<IpAddr, Vec<TunnelIndex>>,
}

impl Icmp {
    pub(crate) fn new(news: Newsroom) -> Self {
        let sent = TunnelTable::default();
        let (relayed, doubts) = (RateLimit::new(), BTreeMap::new());
        Self { ipv4: None, ipv6: None, learner: None, sent, relayed, news, doubts }
    }

    /// The far ends whose paths are to be asked for again, with the tunnels that go there.
    pub(crate) fn take_doubts(&mut self) -> BTreeMap<IpAddr, Vec<TunnelIndex>> {
        std::mem::take(&mut self.doubts)
    }

    /// Hears what concerns this tunnel, too; the sockets are left as they are.
    pub(crate) fn enter(&mut self, index: TunnelIndex, port: &Port) {
        self.sent.insert(index, &errors::outgoing(&port.spec), port.bound_to);
    }

    /// No longer.
    pub(crate) fn leave(&mut self, index: TunnelIndex, port: &Port) {
        self.sent.remove(index, &errors::outgoing(&port.spec));
    }

    /// Has the sockets that the tunnels need. `tokens` are those of the two families' sockets.
    pub(crate) fn open_and_close(&mut self, poller: &Poller, tokens: [u64; 2]) {
        match self.sent.has_any(true) {
            false => self.learner = None,
            true if self.learner.is_none() => match open_learner() {
                Ok(opened) => self.learner = Some(opened),
                Err(error) => tracing::warn!(%error, "the path MTU over IPv6 is not learned"),
            },
            true => {}
        }
        for (family, token) in [Family::Ipv4, Family::Ipv6].into_iter().zip(tokens) {
            let wanted = self.sent.has_any(family == Family::Ipv6);
            let socket = match family {
                Family::Ipv4 => &mut self.ipv4,
                Family::Ipv6 => &mut self.ipv6,
            };
            match (wanted, &socket) {
                (false, _) => *socket = None,
                (true, Some(_)) => {}
                // Tunnels carry without it; only nobody is told.
                (true, None) => match open(family, poller, token) {
                    Ok(opened) => *socket = Some(opened),
                    Err(error) => tracing::warn!(%error, ?family, "ICMP errors cannot be heard"),
                },
            }
        }
    }

    /// Takes the errors that arrived, up to a full batch.
    pub(crate) fn receive(
        &mut self,
        family: Family,
        batch: &mut ReceiveBatch,
        ports: &mut [Option<Port>],
        storage: &mut SendStorage,
        now_ms: u64,
    ) {
        let socket = match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        };
        let Some(socket) = socket else { return };
        if let Some(learner) = &self.learner {
            // What it has learned is in the kernel's routes; a full queue would only cost memory.
            while learner.error_queue(&mut []).is_ok_and(|error| error.is_some()) {}
        }
        if let Err(error) = batch.recv(socket) {
            tracing::debug!(%error, ?family, "on the ICMP socket");
            return;
        }
        for packet in batch.packets() {
            let meta = packet.meta;
            let ingress = meta.packet_info.map_or(0, |info| info.ifindex);
            let data = packet.into_data();
            let error = match meta.source {
                Source::Ipv6 { address, .. } => ErrorMessage::parse_v6(address, data),
                _ => ErrorMessage::parse(data),
            };
            if let Some(error) = error {
                self.heed(&error, ingress, ports, storage, now_ms);
            }
        }
    }

    fn heed(
        &mut self,
        error: &ErrorMessage<'_>,
        ingress: u32,
        ports: &mut [Option<Port>],
        storage: &mut SendStorage,
        now_ms: u64,
    ) {
        if error.complaint.is_about_size() {
            // ER-02: of every tunnel that goes there. The kernel may have its copy after us; each asks when it
            // sends next.
            self.news.tell(News::PathMtu { remote: error.remote });
            let tunnels = self.sent.tunnels_to(error.remote).collect::<Vec<_>>();
            for index in &tunnels {
                if let Some(port) = ports.get_mut(index.0 as usize).and_then(Option::as_mut) {
                    port.paths.ask_again(error.remote, now_ms);
                }
            }
            self.doubts.insert(error.remote, tunnels);
        }
        let concerned = errors::concerned(&self.sent, error, ingress);
        let Some(port) = concerned.and_then(|index| ports.get_mut(index.0 as usize)?.as_mut()) else {
            return;
        };
        if !errors::is_about(&port.tunnel, error) {
            return;
        }
        port.heard.record(error.complaint, error.from, now_ms);
        match errors::judge(&port.tunnel, error) {
            Consequence::None | Consequence::PathMtu => {}
            Consequence::Count => {
                let packets = port.errors.record(now_ms);
                self.news.tell(News::Unreachable { name: port.name.clone(), packets });
            }
            Consequence::Relay { packet } => {
                let to = ipv6::addresses(&packet).map(|(_, to)| IpAddr::V6(to));
                if to.is_some_and(|to| self.relayed.allow(to, now_ms)) {
                    send::tell(port, ethertype::IPV6, &packet, storage);
                }
            }
        }
    }
}

fn open(family: Family, poller: &Poller, token: u64) -> io::Result<RawSocket> {
    let opened = match family {
        Family::Ipv4 => {
            let types = [icmp::DESTINATION_UNREACHABLE, icmp::TIME_EXCEEDED, icmp::PARAMETER_PROBLEM];
            RawSocket::open_icmp(&types, Some(&filter::icmp_about(GRE)))
        }
        Family::Ipv6 => {
            let types = [
                icmp::V6_DESTINATION_UNREACHABLE,
                icmp::V6_PACKET_TOO_BIG,
                icmp::V6_TIME_EXCEEDED,
                icmp::V6_PARAMETER_PROBLEM,
            ];
            RawSocket::open_icmpv6(&types, Some(&filter::icmpv6_about(GRE)))
        }
    };
    let socket = opened.map_err(io::Error::other)?;
    poller.add(&socket, token, Interest::Readable)?;
    Ok(socket)
}

fn open_learner() -> io::Result<RawSocket> {
    /// As little as the kernel gives: nobody needs what is in it.
    const LITTLE: usize = 1;
    let socket = RawSocket::open_ipv6_muted(GRE).map_err(io::Error::other)?;
    socket.set_buffers(LITTLE, LITTLE)?;
    Ok(socket)
}

/// A socket that hears nothing. Over IPv4 what it sends may be fragmented, as the kernel's own.
fn open_sender(from: IpAddr) -> io::Result<RawSocket> {
    let opened = match from {
        IpAddr::V4(_) => RawSocket::open_icmp(&[], None),
        IpAddr::V6(_) => RawSocket::open_icmpv6(&[], None),
    };
    let socket = opened.map_err(io::Error::other)?;
    socket.set_mtu_discovery(MtuDiscovery::Dont)?;
    Ok(socket)
}

/// Tells senders whose packets match no tunnel.
pub(crate) struct Answerer {
    on: bool,
    limit: RateLimit,
    ipv4: Way,
    ipv6: Way,
    counts: Answers,
    storage: SendStorage,
}

/// How hosts of one family are told.
struct Way {
    others: Others,
    interval: Interval,
    /// Opened when the first one is told.
    socket: Option<RawSocket>,
}

/// It answers, until told otherwise.
impl Default for Answerer {
    fn default() -> Self {
        Self {
            on: true,
            limit: RateLimit::new(),
            ipv4: Way {
                others: Others::over_ipv4(),
                interval: Interval::of("ipv4/icmp_ratelimit"),
                socket: None,
            },
            ipv6: Way {
                others: Others::over_ipv6(),
                interval: Interval::of("ipv6/icmp/ratelimit"),
                socket: None,
            },
            counts: Answers::default(),
            storage: SendStorage::new(1),
        }
    }
}

impl Answerer {
    pub(crate) fn switch(&mut self, on: bool) {
        self.on = on;
        self.counts.silence = (!on).then_some(Silence::Off);
    }

    pub(crate) fn counts(&self) -> Answers {
        self.counts
    }

    /// No tunnel takes this datagram, which came in by `ingress` and begins with its IP header: tells its sender, if
    /// it may be told. `vrf`: which one that device belongs to. `is_ours`: whether an address is one of this host's,
    /// and not one of many.
    pub(crate) fn unmatched(
        &mut self,
        datagram: &[u8],
        ingress: u32,
        vrf: Option<u32>,
        is_ours: impl Fn(IpAddr) -> bool,
        now_ms: u64,
    ) {
        // One who says that he is this host is somebody else, or knows.
        let tellable = |(to, from): &(IpAddr, IpAddr)| is_ours(*to) && !is_ours(*from) && !from.is_loopback();
        let Some((_, recipient)) = Answer::ends(datagram).filter(tellable) else { return };
        let way = match recipient {
            IpAddr::V4(_) => &mut self.ipv4,
            IpAddr::V6(_) => &mut self.ipv6,
        };
        self.counts.silence = if self.on { way.others.silence(now_ms) } else { Some(Silence::Off) };
        if self.counts.silence.is_some() {
            self.counts.withheld += 1;
            return;
        }
        self.limit.set_interval(recipient.is_ipv6(), way.interval.milliseconds(now_ms));
        if !self.limit.allow(recipient, now_ms) {
            self.counts.limited += 1;
            return;
        }
        let Some(answer) = Answer::port_unreachable(datagram) else { return };
        match way.send(answer, ingress, vrf, &mut self.storage) {
            Ok(()) => self.counts.answered += 1,
            Err(error) => {
                tracing::debug!(%error, %recipient, "not told that no tunnel takes its packet");
                self.counts.unsent += 1;
            }
        }
    }
}

/// How often one host may be told, as this host's sysctl says.
struct Interval {
    /// Below /proc/sys/net.
    sysctl: &'static str,
    looked_ms: Option<u64>,
    milliseconds: u32,
}

impl Interval {
    /// How long what was read is good for.
    const GOOD_FOR_MS: u64 = 1_000;
    /// The kernel's default.
    const DEFAULT_MS: u32 = 1_000;

    fn of(sysctl: &'static str) -> Self {
        Self { sysctl, looked_ms: None, milliseconds: Self::DEFAULT_MS }
    }

    fn milliseconds(&mut self, now_ms: u64) -> u32 {
        let stale = self.looked_ms.is_none_or(|looked| now_ms.saturating_sub(looked) >= Self::GOOD_FOR_MS);
        if stale {
            self.looked_ms = Some(now_ms);
            let text = fs::read_to_string(format!("/proc/sys/net/{}", self.sysctl));
            let set = text.ok().and_then(|text| text.trim().parse().ok());
            self.milliseconds = set.unwrap_or(Self::DEFAULT_MS);
        }
        self.milliseconds
    }
}

impl Way {
    fn send(
        &mut self,
        mut answer: Answer,
        ingress: u32,
        vrf: Option<u32>,
        storage: &mut SendStorage,
    ) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open_sender(answer.source)?,
        };
        let socket = self.socket.insert(socket);
        // Back by the VRF's own routes.
        let mut control =
            Control { source: Some(answer.source), tos: Some(answer.tos), ifindex: vrf, ..Control::NONE };
        let target = match answer.destination {
            IpAddr::V4(address) => Target::Ipv4(address),
            IpAddr::V6(address) => {
                // The kernel fills it in, and sums up what stands there.
                answer.message[2..4].fill(0);
                let scope_id = if address.is_unicast_link_local() { ingress } else { 0 };
                control.ifindex = Some(scope_id).filter(|id| *id != 0).or(vrf);
                Target::Ipv6 { address, scope_id }
            }
        };
        let mut out = storage.start();
        out.push(&[&answer.message], target, control).map_err(io::Error::other)?;
        let mut refused = None;
        let outcome = out.send(socket.as_fd(), |_, error| refused = Some(error));
        match refused {
            Some(error) => Err(error),
            None if outcome.pending > 0 => Err(io::ErrorKind::WouldBlock.into()),
            None => Ok(()),
        }
    }
}
