//! Reading the host as a check needs it. Nothing is sent and nothing is changed; what takes a privilege that
//! the caller has not is [`Seen`]'s other half.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use greway_netlink::nftables::{BaseChain, Nftables};
use greway_netlink::{
    Connection, Netlink, NetlinkError, RouteKind, RouteOptions, connections, xfrm, xtables_legacy_tables,
};
use greway_spec::{InnerAddress, TunnelSpec};

use super::facts::{Device, HostFacts, InnerPeer, Ipsec, KernelGre, Seen};
use super::ruleset::{self, Ruleset};
use crate::daemon::{early_drop, injection, sealed_group};
use crate::sysctl::{self, Forwarding};

/// More tracked connections than this are not gone through: it would take seconds.
const MOST_CONNECTIONS: u64 = 20_000;

/// What is the same for every tunnel of the host, read once for all of them.
#[derive(Debug)]
pub struct HostReader {
    devices: Arc<Vec<Device>>,
    forwards_v4: bool,
    forwards_v6: bool,
    reverse_path: Arc<BTreeMap<String, u32>>,
    ruleset: Seen<Arc<Ruleset>>,
    ipsec: Seen<Arc<Ipsec>>,
    ip6tables_legacy: bool,
    kernel_gre: Arc<KernelGre>,
    connections: Seen<Arc<Vec<Connection>>>,
}

impl HostReader {
    /// Reads the host in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel does not say what everybody may ask: devices and addresses.
    pub fn read(netlink: &Netlink) -> Result<Self, NetlinkError> {
        let devices = devices(netlink)?;
        let reverse_path = devices
            .iter()
            .map(|device| (device.name.clone(), sysctl::reverse_path_filter(&device.name)))
            .collect::<BTreeMap<_, _>>();
        Ok(Self {
            forwards_v4: sysctl::forwarding(Forwarding::Ipv4),
            forwards_v6: sysctl::forwarding(Forwarding::Ipv6),
            reverse_path: Arc::new(reverse_path),
            ruleset: ruleset().map(Arc::new),
            ipsec: ipsec().map(Arc::new),
            ip6tables_legacy: ip6tables_legacy(),
            kernel_gre: Arc::new(KernelGre {
                module: Path::new("/sys/module/ip_gre").exists(),
                module_v6: Path::new("/sys/module/ip6_gre").exists(),
                tunnels: netlink.kernel_tunnels().unwrap_or_default(),
            }),
            connections: connections(MOST_CONNECTIONS).map(Arc::new).map_err(|error| error.to_string()),
            devices: Arc::new(devices),
        })
    }

    /// The host as a tunnel meets it.
    ///
    /// # Errors
    /// As [`HostReader::read`], of routes.
    pub fn facts(&self, netlink: &Netlink, spec: &TunnelSpec) -> Result<HostFacts, NetlinkError> {
        let devices = &self.devices;
        let device = devices.iter().find(|device| device.name == spec.name.as_str());
        let here = spec.local.filter(|local| has(devices, *local));
        let oif = spec.dev.as_ref().and_then(|dev| devices.iter().find(|device| device.name == dev.as_str()));
        let mark = Some(spec.fwmark).filter(|mark| *mark != 0);
        let options = RouteOptions { source: here, mark, oif: oif.map(|device| device.index) };
        let way = spec.remote.map(|remote| netlink.route_to(remote, &options)).transpose();
        let free = RouteOptions { source: None, ..options };
        let free_way = spec.remote.and_then(|remote| netlink.route_to(remote, &free).ok());
        Ok(HostFacts {
            way: way.map_err(|error| error.to_string()),
            free_way,
            peers: device.map(|device| peers(netlink, device)).unwrap_or_default(),
            routes: match device {
                Some(device) => crate::routes::through(netlink, device.index)?,
                None => Vec::new(),
            },
            devices: self.devices.clone(),
            forwards_v4: self.forwards_v4,
            forwards_v6: self.forwards_v6,
            reverse_path: self.reverse_path.clone(),
            ruleset: self.ruleset.clone(),
            ipsec: self.ipsec.clone(),
            ip6tables_legacy: self.ip6tables_legacy,
            kernel_gre: self.kernel_gre.clone(),
            connections: self.connections.clone(),
        })
    }
}

