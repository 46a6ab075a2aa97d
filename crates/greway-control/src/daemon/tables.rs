//! A tunnel's nf_tables tables: the seal of the data plane's end, and the translation that its file asks for.
//!
//! They are ours, and a tunnel without them does not do what it was told, so they are put back where somebody
//! removed them with everything else (`nft flush ruleset`, a firewall service that starts anew). Nobody else's
//! table is touched.

use std::collections::{HashMap, HashSet};

use greway_netlink::nftables::{
    Change, Family, Nftables, Snat as SnatRule, Table, TableId, ingress_drop, snat,
};
use greway_netlink::{IpPrefix, NetlinkError};
use greway_spec::{DeviceName, TunnelSpec};

use super::device;
use super::host::Host;
use crate::apply::StepError;
use crate::plan::{self, Snat};

/// What the comments of our tables begin with. Kernels before 5.10 keep none.
const MARK: &str = "greway: ";

/// Tables in one transaction. The kernel acknowledges each by itself, and a socket's buffer has room for some hundred.
const AT_ONCE: usize = 64;

/// Keeps the host's stack from what comes out of the tunnel: the data plane's tap has it already,
/// and a multicast or broadcast would else arrive here as well as at the far end. Unicast packets
/// are safe without, since their link-layer destination is not the peer end's; so a host without
/// nf_tables goes on.
fn seal(nftables: &Nftables, name: &DeviceName) -> Result<(), NetlinkError> {
    let comment = format!("{MARK}for the data plane only");
    nftables.apply(&ingress_drop(&device::table(name), &device::peer_name(name), 0, Some(&comment)))
}

/// Whether greway made a table.
pub(crate) fn is_ours(table: &Table) -> bool {
    table.id.name.starts_with(device::TABLE_PREFIX)
        && matches!(table.id.family, Family::Ip | Family::Netdev | Family::Inet)
        && table.comment.as_deref().is_some_and(|comment| comment.starts_with(MARK))
}

/// Removes a table with all that is in it, if it is there.
fn remove(nftables: &Nftables, family: Family, name: &DeviceName) -> Result<(), NetlinkError> {
    nftables.delete_table(&TableId::new(family, device::table(name))).map(drop)
}

/// The names of all tables that greway made.
pub(super) fn all_of_ours(nftables: Option<&Nftables>) -> HashSet<String> {
    let tables = nftables.and_then(|nftables| nftables.tables().ok()).unwrap_or_default();
    tables.into_iter().filter(is_ours).map(|table| table.id.name).collect()
}

impl Host {
    /// Seals the data plane's end of a tunnel's pair. Says whether it is: a host that cannot carries on.
    pub(super) fn seal(&self, name: &DeviceName) -> bool {
        let Some(nftables) = &self.nftables else { return false };
        let sealed = seal(nftables, name);
        if let Err(error) = &sealed {
            tracing::warn!(tunnel = %name, %error, "multicast out of the tunnel is seen by this host too");
        }
        sealed.is_ok()
    }

    pub(super) fn unseal(&self, name: &DeviceName) -> Result<(), NetlinkError> {
        self.nftables.as_ref().map_or(Ok(()), |nftables| remove(nftables, Family::Netdev, name))
    }

    pub(super) fn install_snat(&self, rule: &Snat) -> Result<(), StepError> {
        let changes = snat(&SnatRule {
            table: device::table(&rule.name),
            comment: Some(format!("{MARK}snat of {}", rule.name)),
            from: IpPrefix::host(rule.peer.into()),
            except_oif: rule.name.to_string(),
            to: rule.to.into(),
        });
        let changes =
            changes.ok_or_else(|| StepError("the addresses are of different families".to_owned()))?;
        Ok(self.nftables()?.apply(&changes)?)
    }

    pub(super) fn remove_snat(&self, name: &DeviceName) -> Result<(), StepError> {
        Ok(remove(self.nftables()?, Family::Ip, name)?)
    }

    fn nftables(&self) -> Result<&Nftables, StepError> {
        self.nftables.as_ref().ok_or_else(|| StepError("this kernel has no nf_tables".to_owned()))
    }

