//! Raw IPv4 sockets: one IP protocol, through the host's firewall and its IPsec policies.
//!
//! The kernel writes the outer IPv4 header; we never ask for `IP_HDRINCL`, because such packets are
//! sent past a policy for the protocol. Received packets begin with their IPv4 header, after
//! reassembly and after INPUT.
//!
//! While a raw socket for a protocol is open the kernel answers no "protocol unreachable" for it.
//! One that only has to be there takes [`crate::filter::drop_all`]: a full buffer would bring the
//! answers back.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::abi::{self, AddressSlot, ControlSlot, IoVec, MultiMessage, OpenError, Step as _};
use crate::filter::Instruction;
use crate::sockopt;

/// A non-blocking raw socket of one protocol, closed on exec.
#[derive(Debug)]
pub struct RawSocket {
    fd: OwnedFd,
}

/// What a socket does about the path MTU (`IP_MTU_DISCOVER`, ip(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuDiscovery {
    /// Never set DF.
    Dont,
    /// Set DF where the packet fits the known path MTU, fragment otherwise.
    Want,
    /// Always set DF; `EMSGSIZE` for what is larger than the path MTU.
    Do,
    /// Always set DF, and do not ask the path MTU.
    Probe,
}

/// Who reported an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This host, for a packet that it did not send.
    Local,
    /// A router or the far end, by ICMP.
    Icmp,
    /// A router or the far end, by ICMPv6.
    Icmp6,
    /// Something else, by the kernel's number (`SO_EE_ORIGIN_*`).
    Other(u8),
}

/// One error out of the error queue: an ICMP message about a packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Who reported it.
    pub origin: Origin,
    /// The ICMP type; 0 for local errors.
    pub icmp_type: u8,
    /// The ICMP code.
    pub code: u8,
    /// The path MTU in bytes, when that is what the message is about.
    pub mtu: Option<u32>,
    /// The errno that the kernel makes of it.
    pub errno: i32,
    /// The node that sent the ICMP message.
    pub offender: Option<Ipv4Addr>,
    /// Where the packet was going.
    pub destination: Option<Ipv4Addr>,
    /// How many bytes of the packet, from behind its IPv4 header, are in the caller's buffer.
    pub quoted: usize,
}

impl RawSocket {
    /// Opens a socket for an IPv4 protocol (47 is GRE, 1 is ICMP). Local source address and device
    /// of received packets are reported (`IP_PKTINFO`) and errors are queued (`IP_RECVERR`).
    ///
    /// # Errors
    ///
    /// [`OpenError`]: `EPERM` without `CAP_NET_RAW`.
    pub fn open_ipv4(protocol: u8) -> Result<Self, OpenError> {
        Self::open_filtered(protocol, None)
    }

    /// Opens a socket that takes nothing in: it holds the protocol open and can send.
    ///
    /// # Errors
    ///
    /// As [`RawSocket::open_ipv4`].
    pub fn open_ipv4_muted(protocol: u8) -> Result<Self, OpenError> {
        Self::open_filtered(protocol, Some(&crate::filter::drop_all()))
    }

