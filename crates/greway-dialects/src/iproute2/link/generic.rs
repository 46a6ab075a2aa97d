//! The words before `type`, which every kind of link has.

use greway_spec::number::parse_u32;
use greway_spec::{DeviceName, Draft};

use super::{Abort, Args, Kind, LinkRequest, Lookup, Unsupported, Verb, Wording, begins};
use crate::iproute2::args::{is_ifname, word32};

/// How a word is recognised and how many values follow it.
struct Word {
    whole: &'static str,
    /// Any beginning of it is taken.
    abbreviated: bool,
    values: usize,
}

const fn exact(whole: &'static str, values: usize) -> Word {
    Word { whole, abbreviated: false, values }
}

const fn short(whole: &'static str, values: usize) -> Word {
    Word { whole, abbreviated: true, values }
}

/// In the order in which the tool tries them. Words that are no link's own (`xdp`, `vf`) take more words
/// than a number says; no GRE has them.
const WORDS: [Word; 47] = [
    exact("up", 0),
    exact("down", 0),
    exact("name", 1),
    exact("index", 1),
    short("link", 1),
    short("address", 1),
    short("broadcast", 1),
    exact("brd", 1),
    short("txqueuelen", 1),
    exact("qlen", 1),
    short("txqlen", 1),
    exact("mtu", 1),
    exact("xdpgeneric", 1),
    exact("xdpdrv", 1),
    exact("xdpoffload", 1),
    exact("xdp", 1),
    exact("netns", 1),
    exact("multicast", 1),
    exact("allmulticast", 1),
    exact("promisc", 1),
    exact("trailers", 1),
    exact("arp", 1),
    exact("carrier", 1),
    exact("vf", 1),
    short("master", 1),
    exact("vrf", 1),
    short("nomaster", 0),
    short("dynamic", 1),
    short("type", 1),
    short("alias", 1),
    exact("group", 1),
    exact("mode", 1),
    exact("state", 1),
    short("numtxqueues", 1),
    short("numrxqueues", 1),
    short("addrgenmode", 1),
    short("link-netns", 1),
    short("link-netnsid", 1),
    exact("protodown", 1),
    exact("protodown_reason", 2),
    exact("gso_max_size", 1),
    exact("gso_ipv4_max_size", 1),
    exact("gso_max_segs", 1),
    exact("gro_max_size", 1),
    exact("gro_ipv4_max_size", 1),
    exact("parentdev", 1),
    exact("dev", 1),
];

fn known(word: &str) -> Option<&'static Word> {
    WORDS.iter().find(|known| match known.abbreviated {
        true => begins(word, known.whole),
        false => known.whole == word,
    })
}

/// Name and kind, found without reading a value.
#[derive(Default)]
pub(super) struct Outline<'w> {
    pub(super) name: Option<&'w str>,
    pub(super) kind: Option<&'w str>,
}

pub(super) fn outline<'w>(words: &[&'w str]) -> Outline<'w> {
    let mut outline = Outline::default();
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let Some(known) = known(word) else {
            // The usage of `ip link`, whatever follows.
            if begins(word, "help") {
                return Outline::default();
            }
            outline.name = outline.name.or(Some(word));
            continue;
        };
        match known.whole {
            "type" => {
                outline.kind = words.next();
                break;
            }
            // A rename names its device besides.
            "dev" => {
                let dev = words.next();
                outline.name = dev.or(outline.name);
            }
            "name" => {
                let name = words.next();
                outline.name = outline.name.or(name);
            }
            "vf" | "xdp" | "xdpgeneric" | "xdpdrv" | "xdpoffload" => break,
            _ => {
                for _ in 0..known.values {
                    words.next();
                }
            }
        }
    }
    outline
}

/// What was read before `type`.
struct Generic<'w> {
    name: Option<&'w str>,
    dev: Option<&'w str>,
    /// `name` set `dev` too, and no other word did.
    dev_is_name: bool,
    index: bool,
    group: bool,
    link: Option<&'w str>,
    seen: Vec<&'static str>,
    draft: Draft,
    up: Option<bool>,
    afterwards: Vec<String>,
    refused: Vec<(&'static str, Option<String>, &'static str)>,
    /// Address words with their length: what becomes of them depends on the kind.
    addresses: Vec<(&'static str, &'w str, usize)>,
}

