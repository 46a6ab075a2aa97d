//! A network namespace for a test, and as much rtnetlink as it takes to furnish it.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use greway_linux::batch::ReceiveBatch;
use greway_linux::event::{Events, Interest, Poller};
use greway_linux::{MacAddr, netns};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// An ethertype for experiments (IEEE 802), which no kernel code answers.
pub(crate) const EXPERIMENT: u16 = 0x88b5;
pub(crate) const LEFT: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
pub(crate) const RIGHT: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);

/// Says that a test could not run, past the test harness's capture.
pub(crate) fn not_run(test: &str, reason: impl std::fmt::Display) {
    let line = format!("not run: {test}: {reason}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Runs `work` on a thread in a network namespace of its own, with the loopback device up.
pub(crate) fn in_namespace(test: &str, work: impl FnOnce() + Send) {
    let ran = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            netns::unshare_net()?;
            Netlink::open().up("lo");
            work();
            Ok::<(), io::Error>(())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    if let Err(error) = ran {
        not_run(test, format_args!("no network namespace: {error}"));
    }
}

/// As [`in_namespace`], with a veth pair `left`–`right` that is up; gives the two device numbers.
pub(crate) fn with_veth(test: &str, work: impl FnOnce(u32, u32) + Send) {
    in_namespace(test, || {
        let mut netlink = Netlink::open();
        netlink.veth("left", LEFT, "right", RIGHT);
        netlink.up("left");
        netlink.up("right");
        netlink.wait_until_running("left");
        netlink.wait_until_running("right");
        work(netlink.index("left"), netlink.index("right"));
    });
}

/// Receives into `batch` until something came; panics after ten seconds.
pub(crate) fn receive(batch: &mut ReceiveBatch, socket: &impl std::os::fd::AsFd) -> usize {
    let poller = Poller::new().unwrap();
    poller.add(socket, 0, Interest::Readable).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let count = batch.recv(socket).unwrap();
        if count > 0 {
            return count;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing came within ten seconds");
        poller.wait(&mut Events::with_capacity(1), Some(left)).unwrap();
    }
}

/// Waits until this host takes packets to an IPv6 address of its own.
pub(crate) fn wait_for_address6(address: Ipv6Addr, ifindex: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let told_itself = || {
        let socket = UdpSocket::bind(SocketAddrV6::new(address, 0, 0, ifindex))?;
        socket.connect(socket.local_addr()?)?;
        socket.set_nonblocking(true)?;
        socket.send(b"here")?;
        socket.recv(&mut [0; 4])
    };
    while let Err(error) = told_itself() {
        assert!(Instant::now() < deadline, "{address}: {error}");
        std::thread::yield_now();
    }
}

/// A blocking rtnetlink socket: one request, one answer.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> Self {
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
                .unwrap();
        Self { socket, sequence: 0 }
    }

    pub(crate) fn veth(&mut self, name: &str, mac: MacAddr, peer: &str, peer_mac: MacAddr) {
        let mut end = link(0, 0, 0);
        attribute(&mut end, IFLA_IFNAME, name.as_bytes());
        attribute(&mut end, IFLA_ADDRESS, &mac.octets());
        let mut other = link(0, 0, 0);
        attribute(&mut other, IFLA_IFNAME, peer.as_bytes());
        attribute(&mut other, IFLA_ADDRESS, &peer_mac.octets());
        let mut data = Vec::new();
        attribute(&mut data, VETH_INFO_PEER, &other);
        let mut info = Vec::new();
        attribute(&mut info, IFLA_INFO_KIND, b"veth");
        attribute(&mut info, IFLA_INFO_DATA, &data);
        attribute(&mut end, IFLA_LINKINFO, &info);
        self.request(RTM_NEWLINK, CREATE, &end);
    }

    pub(crate) fn up(&mut self, name: &str) {
        let message = link(self.index(name), IFF_UP, IFF_UP);
        self.request(RTM_NEWLINK, 0, &message);
    }

    pub(crate) fn down(&mut self, name: &str) {
        let message = link(self.index(name), 0, IFF_UP);
        self.request(RTM_NEWLINK, 0, &message);
    }

    /// A device that was just put up drops what it is given, without an error, until the kernel's
    /// link watcher has come round to activate its queue (linux net/core/link_watch.c).
    pub(crate) fn wait_until_running(&mut self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let message = link(self.index(name), 0, 0);
        loop {
            let answer = self.exchange(RTM_GETLINK, REQUEST, &message);
            assert_eq!(answer[4..6], RTM_NEWLINK.to_ne_bytes());
            let flags = u32::from_ne_bytes([answer[24], answer[25], answer[26], answer[27]]);
            if flags & IFF_RUNNING != 0 {
                return;
            }
            assert!(Instant::now() < deadline, "{name} does not run");
            std::thread::yield_now();
        }
    }

    pub(crate) fn address(&mut self, name: &str, address: Ipv4Addr, prefix: u8) {
        let mut message = vec![AddressFamily::INET.as_raw() as u8, prefix, 0, 0];
        message.extend_from_slice(&self.index(name).to_ne_bytes());
        attribute(&mut message, IFA_LOCAL, &address.octets());
        attribute(&mut message, IFA_ADDRESS, &address.octets());
        self.request(RTM_NEWADDR, CREATE, &message);
    }

    /// An IPv6 address without duplicate address detection (`IFA_F_NODAD`). The kernel gives it a route a
    /// little later; this waits for it.
    pub(crate) fn address6(&mut self, name: &str, address: Ipv6Addr, prefix: u8) {
        let mut message = vec![AddressFamily::INET6.as_raw() as u8, prefix, IFA_F_NODAD, 0];
        message.extend_from_slice(&self.index(name).to_ne_bytes());
        attribute(&mut message, IFA_LOCAL, &address.octets());
        attribute(&mut message, IFA_ADDRESS, &address.octets());
        self.request(RTM_NEWADDR, CREATE, &message);
        wait_for_address6(address, self.index(name));
    }

    /// A neighbour that nobody has to be asked for.
    pub(crate) fn neighbour6(&mut self, name: &str, address: Ipv6Addr, mac: MacAddr) {
        let mut message = vec![AddressFamily::INET6.as_raw() as u8, 0, 0, 0];
        message.extend_from_slice(&self.index(name).to_ne_bytes());
        message.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
        message.extend_from_slice(&[0, 0]);
        attribute(&mut message, NDA_DST, &address.octets());
        attribute(&mut message, NDA_LLADDR, &mac.octets());
        self.request(RTM_NEWNEIGH, CREATE, &message);
    }

    pub(crate) fn index(&self, name: &str) -> u32 {
        rustix::net::netdevice::name_to_index(&self.socket, name).unwrap()
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) {
        let answer = self.exchange(kind, REQUEST | ACK | flags, body);
        assert_eq!(answer[4..6], NLMSG_ERROR.to_ne_bytes());
        let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        assert_eq!(code, 0, "request {kind}: {}", io::Error::from_raw_os_error(-code));
    }

    fn exchange(&mut self, kind: u16, flags: u16, body: &[u8]) -> [u8; 8192] {
        self.sequence += 1;
        let mut message = Vec::new();
        message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        rustix::net::send(&self.socket, &message, SendFlags::empty()).unwrap();
        let mut answer = [0; 8192];
        let (len, _) = rustix::net::recv(&self.socket, &mut answer, RecvFlags::empty()).unwrap();
        assert!(len >= 20, "an answer of {len} bytes");
        answer
    }
}

/// `struct ifinfomsg`: family, type, index, flags, which flags to change.
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut message = vec![0; 4];
    for word in [index, flags, change] {
        message.extend_from_slice(&word.to_ne_bytes());
    }
    message
}

fn attribute(message: &mut Vec<u8>, kind: u16, data: &[u8]) {
    message.extend_from_slice(&(4 + data.len() as u16).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(data);
    message.resize(message.len().next_multiple_of(4), 0);
}

// linux include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour,veth,netlink}.h
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTM_NEWNEIGH: u16 = 28;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x600;
const NLMSG_ERROR: u16 = 2;