fn devices(netlink: &Netlink) -> Result<Vec<Device>, NetlinkError> {
    let entries = netlink.addresses(None)?;
    let links = netlink.links()?;
    let device = |link: greway_netlink::Link| {
        let own = entries.iter().filter(|entry| entry.index == link.index);
        let addresses = own.map(|entry| InnerAddress {
            local: entry.address.local,
            peer: entry.address.peer,
            prefix_length: entry.address.prefix_length,
        });
        Device {
            index: link.index,
            up: link.up,
            running: link.operational(),
            mtu: link.mtu,
            loopback: link.loopback(),
            mac: link.address,
            addresses: addresses.collect(),
            name: link.name,
            kind: link.kind,
        }
    };
    Ok(links.into_iter().map(device).collect())
}

fn has(devices: &[Device], address: std::net::IpAddr) -> bool {
    devices.iter().any(|device| device.addresses.iter().any(|own| own.local == address))
}

fn peers(netlink: &Netlink, device: &Device) -> Vec<InnerPeer> {
    let told = device.addresses.iter().filter_map(|own| Some((*own, crate::peer::of_address(own)?)));
    told.map(|(own, address)| {
        let way = netlink.route_to(address, &RouteOptions::default()).ok();
        let way = way.filter(|way| matches!(way.kind, RouteKind::Unicast | RouteKind::Local));
        InnerPeer { own, address, way }
    })
    .collect()
}

/// The packet filter, nf_tables and legacy.
pub fn ruleset() -> Seen<Ruleset> {
    let mut ruleset = match Nftables::open().and_then(|nftables| nftables.ruleset()) {
        Ok(mut read) => {
            // It looks at the data plane's ends of pairs, which no delivery packet comes in by.
            // And what is dropped because it has been taken is not refused.
            let is_ours = |chain: &BaseChain| {
                sealed_group::is_ours(chain) || early_drop::is_ours(chain) || injection::is_ours(chain)
            };
            read.chains.retain(|chain| !chain.base.as_ref().is_some_and(is_ours));
            Ruleset::of_nft(read)
        }
        Err(error) if error.is_unsupported() => Ruleset::default(),
        Err(error) => return Err(error.to_string()),
    };
    let tables = xtables_legacy_tables().map_err(|error| format!("iptables-legacy: {error}"))?;
    for table in tables {
        match greway_linux::xtables::read(&table) {
            Ok(read) => match ruleset::parse_legacy(&table, &read) {
                Some(chains) => ruleset.chains.extend(chains),
                None => return Err(format!("iptables-legacy table {table} is not as this greway knows it")),
            },
            // A table of IPv6 alone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("iptables-legacy table {table}: {error}")),
        }
    }
    Ok(ruleset)
}

/// Whether there are tables of ip6tables-legacy. Not /proc/net, which is the namespace of the process's first thread.
fn ip6tables_legacy() -> bool {
    let names = fs::read_to_string("/proc/thread-self/net/ip6_tables_names");
    names.is_ok_and(|names| !names.trim().is_empty())
}

fn ipsec() -> Seen<Ipsec> {
    let policies = xfrm::policies().map_err(|error| error.to_string())?;
    let states = match policies.is_empty() {
        true => Vec::new(),
        false => xfrm::states().map_err(|error| error.to_string())?,
    };
    Ok(Ipsec { policies, states })
}

/// A counter of /proc/thread-self/net/netstat or snmp: a line of names and a line of numbers for each group.
pub fn counter(file: &str, group: &str, name: &str) -> Seen<u64> {
    let path = format!("/proc/thread-self/net/{file}");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    parse_counter(&text, group, name).ok_or_else(|| format!("{path} has no {name}"))
}

fn parse_counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|word| word == name)?;
    numbers.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_group_and_name() {
        let text = "TcpExt: A IPReversePathFilter\nTcpExt: 1 7\nIpExt: IPReversePathFilter\nIpExt: 9\n";
        assert_eq!(parse_counter(text, "TcpExt", "IPReversePathFilter"), Some(7));
        assert_eq!(parse_counter(text, "IpExt", "IPReversePathFilter"), Some(9));
        assert_eq!(parse_counter(text, "TcpExt", "B"), None);
        assert_eq!(parse_counter("TcpExt: A", "TcpExt", "A"), None);
    }
}
