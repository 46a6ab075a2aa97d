//! The IPv6 parser, of `ip -6 tunnel`. Its words and values are not those of IPv4.

use std::net::{IpAddr, Ipv6Addr};

use greway_spec::draft::DEFAULT_ENCAPLIMIT;
use greway_spec::number::parse_hex_u32;
use greway_spec::{Draft, FlowLabel, Given, Mode, Tos, Ttl};

use super::{
    Abort, Args, Errno, Lookup, Named, Show, TunnelCommand, Verb, Wording, add_failed, begins, by_ends,
    delete, free_name, shared_word, underlay,
};
use crate::iproute2::args::{byte, default_to, ipv6, traffic_class};
use crate::iproute2::usage;

const FALLBACK: &str = "ip6gre0";
const NO_NAME: &str = "Tunnel interface name not specified\n";

struct Command<'w> {
    draft: Draft,
    named: Named<'w>,
    /// The last mode said: whether it is GRE.
    gre: Option<bool>,
    dev: Option<&'w str>,
}

pub(super) fn parse(
    verb: Verb,
    words: &[&str],
    wording: Wording,
    lookup: &dyn Lookup,
) -> Result<TunnelCommand, Abort> {
    let mut command = Command::read(verb, words, wording, lookup)?;
    if let Some(dev) = command.dev {
        let name = underlay(dev, lookup, 1)?;
        command.draft.dev = Some(Some(name).into());
    }
    match verb {
        Verb::Add => command.add(lookup),
        Verb::Change => command.change(lookup),
        Verb::Delete => match (command.gre, command.named.name) {
            (Some(true), _) | (_, Some(_)) => {
                delete(&command.named, &command.draft, Mode::Ip6Gre, FALLBACK, lookup)
            }
            _ => Ok(TunnelCommand::NotOurs),
        },
        _ => Ok(command.show()),
    }
}

impl<'w> Command<'w> {
    fn read(verb: Verb, words: &'w [&'w str], wording: Wording, lookup: &dyn Lookup) -> Result<Self, Abort> {
        let mut command = Self { draft: Draft::default(), named: Named::default(), gre: None, dev: None };
        let mut args = Args::new(words);
        let mut first = true;
        while let Some(word) = args.next() {
            if !command.word(word, &mut args)? {
                let name = match word {
                    "name" => args.value()?,
                    _ if begins(word, "help") => return Err(usage::tunnel6()),
                    _ => word,
                };
                let load = verb == Verb::Change && first;
                command.named.take(name, load, Mode::Ip6Gre, wording, lookup)?;
                if load {
                    command.gre = Some(true);
                }
            }
            first = false;
        }
        Ok(command)
    }

    /// `false`: no word of `ip -6 tunnel`, so a name.
    fn word(&mut self, word: &str, args: &mut Args<'w>) -> Result<bool, Abort> {
        let draft = &mut self.draft;
        match word {
            "mode" => {
                let gre = match args.value()? {
                    "ip6gre" | "gre/ipv6" => true,
                    "ipv6/ipv6" | "ip6ip6" | "vti6" | "ip/ipv6" | "ipv4/ipv6" | "ipip6" | "ip4ip6"
                    | "any/ipv6" | "any" => false,
                    other => return Err(Abort::line(255, format!("Unknown tunnel mode \"{other}\""))),
                };
                self.gre = Some(gre);
                draft.mode = args.given(Mode::Ip6Gre).filter(|_| gre);
            }
            "remote" => {
                let address = ipv6(args.value()?)?;
                draft.remote = args.given(address);
            }
            "local" => {
                let address = ipv6(args.value()?)?;
                draft.local = args.given(address);
            }
            "dev" => self.dev = Some(args.value()?),
            "encaplimit" => {
                let limit = match args.value()? {
                    "none" => None,
                    // iproute2 sends junk for a value out of range here; "ip link" refuses it like this.
                    text => Some(byte("invalid ELIM", text)?),
                };
                draft.encaplimit = args.given(limit);
            }
            "hoplimit" | "ttl" | "hlim" => {
                let hops = byte("invalid TTL", args.value()?)?;
                draft.ttl = args.given(Ttl::from(hops));
            }
            "tclass" | "tc" | "tos" => draft.tos = class(args)?,
            _ if begins(word, "dsfield") => draft.tos = class(args)?,
            "flowlabel" | "fl" => draft.flowlabel = flow_label(args)?,
            "dscp" => {
                dscp(args)?;
                draft.dscp_inherit = args.given(true);
            }
            "allow-localremote" => draft.allow_localremote = args.given(true),
            "noallow-localremote" => draft.allow_localremote = args.given(false),
            _ => return shared_word(word, args, draft),
        }
        Ok(true)
    }

    fn add(mut self, lookup: &dyn Lookup) -> Result<TunnelCommand, Abort> {
        if self.gre != Some(true) {
            return Ok(TunnelCommand::NotOurs);
        }
        default_to(&mut self.draft.remote, IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let (name, stderr) = match self.named.device(FALLBACK)? {
            Some(name) => (name, ""),
            None => (free_name("ip6gre", lookup)?.into(), NO_NAME),
        };
        self.draft.name = Some(name);
        Ok(TunnelCommand::Add { draft: self.draft, stderr })
    }

    fn change(mut self, lookup: &dyn Lookup) -> Result<TunnelCommand, Abort> {
        let name = match self.named.name {
            Some(name) if self.named.base.is_none() && lookup.tunnel(name).is_err() => {
                return Ok(TunnelCommand::NotOurs);
            }
            Some(name) => self.named.device(name)?.map(|name| name.value),
            None if self.gre != Some(true) => return Ok(TunnelCommand::NotOurs),
            None => by_ends(&self.draft, Mode::Ip6Gre, lookup),
        };
        let Some(name) = name else {
            let Abort { stderr, code } = add_failed(FALLBACK, Errno::NotFound);
            return Err(Abort { stderr: format!("{NO_NAME}{stderr}"), code });
        };
        if self.named.base.is_none() {
            start_from_defaults(&mut self.draft);
        }
        self.draft.name = Some(name.clone().into());
        // The device decides what it is; the mode said here is sent and not looked at.
        self.draft.mode = None;
        Ok(TunnelCommand::Change { name, draft: self.draft })
    }

    fn show(self) -> TunnelCommand {
        let name = self.named.name.map(str::to_owned);
        TunnelCommand::Show(Show { over_ipv6: true, by_name: name.is_some(), name, filter: self.draft })
    }
}

