//! Source NAT for what a tunnel brings in: hosts behind this one that have no route back to the far
//! network answer to an address of ours.

use std::net::IpAddr;

use super::rule::link_name;
use super::{BaseChainSpec, Change, Expression, Family, Hook, Policy, Rule, TableId};
use crate::prefix::{IpPrefix, width};

/// `priority srcnat` of nft.
const PRIORITY: i32 = 100;

/// Which packets get which source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snat {
    /// Name of the table; a table of this name is replaced.
    pub table: String,
    /// The mark by which we know the table again.
    pub comment: Option<String>,
    /// Sources to rewrite.
    pub from: IpPrefix,
    /// Packets leaving by this link, the tunnel itself, keep their source.
    pub except_oif: String,
    /// The new source, of the family of `from`.
    pub to: IpAddr,
}

/// The table as nft writes it:
///
/// ```text
/// table ip TABLE {
///     chain postrouting {
///         type nat hook postrouting priority 100; policy accept;
///         ip saddr FROM oifname != EXCEPT counter snat to TO
///     }
/// }
/// ```
///
/// (`ip6` for IPv6.) `None` when `from` and `to` are of different families or the link's name is too
/// long.
pub fn snat(snat: &Snat) -> Option<Vec<Change>> {
    if snat.from.address.is_ipv4() != snat.to.is_ipv4() || !crate::link_change::is_name(&snat.except_oif) {
        return None;
    }
    let (family, offset, to) = match snat.to {
        IpAddr::V4(to) => (Family::Ip, 12, to.octets().to_vec()),
        IpAddr::V6(to) => (Family::Ip6, 8, to.octets().to_vec()),
    };
    let mut expressions = source_match(snat.from, offset);
    expressions.extend([
        Expression::OutgoingLink,
        Expression::NotEqual(link_name(&snat.except_oif)),
        Expression::Counter,
        Expression::SourceNat { family, to },
    ]);
    let table = TableId::new(family, &snat.table);
    let chain = BaseChainSpec {
        name: "postrouting".to_owned(),
        kind: "nat",
        hook: Hook::Postrouting,
        priority: PRIORITY,
        policy: Policy::Accept,
        device: None,
    };
    let (name, rule) = (chain.name.clone(), Rule { expressions, comment: snat.comment.clone() });
    Some(vec![
        Change::ReplaceTable { table: table.clone(), comment: snat.comment.clone() },
        Change::AddBaseChain { table: table.clone(), chain },
        Change::AddRule { table, chain: name, rule },
    ])
}

/// The source address is at this offset in the IP header (RFC 791 §3.1, RFC 8200 §3).
fn source_match(from: IpPrefix, offset: u32) -> Vec<Expression> {
    if from.length == 0 {
        return Vec::new();
    }
    let mask = mask(from);
    let address = match from.address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let block = address.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
    let mut expressions = vec![Expression::Network { offset, length: u32::from(width(from.address)) / 8 }];
    if !from.is_host() {
        expressions.push(Expression::Mask(mask));
    }
    expressions.push(Expression::Equal(block));
    expressions
}

fn mask(prefix: IpPrefix) -> Vec<u8> {
    let bits = |byte: u8| prefix.length.saturating_sub(byte * 8).min(8);
    (0..width(prefix.address) / 8).map(|byte| !(u16::from(u8::MAX) >> bits(byte)) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_masked_to_its_block() {
        let block = IpPrefix::new("10.10.1.77".parse().unwrap(), 20).unwrap();
        assert_eq!(
            source_match(block, 12),
            [
                Expression::Network { offset: 12, length: 4 },
                Expression::Mask(vec![255, 255, 240, 0]),
                Expression::Equal(vec![10, 10, 0, 0]),
            ]
        );
        let host = IpPrefix::host("10.10.1.77".parse().unwrap());
        assert_eq!(source_match(host, 12)[1..], [Expression::Equal(vec![10, 10, 1, 77])]);
        assert_eq!(source_match(IpPrefix::IPV6_DEFAULT, 8), []);
        assert_eq!(
            mask(IpPrefix::new("::".parse().unwrap(), 61).unwrap())[..9],
            [255, 255, 255, 255, 255, 255, 255, 248, 0]
        );
    }

    #[test]
    fn families_must_agree_and_names_must_fit() {
        let rewrite = |from: &str, to: &str, except_oif: &str| {
            let from = IpPrefix::host(from.parse().unwrap());
            let (to, except_oif) = (to.parse().unwrap(), except_oif.to_owned());
            snat(&Snat { table: "t".to_owned(), comment: None, from, except_oif, to }).is_some()
        };
        assert!(rewrite("10.0.0.1", "10.10.2.1", "tun0"));
        assert!(rewrite("2001:db8::5", "2001:db8::1", "tun0"));
        assert!(!rewrite("10.0.0.1", "::1", "tun0"));
        assert!(!rewrite("10.0.0.1", "10.10.2.1", "a-name-of-17-byte"));
    }
}
