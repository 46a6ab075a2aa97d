//! The words of `ip rule add`, for `rule-NAME` files.
//!
//! Selectors: `not`, `from`, `to`, `tos`, `fwmark`, `iif` (`dev`), `oif`, `priority` (`order`, `preference`).
//! What becomes of the packet: `table` (`lookup`), `blackhole`, `unreachable`, `prohibit`; without one the
//! table is main (iproute2 6.1 ip/iprule.c `iprule_modify`). Words that `ip rule` has beyond these are
//! refused, and so are those of no meaning.

use greway_spec::number::{parse_hex_u8, parse_u32};
use greway_spec::{DeviceName, InnerRule, Prefix, RuleAction};

use super::tables::Tables;
use super::value::parse_prefix;
use super::words::words;

/// Why words are no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrongRule {
    /// Column of the word in characters, from 1.
    pub(crate) column: u32,
    /// What is wrong with it, and what would be right.
    pub(crate) message: String,
}

/// Words that `ip rule` knows and a tunnel's rule cannot have.
const NOT_THERE: [&str; 12] = [
    "goto",
    "l3mdev",
    "realms",
    "nat",
    "map-to",
    "uidrange",
    "ipproto",
    "sport",
    "dport",
    "tun_id",
    "protocol",
    "suppress_ifgroup",
];

/// Reads the words after `ip rule add`. `ipv6`: the family, where the place of the words says it; else an
/// address in them does, and without one it is IPv4.
pub(crate) fn parse(text: &str, ipv6: Option<bool>, tables: &Tables) -> Result<InnerRule, WrongRule> {
    let mut rule = InnerRule::all(ipv6.unwrap_or(false), RuleAction::Table(super::tables::MAIN));
    let mut known = ipv6;
    let mut words = words(text).peekable();
    while let Some((column, word)) = words.next() {
        let wrong = |column: u32, message: String| Err(WrongRule { column, message });
        match word {
            "not" => {
                rule.not = true;
                continue;
            }
            "blackhole" => {
                rule.action = RuleAction::Blackhole;
                continue;
            }
            "unreachable" => {
                rule.action = RuleAction::Unreachable;
                continue;
            }
            "prohibit" => {
                rule.action = RuleAction::Prohibit;
                continue;
            }
            "unicast" => continue,
            _ => {}
        }
        if NOT_THERE.contains(&word) {
            return wrong(column, format!("\"{word}\" is not there; {KNOWN} are"));
        }
        // `type` is a word before the word, as in "type blackhole".
        if word == "type" {
            continue;
        }
        if !VALUED.contains(&word) {
            return wrong(column, format!("\"{word}\" is no word of a rule; {KNOWN} are"));
        }
        let Some((at, value)) = words.next() else {
            return wrong(column, format!("{word} needs a value"));
        };
        let bad = |right: &str| wrong(at, format!("{word} \"{value}\" is wrong: {right}"));
        match word {
            "from" | "to" => {
                let prefix = match value {
                    "all" | "any" | "default" => None,
                    value => match prefix(value) {
                        Some(Ok(prefix)) => Some(prefix),
                        Some(Err(right)) => {
                            return bad(&format!("it has bits set beyond its length; {right} is right"));
                        }
                        None => return bad("a prefix such as 10.10.1.0/24 is right, or all"),
                    },
                };
                if let Some(prefix) = prefix {
                    let is = prefix.address.is_ipv6();
                    if known.is_some_and(|ipv6| ipv6 != is) {
                        let right =
                            if is { "an IPv4 prefix is right here" } else { "an IPv6 prefix is right here" };
                        return bad(right);
                    }
                    (known, rule.ipv6) = (Some(is), is);
                }
                if word == "from" { rule.from = prefix } else { rule.to = prefix }
            }
            "tos" | "dsfield" => match parse_hex_u8(value) {
                Some(tos) => rule.tos = tos,
                None => return bad("00 to ff in hexadecimal is right"),
            },
            "fwmark" => {
                let (mark, mask) = match value.split_once('/') {
                    Some((mark, mask)) => (parse_u32(mark), parse_u32(mask)),
                    None => (parse_u32(value), Some(u32::MAX)),
                };
                match (mark, mask) {
                    (Some(mark), Some(mask)) => rule.fwmark = Some((mark, mask)),
                    _ => return bad("a number such as 0x1, or 0x1/0xff, is right"),
                }
            }
            "iif" | "dev" | "oif" => match value.parse::<DeviceName>() {
                Ok(device) if word == "oif" => rule.oif = Some(device),
                Ok(device) => rule.iif = Some(device),
                Err(_) => return bad("the name of a network device is right"),
            },
            "table" | "lookup" => match tables.number(value) {
                Some(number) => rule.action = RuleAction::Table(number),
                None => {
                    return bad("a number of 1 to 4294967295 is right, or a name in /etc/iproute2/rt_tables");
                }
            },
            "suppress_prefixlength" | "sup_pl" => match parse_u32(value).filter(|length| *length <= 128) {
                Some(length) => rule.suppress_prefix_length = Some(length),
                None => return bad("a prefix length is right"),
            },
            _ => match parse_u32(value) {
                Some(priority) => rule.priority = Some(priority),
                None => return bad("0 to 4294967295 is right"),
            },
        }
    }
    Ok(rule)
}

