//! From a profile to a draft and from a tunnel to a profile.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_spec::{
    DeviceName, Draft, DraftAddress, DraftRoute, FlowLabel, Given, Mode, Origin, Prefix, Span, Tos, Ttl,
    TunnelSpec,
};

use super::profile::{Profile, is_uuid, parse_key};
use super::property::{Property, Use, named};
use super::value::{Route, Value, address, flag_words};
use super::{Identity, Unsayable, of_family};
use crate::diagnostic::{Diagnostic, Warning};

/// What a profile that asks for DHCP is worth. Nobody answers DHCP inside a GRE tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dhcp {
    /// It is refused: in a file that is to be honoured in full.
    Refused,
    /// It is left out with a warning: `nmcli connection add` makes it the default, and people set addresses
    /// with `nmcli connection modify` afterwards.
    LeftOut,
}

/// Bits of `ip-tunnel.flags`.
const IGNORE_ENCAP_LIMIT: i64 = 1;
const USE_ORIG_TCLASS: i64 = 2;
const USE_ORIG_FLOWLABEL: i64 = 4;
const RCV_DSCP_COPY: i64 = 16;
const HONOURED_FLAGS: i64 = IGNORE_ENCAP_LIMIT | USE_ORIG_TCLASS | USE_ORIG_FLOWLABEL | RCV_DSCP_COPY;

impl Profile {
    /// The tunnel that the profile describes. `file` names it in errors that have no place.
    ///
    /// # Errors
    /// The first property that cannot be honoured.
    pub fn draft(&self, file: &str, dhcp: Dhcp) -> Result<(Draft, Vec<Warning>), Diagnostic> {
        let mut reading = Reading { profile: self, file, warnings: Vec::new() };
        reading.refuse()?;
        let mut draft = reading.tunnel()?;
        draft.origin = Origin::File(file.to_owned());
        for setting in ["ipv4", "ipv6"] {
            reading.inner(setting, dhcp, &mut draft)?;
        }
        Ok((draft, reading.warnings))
    }

