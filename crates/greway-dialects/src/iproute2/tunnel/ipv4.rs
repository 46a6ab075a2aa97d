//! The IPv4 parser of `ip tunnel`.

use std::net::{IpAddr, Ipv4Addr};

use greway_spec::{Draft, Given, Mode, Span, Tos, Ttl};

use super::{
    Abort, Args, Errno, Lookup, Named, Show, TunnelCommand, Verb, Wording, add_failed, begins, by_ends,
    delete, delete_failed, free_name, shared_word, underlay,
};
use crate::iproute2::args::{byte, default_to, ipv4_of_tunnel};
use crate::iproute2::usage;

const FALLBACK: &str = "gre0";

/// What a tunnel of `ip tunnel` carries (the protocol number in its parameters).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Gre,
    Ipip,
    Ipv6,
}

struct Command<'w> {
    draft: Draft,
    named: Named<'w>,
    protocol: Option<Protocol>,
    /// vti is ipip with a mark.
    vti: bool,
    dev: Option<&'w str>,
}

pub(super) fn parse(
    verb: Verb,
    words: &[&str],
    wording: Wording,
    lookup: &dyn Lookup,
) -> Result<TunnelCommand, Abort> {
    let mut command = Command::read(verb, words, wording, lookup)?;
    command.infer_protocol();
    command.keys_allowed()?;
    if let Some(dev) = command.dev {
        let name = underlay(dev, lookup, 1)?;
        command.draft.dev = Some(Some(name).into());
    }
    command.group()?;
    match verb {
        Verb::Add | Verb::Change => command.make(verb, lookup),
        Verb::Delete => command.delete(lookup),
        _ => Ok(command.show()),
    }
}