    fn open_filtered(protocol: u8, filter: Option<&[Instruction]>) -> Result<Self, OpenError> {
        let protocol = std::num::NonZeroU32::new(u32::from(protocol)).map(rustix::net::Protocol::from_raw);
        let fd = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            protocol,
        )
        .step("socket(AF_INET, SOCK_RAW)")?;
        let socket = Self { fd };
        if let Some(program) = filter {
            sockopt::attach_filter(&socket, program).step("SO_ATTACH_FILTER")?;
        }
        socket.set_ip(abi::IP_PKTINFO, 1).step("IP_PKTINFO")?;
        socket.set_ip(abi::IP_RECVERR, 1).step("IP_RECVERR")?;
        Ok(socket)
    }

    /// Replaces the filter; the packet it sees begins with the IPv4 header.
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_filter(&self, program: &[Instruction]) -> io::Result<()> {
        sockopt::attach_filter(self, program)
    }

    /// Sets what to do about the path MTU, and with it DF, for everything sent from here.
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_mtu_discovery(&self, discovery: MtuDiscovery) -> io::Result<()> {
        let value = match discovery {
            MtuDiscovery::Dont => 0,
            MtuDiscovery::Want => 1,
            MtuDiscovery::Do => 2,
            MtuDiscovery::Probe => 3,
        };
        self.set_ip(abi::IP_MTU_DISCOVER, value)
    }

    /// Whether ICMP errors are queued. With them off the kernel says nothing of them.
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_error_queue(&self, on: bool) -> io::Result<()> {
        self.set_ip(abi::IP_RECVERR, i32::from(on))
    }

    /// Marks what is sent, see [`sockopt::set_mark`].
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        sockopt::set_mark(self, mark)
    }

    /// Ties the socket to a device, see [`sockopt::bind_to_device`].
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn bind_to_device(&self, name: &str) -> io::Result<()> {
        sockopt::bind_to_device(self, name)
    }

    /// Takes only what is sent to `address`, and sends from it.
    ///
    /// # Errors
    ///
    /// `EADDRNOTAVAIL` when the address is not on this host.
    pub fn bind(&self, address: Ipv4Addr) -> io::Result<()> {
        Ok(rustix::net::bind(&self.fd, &std::net::SocketAddrV4::new(address, 0))?)
    }

    /// Ties the socket to a device by index (`SO_BINDTOIFINDEX`); 0 unties it.
    ///
    /// # Errors
    ///
    /// `ENODEV` when there is no such device.
    pub fn bind_to_ifindex(&self, ifindex: u32) -> io::Result<()> {
        sockopt::set(self.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &ifindex)
    }

    /// Sends to this address only, and looks up the route to it now (connect(2)). Nothing is sent.
    ///
    /// # Errors
    ///
    /// `ENETUNREACH` where there is no route.
    pub fn connect(&self, address: Ipv4Addr) -> io::Result<()> {
        Ok(rustix::net::connect(&self.fd, &std::net::SocketAddrV4::new(address, 0))?)
    }

    /// The path MTU in bytes to the address that the socket is connected to, as the kernel knows it now:
    /// the route's, or what ICMP taught it (`IP_MTU`, ip(7)).
    ///
    /// # Errors
    ///
    /// `ENOTCONN` for a socket that is not connected.
    pub fn path_mtu(&self) -> io::Result<u32> {
        sockopt::read::<u32>(self.as_fd(), libc::IPPROTO_IP, libc::IP_MTU)
    }

    /// Sets the buffers in bytes; past the system's limit where the caller may.
    ///
    /// # Errors
    ///
    /// What setsockopt(2) says.
    pub fn set_buffers(&self, receive: usize, send: usize) -> io::Result<()> {
        sockopt::set_receive_buffer(self, receive)?;
        sockopt::set_send_buffer(self, send)?;
        Ok(())
    }

    /// Takes one error off the error queue, and as much of the packet it is about as `quote` holds:
    /// what the ICMP message quoted from behind the IPv4 header. `None` when the queue is empty.
    ///
    /// # Errors
    ///
    /// What recvmsg(2) says.
    pub fn error_queue(&self, quote: &mut [u8]) -> io::Result<Option<IcmpError>> {
        let mut name = AddressSlot::EMPTY;
        let mut control = ControlSlot::EMPTY;
        let mut iov = IoVec { base: quote.as_mut_ptr(), len: quote.len() };
        let mut message = [MultiMessage::EMPTY];
        message[0].header.name = &raw mut name;
        message[0].header.name_len = AddressSlot::LEN;
        message[0].header.iov = &raw mut iov;
        message[0].header.iov_len = 1;
        message[0].header.control = &raw mut control;
        message[0].header.control_len = ControlSlot::LEN;
        loop {
            // SAFETY: the pointers were just taken from locals and from `quote`, with their lengths;
            // none of them is used otherwise before the call returns.
            match unsafe { abi::receive_many(self.as_fd(), &mut message, libc::MSG_ERRQUEUE) } {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let [message] = message;
        let destination = (message.header.name_len >= AddressSlot::INET_LEN
            && name.family() == libc::AF_INET)
            .then(|| name.inet());
        let quoted = (message.len as usize).min(quote.len());
        let control = &control.0[..message.header.control_len.min(ControlSlot::LEN)];
        Ok(Some(parse_error(control, destination, quoted)))
    }

    fn set_ip(&self, option: i32, value: i32) -> io::Result<()> {
        sockopt::set(self.as_fd(), abi::SOL_IP, option, &value)
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<RawSocket> for OwnedFd {
    fn from(socket: RawSocket) -> Self {
        socket.fd
    }
}

/// Reads `struct sock_extended_err` and the offender's address behind it (ip(7), IP_RECVERR).
///
/// ```text
///  0        4        5        6        7        8        12       16
/// +--------+--------+--------+--------+--------+--------+--------+--------------------+
/// | errno  | origin |  type  |  code  |  pad   |  info  |  data  | sockaddr: offender |
/// +--------+--------+--------+--------+--------+--------+--------+--------------------+
/// ```
fn parse_error(control: &[u8], destination: Option<Ipv4Addr>, quoted: usize) -> IcmpError {
    let mut error = IcmpError {
        origin: Origin::Other(0),
        icmp_type: 0,
        code: 0,
        mtu: None,
        errno: 0,
        offender: None,
        destination,
        quoted,
    };
    for (level, kind, data) in abi::control_messages(control) {
        if (level, kind) != (abi::SOL_IP, abi::IP_RECVERR) || data.len() < 16 {
            continue;
        }
        error.errno = abi::word(data, 0) as i32;
        error.origin = match data[4] {
            1 => Origin::Local,
            2 => Origin::Icmp,
            3 => Origin::Icmp6,
            other => Origin::Other(other),
        };
        (error.icmp_type, error.code) = (data[5], data[6]);
        error.mtu = (error.errno == libc::EMSGSIZE).then(|| abi::word(data, 8));
        let inet = i32::from(abi::half(data, 16)) == libc::AF_INET && data.len() >= 24;
        error.offender = inet.then(|| Ipv4Addr::new(data[20], data[21], data[22], data[23]));
    }
    error
}
