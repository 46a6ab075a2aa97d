//! What an earlier daemon left: taken over where it can be, told of and removed on demand where not.

use std::collections::BTreeMap;

use greway_spec::{DeviceName, OverlayChoice};

use super::device::{self, DeviceError};
use super::firewall;
use super::host::{Host, with_causes};
use super::underlay::Remains;
use crate::api::Reply;
use crate::rules;
use crate::store::Stored;
use crate::sysctl;

impl Host {
    /// Takes over the tunnels of an earlier daemon. A device that is gone was deleted by somebody
    /// while no daemon ran, and its tunnel with it, as with the kernel's own.
    pub(super) fn adopt(&mut self) {
        let loaded = match self.store.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!(%error, "the state directory cannot be read");
                return;
            }
        };
        for (path, error) in loaded.unreadable {
            tracing::error!(path = %path.display(), %error, "state file left out");
            let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if let Some(name) = name {
                let why = format!("its state file {} cannot be read: {error}", path.display());
                self.remains.insert(name, Remains::because(why));
            }
        }
        // Their tables are there already.
        let specs = loaded.tunnels.values().map(|stored| &stored.spec);
        self.rules.ours = specs.filter_map(firewall::own_table).collect();
        self.fast.waits = true;
        self.fast.begin();
        self.together(|host| host.carry_again(loaded.tunnels));
        self.fast.waits = false;
        self.look_at_rules();
        self.look_at_places();
    }

    fn carry_again(&mut self, tunnels: BTreeMap<DeviceName, Stored>) {
        for (name, stored) in tunnels {
            match self.carry(stored.clone(), None) {
                Ok(()) => tracing::info!(tunnel = %name, "carried again"),
                Err(DeviceError::Gone(_)) => {
                    tracing::info!(tunnel = %name, "its device is gone: forgotten");
                    for failure in self.remove_remains(&name, Some(&stored)) {
                        tracing::warn!(tunnel = %name, failure, "not all of it could be removed");
                    }
                }
                Err(error) => {
                    let remains = Remains::from(&error);
                    tracing::error!(tunnel = %name, error = remains.why, "cannot be carried again");
                    self.remains.insert(name, remains);
                }
            }
        }
    }

    /// Whether there is something of ours by that name that is no tunnel we carry.
    pub(super) fn leaves_remains(&mut self, name: &DeviceName) -> bool {
        let device = |name: &str| device::ours(&self.netlink, name).is_ok_and(|link| link.is_some());
        self.remains.contains_key(name)
            || self.store.holds(name)
            || device(name.as_str())
            || device(&device::peer_name(name))
            || self.has_tables(name)
    }

    /// Removes what is left of a tunnel that is not carried.
    pub(super) fn sweep(&mut self, name: &DeviceName, dry_run: bool) -> Result<Reply, String> {
        let actions = vec![format!("remove what is left of {name}")];
        if !dry_run {
            let stored = self.store.load().ok().and_then(|mut loaded| loaded.tunnels.remove(name));
            let failures = self.remove_remains(name, stored.as_ref());
            if !failures.is_empty() {
                return Err(format!("{name}: {}", failures.join("; ")));
            }
            self.remains.remove(name);
        }
        Ok(Reply::Done { actions, warnings: Vec::new() })
    }

    /// Everything is tried; what failed is told.
    fn remove_remains(&self, name: &DeviceName, stored: Option<&Stored>) -> Vec<String> {
        let mut failures = self.remove_tables(name, stored.map(|stored| &stored.spec));
        let mut note = |outcome: Result<(), String>| failures.extend(outcome.err());
        for rule in stored.iter().flat_map(|stored| &stored.spec.inner.rules) {
            let removed = self.netlink.delete_rule(&rules::to_wire(rule));
            let removed = removed.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) });
            note(removed.map_err(|error| error.to_string()));
        }
        let deleted = match device::delete(&self.netlink, name) {
            // Ours is gone and somebody else has made one of that name, which stays. Only a TUN may be ours
            // without a sign of it.
            Err(DeviceError::Foreign(_))
                if stored.is_none_or(|stored| stored.spec.overlay != OverlayChoice::Tun) =>
            {
                Ok(())
            }
            outcome => outcome,
        };
        // What still has its device is not forgotten: nobody would know whose it is.
        let stays = deleted.is_err();
        note(deleted.map_err(|error| with_causes(&error)));
        if !self.forwards_beside(name) {
            for family in stored.iter().flat_map(|stored| &stored.turned_on) {
                note(sysctl::set_forwarding(*family, false).map_err(|error| error.to_string()));
            }
        }
        if !stays {
            note(self.store.remove(name).map_err(|error| error.to_string()));
        }
        failures
    }
}
