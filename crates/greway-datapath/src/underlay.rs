//! The outer side: what receives GRE from the network and what sends it.
//!
//! Two ways to receive, and tunnels of both kinds may exist side by side:
//!
//! - packet socket: sees what GRO merged together with the facts about it, but comes before the
//!   host's INPUT and PREROUTING rules and its IPsec policies;
//! - raw socket: behind all of them, and blind to the facts.
//!
//! Sending is the same for both: a raw socket, which also keeps the kernel from answering GRE with
//! "protocol unreachable". There is only one of each address family that does, since each is given a copy of every GRE
//! packet that arrives; those of further workers are given none. Those of IPv6 are there as long
//! as a tunnel over IPv6 is. What may pass by the IP stack ([`crate::Exit`]) leaves by one packet socket for all.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use greway_linux::batch::{Control, ReceiveBatch, Target};
use greway_linux::flow::{self, Arriving};
use greway_linux::packet::{Config, Fanout, Kind, PacketSocket, Protocol};
use greway_linux::raw::{MtuDiscovery, RawSocket};
use greway_linux::{OpenError, filter, sockopt};

use greway_engine::Outer;
use greway_wire::ethertype;

use crate::close::close_beside;
use crate::exit::Injection;
use crate::turn::Turn;

/// How a tunnel receives from the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Receive {
    /// By packet socket.
    Packet,
    /// By raw socket.
    Raw,
}

impl Receive {
    /// The word of `underlay`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Raw => "raw",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Packet => Self::Raw,
            Self::Raw => Self::Packet,
        }
    }
}

/// IP protocol number of GRE (RFC 2784 §3).
pub(crate) const GRE: u8 = 47;

/// One of the sockets that receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inlet {
    pub(crate) over_ipv6: bool,
    pub(crate) way: Receive,
}

impl Inlet {
    /// All there can be, by [`Inlet::index`].
    pub(crate) const ALL: [Self; 4] = [
        Self { over_ipv6: false, way: Receive::Packet },
        Self { over_ipv6: false, way: Receive::Raw },
        Self { over_ipv6: true, way: Receive::Packet },
        Self { over_ipv6: true, way: Receive::Raw },
    ];

    pub(crate) fn index(self) -> usize {
        2 * usize::from(self.over_ipv6) + usize::from(self.way == Receive::Raw)
    }

    /// The other socket of the same family.
    pub(crate) fn other_way(self) -> Self {
        Self { way: self.way.other(), ..self }
    }

    /// Its name in the log.
    pub(crate) fn word(self) -> &'static str {
        match (self.over_ipv6, self.way) {
            (false, Receive::Packet) => "packet, IPv4",
            (false, Receive::Raw) => "raw, IPv4",
            (true, Receive::Packet) => "packet, IPv6",
            (true, Receive::Raw) => "raw, IPv6",
        }
    }
}

/// What a worker gets that receives by one more socket, see [`Underlay::need`].
#[derive(Debug)]
pub(crate) struct Part {
    socket: OwnedFd,
    /// To send over IPv6, where it has none yet.
    ipv6: Option<Outlet>,
}

/// The sockets of one worker on the underlay, those for receiving opened when a tunnel needs them.
#[derive(Debug)]
pub(crate) struct Underlay {
    inlets: [Option<OwnedFd>; Inlet::ALL.len()],
    /// How much is taken from each at once.
    turns: [Turn; Inlet::ALL.len()],
    /// Whether each had more than was last taken.
    more: [bool; Inlet::ALL.len()],
    /// What each had lost when it was last asked.
    lost: [u32; Inlet::ALL.len()],
    ipv4: Outlet,
    ipv6: Option<Outlet>,
    /// What leaves past the IP stack; there from the first packet that may.
    short: Option<ShortOutlet>,
    /// Where super-packets are handed to the kernel.
    pub(crate) injection: Option<Arc<Injection>>,
}

/// A packet socket that sends.
#[derive(Debug)]
struct ShortOutlet {
    socket: PacketSocket,
    /// The mark that what it sends has now.
    mark: u32,
}