    /// The profile of a tunnel. Its text round trip is the identity.
    ///
    /// # Errors
    /// The first field that NetworkManager has no property for.
    pub fn of(spec: &TunnelSpec, identity: &Identity) -> Result<Self, Unsayable> {
        sayable(spec)?;
        let mut profile = Self::default();
        let mut set = |setting, name, value| {
            if let Some(property) = named(setting, name) {
                profile.set(property, value, None);
            }
        };
        let text = |text: &dyn ToString| Value::Text(text.to_string());
        set("connection", "id", text(&identity.id));
        set("connection", "uuid", text(&identity.uuid));
        set("connection", "interface-name", text(&spec.name));
        set("connection", "autoconnect", Value::Flag(identity.autoconnect));
        let mode = match spec.mode {
            Mode::Gre => 2,
            Mode::Ip6Gre => 8,
            Mode::Gretap => 10,
            Mode::Ip6Gretap => 11,
        };
        set("ip-tunnel", "mode", Value::Number(mode));
        if let Some(dev) = &spec.dev {
            set("ip-tunnel", "parent", text(dev));
        }
        if let Some(local) = spec.local {
            set("ip-tunnel", "local", text(&local));
        }
        let any: IpAddr =
            if spec.mode.over_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        set("ip-tunnel", "remote", text(&spec.remote.unwrap_or(any)));
        if let Ttl::Fixed(hops) = spec.ttl {
            set("ip-tunnel", "ttl", Value::Number(hops.into()));
        }
        set("ip-tunnel", "path-mtu-discovery", Value::Flag(spec.pmtudisc));
        for (name, key) in [("input-key", spec.ikey), ("output-key", spec.okey)] {
            if let Some(key) = key {
                set("ip-tunnel", name, text(&key));
            }
        }
        set("ip-tunnel", "mtu", Value::Number(spec.mtu.unwrap_or(0).into()));
        let over_ipv6 = spec.mode.over_ipv6();
        let tos = if over_ipv6 { spec.tos.value } else { spec.tos.bits() };
        set("ip-tunnel", "tos", Value::Number(tos.into()));
        let mut flags = 0;
        if over_ipv6 {
            match spec.encaplimit {
                Some(limit) => set("ip-tunnel", "encapsulation-limit", Value::Number(limit.into())),
                None => flags |= IGNORE_ENCAP_LIMIT,
            }
            match spec.flowlabel {
                FlowLabel::Fixed(label) => set("ip-tunnel", "flow-label", Value::Number(label.into())),
                FlowLabel::Inherit => flags |= USE_ORIG_FLOWLABEL,
            }
            flags |= if spec.tos.inherit { USE_ORIG_TCLASS } else { 0 };
            flags |= if spec.dscp_inherit { RCV_DSCP_COPY } else { 0 };
        }
        set("ip-tunnel", "flags", Value::Number(flags));
        for setting in ["ipv4", "ipv6"] {
            let ipv6 = setting == "ipv6";
            let addresses = spec.inner.addresses.iter().filter(|inner| of_family(inner.local, ipv6));
            let addresses = addresses.map(|inner| format!("{}/{}", inner.local, inner.prefix_length));
            let addresses = addresses.collect::<Vec<_>>();
            let routes = spec.inner.routes.iter().filter(|route| of_family(route.destination.address, ipv6));
            let routes = routes.map(|route| {
                let source = route.source.map(|source| format!("src={source}"));
                let table = route.table.map(|table| format!("table={table}"));
                Route {
                    destination: route.destination.address,
                    length: route.destination.length,
                    via: route.via,
                    metric: route.metric,
                    options: source.into_iter().chain(table).collect(),
                }
            });
            let routes = routes.collect::<Vec<_>>();
            let method = match (ipv6, addresses.is_empty(), routes.is_empty()) {
                (_, false, _) => "manual",
                (false, true, _) => "disabled",
                // Its routes are put there, and no address is asked for.
                (true, true, false) => "link-local",
                (true, true, true) => "ignore",
            };
            set(setting, "method", text(&method));
            set(setting, "addresses", Value::Addresses(addresses));
            set(setting, "routes", Value::Routes(routes));
        }
        set("ipv6", "mtu", Value::Number(spec.inner.ipv6_mtu.unwrap_or(0).into()));
        Ok(profile)
    }
}

fn sayable(spec: &TunnelSpec) -> Result<(), Unsayable> {
    let refuse = |field, value: &dyn ToString, why| {
        Err(Unsayable { tunnel: spec.name.clone(), field, value: value.to_string(), why })
    };
    let no_property = "it has no property for it";
    for (field, on) in [
        ("icsum", spec.icsum),
        ("ocsum", spec.ocsum),
        ("iseq", spec.iseq),
        ("oseq", spec.oseq),
        ("ignore-df", spec.ignore_df),
        ("allow-localremote", spec.allow_localremote),
        ("inner forward", spec.inner.forward),
        ("inner link_down", spec.inner.link_down),
    ] {
        if on {
            return refuse(field, &"on", no_property);
        }
    }
    if spec.ttl != Ttl::Inherit && !spec.pmtudisc {
        return refuse("pmtudisc", &"off", "beside a fixed ttl it wants path MTU discovery");
    }
    if spec.fwmark != 0 {
        return refuse("fwmark", &format!("{:#x}", spec.fwmark), "ip-tunnel.fwmark is for VTI tunnels only");
    }
    if let Some(rule) = spec.inner.rules.first() {
        return refuse("inner rule", rule, "its rules belong to no tunnel; set them with `ip rule`");
    }
    if let Some(snat) = spec.inner.snat {
        return refuse("inner snat", &snat, no_property);
    }
    for (field, word, default) in [
        ("datapath", spec.datapath.to_string(), spec.datapath == Default::default()),
        ("underlay", spec.underlay.to_string(), spec.underlay == Default::default()),
        ("overlay", spec.overlay.to_string(), spec.overlay == Default::default()),
        ("firewall", spec.firewall.to_string(), spec.firewall == Default::default()),
        ("direct", "on".to_owned(), !spec.direct),
        ("mss", spec.mss.to_string(), spec.mss == Default::default()),
        ("seq-mode", spec.seq_mode.to_string(), spec.seq_mode == Default::default()),
    ] {
        if !default {
            return refuse(field, &word, no_property);
        }
    }
    // To NetworkManager 0 is "none given".
    if spec.mtu == Some(0) {
        return refuse("mtu", &0, "0 means from the route there");
    }
    for inner in &spec.inner.addresses {
        if let Some(peer) = inner.peer {
            return refuse(
                "inner peer",
                &peer,
                "its addresses have no peer; give our own address with the prefix length",
            );
        }
    }
    let v4 = |address: &IpAddr| address.is_ipv4();
    let addressed = spec.inner.addresses.iter().any(|inner| v4(&inner.local));
    if let Some(route) = spec.inner.routes.iter().find(|route| v4(&route.destination.address))
        && !addressed
    {
        return refuse("inner route", route, "without an IPv4 address it sets no IPv4 routes; give one");
    }
    Ok(())
}

