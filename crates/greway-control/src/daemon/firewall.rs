//! Which sockets a tunnel's packets may take, so that the host's rules hold for them.
//!
//! A packet socket sees packets before INPUT and PREROUTING. So the short path is open only while
//! no such rules can exist: no base chain on those hooks, no iptables-legacy table, no IPsec policy
//! that covers the outer flow. What is sent always takes the kernel's whole way.

use greway_datapath::Receive;
use greway_netlink::nftables::{BaseChain, Family, Hook};
use greway_netlink::xfrm::XfrmPolicy;
use greway_spec::{FirewallPolicy, TunnelSpec, UnderlayChoice};

/// Tables that greway makes itself; they match payload packets only.
pub(super) const OUR_TABLES: &str = "greway-";

/// What on this host decides over packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) chains: Vec<BaseChain>,
    pub(super) legacy: Vec<String>,
    pub(super) policies: Vec<XfrmPolicy>,
}

/// How a tunnel receives, and why so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) receive: Receive,
    pub(super) why: String,
}

impl Rules {
    /// Decides for one tunnel.
    pub(super) fn decide(&self, spec: &TunnelSpec) -> Decision {
        let raw = |why: String| Decision { receive: Receive::Raw, why };
        let packet = |why: &str| Decision { receive: Receive::Packet, why: why.to_owned() };
        if let Some(policy) = self.policies.iter().find(|policy| covers(policy, spec)) {
            return raw(format!(
                "an IPsec policy covers the way to {} ({} to {})",
                spec.remote, policy.source, policy.destination
            ));
        }
        match (spec.underlay, spec.firewall) {
            (UnderlayChoice::Packet, _) => packet("asked for; INPUT rules are passed by"),
            (UnderlayChoice::Raw, _) => raw("asked for".to_owned()),
            (UnderlayChoice::Auto, FirewallPolicy::Bypass) => packet("firewall bypass was asked for"),
            (UnderlayChoice::Auto, FirewallPolicy::Honour) => match self.filtering() {
                Some(what) => raw(format!("{what} may filter GRE, and holds for it")),
                None => packet("no firewall rule or IPsec policy on the way"),
            },
        }
    }

    /// What may filter what comes in.
    fn filtering(&self) -> Option<String> {
        let chain = self.chains.iter().find(|chain| {
            !chain.table.name.starts_with(OUR_TABLES)
                && matches!(chain.table.family, Family::Ip | Family::Inet)
                && matches!(chain.hook, Hook::Prerouting | Hook::Input | Hook::Output | Hook::Postrouting)
        });
        match chain {
            Some(chain) => Some(format!("nftables chain {} {}", chain.table, chain.name)),
            None => self.legacy.first().map(|table| format!("iptables-legacy table {table}")),
        }
    }
}

fn covers(policy: &XfrmPolicy, spec: &TunnelSpec) -> bool {
    const GRE: u8 = 47;
    let protocol = matches!(policy.protocol, 0 | GRE);
    let end = |prefix: &greway_netlink::IpPrefix, address: Option<std::net::Ipv4Addr>| {
        address.is_none_or(|address| prefix.contains(address.into()))
    };
    let remote = Some(spec.remote);
    let out = end(&policy.source, spec.local) && end(&policy.destination, remote);
    let back = end(&policy.source, remote) && end(&policy.destination, spec.local);
    protocol && (out || back)
}