/// Reads up to and with `type KIND`. `None`: no GRE.
pub(super) fn read<'w>(
    verb: Verb,
    args: &mut Args<'w>,
    wording: Wording,
    lookup: &dyn Lookup,
) -> Result<Option<LinkRequest>, Abort> {
    let Some(kind) = outline(args.rest()).kind.and_then(Kind::parse) else { return Ok(None) };
    let mut generic = Generic {
        name: None,
        dev: None,
        dev_is_name: true,
        index: false,
        group: false,
        link: None,
        seen: Vec::new(),
        draft: Draft::default(),
        up: None,
        afterwards: Vec::new(),
        refused: Vec::new(),
        addresses: Vec::new(),
    };
    while let Some(word) = args.next() {
        match known(word).map(|known| known.whole) {
            Some("type") => {
                args.value()?;
                break;
            }
            Some("dev") => {
                let value = args.value()?;
                generic.dev(value, wording)?;
            }
            Some(known) => generic.word(known, args, lookup)?,
            None => generic.dev(word, wording)?,
        }
    }
    generic.finish(verb, kind, args, lookup).map(Some)
}

impl<'w> Generic<'w> {
    fn dev(&mut self, word: &'w str, wording: Wording) -> Result<(), Abort> {
        if !self.dev_is_name {
            return Err(Abort::garbage("dev", word, wording));
        }
        if word.is_empty() || word.contains('/') || word.contains([' ', '\t', '\n', '\x0b', '\x0c', '\r']) {
            return Err(Abort::wrong("\"dev\" not a valid ifname", word));
        }
        self.dev = Some(word);
        self.dev_is_name = false;
        Ok(())
    }

    fn word(&mut self, word: &'static str, args: &mut Args<'w>, lookup: &dyn Lookup) -> Result<(), Abort> {
        match word {
            "up" => self.up = Some(true),
            "down" => self.up = Some(false),
            "nomaster" => self.then(&["nomaster"]),
            "name" => self.rename(args.value()?)?,
            "index" => {
                let value = args.value()?;
                self.once("index", value)?;
                if leading_number(value) <= 0 {
                    return Err(Abort::wrong("Invalid \"index\" value", value));
                }
                self.index = true;
                self.refuse("index", value, "the kernel numbers the devices of greway; leave it out");
            }
            "link" => self.link = Some(args.value()?),
            "address" | "broadcast" | "brd" => {
                let value = args.value()?;
                let length = link_address_length(value)?;
                self.addresses.push((if word == "brd" { "broadcast" } else { word }, value, length));
            }
            "txqueuelen" | "qlen" | "txqlen" => {
                let value = args.value()?;
                self.once("txqueuelen", value)?;
                integer("Invalid \"txqueuelen\" value\n", value)?;
                self.then(&["txqueuelen", value]);
            }
            "mtu" => {
                let value = args.value()?;
                self.once("mtu", value)?;
                let mtu = integer("Invalid \"mtu\" value\n", value)?;
                self.draft.mtu = args.given(Some(u32::try_from(mtu).unwrap_or(u32::MAX)));
            }
            "multicast" | "allmulticast" | "promisc" | "trailers" | "arp" | "dynamic" => {
                let value = args.value()?;
                if !matches!(value, "on" | "off") {
                    let text =
                        format!("Error: argument of \"{word}\" must be \"on\" or \"off\", not \"{value}\"");
                    return Err(Abort::line(1, text));
                }
                self.then(&[word, value]);
            }
            "master" | "vrf" => {
                let value = args.value()?;
                if !lookup.device(value) {
                    let message =
                        if word == "vrf" { "Not a valid VRF name\n" } else { "Device does not exist\n" };
                    return Err(Abort::wrong(message, value));
                }
                self.then(&[word, value]);
            }
            "group" => {
                let value = args.value()?;
                self.once("group", value)?;
                self.group = true;
                self.then(&["group", value]);
            }
            "alias" => {
                let value = args.value()?;
                if value.len() >= 256 {
                    return Err(Abort::wrong("alias too long\n", value));
                }
                self.refuse("alias", value, "greway marks its devices in the alias; leave it out");
            }
            "numtxqueues" | "numrxqueues" => {
                let value = args.value()?;
                self.once(word, value)?;
                let message = match word {
                    "numtxqueues" => "Invalid \"numtxqueues\" value\n",
                    _ => "Invalid \"numrxqueues\" value\n",
                };
                if integer(message, value)? != 1 {
                    self.refuse(word, value, "this version gives a tunnel device one queue; leave it out");
                }
            }
            "gso_max_size" | "gso_ipv4_max_size" | "gso_max_segs" | "gro_max_size" | "gro_ipv4_max_size" => {
                let value = args.value()?;
                word32(&format!("Invalid \"{word}\" value\n"), value)?;
                self.then(&[word, value]);
            }
            "mode" | "addrgenmode" => {
                let value = args.value()?;
                self.then(&[word, value]);
            }
            "netns" => {
                let value = args.value()?;
                self.once("netns", value)?;
                let reason = "a tunnel of greway is made where the command runs; use ip -n NETNS";
                self.refuse("netns", value, reason);
            }
            "link-netns" | "link-netnsid" => {
                let value = args.value()?;
                self.once("link-netns/link-netnsid", value)?;
                self.refuse(word, value, "this version keeps both ends of a tunnel in one namespace");
            }
            "protodown_reason" => {
                let (reason, state) = (args.value()?, args.value()?);
                self.refuse(word, &format!("{reason} {state}"), NOT_OF_TUNNELS);
            }
            word => {
                let value = args.value()?;
                self.refuse(word, value, NOT_OF_TUNNELS);
            }
        }
        Ok(())
    }

