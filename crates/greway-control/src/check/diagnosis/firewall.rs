//! The command that makes a firewall let a packet pass, in the words of whoever made the rules: what another
//! tool manages is changed by that tool, or it is gone with its next reload.

use greway_netlink::nftables::Family;

use crate::check::ruleset::{Place, Ruleset};
use crate::check::shell::{nft_name, word};

/// What is to pass.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// GRE of a remote, in.
    In(&'a str),
    /// GRE to a remote, out.
    Out(&'a str),
    /// What is forwarded into and out of a tunnel.
    Through(&'a str),
}

/// The commands, in order.
pub(super) fn cure(ruleset: &Ruleset, place: &Place, wanted: Wanted<'_>) -> Vec<String> {
    if place.table.name == "firewalld" {
        return firewalld(wanted);
    }
    let ufw = ruleset.chains.iter().any(|chain| {
        chain.legacy == place.legacy && chain.table == place.table && chain.name.starts_with("ufw-")
    });
    if ufw {
        return ufw_words(wanted);
    }
    let is_xtables = place.legacy
        || (matches!(place.table.family, Family::Ip | Family::Ip6)
            && matches!(place.table.name.as_str(), "filter" | "mangle" | "raw" | "security")
            && place.base.chars().all(|letter| letter.is_ascii_uppercase()));
    if is_xtables { xtables(ruleset, place, wanted) } else { nft(place, wanted) }
}

fn firewalld(wanted: Wanted<'_>) -> Vec<String> {
    let first = match wanted {
        Wanted::In(_) => "firewall-cmd --permanent --add-protocol=gre".to_owned(),
        Wanted::Out(remote) => {
            let family = if is_ipv6(remote) { "ipv6" } else { "ipv4" };
            format!(
                "firewall-cmd --permanent --direct --add-rule {family} filter OUTPUT 0 -p gre -d {remote} -j ACCEPT"
            )
        }
        Wanted::Through(tunnel) => {
            format!("firewall-cmd --permanent --zone=trusted --add-interface={}", word(tunnel))
        }
    };
    vec![first, "firewall-cmd --reload".to_owned()]
}

fn ufw_words(wanted: Wanted<'_>) -> Vec<String> {
    match wanted {
        Wanted::In(remote) => vec![format!("ufw allow proto gre from {remote}")],
        Wanted::Out(remote) => vec![format!("ufw allow out proto gre to {remote}")],
        Wanted::Through(tunnel) => {
            let tunnel = word(tunnel);
            vec![format!("ufw route allow in on {tunnel}"), format!("ufw route allow out on {tunnel}")]
        }
    }
}

fn xtables(ruleset: &Ruleset, place: &Place, wanted: Wanted<'_>) -> Vec<String> {
    let program = match (place.legacy, place.table.family) {
        (true, _) => "iptables-legacy",
        (false, Family::Ip6) => "ip6tables",
        (false, _) => "iptables",
    };
    let table = match place.table.name.as_str() {
        "filter" => String::new(),
        other => format!(" -t {other}"),
    };
    // Docker keeps a chain for rules of others, in front of its own.
    let docker = place.base == "FORWARD" && ruleset.has_chain(place, "DOCKER-USER");
    let chain = if docker { "DOCKER-USER" } else { &place.base };
    let insert = |matches: String| format!("{program}{table} -I {chain} {matches} -j ACCEPT");
    match wanted {
        Wanted::In(remote) => vec![insert(format!("-p gre -s {remote}"))],
        Wanted::Out(remote) => vec![insert(format!("-p gre -d {remote}"))],
        Wanted::Through(tunnel) => {
            let tunnel = word(tunnel);
            vec![insert(format!("-i {tunnel}")), insert(format!("-o {tunnel}"))]
        }
    }
}

/// Whether this is the text of an IPv6 address.
fn is_ipv6(address: &str) -> bool {
    address.contains(':')
}

/// The word of nft for the header that has this address.
fn header(address: &str) -> &'static str {
    if is_ipv6(address) { "ip6" } else { "ip" }
}

fn nft(place: &Place, wanted: Wanted<'_>) -> Vec<String> {
    let family = place.table.family;
    let (table, chain) = (word(&place.table.name), word(&place.base));
    let insert = |matches: String| format!("nft insert rule {family} {table} {chain} {matches} accept");
    match wanted {
        Wanted::In(remote) => vec![insert(format!("{} saddr {remote} meta l4proto gre", header(remote)))],
        Wanted::Out(remote) => vec![insert(format!("{} daddr {remote} meta l4proto gre", header(remote)))],
        Wanted::Through(tunnel) => {
            let tunnel = nft_name(tunnel);
            vec![insert(format!("iifname {tunnel}")), insert(format!("oifname {tunnel}"))]
        }
    }
}

#[cfg(test)]
mod tests {
    use greway_netlink::nftables::TableId;

    use super::*;
    use crate::check::ruleset::Chain;

    fn place(family: Family, table: &str, base: &str, legacy: bool) -> Place {
        let table = TableId::new(family, table);
        Place { legacy, table, chain: base.to_owned(), base: base.to_owned(), rule: None }
    }

    fn chain(place: &Place, name: &str) -> Ruleset {
        let (legacy, table, name) = (place.legacy, place.table.clone(), name.to_owned());
        Ruleset {
            chains: vec![Chain { legacy, table, name, base: None, rules: Vec::new() }],
            sets: Vec::new(),
        }
    }

    #[test]
    fn who_made_the_rules_is_who_changes_them() {
        let none = Ruleset::default();
        let input = Wanted::In("100.0.2.100");
        let nft = place(Family::Inet, "filter", "input", false);
        assert_eq!(
            cure(&none, &nft, input),
            ["nft insert rule inet filter input ip saddr 100.0.2.100 meta l4proto gre accept"]
        );
        let xtables = place(Family::Ip, "filter", "INPUT", false);
        assert_eq!(cure(&none, &xtables, input), ["iptables -I INPUT -p gre -s 100.0.2.100 -j ACCEPT"]);
        let legacy = place(Family::Ip, "mangle", "PREROUTING", true);
        assert_eq!(
            cure(&none, &legacy, input),
            ["iptables-legacy -t mangle -I PREROUTING -p gre -s 100.0.2.100 -j ACCEPT"]
        );
        let six = Wanted::Out("fd00:47::2");
        assert_eq!(
            cure(&none, &place(Family::Inet, "filter", "out", false), six),
            ["nft insert rule inet filter out ip6 daddr fd00:47::2 meta l4proto gre accept"]
        );
        let ip6tables = place(Family::Ip6, "filter", "OUTPUT", false);
        assert_eq!(cure(&none, &ip6tables, six), ["ip6tables -I OUTPUT -p gre -d fd00:47::2 -j ACCEPT"]);
        let ufw = chain(&xtables, "ufw-before-input");
        assert_eq!(cure(&ufw, &xtables, input), ["ufw allow proto gre from 100.0.2.100"]);
        let firewalld = place(Family::Inet, "firewalld", "filter_INPUT", false);
        let words = cure(&none, &firewalld, input);
        assert_eq!(words, ["firewall-cmd --permanent --add-protocol=gre", "firewall-cmd --reload"]);
    }

    #[test]
    fn docker_has_a_chain_for_others() {
        let forward = place(Family::Ip, "filter", "FORWARD", false);
        let docker = chain(&forward, "DOCKER-USER");
        assert_eq!(
            cure(&docker, &forward, Wanted::Through("tun0")),
            ["iptables -I DOCKER-USER -i tun0 -j ACCEPT", "iptables -I DOCKER-USER -o tun0 -j ACCEPT"]
        );
    }
}
