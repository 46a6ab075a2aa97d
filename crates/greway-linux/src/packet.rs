//! Packet sockets: frames of a device, before the IP stack and past its rules.
//!
//! A socket for one ethertype runs after tc ingress and sees what tc let pass; one for every
//! ethertype runs before it and sees everything, outgoing packets too unless told otherwise. The
//! socket is bound last, behind its filter, so that no packet from before the set-up is queued.
//!
//! It refuses to guess: what the kernel does not grant (a virtio-net header on a cooked socket, a
//! full fanout group) is an [`OpenError`] that names the step, never a socket without it.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::abi::{self, AddressSlot, OpenError, Step as _};
use crate::filter::Instruction;
use crate::mac::MacAddr;
use crate::sockopt;

/// Whether a virtio-net header can say on this kernel that a packet is a train of UDP datagrams, which it can from 6.2 on.
/// A packet socket loses a train that it has no word for (linux net/packet/af_packet.c `packet_recvmsg`), so this is to
/// be known before one comes: a kernel that has the option `PACKET_VNET_HDR_SZ`, which is little younger (6.5), has the
/// word too. Closing the socket that is asked takes the kernel a grace period: ask once.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_RAW`, and what else socket(2) says.
pub fn describes_datagram_trains() -> io::Result<bool> {
    let socket =
        rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    match sockopt::read::<i32>(socket.as_fd(), abi::SOL_PACKET, abi::PACKET_VNET_HDR_SZ) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Which packets a socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Every ethertype (`ETH_P_ALL`), before tc ingress.
    All,
    /// One ethertype, in host byte order (0x0800 is IPv4), behind tc ingress.
    Ethertype(u16),
    /// None: a socket to send with.
    SendOnly,
}

/// Whether the link-layer header is part of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is (`SOCK_RAW`). Needed for the virtio-net header.
    Raw,
    /// The kernel takes and makes it (`SOCK_DGRAM`).
    Dgram,
}

/// A group of sockets that share the packets, by flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fanout {
    /// The group's number within the network namespace; `None`: a new one that nobody has
    /// (`PACKET_FANOUT_FLAG_UNIQUEID`), so that no stranger shares the packets.
    pub group: Option<u16>,
    /// Put IPv4 fragments together first (`PACKET_FANOUT_FLAG_DEFRAG`); useful for a single socket too.
    pub defrag: bool,
}

/// What [`PacketSocket::open`] shall open.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// Which packets.
    pub protocol: Protocol,
    /// With or without the link-layer header.
    pub kind: Kind,
    /// One device, or all of the namespace.
    pub ifindex: Option<u32>,
    /// A virtio-net header in front of each packet, in both directions.
    pub vnet_header: bool,
    /// Leave out what this host sends (from 4.20).
    pub ignore_outgoing: bool,
    /// Send past the device's queueing discipline, and past its tcpdump.
    pub qdisc_bypass: bool,
    /// Bytes of receive buffer to ask for.
    pub receive_buffer: Option<usize>,
    /// Bytes of send buffer to ask for.
    pub send_buffer: Option<usize>,
    /// Membership of a group.
    pub fanout: Option<Fanout>,
    /// Attached before the first packet can arrive.
    pub filter: Option<&'a [Instruction]>,
}

impl Default for Config<'_> {
    /// A send-only raw socket with no extras: `Config { protocol: …, ..Config::default() }`.
    fn default() -> Self {
        Self {
            protocol: Protocol::SendOnly,
            kind: Kind::Raw,
            ifindex: None,
            vnet_header: false,
            ignore_outgoing: false,
            qdisc_bypass: false,
            receive_buffer: None,
            send_buffer: None,
            fanout: None,
            filter: None,
        }
    }
}

/// A non-blocking packet socket, closed on exec.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

/// What the socket has counted since the last time it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets that passed the filter, dropped ones included.
    pub packets: u32,
    /// Packets lost because the receive buffer was full.
    pub drops: u32,
}