    fn rename(&mut self, value: &'w str) -> Result<(), Abort> {
        if self.name.is_some() {
            return Err(Abort::duplicate("name", value));
        }
        if !is_ifname(value) {
            return Err(Abort::wrong("\"name\" not a valid ifname", value));
        }
        self.name = Some(value);
        if self.dev.is_none() {
            self.dev = Some(value);
            self.dev_is_name = true;
        }
        Ok(())
    }

    /// The checks after the last word, and what becomes of the words that depend on the kind.
    fn finish(
        mut self,
        verb: Verb,
        kind: Kind,
        args: &Args<'_>,
        lookup: &dyn Lookup,
    ) -> Result<LinkRequest, Abort> {
        if self.index && !verb.creates() {
            let text = "index can be used only when creating devices or when moving device to another netns.";
            return Err(Abort::line(255, text));
        }
        if self.group && self.dev.is_none() {
            return Err(Abort::line(255, garbage_or_group(args, verb)));
        }
        let name = self.device(verb, kind, lookup)?;
        if let (Some(link), true) = (self.link, verb.creates()) {
            if !lookup.device(link) {
                return Err(Abort::no_device(link, 1));
            }
            self.refuse("link", link, "a tunnel's underlay is \"dev\", after its type");
        }
        for (word, value, length) in std::mem::take(&mut self.addresses) {
            match (kind.is_ethernet(), length) {
                (true, 6) => self.then(&[word, value]),
                (true, _) => self.refuse(word, value, "a MAC address of six bytes is right"),
                (false, _) => self.refuse(word, value, "such a tunnel's addresses are local and remote"),
            }
        }
        let unsupported = self.refused.into_iter().map(|(field, value, reason)| Unsupported {
            tunnel: name.clone(),
            field,
            value,
            reason,
        });
        let unsupported = unsupported.collect();
        let Self { draft, up, afterwards, .. } = self;
        Ok(LinkRequest { kind, name, draft, up, afterwards, unsupported })
    }

