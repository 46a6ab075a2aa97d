//! What a command is about, told without reading a value and without an error.

use super::{Concern, Family, Parser, Verb, begins, parser_of, verb_of};

/// The names and modes of a command.
#[derive(Default)]
struct Outline<'w> {
    name: Option<&'w str>,
    modes: Vec<&'w str>,
    /// `help` where a name could stand.
    help: bool,
}

/// Whether the words after `ip tunnel` concern GRE.
pub fn concern<W: AsRef<str>>(words: &[W], family: Family) -> Concern {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let Some(parser) = parser_of(&words, family) else { return Concern::None };
    let Some((verb, rest)) = words.split_first() else { return Concern::List };
    let outline = Outline::of(rest, parser);
    if outline.help {
        return Concern::None;
    }
    let named = |name: &str| Concern::Named(name.to_owned());
    match verb_of(verb, parser) {
        Verb::Add if outline.is_gre(parser) => Concern::Gre,
        Verb::Change | Verb::Delete => match outline.name {
            Some(name) => named(name),
            None if outline.is_gre(parser) => Concern::Gre,
            None => Concern::None,
        },
        Verb::Show => match outline.name {
            Some(name) => named(name),
            None if parser == Parser::V4 && !outline.modes.is_empty() => Concern::None,
            None => Concern::List,
        },
        Verb::Add | Verb::Other | Verb::Help | Verb::Unknown => Concern::None,
    }
}

impl<'w> Outline<'w> {
    fn of(words: &[&'w str], parser: Parser) -> Self {
        let mut outline = Self::default();
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            match word {
                "mode" => outline.modes.extend(words.next()),
                "name" => {
                    let name = words.next();
                    outline.name = outline.name.or(name);
                }
                _ if takes_value(word, parser) => {
                    words.next();
                }
                _ if is_flag(word, parser) => {}
                _ if begins(word, "help") => outline.help = true,
                _ => outline.name = outline.name.or(Some(word)),
            }
        }
        outline
    }

    /// Whether a new tunnel would be GRE. The IPv4 parser goes by the name where there is no mode.
    fn is_gre(&self, parser: Parser) -> bool {
        match parser {
            Parser::V4 if self.modes.is_empty() => self.name.is_some_and(|name| name.starts_with("gre")),
            Parser::V4 => matches!(self.modes.first(), Some(&("gre" | "gre/ip"))),
            Parser::V6 => matches!(self.modes.last(), Some(&("ip6gre" | "gre/ipv6"))),
        }
    }
}

fn takes_value(word: &str, parser: Parser) -> bool {
    let either =
        ["remote", "local", "dev", "key", "ikey", "okey", "ttl", "hoplimit", "hlim", "tos", "tclass"];
    let of_ipv6 = ["encaplimit", "tc", "flowlabel", "fl", "dscp"];
    either.contains(&word) || begins(word, "dsfield") || parser == Parser::V6 && of_ipv6.contains(&word)
}

fn is_flag(word: &str, parser: Parser) -> bool {
    let either = ["seq", "iseq", "oseq", "csum", "icsum", "ocsum"];
    let of_family = match parser {
        Parser::V4 => ["pmtudisc", "nopmtudisc"],
        Parser::V6 => ["allow-localremote", "noallow-localremote"],
    };
    either.contains(&word) || of_family.contains(&word)
}

/// Whether a tunnel of this name needs the word `name` before it, because its name alone means something
/// else.
pub(in crate::iproute2) fn needs_name_word(name: &str, over_ipv6: bool) -> bool {
    let parser = if over_ipv6 { Parser::V6 } else { Parser::V4 };
    matches!(name, "mode" | "name")
        || takes_value(name, parser)
        || is_flag(name, parser)
        || begins(name, "help")
}