impl PacketSocket {
    /// Opens a socket; packets arrive from the moment this returns and none from before.
    ///
    /// # Errors
    ///
    /// [`OpenError`] with the step that the kernel refused: `EPERM` without `CAP_NET_RAW`, `ENODEV`
    /// when the device is gone, `EINVAL` for a virtio-net header on a cooked socket.
    pub fn open(config: &Config<'_>) -> Result<Self, OpenError> {
        let kind = match config.kind {
            Kind::Raw => SocketType::RAW,
            Kind::Dgram => SocketType::DGRAM,
        };
        // Protocol 0: nothing arrives before `bind` names the protocol (packet(7)).
        let fd = rustix::net::socket_with(
            AddressFamily::PACKET,
            kind,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .step("socket(AF_PACKET)")?;
        let socket = Self { fd };
        socket.prepare(config)?;
        let protocol = match config.protocol {
            Protocol::All => ETH_P_ALL,
            Protocol::Ethertype(ethertype) => ethertype,
            Protocol::SendOnly => 0,
        };
        bind(socket.as_fd(), config.ifindex.unwrap_or(0), protocol).step("bind(sockaddr_ll)")?;
        if let Some(fanout) = config.fanout {
            // The kernel wants a bound socket here (linux net/packet/af_packet.c `fanout_add`).
            socket.join(fanout).step("PACKET_FANOUT")?;
        }
        Ok(socket)
    }

    /// Opens `members` sockets that share what one alone would get, by the member that `choice` returns for a packet
    /// ([`crate::flow::choice`]). The first gets everything that `choice` has no word for. `config.fanout` says
    /// only whether fragments are put together.
    ///
    /// Nothing arrives before all are there, and nothing twice. What this host sends is left out where `config` says
    /// so and has no filter; with one, kernels before 5.16 leave out only what the members send.
    ///
    /// # Errors
    ///
    /// As [`PacketSocket::open`]; no socket is left open then.
    pub fn open_group(
        config: &Config<'_>,
        members: usize,
        choice: &[Instruction],
    ) -> Result<Vec<Self>, OpenError> {
        // A socket hears before it is a member, and one alone hears everything.
        let deaf = Config { filter: Some(&crate::filter::drop_all()), fanout: None, ..*config };
        let defrag = config.fanout.is_some_and(|fanout| fanout.defrag);
        let mut flags = FANOUT_CBPF | if defrag { FANOUT_FLAG_DEFRAG } else { 0 };
        if config.ignore_outgoing {
            flags |= FANOUT_FLAG_IGNORE_OUTGOING;
        }
        let mut group = None;
        let mut sockets = Vec::with_capacity(members);
        for _ in 0..members {
            let socket = Self::open(&deaf)?;
            let (id, unique) = group.map_or((0, FANOUT_FLAG_UNIQUE_ID), |group| (group, 0));
            let argument = id | (flags | unique) << 16;
            let joined = sockopt::set(socket.as_fd(), abi::SOL_PACKET, abi::PACKET_FANOUT, &argument);
            joined.step("PACKET_FANOUT")?;
            if group.is_none() {
                socket.set_choice(choice).step("PACKET_FANOUT_DATA")?;
                let joined = sockopt::read::<u32>(socket.as_fd(), abi::SOL_PACKET, abi::PACKET_FANOUT);
                group = Some(joined.step("getsockopt(PACKET_FANOUT)")? & 0xffff);
            }
            sockets.push(socket);
        }
        let (all, not_sent) = (crate::filter::accept_all(), crate::filter::not_outgoing());
        let unfiltered = if config.ignore_outgoing { &not_sent[..] } else { &all[..] };
        for socket in &sockets {
            socket.set_filter(config.filter.unwrap_or(unfiltered)).step("SO_ATTACH_FILTER")?;
        }
        Ok(sockets)
    }

    /// Has the members of a group divide by another program.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a socket that is no member.
    pub fn set_choice(&self, choice: &[Instruction]) -> io::Result<()> {
        sockopt::give_program(self, abi::SOL_PACKET, abi::PACKET_FANOUT_DATA, choice)
    }

    /// Packets and drops since the last call; asking resets both (`PACKET_STATISTICS`).
    ///
    /// # Errors
    ///
    /// What getsockopt(2) says.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let [packets, drops] =
            sockopt::read::<[u32; 2]>(self.as_fd(), abi::SOL_PACKET, abi::PACKET_STATISTICS)?;
        Ok(Statistics { packets, drops })
    }

