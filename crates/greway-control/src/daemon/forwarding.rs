//! Who turned forwarding on, so that the last tunnel that needs it turns it off, and nothing else does.
//!
//! It is written down before the setting is written: a daemon that dies between leaves a note too much, which
//! the tunnel's removal settles, and never a host that forwards for ever.

use std::io;

use greway_spec::DeviceName;

use super::host::{Host, Live};
use crate::apply::StepError;
use crate::store::{Store, Stored};
use crate::sysctl::{self, Forwarding};

impl Host {
    /// Turns forwarding on in the name of a tunnel.
    pub(super) fn forward(&mut self, name: &DeviceName, family: Forwarding) -> Result<(), StepError> {
        let Some(live) = self.tunnels.get_mut(name) else {
            return Err(StepError(format!("{name} is not carried")));
        };
        turn_on(&mut live.stored, &self.store, family, || sysctl::set_forwarding(family, true))
    }

    /// Turns forwarding off: nobody has it to turn off any more.
    pub(super) fn stop_forwarding(&mut self, family: Forwarding) -> Result<(), StepError> {
        sysctl::set_forwarding(family, false).map_err(|error| StepError(error.to_string()))?;
        for (name, live) in &mut self.tunnels {
            if live.stored.turned_on.contains(&family) {
                live.stored.turned_on.retain(|on| *on != family);
                if let Err(error) = self.store.save(&live.stored) {
                    tracing::warn!(tunnel = %name, %error, "that forwarding was turned off cannot be written down");
                }
            }
        }
        Ok(())
    }

    /// What a tunnel turned on and another one needs is that tunnel's to turn off.
    pub(super) fn hand_over_forwarding(&mut self, from: &DeviceName) {
        if self.tunnels.get(from).is_none_or(|giver| giver.stored.turned_on.is_empty()) {
            return;
        }
        let heir = self.tunnels.values().find(|live| live.spec().name != *from && live.spec().inner.forward);
        let Some(heir) = heir.map(|heir| heir.spec().name.clone()) else { return };
        let Some(giver) = self.tunnels.get_mut(from) else { return };
        let turned_on = std::mem::take(&mut giver.stored.turned_on);
        if turned_on.is_empty() {
            return;
        }
        let Some(live) = self.tunnels.get_mut(&heir) else { return };
        live.stored.turned_on.extend(turned_on);
        // The heir first: two notes are better than none.
        for name in [&heir, from] {
            let Some(live) = self.tunnels.get(name) else { continue };
            if let Err(error) = self.store.save(&live.stored) {
                tracing::warn!(tunnel = %name, %error, "who turned forwarding on cannot be written down");
            }
        }
    }

    /// Forwarding that a tunnel turned on and nobody else asks for.
    pub(super) fn to_stop(&self, going: &Live) -> Vec<Forwarding> {
        // Most have turned on nothing: the others are not asked on their behalf.
        let turned_on = &going.stored.turned_on;
        match turned_on.is_empty() || self.forwards_beside(&going.spec().name) {
            true => Vec::new(),
            false => turned_on.clone(),
        }
    }

    /// Whether a tunnel other than this one asks for forwarding.
    pub(super) fn forwards_beside(&self, name: &DeviceName) -> bool {
        self.tunnels.values().any(|live| live.spec().name != *name && live.spec().inner.forward)
    }
}

fn turn_on(
    stored: &mut Stored,
    store: &Store,
    family: Forwarding,
    write: impl FnOnce() -> io::Result<()>,
) -> Result<(), StepError> {
    let before = stored.clone();
    if !stored.turned_on.contains(&family) {
        stored.turned_on.push(family);
    }
    let noted = store.save(stored).map_err(|error| format!("cannot write down that it was off: {error}"));
    let done = noted.and_then(|()| write().map_err(|error| error.to_string()));
    done.map_err(|error| {
        if let Err(error) = store.save(&before) {
            tracing::warn!(tunnel = %before.spec.name, %error, "it stays written down that forwarding was off");
        }
        *stored = before;
        StepError(error)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use greway_spec::Draft;

    use super::*;

    #[test]
    fn it_is_written_down_before_it_is_done_and_taken_back_when_it_is_not() {
        let directory = std::env::temp_dir().join(format!("greway-forwarding-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let store = Store::new(&directory);
        let address = |text: &str| text.parse().unwrap();
        let name: DeviceName = "tun0".parse().unwrap();
        let spec = Draft::new(name.clone(), address("10.0.0.1"), address("10.0.0.2")).into_spec().unwrap();
        let mut stored = Stored { spec, turned_on: Vec::new() };
        let kept = || store.load().unwrap().tunnels[&name].turned_on.clone();

        let read_only = || {
            assert_eq!(kept(), [Forwarding::Ipv4], "noted first");
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        };
        let refused = turn_on(&mut stored, &store, Forwarding::Ipv4, read_only).unwrap_err();
        assert!(refused.to_string().contains("read-only"), "{refused}");
        assert_eq!((kept(), stored.turned_on.clone()), (vec![], vec![]));

        turn_on(&mut stored, &store, Forwarding::Ipv4, || Ok(())).unwrap();
        turn_on(&mut stored, &store, Forwarding::Ipv4, || Ok(())).unwrap();
        assert_eq!((kept(), stored.turned_on.len()), (vec![Forwarding::Ipv4], 1));

        // What cannot be written down is not done.
        fs::remove_dir_all(&directory).unwrap();
        turn_on(&mut stored, &store, Forwarding::Ipv6, || panic!("done all the same")).unwrap_err();
        assert_eq!(stored.turned_on, [Forwarding::Ipv4]);
    }
}