/// A traffic class, or `inherit`, which clears the value. The lowest bit is of ECN, which the payload
/// packet decides (RFC 6040 §4.1), and the model has no place for it.
pub(in crate::iproute2) fn class(args: &mut Args<'_>) -> Result<Option<Given<Tos>>, Abort> {
    let tos = match args.value()? {
        "inherit" => Tos { inherit: true, value: 0 },
        text => Tos { inherit: false, value: traffic_class(text)? & !1 },
    };
    Ok(args.given(tos))
}

/// A flow label in hexadecimal, or `inherit`.
pub(in crate::iproute2) fn flow_label(args: &mut Args<'_>) -> Result<Option<Given<FlowLabel>>, Abort> {
    let label = match args.value()? {
        "inherit" => FlowLabel::Inherit,
        text => match parse_hex_u32(text) {
            Some(label @ 0..=0xf_ffff) => FlowLabel::Fixed(label),
            _ => return Err(Abort::wrong("invalid Flowlabel", text)),
        },
    };
    Ok(args.given(label))
}

/// The only thing that can follow `dscp`.
pub(in crate::iproute2) fn dscp(args: &mut Args<'_>) -> Result<(), Abort> {
    match args.value()? {
        "inherit" => Ok(()),
        other => Err(Abort::wrong("not inherit", other)),
    }
}

/// Whatever `ip -6 tunnel` can say is said, so that nothing of the present tunnel stays.
fn start_from_defaults(draft: &mut Draft) {
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    default_to(&mut draft.remote, any);
    default_to(&mut draft.local, any);
    default_to(&mut draft.ikey, None);
    default_to(&mut draft.okey, None);
    for flag in [
        &mut draft.icsum,
        &mut draft.ocsum,
        &mut draft.iseq,
        &mut draft.oseq,
        &mut draft.dscp_inherit,
        &mut draft.allow_localremote,
    ] {
        default_to(flag, false);
    }
    default_to(&mut draft.ttl, Ttl::Fixed(64));
    default_to(&mut draft.tos, Tos::default());
    default_to(&mut draft.encaplimit, Some(DEFAULT_ENCAPLIMIT));
    default_to(&mut draft.flowlabel, FlowLabel::default());
    default_to(&mut draft.dev, None);
}
