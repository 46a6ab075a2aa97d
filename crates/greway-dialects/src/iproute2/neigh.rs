//! `ip neigh`: the neighbours of a tunnel without a remote.
//!
//! A kernel tunnel's link-layer addresses are addresses of the underlay, and so people write `ip neigh add 10.0.0.2
//! lladdr 203.0.113.5 dev tun0`. Only such words are read here; what is wrong with others the real tool says.

use std::net::{IpAddr, Ipv4Addr};

use greway_spec::number::parse_quad;

use super::args::begins;

/// A change of the neighbour table that has an IPv4 address for a link-layer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour<'w> {
    /// Whether it sets an entry; else it removes one.
    pub sets: bool,
    /// The address inside, where there is one.
    pub address: Option<IpAddr>,
    /// Who has it.
    pub endpoint: Ipv4Addr,
    /// Where among the words the endpoint is.
    pub endpoint_at: usize,
    /// The device.
    pub dev: &'w str,
    /// A word that is neither of these nor `nud permanent`, and where it is.
    pub other: Option<usize>,
}

/// Verbs that change an entry (ip/ipneigh.c `do_ipneigh`, 6.1), and whether they set one.
const VERBS: [(&str, bool); 5] =
    [("add", true), ("change", true), ("chg", true), ("replace", true), ("delete", false)];

/// Reads the words behind `ip neigh`; `None` where they are no such change.
pub fn parse<W: AsRef<str>>(words: &[W]) -> Option<Neighbour<'_>> {
    let (verb, _) = words.split_first()?;
    let (_, sets) = *VERBS.iter().find(|(whole, _)| begins(verb.as_ref(), whole))?;
    let word = |at: usize| words.get(at).map(AsRef::as_ref);
    let (mut address, mut endpoint, mut dev, mut other) = (None, None, None, None);
    let mut at = 1;
    // As `ipneigh_modify` goes through them: `lladdr` may be shortened, the others may not.
    while let Some(here) = word(at) {
        let value = word(at + 1);
        match here {
            _ if begins(here, "lladdr") => {
                let text = value.filter(|text| text.contains('.'))?;
                endpoint = Some((parse_quad(text)?, at + 1));
                at += 1;
            }
            "dev" => {
                dev = Some(value?);
                at += 1;
            }
            "nud" => {
                if value != Some("permanent") {
                    other = other.or(Some(at));
                }
                at += 1;
            }
            "protocol" => {
                other = other.or(Some(at));
                at += 1;
            }
            "proxy" | "router" | "use" | "managed" | "extern_learn" => other = other.or(Some(at)),
            "to" => {
                address = value?.parse().ok();
                at += 1;
            }
            _ => address = here.parse().ok(),
        }
        at += 1;
    }
    let (endpoint, endpoint_at) = endpoint?;
    Some(Neighbour { sets, address, endpoint, endpoint_at, dev: dev?, other })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = (bool, Option<String>, String, usize, String, Option<usize>);

    fn read(text: &str) -> Option<Read> {
        let words = text.split_whitespace().collect::<Vec<_>>();
        parse(&words).map(|found| {
            let Neighbour { sets, address, endpoint, endpoint_at, dev, other } = found;
            let address = address.map(|address| address.to_string());
            (sets, address, endpoint.to_string(), endpoint_at, dev.to_owned(), other)
        })
    }

    #[test]
    fn neighbours_with_an_address_of_the_underlay() {
        let found = read("add 10.0.0.2 lladdr 203.0.113.5 dev tun0").unwrap();
        assert_eq!(found, (true, Some("10.0.0.2".into()), "203.0.113.5".into(), 3, "tun0".into(), None));
        let found = read("replace dev tun0 to fd00::2 ll 1.2 nud permanent").unwrap();
        assert_eq!(found, (true, Some("fd00::2".into()), "1.2.0.0".into(), 6, "tun0".into(), None));
        let found = read("del 10.0.0.2 lladdr 1.2.3.4 dev tun0 nud stale").unwrap();
        assert_eq!((found.0, found.5), (false, Some(6)));
        assert!(read("chg 10.0.0.2 lladdr 1.2.3.4 dev tun0 router").unwrap().5.is_some());
    }

    #[test]
    fn what_is_none_of_these_is_the_real_tools() {
        for text in [
            "",
            "show dev tun0",
            "add 10.0.0.2 lladdr 02:00:01:02:03:04 dev tun0",
            "add 10.0.0.2 lladdr 1.2.3.4",
            "add 10.0.0.2 lladdr 1.2.3.400 dev tun0",
            "add 10.0.0.2 lladdr",
            "add 10.0.0.2 dev tun0",
            "del 10.0.0.2 dev tun0",
            "flush dev tun0",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
