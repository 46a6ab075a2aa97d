//! The MTU of a tunnel device follows the way to its remote.
//!
//! The kernel's own tunnels take it once, when they are made. A route that is changed, or a device below that
//! gets another MTU, would leave a tunnel too large for its path or smaller than it could be. Only the MTU that
//! greway chose is changed again: one that a file names, or that somebody has set since, stays.

use greway_netlink::{LinkChange, NetlinkError};
use greway_spec::{DeviceName, TunnelSpec};

use super::host::Host;
use crate::{observe, plan};

impl Host {
    /// The MTU in bytes that the way to the remote leaves; `None` where there is no way, or the spec names one.
    pub(super) fn mtu_by_path(&self, spec: &TunnelSpec) -> Option<u32> {
        if spec.mtu.is_some() {
            return None;
        }
        let path = observe::path_mtu(&self.netlink, spec).ok().flatten()?;
        Some(plan::default_mtu(spec, Some(path)))
    }

    /// Routes or devices changed: devices whose MTU was by the old way get that of the new one.
    pub(super) fn look_at_mtus(&mut self) {
        let names = self.tunnels.keys().cloned().collect::<Vec<_>>();
        for name in names {
            self.look_at_mtu(&name);
        }
    }

    /// The same for one tunnel, whose way may be another since it was changed (CF-06).
    pub(super) fn look_at_mtu(&mut self, name: &DeviceName) {
        let Some(live) = self.tunnels.get(name) else { return };
        let (spec, index, before) = (live.spec().clone(), live.index, live.mtu_by_path);
        // A way that is gone for a moment changes nothing.
        let Some(now) = self.mtu_by_path(&spec) else { return };
        if before == Some(now) {
            return;
        }
        if let Some(live) = self.tunnels.get_mut(name) {
            live.mtu_by_path = Some(now);
        }
        let Some(before) = before else { return };
        match self.follow_mtu(name, index, before, now) {
            Ok(true) => {
                tracing::info!(tunnel = %name, from = before, to = now, "the MTU follows the underlay")
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(tunnel = %name, mtu = now, %error, "the MTU cannot follow the underlay");
            }
        }
    }

    fn follow_mtu(
        &mut self,
        name: &DeviceName,
        index: u32,
        before: u32,
        now: u32,
    ) -> Result<bool, NetlinkError> {
        let device = self.netlink.link_by_index(index)?;
        if device.is_none_or(|device| device.mtu != before) {
            return Ok(false);
        }
        self.netlink.change_link(index, &LinkChange { mtu: Some(now), ..LinkChange::default() })?;
        self.tell_mtu(name, now);
        Ok(true)
    }

    /// Tells the data plane which MTU a tunnel device has.
    pub(super) fn tell_mtu(&mut self, name: &DeviceName, mtu: u32) {
        if let Some(live) = self.tunnels.get_mut(name) {
            live.mtu = mtu;
        }
        self.datapath.set_mtu(name, mtu);
    }
}
