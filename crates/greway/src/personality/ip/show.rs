//! What lists devices, with ours as what they are.
//!
//! To the kernel a tunnel of ours is one end of a veth pair, and `ip link` says so: name, flags, address and
//! counters are the device's own and stay as they are. Asked for details, `ip` has a line for the kind, and there
//! ours say `gre remote … local …` instead of `veth`; asked for devices of a GRE kind it lists ours with those of
//! the kernel.

use greway_dialects::iproute2::args::{Concern, begins};
use greway_dialects::iproute2::link::Kind;
use greway_dialects::iproute2::output;
use greway_spec::TunnelSpec;

use super::ours::Ours;
use super::{Call, Outcome};
use crate::output as screen;

/// The verbs of `ip link` in the order in which iproute2 tries them (ip/iplink.c `do_iplink`), up to the last
/// that lists.
const LINK_VERBS: [&str; 8] = ["add", "set", "change", "replace", "delete", "show", "lst", "list"];

/// The same of `ip address` (ip/ipaddress.c `do_ipaddr`).
const ADDRESS_VERBS: [&str; 8] = ["add", "change", "chg", "replace", "delete", "show", "lst", "list"];

/// Whether a verb of `ip link` is `delete`.
pub(super) fn is_delete(verb: &str) -> bool {
    LINK_VERBS.iter().find(|whole| begins(verb, whole)) == Some(&"delete")
}

/// A command that lists devices.
#[derive(Debug)]
pub(super) struct Listing<'w> {
    /// All words behind the object.
    words: Vec<&'w str>,
    /// Where `type KIND` stands.
    kind_at: Option<usize>,
    /// The one device that is asked for.
    device: Option<&'w str>,
}

impl<'w> Listing<'w> {
    /// Reads the words behind `link`; `None` when they list nothing.
    pub(super) fn of(words: &'w [String]) -> Option<Self> {
        Self::with(words, &LINK_VERBS)
    }

    /// Reads the words behind `address`; `None` when they list nothing.
    pub(super) fn of_addresses(words: &'w [String]) -> Option<Self> {
        Self::with(words, &ADDRESS_VERBS)
    }

    /// Whether anything of ours may have to be put in.
    fn may_show_ours(&self, call: &Call<'_>) -> bool {
        self.kind().is_some() || has_details(call)
    }

    /// The same for a batch.
    pub(super) fn concern(&self, call: &Call<'_>) -> Concern {
        if self.may_show_ours(call) { Concern::List } else { Concern::None }
    }

    fn with(words: &'w [String], verbs: &[&str]) -> Option<Self> {
        if let Some(verb) = words.first() {
            let found = verbs.iter().find(|whole| begins(verb, whole))?;
            if !matches!(*found, "show" | "lst" | "list") {
                return None;
            }
        }
        let words = words.iter().map(String::as_str).collect::<Vec<_>>();
        let mut listing = Self { words, kind_at: None, device: None };
        let mut at = 1;
        while let Some(word) = listing.words.get(at).copied() {
            let value = listing.words.get(at + 1).copied();
            match word {
                "type" => listing.kind_at = Some(at),
                "dev" => listing.device = value,
                "master" | "group" | "vrf" | "label" | "to" | "scope" | "proto" | "nomaster" => {}
                "up" | "down" | "permanent" | "dynamic" | "primary" | "secondary" => {
                    at += 1;
                    continue;
                }
                _ => {
                    listing.device.get_or_insert(word);
                    at += 1;
                    continue;
                }
            }
            at += 2;
        }
        Some(listing)
    }

    fn kind(&self) -> Option<Kind> {
        self.kind_at.and_then(|at| self.words.get(at + 1)).and_then(|word| Kind::parse(word))
    }

    /// The words for one device, whatever its kind is to the kernel.
    fn for_device<'n>(&self, name: &'n str) -> Vec<&'n str>
    where
        'w: 'n,
    {
        let kind_at = self.kind_at.unwrap_or(self.words.len());
        let others = self.words.iter().enumerate().filter(|(at, _)| *at != kind_at && *at != kind_at + 1);
        let mut words = others.map(|(_, word)| *word).collect::<Vec<_>>();
        if words.is_empty() {
            words.push("show");
        }
        if self.device.is_none() {
            words.extend(["dev", name]);
        }
        words
    }
}

/// Serves `ip link show …`.
pub(super) fn link(call: &Call<'_>, listing: &Listing<'_>) -> Outcome {
    list(call, "link", listing)
}

/// Serves `ip address show …`; all else of `ip address` is the real tool's.
pub(super) fn address(call: &Call<'_>, words: &[String]) -> Outcome {
    Listing::of_addresses(words).map_or(Outcome::Real, |listing| list(call, "address", &listing))
}

