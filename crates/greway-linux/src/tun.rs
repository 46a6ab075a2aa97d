//! TUN devices, for hosts that refuse a veth pair and grant `/dev/net/tun`.
//!
//! Always layer 3 (`IFF_TUN`), without the packet-information header, with the virtio-net header.
//! The device is not put up and gets no addresses here: that is netlink's.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::ioctl::{self, Opcode, opcode};

use crate::abi::{OpenError, Step as _};
use crate::batch::MAX_SLICES;
use crate::vnet::{self, VnetHeader};

/// What [`Tun::open`] shall open.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// Name of the device, 1 to 15 bytes. One that exists and is persistent is adopted.
    pub name: &'a str,
    /// The device outlives the descriptor.
    pub persist: bool,
}

/// What the device hands over undone (`TUNSETOFFLOAD`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Unfilled checksums, TCP super-packets, and UDP ones (from 6.2).
    TcpAndUdp,
    /// Unfilled checksums and TCP super-packets.
    Tcp,
    /// Nothing: every packet is whole.
    None,
}

/// A TUN device, held open and non-blocking.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    offload: Offload,
}

impl Tun {
    /// Makes the device, or adopts a persistent one of that name, and asks for as much offload as
    /// the kernel has.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: `EACCES` or `ENOENT` for /dev/net/tun, `EBUSY` when another process holds the
    /// device, `EINVAL` when a device of another kind has the name or the name is too long.
    pub fn open(config: &Config<'_>) -> Result<Self, OpenError> {
        Self::open_as(config, 0)
    }

