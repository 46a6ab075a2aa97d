//! Which sockets a tunnel's packets may take, so that the host's rules hold for them.
//!
//! A packet socket sees packets before INPUT and PREROUTING, and sends behind OUTPUT and POSTROUTING. So the short path
//! is open only while no such rules can exist: no base chain on those hooks, no iptables-legacy table, no IPsec policy
//! that covers the outer flow; and only where it is worth it: of a tunnel that the programs carry little is left, and
//! the raw socket costs the host's other traffic nothing. The programs may carry past
//! rules, never past IPsec, while witness packets show that the rules would let the packets pass (`witness.rs`).

use std::collections::BTreeSet;
use std::fmt::Display;

use greway_datapath::Receive;
use greway_netlink::NetlinkError;
use greway_netlink::nftables::{BaseChain, Family, Hook, Nftables};
use greway_netlink::xfrm::XfrmPolicy;
use greway_spec::{DeviceName, FirewallPolicy, TunnelSpec, UnderlayChoice};

use super::host::{Host, Live, with_causes};
use super::{device, early_drop, fastpath, injection, sealed_group};
use crate::observe::{self, Tables};
use crate::plan;

/// What on this host decides over packets. `None` is what cannot be read: rules that nobody knows of may be
/// there, and hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    /// Without the seals, which are on the ends of pairs and filter nothing else.
    pub(super) chains: Option<Vec<BaseChain>>,
    /// What seals and translates among them.
    pub(super) tables: Tables,
    /// The number that the kernel gave to what was read; each change raises it.
    generation: Option<u32>,
    /// Something that follows from them could not be done, and is tried again.
    pub(super) unheeded: bool,
    legacy: Option<Vec<String>>,
    policies: Option<Vec<XfrmPolicy>>,
    /// This kernel has no nf_tables, and so no chains.
    pub(super) no_nftables: bool,
    /// The translation tables of tunnels here, which match payload packets only.
    pub(super) ours: BTreeSet<String>,
    /// The devices of tunnels, where payload packets come by and no delivery packets.
    pub(super) tunnels: BTreeSet<String>,
}

/// The table that greway itself makes on a hook that matters, for a tunnel that asks for translation.
pub(super) fn own_table(spec: &TunnelSpec) -> Option<String> {
    plan::snat_of(spec).map(|snat| device::table(&snat.name))
}

/// How a tunnel receives, and why so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) receive: Receive,
    pub(super) why: String,
    /// What userspace sends may leave past the IP stack (`exits.rs`): neither rules nor policies are on its way.
    pub(super) past_the_stack: bool,
    /// What a packet socket has taken may go no further (`early_drop.rs`): there are no rules on its way.
    pub(super) early_drop: bool,
    /// Why the fast path, which passes by all that is on the kernel's way, may not carry it.
    pub(super) withheld: Option<String>,
    /// Why it may carry it only while witness packets come through.
    pub(super) witnessed: Option<String>,
}

const UNREAD: &str = "the host's rules cannot be read, and hold if there are any";

impl Rules {
    /// Looks at all of them, and says whether they are others than before, or may be.
    pub(super) fn read(&mut self, nftables: Option<&Nftables>) -> bool {
        fn known<T>(read: Result<T, impl Display>, before: &Option<T>, what: &str) -> Option<T> {
            // It is looked at twice a second; once is enough to say.
            read.inspect_err(|error| {
                if before.is_some() {
                    tracing::warn!(%error, what, "rules of the host cannot be read");
                }
            })
            .ok()
        }
        // Asked before what it is the number of: what changes between is read once more.
        let generation = nftables.and_then(|nftables| nftables.generation().ok());
        let read = self.chains.is_none() || generation.is_none() || generation != self.generation;
        if read {
            let chains = match nftables {
                Some(nftables) => known(nftables.base_chains(), &self.chains, "nftables"),
                None => self.no_nftables.then(Vec::new),
            };
            self.tables = chains.as_deref().map(Tables::of).unwrap_or_default();
            self.chains =
                chains.map(|chains| chains.into_iter().filter(|chain| !is_own_seal(chain)).collect());
            self.generation = generation;
        }
        let legacy = known(greway_netlink::xtables_legacy_tables(), &self.legacy, "iptables-legacy tables");
        let policies = known(greway_netlink::xfrm::policies(), &self.policies, "IPsec policies");
        let changed = read || legacy != self.legacy || policies != self.policies;
        (self.legacy, self.policies) = (legacy, policies);
        changed
    }

