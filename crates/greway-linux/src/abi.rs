//! The layouts that the kernel and we agree on, and the two batch calls that use them.
//!
//! `recvmmsg` and `sendmmsg` are called by number and not through the C library: glibc and musl
//! declare `msghdr` and `cmsghdr` with different field widths, and musl's `sendmmsg` sends one
//! message at a time because of its padding. The kernel's own layout (`struct user_msghdr`, linux
//! include/linux/socket.h) is one and the same for both.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::{self, NonNull};

use crate::mac::MacAddr;

/// A socket or device that could not be opened: which step the kernel refused, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct OpenError {
    /// The step, in the words of the manual page (`socket(AF_PACKET)`, `PACKET_VNET_HDR`, `bind`).
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

impl OpenError {
    /// Whether the refusal was one of permission (`EPERM` or `EACCES`).
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

/// Names the step for an error on its way out.
pub(crate) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, OpenError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, OpenError> {
        self.map_err(|source| OpenError { step, source: source.into() })
    }
}

/// Memory whose address stays the same while pointers to it lie in other memory.
///
/// The batch types keep arrays of headers that point into arrays of buffers. A `Vec` would make
/// those pointers invalid each time it is borrowed mutably; here every access goes through the one
/// pointer that all others derive from.
pub(crate) struct Pinned<T> {
    items: NonNull<[T]>,
}

// SAFETY: `Pinned` owns its items as a `Box<[T]>` would and shares them with nobody.
unsafe impl<T: Send> Send for Pinned<T> {}
// SAFETY: `&Pinned<T>` gives `&[T]` and pointers that only `unsafe` code can follow.
unsafe impl<T: Sync> Sync for Pinned<T> {}

impl<T: Copy> Pinned<T> {
    pub(crate) fn new(value: T, len: usize) -> Self {
        Self { items: NonNull::from(Box::leak(vec![value; len].into_boxed_slice())) }
    }
}

impl<T> Pinned<T> {
    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: the pointer came from a leaked `Box<[T]>` that only `drop` takes back, and `&self`
        // keeps everything else from writing.
        unsafe { self.items.as_ref() }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` is exclusive.
        unsafe { self.items.as_mut() }
    }

    /// The address of item `index`, for the kernel.
    pub(crate) fn address(&self, index: usize) -> *mut T {
        assert!(index < self.items.len(), "item {index} of {}", self.items.len());
        self.items.cast::<T>().as_ptr().wrapping_add(index)
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak` in `new` and given back once, here.
        drop(unsafe { Box::from_raw(self.items.as_ptr()) });
    }
}

/// `struct iovec` (readv(2)).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct IoVec {
    pub(crate) base: *mut u8,
    pub(crate) len: usize,
}

impl IoVec {
    pub(crate) const EMPTY: Self = Self { base: ptr::null_mut(), len: 0 };
}

/// `struct user_msghdr` (recvmsg(2)) as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MessageHeader {
    pub(crate) name: *mut AddressSlot,
    pub(crate) name_len: u32,
    pub(crate) iov: *mut IoVec,
    pub(crate) iov_len: usize,
    pub(crate) control: *mut ControlSlot,
    pub(crate) control_len: usize,
    pub(crate) flags: u32,
}

/// `struct mmsghdr` (recvmmsg(2)) as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MultiMessage {
    pub(crate) header: MessageHeader,
    pub(crate) len: u32,
}

impl MultiMessage {
    pub(crate) const EMPTY: Self = Self {
        header: MessageHeader {
            name: ptr::null_mut(),
            name_len: 0,
            iov: ptr::null_mut(),
            iov_len: 0,
            control: ptr::null_mut(),
            control_len: 0,
            flags: 0,
        },
        len: 0,
    };
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<MultiMessage>() == 64);
    assert!(std::mem::offset_of!(MessageHeader, iov) == 16);
    assert!(std::mem::offset_of!(MessageHeader, flags) == 48);
    assert!(std::mem::offset_of!(MultiMessage, len) == 56);
};

/// Receives up to `messages.len()` messages without waiting (recvmmsg(2)).
///
/// # Safety
///
/// Every non-null pointer in `messages` is valid for writes of the length beside it, and nothing
/// else reads or writes that memory during the call.
pub(crate) unsafe fn receive_many(
    socket: BorrowedFd<'_>,
    messages: &mut [MultiMessage],
    flags: libc::c_int,
) -> io::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT;
    let timeout = ptr::null_mut::<libc::c_void>();
    // SAFETY: recvmmsg(2): "msgvec is a pointer to an array of mmsghdr structures, vlen the size of
    // this array"; the slice is both, in the kernel's layout. The caller vouches for what the
    // headers point at. A null timeout means none.
    let received = unsafe {
        libc::syscall(
            libc::SYS_recvmmsg,
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as libc::c_uint,
            flags,
            timeout,
        )
    };
    usize::try_from(received).map_err(|_negative| io::Error::last_os_error())
}

