//! `ip link add|replace|set|change|delete … type KIND …` for the kinds of GRE.
//!
//! The words before `type` are those of every link (generic.rs); those after it are of the kind.
//! Both are read as iproute2 6.1 reads them (ip/iplink.c, ip/link_gre.c, ip/link_gre6.c): by beginnings,
//! the first of its list that fits. What a device of ours cannot be is not dropped: it is listed in
//! [`LinkRequest::unsupported`], each entry with its field, for the caller to refuse. What any device can
//! be told afterwards is handed on in [`LinkRequest::afterwards`].

mod generic;
mod kind_words;

use std::fmt;

use greway_spec::{DeviceName, Draft, Mode};

use super::abort::{Abort, Errno, Wording};
use super::args::{Args, Concern, Lookup, begins};

/// The kinds of link that are GRE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `gre`.
    Gre,
    /// `gretap`.
    Gretap,
    /// `erspan`.
    Erspan,
    /// `ip6gre`.
    Ip6Gre,
    /// `ip6gretap`.
    Ip6Gretap,
    /// `ip6erspan`.
    Ip6Erspan,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Gre, Self::Gretap, Self::Erspan, Self::Ip6Gre, Self::Ip6Gretap, Self::Ip6Erspan];

    /// Its word after `type`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gre => "gre",
            Self::Gretap => "gretap",
            Self::Erspan => "erspan",
            Self::Ip6Gre => "ip6gre",
            Self::Ip6Gretap => "ip6gretap",
            Self::Ip6Erspan => "ip6erspan",
        }
    }

    /// Reads the word after `type`, which `ip` takes in full only.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The mode it is, where the model has it.
    pub fn mode(self) -> Option<Mode> {
        match self {
            Self::Gre => Some(Mode::Gre),
            Self::Gretap => Some(Mode::Gretap),
            Self::Ip6Gre => Some(Mode::Ip6Gre),
            Self::Ip6Gretap => Some(Mode::Ip6Gretap),
            Self::Erspan | Self::Ip6Erspan => None,
        }
    }

    /// Whether the delivery header is IPv6.
    pub fn over_ipv6(self) -> bool {
        matches!(self, Self::Ip6Gre | Self::Ip6Gretap | Self::Ip6Erspan)
    }

    /// Whether it is an Ethernet device, which has a MAC address of its own.
    pub fn is_ethernet(self) -> bool {
        !matches!(self, Self::Gre | Self::Ip6Gre)
    }
}

/// What a command of `ip link` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkCommand {
    /// Make a tunnel.
    Add(LinkRequest),
    /// Make a tunnel that is not there yet: one that is, the kernel refuses, and so does [`parse`] (linux
    /// net/core/rtnetlink.c `__rtnl_newlink`, v6.1, wants no NLM_F_REPLACE).
    Replace(LinkRequest),
    /// Change one: [`Draft::overlay_on`] the present tunnel.
    Set(LinkRequest),
    /// Delete one, named together with its kind.
    Delete {
        /// Which.
        name: DeviceName,
    },
    /// No GRE: the real tool's.
    NotOurs,
}

/// A tunnel as `ip link` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRequest {
    /// The word after `type`.
    pub kind: Kind,
    /// The device.
    pub name: DeviceName,
    /// What is for the tunnel. Its mode is missing for kinds the model has not.
    pub draft: Draft,
    /// `up` or `down`, where said.
    pub up: Option<bool>,
    /// Words for the real tool's `ip link set dev NAME` once the device is there; mostly none.
    pub afterwards: Vec<String>,
    /// What cannot be honoured, in the order of the words.
    pub unsupported: Vec<Unsupported>,
}

/// A word that was understood and cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tunnel {tunnel}: {field}{}: {reason}", quoted(.value))]
pub struct Unsupported {
    /// The device.
    pub tunnel: DeviceName,
    /// The word.
    pub field: &'static str,
    /// Its value, where it has one.
    pub value: Option<String>,
    /// Why not, and what to do.
    pub reason: &'static str,
}

fn quoted(value: &Option<String>) -> String {
    value.as_ref().map_or_else(String::new, |value| format!(" \"{value}\""))
}

impl LinkCommand {
    /// How the tool reports that the kernel refused this command.
    pub fn refused(&self, errno: Errno) -> Abort {
        refused(errno)
    }
}

