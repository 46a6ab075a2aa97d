//! How each action of a plan is carried out on the host.

use greway_engine::nbma;
use greway_netlink::{Address, IpPrefix, LinkChange, NetlinkError, Route};
use greway_spec::{DatapathChoice, DeviceName, InnerAddress, InnerNeighbour, InnerRoute, TunnelSpec};

use super::device::{self, DeviceError};
use super::fastpath;
use super::host::{Host, Live, with_causes};
use super::sealed_group;
use crate::apply::{StepError, System};
use crate::plan::Action;
use crate::rules;
use crate::store::Stored;
use crate::sysctl;

impl System for Host {
    fn execute(&mut self, action: &Action) -> Result<(), StepError> {
        match action {
            Action::Remember(spec) => self.store(spec),
            Action::CreateDevice { spec, mtu } => self.create_device(spec, *mtu),
            Action::StartDatapath(spec) => {
                Ok(self.carry(Stored { spec: (**spec).clone(), turned_on: Vec::new() }, None)?)
            }
            Action::UpdateDatapath(spec) => self.update(spec),
            Action::SetMtu { name, mtu, .. } => {
                let index = self.index_of(name)?;
                self.netlink.change_link(index, &LinkChange { mtu: Some(*mtu), ..LinkChange::default() })?;
                self.tell_mtu(name, *mtu);
                self.look_at_ends(name);
                Ok(())
            }
            Action::SetUp(name) => {
                let index = self.index_of(name)?;
                self.netlink.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
                self.wait_until_running(name, index);
                self.look_at_ends(name);
                Ok(())
            }
            Action::SetDown(name) => {
                let index = self.index_of(name)?;
                self.netlink.change_link(index, &LinkChange { up: Some(false), ..LinkChange::default() })?;
                self.look_at_ends(name);
                Ok(())
            }
            Action::SetIpv6Mtu { name, mtu, .. } => sysctl::set_ipv6_mtu(name, *mtu)
                .map_err(|error| StepError(format!("net.ipv6.conf.{name}.mtu cannot be {mtu}: {error}"))),
            Action::AddRule(_, rule) => match self.netlink.add_rule(&rules::to_wire(rule)) {
                // Of two tunnels with one rule the second finds it there.
                Err(error) if error.is_exists() => Ok(()),
                outcome => Ok(outcome?),
            },
            Action::RemoveRule(_, rule) => match self.netlink.delete_rule(&rules::to_wire(rule)) {
                Err(error) if error.is_not_found() => Ok(()),
                outcome => Ok(outcome?),
            },
            Action::AddAddress(name, address) => {
                Ok(self.netlink.add_address(self.index_of(name)?, wire_address(address))?)
            }
            Action::RemoveAddress(name, address) => {
                Ok(self.netlink.delete_address(self.index_of(name)?, wire_address(address))?)
            }
            Action::AddNeighbour(name, InnerNeighbour { address, endpoint }) => {
                let link = nbma::link_address(*endpoint);
                Ok(self.netlink.set_neighbour(self.index_of(name)?, *address, link)?)
            }
            Action::RemoveNeighbour(name, neighbour) => {
                match self.netlink.delete_neighbour(self.index_of(name)?, neighbour.address) {
                    Err(error) if error.is_not_found() => Ok(()),
                    outcome => Ok(outcome?),
                }
            }
            Action::AddRoute(name, route) => {
                let route = wire_route(route, self.index_of(name)?);
                // A next hop of the underlay is in none of the networks inside.
                let onlink = route.via.is_some() && self.tunnels.get(name).is_some_and(Live::has_no_remote);
                match self.netlink.add_route(&Route { onlink, ..route }) {
                    Err(error) if error.is_exists() => {
                        Err(StepError(format!("there is such a route by another way, which stays: {error}")))
                    }
                    added => Ok(added?),
                }
            }
            Action::RemoveRoute(name, route) => {
                match self.netlink.delete_route(&wire_route(route, self.index_of(name)?)) {
                    Err(error) if error.is_not_found() => Ok(()),
                    outcome => Ok(outcome?),
                }
            }
            Action::Seal(name) => {
                // As when it was made: a host that cannot goes on without.
                let sealed = self.seal(name);
                if let Some(live) = self.tunnels.get_mut(name) {
                    live.sealed = sealed;
                }
                Ok(())
            }
            Action::Forward(name, family) => self.forward(name, *family),
            Action::StopForwarding(family) => self.stop_forwarding(*family),
            Action::InstallSnat(rule) => self.install_snat(rule),
            Action::RemoveSnat(rule) => self.remove_snat(&rule.name),
            Action::StopDatapath(name) => {
                self.let_through_of([name]);
                let unsealed = self.unseal(name);
                self.fast.forget(self.tunnels.get(name).and_then(|live| live.peer));
                match self.datapath.remove(name) {
                    // A tunnel that never came to be carried is not carried now either.
                    Err(greway_datapath::DatapathError::Unknown(_)) => {}
                    outcome => outcome.map_err(|error| StepError(with_causes(&error)))?,
                }
                Ok(unsealed?)
            }
            Action::DeleteDevice(name) => {
                let deleted = match self.tunnels.get(name) {
                    Some(live) => device::delete_known(&self.netlink, name, live.index, live.peer),
                    None => device::delete(&self.netlink, name),
                };
                Ok(deleted?)
            }
            Action::Forget(spec) => self.forget(spec),
        }
    }
}

