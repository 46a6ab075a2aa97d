//! The device's MTU against the path's, as far as this host knows that: with the tunnel's headers a packet of
//! the device's MTU must fit.

use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let Some(device) = facts.device() else {
        return Outcome::NotLooked("the tunnel has no device here".to_owned());
    };
    let way = match &facts.host.way {
        Ok(Some(way)) => way,
        Ok(None) => return Outcome::NotLooked("the tunnel has no remote".to_owned()),
        Err(reason) => return Outcome::NotLooked(reason.clone()),
    };
    let Some(out) = facts.host.device_by_index(way.ifindex).filter(|out| !out.loopback) else {
        return Outcome::NotLooked("there is no way to the remote".to_owned());
    };
    if out.index == device.index {
        return Outcome::NotLooked("the way to the remote leads into the tunnel".to_owned());
    }
    let path = way.mtu.unwrap_or(out.mtu);
    let overhead = facts.spec.overhead();
    let fits = path.saturating_sub(overhead);
    // What may be fragmented outside passes, if slowly.
    let fragments = !facts.spec.pmtudisc && facts.spec.ignore_df;
    if device.mtu <= fits || fragments {
        return Outcome::Fine;
    }
    let name = &facts.spec.name;
    let said = match way.mtu {
        Some(mtu) => format!("the path to {} takes {mtu} bytes", facts.spec.far_end()),
        None => format!("{} takes {} bytes", out.name, out.mtu),
    };
    Some(
        Finding::hinders(
            "mtu-larger-than-path",
            format!(
                "{name} has MTU {}, and only {fits} fit through the path with the tunnel's headers",
                device.mtu
            ),
        )
        .seen(format!("{said}, of which the tunnel's headers are {overhead}"))
        .cure(format!("ip link set {} mtu {fits}", word(name.as_str()))),
    )
    .into()
}