/// Sends `messages` in order until one fails, without waiting (sendmmsg(2)).
///
/// # Safety
///
/// Every non-null pointer in `messages` is valid for reads of the length beside it.
pub(crate) unsafe fn send_many(socket: BorrowedFd<'_>, messages: &mut [MultiMessage]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: sendmmsg(2): "msgvec is a pointer to an array of mmsghdr structures, the size of this
    // array is specified in vlen"; the slice is both, in the kernel's layout. The caller vouches for
    // what the headers point at; the kernel writes only `len`.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_sendmmsg,
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as libc::c_uint,
            flags,
        )
    };
    usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())
}

/// Room for one socket address: `sockaddr_in`, `sockaddr_in6` or `sockaddr_ll` with a 20-byte
/// hardware address, the longest that the kernel writes to a packet socket's reader.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct AddressSlot(pub(crate) [u8; 32]);

impl AddressSlot {
    pub(crate) const EMPTY: Self = Self([0; 32]);
    pub(crate) const LEN: u32 = 32;
    pub(crate) const INET_LEN: u32 = 16;
    pub(crate) const INET6_LEN: u32 = 28;
    pub(crate) const LINK_LEN: u32 = 20;

    /// `struct sockaddr_in` (ip(7)): family, port 0, address.
    pub(crate) fn emit_inet(&mut self, address: Ipv4Addr) {
        self.0[0..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        self.0[2..4].fill(0);
        self.0[4..8].copy_from_slice(&address.octets());
        self.0[8..16].fill(0);
    }

    /// `struct sockaddr_in6` (ipv6(7)): family, port 0, flow information 0, address, scope.
    pub(crate) fn emit_inet6(&mut self, address: Ipv6Addr, scope_id: u32) {
        self.0[0..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        self.0[2..8].fill(0);
        self.0[8..24].copy_from_slice(&address.octets());
        self.0[24..28].copy_from_slice(&scope_id.to_ne_bytes());
    }

    /// `struct sockaddr_ll` (packet(7)): family, ethertype in network order, ifindex, hatype,
    /// pkttype, halen, address.
    pub(crate) fn emit_link(&mut self, ifindex: u32, protocol: u16, mac: MacAddr) {
        self.0[0..2].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
        self.0[2..4].copy_from_slice(&protocol.to_be_bytes());
        self.0[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        self.0[8..11].fill(0);
        self.0[11] = 6;
        self.0[12..18].copy_from_slice(&mac.octets());
        self.0[18..20].fill(0);
    }

    pub(crate) fn family(&self) -> libc::c_int {
        libc::c_int::from(u16::from_ne_bytes([self.0[0], self.0[1]]))
    }

    pub(crate) fn inet(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[4], self.0[5], self.0[6], self.0[7])
    }

    pub(crate) fn inet6(&self) -> Ipv6Addr {
        address6(&self.0, 8)
    }

    /// The interface that a link-local IPv6 address is of, else 0.
    pub(crate) fn scope_id(&self) -> u32 {
        word(&self.0, 24)
    }

    /// The IP address, where a name of `len` bytes is one.
    pub(crate) fn ip(&self, len: u32) -> Option<IpAddr> {
        match self.family() {
            libc::AF_INET if len >= Self::INET_LEN => Some(self.inet().into()),
            libc::AF_INET6 if len >= Self::INET6_LEN => Some(self.inet6().into()),
            _ => None,
        }
    }
}

/// Room for the control messages of one packet.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct ControlSlot(pub(crate) [u8; Self::LEN]);

impl ControlSlot {
    pub(crate) const EMPTY: Self = Self([0; Self::LEN]);
    /// All that is asked of IPv6 for one packet, or told of one with an error, and some to spare.
    pub(crate) const LEN: usize = 192;

    /// What one message with `len` bytes of data takes up.
    pub(crate) const fn space(len: usize) -> usize {
        align(CONTROL_HEADER + len)
    }

    /// Appends one control message at `used` and returns the new end (cmsg(3)).
    pub(crate) fn append(&mut self, used: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let len = CONTROL_HEADER + data.len();
        let slot = &mut self.0[used..used + align(len)];
        slot[..WORD].copy_from_slice(&len.to_ne_bytes());
        slot[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        slot[WORD + 4..CONTROL_HEADER].copy_from_slice(&kind.to_ne_bytes());
        slot[CONTROL_HEADER..len].copy_from_slice(data);
        slot[len..].fill(0);
        used + align(len)
    }
}

/// The control messages in `bytes` as (level, type, data); a malformed one ends the walk.
pub(crate) fn control_messages(bytes: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (len, after) = rest.split_first_chunk::<WORD>()?;
        let len = usize::from_ne_bytes(*len);
        let (level, after) = after.split_first_chunk::<4>()?;
        let (kind, _) = after.split_first_chunk::<4>()?;
        let data = rest.get(CONTROL_HEADER..len)?;
        rest = rest.get(align(len)..).unwrap_or_default();
        Some((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data))
    })
}

/// Reads a native-endian `u32` at `offset`, 0 when `bytes` ends before.
pub(crate) fn word(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_ne_bytes(*word))
}