struct Reading<'p> {
    profile: &'p Profile,
    file: &'p str,
    warnings: Vec<Warning>,
}

impl Reading<'_> {
    /// Properties that would do something, and cannot be honoured.
    fn refuse(&self) -> Result<(), Diagnostic> {
        for (property, given) in self.profile.properties() {
            if property.becomes == Use::Refused && given.value.show(property, false) != unset(property) {
                let message = format!(
                    "{} \"{}\" cannot be honoured for a tunnel of greway's; leave it out",
                    property.full_name(),
                    given.value.show(property, false)
                );
                return Err(self.error(&given.span, message));
            }
        }
        Ok(())
    }

    fn tunnel(&mut self) -> Result<Draft, Diagnostic> {
        let profile = self.profile;
        let mode = self.mode()?;
        let name = self.name()?;
        let mut draft = Draft { name: Some(name), mode: Some(mode.clone()), ..Draft::default() };
        let end = |name| {
            let text = profile.text("ip-tunnel", name)?;
            Some(Given { value: address(&text.value, mode.value.over_ipv6())?, span: text.span })
        };
        (draft.local, draft.remote) = (end("local"), end("remote"));
        let ttl = profile.number("ip-tunnel", "ttl");
        draft.ttl =
            Some(Given { value: u8::try_from(ttl.value).map_or(Ttl::Inherit, Ttl::from), span: ttl.span });
        let key = |name| {
            let text = profile.text("ip-tunnel", name)?;
            Some(Given { value: parse_key(&text.value), span: text.span })
        };
        (draft.ikey, draft.okey) = (key("input-key"), key("output-key"));
        let mtu = profile.number("ip-tunnel", "mtu");
        let bytes = u32::try_from(mtu.value).ok().filter(|bytes| *bytes != 0);
        draft.mtu = bytes.map(|bytes| Given { value: Some(bytes), span: mtu.span });
        draft.dev = self.parent()?;
        let flags = profile.number("ip-tunnel", "flags");
        if flags.value & !HONOURED_FLAGS != 0 {
            let words = flag_words(flags.value & !HONOURED_FLAGS);
            return Err(self.error(
                &flags.span,
                format!("ip-tunnel.flags \"{words}\" cannot be honoured; leave it out"),
            ));
        }
        let set = |bit| flags.value & bit != 0;
        let tos = profile.number("ip-tunnel", "tos");
        let byte = u8::try_from(tos.value).unwrap_or_default();
        let pmtudisc = profile.flag("ip-tunnel", "path-mtu-discovery");
        let limit = profile.number("ip-tunnel", "encapsulation-limit");
        let label = profile.number("ip-tunnel", "flow-label");
        if !mode.value.over_ipv6() {
            let value = Tos { inherit: byte & 1 == 1, value: byte & !1 };
            draft.tos = Some(Given { value, span: tos.span });
            draft.pmtudisc = Some(pmtudisc);
            for (name, given) in [("encapsulation-limit", limit), ("flow-label", label)] {
                if given.value != 0 {
                    let message = format!("ip-tunnel.{name} has no effect on mode {}", mode.value);
                    self.warn(&given.span, message);
                }
            }
            return Ok(draft);
        }
        if !pmtudisc.value {
            self.warn(&pmtudisc.span, "ip-tunnel.path-mtu-discovery has no effect over IPv6".to_owned());
        }
        // NetworkManager sends the whole byte as traffic class; ECN is the packet's own affair here.
        if byte & 1 == 1 {
            let message = format!("ip-tunnel.tos \"{byte}\" has an ECN bit set; an even number is right");
            return Err(self.error(&tos.span, message));
        }
        draft.tos = Some(Given { value: Tos { inherit: set(USE_ORIG_TCLASS), value: byte }, span: tos.span });
        let limited = u8::try_from(limit.value).ok().filter(|_| !set(IGNORE_ENCAP_LIMIT));
        draft.encaplimit = Some(Given { value: limited, span: limit.span });
        let fixed = FlowLabel::Fixed(u32::try_from(label.value).unwrap_or_default());
        let value = if set(USE_ORIG_FLOWLABEL) { FlowLabel::Inherit } else { fixed };
        draft.flowlabel = Some(Given { value, span: label.span });
        draft.dscp_inherit = Some(Given { value: set(RCV_DSCP_COPY), span: flags.span });
        Ok(draft)
    }

    fn mode(&self) -> Result<Given<Mode>, Diagnostic> {
        let number = self.profile.number("ip-tunnel", "mode");
        let word = self.profile.mode().unwrap_or_default();
        match Mode::parse(word) {
            Some(mode) if self.profile.is_gre() => Ok(Given { value: mode, span: number.span }),
            _ => {
                let message = format!(
                    "ip-tunnel.mode {} ({word}) is not GRE and not greway's; 2 (gre), 8 (ip6gre), 10 (gretap) and \
                     11 (ip6gretap) are",
                    number.value
                );
                Err(self.error(&number.span, message))
            }
        }
    }

    fn name(&self) -> Result<Given<DeviceName>, Diagnostic> {
        let Some(name) = self.profile.text("connection", "interface-name") else {
            let message = "connection.interface-name is missing; give the tunnel's name, such as tun0";
            return Err(self.error(&None, message.to_owned()));
        };
        match name.value.parse() {
            Ok(value) => Ok(Given { value, span: name.span }),
            Err(wrong) => Err(self.error(&name.span, format!("connection.interface-name {wrong}"))),
        }
    }

    fn parent(&self) -> Result<Option<Given<Option<DeviceName>>>, Diagnostic> {
        let Some(parent) = self.profile.text("ip-tunnel", "parent") else { return Ok(None) };
        match parent.value.parse::<DeviceName>() {
            Ok(dev) => Ok(Some(Given { value: Some(dev), span: parent.span })),
            Err(_) if is_uuid(&parent.value) => {
                let message = format!(
                    "ip-tunnel.parent \"{}\" is the uuid of a profile; give the name of its device instead",
                    parent.value
                );
                Err(self.error(&parent.span, message))
            }
            Err(wrong) => Err(self.error(&parent.span, format!("ip-tunnel.parent {wrong}"))),
        }
    }

    fn inner(&mut self, setting: &'static str, dhcp: Dhcp, draft: &mut Draft) -> Result<(), Diagnostic> {
        let Given { value, span } = self.profile.value(setting, "method");
        let Value::Text(method) = value else { return Ok(()) };
        let ipv6 = setting == "ipv6";
        match (method.as_str(), dhcp) {
            ("manual", _) | ("disabled" | "auto" | "ignore" | "link-local", _)
                if ipv6 || method == "manual" => {}
            ("disabled", _) => {}
            ("auto", Dhcp::LeftOut) => {
                if self.profile.value(setting, "addresses").value == Value::Addresses(Vec::new()) {
                    let message = "ipv4.method \"auto\": nobody answers DHCP in a tunnel; it has no IPv4 address until \
                                   ipv4.addresses is set";
                    self.warn(&span, message.to_owned());
                }
            }
            ("auto", Dhcp::Refused) => {
                let message = "ipv4.method \"auto\" asks a DHCP server, which no GRE tunnel has; manual with \
                               an address, or disabled, is right";
                return Err(self.error(&span, message.to_owned()));
            }
            _ => {
                let right = if ipv6 { "manual, auto, link-local, ignore" } else { "manual" };
                let message = format!(
                    "{setting}.method \"{method}\" cannot be honoured in a tunnel; {right} or disabled is right"
                );
                return Err(self.error(&span, message));
            }
        }
        if method == "disabled" && ipv6 {
            let message = "ipv6.method \"disabled\": no IPv6 address or route is set; the kernel's own link-local \
                           address is left to net.ipv6.conf";
            self.warn(&span, message.to_owned());
        }
        let without = matches!(method.as_str(), "disabled" | "ignore");
        let mtu = self.profile.number("ipv6", "mtu");
        if let Some(bytes) = u32::try_from(mtu.value).ok().filter(|bytes| *bytes != 0 && ipv6) {
            draft.ipv6_mtu = Some(Given { value: bytes, span: mtu.span });
        }
        self.addresses(setting, draft);
        self.routes(setting, without, draft)
    }

    fn addresses(&self, setting: &'static str, draft: &mut Draft) {
        let Given { value, span } = self.profile.value(setting, "addresses");
        let Value::Addresses(list) = value else { return };
        for text in list {
            // In its one form, so it parses.
            let Some((local, length)) = text.split_once('/') else { continue };
            let (Ok(local), Ok(prefix_length)) = (local.parse(), length.parse()) else { continue };
            let address = DraftAddress { local, peer: None, prefix_length };
            draft.addresses.get_or_insert_default().push(Given { value: address, span: span.clone() });
        }
    }

    fn routes(&mut self, setting: &'static str, without: bool, draft: &mut Draft) -> Result<(), Diagnostic> {
        let Given { value, span } = self.profile.value(setting, "routes");
        let Value::Routes(routes) = value else { return Ok(()) };
        let metric = u32::try_from(self.profile.number(setting, "route-metric").value).ok();
        if without {
            if !routes.is_empty() {
                let message =
                    format!("{setting}.routes have no effect with {setting}.method=disabled or ignore");
                self.warn(&span, message);
            }
            return Ok(());
        }
        for route in routes {
            let (mut source, mut table) = (None, None);
            for option in &route.options {
                match option.split_once('=') {
                    Some(("src", text)) if text.parse::<IpAddr>().is_ok() => source = text.parse().ok(),
                    Some(("table", text)) if text.parse::<u32>().is_ok() => table = text.parse().ok(),
                    Some(("onlink", "true")) | Some(("type", "unicast")) => {}
                    _ => {
                        let message = format!(
                            "{setting}.routes \"{route}\": the attribute {option} cannot be honoured; leave it out"
                        );
                        return Err(self.error(&span, message));
                    }
                }
            }
            let masked = Prefix::containing(route.destination, route.length);
            if masked.address != route.destination {
                self.warn(
                    &span,
                    format!("{setting}.routes \"{route}\" is taken as {masked}, as NetworkManager does"),
                );
            }
            let value = DraftRoute {
                address: masked.address,
                length: masked.length,
                via: route.via,
                metric: route.metric.or(metric),
                table,
                source,
            };
            draft.routes.get_or_insert_default().push(Given { value, span: span.clone() });
        }
        let gateway = self.profile.text(setting, "gateway");
        if let Some(gateway) = gateway.filter(|_| !self.profile.flag(setting, "never-default").value) {
            let any: IpAddr =
                if setting == "ipv6" { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let via = gateway.value.parse().ok();
            let value = DraftRoute { via, metric, ..DraftRoute::to(any, 0) };
            draft.routes.get_or_insert_default().push(Given { value, span: gateway.span });
        }
        Ok(())
    }

    fn error(&self, span: &Option<Span>, message: String) -> Diagnostic {
        let (line, column) = match span {
            Some(Span::File { line, column, .. }) => (*line, *column),
            _ => (0, 0),
        };
        Diagnostic::at(self.file, line, column, message)
    }

    fn warn(&mut self, span: &Option<Span>, message: String) {
        let Diagnostic { file, line, column, message, .. } = self.error(span, message);
        self.warnings.push(Warning { file, line, column, message });
    }
}

/// How an unset property is shown.
fn unset(property: &Property) -> String {
    Value::unset(property).show(property, false)
}
