//! Options that more than one kind of socket has.
//!
//! Only those that rustix has no safe call for, or whose fallback is worth having in one place.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use crate::abi;
use crate::filter::Instruction;

/// Asks for a receive buffer of `bytes`, past the system's limit where the caller may
/// (`SO_RCVBUFFORCE`), within it otherwise. Returns what the kernel gave, which it counts double.
///
/// # Errors
///
/// What setsockopt(2) says.
pub fn set_receive_buffer(socket: impl AsFd, bytes: usize) -> io::Result<usize> {
    let socket = socket.as_fd();
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    }
    Ok(rustix::net::sockopt::socket_recv_buffer_size(socket)?)
}

/// Asks for a send buffer of `bytes`, as [`set_receive_buffer`] does.
///
/// # Errors
///
/// What setsockopt(2) says.
pub fn set_send_buffer(socket: impl AsFd, bytes: usize) -> io::Result<usize> {
    let socket = socket.as_fd();
    if rustix::net::sockopt::set_socket_send_buffer_size_force(socket, bytes).is_err() {
        rustix::net::sockopt::set_socket_send_buffer_size(socket, bytes)?;
    }
    Ok(rustix::net::sockopt::socket_send_buffer_size(socket)?)
}

/// Marks what the socket sends (`SO_MARK`), for policy routing. 0 takes the mark away.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_ADMIN` or, from 5.17, `CAP_NET_RAW`.
pub fn set_mark(socket: impl AsFd, mark: u32) -> io::Result<()> {
    set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, &mark)
}

/// Has one send of a UDP socket become datagrams of `bytes` of payload each, up to 64 (`UDP_SEGMENT`, udp(7)). 0: of
/// one datagram.
///
/// # Errors
///
/// What setsockopt(2) says.
pub fn set_udp_segment(socket: impl AsFd, bytes: u16) -> io::Result<()> {
    set(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, &i32::from(bytes))
}

/// Lets a UDP socket be given several datagrams of a sender at once (`UDP_GRO`, udp(7)).
///
/// # Errors
///
/// What setsockopt(2) says.
pub fn set_udp_gro(socket: impl AsFd, on: bool) -> io::Result<()> {
    set(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, &i32::from(on))
}

/// Ties the socket to a device by name (`SO_BINDTODEVICE`); an empty name unties it.
///
/// # Errors
///
/// `ENODEV` when there is no such device, `EINVAL` when the name is too long for one.
pub fn bind_to_device(socket: impl AsFd, name: &str) -> io::Result<()> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let socket = socket.as_fd();
    // SAFETY: socket(7): the option takes "a variable-length null-terminated interface name string
    // with the maximum size of IFNAMSIZ"; the kernel reads at most the given length and terminates
    // its own copy, so the string needs no terminator here.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    };
    done(result)
}

/// Puts a classic BPF filter on the socket in one step (`SO_ATTACH_FILTER`), replacing an older one.
///
/// # Errors
///
/// `EINVAL` when the kernel refuses the program.
pub fn attach_filter(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    give_program(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}

/// Sets an option whose value is a classic BPF program.
pub(crate) fn give_program(
    socket: impl AsFd,
    level: i32,
    option: i32,
    program: &[Instruction],
) -> io::Result<()> {
    /// `struct sock_fprog`.
    #[repr(C)]
    struct Program {
        len: u16,
        instructions: *const Instruction,
    }
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let socket = socket.as_fd();
    let value = Program { len, instructions: program.as_ptr() };
    // SAFETY: socket(7), SO_ATTACH_FILTER: "The argument is a sock_fprog structure"; packet(7) has the same of
    // PACKET_FANOUT_DATA. `Program` has its layout, `Instruction` that of `sock_filter`, and both live until the
    // call returns. The kernel copies the program.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<Program>() as libc::socklen_t,
        )
    };
    done(result)
}

/// Takes the filter away again (`SO_DETACH_FILTER`).
///
/// # Errors
///
/// `ENOENT` when there is none.
pub fn detach_filter(socket: impl AsFd) -> io::Result<()> {
    set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0i32)
}

/// Takes the pending error off the socket (`SO_ERROR`), if there is one.
///
/// # Errors
///
/// What getsockopt(2) itself says.
pub fn take_error(socket: impl AsFd) -> io::Result<Option<io::Error>> {
    Ok(rustix::net::sockopt::socket_error(socket)?.err().map(io::Error::from))
}

/// How full a socket is and what it lost (`SO_MEMINFO`, linux include/uapi/linux/sock_diag.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes in the receive queue as the kernel counts them, with what it needs around each packet.
    pub waiting: u32,
    /// Packets lost since the socket was opened, because the receive buffer was full; wraps. Of raw IP sockets those
    /// too that an IPsec policy refused.
    pub lost: u32,
}

/// Looks how full a socket is.
///
/// # Errors
///
/// What getsockopt(2) says.
pub fn memory(socket: impl AsFd) -> io::Result<Memory> {
    // SK_MEMINFO_RMEM_ALLOC is the first of nine, SK_MEMINFO_DROPS the last.
    let [waiting, _, _, _, _, _, _, _, lost] =
        read::<[u32; 9]>(socket.as_fd(), libc::SOL_SOCKET, abi::SO_MEMINFO)?;
    Ok(Memory { waiting, lost })
}

/// Types that are all bytes: any bit pattern is a value and none is padding.
///
/// # Safety
///
/// The implementor says just that.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers and arrays of them are all bytes.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u32; N] {}

pub(crate) fn set<T: Plain>(socket: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: setsockopt(2): "optval and optlen are used to access option values"; the kernel reads
    // that many bytes of a `Plain` value that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    done(result)
}

pub(crate) fn read<T: Plain + Default>(socket: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: getsockopt(2): "optlen is a value-result argument, initially containing the size of the
    // buffer pointed to by optval"; the kernel writes at most that many bytes of a `Plain` value.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) };
    done(result)?;
    Ok(value)
}

pub(crate) fn done(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
