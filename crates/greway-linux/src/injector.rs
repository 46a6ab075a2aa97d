//! Super-packets of a tunnel handed to the kernel whole: it cuts them where it would cut those of its own tunnels, behind
//! the last device that takes them whole.
//!
//! No socket takes a super-packet that is in GRE already. A TAP device does since Linux 6.17: its virtio-net header can say
//! that TCP or UDP is to be cut inside of a tunnel over UDP (`TUN_F_UDP_TUNNEL_GSO`), and what cuts a packet goes by its
//! protocols, not by that word (linux net/ipv4/gre_offload.c `gre_gso_segment`, v6.18). So a packet of GRE that is called
//! one over UDP is cut right: the headers up to the inner packet are repeated as they are. A device that cuts by itself
//! may go by the word instead, and is not to be given any ([`CUTS_TUNNELS`]).
//!
//! What is written comes out of the device as a packet that arrived there. It goes where the host's rules for that device
//! say, and that is not decided here.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};

use crate::OpenError;
use crate::abi::Step as _;
use crate::mac::MacAddr;
use crate::tun::{TCP_OFFLOAD, attached, set_offload};
use crate::vnet::{self, Inside, VnetHeader};

/// Features of devices ([`crate::ethtool`]) that cut packets in tunnels over UDP themselves.
pub const CUTS_TUNNELS: [&str; 2] = ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"];

/// Bytes of a frame's header with a tag of no VLAN in it.
///
/// The kernel wants the outer header of IPv4 to end no sooner than 34 bytes into the frame, and the inner one to begin at
/// least eight bytes later. A GRE header without a key has four, so the frame has four more in front.
pub const FRONT: usize = 18;
/// What [`Inside::outer_transport`] says: the least that the kernel takes. It finds the outer headers itself.
const OUTER_TRANSPORT: u16 = 34;

/// The device, as long as this is held.
#[derive(Debug)]
pub struct Injector {
    fd: OwnedFd,
    name: String,
}

impl Injector {
    /// Makes the device, down.
    ///
    /// # Errors
    /// [`OpenError`]: `EINVAL` at `TUNSETOFFLOAD` before Linux 6.17; `EACCES` or `ENOENT` for /dev/net/tun; `EBUSY` or
    /// `EINVAL` when there is a device of that name.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        let (fd, name) = attached(name, libc::IFF_TAP, vnet::TUNNEL_LEN)?;
        let offload = TCP_OFFLOAD | libc::TUN_F_USO4 | libc::TUN_F_USO6 | UDP_TUNNEL_GSO;
        set_offload(fd.as_fd(), offload).step("TUNSETOFFLOAD")?;
        Ok(Self { fd, name })
    }

    /// The name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hands over a packet of IPv4, in slices: the kernel has sent it, or lost it, when this returns. It arrives at the
    /// device, which has the hardware address `device`, from one that says `ifindex` in its last four bytes, in this
    /// machine's order.
    ///
    /// `whole`: what of it is to be cut, and where the IP header inside begins, no sooner than after 24 bytes; both from the
    /// start of the packet. `None`: nothing is left to be done.
    ///
    /// # Errors
    /// `EINVAL` for a header that does not fit the packet, `EIO` when the device is down.
    pub fn send(
        &self,
        device: MacAddr,
        ifindex: u32,
        whole: Option<(VnetHeader, u16)>,
        slices: [&[u8]; 3],
    ) -> io::Result<()> {
        let behind = |at: u16| at.saturating_add(FRONT as u16);
        let header = match whole {
            Some((cut, network)) => {
                let (hdr_len, csum_start) = (behind(cut.hdr_len), behind(cut.csum_start));
                let (outer_transport, network) = (OUTER_TRANSPORT, behind(network));
                let inside = Inside { over_ipv6: false, outer_transport, network };
                VnetHeader { hdr_len, csum_start, ..cut }.to_tunnel_bytes(inside)
            }
            None => [0; vnet::TUNNEL_LEN],
        };
        let mut front = [0; FRONT];
        front[..6].copy_from_slice(&device.octets());
        front[6] = LOCALLY_ADMINISTERED;
        front[8..12].copy_from_slice(&ifindex.to_ne_bytes());
        front[12..].copy_from_slice(&[0x81, 0, 0, 0, 0x08, 0]);
        let [first, second, third] = slices.map(IoSlice::new);
        rustix::io::writev(&self.fd, &[IoSlice::new(&header), IoSlice::new(&front), first, second, third])?;
        Ok(())
    }
}

/// The bit of a hardware address that no vendor has given (IEEE 802).
const LOCALLY_ADMINISTERED: u8 = 0x02;
/// linux include/uapi/linux/if_tun.h, v6.17
const UDP_TUNNEL_GSO: libc::c_uint = 0x080;
