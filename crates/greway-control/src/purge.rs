//! What greway left in a network namespace that no daemon and no state file knows any more: devices and tables,
//! told by the mark that they were made with. Nothing is recognised by its name alone.

use greway_netlink::nftables::{Nftables, TableId};
use greway_netlink::{Link, Netlink, NetlinkError};

use crate::daemon::tables;
use crate::observe;

/// What there is of greway's in a network namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Devices: tunnels, and data plane's ends whose tunnel device is in another namespace.
    pub devices: Vec<Link>,
    /// Tables of nf_tables.
    pub tables: Vec<TableId>,
}

impl Orphans {
    /// Looks in the calling thread's network namespace. A kernel without nf_tables has no tables.
    ///
    /// # Errors
    /// The kernel's.
    pub fn find() -> Result<Self, NetlinkError> {
        let netlink = Netlink::open()?;
        let links = netlink.links()?;
        let ours = links.into_iter().filter(|link| observe::is_ours(&netlink, link)).collect::<Vec<_>>();
        // One end takes the other with it; the tunnel's is the one with a name that people know.
        let is_other_end = |link: &Link| {
            link.name.starts_with(crate::daemon::device::PEER_PREFIX)
                && link.link_netns_id.is_none()
                && ours.iter().any(|other| link.peer_index == Some(other.index))
        };
        let devices = ours.iter().filter(|link| !is_other_end(link)).cloned().collect();
        let tables = match Nftables::open().and_then(|nftables| nftables.tables()) {
            Ok(tables) => tables.into_iter().filter(tables::is_ours).map(|table| table.id).collect(),
            Err(error) if error.is_unsupported() => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { devices, tables })
    }

    /// Removes all of it, going on when something cannot be; gives what could not and why.
    pub fn remove(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if !self.devices.is_empty() {
            match Netlink::open() {
                Ok(netlink) => failures.extend(self.devices.iter().filter_map(|link| {
                    let deleted = netlink.delete_link(link.index);
                    let error = deleted.err().filter(|error| !error.is_not_found())?;
                    Some(format!("{}: {error}", link.name))
                })),
                Err(error) => failures.push(error.to_string()),
            }
        }
        if !self.tables.is_empty() {
            match Nftables::open() {
                Ok(nftables) => failures.extend(self.tables.iter().filter_map(|table| {
                    let error = nftables.delete_table(table).err()?;
                    Some(format!("table {table}: {error}"))
                })),
                Err(error) => failures.push(error.to_string()),
            }
        }
        failures
    }
}
