//! Carrying a plan out: set-up stops at the first failure and takes back what was done, teardown
//! goes on and collects what failed.

use greway_spec::TunnelSpec;

use crate::plan::Action;

/// What actions act on. One method, so that a test can stand in for the host and fail where it
/// likes.
pub trait System {
    /// Carries out one action.
    ///
    /// # Errors
    /// A sentence that names the object and the system's word; nothing of this action remains.
    fn execute(&mut self, action: &Action) -> Result<(), StepError>;
}

/// Why one action failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StepError(pub String);

/// Why a plan failed. What had been done before was taken back.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {cause}{}", Remains(left))]
pub struct ApplyError {
    /// The action that failed, in words.
    pub action: String,
    /// Why.
    pub cause: String,
    /// What could not be taken back, and why.
    pub left: Vec<String>,
}

struct Remains<'a>(&'a [String]);

impl std::fmt::Display for Remains<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str(" (everything before it was taken back)");
        }
        write!(f, "; not taken back: {}", self.0.join("; "))
    }
}

/// Carries out a plan that sets up or changes. `current` is the tunnel as it was before.
///
/// # Errors
/// [`ApplyError`] after the roll-back.
pub fn set_up(
    plan: &[Action],
    current: Option<&TunnelSpec>,
    system: &mut impl System,
) -> Result<(), ApplyError> {
    for (done, action) in plan.iter().enumerate() {
        if let Err(error) = system.execute(action) {
            let undone = plan[..done].iter().rev().filter_map(|action| inverse(action, current));
            let left = undone
                .filter_map(|inverse| {
                    let failed = system.execute(&inverse).err()?;
                    Some(format!("{inverse}: {failed}"))
                })
                .collect();
            return Err(ApplyError { action: action.to_string(), cause: error.0, left });
        }
    }
    Ok(())
}

/// Carries out a plan that removes; every action is tried, but what still has its device is not forgotten:
/// nobody would know whose it is.
pub fn tear_down(plan: &[Action], system: &mut impl System) -> Vec<String> {
    let mut failures = Vec::new();
    let mut stays = false;
    for action in plan {
        if stays && matches!(action, Action::Forget(_)) {
            continue;
        }
        if let Err(error) = system.execute(action) {
            stays |= matches!(action, Action::DeleteDevice(_));
            failures.push(format!("cannot {action}: {error}"));
        }
    }
    failures
}

/// What takes an action back; `None` where going back further takes it back too, as an address
/// goes with its device.
fn inverse(action: &Action, current: Option<&TunnelSpec>) -> Option<Action> {
    let existed = current.is_some();
    match action {
        Action::Remember(new) => Some(match current {
            Some(old) => Action::Remember(Box::new(old.clone())),
            None => Action::Forget(new.clone()),
        }),
        Action::CreateDevice { spec, .. } => Some(Action::DeleteDevice(spec.name.clone())),
        Action::StartDatapath(spec) => Some(Action::StopDatapath(spec.name.clone())),
        Action::UpdateDatapath(_) => current.map(|old| Action::UpdateDatapath(Box::new(old.clone()))),
        Action::SetMtu { name, mtu, was } => {
            Some(Action::SetMtu { name: name.clone(), mtu: *was, was: *mtu })
        }
        Action::AddAddress(name, address) => existed.then(|| Action::RemoveAddress(name.clone(), *address)),
        Action::RemoveAddress(name, address) => Some(Action::AddAddress(name.clone(), *address)),
        Action::AddRoute(name, route) => existed.then(|| Action::RemoveRoute(name.clone(), *route)),
        Action::RemoveRoute(name, route) => Some(Action::AddRoute(name.clone(), *route)),
        Action::AddNeighbour(name, new) => current.map(|current| {
            let before = current.inner.neighbours.iter().find(|before| before.address == new.address);
            match before {
                Some(before) => Action::AddNeighbour(name.clone(), *before),
                None => Action::RemoveNeighbour(name.clone(), *new),
            }
        }),
        Action::RemoveNeighbour(name, old) => Some(Action::AddNeighbour(name.clone(), *old)),
        Action::AddRule(name, rule) => Some(Action::RemoveRule(name.clone(), rule.clone())),
        Action::RemoveRule(name, rule) => Some(Action::AddRule(name.clone(), rule.clone())),
        Action::SetDown(name) => Some(Action::SetUp(name.clone())),
        Action::SetIpv6Mtu { name, mtu, was } => {
            let was = (*was)?;
            Some(Action::SetIpv6Mtu { name: name.clone(), mtu: was, was: Some(*mtu) })
        }
        Action::Forward(_, family) => Some(Action::StopForwarding(*family)),
        Action::InstallSnat(snat) => Some(Action::RemoveSnat(snat.clone())),
        Action::RemoveSnat(snat) => Some(Action::InstallSnat(snat.clone())),
        // A device that was down before an `up` that failed may stay up: it carried nothing new. A seal
        // that is put back belongs to the tunnel as it was.
        Action::SetUp(_)
        | Action::Seal(_)
        | Action::StopForwarding(_)
        | Action::StopDatapath(_)
        | Action::DeleteDevice(_)
        | Action::Forget(_) => None,
    }
}
