//! Keeps the kernel's own GRE from telling certain peers that there is no tunnel for them: its module, once loaded,
//! answers "port unreachable" for every packet that none of its own tunnels takes (linux net/ipv4/ip_gre.c `gre_rcv`,
//! v6.18), whoever else takes it.

use std::net::Ipv4Addr;

use super::{BaseChainSpec, Change, Expression, Family, Hook, Policy, Rule, TableId, Verdict};

/// A tunnel whose peer is not to be told. Its packets are known by these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuietPeer {
    /// Where the peer sends to; `None`: to any address here.
    pub local: Option<Ipv4Addr>,
    /// The peer; `None`: anybody.
    pub remote: Option<Ipv4Addr>,
    /// The key that its packets have.
    pub key: Option<u32>,
}

/// Offsets from the IPv4 header of the message, which has no options: protocol, destination, ICMP type and code, then of
/// the quoted packet protocol, source, destination, the flags of its GRE header, and its key behind a checksum or
/// at once (RFC 792; RFC 2890 §2).
const PROTOCOL: u32 = 9;
const DESTINATION: u32 = 16;
const TYPE_AND_CODE: u32 = 20;
const QUOTED_PROTOCOL: u32 = 37;
const QUOTED_SOURCE: u32 = 40;
const QUOTED_DESTINATION: u32 = 44;
const QUOTED_FLAGS: u32 = 48;
const KEY_BEHIND_CHECKSUM: u32 = 56;
const KEY_AT_ONCE: u32 = 52;
/// Flags of GRE.
const CHECKSUM: u8 = 0x80;
const KEY: u8 = 0x20;

/// The table as nft writes it, the three rules for each peer that has a key being one for a peer without:
///
/// ```text
/// table ip TABLE {
///     chain output {
///         type filter hook output priority 0; policy accept;
///         ip protocol != icmp accept
///         @nh,160,16 != 0x0303 accept
///         @nh,296,8 != 47 accept
///         ip daddr REMOTE @nh,320,32 REMOTE @nh,352,32 LOCAL @nh,384,8 & 0xa0 == 0x20 @nh,416,32 KEY counter drop
///     }
/// }
/// ```
///
/// What is no such message passes three comparisons at most. A table of this name is replaced.
pub fn port_unreachable(table: &str, peers: &[QuietPeer], comment: Option<&str>) -> Vec<Change> {
    let table = TableId::new(Family::Ip, table);
    let chain = BaseChainSpec {
        name: "output".to_owned(),
        kind: "filter",
        hook: Hook::Output,
        priority: 0,
        policy: Policy::Accept,
        device: None,
    };
    let others = [(PROTOCOL, vec![1]), (TYPE_AND_CODE, vec![3, 3]), (QUOTED_PROTOCOL, vec![47])];
    let others = others.into_iter().map(|(offset, bytes)| {
        vec![
            Expression::Network { offset, length: bytes.len() as u32 },
            Expression::NotEqual(bytes),
            Expression::Verdict(Verdict::Accept),
        ]
    });
    let rules = others.chain(peers.iter().flat_map(of_peer)).map(|expressions| Change::AddRule {
        table: table.clone(),
        chain: chain.name.clone(),
        rule: Rule { expressions, comment: None },
    });
    let mut changes = vec![
        Change::ReplaceTable { table: table.clone(), comment: comment.map(str::to_owned) },
        Change::AddBaseChain { table: table.clone(), chain: chain.clone() },
    ];
    changes.extend(rules);
    changes
}

