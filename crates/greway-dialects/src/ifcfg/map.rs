//! What the variables of an `ifcfg` file mean for a tunnel.

use std::net::IpAddr;
use std::sync::Arc;

use greway_spec::number::{parse_ipv4, parse_u8, parse_u32};
use greway_spec::{DeviceName, Draft, DraftAddress, Given, Mode, Origin, Span, Tos, Ttl};

use super::lexer::{self, Variable, Variables};
use super::value::parse_prefix;
use crate::diagnostic::{Diagnostic, Warning};
use crate::key::file_key;
use crate::nearest::nearest;
use crate::parsed::Parsed;

/// The variables that make the tunnel what it is; a slip in one of these is worth a word.
const OURS: [&str; 11] = [
    "DEVICE",
    "TYPE",
    "MY_OUTER_IPADDR",
    "PEER_OUTER_IPADDR",
    "MY_INNER_IPADDR",
    "PEER_INNER_IPADDR",
    "KEY",
    "TTL",
    "MTU",
    "ONBOOT",
    "BOOTPROTO",
];

/// What the network-scripts read beside these and we do not do.
const NOT_DONE: [&str; 14] = [
    "LINKSTATUS",
    "IPV6INIT",
    "IPV6ADDR",
    "IPV6ADDR_SECONDARIES",
    "IPV6_MTU",
    "IPV6_DEFAULTGW",
    "ZONE",
    "DNS1",
    "DNS2",
    "DNS3",
    "DOMAIN",
    "SEARCH",
    "ETHTOOL_OPTS",
    "MACADDR",
];

/// What the network-scripts do not read for a tunnel, though it looks as if they would.
const NO_MEANING: [&str; 6] = ["IPADDR", "PREFIX", "NETMASK", "GATEWAY", "HWADDR", "BROADCAST"];

/// What the network-scripts ignore for a tunnel and we honour, with a warning.
const EXTENSIONS: [&str; 7] = ["IKEY", "OKEY", "TOS", "PMTUDISC", "CSUM", "SEQ", "PHYSDEV"];

/// Reads an `ifcfg-NAME` file with `TYPE=GRE`.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse(text: &str, file_name: &str) -> Result<Parsed, Diagnostic> {
    let mut warnings = Vec::new();
    let variables = lexer::read(text, file_name, &mut warnings)?;
    let mut map = Map { file: Arc::from(file_name), variables: &variables, tunnel: None, warnings };
    map.kind()?;
    let name = map.device()?;
    map.tunnel = Some(name.value.clone());
    let mut draft = Draft {
        name: Some(name),
        mode: Some(Mode::Gre.into()),
        origin: Origin::File(file_name.to_owned()),
        ..Draft::default()
    };
    map.outer(&mut draft)?;
    draft.addresses = map.inner()?.map(|address| vec![address]);
    map.extensions(&mut draft)?;
    map.mention_the_rest();
    let onboot = variables.get("ONBOOT").is_none_or(|onboot| !is_false(&onboot.value));
    let mut warnings = map.warnings;
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    Ok(Parsed { draft, warnings, onboot, file: file_name.to_owned() })
}

/// The scripts' words for no, in any case (initscripts `is_false`).
fn is_false(word: &str) -> bool {
    matches!(word.to_ascii_lowercase().as_str(), "f" | "n" | "no" | "off" | "false" | "0")
}

fn is_true(word: &str) -> bool {
    matches!(word.to_ascii_lowercase().as_str(), "t" | "y" | "yes" | "on" | "true" | "1")
}

struct Map<'v> {
    file: Arc<str>,
    variables: &'v Variables,
    /// Named in errors once it is known.
    tunnel: Option<DeviceName>,
    warnings: Vec<Warning>,
}