    /// Whether a tunnel's seal is there, or may be.
    pub(super) fn may_be_sealed(&self, name: &DeviceName) -> bool {
        self.chains.is_none() || self.tables.seal(name)
    }

    /// Decides for one tunnel. `programs`: they carry it where they may.
    pub(super) fn decide(&self, spec: &TunnelSpec, programs: bool) -> Decision {
        let (receive, why) = self.socket(spec, programs);
        let withheld = self.withheld(spec);
        // The packet socket is in front of the rules, and would see witnesses that they drop.
        let witnessed = match (&withheld, spec.firewall) {
            (None, FirewallPolicy::Honour) => self.filtered(spec).or_else(|| self.filtered_on_arrival()),
            _ => None,
        };
        // Who asks for a packet socket to receive by asked for no more than that.
        let past_the_stack = receive == Receive::Packet
            && !spec.mode.over_ipv6()
            && (spec.firewall == FirewallPolicy::Bypass || self.filtered(spec).is_none());
        let early_drop = receive == Receive::Packet && self.filtered(spec).is_none();
        Decision { receive, why, past_the_stack, early_drop, withheld, witnessed }
    }

    /// Which socket a tunnel receives by, and why.
    fn socket(&self, spec: &TunnelSpec, programs: bool) -> (Receive, String) {
        let raw = |why: String| (Receive::Raw, why);
        let packet = |why: &str| (Receive::Packet, why.to_owned());
        if let Some(why) = self.protected(spec) {
            return raw(why);
        }
        // A packet socket comes before the reverse path filter too, and that is asked beforehand for one far end only.
        match spec.remote {
            None => {
                return raw(
                    "without a remote anybody may send into it, and the host's rules decide who".to_owned()
                );
            }
            Some(group) if group.is_multicast() => {
                return raw("anybody may send to the group, and the host's rules decide who".to_owned());
            }
            Some(_) => {}
        }
        match (spec.underlay, spec.firewall) {
            (UnderlayChoice::Packet, _) => packet("asked for; INPUT rules are passed by"),
            (UnderlayChoice::Raw, _) => raw("asked for".to_owned()),
            (UnderlayChoice::Auto, FirewallPolicy::Bypass) => packet("firewall bypass was asked for"),
            (UnderlayChoice::Auto, FirewallPolicy::Honour) => match self.filtered(spec) {
                Some(why) => raw(why),
                // The packet socket is asked about every packet of the host, which takes longer than the programs do.
                None if programs => raw("for what the programs leave".to_owned()),
                None => packet("no firewall rule or IPsec policy on the way"),
            },
        }
    }

    /// Why the programs at tc, before and behind all rules, may not carry a tunnel's packets.
    fn withheld(&self, spec: &TunnelSpec) -> Option<String> {
        if let Some(why) = self.protected(spec) {
            return Some(why);
        }
        if spec.firewall == FirewallPolicy::Bypass {
            return None;
        }
        match (&self.chains, &self.legacy, spec.underlay) {
            (Some(_), Some(_), UnderlayChoice::Auto) => None,
            // A witness has to come by a socket behind the rules.
            (Some(_), Some(_), _) => self.filtered(spec),
            _ => Some(UNREAD.to_owned()),
        }
    }

    /// What is behind tc and before all sockets; ours are on the ends of pairs.
    fn filtered_on_arrival(&self) -> Option<String> {
        let inside =
            |device: &String| device.starts_with(device::PEER_PREFIX) || self.tunnels.contains(device);
        let on_the_way =
            |chain: &&BaseChain| chain.hook == Hook::Ingress && !chain.devices.iter().all(inside);
        let chain = self.chains.as_ref()?.iter().find(on_the_way)?;
        Some(format!(
            "nftables chain {} {} may filter GRE as it arrives, and holds for it",
            chain.table, chain.name
        ))
    }