    /// Replaces the filter.
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_filter(&self, program: &[Instruction]) -> io::Result<()> {
        sockopt::attach_filter(self, program)
    }

    /// Starts or stops sending past the queueing discipline (`PACKET_QDISC_BYPASS`).
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_qdisc_bypass(&self, bypass: bool) -> io::Result<()> {
        self.switch(abi::PACKET_QDISC_BYPASS, bypass)
    }

    fn prepare(&self, config: &Config<'_>) -> Result<(), OpenError> {
        if let Some(program) = config.filter {
            sockopt::attach_filter(self, program).step("SO_ATTACH_FILTER")?;
        }
        self.switch(abi::PACKET_AUXDATA, true).step("PACKET_AUXDATA")?;
        if config.vnet_header {
            self.switch(abi::PACKET_VNET_HDR, true).step("PACKET_VNET_HDR")?;
        }
        if config.ignore_outgoing {
            self.switch(abi::PACKET_IGNORE_OUTGOING, true).step("PACKET_IGNORE_OUTGOING")?;
        }
        if config.qdisc_bypass {
            self.switch(abi::PACKET_QDISC_BYPASS, true).step("PACKET_QDISC_BYPASS")?;
        }
        if let Some(bytes) = config.receive_buffer {
            sockopt::set_receive_buffer(self, bytes).step("SO_RCVBUF")?;
        }
        if let Some(bytes) = config.send_buffer {
            sockopt::set_send_buffer(self, bytes).step("SO_SNDBUF")?;
        }
        Ok(())
    }

    fn switch(&self, option: i32, on: bool) -> io::Result<()> {
        sockopt::set(self.as_fd(), abi::SOL_PACKET, option, &i32::from(on))
    }

    fn join(&self, fanout: Fanout) -> io::Result<()> {
        // A group of one needs no flow to choose by, which is looked for in every packet of the host, before the filter.
        let choice = if fanout.group.is_none() { FANOUT_CPU } else { FANOUT_HASH };
        let mode = choice | if fanout.defrag { FANOUT_FLAG_DEFRAG } else { 0 };
        let unique = if fanout.group.is_none() { FANOUT_FLAG_UNIQUE_ID } else { 0 };
        let argument = u32::from(fanout.group.unwrap_or(0)) | (mode | unique) << 16;
        sockopt::set(self.as_fd(), abi::SOL_PACKET, abi::PACKET_FANOUT, &argument)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<PacketSocket> for OwnedFd {
    fn from(socket: PacketSocket) -> Self {
        socket.fd
    }
}

fn bind(socket: BorrowedFd<'_>, ifindex: u32, protocol: u16) -> io::Result<()> {
    let mut address = AddressSlot::EMPTY;
    address.emit_link(ifindex, protocol, MacAddr::ZERO);
    // SAFETY: bind(2): "addrlen specifies the size, in bytes, of the address structure pointed to by
    // addr"; the slot holds a `sockaddr_ll` of that size and outlives the call.
    let result =
        unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), AddressSlot::LINK_LEN) };
    sockopt::done(result)
}

// linux include/uapi/linux/if_ether.h, if_packet.h
const ETH_P_ALL: u16 = 3;
const FANOUT_HASH: u32 = 0;
const FANOUT_CPU: u32 = 2;
const FANOUT_CBPF: u32 = 6;
const FANOUT_FLAG_UNIQUE_ID: u32 = 0x2000;
const FANOUT_FLAG_IGNORE_OUTGOING: u32 = 0x4000;
const FANOUT_FLAG_DEFRAG: u32 = 0x8000;
