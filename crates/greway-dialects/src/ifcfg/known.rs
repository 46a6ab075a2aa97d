//! Which variables there are, so that a slip is told from a variable of somebody else's.

use crate::nearest::nearest;

/// The variables that make the tunnel what it is.
pub(super) const OURS: [&str; 20] = [
    "DEVICE",
    "TYPE",
    "MY_OUTER_IPADDR",
    "PEER_OUTER_IPADDR",
    "MY_INNER_IPADDR",
    "PEER_INNER_IPADDR",
    "KEY",
    "TTL",
    "MTU",
    "LINKSTATUS",
    "ONBOOT",
    "BOOTPROTO",
    "NOROUTESET",
    "IPV6INIT",
    "IPV6ADDR",
    "IPV6ADDR_SECONDARIES",
    "IPV6_MTU",
    "IPV6_DEFAULTGW",
    "IPV6_DEFAULTDEV",
    "STRICT_KEYS",
];

/// What the network-scripts ignore for a tunnel and we honour, with a word on it.
pub(super) const EXTENSIONS: [&str; 7] = ["IKEY", "OKEY", "TOS", "PMTUDISC", "CSUM", "SEQ", "PHYSDEV"];

/// What the network-scripts do for a tunnel beside these, and we do not.
const NOT_DONE: [&str; 11] = [
    "ZONE",
    "DNS1",
    "DNS2",
    "DNS3",
    "DOMAIN",
    "SEARCH",
    "IPV6FORWARDING",
    "IPV6_PRIVACY",
    "IPV6TO4INIT",
    "ETHTOOL_OPTS",
    "MACADDR",
];

/// What the network-scripts do not read for a tunnel, though it looks as if they would.
const NO_MEANING: [&str; 6] = ["IPADDR", "PREFIX", "NETMASK", "GATEWAY", "HWADDR", "BROADCAST"];

/// Legal in every such file, and nothing that changes a tunnel.
const UNRELATED: [&str; 36] = [
    "NAME",
    "UUID",
    "USERCTL",
    "USERS",
    "HOTPLUG",
    "NM_CONTROLLED",
    "PEERDNS",
    "PEERROUTES",
    "DEFROUTE",
    "ONPARENT",
    "METRIC",
    "NETWORK",
    "NETWORKING",
    "NETWORKING_IPV6",
    "HOSTNAME",
    "DEVTIMEOUT",
    "LINKDELAY",
    "STARTMODE",
    "SRCADDR",
    "SCOPE",
    "ARPCHECK",
    "ARPUPDATE",
    "ARP",
    "NOZEROCONF",
    "AUTOCONNECT_PRIORITY",
    "PROXY_METHOD",
    "BROWSER_ONLY",
    "DEVICETYPE",
    "REALDEVICE",
    "IPV4_FAILURE_FATAL",
    "IPV6_FAILURE_FATAL",
    "IPV6_AUTOCONF",
    "IPV6_ROUTER",
    "IPV6_DEFROUTE",
    "IPV6_PEERDNS",
    "IPV6_SET_SYSCTLS",
];

/// How a tunnel's own variables begin: what begins so and is none of them is a slip.
const PREFIXES: [&str; 5] = ["MY_", "PEER_", "TUNNEL", "GRE_", "IPV6ADDR_"];

/// Whether a variable has any say in what a tunnel is.
pub(super) fn is_read(name: &str) -> bool {
    OURS.contains(&name) || EXTENSIONS.contains(&name)
}

/// What is to be said of a variable of a tunnel's own file. `None`: nothing.
pub(super) fn remark(name: &str, value: &str) -> Option<String> {
    if EXTENSIONS.contains(&name) {
        return Some(format!("{name} is honoured here; the network-scripts ignore it for a tunnel"));
    }
    if OURS.contains(&name) || UNRELATED.contains(&name) || value.is_empty() {
        return None;
    }
    if NOT_DONE.contains(&name) {
        return Some(format!("{name} is not there yet and has no effect"));
    }
    if NO_MEANING.contains(&name) {
        return Some(format!(
            "{name} has no meaning for a tunnel and no effect, as with the network-scripts"
        ));
    }
    let near = nearest(name, &OURS).or_else(|| nearest(name, &EXTENSIONS));
    match near {
        Some(near) => Some(format!("unknown variable {name} has no effect; is {near} meant?")),
        None if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {
            Some(format!("unknown variable {name} has no effect"))
        }
        None => None,
    }
}
