//! A script of `ip` commands that builds one tunnel, read back into a description of it.
//!
//! What a shell would do to a line (variables, pipes, several commands) is not done: such a line is
//! refused, and so is every command that does not belong to the tunnel or cannot be honoured. A link that
//! nothing sets up is meant to be up all the same, as people leave that line out.

use std::net::IpAddr;
use std::sync::Arc;

use greway_spec::number::{parse_quad, parse_u32};
use greway_spec::{Draft, DraftAddress, Given, InnerNeighbour, Origin, Span, TunnelSpec};

use super::abort::{Abort, Errno, Wording};
use super::args::{Family, Lookup, begins};
use super::front::{Object, parse_front};
use super::link::{self, LinkCommand};
use super::neigh;
use super::tunnel::{self, TunnelCommand};
use crate::diagnostic::Diagnostic;
use crate::ifcfg::{Tables, parse_routes, rule_words};
use crate::parsed::Parsed;

/// Reads the commands of a text: lines that begin with `ip`, blank lines and comments.
///
/// # Errors
/// The first line that cannot be honoured, with its place.
pub fn parse_commands(text: &str, file_name: &str) -> Result<Parsed, Diagnostic> {
    let mut script = Script { file: Arc::from(file_name), draft: None };
    for (number, line) in (1..).zip(text.lines()) {
        let words =
            split(line).map_err(|(column, message)| Diagnostic::at(file_name, number, column, message))?;
        if !words.is_empty() {
            script.command(&Line { number, text: line, words: &words })?;
        }
    }
    let Some(draft) = script.draft else {
        let message = "no tunnel is made here: ip tunnel add … or ip link add … type gre … is missing";
        return Err(Diagnostic::at(file_name, 0, 0, message));
    };
    Ok(Parsed { draft, warnings: Vec::new(), onboot: true, file: file_name.to_owned() })
}

/// A word and its column in characters, from 1.
type Word = (u32, String);

struct Line<'l> {
    number: u32,
    text: &'l str,
    words: &'l [Word],
}

struct Script {
    file: Arc<str>,
    draft: Option<Draft>,
}

/// On no host: every device is taken to be there, and no tunnel.
struct Nowhere;

impl Lookup for Nowhere {
    fn device(&self, _: &str) -> bool {
        true
    }

    fn tunnel(&self, _: &str) -> Result<TunnelSpec, Errno> {
        Err(Errno::NoSuchDevice)
    }

    fn tunnels(&self) -> Vec<TunnelSpec> {
        Vec::new()
    }
}

impl Script {
    fn command(&mut self, line: &Line<'_>) -> Result<(), Diagnostic> {
        let mut words: Vec<&str> = line.words.iter().map(|(_, word)| word.as_str()).collect();
        let mut offset = 0;
        if words.first() == Some(&"sudo") {
            words.remove(0);
            offset = 1;
        }
        if words.first().is_none_or(|word| word.rsplit('/').next() != Some("ip")) {
            return Err(self.error(line, offset, "only commands of ip can be read here"));
        }
        let front = parse_front(&words[1..]);
        let Some((front, object)) = front.and_then(|front| front.object.map(|object| (front, object))) else {
            return Err(self.error(line, offset, "no command of ip that is known here"));
        };
        let object_at = 1 + front.length;
        let rest = words.get(object_at + 1..).unwrap_or_default();
        let place = offset + object_at + 1;
        match (object, words.get(object_at)) {
            (Object::Tunnel, _) => self.tunnel(line, rest, front.options.family),
            (Object::Link, _) => self.link(line, rest, place),
            (Object::Address, _) => self.address(line, rest, place),
            (Object::Route, _) => self.route(line, rest, place, front.options.family),
            (Object::Neighbour, _) => self.neighbour(line, rest, place),
            (Object::Other, Some(word)) if begins(word, "rule") => {
                self.rule(line, rest, place, front.options.family)
            }
            _ => Err(self.error(line, offset + object_at, "no part of a tunnel; leave it out")),
        }
    }