/// A socket that sends.
#[derive(Debug)]
struct Outlet {
    socket: RawSocket,
    /// What it does now.
    dont_fragment: bool,
    /// The mark that what it sends has now.
    mark: u32,
}

impl Outlet {
    /// `worker`: the lead's has number 0.
    fn over_ipv4(worker: usize) -> Result<Self, OpenError> {
        let socket = RawSocket::open_ipv4_muted(GRE)?;
        set(socket.set_mtu_discovery(MtuDiscovery::Do), "IP_MTU_DISCOVER")?;
        // With it the kernel tells of a full queue behind the socket (linux net/ipv4/raw.c v6.18, `raw_sendmsg`) and
        // without it keeps quiet, and a lost packet would count as sent. Nobody reads the errors that are queued: they
        // take no more than the buffer below. Over IPv6 the kernel tells in any case.
        set(socket.set_error_queue(true), "IP_RECVERR")?;
        Self::of(socket, worker, true)
    }

    /// The engine asks no sender for less than 1280 bytes of IPv6 (T6-04), so what is larger than the path by
    /// that is fragmented here, as the kernel's own tunnels do.
    fn over_ipv6(worker: usize) -> Result<Self, OpenError> {
        let socket = RawSocket::open_ipv6_muted(GRE)?;
        set(socket.set_mtu_discovery(MtuDiscovery::Want), "IPV6_MTU_DISCOVER")?;
        set(socket.set_error_queue(false), "IPV6_RECVERR")?;
        Self::of(socket, worker, false)
    }

    fn of(socket: RawSocket, worker: usize, dont_fragment: bool) -> Result<Self, OpenError> {
        // One keeps "protocol unreachable" away, and each costs every packet a copy.
        if worker > 0 {
            set(socket.hear_nothing(), "bind(nowhere)")?;
        }
        // Nothing is received here; errors are read from what a send returns.
        set(socket.set_buffers(4 << 10, SEND_BUFFER), "SO_SNDBUF")?;
        // RX-09: what is sent to a group is for others.
        set(socket.set_multicast_loop(false), "IP_MULTICAST_LOOP")?;
        Ok(Self { socket, dont_fragment, mark: 0 })
    }

    /// Has what is sent marked; a control message would be overlooked by kernels before 5.5.
    fn set_mark(&mut self, mark: u32) -> io::Result<()> {
        if self.mark != mark {
            self.socket.set_mark(mark)?;
            self.mark = mark;
        }
        Ok(())
    }
}

impl Underlay {
    /// `worker`: the lead's has number 0.
    pub(crate) fn open(worker: usize) -> Result<Self, OpenError> {
        Ok(Self {
            inlets: [const { None }; Inlet::ALL.len()],
            turns: [Turn::default(); Inlet::ALL.len()],
            more: [false; Inlet::ALL.len()],
            lost: [0; Inlet::ALL.len()],
            ipv4: Outlet::over_ipv4(worker)?,
            ipv6: None,
            short: None,
            injection: None,
        })
    }

    /// Opens what `inlet` needs, for so many workers, and takes the lead's; the others' parts are returned. `None` when
    /// it was open before.
    pub(crate) fn need(&mut self, inlet: Inlet, workers: usize) -> Result<Option<Vec<Part>>, OpenError> {
        if self.is_open(inlet) {
            return Ok(None);
        }
        let sockets = match inlet.way {
            Receive::Packet => open_packet(inlet.over_ipv6, workers)?,
            Receive::Raw => open_raw(inlet.over_ipv6, workers)?,
        };
        let mut parts = Vec::with_capacity(workers);
        for (worker, socket) in sockets.into_iter().enumerate() {
            let needed = inlet.over_ipv6 && self.ipv6.is_none();
            let ipv6 = needed.then(|| Outlet::over_ipv6(worker)).transpose()?;
            parts.push(Part { socket, ipv6 });
        }
        let helpers = parts.split_off(1);
        parts.into_iter().for_each(|part| self.take(inlet, part));
        Ok(Some(helpers))
    }

