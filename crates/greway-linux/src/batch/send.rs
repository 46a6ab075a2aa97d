//! Sending a batch of gathered packets.
//!
//! A packet is a prefix, copied into the batch (headers, which are short and differ from packet to
//! packet), and up to [`MAX_SLICES`] borrowed slices behind it (the payload, which is not copied).

use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use crate::abi::{self, AddressSlot, ControlSlot, IoVec, MultiMessage, Pinned};
use crate::mac::MacAddr;

/// Most borrowed slices that one packet may consist of: as many as a super-packet has segments.
pub const MAX_SLICES: usize = 64;

/// Most bytes of a copied prefix: a virtio-net header (10), Ethernet (14), the longest outer IPv4
/// header (60), GRE with all its fields (16), and inner IPv6 and TCP headers (100) fit.
pub const PREFIX_BYTES: usize = 256;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Out of a device, from a packet socket. `mac` matters to a cooked socket only; `protocol` is
    /// an ethertype in host byte order.
    Link {
        /// The device.
        ifindex: u32,
        /// The link-layer destination.
        mac: MacAddr,
        /// The ethertype.
        protocol: u16,
    },
    /// To a host, from a raw IPv4 socket.
    Ipv4(Ipv4Addr),
    /// To a host, from a raw IPv6 socket.
    Ipv6 {
        /// The host.
        address: Ipv6Addr,
        /// The device that a link-local or multicast address is of; 0: as the socket or the route says.
        scope_id: u32,
    },
    /// Where the socket is bound or connected to.
    Connected,
}

/// What to ask of the IP stack for one packet (raw sockets; ip(7), ipv6(7)). A field of the other address
/// family than the target's is not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Outer TTL, 1 to 255, or hop limit, 0 to 255; the socket's own otherwise.
    pub ttl: Option<u8>,
    /// Outer TOS byte or traffic class, ECN bits included.
    pub tos: Option<u8>,
    /// Outer source address, of the target's family.
    pub source: Option<IpAddr>,
    /// The device to leave by.
    pub ifindex: Option<u32>,
    /// IPv6: the flow label, 1 to 0xfffff. `None` and 0: as `net.ipv6.auto_flowlabels` says. Where somebody
    /// in the namespace has a label to himself the kernel refuses labels that were not leased, and the packet
    /// is sent as if none had been asked for ([`Outcome::unlabelled`]).
    pub flow_label: Option<u32>,
    /// IPv6: the tunnel encapsulation limit (RFC 2473 §4.1.1), in a destination options header.
    pub encapsulation_limit: Option<u8>,
}

impl Control {
    /// Nothing asked.
    pub const NONE: Self = Self {
        ttl: None,
        tos: None,
        source: None,
        ifindex: None,
        flow_label: None,
        encapsulation_limit: None,
    };
}

/// The batch has no room for another packet: send it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch is full")]
pub struct Full;

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Packets that the kernel took.
    pub sent: usize,
    /// Packets that it refused; each was reported.
    pub failed: usize,
    /// Packets, among those sent, that went without the flow label asked for.
    pub unlabelled: usize,
    /// Packets still in the batch because the socket's buffer is full: send again when it is writable.
    pub pending: usize,
}

/// The memory of a batch, kept from one batch to the next.
pub struct SendStorage {
    prefixes: Pinned<[u8; PREFIX_BYTES]>,
    names: Pinned<AddressSlot>,
    controls: Pinned<ControlSlot>,
    iovs: Pinned<[IoVec; MAX_SLICES + 1]>,
    messages: Pinned<MultiMessage>,
}

// SAFETY: the raw pointers in `iovs` and `messages` lead into the other fields, which move along, or
// into slices that only a live `SendBatch` follows, and that one holds their borrow.
unsafe impl Send for SendStorage {}

impl SendStorage {
    /// Memory for `capacity` packets (1 to 1024).
    ///
    /// # Panics
    ///
    /// When `capacity` is not in 1..=1024.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        assert!((1..=MAX_MESSAGES).contains(&capacity), "a batch of {capacity} packets");
        Self {
            prefixes: Pinned::new([0; PREFIX_BYTES], capacity),
            names: Pinned::new(AddressSlot::EMPTY, capacity),
            controls: Pinned::new(ControlSlot::EMPTY, capacity),
            iovs: Pinned::new([IoVec::EMPTY; MAX_SLICES + 1], capacity),
            messages: Pinned::new(MultiMessage::EMPTY, capacity),
        }
    }

    /// How many packets fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.messages.as_slice().len()
    }

    /// Starts an empty batch. `'data` is how long the pushed slices stay borrowed.
    pub fn start<'data>(&mut self) -> SendBatch<'_, 'data> {
        SendBatch { storage: self, len: 0, next: 0, data: PhantomData }
    }
}

impl std::fmt::Debug for SendStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendStorage").field("capacity", &self.capacity()).finish()
    }
}