/// Reads a native-endian `u16` at `offset`, 0 when `bytes` ends before.
pub(crate) fn half(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |half| u16::from_ne_bytes(*half))
}

/// Reads an IPv6 address at `offset`, `::` when `bytes` ends before.
pub(crate) fn address6(bytes: &[u8], offset: usize) -> Ipv6Addr {
    let octets = bytes.get(offset..).and_then(|rest| rest.first_chunk::<16>());
    octets.map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
}

const WORD: usize = size_of::<usize>();
/// `struct cmsghdr` as the kernel has it: a word of length, then level and type.
const CONTROL_HEADER: usize = WORD + 8;

const fn align(len: usize) -> usize {
    len.next_multiple_of(WORD)
}

// Values of the kernel's stable interface, kept here because not every C library names them.
pub(crate) const SOL_PACKET: i32 = 263;
pub(crate) const SOL_IP: i32 = 0;
pub(crate) const PACKET_STATISTICS: i32 = 6;
pub(crate) const PACKET_AUXDATA: i32 = 8;
pub(crate) const PACKET_VNET_HDR: i32 = 15;
pub(crate) const PACKET_FANOUT: i32 = 18;
pub(crate) const PACKET_QDISC_BYPASS: i32 = 20;
pub(crate) const PACKET_FANOUT_DATA: i32 = 22;
pub(crate) const PACKET_IGNORE_OUTGOING: i32 = 23;
pub(crate) const PACKET_VNET_HDR_SZ: i32 = 24;
pub(crate) const SO_MEMINFO: i32 = 55;
pub(crate) const SO_NETNS_COOKIE: i32 = 71;
pub(crate) const IP_TOS: i32 = 1;
pub(crate) const IP_TTL: i32 = 2;
pub(crate) const IP_PKTINFO: i32 = 8;
pub(crate) const IP_MTU_DISCOVER: i32 = 10;
pub(crate) const IP_RECVERR: i32 = 11;
pub(crate) const SOL_RAW: i32 = 255;
pub(crate) const ICMP_FILTER: i32 = 1;
pub(crate) const SOL_ICMPV6: i32 = 58;
pub(crate) const ICMPV6_FILTER: i32 = 1;
// linux include/uapi/linux/in6.h, ipv6.h
pub(crate) const SOL_IPV6: i32 = 41;
pub(crate) const IPV6_FLOWINFO: i32 = 11;
pub(crate) const IPV6_MTU_DISCOVER: i32 = 23;
pub(crate) const IPV6_MTU: i32 = 24;
pub(crate) const IPV6_RECVERR: i32 = 25;
pub(crate) const IPV6_RECVPKTINFO: i32 = 49;
pub(crate) const IPV6_PKTINFO: i32 = 50;
pub(crate) const IPV6_RECVHOPLIMIT: i32 = 51;
pub(crate) const IPV6_HOPLIMIT: i32 = 52;
pub(crate) const IPV6_DSTOPTS: i32 = 59;
pub(crate) const IPV6_RECVTCLASS: i32 = 66;
pub(crate) const IPV6_TCLASS: i32 = 67;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_round_trip_and_stop_at_a_malformed_one() {
        let mut slot = ControlSlot::EMPTY;
        let used = slot.append(0, SOL_IP, IP_TTL, &64i32.to_ne_bytes());
        let used = slot.append(used, SOL_IP, IP_PKTINFO, &[7; 12]);
        let read: Vec<_> = control_messages(&slot.0[..used]).collect();
        assert_eq!(read, [(SOL_IP, IP_TTL, &64i32.to_ne_bytes()[..]), (SOL_IP, IP_PKTINFO, &[7u8; 12][..])]);
        slot.0[..WORD].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(control_messages(&slot.0[..used]).count(), 0);
        slot.0[..WORD].copy_from_slice(&3usize.to_ne_bytes());
        assert_eq!(control_messages(&slot.0[..used]).count(), 0);
    }

    #[test]
    fn addresses_have_the_layout_of_the_c_library() {
        let mut slot = AddressSlot::EMPTY;
        slot.emit_link(0x0102_0304, 0x0800, MacAddr::new([2, 0, 0, 0, 0, 9]));
        assert_eq!(slot.family(), libc::AF_PACKET);
        assert_eq!(slot.0[2..4], [8, 0]);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_ll, sll_halen), 11);
        assert_eq!(slot.0[std::mem::offset_of!(libc::sockaddr_ll, sll_addr) + 5], 9);
        slot.emit_inet(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(slot.family(), libc::AF_INET);
        assert_eq!(slot.inet(), Ipv4Addr::new(192, 0, 2, 1));
        let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x17);
        slot.emit_inet6(address, 7);
        assert_eq!((slot.family(), slot.inet6(), slot.scope_id()), (libc::AF_INET6, address, 7));
        assert_eq!(size_of::<libc::sockaddr_in6>(), AddressSlot::INET6_LEN as usize);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in6, sin6_addr), 8);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in6, sin6_scope_id), 24);
        assert_eq!((slot.ip(28), slot.ip(16)), (Some(address.into()), None));
    }
}
