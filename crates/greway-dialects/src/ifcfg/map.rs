//! What the variables of an `ifcfg` file mean for a tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use greway_spec::number::{parse_ipv4, parse_u8, parse_u32};
use greway_spec::{DeviceName, Draft, DraftAddress, DraftRoute, Given, Mode, Origin, Span, Tos, Ttl};

use super::known;
use super::lexer::{Variable, Variables};
use super::value::parse_prefix;
use crate::diagnostic::{Diagnostic, Warning};
use crate::key::file_key;

/// The scripts' words for no, in any case (initscripts `is_false`).
pub(super) fn is_false(word: &str) -> bool {
    matches!(word.to_ascii_lowercase().as_str(), "f" | "n" | "no" | "off" | "false" | "0")
}

fn is_true(word: &str) -> bool {
    matches!(word.to_ascii_lowercase().as_str(), "t" | "y" | "yes" | "on" | "true" | "1")
}

/// The variables of a tunnel, and what is to be said of them.
pub(super) struct Map<'v> {
    /// The `ifcfg` file.
    file: Arc<str>,
    variables: &'v Variables,
    /// Named in errors once it is known.
    tunnel: Option<DeviceName>,
    pub(super) warnings: Vec<Warning>,
}

impl<'v> Map<'v> {
    pub(super) fn new(variables: &'v Variables, file: &str) -> Self {
        Self { file: Arc::from(file), variables, tunnel: None, warnings: Vec::new() }
    }

    /// The tunnel that they describe, and its name.
    pub(super) fn draft(&mut self) -> Result<(Draft, DeviceName), Diagnostic> {
        let mode = self.kind()?;
        let name = self.device()?;
        let device = name.value.clone();
        self.tunnel = Some(device.clone());
        let mut draft = Draft {
            name: Some(name),
            mode: Some(mode),
            origin: Origin::File(self.file.to_string()),
            ..Draft::default()
        };
        self.outer(&mut draft)?;
        draft.addresses = self.inner()?.map(|address| vec![address]);
        self.ipv6(&device, &mut draft)?;
        self.extensions(&mut draft)?;
        self.mention_the_rest();
        Ok((draft, device))
    }

    /// Only a false word keeps a tunnel from starting at boot.
    pub(super) fn onboot(&self) -> bool {
        !self.is("ONBOOT", is_false)
    }

    /// Whether the files with routes and rules count.
    pub(super) fn routes_wanted(&self) -> bool {
        !self.is("NOROUTESET", is_true)
    }

    fn is(&self, name: &str, word: fn(&str) -> bool) -> bool {
        self.variables.get(name).is_some_and(|variable| word(&variable.value))
    }