    fn device(&mut self, verb: Verb, kind: Kind, lookup: &dyn Lookup) -> Result<DeviceName, Abort> {
        let dev = self.dev.or(self.name);
        if verb.creates() {
            if self.name.is_some_and(|name| dev != Some(name)) {
                let text = "both \"name\" and \"dev\" cannot be used when creating devices.";
                return Err(Abort::line(255, text));
            }
            let Some(name) = dev else { return free_name(kind, lookup) };
            // The kernel's answer to a name that is too long, or that it does not take.
            let refusal = if name.len() > DeviceName::MAX {
                "RTNETLINK answers: Numerical result out of range"
            } else {
                "RTNETLINK answers: Invalid argument"
            };
            return name.parse().ok().ok_or_else(|| Abort::line(2, refusal));
        }
        let Some(name) = dev else {
            return Err(Abort::line(255, "Not enough information: \"dev\" argument is required."));
        };
        let parsed = name.parse().ok().filter(|_| lookup.device(name));
        let parsed = parsed.ok_or_else(|| Abort::no_device(name, 1))?;
        if let Some(new) = self.name.filter(|new| *new != name) {
            self.refuse("name", new, "rename it by itself: ip link set dev OLD name NEW");
        }
        Ok(parsed)
    }

    fn then(&mut self, words: &[&str]) {
        self.afterwards.extend(words.iter().map(|word| (*word).to_owned()));
    }

    fn refuse(&mut self, field: &'static str, value: &str, reason: &'static str) {
        self.refused.push((field, Some(value.to_owned()), reason));
    }

    fn once(&mut self, word: &'static str, value: &str) -> Result<(), Abort> {
        if self.seen.contains(&word) {
            return Err(Abort::duplicate(word, value));
        }
        self.seen.push(word);
        Ok(())
    }
}

const NOT_OF_TUNNELS: &str = "a tunnel of greway has no such setting; leave it out";

/// The kernel's name for a device without one: the kind and the first free number. Number 0 is the
/// fallback device.
fn free_name(kind: Kind, lookup: &dyn Lookup) -> Result<DeviceName, Abort> {
    let names = (1..=u16::MAX).map(|number| format!("{kind}{number}"));
    names
        .into_iter()
        .find(|name| !lookup.device(name))
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| Abort::line(2, "RTNETLINK answers: Numerical result out of range"))
}

fn garbage_or_group(args: &Args<'_>, verb: Verb) -> String {
    match args.rest().first() {
        Some(word) => {
            format!("Garbage instead of arguments \"{word} ...\". Try \"ip link help\".")
        }
        None if verb.creates() => "group cannot be used when creating devices.".to_owned(),
        None => "Not enough information: \"dev\" argument is required.".to_owned(),
    }
}

/// A number with sign, in C notation, of 32 bits (`get_integer`).
fn integer(message: &str, text: &str) -> Result<i64, Abort> {
    let trimmed = text.trim_start();
    let number = match trimmed.strip_prefix('-') {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_digit()) => {
            parse_u32(digits).map(|value| -i64::from(value))
        }
        _ => parse_u32(text).map(i64::from),
    };
    number.filter(|value| i32::try_from(*value).is_ok()).ok_or_else(|| Abort::wrong(message, text))
}

/// What `atoi` makes of it.
fn leading_number(text: &str) -> i64 {
    let text = text.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    sign * digits[..end].parse::<i64>().unwrap_or(0)
}

/// How many bytes a link-layer address has: four with dots, else one for each hexadecimal number.
fn link_address_length(text: &str) -> Result<usize, Abort> {
    let invalid = || Abort::line(1, format!("\"{text}\" is invalid lladdr."));
    if text.contains('.') {
        return greway_spec::number::parse_ipv4(text).map(|_| 4).ok_or_else(invalid);
    }
    let mut length = 0;
    for part in text.split(':') {
        if u8::from_str_radix(part, 16).is_err() {
            return Err(Abort::line(1, format!("\"{part}\" is invalid lladdr.")));
        }
        length += 1;
    }
    Ok(length)
}