impl<'v> Map<'v> {
    /// A variable that is set and not empty; to the scripts these two are one.
    fn set(&self, name: &str) -> Option<&'v Variable> {
        self.variables.get(name).filter(|variable| !variable.value.is_empty())
    }

    fn kind(&self) -> Result<(), Diagnostic> {
        let Some(kind) = self.set("TYPE") else {
            return Err(Diagnostic::at(&self.file, 0, 0, "TYPE is missing; TYPE=GRE is right for a tunnel"));
        };
        let message = match kind.value.as_str() {
            "GRE" => return Ok(()),
            "GRE6" | "IPIP" | "IPIP6" | "SIT" | "sit" | "EXTERNAL" => {
                "is not there yet; this version reads TYPE=GRE"
            }
            upper if upper.eq_ignore_ascii_case("gre") => {
                "is wrong: the network-scripts know it in capitals only, TYPE=GRE"
            }
            _ => "is no tunnel; TYPE=GRE is right",
        };
        Err(self.error(kind, format!("TYPE \"{}\" {message}", kind.value)))
    }

    fn device(&self) -> Result<Given<DeviceName>, Diagnostic> {
        let Some(device) = self.set("DEVICE") else {
            let message = "DEVICE is missing; give the tunnel's name, such as DEVICE=tun0";
            return Err(Diagnostic::at(&self.file, 0, 0, message));
        };
        let value = &device.value;
        if matches!(value.as_str(), "gre0" | "tunl0" | "ip6tnl0") {
            let message = format!("Device '{value}' isn't supported as a valid GRE device name.");
            return Err(self
                .error(device, message)
                .help("the kernel's modules take that name; choose another"));
        }
        match value.parse() {
            Ok(name) => Ok(self.given(device, name)),
            Err(_) => {
                Err(self.bad("DEVICE", device, "1 to 15 bytes without '/', ':', '%' or blanks are right"))
            }
        }
    }

    fn outer(&mut self, draft: &mut Draft) -> Result<(), Diagnostic> {
        if self.set("PEER_OUTER_IPADDR").is_none() {
            let message = "PEER_OUTER_IPADDR is missing; a tunnel with many peers is not there yet, so give the \
                           outer address of the far end";
            return Err(self.error_at(0, 0, message));
        }
        draft.remote = self.outer_address("PEER_OUTER_IPADDR")?;
        draft.local = self.outer_address("MY_OUTER_IPADDR")?;
        if let Some(key) = self.key("KEY")? {
            (draft.ikey, draft.okey) = (Some(key.clone()), Some(key));
        }
        let right = "1 to 255, or inherit, is right";
        draft.ttl = self.read("TTL", right, |text| match text {
            "inherit" => Some(Ttl::Inherit),
            number => parse_u8(number).map(Ttl::from),
        })?;
        draft.mtu = self.read("MTU", "a number of bytes is right", |text| parse_u32(text).map(Some))?;
        Ok(())
    }

    fn outer_address(&self, name: &'static str) -> Result<Option<Given<IpAddr>>, Diagnostic> {
        self.read(name, "an IPv4 address such as 100.0.2.100 is right", |text| {
            parse_ipv4(text).map(IpAddr::V4).or_else(|| text.parse().ok())
        })
    }

    /// `ip addr add MY_INNER_IPADDR dev DEVICE [peer PEER_INNER_IPADDR]`.
    fn inner(&mut self) -> Result<Option<Given<DraftAddress>>, Diagnostic> {
        let peer = self.set("PEER_INNER_IPADDR");
        let Some(own) = self.set("MY_INNER_IPADDR") else {
            if let Some(peer) = peer {
                self.warn(
                    peer,
                    "PEER_INNER_IPADDR has no effect without MY_INNER_IPADDR; the tunnel gets no address",
                );
            }
            return Ok(None);
        };
        let right = "an address such as 172.16.0.1 or 172.16.0.2/30 is right";
        let Some((local, own_length)) = parse_prefix(&own.value) else {
            return Err(self.bad("MY_INNER_IPADDR", own, right));
        };
        let alone = self.given(own, DraftAddress { local, peer: None, prefix_length: own_length });
        let Some(peer) = peer else { return Ok(Some(alone)) };
        if self.set("PEER_OUTER_IPADDR").is_some_and(|outer| outer.value == peer.value) {
            let message =
                "PEER_INNER_IPADDR is the peer's outer address and is left out, as the network-scripts do";
            self.warn(peer, message);
            return Ok(Some(alone));
        }
        let Some((address, length)) = parse_prefix(&peer.value) else {
            return Err(self.bad("PEER_INNER_IPADDR", peer, right));
        };
        if own.value.contains('/') && own_length != length {
            let message = format!(
                "the /{own_length} of MY_INNER_IPADDR is not used, as with \"ip addr add\": the peer's prefix \
                 length counts, here /{length}"
            );
            self.warn(own, message);
        }
        Ok(Some(self.given(peer, DraftAddress { local, peer: Some(address), prefix_length: length })))
    }

    fn extensions(&mut self, draft: &mut Draft) -> Result<(), Diagnostic> {
        for name in EXTENSIONS {
            if let Some(variable) = self.set(name) {
                self.warn(
                    variable,
                    format!("{name} is honoured here; the network-scripts ignore it for a tunnel"),
                );
            }
        }
        if let Some(key) = self.key("IKEY")? {
            draft.ikey = Some(key);
        }
        if let Some(key) = self.key("OKEY")? {
            draft.okey = Some(key);
        }
        let right = "00 to ff in hexadecimal, a name such as CS6, inherit, or inherit/CS6 is right";
        draft.tos = self.read("TOS", right, Tos::parse)?;
        draft.pmtudisc = self.yes_or_no("PMTUDISC")?;
        draft.icsum = self.yes_or_no("CSUM")?;
        draft.ocsum = draft.icsum.clone();
        draft.iseq = self.yes_or_no("SEQ")?;
        draft.oseq = draft.iseq.clone();
        let right = "the name of a network device is right";
        draft.dev = self.read("PHYSDEV", right, |text| text.parse().ok().map(Some))?;
        Ok(())
    }

    fn key(&mut self, name: &'static str) -> Result<Option<Given<Option<u32>>>, Diagnostic> {
        let Some(variable) = self.set(name) else { return Ok(None) };
        let key = file_key(name, &variable.value, false).map_err(|message| self.error(variable, message))?;
        if let Some(warning) = key.warning {
            self.warn(variable, warning);
        }
        Ok(Some(self.given(variable, Some(key.number))))
    }

    fn yes_or_no(&self, name: &'static str) -> Result<Option<Given<bool>>, Diagnostic> {
        self.read(name, "yes or no is right", |word| match word {
            word if is_true(word) => Some(true),
            word if is_false(word) => Some(false),
            _ => None,
        })
    }

    /// A word on every variable that will not have the effect somebody may expect of it.
    fn mention_the_rest(&mut self) {
        for (name, variable) in self.variables {
            let name = name.as_str();
            let message = if OURS.contains(&name) || EXTENSIONS.contains(&name) {
                continue;
            } else if NOT_DONE.contains(&name) {
                if variable.value.is_empty() || name == "IPV6INIT" && is_false(&variable.value) {
                    continue;
                }
                format!("{name} is not there yet and has no effect")
            } else if NO_MEANING.contains(&name) {
                format!("{name} has no meaning for a tunnel and no effect, as with the network-scripts")
            } else if let Some(near) = nearest(name, &OURS) {
                format!("unknown variable {name} has no effect; is {near} meant?")
            } else {
                continue;
            };
            self.warn(variable, message);
        }
    }

    fn read<T>(
        &self,
        name: &'static str,
        right: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<Given<T>>, Diagnostic> {
        let Some(variable) = self.set(name) else { return Ok(None) };
        match parse(&variable.value) {
            Some(value) => Ok(Some(self.given(variable, value))),
            None => Err(self.bad(name, variable, right)),
        }
    }

    fn given<T>(&self, variable: &Variable, value: T) -> Given<T> {
        let (line, column) = (variable.line, variable.column);
        Given::at(value, Span::File { file: Arc::clone(&self.file), line, column })
    }

    fn bad(&self, name: &str, variable: &Variable, right: &str) -> Diagnostic {
        self.error(variable, format!("{name} \"{}\" is wrong: {right}", variable.value))
    }

    fn error(&self, variable: &Variable, message: impl std::fmt::Display) -> Diagnostic {
        self.error_at(variable.line, variable.column, message)
    }

    fn error_at(&self, line: u32, column: u32, message: impl std::fmt::Display) -> Diagnostic {
        let object = self.tunnel.as_ref().map_or_else(String::new, |name| format!("tunnel {name}: "));
        Diagnostic::at(&self.file, line, column, format!("{object}{message}"))
    }

    fn warn(&mut self, variable: &Variable, message: impl std::fmt::Display) {
        let Diagnostic { file, line, column, message, .. } = self.error(variable, message);
        self.warnings.push(Warning { file, line, column, message });
    }
}
