//! `ip tunnel` and `ip -6 tunnel`, exactly as iproute2 reads them.
//!
//! Words, value rules, checks and their order, the choice of the family, exit codes and stderr texts are
//! those of iproute2 6.1 (ip/iptunnel.c, ip/ip6tunnel.c, ip/tunnel.c); what the kernel would have checked
//! in its tunnel ioctls is left to the caller, who reports it with [`TunnelCommand::refused`]. Tunnels
//! that are no GRE are not ours: [`concern`] says so before anything can go wrong.

mod ipv4;
mod ipv6;
mod outline;
mod show;

use greway_spec::{DeviceName, Draft, Given, Mode, TunnelSpec};

use super::abort::{Abort, Errno, Wording};
use super::args::{Args, Concern, Family, Lookup, begins, is_ifname, key};
use super::usage;

pub(super) use ipv6::{class, dscp, flow_label};
pub use outline::concern;
pub(super) use outline::needs_name_word;
pub use show::Show;

/// What a command of `ip tunnel` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelCommand {
    /// Make a tunnel.
    Add {
        /// The tunnel.
        draft: Draft,
        /// What the tool says on stderr before it goes on; mostly nothing.
        stderr: &'static str,
    },
    /// Change one. [`Draft::overlay_on`] the present tunnel is meant: where the tool starts from its
    /// defaults instead (the name was not the first word), the draft has every field of `ip tunnel`.
    Change {
        /// Which.
        name: DeviceName,
        /// The change.
        draft: Draft,
    },
    /// Delete one.
    Delete {
        /// Which.
        name: DeviceName,
    },
    /// Show some: [`super::output::tunnel_show`].
    Show(Show),
    /// No GRE: the real tool's.
    NotOurs,
}

impl TunnelCommand {
    /// How the tool reports that the kernel refused this command.
    pub fn refused(&self, errno: Errno) -> Abort {
        match self {
            // "add" addresses the fallback device, and the message names that.
            Self::Add { draft, .. } => {
                let over_ipv6 = draft.mode.as_ref().is_some_and(|mode| mode.value.over_ipv6());
                add_failed(if over_ipv6 { "ip6gre0" } else { "gre0" }, errno)
            }
            Self::Change { name, .. } => add_failed(name.as_str(), errno),
            Self::Delete { name } => delete_failed(name.as_str(), errno),
            Self::Show(show) => show.failed(errno),
            Self::NotOurs => Abort { stderr: String::new(), code: 1 },
        }
    }
}

/// Which of the tool's two parsers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parser {
    V4,
    V6,
}

/// The verbs in the order in which abbreviations are tried (`prl` and `6rd` are of IPv4 only).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Add,
    Change,
    Delete,
    Show,
    Other,
    Help,
    Unknown,
}

/// Reads the words after `ip tunnel`.
///
/// # Errors
/// Where the tool gives up: its words and its exit code.
pub fn parse<W: AsRef<str>>(
    words: &[W],
    family: Family,
    wording: Wording,
    lookup: &dyn Lookup,
) -> Result<TunnelCommand, Abort> {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let Some(parser) = parser_of(&words, family) else {
        let Family::Other(number) = family else { return Ok(TunnelCommand::NotOurs) };
        return Err(Abort::line(255, format!("Unsupported protocol family: {number}")));
    };
    let (verb, rest) = match words.split_first() {
        None => (Verb::Show, &[][..]),
        Some((word, rest)) => (verb_of(word, parser), rest),
    };
    match (verb, parser) {
        (Verb::Other, _) => Ok(TunnelCommand::NotOurs),
        (Verb::Help, Parser::V4) => Err(usage::tunnel()),
        (Verb::Help, Parser::V6) => Err(usage::tunnel6()),
        (Verb::Unknown, parser) => {
            let word = words.first().copied().unwrap_or_default();
            let (help, stop) = match parser {
                Parser::V4 => ("ip tunnel help", ""),
                Parser::V6 => ("ip -f inet6 tunnel help", "."),
            };
            Err(Abort::line(255, format!("Command \"{word}\" is unknown, try \"{help}\"{stop}")))
        }
        (verb, Parser::V4) => ipv4::parse(verb, rest, wording, lookup),
        (verb, Parser::V6) => ipv6::parse(verb, rest, wording, lookup),
    }
}

/// Before anything else the words are searched for `mode`; an IPv6 mode after the first one decides,
/// even against `-4`. `None`: neither family.
fn parser_of(words: &[&str], family: Family) -> Option<Parser> {
    const MODES_OF_IPV6: [&str; 11] = [
        "ipv6/ipv6",
        "ip6ip6",
        "vti6",
        "ip/ipv6",
        "ipv4/ipv6",
        "ipip6",
        "ip4ip6",
        "ip6gre",
        "gre/ipv6",
        "any/ipv6",
        "any",
    ];
    let mode = words.iter().position(|word| *word == "mode").and_then(|index| words.get(index + 1));
    if mode.is_some_and(|mode| MODES_OF_IPV6.contains(mode)) {
        return Some(Parser::V6);
    }
    match family {
        Family::Unspecified | Family::Inet => Some(Parser::V4),
        Family::Inet6 => Some(Parser::V6),
        Family::Other(_) => None,
    }
}

fn verb_of(word: &str, parser: Parser) -> Verb {
    let verbs: [(&str, Verb); 9] = [
        ("add", Verb::Add),
        ("change", Verb::Change),
        ("delete", Verb::Delete),
        ("show", Verb::Show),
        ("lst", Verb::Show),
        ("list", Verb::Show),
        ("prl", Verb::Other),
        ("6rd", Verb::Other),
        ("help", Verb::Help),
    ];
    verbs
        .into_iter()
        .filter(|(_, verb)| parser == Parser::V4 || *verb != Verb::Other)
        .find(|(whole, _)| begins(word, whole))
        .map_or(Verb::Unknown, |(_, verb)| verb)
}

