//! `route-NAME`: the routes of a device, in one of two formats.
//!
//! With a line `ADDRESSn=` the file is `ADDRESSn`, `NETMASKn`, `GATEWAYn` from 0 without a gap, and so is
//! a file `NAME.route` always; else each line is what stands after `ip route add`. Of those words the ones
//! a tunnel's route can have are read (`via`, `dev`, `metric`, `src`, `table`); others are refused, not
//! dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use greway_spec::number::parse_u32;
use greway_spec::{DeviceName, DraftRoute, Given, Span};

use super::lexer::{self, Variable, Variables};
use super::tables::Tables;
use super::value::{mask_length, parse_address, parse_prefix};
use super::words::{lines, words};
use crate::diagnostic::{Diagnostic, Warning};

/// The routes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// For [`greway_spec::Draft::routes`].
    pub routes: Vec<Given<DraftRoute>>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// Reads the `route-NAME` (or `route6-NAME`) file of `device`.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse_routes(text: &str, device: &DeviceName, file: &str) -> Result<Routes, Diagnostic> {
    parse_routes_in(text, device, file, &Tables::default())
}

/// The same on a host that has given names to its routing tables.
pub(super) fn parse_routes_in(
    text: &str,
    device: &DeviceName,
    file: &str,
    tables: &Tables,
) -> Result<Routes, Diagnostic> {
    let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
    let reader = Reader { file: Arc::from(file), device, ipv6: name.starts_with("route6-"), tables };
    let numbered = name.ends_with(".route") && !name.starts_with("route") || text.lines().any(starts_address);
    if numbered { reader.numbered(text) } else { reader.lines(text) }
}

fn starts_address(line: &str) -> bool {
    let rest = line.trim_start().strip_prefix("ADDRESS").unwrap_or_default();
    let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    after.len() < rest.len() && after.starts_with('=')
}

struct Reader<'d> {
    file: Arc<str>,
    device: &'d DeviceName,
    /// The family of the file.
    ipv6: bool,
    tables: &'d Tables,
}