fn refused(errno: Errno) -> Abort {
    Abort::line(2, format!("RTNETLINK answers: {errno}"))
}

/// The verbs, in the order in which abbreviations are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Add,
    Set,
    Replace,
    Delete,
    Show,
    Other,
}

impl Verb {
    fn of(word: &str) -> Self {
        let verbs = [
            ("add", Self::Add),
            ("set", Self::Set),
            ("change", Self::Set),
            ("replace", Self::Replace),
            ("delete", Self::Delete),
            ("show", Self::Show),
            ("lst", Self::Show),
            ("list", Self::Show),
        ];
        verbs.into_iter().find(|(whole, _)| begins(word, whole)).map_or(Self::Other, |(_, verb)| verb)
    }

    /// Whether the device is new or its settings start from the defaults.
    fn creates(self) -> bool {
        matches!(self, Self::Add | Self::Replace)
    }
}

/// Whether the words after `ip link` concern GRE.
pub fn concern<W: AsRef<str>>(words: &[W]) -> Concern {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let Some((verb, rest)) = words.split_first() else { return Concern::List };
    match Verb::of(verb) {
        Verb::Show => show_concern(rest),
        Verb::Other => Concern::None,
        verb => {
            let outline = generic::outline(rest);
            let gre = outline.kind.is_some_and(|kind| Kind::parse(kind).is_some());
            match (verb, gre, outline.name) {
                (_, false, _) => Concern::None,
                (Verb::Add | Verb::Replace, true, _) => Concern::Gre,
                (_, true, Some(name)) => Concern::Named(name.to_owned()),
                // The real tool says itself that a device is missing.
                (_, true, None) => Concern::None,
            }
        }
    }
}

/// `ip link show` of a device, or of many.
fn show_concern(words: &[&str]) -> Concern {
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "up" | "down" | "nomaster" | "novf" => {}
            "dev" => return words.next().map_or(Concern::None, |name| Concern::Named(name.to_owned())),
            "group" | "master" | "vrf" => {
                words.next();
            }
            _ if begins(word, "type") => {
                words.next();
            }
            name => return Concern::Named(name.to_owned()),
        }
    }
    Concern::List
}

/// Reads the words after `ip link`.
///
/// # Errors
/// Where the tool gives up: its words and its exit code.
pub fn parse<W: AsRef<str>>(
    words: &[W],
    wording: Wording,
    lookup: &dyn Lookup,
) -> Result<LinkCommand, Abort> {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let Some((verb, rest)) = words.split_first() else { return Ok(LinkCommand::NotOurs) };
    let verb = Verb::of(verb);
    if matches!(verb, Verb::Show | Verb::Other) {
        return Ok(LinkCommand::NotOurs);
    }
    let mut args = Args::new(rest);
    let Some(mut read) = generic::read(verb, &mut args, wording, lookup)? else {
        return Ok(LinkCommand::NotOurs);
    };
    let base = if verb.creates() || args.rest().is_empty() { None } else { Some(existing(&read, lookup)?) };
    kind_words::read(&mut args, &mut read, base.as_ref(), lookup)?;
    if verb == Verb::Delete {
        return Ok(LinkCommand::Delete { name: read.name });
    }
    if verb == Verb::Set && lookup.tunnel(read.name.as_str()).ok().map(|spec| spec.mode) != read.kind.mode() {
        return Err(refused(Errno::NotSupported));
    }
    if verb == Verb::Replace && lookup.device(read.name.as_str()) {
        return Err(refused(Errno::NotSupported));
    }
    if verb.creates() {
        kind_words::complete(&mut read);
    }
    read.draft.name = Some(read.name.clone().into());
    Ok(match verb {
        Verb::Add => LinkCommand::Add(read),
        Verb::Replace => LinkCommand::Replace(read),
        _ => LinkCommand::Set(read),
    })
}

/// The tunnel that `set` starts from.
fn existing(read: &LinkRequest, lookup: &dyn Lookup) -> Result<greway_spec::TunnelSpec, Abort> {
    let present = lookup.tunnel(read.name.as_str()).ok();
    // The tool reads whatever attributes the device has as those of the kind said, and fails where the
    // addresses are of the other family.
    present
        .filter(|spec| spec.mode.over_ipv6() == read.kind.over_ipv6())
        .ok_or_else(|| Abort::line(1, "Failed to get existing tunnel info."))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