    /// Why nothing may pass by the kernel's IPsec.
    fn protected(&self, spec: &TunnelSpec) -> Option<String> {
        let Some(policies) = &self.policies else { return Some(UNREAD.to_owned()) };
        let policy = policies.iter().find(|policy| covers(policy, spec))?;
        Some(format!(
            "an IPsec policy covers the way to {} ({} to {})",
            spec.far_end(),
            policy.source,
            policy.destination
        ))
    }

    /// Why nothing may pass by the host's rules.
    fn filtered(&self, spec: &TunnelSpec) -> Option<String> {
        let (Some(chains), Some(legacy)) = (&self.chains, &self.legacy) else {
            return Some(UNREAD.to_owned());
        };
        let what = self.filtering(chains, legacy, spec.mode.over_ipv6())?;
        Some(format!("{what} may filter GRE, and holds for it"))
    }

    /// What may filter what comes in.
    fn filtering(&self, chains: &[BaseChain], legacy: &[String], over_ipv6: bool) -> Option<String> {
        let family = if over_ipv6 { Family::Ip6 } else { Family::Ip };
        let ours = |chain: &BaseChain| {
            self.ours.contains(&chain.table.name) && observe::is_translation(chain, &chain.table.name)
        };
        let chain = chains.iter().find(|chain| {
            !ours(chain)
                && !super::quiet::is_ours(chain)
                && (chain.table.family == family || chain.table.family == Family::Inet)
                && matches!(chain.hook, Hook::Prerouting | Hook::Input | Hook::Output | Hook::Postrouting)
        });
        match chain {
            Some(chain) => Some(format!("nftables chain {} {}", chain.table, chain.name)),
            None => legacy.first().map(|table| format!("iptables-legacy table {table}")),
        }
    }
}

impl Host {
    /// Reads the host's rules again and lets each tunnel receive as they demand.
    pub(super) fn look_at_rules(&mut self) {
        let read = self.rules.read(self.nftables.as_ref());
        let ours = self.tunnels.values().filter_map(|live| own_table(live.spec()));
        let names = self.tunnels.keys().map(DeviceName::as_str);
        let same = ours.clone().eq(self.rules.ours.iter().cloned())
            && names.clone().eq(self.rules.tunnels.iter().map(String::as_str));
        // Nothing that a tunnel's decision comes from is another: ten thousand are not asked.
        if !read && same && !self.rules.unheeded {
            // The kernel's module for GRE comes and goes without a change of rules.
            self.keep_peers_quiet(None);
            self.keep_early_drop_beside_kernel();
            if self.keep_injection() {
                self.look_at_exits();
            }
            return;
        }
        self.rules.ours = ours.collect();
        self.rules.tunnels = names.map(str::to_owned).collect();
        self.rules.unheeded = false;
        let decide = |(name, live): (&DeviceName, &Live)| {
            (
                name.clone(),
                self.rules.decide(live.spec(), fastpath::is_for_programs(live.spec(), live.attached)),
            )
        };
        let decisions = self.tunnels.iter().map(decide).collect::<Vec<_>>();
        self.let_through_of(
            decisions.iter().filter(|(_, decision)| !decision.early_drop).map(|(name, _)| name),
        );
        let mut changed = false;
        for (name, decision) in decisions {
            let Some(live) = self.tunnels.get_mut(&name) else { continue };
            changed |= decision != live.decision;
            if decision.receive != live.decision.receive {
                if let Err(error) = self.datapath.receive_by(&name, decision.receive) {
                    tracing::error!(tunnel = %name, error = %with_causes(&error), "cannot change its socket");
                    self.rules.unheeded = true;
                    continue;
                }
                tracing::info!(tunnel = %name, socket = decision.receive.word(), why = %decision.why, "receives by");
            }
            live.decision = decision;
        }
        self.keep_early_drop();
        if changed {
            self.follow_fast_path();
        }
        if self.keep_injection() || changed {
            self.look_at_exits();
        }
        if self.rules.chains.is_some() {
            self.put_back_tables();
        }
    }

    /// Connects to nf_tables. Without it there is no `snat`, and nobody's rules to hold.
    pub(super) fn open_nftables(&mut self) {
        let opened = Nftables::open();
        self.rules.no_nftables = opened.as_ref().is_err_and(NetlinkError::is_unsupported);
        self.nftables =
            opened.inspect_err(|error| tracing::warn!(%error, "no nf_tables: `snat` cannot be had")).ok();
    }
}

