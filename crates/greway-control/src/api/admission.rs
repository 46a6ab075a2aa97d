//! How many may talk to the daemon at a time.
//!
//! Everyone on the host may connect, and each connection costs a descriptor and a thread that the
//! tunnels could be short of. So no user has them all, and all users together leave some for root.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections at a time.
pub(crate) const MOST: usize = 64;

/// Of these, those of one user without privilege.
pub(crate) const MOST_OF_ONE: usize = 16;

/// Of these, those of all users without privilege: whoever has come with many users must not keep
/// root away.
pub(crate) const MOST_UNPRIVILEGED: usize = 48;

/// Who talks to the daemon.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    privileged: usize,
    /// By uid.
    unprivileged: BTreeMap<u32, usize>,
}

/// The right to one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    uid: u32,
    privileged: bool,
}

impl Admission {
    /// Lets one more in; the error is a sentence for people.
    pub(crate) fn admit(self: &Arc<Self>, uid: u32, privileged: bool) -> Result<Admitted, String> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let unprivileged = present.unprivileged.values().sum::<usize>();
        if unprivileged + present.privileged >= MOST || (!privileged && unprivileged >= MOST_UNPRIVILEGED) {
            return Err("too many connections to the greway daemon are open: try again".to_owned());
        }
        if privileged {
            present.privileged += 1;
        } else {
            let of_one = present.unprivileged.entry(uid).or_default();
            if *of_one >= MOST_OF_ONE {
                return Err(format!(
                    "uid {uid} has {MOST_OF_ONE} connections to the greway daemon open, and more it may not have"
                ));
            }
            *of_one += 1;
        }
        Ok(Admitted { admission: Arc::clone(self), uid, privileged })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut present = self.admission.present.lock().unwrap_or_else(PoisonError::into_inner);
        if self.privileged {
            present.privileged -= 1;
        } else if let Some(of_one) = present.unprivileged.get_mut(&self.uid) {
            *of_one -= 1;
            if *of_one == 0 {
                present.unprivileged.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_has_all_and_all_users_leave_some_for_root() {
        let admission = Arc::new(Admission::default());
        let mut held = Vec::new();
        for uid in 1..=3 {
            held.extend((0..MOST_OF_ONE).map(|_| admission.admit(uid, false).unwrap()));
            assert!(admission.admit(uid, false).is_err());
        }
        assert!(admission.admit(4, false).unwrap_err().contains("too many"));
        held.extend((held.len()..MOST).map(|_| admission.admit(0, true).unwrap()));
        assert!(admission.admit(0, true).is_err());
        held.remove(0);
        drop(admission.admit(1, false).unwrap());
        drop(held);
        assert!(admission.present.lock().unwrap().unprivileged.is_empty());
        admission.admit(4, false).unwrap();
    }
}