    /// Receives by one more socket.
    pub(crate) fn take(&mut self, inlet: Inlet, part: Part) {
        self.ipv6 = part.ipv6.or_else(|| self.ipv6.take());
        self.inlets[inlet.index()] = Some(part.socket);
        self.lost[inlet.index()] = 0;
    }

    /// Gives up what no tunnel needs.
    pub(crate) fn release(&mut self, inlet: Inlet) {
        // A worker that waited for the kernel would carry nothing meanwhile.
        self.inlets[inlet.index()].take().into_iter().for_each(close_beside);
        if inlet.over_ipv6 && !self.is_open(inlet.other_way()) {
            self.ipv6 = None;
        }
    }

    /// A socket that receives, where it is open.
    pub(crate) fn socket(&self, inlet: Inlet) -> Option<BorrowedFd<'_>> {
        self.inlets[inlet.index()].as_ref().map(AsFd::as_fd)
    }

    /// Whether it is open.
    pub(crate) fn is_open(&self, inlet: Inlet) -> bool {
        self.socket(inlet).is_some()
    }

    /// Takes what arrived, as much as one turn may.
    pub(crate) fn receive(&mut self, inlet: Inlet, batch: &mut ReceiveBatch) -> io::Result<usize> {
        let turn = self.turns[inlet.index()];
        let Some(socket) = self.socket(inlet) else { return Ok(0) };
        let taken = batch.recv_up_to(socket, turn.packets())?;
        self.turns[inlet.index()].took(taken, batch.bytes());
        self.more[inlet.index()] = taken >= turn.packets().min(batch.slots());
        Ok(taken)
    }

    /// Whether more waited in a socket, most likely, than was last taken.
    pub(crate) fn has_more(&self, inlet: Inlet) -> bool {
        self.more[inlet.index()]
    }

    /// Whether so much stands in line at a socket that what comes now would wait for milliseconds.
    pub(crate) fn is_behind(&self, inlet: Inlet) -> bool {
        let waiting = || self.socket(inlet).and_then(|socket| sockopt::memory(socket).ok());
        self.has_more(inlet) && waiting().is_some_and(|memory| memory.waiting > LATE)
    }

    /// Packets that a socket has lost since the last time this was asked, because it was full. Whose they were is not
    /// known; where tunnels receive by both sockets of a family, some may have come by the other one.
    pub(crate) fn spilled(&mut self, inlet: Inlet) -> u64 {
        let Some(Ok(memory)) = self.socket(inlet).map(sockopt::memory) else { return 0 };
        let before = std::mem::replace(&mut self.lost[inlet.index()], memory.lost);
        u64::from(memory.lost.wrapping_sub(before))
    }

    /// The socket that sends, set to send with or without DF, which no control message can say, and with this mark.
    ///
    /// # Errors
    /// There is no tunnel over IPv6; or no mark is to be had, and without it packets would take another way.
    pub(crate) fn sender(
        &mut self,
        over_ipv6: bool,
        dont_fragment: bool,
        mark: u32,
    ) -> io::Result<BorrowedFd<'_>> {
        if over_ipv6 {
            let outlet = self.ipv6.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            outlet.set_mark(mark)?;
            return Ok(outlet.socket.as_fd());
        }
        let outlet = &mut self.ipv4;
        outlet.set_mark(mark)?;
        if outlet.dont_fragment != dont_fragment {
            let discovery = if dont_fragment { MtuDiscovery::Do } else { MtuDiscovery::Dont };
            match outlet.socket.set_mtu_discovery(discovery) {
                Ok(()) => outlet.dont_fragment = dont_fragment,
                Err(error) => tracing::warn!(%error, "DF cannot be changed"),
            }
        }
        Ok(outlet.socket.as_fd())
    }

    /// The socket that sends past the IP stack, with this mark, which the device's queue and its filters see.
    ///
    /// # Errors
    /// There is no such socket to be had, or no mark.
    pub(crate) fn past_the_stack(&mut self, mark: u32) -> io::Result<BorrowedFd<'_>> {
        let outlet = match &mut self.short {
            Some(outlet) => outlet,
            none => none.insert(ShortOutlet { socket: open_short()?, mark: 0 }),
        };
        if outlet.mark != mark {
            sockopt::set_mark(outlet.socket.as_fd(), mark)?;
            outlet.mark = mark;
        }
        Ok(outlet.socket.as_fd())
    }
}