/// Whether a chain is a seal, of the data plane's ends of pairs alone, or drops what the data plane has already.
fn is_own_seal(chain: &BaseChain) -> bool {
    let inside = |device: &String| device.starts_with(device::PEER_PREFIX);
    if sealed_group::is_ours(chain) || early_drop::is_ours(chain) || injection::is_ours(chain) {
        return true;
    }
    chain.hook == Hook::Ingress
        && chain.table.family == Family::Netdev
        && chain.table.name.starts_with(device::TABLE_PREFIX)
        && !chain.devices.is_empty()
        && chain.devices.iter().all(inside)
}

fn covers(policy: &XfrmPolicy, spec: &TunnelSpec) -> bool {
    const GRE: u8 = 47;
    let protocol = matches!(policy.protocol, 0 | GRE);
    let end = |prefix: &greway_netlink::IpPrefix, address: Option<std::net::IpAddr>| {
        address.is_none_or(|address| prefix.contains(address))
    };
    let remote = spec.remote;
    let out = end(&policy.source, spec.local) && end(&policy.destination, remote);
    let back = end(&policy.source, remote) && end(&policy.destination, spec.local);
    protocol && (out || back)
}

#[cfg(test)]
mod tests {
    use greway_spec::Draft;

    use super::*;

    #[test]
    fn what_cannot_be_read_may_be_a_rule() {
        let address = |text: &str| text.parse().unwrap();
        let draft = Draft::new("tun0".parse().unwrap(), address("10.0.0.1"), address("10.0.0.2"));
        let spec = draft.into_spec().unwrap();
        let nothing = || Rules {
            chains: Some(vec![]),
            legacy: Some(vec![]),
            policies: Some(vec![]),
            ..Rules::default()
        };
        assert_eq!(nothing().decide(&spec, false).receive, Receive::Packet);
        assert_eq!(nothing().decide(&spec, true).receive, Receive::Raw);
        assert!(nothing().decide(&spec, false).past_the_stack && nothing().decide(&spec, false).early_drop);
        assert!(!nothing().decide(&spec, true).early_drop);
        let unread = [
            Rules { chains: None, ..nothing() },
            Rules { legacy: None, ..nothing() },
            Rules { policies: None, ..nothing() },
        ];
        for rules in &unread {
            let decision = rules.decide(&spec, false);
            assert_eq!(decision.receive, Receive::Raw, "{rules:?}");
            assert!(decision.why.contains("the host's rules cannot be read"), "{}", decision.why);
            assert!(!decision.past_the_stack && !decision.early_drop, "{rules:?}");
        }
        // What can be read is found out by witnesses, unless the socket would be in front of the rules.
        let legacy = Rules { legacy: Some(vec!["filter".to_owned()]), ..nothing() };
        let decision = legacy.decide(&spec, false);
        assert_eq!((decision.receive, decision.withheld), (Receive::Raw, None));
        assert!(decision.witnessed.is_some_and(|why| why.contains("iptables-legacy table filter")));
        let packet = TunnelSpec { underlay: UnderlayChoice::Packet, ..spec.clone() };
        let decision = legacy.decide(&packet, false);
        assert!(decision.withheld.is_some() && decision.receive == Receive::Packet);
        assert!(!decision.past_the_stack, "OUTPUT rules hold for what is sent");
        assert!(!decision.early_drop, "connections are followed on the way that it would not go");
        assert_eq!(nothing().decide(&spec, false).witnessed, None);
        for rules in &unread {
            let decision = rules.decide(&spec, false);
            assert!(decision.withheld.is_some() && decision.witnessed.is_none(), "{decision:?}");
        }
        let bypassed = legacy.decide(&TunnelSpec { firewall: FirewallPolicy::Bypass, ..spec.clone() }, false);
        assert_eq!((bypassed.withheld, bypassed.witnessed), (None, None));
        // Who asks to pass by the firewall does, but never by IPsec.
        let bypass = TunnelSpec { firewall: FirewallPolicy::Bypass, ..spec };
        assert_eq!(nothing().decide(&bypass, true).receive, Receive::Packet);
        let ways = unread.map(|rules| rules.decide(&bypass, false).receive);
        assert_eq!(ways, [Receive::Packet, Receive::Packet, Receive::Raw]);
    }
}