impl Reader<'_> {
    fn numbered(&self, text: &str) -> Result<Routes, Diagnostic> {
        let mut routes = Routes::default();
        let variables = lexer::read(text, &self.file, &mut routes.warnings)?;
        for number in 0_u32.. {
            let set = |word: &str| variable(&variables, word, number);
            let Some(address) = set("ADDRESS") else {
                routes.warnings.extend(self.beyond(&variables, number));
                break;
            };
            routes.routes.push(self.numbered_route(number, address, set("NETMASK"), set("GATEWAY"))?);
        }
        Ok(routes)
    }

    fn numbered_route(
        &self,
        number: u32,
        address: &Variable,
        netmask: Option<&Variable>,
        gateway: Option<&Variable>,
    ) -> Result<Given<DraftRoute>, Diagnostic> {
        let bad = |word: &str, variable: &Variable, right: &str| {
            let message = format!("{word}{number} \"{}\" is wrong: {right}", variable.value);
            self.error(variable.line, variable.column, message)
        };
        let Some(destination @ IpAddr::V4(_)) = parse_address(&address.value) else {
            return Err(bad("ADDRESS", address, "an IPv4 address is right"));
        };
        let Some(netmask) = netmask else {
            let message = format!("NETMASK{number} is missing; give the netmask of ADDRESS{number}");
            return Err(self.error(address.line, 0, message));
        };
        let length = match parse_address(&netmask.value) {
            Some(IpAddr::V4(mask)) => mask_length(mask),
            _ => None,
        };
        let Some(length) = length else {
            return Err(bad("NETMASK", netmask, "a netmask such as 255.255.255.0 is right"));
        };
        let via = match gateway {
            None => None,
            Some(gateway) => match parse_address(&gateway.value) {
                Some(via) => Some(via),
                None => return Err(bad("GATEWAY", gateway, "an address is right")),
            },
        };
        let route = DraftRoute { via, ..DraftRoute::to(destination, length) };
        Ok(self.given(address.line, address.column, route))
    }

    /// A warning about addresses that the scripts do not come to because `missing` is not there.
    fn beyond(&self, variables: &Variables, missing: u32) -> Option<Warning> {
        let number = |name: &str| name.strip_prefix("ADDRESS")?.parse::<u32>().ok();
        let beyond = variables.iter().filter(|(name, _)| number(name).is_some_and(|number| number > missing));
        let (name, first) = beyond.min_by_key(|(_, variable)| variable.line)?;
        let message = format!("{name} and what follows has no effect, because ADDRESS{missing} is missing");
        Some(Warning { file: self.file.to_string(), line: first.line, column: 0, message })
    }

    fn lines(&self, text: &str) -> Result<Routes, Diagnostic> {
        let mut routes = Routes::default();
        for (number, line) in lines(text) {
            let mut words = words(line);
            if let Some((column, destination)) = words.next() {
                let (route, warning) = self.line(number, column, destination, words)?;
                routes.routes.push(self.given(number, column, route));
                routes.warnings.extend(warning);
            }
        }
        Ok(routes)
    }

    fn line<'l>(
        &self,
        line: u32,
        column: u32,
        destination: &str,
        mut words: impl Iterator<Item = (u32, &'l str)>,
    ) -> Result<(DraftRoute, Option<Warning>), Diagnostic> {
        let prefix = match destination {
            "default" if self.ipv6 => Some((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)),
            "default" => Some((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)),
            text => parse_prefix(text),
        };
        let Some((address, length)) = prefix else {
            let message =
                format!("route \"{destination}\" is wrong: a destination such as 10.10.2.0/24 is right");
            return Err(self.error(line, column, message));
        };
        if address.is_ipv6() != self.ipv6 {
            let right = if self.ipv6 {
                "IPv6 routes are right in this file"
            } else {
                "an IPv6 route belongs into a file route6-NAME"
            };
            let message = format!("route \"{destination}\" is of the wrong family: {right}");
            return Err(self.error(line, column, message));
        }
        let mut route = DraftRoute::to(address, length);
        let mut dev = None;
        while let Some((column, word)) = words.next() {
            if !WORDS.contains(&word) {
                let message = format!(
                    "route {destination}: \"{word}\" is not there yet; via, dev, metric, src and table are"
                );
                return Err(self.error(line, column, message));
            }
            let Some((column, value)) = words.next() else {
                return Err(self.error(line, column, format!("route {destination}: {word} needs a value")));
            };
            let right = match word {
                "via" => {
                    route.via = parse_address(value);
                    route.via.is_none().then_some("an address is right")
                }
                "src" => {
                    route.source = parse_address(value);
                    route.source.is_none().then_some("an address is right")
                }
                "table" => {
                    route.table = self.tables.number(value);
                    route.table.is_none().then_some(
                        "a number of 1 to 4294967295 is right, or a name in /etc/iproute2/rt_tables",
                    )
                }
                "dev" => {
                    dev = Some(value);
                    (value != self.device.as_str()).then_some("this file is about its own device only")
                }
                _ => {
                    route.metric = parse_u32(value);
                    route.metric.is_none().then_some("0 to 4294967295 is right")
                }
            };
            if let Some(right) = right {
                let message = format!("route {destination}: {word} \"{value}\" is wrong: {right}");
                return Err(self.error(line, column, message));
            }
        }
        match (dev, route.via) {
            (None, None) => {
                let message = format!("route {destination} names no device; add \"dev {}\"", self.device);
                Err(self.error(line, column, message))
            }
            (None, Some(_)) => {
                let message = format!("route {destination} names no device; taken for dev {}", self.device);
                let warning = Warning { file: self.file.to_string(), line, column: 0, message };
                Ok((route, Some(warning)))
            }
            (Some(_), _) => Ok((route, None)),
        }
    }

    fn given(&self, line: u32, column: u32, route: DraftRoute) -> Given<DraftRoute> {
        Given::at(route, Span::File { file: Arc::clone(&self.file), line, column })
    }

    fn error(&self, line: u32, column: u32, message: impl std::fmt::Display) -> Diagnostic {
        Diagnostic::at(&self.file, line, column, format!("tunnel {}: {message}", self.device))
    }
}

fn variable<'v>(variables: &'v Variables, word: &str, number: u32) -> Option<&'v Variable> {
    variables.get(&format!("{word}{number}")).filter(|variable| !variable.value.is_empty())
}