fn of_peer(peer: &QuietPeer) -> Vec<Vec<Expression>> {
    fn is(offset: u32, bytes: &[u8]) -> [Expression; 2] {
        [Expression::Network { offset, length: bytes.len() as u32 }, Expression::Equal(bytes.to_vec())]
    }
    let flags = |mask: u8, value: u8| {
        vec![
            Expression::Network { offset: QUOTED_FLAGS, length: 1 },
            Expression::Mask(vec![mask]),
            Expression::Equal(vec![value]),
        ]
    };
    let header = match peer.key {
        None => vec![flags(KEY, 0)],
        Some(key) => [(KEY, KEY_AT_ONCE), (CHECKSUM | KEY, KEY_BEHIND_CHECKSUM)]
            .map(|(value, offset)| {
                let mut both = flags(CHECKSUM | KEY, value);
                both.extend(is(offset, &key.to_be_bytes()));
                both
            })
            .into(),
    };
    let rule = |header: Vec<Expression>| {
        let mut rule = Vec::new();
        for offset in [DESTINATION, QUOTED_SOURCE] {
            rule.extend(peer.remote.iter().flat_map(|remote| is(offset, &remote.octets())));
        }
        rule.extend(peer.local.iter().flat_map(|local| is(QUOTED_DESTINATION, &local.octets())));
        rule.extend(header);
        rule.extend([Expression::Counter, Expression::Verdict(Verdict::Drop)]);
        rule
    };
    header.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rules do to a packet: the first that decides.
    fn drops(peers: &[QuietPeer], packet: &[u8]) -> bool {
        let changes = port_unreachable("t", peers, None);
        let rules = changes.iter().filter_map(|change| match change {
            Change::AddRule { rule, .. } => Some(&rule.expressions),
            _ => None,
        });
        for rule in rules {
            let mut register = Vec::new();
            for expression in rule {
                match expression {
                    Expression::Network { offset, length } => {
                        register = packet[*offset as usize..][..*length as usize].to_vec();
                    }
                    Expression::Mask(mask) => {
                        register = register.iter().zip(mask).map(|(byte, mask)| byte & mask).collect();
                    }
                    Expression::Equal(bytes) if register != *bytes => break,
                    Expression::NotEqual(bytes) if register == *bytes => break,
                    Expression::Verdict(verdict) => return *verdict == Verdict::Drop,
                    _ => {}
                }
            }
        }
        false
    }

    /// The kernel's answer to 192.0.2.1 for a packet with key 43, as recorded from Linux 6.1.
    fn recorded() -> Vec<u8> {
        let text = "45c0006412dc00004001e2f9c0000202c00002010303d4d1000000004500004812340000402fe44fc0000201c0000202\
                    200008000000002b4500002c432100003d01269c0a0900010a090002";
        let text = text.as_bytes().chunks(2);
        text.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn the_kernels_answer_about_a_packet_of_ours_and_nothing_else_is_dropped() {
        let address = |last| Ipv4Addr::new(192, 0, 2, last);
        let peer = QuietPeer { local: Some(address(2)), remote: Some(address(1)), key: Some(43) };
        let packet = recorded();
        assert!(drops(&[peer], &packet));
        assert!(drops(&[QuietPeer { local: None, ..peer }], &packet));
        assert!(drops(&[QuietPeer { remote: None, ..peer }], &packet));
        let others = [
            QuietPeer { key: Some(42), ..peer },
            QuietPeer { key: None, ..peer },
            QuietPeer { local: Some(address(3)), ..peer },
            QuietPeer { remote: Some(address(3)), ..peer },
        ];
        assert!(!drops(&others, &packet) && !drops(&[], &packet));
        // With a checksum the key is further back, and bytes that look like one in its place are none.
        let mut checked = packet.clone();
        checked[48] |= CHECKSUM;
        assert!(!drops(&[peer], &checked));
        checked.splice(52..52, [0xab, 0xcd, 0, 0]);
        assert!(drops(&[peer], &checked));
        // Host unreachable, an echo, UDP's port unreachable: others' business.
        for (at, value) in [(21, 1), (20, 0), (9, 17), (37, 17)] {
            let mut other = packet.clone();
            other[at] = value;
            assert!(!drops(&[peer], &other), "byte {at}");
        }
    }
}