const VALUED: [&str; 17] = [
    "from",
    "to",
    "tos",
    "dsfield",
    "fwmark",
    "iif",
    "dev",
    "oif",
    "table",
    "lookup",
    "suppress_prefixlength",
    "sup_pl",
    "priority",
    "preference",
    "pref",
    "order",
    "prio",
];

const KNOWN: &str = "not, from, to, tos, fwmark, iif, oif, priority, table, suppress_prefixlength, \
                     blackhole, unreachable and prohibit";

/// A prefix; inside an error is the right one for one with host bits.
fn prefix(text: &str) -> Option<Result<Prefix, Prefix>> {
    let (address, length) = parse_prefix(text)?;
    let prefix = Prefix::containing(address, length);
    Some(if prefix.address == address { Ok(prefix) } else { Err(prefix) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let rule = parse(text, None, &Tables::default())
            .map_err(|wrong| format!("{}: {}", wrong.column, wrong.message))?;
        Ok(format!("{}{rule}", if rule.ipv6 { "-6 " } else { "" }))
    }

    #[test]
    fn as_ip_rule_reads_them() {
        for (text, expected) in [
            ("from 10.10.1.0/24 table 100", "from 10.10.1.0/24 table 100"),
            ("from 10.10.1.1 lookup 0x64", "from 10.10.1.1/32 table 100"),
            ("from all to 10/8 pref 5", "from all to 10.0.0.0/8 priority 5 table 254"),
            ("iif tun0 table local", "from all iif tun0 table 255"),
            (
                "dev eth0 fwmark 0x1/0xff order 7 prohibit",
                "from all fwmark 0x1/0xff iif eth0 priority 7 prohibit",
            ),
            (
                "not from fd00::/8 table 9 suppress_prefixlength 0",
                "-6 not from fd00::/8 table 9 suppress_prefixlength 0",
            ),
            ("tos 10 oif tun0 type blackhole", "from all tos 0x10 oif tun0 blackhole"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
            let again = expected.strip_prefix("-6 ").unwrap_or(expected);
            assert_eq!(read(again).as_deref(), Ok(expected), "its own words: {again}");
        }
    }

    #[test]
    fn refused_with_the_word() {
        for (text, column, part) in [
            ("from 10.10.1.1/24 table 1", 6, "10.10.1.0/24 is right"),
            ("from x table 1", 6, "from \"x\" is wrong"),
            ("from 10.0.0.0/8 to fd00::/8", 20, "an IPv4 prefix is right here"),
            ("table vpn", 7, "/etc/iproute2/rt_tables"),
            ("table 0", 7, "1 to 4294967295"),
            ("goto 100", 1, "\"goto\" is not there"),
            ("form 10.0.0.0/8", 1, "no word of a rule"),
            ("from", 1, "from needs a value"),
            ("fwmark 0x1/zz", 8, "0x1/0xff"),
            ("priority -1", 10, "0 to 4294967295"),
        ] {
            let wrong = read(text).expect_err(text);
            assert!(wrong.starts_with(&format!("{column}: ")) && wrong.contains(part), "{text}: {wrong}");
        }
    }
}