/// What a line can have after its destination (iproute2 6.1 ip/iproute.c `iproute_modify`).
const WORDS: [&str; 8] = ["via", "dev", "metric", "priority", "preference", "pref", "src", "table"];

#[cfg(test)]
mod tests {
    use super::*;

    fn tun0() -> DeviceName {
        "tun0".parse().unwrap()
    }

    fn routes(text: &str) -> Result<Vec<String>, String> {
        let routes = parse_routes(text, &tun0(), "route-tun0").map_err(|error| error.to_string())?;
        let route = |given: &Given<DraftRoute>| {
            let DraftRoute { address, length, via, metric, table, source } = given.value;
            let source = source.map_or_else(String::new, |source| format!(" src {source}"));
            let table = table.map_or_else(String::new, |table| format!(" table {table}"));
            let via = via.map_or_else(String::new, |via| format!(" via {via}"));
            let metric = metric.map_or_else(String::new, |metric| format!(" metric {metric}"));
            format!("{address}/{length}{via}{metric}{source}{table}")
        };
        let warnings = routes.warnings.iter().map(ToString::to_string);
        Ok(routes.routes.iter().map(route).chain(warnings).collect())
    }

    #[test]
    fn g96_numbered() {
        let text = "ADDRESS0=10.10.2.0\nNETMASK0=255.255.255.0\nGATEWAY0=172.16.0.2\nADDRESS1=10.0.0.0\nNETMASK1=255.0.0.0\n";
        assert_eq!(routes(text).unwrap(), ["10.10.2.0/24 via 172.16.0.2", "10.0.0.0/8"]);
    }

    #[test]
    fn g97_a_gap_ends_it() {
        let none = "ADDRESS1=10.10.2.0\nNETMASK1=255.255.255.0\n";
        let warning =
            "route-tun0:1: warning: ADDRESS1 and what follows has no effect, because ADDRESS0 is missing";
        assert_eq!(routes(none).unwrap(), [warning]);
    }

    #[test]
    fn lines_of_ip_route() {
        let text = "# to the other side\n\n10.10.2.0/24 dev tun0\n  10.10.3/24 via 172.16.0.2 dev tun0 metric 50\ndefault via 172.16.0.2\n10.9/16 dev tun0 src 172.16.0.1 table main\n";
        assert_eq!(
            routes(text).unwrap(),
            [
                "10.10.2.0/24",
                "10.10.3.0/24 via 172.16.0.2 metric 50",
                "0.0.0.0/0 via 172.16.0.2",
                "10.9.0.0/16 src 172.16.0.1 table 254",
                "route-tun0:5: warning: route default names no device; taken for dev tun0",
            ]
        );
    }

    #[test]
    fn default_is_of_the_files_family() {
        let routes = parse_routes("default dev tun0", &tun0(), "/etc/route6-tun0").unwrap();
        assert_eq!(routes.routes[0].value.address, IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }

    #[test]
    fn refused_with_the_place() {
        for (text, place, part) in [
            ("10.10.2.0/24 dev eth0", "1:18", "its own device"),
            ("\n10.10.2.0/24 dev tun0 scope link", "2:23", "\"scope\" is not there yet"),
            ("10.10.2.0/24 dev tun0 table vpn", "1:29", "rt_tables"),
            ("fd00::/8 dev tun0", "1:1", "belongs into a file route6-NAME"),
            ("10.10.2.0/24", "1:1", "add \"dev tun0\""),
            ("foo dev tun0", "1:1", "\"foo\" is wrong"),
            ("10.10.2.0/24 dev", "1:14", "dev needs a value"),
            ("10.10.2.0/24 dev tun0 via x", "1:27", "via \"x\" is wrong"),
            ("ADDRESS0=10.10.2.0", "1", "NETMASK0 is missing"),
            ("ADDRESS0=10.10.2.0\nNETMASK0=255.0.255.0", "2:10", "NETMASK0 \"255.0.255.0\" is wrong"),
            ("ADDRESS0=$(id)", "1:10", "expanded"),
        ] {
            let message = routes(text).expect_err(text);
            assert!(message.starts_with(&format!("route-tun0:{place}: ")), "{text:?}: {message}");
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}