impl<'w> Command<'w> {
    fn read(verb: Verb, words: &'w [&'w str], wording: Wording, lookup: &dyn Lookup) -> Result<Self, Abort> {
        let mut command =
            Self { draft: Draft::default(), named: Named::default(), protocol: None, vti: false, dev: None };
        let mut args = Args::new(words);
        let mut first = true;
        while let Some(word) = args.next() {
            if !command.word(word, &mut args)? {
                let name = match word {
                    "name" => args.value()?,
                    _ if begins(word, "help") => return Err(usage::tunnel()),
                    _ => word,
                };
                let load = verb == Verb::Change && first;
                command.named.take(name, load, Mode::Gre, wording, lookup)?;
                if load {
                    command.protocol = Some(Protocol::Gre);
                }
            }
            first = false;
        }
        Ok(command)
    }

    /// `false`: no word of `ip tunnel`, so a name.
    fn word(&mut self, word: &str, args: &mut Args<'w>) -> Result<bool, Abort> {
        let draft = &mut self.draft;
        match word {
            "mode" => self.mode(args)?,
            "nopmtudisc" => draft.pmtudisc = args.given(false),
            "pmtudisc" => draft.pmtudisc = args.given(true),
            "remote" => {
                let address = IpAddr::V4(ipv4_of_tunnel(args.value()?)?);
                draft.remote = args.given(address);
            }
            "local" => {
                let address = IpAddr::V4(ipv4_of_tunnel(args.value()?)?);
                draft.local = args.given(address);
            }
            "dev" => self.dev = Some(args.value()?),
            "ttl" | "hoplimit" | "hlim" => {
                let value = args.value()?;
                // "inherit" leaves what was there: it takes nothing back.
                if value != "inherit" {
                    let hops = byte("invalid TTL\n", value)?;
                    draft.ttl = args.given(Ttl::from(hops));
                }
            }
            "tos" | "tclass" => draft.tos = tos(args)?,
            _ if begins(word, "dsfield") => draft.tos = tos(args)?,
            _ => return shared_word(word, args, draft),
        }
        Ok(true)
    }

    fn mode(&mut self, args: &mut Args<'_>) -> Result<(), Abort> {
        let (protocol, vti) = match args.value()? {
            "ipip" | "ip/ip" => (Protocol::Ipip, false),
            "gre" | "gre/ip" => (Protocol::Gre, false),
            "sit" | "ipv6/ip" | "isatap" => (Protocol::Ipv6, false),
            "vti" => (Protocol::Ipip, true),
            other => return Err(Abort::line(255, format!("Unknown tunnel mode \"{other}\""))),
        };
        if self.protocol.is_some_and(|present| present != protocol) {
            return Err(Abort::line(255, "You managed to ask for more than one tunnel mode."));
        }
        self.protocol = Some(protocol);
        self.vti |= vti;
        if protocol == Protocol::Gre {
            self.draft.mode = args.given(Mode::Gre);
        }
        Ok(())
    }

    /// Without a mode the beginning of the name tells.
    fn infer_protocol(&mut self) {
        let (None, Some(name)) = (self.protocol, self.named.name) else { return };
        let beginnings = [
            ("gre", Protocol::Gre, false),
            ("ipip", Protocol::Ipip, false),
            ("sit", Protocol::Ipv6, false),
            ("isatap", Protocol::Ipv6, false),
            ("vti", Protocol::Ipip, true),
        ];
        if let Some((_, protocol, vti)) = beginnings.into_iter().find(|(start, ..)| name.starts_with(start)) {
            self.protocol = Some(protocol);
            self.vti |= vti;
        }
    }

    fn keys_allowed(&self) -> Result<(), Abort> {
        let keyed = self.effective_key(|draft| &draft.ikey).is_some()
            || self.effective_key(|draft| &draft.okey).is_some();
        if keyed && !self.vti && self.protocol != Some(Protocol::Gre) {
            return Err(Abort::line(1, "Keys are not allowed with ipip and sit tunnels"));
        }
        Ok(())
    }

    /// A multicast group as the far end is the key too where none is given, and needs a local address.
    fn group(&mut self) -> Result<(), Abort> {
        let Some(group) = self.remote().filter(Ipv4Addr::is_multicast) else { return Ok(()) };
        let span = self.draft.remote.as_ref().and_then(|given| given.span.clone());
        let as_key = |span: Option<Span>| Some(Given { value: Some(u32::from(group)), span });
        if self.effective_key(|draft| &draft.ikey).unwrap_or(0) == 0 {
            self.draft.ikey = as_key(span.clone());
        }
        if self.effective_key(|draft| &draft.okey).unwrap_or(0) == 0 {
            self.draft.okey = as_key(span);
        }
        if self.local().is_none() {
            return Err(Abort::line(1, "A broadcast tunnel requires a source address"));
        }
        Ok(())
    }

    fn make(mut self, verb: Verb, lookup: &dyn Lookup) -> Result<TunnelCommand, Abort> {
        if self.ttl() != Ttl::Inherit && !self.pmtudisc() {
            return Err(Abort::line(1, "ttl != 0 and nopmtudisc are incompatible"));
        }
        let Some(protocol) = self.protocol else {
            return Err(Abort::line(1, "cannot determine tunnel mode (ipip, gre, vti or sit)"));
        };
        let ours = || self.named.name.is_some_and(|name| lookup.tunnel(name).is_ok());
        match (verb, protocol) {
            (_, Protocol::Gre) => {}
            // The request goes to the device by its name, and GRE takes no other protocol.
            (Verb::Change, _) if ours() => {
                return Err(add_failed(self.named.name.unwrap_or_default(), Errno::Invalid));
            }
            _ => return Ok(TunnelCommand::NotOurs),
        }
        let name = self.named.device(match (verb, self.named.name) {
            (Verb::Change, Some(name)) => name,
            _ => FALLBACK,
        })?;
        if verb == Verb::Change {
            return self.change(name.map(|name| name.value), lookup);
        }
        default_to(&mut self.draft.mode, Mode::Gre);
        default_to(&mut self.draft.remote, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        self.draft.name = match name {
            Some(name) => Some(name),
            None => Some(free_name("gre", lookup)?.into()),
        };
        Ok(TunnelCommand::Add { draft: self.draft, stderr: "" })
    }

    fn change(
        mut self,
        name: Option<greway_spec::DeviceName>,
        lookup: &dyn Lookup,
    ) -> Result<TunnelCommand, Abort> {
        let name = match name {
            Some(name) => name,
            None => by_ends(&self.draft, Mode::Gre, lookup)
                .ok_or_else(|| add_failed(FALLBACK, Errno::NotFound))?,
        };
        if self.named.base.is_none() {
            start_from_defaults(&mut self.draft);
        }
        if self.draft.pmtudisc.as_ref().is_some_and(|on| on.value) {
            self.draft.ignore_df = Some(false.into());
        }
        self.draft.name = Some(name.clone().into());
        Ok(TunnelCommand::Change { name, draft: self.draft })
    }

    fn delete(self, lookup: &dyn Lookup) -> Result<TunnelCommand, Abort> {
        match (self.protocol, self.named.name) {
            (Some(Protocol::Gre), _) | (_, Some(_)) => {
                delete(&self.named, &self.draft, Mode::Gre, FALLBACK, lookup)
            }
            (None, None) => Err(delete_failed("", Errno::NoSuchDevice)),
            (Some(_), None) => Ok(TunnelCommand::NotOurs),
        }
    }

    fn show(self) -> TunnelCommand {
        // With a mode, said or told by the name, one device is asked for; without a name the fallback.
        let by_name = self.protocol.is_some();
        let name = match (self.named.name, self.protocol) {
            (Some(name), _) => Some(name.to_owned()),
            (None, None) => None,
            (None, Some(Protocol::Gre)) => Some(FALLBACK.to_owned()),
            (None, Some(_)) => return TunnelCommand::NotOurs,
        };
        TunnelCommand::Show(Show { over_ipv6: false, name, by_name, filter: self.draft })
    }

    fn effective_key(&self, of: impl Fn(&Draft) -> &Option<Given<Option<u32>>>) -> Option<u32> {
        match (of(&self.draft), &self.named.base) {
            (Some(given), _) => given.value,
            (None, Some(base)) => of(&Draft::from(base)).as_ref().and_then(|given| given.value),
            (None, None) => None,
        }
    }

    fn remote(&self) -> Option<Ipv4Addr> {
        let base = self.named.base.as_ref().and_then(|base| base.remote);
        specified(self.draft.remote.as_ref().map_or(base, |given| Some(given.value)))
    }

    fn local(&self) -> Option<Ipv4Addr> {
        let base = self.named.base.as_ref().and_then(|base| base.local);
        specified(self.draft.local.as_ref().map_or(base, |given| Some(given.value)))
    }

    fn ttl(&self) -> Ttl {
        let base = self.named.base.as_ref().map_or(Ttl::Inherit, |base| base.ttl);
        self.draft.ttl.as_ref().map_or(base, |given| given.value)
    }

    fn pmtudisc(&self) -> bool {
        let base = self.named.base.as_ref().is_none_or(|base| base.pmtudisc);
        self.draft.pmtudisc.as_ref().map_or(base, |given| given.value)
    }
}