    fn tunnel(&mut self, line: &Line<'_>, words: &[&str], family: Family) -> Result<(), Diagnostic> {
        match tunnel::parse(words, family, Wording::default(), &Nowhere) {
            Ok(TunnelCommand::Add { draft, .. }) => self.begin(line, draft),
            Ok(TunnelCommand::NotOurs) => {
                Err(self.error(line, 0, "no GRE tunnel; mode gre or ip6gre is right here"))
            }
            Ok(_) => Err(self.error(line, 0, "only \"add\" can be read here")),
            Err(abort) => Err(self.error(line, 0, &said(&abort))),
        }
    }

    fn link(&mut self, line: &Line<'_>, words: &[&str], place: usize) -> Result<(), Diagnostic> {
        match words.split_first() {
            Some((verb, rest)) if begins(verb, "set") => self.link_set(line, rest, place + 1),
            _ => match link::parse(words, Wording::default(), &Nowhere) {
                Ok(LinkCommand::Add(request)) => {
                    if let Some(unsupported) = request.unsupported.first() {
                        return Err(self.error(line, 0, &unsupported.to_string()));
                    }
                    if let Some(word) = request.afterwards.first() {
                        let message = format!("\"{word}\" is no setting of a tunnel; leave it out");
                        return Err(self.error(line, 0, &message));
                    }
                    self.begin(line, request.draft)
                }
                Ok(LinkCommand::NotOurs) => Err(self.error(
                    line,
                    0,
                    "no GRE tunnel; type gre, gretap, ip6gre or ip6gretap is right here",
                )),
                Ok(_) => Err(self.error(line, 0, "only \"add\" and \"set\" can be read here")),
                Err(abort) => Err(self.error(line, 0, &said(&abort))),
            },
        }
    }

    /// The tunnel itself, which has to come first and once.
    fn begin(&mut self, line: &Line<'_>, mut draft: Draft) -> Result<(), Diagnostic> {
        if let Some(name) = self.draft.as_ref().and_then(|first| first.name.as_ref()) {
            let message = format!("a second tunnel beside {}; one file describes one tunnel", name.value);
            return Err(self.error(line, 0, &message));
        }
        self.place_words(line, &mut draft);
        draft.origin = Origin::File(self.file.to_string());
        self.draft = Some(draft);
        Ok(())
    }

    /// Places among the words become places in the file.
    fn place_words(&self, line: &Line<'_>, draft: &mut Draft) {
        let span = self.span(line, 0);
        macro_rules! place {
            ($($field:ident)+) => {
                $(if let Some(given) = &mut draft.$field {
                    given.span = given.span.is_some().then(|| span.clone());
                })+
            };
        }
        place!(name mode local remote ikey okey icsum ocsum iseq oseq ttl tos pmtudisc ignore_df
            encaplimit flowlabel dscp_inherit allow_localremote fwmark dev mtu);
    }

    fn link_set(&mut self, line: &Line<'_>, words: &[&str], place: usize) -> Result<(), Diagnostic> {
        let (mut up, mut mtu, mut dev) = (None, None, None);
        let mut at = 0;
        while let Some(word) = words.get(at).copied() {
            let value = |at: usize| {
                let message = format!("{word} needs a value");
                words.get(at + 1).copied().ok_or_else(|| self.error(line, place + at, &message))
            };
            match word {
                "up" | "down" => up = Some(Given::at(word == "down", self.span(line, place + at))),
                "mtu" => {
                    let text = value(at)?;
                    at += 1;
                    let bytes = parse_u32(text).ok_or_else(|| {
                        let message = format!("mtu \"{text}\" is wrong: a number of bytes is right");
                        self.error(line, place + at, &message)
                    })?;
                    mtu = Some(Given::at(Some(bytes), self.span(line, place + at)));
                }
                "dev" => {
                    dev = Some(value(at)?);
                    at += 1;
                }
                _ if dev.is_none() => dev = Some(word),
                _ => {
                    let message = format!("\"{word}\" is no setting of a tunnel; up, down and mtu are");
                    return Err(self.error(line, place + at, &message));
                }
            }
            at += 1;
        }
        let draft = self.own(line, dev.unwrap_or_default())?;
        draft.link_down = up.or_else(|| draft.link_down.take());
        draft.mtu = mtu.or_else(|| draft.mtu.take());
        Ok(())
    }

