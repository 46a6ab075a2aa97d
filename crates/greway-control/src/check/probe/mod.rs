//! What is sent and listened for: never more than a ping and a traceroute would, only through the tunnel and
//! to its configured remote, each step with a time of its own and all of them under the deadline of the check.
//!
//! ```text
//!   0 ms   two echoes to the inner peer, sockets listening on the wire
//!   answered: sizes, onward and ways back at once     at most 0.9 s more
//!   silent after 1 s: twin, the way hop by hop        at most 1.6 s more
//! ```

mod crafted;
mod inside;
mod listen;
mod outside;

use std::time::Duration;

use greway_netlink::Netlink;

use super::deadline::{Deadline, NO_TIME};
use super::facts::{Echo, HostFacts, Probes, Seen, Wire};
use super::observe::counter;
use greway_spec::TunnelSpec;
use std::net::IpAddr;

use inside::Inside;
use listen::Listener;

/// How long an answer may take that decides whether the tunnel is silent.
const SILENCE: Duration = Duration::from_millis(1000);

/// What is to be probed.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The tunnel.
    pub spec: &'a TunnelSpec,
    /// The host as it was read.
    pub host: &'a HostFacts,
    /// A host behind the far end that the user named.
    pub destination: Option<IpAddr>,
    /// When all of it has to be over.
    pub deadline: Deadline,
}

impl Probes {
    /// No probe was made, and why not.
    pub fn none(reason: &str) -> Self {
        fn none<T>(reason: &str) -> Seen<T> {
            Err(reason.to_owned())
        }
        Self {
            echo: none(reason),
            wire: none(reason),
            trace: none(reason),
            sizes: none(reason),
            far_forwarding: none(reason),
            ways_back: none(reason),
            destination: None,
            twin: none(reason),
            reverse_path_drops: none(reason),
            not_forwarded: none(reason),
        }
    }
}

/// Makes all probes that make sense. Takes up to three seconds; an answer of the peer makes it shorter.
pub fn run(plan: &Plan<'_>) -> Probes {
    let (spec, host) = (plan.spec, plan.host);
    let Some(device) = host.device(spec.name.as_str()) else {
        return Probes::none("the tunnel has no device here");
    };
    let Some(remote) = spec.remote.filter(|remote| !remote.is_multicast()) else {
        return Probes::none("only a tunnel to one remote is probed");
    };
    if plan.deadline.is_over() {
        return Probes::none(NO_TIME);
    }
    let mut listener = match Listener::open(device.index, remote, plan.deadline) {
        Ok(listener) => listener,
        Err(error) => return Probes::none(&format!("packets cannot be listened to: {error}")),
    };
    let reverse_path = || counter("netstat", "TcpExt", "IPReversePathFilter");
    let not_forwarded = || counter("snmp", "Ip", "InAddrErrors");
    let since = |before: Seen<u64>, after: Seen<u64>| Ok(after?.saturating_sub(before?));
    let (reverse_path_before, not_forwarded_before) = (reverse_path(), not_forwarded());
    let mut probes = Probes::none("the tunnel answers");
    probes.echo = Err("no inner peer address is known".to_owned());

    let peer = host.peers.iter().find(|peer| {
        // A peer whose way leads elsewhere is another host's business.
        peer.way.is_some_and(|way| way.ifindex == device.index)
    });
    let mut answered = false;
    if let Some(peer) = peer.filter(|_| device.up) {
        let echo = listener.in_time(|heard| Inside::new(device, heard).echo(peer, SILENCE));
        answered = echo.as_ref().is_ok_and(|echo| echo.answered > 0);
        let asked = echo.is_ok();
        probes.echo = echo;
        // Before the probes that the host itself is to drop.
        probes.reverse_path_drops = since(reverse_path_before, reverse_path());
        probes.not_forwarded = since(not_forwarded_before, not_forwarded());
        if answered {
            probes.sizes = listener.in_time(|heard| Inside::new(device, heard).sizes(peer, device.mtu));
            probes.ways_back = listener.in_time(|heard| Inside::new(device, heard).ways_back(host, peer));
            probes.far_forwarding =
                listener.in_time(|heard| crafted::onward(spec, host, device, peer, heard));
        } else {
            let silent = if asked { "the inner peer does not answer" } else { NO_TIME };
            probes.sizes = Err(silent.to_owned());
            probes.far_forwarding = Err(silent.to_owned());
            probes.ways_back = Err(silent.to_owned());
            probes.twin = listener.in_time(|heard| crafted::twin(device, peer, heard));
        }
    } else {
        let nobody = || "nobody inside the tunnel is known to be asked".to_owned();
        probes.sizes = Err(nobody());
        probes.far_forwarding = Err(nobody());
        probes.ways_back = Err(nobody());
        probes.twin = Err(nobody());
    }
    probes.destination = plan.destination.map(|address| {
        let netlink = Netlink::open().map_err(|error| error.to_string())?;
        listener.in_time(|heard| Inside::new(device, heard).destination(&netlink, address))
    });
    if !answered {
        probes.trace = listener.in_time(|heard| outside::trace(spec, remote, heard));
    }
    listener.collect(Duration::ZERO, |_| false);
    probes.wire = Ok(Wire { packets: listener.wire.clone(), errors: listener.errors.clone() });
    probes
}

/// The echo of a check that may not listen: what the daemon's own said.
pub fn echo_of_status(tunnel: &crate::status::TunnelStatus) -> Seen<Echo> {
    let peer = tunnel.peer.as_ref().ok_or("no inner peer address is known")?;
    let answers = peer.answers.ok_or("the daemon did not ask the inner peer")?;
    let address = peer.address.parse().ok();
    Ok(Echo { peer: address, sent: 1, answered: u32::from(answers), errors: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::check::deadline;
    use crate::check::diagnosis::tests::facts;
    use crate::check::facts::Device;
    use crate::check::{LookState, diagnose};

    /// Without privileges too: a socket is not even opened.
    #[test]
    fn with_no_time_left_no_probe_is_made_and_every_look_says_so() {
        let mut facts = facts();
        let device = Device { index: 7, name: "tun0".to_owned(), up: true, ..Device::default() };
        facts.host.devices = Arc::new(vec![device]);
        let plan =
            Plan { spec: &facts.spec, host: &facts.host, destination: None, deadline: deadline::over() };
        facts.probes = run(&plan);
        let checked = diagnose(&facts);
        for id in ["black-hole", "far-forwarding", "way-back", "underlay-reverse-path"] {
            let look = checked.looks.iter().find(|look| look.id == id).unwrap();
            assert_eq!(look.state, LookState::NotLooked, "{look:?}");
            assert_eq!(look.reason.as_deref(), Some(NO_TIME), "{look:?}");
        }
        // That nobody was asked is no silence.
        let silent = checked.findings.iter().find(|finding| finding.id == "far-end-silent");
        assert_eq!(silent, None);
    }
}
