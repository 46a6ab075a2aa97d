//! A cable between two hosts whose ends have no link header: two TUN devices, and a thread that hands the packets
//! of each to the other. To the programs it is what ppp and WireGuard are.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use greway_linux::{
    tun::{Config, Offload, Tun},
    vnet,
};
use greway_testbed::Host;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::UnshareFlags,
};

use crate::tunnel::end_addresses;

/// The thread between the ends. Dropping it pulls both plugs: the devices go with it.
pub(crate) struct TunCable {
    tuns: Arc<[Tun; 2]>,
    ends: Arc<AtomicBool>,
    relay: Option<JoinHandle<()>>,
}

/// Two hosts on such a cable, both ends called eth0; `None` where TUN devices or namespaces are refused. `merging`:
/// whether the devices merge what arrives, as WireGuard's do and ppp's do not.
pub(crate) fn hosts_on_tuns(merging: bool) -> Option<([Host; 2], TunCable)> {
    let hosts = [Host::new("left").ok()?, Host::new("right").ok()?];
    let config = Config { name: "eth0", persist: false };
    let open = if merging { Tun::open_merging } else { Tun::open };
    let mut tuns = Vec::new();
    for host in &hosts {
        let mut tun = host.run(|| open(&config)).unwrap().ok()?;
        tun.set_offload(Offload::None).unwrap();
        if merging {
            host.run(wait_for_more).unwrap().ok()?;
        }
        tuns.push(tun);
    }
    for (host, end) in hosts.iter().zip(1..) {
        host.set_up("eth0").unwrap();
        end_addresses(host, end);
    }
    let tuns: Arc<[Tun; 2]> = Arc::new(tuns.try_into().unwrap());
    let ends = Arc::new(AtomicBool::new(false));
    let relay = std::thread::spawn({
        let (tuns, ends) = (tuns.clone(), ends.clone());
        move || relay(&tuns, &ends)
    });
    Some((hosts, TunCable { tuns, ends, relay: Some(relay) }))
}

/// Lets the device wait half a millisecond for more to merge: each packet is handed over alone.
fn wait_for_more() -> std::io::Result<()> {
    // /sys shows the network namespace of whoever mounted it. A mount namespace of this thread's own.
    #[expect(deprecated, reason = "the unsafe successor warns of CLONE_FILES, which is not used here")]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
    std::fs::write("/sys/class/net/eth0/gro_flush_timeout", "500000")
}

fn relay([left, right]: &[Tun; 2], ends: &AtomicBool) {
    let mut data = vec![0; 65_535];
    while !ends.load(Ordering::Relaxed) {
        let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        poll(&mut [PollFd::new(left, PollFlags::IN), PollFd::new(right, PollFlags::IN)], Some(&wait))
            .unwrap();
        for (from, to) in [(left, right), (right, left)] {
            let mut header = [0; vnet::LEN];
            // A device that is down takes nothing, and one that was deleted gives nothing.
            while let Ok(Some(len)) = from.recv(&mut header, &mut data) {
                let _ = to.send(&vnet::VnetHeader::default(), &data[..len], &[]);
            }
        }
    }
}

impl TunCable {
    /// Lets `packet` come in at the left host.
    pub(crate) fn hand_to_left(&self, packet: &[u8]) {
        self.tuns[0].send(&vnet::VnetHeader::default(), packet, &[]).unwrap();
    }
}

impl Drop for TunCable {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(relay) = self.relay.take() {
            let _ = relay.join();
        }
    }
}