    fn address(&mut self, line: &Line<'_>, words: &[&str], place: usize) -> Result<(), Diagnostic> {
        let words = self.after_add(line, words, place)?;
        let (mut local, mut peer, mut dev) = (None, None, None);
        let mut at = 0;
        let place = place + 1;
        while let Some(word) = words.get(at).copied() {
            let takes_value = matches!(word, "peer" | "remote" | "local" | "dev");
            if !takes_value && local.is_some() {
                let message = format!("\"{word}\" is no word of a tunnel's address; peer and dev are");
                return Err(self.error(line, place + at, &message));
            }
            at += usize::from(takes_value);
            let Some(value) = words.get(at).copied() else {
                return Err(self.error(line, place + at, &format!("{word} needs a value")));
            };
            match word {
                "dev" => dev = Some(value),
                _ => {
                    let Some(prefix) = prefix(value) else {
                        let message = format!("\"{value}\" is no address with a prefix length");
                        return Err(self.error(line, place + at, &message));
                    };
                    *(if matches!(word, "peer" | "remote") { &mut peer } else { &mut local }) = Some(prefix);
                }
            }
            at += 1;
        }
        let Some((own, own_length)) = local else {
            return Err(self.error(line, place, "the address itself is missing"));
        };
        // The length belongs to the peer where there is one (G62, G64).
        let address = match peer {
            Some((peer, length)) => DraftAddress {
                local: own,
                peer: Some(peer),
                prefix_length: length.unwrap_or_else(|| bits(peer)),
            },
            None => DraftAddress {
                local: own,
                peer: None,
                prefix_length: own_length.unwrap_or_else(|| bits(own)),
            },
        };
        let given = Given::at(address, self.span(line, place));
        self.own(line, dev.unwrap_or_default())?.addresses.get_or_insert_default().push(given);
        Ok(())
    }

    fn route(
        &mut self,
        line: &Line<'_>,
        words: &[&str],
        place: usize,
        family: Family,
    ) -> Result<(), Diagnostic> {
        let words = self.after_add(line, words, place)?;
        let dev = words.iter().position(|word| *word == "dev").and_then(|index| words.get(index + 1));
        let dev = dev.copied().unwrap_or_default();
        let name = self.own(line, dev)?.name.as_ref().map(|name| name.value.clone());
        let Some(name) = name else { return Ok(()) };
        // The reader of route files goes by its file's name, as `ip` goes by the address.
        let ipv6 = match words.first().copied().unwrap_or_default() {
            "default" => family == Family::Inet6,
            destination => destination.contains(':'),
        };
        let file = if ipv6 { "route6-x" } else { "route-x" };
        let read = parse_routes(&words.join(" "), &name, file);
        let routes = read.map_err(|error| self.error(line, place + 1, &error.message))?;
        let span = self.span(line, place + 1);
        let routes = routes.routes.into_iter().map(|given| Given::at(given.value, span.clone()));
        self.own(line, dev)?.routes.get_or_insert_default().extend(routes);
        Ok(())
    }

    fn neighbour(&mut self, line: &Line<'_>, words: &[&str], place: usize) -> Result<(), Diagnostic> {
        let message = "no neighbour of a tunnel; add ADDRESS lladdr ENDPOINT dev NAME is right";
        let Some(found) = neigh::parse(words).filter(|found| found.sets) else {
            return Err(self.error(line, place, message));
        };
        if let Some(other) = found.other {
            return Err(self.error(line, place + other, "no setting of a tunnel's neighbour; leave it out"));
        }
        let address = found.address.ok_or_else(|| self.error(line, place, message))?;
        let neighbour = InnerNeighbour { address, endpoint: found.endpoint.into() };
        let given = Given::at(neighbour, self.span(line, place));
        self.own(line, found.dev)?.neighbours.get_or_insert_default().push(given);
        Ok(())
    }

    fn rule(
        &mut self,
        line: &Line<'_>,
        words: &[&str],
        place: usize,
        family: Family,
    ) -> Result<(), Diagnostic> {
        let words = self.after_add(line, words, place)?;
        let ipv6 = match family {
            Family::Inet6 => Some(true),
            Family::Inet => Some(false),
            _ => None,
        };
        let rule = rule_words::parse(&words.join(" "), ipv6, &Tables::default())
            .map_err(|wrong| self.error(line, place + 1, &wrong.message))?;
        let given = Given::at(rule, self.span(line, place + 1));
        let missing = self.error(line, 0, "the tunnel comes first: ip tunnel add …");
        self.draft.as_mut().ok_or(missing)?.rules.get_or_insert_default().push(given);
        Ok(())
    }

