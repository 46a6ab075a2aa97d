//! A tunnel has the name of its device: where somebody gives the device another one (`ip link set tun0 name
//! office`), the tunnel, its state file, its tables and the name of the data plane's end follow.
//!
//! The data plane knows tunnels by name and is given the tunnel anew, so that its counters start anew; its
//! sequence numbers go on.

use greway_netlink::LinkChange;
use greway_spec::DeviceName;

use super::device;
use super::host::{Host, with_causes};
use super::underlay::Remains;
use crate::plan;
use crate::store::Stored;

/// A tunnel between its old name and its new one.
struct Renamed {
    to: DeviceName,
    stored: Stored,
    sequence: u32,
    index: u32,
    peer: Option<u32>,
}

impl Host {
    /// Gives every tunnel the name of its device, all at once: two devices may have exchanged theirs.
    pub(super) fn follow_names(&mut self) {
        let new_name = |index: u32| -> Option<DeviceName> {
            let link = self.netlink.link_by_index(index).ok()??;
            // What is no name for a tunnel (the kernel takes more bytes than we do) is not followed.
            link.name.parse().inspect_err(|error| tracing::error!(%error, "a device was renamed")).ok()
        };
        let renamed = self.tunnels.iter().filter_map(|(name, live)| {
            let to = new_name(live.index)?;
            (to != *name).then(|| (name.clone(), to))
        });
        let renamed = renamed.collect::<Vec<_>>();
        // A name that another tunnel has, as far as is known, will be free when word of its renaming comes.
        let stays = |name: &DeviceName| {
            self.tunnels.contains_key(name) && !renamed.iter().any(|(from, _)| from == name)
        };
        let renamed = renamed.iter().filter(|(_, to)| !stays(to)).cloned().collect::<Vec<_>>();
        let between = renamed.into_iter().filter_map(|(from, to)| self.take_down(&from, to));
        for tunnel in between.collect::<Vec<_>>() {
            self.take_up(tunnel);
        }
    }

    fn take_down(&mut self, from: &DeviceName, to: DeviceName) -> Option<Renamed> {
        let live = self.tunnels.remove(from)?;
        let sequence = self.store.sequence(from);
        if let Err(error) = self.datapath.remove(from) {
            tracing::warn!(tunnel = %from, error = %with_causes(&error), "while it is renamed");
        }
        for error in self.remove_tables(from, Some(live.spec())) {
            tracing::warn!(tunnel = %from, error, "while it is renamed");
        }
        if let Some(peer) = live.peer {
            // Out of the way of another tunnel that takes the name. Kernels before 6.2 rename no device that
            // is up; the old name serves as well.
            let name = format!("gw-{peer}~");
            let _ =
                self.netlink.change_link(peer, &LinkChange { name: Some(&name), ..LinkChange::default() });
        }
        if let Err(error) = self.store.remove(from) {
            tracing::warn!(tunnel = %from, %error, "while it is renamed");
        }
        tracing::info!(from = %from, to = %to, "its device was renamed");
        let mut stored = live.stored;
        stored.spec.name = to.clone();
        Some(Renamed { to, stored, sequence, index: live.index, peer: live.peer })
    }

    fn take_up(&mut self, tunnel: Renamed) {
        let Renamed { to, stored, sequence, index, peer } = tunnel;
        let saved = self.store.save(&stored).and_then(|()| self.store.save_sequence(&to, sequence));
        if let Err(error) = saved {
            tracing::error!(tunnel = %to, %error, "cannot be remembered under its new name");
        }
        if let Some(peer) = peer {
            let name = device::peer_name(&to);
            let change = LinkChange { name: Some(&name), ..LinkChange::default() };
            if let Err(error) = self.netlink.change_link(peer, &change) {
                tracing::warn!(tunnel = %to, %error, "the data plane's end keeps its name");
            }
        }
        let snat = plan::snat_of(&stored.spec);
        if let Err(error) = self.carry(stored, Some(index)) {
            let remains = Remains::from(&error);
            tracing::error!(tunnel = %to, error = remains.why, "under its new name");
            self.remains.insert(to, remains);
            return;
        }
        if let Some(rule) = snat
            && let Err(error) = self.install_snat(&rule)
        {
            tracing::error!(tunnel = %to, %error, "under its new name");
        }
    }
}