fn list(call: &Call<'_>, object: &str, listing: &Listing<'_>) -> Outcome {
    let kind = listing.kind();
    if !listing.may_show_ours(call) || !call.enter() {
        return Outcome::Real;
    }
    let ours = Ours::read();
    let present = ours.present();
    let is_asked_for = |spec: &TunnelSpec| listing.device.is_none_or(|device| spec.name.as_str() == device);
    let specs = present.iter().map(|(spec, _)| *spec).filter(|spec| is_asked_for(spec));
    let specs =
        specs.filter(|spec| kind.is_none_or(|kind| kind.mode() == Some(spec.mode))).collect::<Vec<_>>();
    if specs.is_empty() {
        return Outcome::Real;
    }
    let with_object =
        |words: Vec<&str>| std::iter::once(object).chain(words).map(str::to_owned).collect::<Vec<_>>();
    let run = |words: Vec<String>| call.real_output(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut texts, mut code) = (Vec::new(), 0);
    if kind.is_none() || listing.device.is_none() {
        let (text, ended) = run(with_object(listing.words.clone()));
        texts.push(text);
        code = ended;
    }
    if kind.is_some() {
        for spec in &specs {
            let (text, ended) = run(with_object(listing.for_device(spec.name.as_str())));
            texts.push(text);
            code = code.max(ended);
        }
    }
    let text = if call.options.json { merge_arrays(&texts) } else { texts.concat() };
    let shown = if has_details(call) { splice(call, &text, &specs) } else { text };
    screen::raw(shown.as_bytes());
    Outcome::Done(code)
}

fn has_details(call: &Call<'_>) -> bool {
    call.options.details > 0 && !call.options.brief
}

fn splice(call: &Call<'_>, text: &str, specs: &[&TunnelSpec]) -> String {
    if call.options.json {
        output::splice_link_json(text, specs).unwrap_or_else(|| text.to_owned())
    } else {
        output::splice_link_text(text, specs)
    }
}

/// Several of the tool's JSON arrays as one, without touching what is in them. Of the first comes how it ends.
fn merge_arrays(texts: &[String]) -> String {
    let Some(model) = texts.iter().find(|text| !elements(text).is_empty()) else {
        return texts.first().cloned().unwrap_or_default();
    };
    let last = elements(model).pop().unwrap_or_default();
    let (start, end) =
        (model.find('{').unwrap_or_default(), model.rfind(last).unwrap_or_default() + last.len());
    let all = texts.iter().flat_map(|text| elements(text)).collect::<Vec<_>>();
    format!("{}{}{}", &model[..start], all.join(","), &model[end..])
}

/// The objects of a JSON array that have something in them: for a device that its filter leaves out the tool
/// prints an empty one.
fn elements(text: &str) -> Vec<&str> {
    let (mut depth, mut in_string, mut escaped, mut start) = (0, false, false, 0);
    let mut found = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                // Inside the array.
                if depth == 2 {
                    start = at;
                }
            }
            b'}' | b']' => {
                depth -= 1;
                if depth == 1 {
                    found.push(&text[start..=at]);
                }
            }
            _ => {}
        }
    }
    found.retain(|element| element.bytes().any(|byte| byte == b':'));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn which_words_list() {
        for text in ["", "show", "sh", "l", "ls", "lst", "list", "show dev tun0", "show up tun0"] {
            assert!(Listing::of(&words(text)).is_some(), "{text}");
        }
        // "s" is set, and "sho ww" is the real tool's to refuse.
        for text in ["s", "set tun0 up", "add tun0 type gre", "d tun0", "xstats type bond", "frob", "help"] {
            assert!(Listing::of(&words(text)).is_none(), "{text}");
        }
        assert!(Listing::with(&words("s"), &ADDRESS_VERBS).is_some(), "ip address knows no set");
    }

    #[test]
    fn what_a_listing_names() {
        let of = |text: &str| {
            let words = words(text);
            let listing = Listing::of(&words).unwrap();
            let device = listing.device.map(str::to_owned);
            (device, listing.kind().is_some(), listing.for_device("tun0").join(" "))
        };
        assert_eq!(of("show"), (None, false, "show dev tun0".to_owned()));
        assert_eq!(of(""), (None, false, "show dev tun0".to_owned()));
        assert_eq!(of("show type gre"), (None, true, "show dev tun0".to_owned()));
        assert_eq!(of("show up type gre tun0"), (Some("tun0".to_owned()), true, "show up tun0".to_owned()));
        assert_eq!(
            of("show type veth dev tun0"),
            (Some("tun0".to_owned()), false, "show dev tun0".to_owned())
        );
        assert_eq!(of("ls master br0"), (None, false, "ls master br0 dev tun0".to_owned()));
    }

    #[test]
    fn arrays_are_merged_as_they_stand() {
        let merged =
            |texts: &[&str]| merge_arrays(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(merged(&["[]\n", "[{\"a\":[1]}]\n"]), "[{\"a\":[1]}]\n");
        assert_eq!(merged(&["[{\"a\":1}]\n", "[{\"b\":2}]\n"]), "[{\"a\":1},{\"b\":2}]\n");
        assert_eq!(merged(&["[ ]\n", "[ {\n  \"a\": 1\n} ]\n"]), "[ {\n  \"a\": 1\n} ]\n");
        assert_eq!(merged(&["[{}]\n", "[]\n"]), "[{}]\n");
        assert_eq!(merged(&["[{},{},{}]\n", "[{},{\"b\":\"}\\\"\"}]\n"]), "[{\"b\":\"}\\\"\"}]\n");
        assert_eq!(
            merged(&["[ {},{} ]\n", "[ {\n \"a\": 1\n } ]\n", "[ {\n \"b\": 2\n } ]\n"]),
            "[ {\n \"a\": 1\n },{\n \"b\": 2\n } ]\n"
        );
        assert_eq!(merged(&[""]), "");
    }
}