    /// The same for a device that merges what it is handed before the host sees it (GRO, by `IFF_NAPI`), as those of
    /// WireGuard do.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_merging(config: &Config<'_>) -> Result<Self, OpenError> {
        Self::open_as(config, libc::IFF_NAPI)
    }

    fn open_as(config: &Config<'_>, flags: libc::c_int) -> Result<Self, OpenError> {
        let (fd, name) = attached(config.name, libc::IFF_TUN | flags, vnet::LEN)?;
        set_value::<SET_PERSIST>(fd.as_fd(), usize::from(config.persist)).step("TUNSETPERSIST")?;
        let mut tun = Self { fd, name, offload: Offload::None };
        tun.negotiate().step("TUNSETOFFLOAD")?;
        Ok(tun)
    }

    /// The name that the kernel gave.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the device hands over undone.
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Asks for exactly this much offload.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the kernel does not have it; the device keeps what it had.
    pub fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        let mask = match offload {
            Offload::TcpAndUdp => TCP_OFFLOAD | libc::TUN_F_USO4 | libc::TUN_F_USO6,
            Offload::Tcp => TCP_OFFLOAD,
            Offload::None => 0,
        };
        set_offload(self.fd.as_fd(), mask)?;
        self.offload = offload;
        Ok(())
    }

    /// Whether the device outlives this descriptor.
    ///
    /// # Errors
    ///
    /// What ioctl(2) says.
    pub fn set_persist(&self, persist: bool) -> io::Result<()> {
        set_value::<SET_PERSIST>(self.fd.as_fd(), usize::from(persist))
    }

    /// Takes one packet that the host sends into the tunnel; `None` when there is none. `data` should
    /// hold 65,535 bytes; the end of a longer packet is lost without a word.
    ///
    /// # Errors
    ///
    /// `EBADFD` when the device was deleted.
    pub fn recv(&self, header: &mut [u8; vnet::LEN], data: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::readv(&self.fd, &mut [IoSliceMut::new(header), IoSliceMut::new(data)]) {
            Ok(len) => Ok(Some(len.saturating_sub(vnet::LEN))),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands one packet, its beginning and up to [`MAX_SLICES`] slices behind it, to the host as if it came out of the tunnel.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a header that does not fit the packet, `EIO` when the device is down.
    ///
    /// # Panics
    ///
    /// With more than [`MAX_SLICES`] slices.
    pub fn send(&self, header: &VnetHeader, prefix: &[u8], slices: &[&[u8]]) -> io::Result<()> {
        assert!(slices.len() <= MAX_SLICES, "a packet of {} slices", slices.len());
        let header = header.to_bytes();
        let mut iov = [IoSlice::new(&[]); MAX_SLICES + 2];
        iov[0] = IoSlice::new(&header);
        iov[1] = IoSlice::new(prefix);
        for (iov, slice) in iov[2..].iter_mut().zip(slices) {
            *iov = IoSlice::new(slice);
        }
        rustix::io::writev(&self.fd, &iov[..slices.len() + 2])?;
        Ok(())
    }

    fn negotiate(&mut self) -> io::Result<()> {
        for offload in [Offload::TcpAndUdp, Offload::Tcp] {
            match self.set_offload(offload) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                result => return result,
            }
        }
        self.set_offload(Offload::None)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A descriptor of a device of this name and the name that it got, with headers of so many bytes.
pub(crate) fn attached(
    name: &str,
    flags: libc::c_int,
    header_len: usize,
) -> Result<(OwnedFd, String), OpenError> {
    let fd: OwnedFd =
        File::options().read(true).write(true).open("/dev/net/tun").step("open /dev/net/tun")?.into();
    rustix::io::ioctl_fionbio(&fd, true).step("FIONBIO")?;
    let name = attach(fd.as_fd(), name, flags).step("TUNSETIFF")?;
    set_integer::<SET_VNET_HEADER_SIZE>(fd.as_fd(), header_len as i32).step("TUNSETVNETHDRSZ")?;
    Ok((fd, name))
}

/// Asks for the offloads of this mask.
pub(crate) fn set_offload(tun: BorrowedFd<'_>, mask: libc::c_uint) -> io::Result<()> {
    set_value::<SET_OFFLOAD>(tun, mask as usize)
}

/// `struct ifreq` with flags in its union (netdevice(7)).
#[repr(C, align(8))]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == 40);

fn attach(tun: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> io::Result<String> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let flags = (libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags) as i16;
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: linux Documentation/networking/tuntap.rst: TUNSETIFF reads and writes a `struct ifreq`;
    // `Request` has its size and layout.
    let update = unsafe { ioctl::Updater::<SET_INTERFACE, Request>::new(&mut request) };
    // SAFETY: the operation and its argument belong together, see above.
    unsafe { ioctl::ioctl(tun, update) }?;
    let end = request.name.iter().position(|byte| *byte == 0).unwrap_or(libc::IFNAMSIZ);
    Ok(String::from_utf8_lossy(&request.name[..end]).into_owned())
}

/// Operations that take a pointer to an integer.
fn set_integer<const OPCODE: Opcode>(tun: BorrowedFd<'_>, mut value: i32) -> io::Result<()> {
    // SAFETY: linux drivers/net/tun.c reads an `int` at the argument for these operations.
    let update = unsafe { ioctl::Updater::<OPCODE, i32>::new(&mut value) };
    // SAFETY: the operation and its argument belong together, see above.
    unsafe { ioctl::ioctl(tun, update) }?;
    Ok(())
}

/// Operations whose argument is the value itself.
fn set_value<const OPCODE: Opcode>(tun: BorrowedFd<'_>, value: usize) -> io::Result<()> {
    // SAFETY: linux drivers/net/tun.c takes the argument of these operations as a number.
    let setter = unsafe { ioctl::IntegerSetter::<OPCODE>::new_usize(value) };
    // SAFETY: the operation and its argument belong together, see above.
    unsafe { ioctl::ioctl(tun, setter) }?;
    Ok(())
}

// linux include/uapi/linux/if_tun.h
const SET_INTERFACE: Opcode = opcode::write::<libc::c_int>(b'T', 202);
const SET_PERSIST: Opcode = opcode::write::<libc::c_int>(b'T', 203);
const SET_OFFLOAD: Opcode = opcode::write::<libc::c_uint>(b'T', 208);
const SET_VNET_HEADER_SIZE: Opcode = opcode::write::<libc::c_int>(b'T', 216);
pub(crate) const TCP_OFFLOAD: libc::c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
