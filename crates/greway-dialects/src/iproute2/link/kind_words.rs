//! The words after `type KIND`. IPv4 and IPv6 kinds share the first half of the list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_spec::{DeviceName, Given, Tos, Ttl, TunnelSpec};

use super::{Abort, Args, Kind, LinkRequest, Lookup, Unsupported, begins};
use crate::iproute2::args::{byte, default_to, ipv4, ipv6, key, short, word32};
use crate::iproute2::tunnel::{class, dscp, flow_label};
use crate::iproute2::usage;

/// Tried in this order, any beginning is taken. The two about path MTU discovery are of IPv4.
const ABBREVIATED: [&str; 29] = [
    "key",
    "nokey",
    "ikey",
    "noikey",
    "okey",
    "nookey",
    "seq",
    "noseq",
    "iseq",
    "noiseq",
    "oseq",
    "nooseq",
    "csum",
    "nocsum",
    "icsum",
    "noicsum",
    "ocsum",
    "noocsum",
    "nopmtudisc",
    "pmtudisc",
    "remote",
    "local",
    "dev",
    "ttl",
    "hoplimit",
    "hlim",
    "tos",
    "tclass",
    "dsfield",
];

const NO_UDP: &str = "this version sends no GRE in UDP; leave it out";
const NO_METADATA: &str = "this version needs a peer for each tunnel; give remote and key instead";
const NO_ERSPAN: &str = "is not there yet; this version has gre, gretap, ip6gre and ip6gretap";

struct Words<'r> {
    request: &'r mut LinkRequest,
    base: Option<&'r TunnelSpec>,
    /// `encap` other than none, the last one said.
    encap: Option<String>,
}

/// Reads the words into the request; `base` is the tunnel that `set` changes.
pub(super) fn read(
    args: &mut Args<'_>,
    request: &mut LinkRequest,
    base: Option<&TunnelSpec>,
    lookup: &dyn Lookup,
) -> Result<(), Abort> {
    let mut words = Words { request, base, encap: None };
    if matches!(words.request.kind, Kind::Erspan | Kind::Ip6Erspan) {
        let kind = words.request.kind.word().to_owned();
        words.refuse("type", Some(kind), NO_ERSPAN);
    }
    while let Some(word) = args.next() {
        words.word(word, args, lookup)?;
    }
    if let Some(encap) = words.encap.take() {
        words.refuse("encap", Some(encap), NO_UDP);
    }
    if !words.request.kind.over_ipv6() {
        words.group()?;
    }
    Ok(())
}

/// Fills in what a new tunnel has where nothing was said, as far as the model has no default for it.
pub(super) fn complete(request: &mut LinkRequest) {
    let draft = &mut request.draft;
    if let Some(mode) = request.kind.mode() {
        draft.mode = Some(mode.into());
    }
    let any: IpAddr =
        if request.kind.over_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    default_to(&mut draft.remote, any);
}

