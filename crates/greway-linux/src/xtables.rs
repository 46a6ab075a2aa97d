//! The rules of legacy iptables as the kernel keeps them: a blob for each table, read by socket option.
//!
//! It refuses to look at a table that is not there: the question alone would make one, and hook it in. So
//! callers ask for the tables that /proc/net/ip_tables_names lists, and for no other.
//!
//! Source: linux include/uapi/linux/netfilter_ipv4/ip_tables.h, v6.18.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use crate::abi;
use crate::sockopt;

/// A table as the kernel gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where each hook's chain begins, in bytes, by the kernel's number of the hook.
    pub hook_entry: [u32; HOOKS],
    /// Which hooks the table has, a bit each.
    pub valid_hooks: u32,
    /// The entries (`struct ipt_entry`), one behind the other.
    pub entries: Vec<u8>,
}

/// Prerouting, input, forward, output, postrouting.
pub const HOOKS: usize = 5;

const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
const NAME: usize = 32;
/// `struct ipt_getinfo`: name, valid_hooks, hook_entry, underflow, num_entries, size.
const INFO: usize = NAME + 4 + 4 * HOOKS + 4 * HOOKS + 4 + 4;
/// `struct ipt_get_entries` up to its entries, which are aligned to 8.
const ENTRIES: usize = NAME + 8;

/// Reads an IPv4 table that exists, in the calling thread's network namespace.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`, `EINVAL` for a name that is too long, `EAGAIN` when the table was changed
/// meanwhile, and what getsockopt(2) says.
pub fn read(table: &str) -> io::Result<Table> {
    if table.is_empty() || table.len() >= NAME {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(ipproto::RAW),
    )?;
    let mut info = vec![0; INFO];
    info[..table.len()].copy_from_slice(table.as_bytes());
    ask(&socket, GET_INFO, &mut info)?;
    let valid_hooks = abi::word(&info, NAME);
    let hook_entry = std::array::from_fn(|hook| abi::word(&info, NAME + 4 + 4 * hook));
    let size = abi::word(&info, INFO - 4);
    let mut blob = vec![0; ENTRIES + size as usize];
    blob[..table.len()].copy_from_slice(table.as_bytes());
    blob[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    ask(&socket, GET_ENTRIES, &mut blob)?;
    blob.drain(..ENTRIES);
    Ok(Table { hook_entry, valid_hooks, entries: blob })
}

fn ask(socket: impl AsFd, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: getsockopt(2): "optlen is a value-result argument, initially containing the size of the
    // buffer pointed to by optval"; the kernel reads and writes at most that many bytes of the slice, and
    // any bytes are valid in it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            abi::SOL_IP,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    sockopt::done(result)
}