/// How the kernel is told the outer header. `bound_to`: the device to leave by, which is also the one that a
/// link-local destination is of.
pub(crate) fn address(outer: &Outer, bound_to: Option<u32>) -> (Target, Control) {
    let control = Control {
        ttl: Some(outer.ttl),
        tos: Some(outer.tos),
        source: outer.source.filter(|source| !source.is_unspecified()),
        ifindex: bound_to,
        flow_label: Some(outer.flow_label).filter(|label| *label != 0),
        encapsulation_limit: outer.encap_limit,
    };
    let target = match outer.destination {
        IpAddr::V4(address) => Target::Ipv4(address),
        IpAddr::V6(address) => Target::Ipv6 { address, scope_id: bound_to.unwrap_or(0) },
    };
    (target, control)
}

impl AsFd for Part {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open_packet(over_ipv6: bool, workers: usize) -> Result<Vec<OwnedFd>, OpenError> {
    let (ipv4, ipv6) = (filter::ip_protocol(GRE), filter::ipv6_protocol(GRE));
    let config = Config {
        // One ethertype: behind tc ingress, so that only what a fast path declines comes here.
        protocol: Protocol::Ethertype(if over_ipv6 { ethertype::IPV6 } else { ethertype::IPV4 }),
        kind: Kind::Raw,
        vnet_header: true,
        ignore_outgoing: true,
        receive_buffer: Some(RECEIVE_BUFFER),
        // For reassembly: a group, if need be of one. The kernel does that for IPv4 alone (trap T14).
        fanout: (!over_ipv6).then_some(Fanout { group: None, defrag: true }),
        filter: Some(if over_ipv6 { &ipv6[..] } else { &ipv4[..] }),
        ..Config::default()
    };
    if workers == 1 {
        return Ok(vec![PacketSocket::open(&config)?.into()]);
    }
    let arriving = if over_ipv6 { Arriving::GreOverIpv6 } else { Arriving::GreOverIpv4 };
    let group = PacketSocket::open_group(&config, workers, &flow::choice(arriving, workers as u32))?;
    Ok(group.into_iter().map(OwnedFd::from).collect())
}

fn open_short() -> io::Result<PacketSocket> {
    let config = Config { kind: Kind::Dgram, send_buffer: Some(SEND_BUFFER), ..Config::default() };
    PacketSocket::open(&config).map_err(|error| error.source)
}

fn open_raw(over_ipv6: bool, workers: usize) -> Result<Vec<OwnedFd>, OpenError> {
    let open = |worker| {
        let share = flow::raw_share(over_ipv6, worker as u32, workers as u32);
        let socket = match (workers, over_ipv6) {
            (1, false) => RawSocket::open_ipv4(GRE)?,
            (1, true) => RawSocket::open_ipv6(GRE)?,
            (_, false) => RawSocket::open_ipv4_share(GRE, &share)?,
            (_, true) => RawSocket::open_ipv6_share(GRE, &share)?,
        };
        set(socket.set_error_queue(false), "IP_RECVERR")?;
        // A full buffer makes the kernel answer "protocol unreachable": 8 MiB at the least.
        set(socket.set_buffers(RECEIVE_BUFFER, 4 << 10), "SO_RCVBUF")?;
        Ok(socket.into())
    };
    (0..workers).map(open).collect()
}

fn set(result: io::Result<()>, step: &'static str) -> Result<(), OpenError> {
    result.map_err(|source| OpenError { step, source })
}

/// Bytes in a socket, with what the kernel needs around each packet: a hundred packets of full size.
pub(crate) const LATE: u32 = 256 << 10;
const RECEIVE_BUFFER: usize = 16 << 20;
const SEND_BUFFER: usize = 8 << 20;