/// The words both parsers share. `false`: it is none of them.
fn shared_word(word: &str, args: &mut Args<'_>, draft: &mut Draft) -> Result<bool, Abort> {
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
        "seq" => (draft.iseq, draft.oseq) = (args.given(true), args.given(true)),
        "iseq" => draft.iseq = args.given(true),
        "oseq" => draft.oseq = args.given(true),
        "csum" => (draft.icsum, draft.ocsum) = (args.given(true), args.given(true)),
        "icsum" => draft.icsum = args.given(true),
        "ocsum" => draft.ocsum = args.given(true),
        _ => return Ok(false),
    }
    Ok(true)
}

/// The name a command gave, and the tunnel whose parameters it loaded.
#[derive(Default)]
struct Named<'w> {
    name: Option<&'w str>,
    /// With `change` and the name first: the tunnel to overlay.
    base: Option<TunnelSpec>,
}

impl<'w> Named<'w> {
    /// Takes the word as the name; `first`: no other word came before.
    fn take(
        &mut self,
        word: &'w str,
        load: bool,
        modes: Mode,
        wording: Wording,
        lookup: &dyn Lookup,
    ) -> Result<(), Abort> {
        if self.name.is_some() {
            return Err(Abort::garbage("name", word, wording));
        }
        if !is_ifname(word) {
            return Err(Abort::wrong("\"name\" not a valid ifname", word));
        }
        self.name = Some(word);
        if load {
            let loaded = lookup.tunnel(word).and_then(|spec| match spec.mode {
                Mode::Gre | Mode::Ip6Gre => Ok(spec),
                // The Ethernet kinds have no tunnel ioctls.
                Mode::Gretap | Mode::Ip6Gretap => Err(Errno::NotSupported),
            });
            let spec = loaded.map_err(|errno| get_failed(word, errno))?;
            if spec.mode != modes {
                return Err(Abort::wrong("\"name\" is not an ip tunnel", word));
            }
            self.base = Some(spec);
        }
        Ok(())
    }

    /// The name as a name of the model; what only `ip` takes is what the kernel calls invalid.
    fn device(&self, fallback: &str) -> Result<Option<Given<DeviceName>>, Abort> {
        let Some(name) = self.name else { return Ok(None) };
        match name.parse::<DeviceName>() {
            Ok(name) => Ok(Some(name.into())),
            Err(_) => Err(add_failed(fallback, Errno::Invalid)),
        }
    }
}

/// What the kernel calls a tunnel without a name: the prefix and the first free number. Number 0 is the
/// fallback device.
fn free_name(prefix: &str, lookup: &dyn Lookup) -> Result<DeviceName, Abort> {
    let free = (1..=u16::MAX).map(|number| format!("{prefix}{number}")).find(|name| !lookup.device(name));
    free.and_then(|name| name.parse().ok()).ok_or_else(|| add_failed(&format!("{prefix}0"), Errno::NoBuffers))
}

/// The tunnel that a command without a name means: the one with these ends
/// (linux net/ipv4/ip_tunnel.c `ip_tunnel_find`, v6.18).
fn by_ends(draft: &Draft, mode: Mode, lookup: &dyn Lookup) -> Option<DeviceName> {
    let end = |end: &Option<Given<std::net::IpAddr>>| {
        end.as_ref().map(|given| given.value).filter(|address| !address.is_unspecified())
    };
    let ikey = draft.ikey.as_ref().and_then(|given| given.value);
    let dev = draft.dev.as_ref().and_then(|given| given.value.clone());
    let wanted = (end(&draft.local), end(&draft.remote), ikey, dev);
    lookup
        .tunnels()
        .into_iter()
        .find(|spec| spec.mode == mode && (spec.local, spec.remote, spec.ikey, spec.dev.clone()) == wanted)
        .map(|spec| spec.name)
}

/// A word for the underlay device, as a name of the model. It was found already, so it is one.
fn underlay(dev: &str, lookup: &dyn Lookup, code: u8) -> Result<DeviceName, Abort> {
    match dev.parse() {
        Ok(name) if lookup.device(dev) => Ok(name),
        _ => Err(Abort::no_device(dev, code)),
    }
}

fn add_failed(device: &str, errno: Errno) -> Abort {
    Abort::line(1, format!("add tunnel \"{device}\" failed: {errno}"))
}

fn get_failed(device: &str, errno: Errno) -> Abort {
    Abort::line(1, format!("get tunnel \"{device}\" failed: {errno}"))
}

fn delete_failed(device: &str, errno: Errno) -> Abort {
    Abort::line(1, format!("delete tunnel \"{device}\" failed: {errno}"))
}

/// `Delete`, or how the tool says that there is none.
fn delete(
    named: &Named<'_>,
    draft: &Draft,
    mode: Mode,
    fallback: &str,
    lookup: &dyn Lookup,
) -> Result<TunnelCommand, Abort> {
    if let Some(text) = named.name {
        return match text.parse() {
            Ok(name) => Ok(TunnelCommand::Delete { name }),
            Err(_) => Err(delete_failed(text, Errno::NoSuchDevice)),
        };
    }
    let found = by_ends(draft, mode, lookup);
    found.map(|name| TunnelCommand::Delete { name }).ok_or_else(|| delete_failed(fallback, Errno::NotFound))
}
