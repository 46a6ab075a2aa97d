//! `ip neigh add ADDRESS lladdr ENDPOINT dev TUNNEL`: neighbours of a tunnel of ours without a remote.
//!
//! Our device has hardware addresses of Ethernet, so the endpoint is said as the one that stands for it; the rest of
//! the command stays, and the real tool carries it out.

use greway_dialects::iproute2::neigh;
use greway_engine::nbma;

use super::ours::Ours;
use super::{Call, Outcome};

/// Serves `ip neigh WORDS`.
pub(super) fn serve(call: &Call<'_>, words: &[String]) -> Outcome {
    let Some(found) = neigh::parse(words) else { return Outcome::Real };
    if !call.enter() {
        return Outcome::Real;
    }
    let ours = Ours::read();
    let is_ours = ours
        .find(found.dev)
        .is_some_and(|spec| spec.remote.is_none() && !spec.mode.over_ipv6() && !spec.mode.is_ethernet());
    if !is_ours {
        return Outcome::Real;
    }
    let [a, b, c, d, e, f] = nbma::link_address(found.endpoint.into());
    let link = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    let mut said = words.iter().map(String::as_str).collect::<Vec<_>>();
    said[found.endpoint_at] = &link;
    said.insert(0, "neighbour");
    call.carry_out(&said)
}