impl Words<'_> {
    fn word(&mut self, word: &str, args: &mut Args<'_>, lookup: &dyn Lookup) -> Result<(), Abort> {
        let over_ipv6 = self.request.kind.over_ipv6();
        let abbreviated = ABBREVIATED
            .into_iter()
            .filter(|whole| !over_ipv6 || !matches!(*whole, "pmtudisc" | "nopmtudisc"))
            .find(|whole| begins(word, whole));
        match abbreviated {
            Some(whole @ ("remote" | "local" | "dev")) => self.end(whole, args, lookup),
            Some(whole @ ("ttl" | "hoplimit" | "hlim" | "tos" | "tclass" | "dsfield")) => {
                self.header(whole, args)
            }
            Some(whole) => self.gre(whole, args),
            None => self.exact(word, args),
        }
    }

    /// Keys and flags of the GRE header, and path MTU discovery.
    fn gre(&mut self, word: &str, args: &mut Args<'_>) -> Result<(), Abort> {
        let draft = &mut self.request.draft;
        let (off, none) = (args.given(false), args.given(None));
        match word {
            "key" => {
                let value = Some(key("key", args.value()?)?);
                (draft.ikey, draft.okey) = (args.given(value), args.given(value));
            }
            "ikey" => {
                let value = Some(key("ikey", args.value()?)?);
                draft.ikey = args.given(value);
            }
            "okey" => {
                let value = Some(key("okey", args.value()?)?);
                draft.okey = args.given(value);
            }
            "nokey" => (draft.ikey, draft.okey) = (none.clone(), none),
            "noikey" => draft.ikey = none,
            "nookey" => draft.okey = none,
            "seq" => (draft.iseq, draft.oseq) = (args.given(true), args.given(true)),
            "noseq" => (draft.iseq, draft.oseq) = (off.clone(), off),
            "iseq" => draft.iseq = args.given(true),
            "noiseq" => draft.iseq = off,
            "oseq" => draft.oseq = args.given(true),
            "nooseq" => draft.oseq = off,
            "csum" => (draft.icsum, draft.ocsum) = (args.given(true), args.given(true)),
            "nocsum" => (draft.icsum, draft.ocsum) = (off.clone(), off),
            "icsum" => draft.icsum = args.given(true),
            "noicsum" => draft.icsum = off,
            "ocsum" => draft.ocsum = args.given(true),
            "noocsum" => draft.ocsum = off,
            "pmtudisc" => draft.pmtudisc = args.given(true),
            _ => draft.pmtudisc = off,
        }
        Ok(())
    }

    fn end(&mut self, word: &str, args: &mut Args<'_>, lookup: &dyn Lookup) -> Result<(), Abort> {
        let address = if self.request.kind.over_ipv6() { ipv6 } else { ipv4 };
        let value = args.value()?;
        match word {
            "remote" => self.request.draft.remote = args.given(address(value)?),
            "local" => self.request.draft.local = args.given(address(value)?),
            _ => {
                let name = value.parse::<DeviceName>().ok().filter(|_| lookup.device(value));
                let name = name.ok_or_else(|| Abort::no_device(value, 255))?;
                self.request.draft.dev = args.given(Some(name));
            }
        }
        Ok(())
    }

    /// Hop limit and TOS.
    fn header(&mut self, word: &str, args: &mut Args<'_>) -> Result<(), Abort> {
        let over_ipv6 = self.request.kind.over_ipv6();
        let draft = &mut self.request.draft;
        match word {
            "tos" | "tclass" | "dsfield" if over_ipv6 => draft.tos = class(args)?,
            "tos" | "tclass" | "dsfield" => {
                let value = args.value()?;
                let tos = Tos::parse(value).filter(|_| !value.contains('/'));
                draft.tos = args.given(tos.ok_or_else(|| Abort::wrong("bad TOS value", value))?);
            }
            _ => {
                let message = if over_ipv6 { "invalid HLIM\n" } else { "invalid TTL\n" };
                let ttl = match args.value()? {
                    "inherit" => Ttl::Inherit,
                    value => Ttl::from(byte(message, value)?),
                };
                draft.ttl = args.given(ttl);
            }
        }
        Ok(())
    }

    /// The words that have to be written in full.
    fn exact(&mut self, word: &str, args: &mut Args<'_>) -> Result<(), Abort> {
        let kind = self.request.kind;
        let draft = &mut self.request.draft;
        match (word, kind.over_ipv6()) {
            ("flowlabel" | "fl", true) => draft.flowlabel = flow_label(args)?,
            ("dscp", true) => {
                dscp(args)?;
                draft.dscp_inherit = args.given(true);
            }
            ("allow-localremote", true) => draft.allow_localremote = args.given(true),
            ("noallow-localremote", true) => draft.allow_localremote = args.given(false),
            ("encaplimit", true) => {
                let limit = match args.value()? {
                    "none" => None,
                    text => Some(byte("invalid ELIM", text)?),
                };
                draft.encaplimit = args.given(limit);
            }
            ("ignore-df", false) => draft.ignore_df = args.given(true),
            ("noignore-df", false) => draft.ignore_df = args.given(false),
            ("fwmark", over_ipv6) => match args.value()? {
                "inherit" if over_ipv6 => {
                    let reason = "this version marks with a number or not at all; leave it out";
                    self.refuse("fwmark", Some("inherit".to_owned()), reason);
                }
                text => {
                    let mark = word32("invalid fwmark\n", text)?;
                    draft.fwmark = args.given(mark);
                }
            },
            ("external", _) => self.refuse("external", None, NO_METADATA),
            ("noencap", _) => self.encap = None,
            ("encap", _) => {
                self.encap = match args.value()? {
                    "none" => None,
                    value @ ("fou" | "gue") => Some(value.to_owned()),
                    other => return Err(Abort::wrong("Invalid encap type.", other)),
                };
            }
            // Without "encap" these say nothing, and with it they are refused together.
            ("encap-sport", _) => match args.value()? {
                "auto" => {}
                text => {
                    short("Invalid source port.", text)?;
                }
            },
            ("encap-dport", _) => {
                short("Invalid destination port.", args.value()?)?;
            }
            (
                "encap-csum" | "noencap-csum" | "encap-udp6-csum" | "noencap-udp6-csum" | "encap-remcsum"
                | "noencap-remcsum",
                _,
            ) => {}
            (word, over_ipv6) if over_ipv6 || kind == Kind::Erspan => self.erspan(word, args)?,
            _ => return Err(usage::link(kind)),
        }
        Ok(())
    }

    /// The words of ERSPAN, which the IPv6 parser takes for each of its kinds.
    fn erspan(&mut self, word: &str, args: &mut Args<'_>) -> Result<(), Abort> {
        let field = match word {
            "erspan" => "erspan",
            "erspan_ver" => "erspan_ver",
            "erspan_dir" => "erspan_dir",
            "erspan_hwid" => "erspan_hwid",
            _ => return Err(usage::link(self.request.kind)),
        };
        let value = args.value()?;
        match field {
            "erspan" => {
                if !(1..1 << 20).contains(&word32("invalid erspan index\n", value)?) {
                    return Err(Abort::wrong("erspan index must be > 0 and <= 20-bit\n", value));
                }
            }
            "erspan_ver" => {
                if byte("invalid erspan version\n", value)? > 2 {
                    return Err(Abort::wrong("erspan version must be 0/1/2\n", value));
                }
            }
            "erspan_dir" if begins(value, "ingress") || begins(value, "egress") => {}
            "erspan_dir" => return Err(Abort::wrong("Invalid erspan direction.", value)),
            _ => {
                short("invalid erspan hwid\n", value)?;
            }
        }
        self.refuse(field, Some(value.to_owned()), "this version has no ERSPAN; leave it out");
        Ok(())
    }

    /// A multicast group as the far end is the key too where none is given, and needs a local address.
    fn group(&mut self) -> Result<(), Abort> {
        let base = self.base;
        let draft = &mut self.request.draft;
        let end = |given: &Option<Given<IpAddr>>, present: Option<IpAddr>| {
            given.as_ref().map_or(present, |given| Some(given.value)).filter(|end| !end.is_unspecified())
        };
        let remote = end(&draft.remote, base.and_then(|base| base.remote));
        let Some(IpAddr::V4(group)) = remote.filter(IpAddr::is_multicast) else { return Ok(()) };
        let span = draft.remote.as_ref().and_then(|given| given.span.clone());
        fill_key(&mut draft.ikey, base.and_then(|base| base.ikey), group, &span);
        fill_key(&mut draft.okey, base.and_then(|base| base.okey), group, &span);
        if end(&draft.local, base.and_then(|base| base.local)).is_none() {
            return Err(Abort::line(1, "A broadcast tunnel requires a source address."));
        }
        Ok(())
    }

    fn refuse(&mut self, field: &'static str, value: Option<String>, reason: &'static str) {
        let tunnel = self.request.name.clone();
        self.request.unsupported.push(Unsupported { tunnel, field, value, reason });
    }
}

fn fill_key(
    key: &mut Option<Given<Option<u32>>>,
    present: Option<u32>,
    group: Ipv4Addr,
    span: &Option<greway_spec::Span>,
) {
    let effective = key.as_ref().map_or(present, |given| given.value);
    if effective.unwrap_or(0) == 0 {
        *key = Some(Given { value: Some(u32::from(group)), span: span.clone() });
    }
}
