//! Routing tables by name.
//!
//! `ip` reads the names from /etc/iproute2/rt_tables; this crate opens no file, so that who reads a
//! tunnel's files hands in the texts.

use std::collections::BTreeMap;

use greway_spec::number::parse_u32;

pub(super) const MAIN: u32 = 254;

/// The names that a host has given to routing tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    names: BTreeMap<String, u32>,
}

impl Default for Tables {
    /// The names that need no file.
    fn default() -> Self {
        let names = [("default", 253), ("main", MAIN), ("local", 255)];
        Self { names: names.into_iter().map(|(name, number)| (name.to_owned(), number)).collect() }
    }
}

impl Tables {
    /// Adds the names of a file: lines of a number and a name. Lines of another kind have no effect, as
    /// with `ip`.
    pub fn extend(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            if let (Some(number), Some(name), None) = (words.next(), words.next(), words.next())
                && let Some(number) = parse_u32(number).filter(|number| *number > 0)
            {
                self.names.insert(name.to_owned(), number);
            }
        }
    }

    /// The number of a table by its name or number; 0 is none.
    pub fn number(&self, text: &str) -> Option<u32> {
        let named = self.names.get(text).copied();
        named.or_else(|| parse_u32(text)).filter(|number| *number > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_rt_tables_has_them() {
        let mut tables = Tables::default();
        tables.extend(
            "#\n# reserved values\n255\tlocal\n254 main # of course\n0\tunspec\n100 vpn\n0x65 dsl\nx y\n",
        );
        for (text, number) in [
            ("vpn", Some(100)),
            ("dsl", Some(101)),
            ("main", Some(254)),
            ("100", Some(100)),
            ("0x10", Some(16)),
            ("unspec", None),
            ("0", None),
            ("x", None),
        ] {
            assert_eq!(tables.number(text), number, "{text}");
        }
    }
}