    /// A variable that is set and not empty; to the scripts these two are one.
    fn set(&self, name: &str) -> Option<&'v Variable> {
        self.variables.get(name).filter(|variable| !variable.value.is_empty())
    }

    fn kind(&self) -> Result<Given<Mode>, Diagnostic> {
        let Some(kind) = self.set("TYPE") else {
            let message = "TYPE is missing; TYPE=GRE is right for a tunnel, TYPE=GRE6 for one over IPv6";
            return Err(Diagnostic::at(&self.file, 0, 0, message));
        };
        let message = match kind.value.as_str() {
            "GRE" => return Ok(self.given(kind, Mode::Gre)),
            "GRE6" => return Ok(self.given(kind, Mode::Ip6Gre)),
            "IPIP" | "IPIP6" | "SIT" | "sit" | "EXTERNAL" => {
                "is a tunnel of another kind; GRE and GRE6 are greway's"
            }
            upper if upper.eq_ignore_ascii_case("gre") || upper.eq_ignore_ascii_case("gre6") => {
                "is wrong: the network-scripts know it in capitals only, TYPE=GRE or TYPE=GRE6"
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
        let ipv6 = draft.mode.as_ref().is_some_and(|mode| mode.value.over_ipv6());
        // Without it the tunnel has many peers (initscripts, for OpenNHRP).
        let any = || {
            Given::from(if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() })
        };
        draft.remote = Some(self.outer_address("PEER_OUTER_IPADDR", ipv6)?.unwrap_or_else(any));
        draft.local = self.outer_address("MY_OUTER_IPADDR", ipv6)?;
        if let Some(key) = self.key("KEY")? {
            (draft.ikey, draft.okey) = (Some(key.clone()), Some(key));
        }
        let right = "1 to 255, or inherit, is right";
        draft.ttl = self.read("TTL", right, |text| match text {
            "inherit" => Some(Ttl::Inherit),
            number => parse_u8(number).map(Ttl::from),
        })?;
        draft.mtu = self.read("MTU", "a number of bytes is right", |text| parse_u32(text).map(Some))?;
        // Any other word is up (initscripts `set_link_up`).
        let status = self.set("LINKSTATUS");
        draft.link_down = status.map(|status| self.given(status, status.value == "down"));
        Ok(())
    }

    fn outer_address(&self, name: &'static str, ipv6: bool) -> Result<Option<Given<IpAddr>>, Diagnostic> {
        let any = |text: &str| matches!(text, "any" | "all" | "default");
        if ipv6 {
            return self.read(name, "an IPv6 address such as 2001:db8::2 is right", |text| match text {
                text if any(text) => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
                text => text.parse().ok(),
            });
        }
        self.read(name, "an IPv4 address such as 100.0.2.100 is right", |text| {
            parse_ipv4(text).map(IpAddr::V4).or_else(|| text.parse().ok())
        })
    }

    /// What `ifup-ipv6` does for a device: addresses, whose prefix length is 64 unless given, the MTU, and the
    /// default route where it is this device's.
    fn ipv6(&self, device: &DeviceName, draft: &mut Draft) -> Result<(), Diagnostic> {
        if self.is("IPV6INIT", is_false) {
            return Ok(());
        }
        for name in ["IPV6ADDR", "IPV6ADDR_SECONDARIES"] {
            let Some(variable) = self.set(name) else { continue };
            for text in variable.value.split_whitespace() {
                let address = parse_prefix(text).filter(|(address, _)| address.is_ipv6());
                let Some((local, length)) = address else {
                    let message =
                        format!("{name} \"{text}\" is wrong: an address such as fd00::1/64 is right");
                    return Err(self.error(variable, message));
                };
                let prefix_length = if text.contains('/') { length } else { 64 };
                let address = DraftAddress { local, peer: None, prefix_length };
                draft.addresses.get_or_insert_default().push(self.given(variable, address));
            }
        }
        draft.ipv6_mtu = self.read("IPV6_MTU", "a number of bytes is right", parse_u32)?;
        if let Some(route) = self.default_route(device)? {
            draft.routes = Some(vec![route]);
        }
        Ok(())
    }

    /// IPV6_DEFAULTGW and IPV6_DEFAULTDEV (initscripts `ipv6_set_default_route`).
    fn default_route(&self, device: &DeviceName) -> Result<Option<Given<DraftRoute>>, Diagnostic> {
        let named = self.set("IPV6_DEFAULTDEV");
        let default = DraftRoute::to(Ipv6Addr::UNSPECIFIED.into(), 0);
        let is_here = |name: &str| name == device.as_str();
        let Some(gateway) = self.set("IPV6_DEFAULTGW").filter(|gateway| gateway.value != "::") else {
            let here = named.filter(|named| is_here(&named.value));
            return Ok(here.map(|named| self.given(named, default)));
        };
        let (address, scope) = match gateway.value.split_once('%') {
            Some((address, scope)) => (address, Some(scope)),
            None => (gateway.value.as_str(), None),
        };
        // Where the gateway is behind another device, or a global file does not say which, it is not ours.
        let here = match (scope, named) {
            (Some(scope), _) => is_here(scope),
            (None, Some(named)) => is_here(&named.value),
            (None, None) => gateway.file == self.file,
        };
        if !here {
            return Ok(None);
        }
        match address.parse::<Ipv6Addr>() {
            Ok(via) => Ok(Some(self.given(gateway, DraftRoute { via: Some(via.into()), ..default }))),
            Err(_) => Err(self.bad("IPV6_DEFAULTGW", gateway, "an IPv6 address is right")),
        }
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
        let key = file_key(name, &variable.value, self.is("STRICT_KEYS", is_true))
            .map_err(|message| self.error(variable, message))?;
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

    /// A word on every variable of the tunnel's own files that will not have the effect somebody may expect.
    fn mention_the_rest(&mut self) {
        let network = |variable: &Variable| {
            variable.file != self.file
                && !variable.file.rsplit('/').next().unwrap_or_default().starts_with("keys-")
        };
        let own = self.variables.iter().filter(|(_, variable)| !network(variable));
        let remarks = own.filter_map(|(name, variable)| {
            known::remark(name, &variable.value).map(|remark| (variable, remark))
        });
        for (variable, remark) in remarks.collect::<Vec<_>>() {
            self.warn(variable, remark);
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
        Given::at(value, Span::File { file: Arc::clone(&variable.file), line, column })
    }

    fn bad(&self, name: &str, variable: &Variable, right: &str) -> Diagnostic {
        self.error(variable, format!("{name} \"{}\" is wrong: {right}", variable.value))
    }

    fn error(&self, variable: &Variable, message: impl std::fmt::Display) -> Diagnostic {
        let object = self.tunnel.as_ref().map_or_else(String::new, |name| format!("tunnel {name}: "));
        Diagnostic::at(&variable.file, variable.line, variable.column, format!("{object}{message}"))
    }

    fn warn(&mut self, variable: &Variable, message: impl std::fmt::Display) {
        let Diagnostic { file, line, column, message, .. } = self.error(variable, message);
        self.warnings.push(Warning { file, line, column, message });
    }
}