    fn after_add<'w, 'l>(
        &self,
        line: &Line<'_>,
        words: &'w [&'l str],
        place: usize,
    ) -> Result<&'w [&'l str], Diagnostic> {
        match words.split_first() {
            Some((verb, rest)) if begins(verb, "add") || begins(verb, "replace") => Ok(rest),
            _ => Err(self.error(line, place, "only \"add\" can be read here")),
        }
    }

    /// The draft, if `dev` is its device.
    fn own(&mut self, line: &Line<'_>, dev: &str) -> Result<&mut Draft, Diagnostic> {
        let missing = self.error(line, 0, "the tunnel comes first: ip tunnel add …");
        let name =
            self.draft.as_ref().and_then(|draft| draft.name.as_ref()).map(|name| name.value.to_string());
        let Some(name) = name else { return Err(missing) };
        if name != dev {
            let message = match dev {
                "" => format!("no device is named; the tunnel here is {name}"),
                dev => format!("device \"{dev}\" is another one; the tunnel here is {name}"),
            };
            return Err(self.error(line, 0, &message));
        }
        self.draft.as_mut().ok_or(missing)
    }

    fn span(&self, line: &Line<'_>, word: usize) -> Span {
        Span::File { file: Arc::clone(&self.file), line: line.number, column: column(line, word) }
    }

    fn error(&self, line: &Line<'_>, word: usize, message: &str) -> Diagnostic {
        Diagnostic::at(&self.file, line.number, column(line, word), message)
    }
}

/// What the tool says, on one line.
fn said(abort: &Abort) -> String {
    match abort.stderr.starts_with("Usage:") {
        true => "ip does not know one of these words, and prints its usage".to_owned(),
        false => abort.to_string(),
    }
}

fn column(line: &Line<'_>, word: usize) -> u32 {
    let end = line.text.chars().count() as u32 + 1;
    line.words.get(word).map_or(end, |(column, _)| *column)
}

/// An address, and the length after the slash where there is one.
fn prefix(text: &str) -> Option<(IpAddr, Option<u8>)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address = if address.contains(':') {
        IpAddr::V6(address.parse().ok()?)
    } else {
        IpAddr::V4(parse_quad(address)?)
    };
    let length = match length {
        None => None,
        Some(mask) if mask.contains('.') && address.is_ipv4() => {
            let mask = parse_quad(mask)?.to_bits();
            Some(
                u8::try_from(mask.leading_ones())
                    .ok()
                    .filter(|ones| mask.count_ones() == u32::from(*ones))?,
            )
        }
        Some(length) => Some(u8::try_from(parse_u32(length)?).ok()?),
    };
    Some((address, length))
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The words of a line as a shell has them, as far as they are plain text or quoted.
fn split(line: &str) -> Result<Vec<Word>, (u32, String)> {
    let mut words: Vec<Word> = Vec::new();
    let mut current: Option<Word> = None;
    let mut quote = None;
    let mut chars = (1..).zip(line.chars());
    while let Some((column, c)) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"'), '$' | '`' | '\\')
            | (None, '$' | '`' | ';' | '&' | '|' | '<' | '>' | '(' | ')' | '{' | '*' | '?') => {
                return Err((
                    column,
                    format!("'{c}' means something to a shell; plain words can be read here"),
                ));
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                current.get_or_insert_with(|| (column, String::new()));
            }
            (None, '#') if current.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(current.take()),
            (None, '\\') => match chars.next() {
                Some((_, escaped)) => current.get_or_insert_with(|| (column, String::new())).1.push(escaped),
                None => {
                    let message = "a line cannot be continued here; write it as one";
                    return Err((column, message.to_owned()));
                }
            },
            (_, c) => current.get_or_insert_with(|| (column, String::new())).1.push(c),
        }
    }
    if quote.is_some() {
        return Err((line.chars().count() as u32 + 1, "a quote is not closed".to_owned()));
    }
    words.extend(current);
    Ok(words)
}