fn specified(address: Option<IpAddr>) -> Option<Ipv4Addr> {
    match address {
        Some(IpAddr::V4(address)) if !address.is_unspecified() => Some(address),
        _ => None,
    }
}

/// Whatever `ip tunnel` can say is said, so that nothing of the present tunnel stays.
fn start_from_defaults(draft: &mut Draft) {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    default_to(&mut draft.remote, any);
    default_to(&mut draft.local, any);
    default_to(&mut draft.ikey, None);
    default_to(&mut draft.okey, None);
    for flag in [&mut draft.icsum, &mut draft.ocsum, &mut draft.iseq, &mut draft.oseq] {
        default_to(flag, false);
    }
    default_to(&mut draft.ttl, Ttl::Inherit);
    default_to(&mut draft.tos, Tos::default());
    default_to(&mut draft.pmtudisc, true);
    default_to(&mut draft.dev, None);
}

/// `inherit`, `inherit/V` or `V`. The tool cuts the word at the first slash: of `10/20` it reads `10`, and
/// of `inherit/zz` its error names `inherit`.
fn tos(args: &mut Args<'_>) -> Result<Option<Given<Tos>>, Abort> {
    let text = args.value()?;
    let (before, after) = match text.split_once('/') {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    };
    let wrong = || Abort::wrong("bad TOS value", before);
    let parsed = match (before, after) {
        ("inherit", None) => Tos { inherit: true, value: 0 },
        ("inherit", Some(value)) => {
            let value = Tos::parse(value).filter(|_| value != "inherit" && !value.contains('/'));
            Tos { inherit: true, value: value.ok_or_else(wrong)?.value }
        }
        (value, _) => Tos::parse(value).ok_or_else(wrong)?,
    };
    Ok(args.given(parsed))
}