impl Host {
    fn create_device(&mut self, spec: &TunnelSpec, mtu: u32) -> Result<(), StepError> {
        let sealed_with_others = self.group_sealed && spec.datapath == DatapathChoice::Userspace;
        let group = sealed_with_others.then_some(sealed_group::GROUP);
        let made = device::create(&self.netlink, spec, mtu, group)?;
        self.coming.made = made.map(|device| (spec.name.clone(), device));
        Ok(())
    }

    fn update(&mut self, spec: &TunnelSpec) -> Result<(), StepError> {
        // Whether a program is there counts for the decision too.
        self.rules.unheeded = true;
        let bound_to = self.bound_to(spec)?;
        let refused = |error: greway_datapath::DatapathError| StepError(with_causes(&error));
        self.let_through_of([&spec.name]);
        self.datapath.change(spec, bound_to).map_err(refused)?;
        self.attach_later(spec);
        let attached = self.tunnels.get(&spec.name).is_some_and(|live| live.attached);
        let decision = self.rules.decide(spec, fastpath::is_for_programs(spec, attached));
        self.datapath.receive_by(&spec.name, decision.receive).map_err(refused)?;
        if let Some(live) = self.tunnels.get_mut(&spec.name) {
            live.decision = decision;
            live.bound_to = bound_to;
            // The data plane has forgotten it with what the tunnel was.
            (live.exit, live.exit_by) = (None, None);
            device::tell(&self.netlink, live.index, spec)?;
        }
        self.note_identity(spec);
        if self.put_off(&spec.name) {
            return Ok(());
        }
        self.keep_peers_quiet(None);
        self.look_at_place(&spec.name);
        Ok(())
    }

    fn index_of(&self, name: &DeviceName) -> Result<u32, StepError> {
        // The device of a tunnel that is carried is known, whatever its name is by now.
        if let Some(live) = self.tunnels.get(name) {
            return Ok(live.index);
        }
        match self.netlink.link_by_name(name.as_str())? {
            Some(link) => Ok(link.index),
            None => Err(StepError(format!("{name} is gone"))),
        }
    }

    fn store(&mut self, spec: &TunnelSpec) -> Result<(), StepError> {
        let turned_on = self.tunnels.get(&spec.name).map(|live| live.stored.turned_on.clone());
        let stored = Stored { spec: spec.clone(), turned_on: turned_on.unwrap_or_default() };
        self.store
            .save(&stored)
            .map_err(|error| StepError(format!("the state directory cannot be written: {error}")))?;
        if let Some(live) = self.tunnels.get_mut(&spec.name) {
            live.stored = stored;
        }
        Ok(())
    }

    fn forget(&mut self, spec: &TunnelSpec) -> Result<(), StepError> {
        self.hand_over_forwarding(&spec.name);
        self.no_longer_as_seen(&spec.name);
        self.tunnels.remove(&spec.name);
        if !self.put_off(&spec.name) {
            self.keep_peers_quiet(None);
            self.keep_group_seal(None);
            self.follow_fast_path();
        }
        self.counted.remember(spec, self.store.sequence(&spec.name));
        self.store.remove(&spec.name).map_err(|error| StepError(error.to_string()))
    }
}

impl From<NetlinkError> for StepError {
    fn from(error: NetlinkError) -> Self {
        Self(error.to_string())
    }
}

impl From<DeviceError> for StepError {
    fn from(error: DeviceError) -> Self {
        Self(with_causes(&error))
    }
}

fn wire_address(address: &InnerAddress) -> Address {
    Address { local: address.local, peer: address.peer, prefix_length: address.prefix_length }
}

pub(super) fn wire_route(route: &InnerRoute, index: u32) -> Route {
    let InnerRoute { destination, via, metric, table, source } = *route;
    let prefix = IpPrefix { address: destination.address, length: destination.length };
    let table = table.unwrap_or(greway_netlink::table::MAIN);
    Route { via, metric, table, source, ..Route::on_link(prefix, index) }
}