    /// Takes the seals of several tunnels away in one step: one by one each takes the kernel some 20 ms. Tells whose
    /// could not be, and why.
    pub(super) fn unseal_these(&self, names: &[DeviceName]) -> HashMap<DeviceName, String> {
        let is_sealed = |name: &&DeviceName| {
            self.tunnels.get(name).is_some_and(|live| live.sealed) || self.rules.may_be_sealed(name)
        };
        let sealed = names.iter().filter(is_sealed).collect::<Vec<_>>();
        let table = |name: &&DeviceName| TableId::new(Family::Netdev, device::table(name));
        let Some(nftables) = &self.nftables else { return HashMap::new() };
        let mut failed = HashMap::new();
        for some in sealed.chunks(AT_ONCE) {
            let all = some.iter().map(table).map(Change::DeleteTable).collect::<Vec<_>>();
            // One of them that is not there spoils it for all.
            if nftables.apply(&all).is_err() {
                let alone =
                    |name: &&DeviceName| Some(((*name).clone(), self.unseal(name).err()?.to_string()));
                failed.extend(some.iter().copied().filter_map(|name| alone(&name)));
            }
        }
        failed
    }

    pub(super) fn marked_tables(&self, name: &DeviceName) -> Vec<TableId> {
        let Some(Ok(tables)) = self.nftables.as_ref().map(Nftables::tables) else { return Vec::new() };
        let ours = tables.into_iter().filter(|table| table.id.name == device::table(name) && is_ours(table));
        ours.map(|table| table.id).collect()
    }

    /// Removes the tables of a tunnel that is not carried; `spec` is what is known of it. Tells what failed.
    pub(super) fn remove_tables(&self, name: &DeviceName, spec: Option<&TunnelSpec>) -> Vec<String> {
        let Some(nftables) = &self.nftables else { return Vec::new() };
        let mut tables = self.marked_tables(name);
        if spec.is_some() {
            tables.push(TableId::new(Family::Netdev, device::table(name)));
        }
        if spec.and_then(plan::snat_of).is_some() {
            tables.push(TableId::new(Family::Ip, device::table(name)));
        }
        let failures = tables.iter().filter_map(|table| nftables.delete_table(table).err());
        failures.map(|error| error.to_string()).collect()
    }

    /// Puts back what is missing of the tables of carried tunnels, by the chains that were just read.
    pub(super) fn put_back_tables(&mut self) {
        let chains = self.rules.chains.clone().unwrap_or_default();
        self.keep_peers_quiet(Some(&chains));
        self.keep_group_seal(Some(self.rules.tables.seal_of_many()));
        for name in self.tunnels.keys().cloned().collect::<Vec<_>>() {
            let Some(live) = self.tunnels.get(&name) else { continue };
            let mut trouble = None;
            // What this kernel refused to seal is not tried again.
            if live.sealed
                && !self.rules.tables.seal(&name)
                && let Some(nftables) = &self.nftables
            {
                match seal(nftables, &name) {
                    Ok(()) => tracing::warn!(tunnel = %name, "its seal was removed by somebody and put back"),
                    Err(error) => {
                        trouble = Some(format!("the seal of the data plane's end is gone: {error}"))
                    }
                }
            }
            if let Some(rule) = plan::snat_of(live.spec())
                && !self.rules.tables.translate(&name)
            {
                match self.install_snat(&rule) {
                    Ok(()) => tracing::warn!(tunnel = %name, "its snat was removed by somebody and put back"),
                    Err(error) => trouble = Some(format!("snat is not in force: {error}")),
                }
            }
            let Some(live) = self.tunnels.get_mut(&name) else { continue };
            if let Some(trouble) = trouble.as_ref().filter(|trouble| live.trouble.as_ref() != Some(trouble)) {
                tracing::error!(tunnel = %name, trouble, "a table cannot be put back");
            }
            // It is tried again with the next look.
            self.rules.unheeded |= trouble.is_some();
            live.trouble = trouble;
        }
    }
}
