//! Taking over a pair of devices that somebody else made under a tunnel's names, to carry a tunnel by it.
//!
//! NetworkManager before 1.46 knows no device handler, but makes a veth pair itself for a profile of that type,
//! and takes it away again when the profile goes down. So the pair is its, and what is in it is ours: from
//! the claim on it is marked, sealed and carried as one that we made.
//!
//! Only a pair whose other end has the very name that our own would have is taken.

use std::time::Instant;

use greway_netlink::{Link, LinkChange, Netlink};
use greway_spec::TunnelSpec;

use super::device;
use super::host::{Host, done, with_causes};
use crate::api::Reply;
use crate::observe::Observed;
use crate::plan::{self, Action};
use crate::store::Stored;

impl Host {
    /// Carries `spec` by the pair that is there; one that is carried already is changed to it.
    pub(super) fn claim(&mut self, spec: TunnelSpec) -> Result<Reply, String> {
        if self.tunnels.contains_key(&spec.name) {
            return self.up(spec, false);
        }
        self.refuse(&spec)?;
        let link = pair(&self.netlink, &spec)?;
        let observed = Observed::read(&self.netlink, &spec, None).map_err(|error| error.to_string())?;
        let mtu = spec.mtu.unwrap_or_else(|| plan::default_mtu(&spec, observed.path_mtu));
        let carried = device::take(&self.netlink, &spec, &link, mtu)
            .map_err(|error| with_causes(&error))
            .and_then(|()| self.carry_claimed(&spec, link.index));
        if let Err(error) = carried {
            let _ = self.store.remove(&spec.name);
            // Without the mark it is its maker's again; the first error is the one that is told.
            let _ = self
                .netlink
                .change_link(link.index, &LinkChange { alias: Some(""), ..LinkChange::default() });
            if let Some(peer) = link.peer_index {
                let _ =
                    self.netlink.change_link(peer, &LinkChange { alias: Some(""), ..LinkChange::default() });
            }
            return Err(format!("{}: {error}", spec.name));
        }
        device::wait_until_running(&self.netlink, link.index, Instant::now() + device::PATIENCE);
        let actions = [Action::Remember(Box::new(spec.clone())), Action::StartDatapath(Box::new(spec))];
        Ok(done(&actions, Vec::new()))
    }

    fn carry_claimed(&mut self, spec: &TunnelSpec, index: u32) -> Result<(), String> {
        let stored = Stored { spec: spec.clone(), turned_on: Vec::new() };
        self.store
            .save(&stored)
            .map_err(|error| format!("the state directory cannot be written: {error}"))?;
        self.carry(stored, Some(index)).map_err(|error| with_causes(&error))
    }
}

/// The pair that has the names of the tunnel and of its data plane's end.
fn pair(netlink: &Netlink, spec: &TunnelSpec) -> Result<Link, String> {
    let name = &spec.name;
    let find =
        |found: Result<Option<Link>, greway_netlink::NetlinkError>| found.map_err(|error| error.to_string());
    let link = find(netlink.link_by_name(name.as_str()))?
        .ok_or_else(|| format!("{name}: there is no such device"))?;
    let wanted = device::peer_name(name);
    let peer = match link.peer_index.filter(|_| link.link_netns_id.is_none()) {
        Some(index) => find(netlink.link_by_index(index))?,
        None => None,
    };
    if link.kind.as_deref() == Some("veth") && peer.is_some_and(|peer| peer.name == wanted) {
        return Ok(link);
    }
    Err(format!("{name}: that device is not one end of a veth pair whose other end is {wanted}"))
}