/// Packets on their way out. Dropping it forgets those that were not sent.
#[derive(Debug)]
pub struct SendBatch<'storage, 'data> {
    storage: &'storage mut SendStorage,
    len: usize,
    next: usize,
    data: PhantomData<&'data [u8]>,
}

impl<'data> SendBatch<'_, 'data> {
    /// Packets in the batch that were not sent yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len - self.next
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next == self.len
    }

    /// How many packets fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.storage.capacity()
    }

    /// Whether the next push would be refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == self.storage.capacity()
    }

    /// Adds a packet made of `slices`.
    ///
    /// # Errors
    ///
    /// [`Full`].
    ///
    /// # Panics
    ///
    /// With more than [`MAX_SLICES`] slices.
    pub fn push(&mut self, slices: &[&'data [u8]], target: Target, control: Control) -> Result<(), Full> {
        self.push_with_prefix(&[], slices, target, control)
    }

    /// Adds a packet made of a copy of `prefix` and of `slices` behind it.
    ///
    /// # Errors
    ///
    /// [`Full`].
    ///
    /// # Panics
    ///
    /// With more than [`MAX_SLICES`] slices or a prefix of more than [`PREFIX_BYTES`].
    pub fn push_with_prefix(
        &mut self,
        prefix: &[u8],
        slices: &[&'data [u8]],
        target: Target,
        control: Control,
    ) -> Result<(), Full> {
        self.push_with_prefixes([prefix, &[]], slices, target, control)
    }

    /// Adds a packet made of copies of two prefixes, one behind the other, and of `slices` behind them.
    ///
    /// # Errors
    ///
    /// [`Full`].
    ///
    /// # Panics
    ///
    /// With more than [`MAX_SLICES`] slices or prefixes of more than [`PREFIX_BYTES`] together.
    pub fn push_with_prefixes(
        &mut self,
        [first, second]: [&[u8]; 2],
        slices: &[&'data [u8]],
        target: Target,
        control: Control,
    ) -> Result<(), Full> {
        if self.is_full() {
            return Err(Full);
        }
        let index = self.len;
        let mut count = 0;
        let prefix = first.len() + second.len();
        if prefix > 0 {
            let room = &mut self.storage.prefixes.as_mut_slice()[index][..prefix];
            room[..first.len()].copy_from_slice(first);
            room[first.len()..].copy_from_slice(second);
            let base = self.storage.prefixes.address(index).cast();
            self.storage.iovs.as_mut_slice()[index][0] = IoVec { base, len: prefix };
            count = 1;
        }
        assert!(slices.len() <= MAX_SLICES, "a packet of {} slices", slices.len());
        for slice in slices {
            // The kernel only reads what is sent: the cast to `*mut` is for the shared iovec layout.
            let iov = IoVec { base: slice.as_ptr().cast_mut(), len: slice.len() };
            self.storage.iovs.as_mut_slice()[index][count] = iov;
            count += 1;
        }
        let message = &mut self.storage.messages.as_mut_slice()[index];
        *message = MultiMessage::EMPTY;
        message.header.iov = self.storage.iovs.address(index).cast();
        message.header.iov_len = count;
        self.address(index, target);
        self.control(index, control, matches!(target, Target::Ipv6 { .. }));
        self.len += 1;
        Ok(())
    }

    /// Sends what is in the batch, in order and without waiting. A packet that the kernel refuses is
    /// given to `refused` with its index and the reason, and the ones behind it are still sent.
    ///
    /// An IPv6 packet whose flow label the kernel does not allow is sent without it.
    ///
    /// An error that waited on the socket (its device was down for a while) is not taken for a refusal
    /// of the next packet: that one is tried again.
    pub fn send(&mut self, socket: impl AsFd, mut refused: impl FnMut(usize, io::Error)) -> Outcome {
        let socket = socket.as_fd();
        let mut outcome = Outcome::default();
        let (mut tried_again, mut unlabelled) = (false, None);
        while self.next < self.len {
            let messages = &mut self.storage.messages.as_mut_slice()[self.next..self.len];
            // SAFETY: each header was written by `push_with_prefix` and points into the storage or at
            // slices that `'data` keeps borrowed for as long as this batch lives.
            match unsafe { abi::send_many(socket, messages) } {
                Ok(count) => {
                    outcome.unlabelled += usize::from(count > 0 && unlabelled.take() == Some(self.next));
                    self.next += count;
                    outcome.sent += count;
                    tried_again = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.unlabel(self.next) => {
                    // If the label was not it, the packet is refused next.
                    unlabelled = Some(self.next);
                }
                Err(error) if !tried_again && may_be_left_over(&error) => tried_again = true,
                Err(error) => {
                    refused(self.next, error);
                    self.next += 1;
                    outcome.failed += 1;
                    tried_again = false;
                }
            }
        }
        outcome.pending = self.len - self.next;
        if outcome.pending == 0 {
            self.clear();
        }
        outcome
    }

    /// Forgets what is in the batch and starts over; the storage is used again.
    pub fn clear(&mut self) {
        self.len = 0;
        self.next = 0;
    }

    fn address(&mut self, index: usize, target: Target) {
        let name = &mut self.storage.names.as_mut_slice()[index];
        let len = match target {
            Target::Link { ifindex, mac, protocol } => {
                name.emit_link(ifindex, protocol, mac);
                AddressSlot::LINK_LEN
            }
            Target::Ipv4(address) => {
                name.emit_inet(address);
                AddressSlot::INET_LEN
            }
            Target::Ipv6 { address, scope_id } => {
                name.emit_inet6(address, scope_id);
                AddressSlot::INET6_LEN
            }
            Target::Connected => return,
        };
        let name = self.storage.names.address(index);
        let header = &mut self.storage.messages.as_mut_slice()[index].header;
        (header.name, header.name_len) = (name, len);
    }

    fn control(&mut self, index: usize, control: Control, ipv6: bool) {
        let slot = &mut self.storage.controls.as_mut_slice()[index];
        let used = if ipv6 { emit_ipv6(slot, &control) } else { emit_ipv4(slot, &control) };
        if used > 0 {
            let slot = self.storage.controls.address(index);
            let header = &mut self.storage.messages.as_mut_slice()[index].header;
            (header.control, header.control_len) = (slot, used);
        }
    }

    /// Takes the flow label off message `index`, where it has one.
    fn unlabel(&mut self, index: usize) -> bool {
        let header = &mut self.storage.messages.as_mut_slice()[index].header;
        let used = header.control_len.min(ControlSlot::LEN);
        let control = &self.storage.controls.as_slice()[index].0[..used];
        let last = abi::control_messages(control).last();
        let labelled = last.is_some_and(|(level, kind, _)| (level, kind) == FLOW_LABEL);
        if labelled {
            header.control_len = used - ControlSlot::space(4);
        }
        labelled
    }
}

fn emit_ipv4(slot: &mut ControlSlot, control: &Control) -> usize {
    let mut used = 0;
    if let Some(ttl) = control.ttl {
        used = slot.append(used, abi::SOL_IP, abi::IP_TTL, &i32::from(ttl).to_ne_bytes());
    }
    if let Some(tos) = control.tos {
        used = slot.append(used, abi::SOL_IP, abi::IP_TOS, &i32::from(tos).to_ne_bytes());
    }
    let source = match control.source {
        Some(IpAddr::V4(source)) => Some(source),
        _ => None,
    };
    if source.is_some() || control.ifindex.is_some() {
        let mut info = [0; 12];
        info[0..4].copy_from_slice(&control.ifindex.unwrap_or(0).to_ne_bytes());
        info[4..8].copy_from_slice(&source.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        used = slot.append(used, abi::SOL_IP, abi::IP_PKTINFO, &info);
    }
    used
}

fn emit_ipv6(slot: &mut ControlSlot, control: &Control) -> usize {
    let mut used = 0;
    if let Some(hop_limit) = control.ttl {
        used = slot.append(used, abi::SOL_IPV6, abi::IPV6_HOPLIMIT, &i32::from(hop_limit).to_ne_bytes());
    }
    if let Some(class) = control.tos {
        used = slot.append(used, abi::SOL_IPV6, abi::IPV6_TCLASS, &i32::from(class).to_ne_bytes());
    }
    let source = match control.source {
        Some(IpAddr::V6(source)) => Some(source),
        _ => None,
    };
    if source.is_some() || control.ifindex.is_some() {
        let mut info = [0; 20];
        info[0..16].copy_from_slice(&source.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
        info[16..20].copy_from_slice(&control.ifindex.unwrap_or(0).to_ne_bytes());
        used = slot.append(used, abi::SOL_IPV6, abi::IPV6_PKTINFO, &info);
    }
    if let Some(limit) = control.encapsulation_limit {
        // Next header (the kernel's to fill in), no further eight bytes, the option (4, one byte long), and
        // PadN over the last three, as linux net/ipv6/ip6_tunnel.c `init_tel_txopt`.
        let options = [0, 0, 4, 1, limit, 1, 1, 0];
        used = slot.append(used, abi::SOL_IPV6, abi::IPV6_DSTOPTS, &options);
    }
    // The last, so that it can be taken off again.
    let label = control.flow_label.unwrap_or(0) & 0xf_ffff;
    if label > 0 {
        used = slot.append(used, FLOW_LABEL.0, FLOW_LABEL.1, &label.to_be_bytes());
    }
    used
}

const FLOW_LABEL: (i32, i32) = (abi::SOL_IPV6, abi::IPV6_FLOWINFO);

/// Whether the error may be one that waited on the socket: its device went down, or `recvmmsg` left
/// what it could not report (recvmmsg(2), BUGS). A packet socket's send takes it off the socket
/// instead of sending. Raw sockets do not (`sock_wmalloc`), so the errnos of ICMP messages are not
/// here, nor is `EPERM`: a second try would count twice in the firewall's rules.
fn may_be_left_over(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::EINVAL))
}

/// `UIO_MAXIOV`: sendmmsg(2) takes no more messages than that.
const MAX_MESSAGES: usize = 1024;
