//! A cursor over the words after `tunnel add` or `tunnel change`.

use std::net::{IpAddr, Ipv6Addr};

use greway_spec::number::{parse_hex_u32, parse_ipv4, parse_u8, parse_u32};
use greway_spec::{
    DatapathChoice, DeviceName, Draft, FirewallPolicy, FlowLabel, Given, KeyError, Mode, MssClamp,
    OverlayChoice, SeqMode, Span, Tos, Ttl, UnderlayChoice, parse_key,
};

use crate::nearest::nearest;

/// Which verb the words belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A new tunnel.
    Add,
    /// An existing one; here words can take something back.
    Change,
}

/// A word of a command that cannot be as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", tunnel.as_ref().map_or_else(|| "tunnel".to_owned(), |name| format!("tunnel {name}")))]
pub struct WordError {
    /// The tunnel's name, where it was there already.
    pub tunnel: Option<DeviceName>,
    /// Index of the word, from 0; one past the end where a word is missing.
    pub position: usize,
    /// What is wrong.
    pub problem: WordProblem,
}

/// What is wrong with a word, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordProblem {
    /// The command ends where a value should be.
    #[error("{word} needs a value: {right}")]
    NoValue {
        /// The word before.
        word: &'static str,
        /// What would be right.
        right: String,
    },
    /// A value that cannot be read.
    #[error("{word} \"{value}\" is wrong: {right}")]
    BadValue {
        /// The word before.
        word: &'static str,
        /// The value.
        value: String,
        /// What would be right.
        right: String,
    },
    /// No word of ours.
    #[error("unknown word \"{word}\"{}", nearest.map_or_else(String::new, |near| format!("; is \"{near}\" meant?")))]
    Unknown {
        /// The word.
        word: String,
        /// One that resembles it.
        nearest: Option<&'static str>,
    },
    /// A value behind a word that has none.
    #[error("{word} takes no value, \"{value}\" is wrong: {word} alone turns it on, and no{word} off")]
    Switch {
        /// The word before.
        word: &'static str,
        /// The value.
        value: String,
    },
    /// A second name, or an unknown word taken for one.
    #[error("two names: \"{first}\" and \"{second}\"{}",
        nearest.map_or_else(String::new, |near| format!("; is \"{near}\" meant by \"{first}\"?")))]
    TwoNames {
        /// The name before.
        first: DeviceName,
        /// This word.
        second: String,
        /// A word that the first name resembles.
        nearest: Option<&'static str>,
    },
    /// A mode that iproute2 has and we do not.
    #[error("mode \"{0}\" is not there yet; this version has gre, ip6gre, gretap and ip6gretap")]
    ModeNotYet(String),
    /// A word of `change` after `add`.
    #[error("\"{0}\" takes something back and belongs to \"tunnel change\"; leave it out here")]
    OnlyInChange(&'static str),
}

const WORDS: [&str; 58] = [
    "name",
    "mode",
    "remote",
    "local",
    "key",
    "ikey",
    "okey",
    "seq",
    "iseq",
    "oseq",
    "seq-mode",
    "csum",
    "icsum",
    "ocsum",
    "ttl",
    "hoplimit",
    "hlim",
    "tos",
    "tclass",
    "dsfield",
    "pmtudisc",
    "nopmtudisc",
    "dev",
    "datapath",
    "underlay",
    "overlay",
    "firewall",
    "direct",
    "nodirect",
    "mss",
    "mtu",
    "ignore-df",
    "noignore-df",
    "fwmark",
    "encaplimit",
    "flowlabel",
    "dscp",
    "allow-localremote",
    "noallow-localremote",
    "nodscp",
    "none",
    "nokey",
    "noikey",
    "nookey",
    "noseq",
    "noiseq",
    "nooseq",
    "nocsum",
    "noicsum",
    "noocsum",
    "nodev",
    "auto",
    "inherit",
    "any",
    "userspace",
    "honour",
    "bypass",
    "rfc2890",
];

/// Words of `change` alone.
const TAKING_BACK: [&str; 11] = [
    "nokey", "noikey", "nookey", "noseq", "noiseq", "nooseq", "nocsum", "noicsum", "noocsum", "nodev",
    "nodscp",
];

/// `ip tunnel`'s and `ip link`'s kinds of tunnel that are not ours yet.
const MODES_NOT_YET: [&str; 19] = [
    "ipip",
    "ip/ip",
    "sit",
    "ipv6/ip",
    "isatap",
    "vti",
    "ip6ip6",
    "ipv6/ipv6",
    "ipip6",
    "ip/ipv6",
    "ipv4/ipv6",
    "ip4ip6",
    "vti6",
    "any",
    "any/ipv6",
    "erspan",
    "ip6erspan",
    "mgre",
    "nvgre",
];

/// Reads the words after `greway tunnel add` or `greway tunnel change`: those of `ip tunnel`, and
/// `ip link`'s `fwmark` and `[no]ignore-df`, `datapath`, `underlay`, `overlay`, `firewall`, `[no]direct`,
/// `mss`, `mtu`, `seq-mode`; with
/// [`Verb::Change`] also `nokey noikey nookey noseq noiseq nooseq nocsum noicsum noocsum nodev nodscp`. A
/// word said twice: the last one holds. Which words a mode has no place for is said by
/// [`Draft::into_spec`].
///
/// # Errors
/// The first word that is wrong.
pub fn parse_tunnel_words<W: AsRef<str>>(words: &[W], verb: Verb) -> Result<Draft, WordError> {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let mut cursor = Cursor { words: &words, position: 0, verb, draft: Draft::default() };
    while let Some(word) = cursor.next() {
        cursor.word(word)?;
    }
    Ok(cursor.draft)
}

struct Cursor<'w> {
    words: &'w [&'w str],
    /// Of the next word.
    position: usize,
    verb: Verb,
    draft: Draft,
}

impl<'w> Cursor<'w> {
    fn next(&mut self) -> Option<&'w str> {
        let word = self.words.get(self.position).copied()?;
        self.position += 1;
        Some(word)
    }

    fn word(&mut self, word: &str) -> Result<(), WordError> {
        match word {
            "name" => {
                let name = self.value("name", "1 to 15 bytes without '/', ':' or blanks")?;
                self.name(name)?;
            }
            "mode" => self.draft.mode = Some(self.mode()?),
            "remote" => self.draft.remote = Some(self.address("remote")?),
            "local" => self.draft.local = Some(self.address("local")?),
            "key" => {
                let key = self.key("key")?;
                self.draft.ikey = Some(key.clone());
                self.draft.okey = Some(key);
            }
            "ikey" => self.draft.ikey = Some(self.key("ikey")?),
            "okey" => self.draft.okey = Some(self.key("okey")?),
            "seq" => (self.draft.iseq, self.draft.oseq) = (self.given(true), self.given(true)),
            "iseq" => self.draft.iseq = self.given(true),
            "oseq" => self.draft.oseq = self.given(true),
            "seq-mode" => {
                self.draft.seq_mode = Some(self.choice("seq-mode", SeqMode::WORDS, SeqMode::parse)?);
            }
            "csum" => (self.draft.icsum, self.draft.ocsum) = (self.given(true), self.given(true)),
            "icsum" => self.draft.icsum = self.given(true),
            "ocsum" => self.draft.ocsum = self.given(true),
            "ttl" | "hoplimit" | "hlim" => self.draft.ttl = Some(self.ttl()?),
            "pmtudisc" => self.draft.pmtudisc = self.given(true),
            "nopmtudisc" => self.draft.pmtudisc = self.given(false),
            "ignore-df" => self.draft.ignore_df = self.given(true),
            "noignore-df" => self.draft.ignore_df = self.given(false),
            "dev" => self.draft.dev = Some(self.dev()?),
            "mtu" => self.draft.mtu = Some(self.mtu()?),
            "fwmark" => self.draft.fwmark = Some(self.fwmark()?),
            "encaplimit" => self.draft.encaplimit = Some(self.encaplimit()?),
            "flowlabel" | "fl" => self.draft.flowlabel = Some(self.flow_label()?),
            "dscp" => {
                let inherits = |word: &str| (word == "inherit").then_some(true);
                self.draft.dscp_inherit = Some(self.choice("dscp", &["inherit"], inherits)?);
            }
            "allow-localremote" => self.draft.allow_localremote = self.given(true),
            "noallow-localremote" => self.draft.allow_localremote = self.given(false),
            "datapath" => {
                self.draft.datapath =
                    Some(self.choice("datapath", DatapathChoice::WORDS, DatapathChoice::parse)?);
            }
            "underlay" => {
                self.draft.underlay =
                    Some(self.choice("underlay", UnderlayChoice::WORDS, UnderlayChoice::parse)?);
            }
            "overlay" => {
                self.draft.overlay =
                    Some(self.choice("overlay", OverlayChoice::WORDS, OverlayChoice::parse)?);
            }
            "firewall" => {
                self.draft.firewall =
                    Some(self.choice("firewall", FirewallPolicy::WORDS, FirewallPolicy::parse)?);
            }
            "direct" => self.draft.direct = self.given(true),
            "nodirect" => self.draft.direct = self.given(false),
            "mss" => {
                let words = ["auto", "off", "a number of bytes from 1 to 65535"];
                self.draft.mss = Some(self.choice("mss", &words, MssClamp::parse)?);
            }
            // iproute2 takes any beginning of "dsfield", so "d" and "ds" too.
            "tos" | "tclass" | "tc" => self.draft.tos = Some(self.tos()?),
            _ if !word.is_empty() && "dsfield".starts_with(word) => self.draft.tos = Some(self.tos()?),
            _ => return self.taking_back(word),
        }
        Ok(())
    }

    fn taking_back(&mut self, word: &str) -> Result<(), WordError> {
        let Some(known) = TAKING_BACK.into_iter().find(|known| *known == word) else {
            return self.bare(word);
        };
        if self.verb == Verb::Add {
            return Err(self.wrong(WordProblem::OnlyInChange(known)));
        }
        let (no_key, no_dev, off) = (self.given(None), self.given(None), self.given(false));
        let draft = &mut self.draft;
        match known {
            "nokey" => (draft.ikey, draft.okey) = (no_key.clone(), no_key),
            "noikey" => draft.ikey = no_key,
            "nookey" => draft.okey = no_key,
            "noseq" => (draft.iseq, draft.oseq) = (off.clone(), off),
            "noiseq" => draft.iseq = off,
            "nooseq" => draft.oseq = off,
            "nocsum" => (draft.icsum, draft.ocsum) = (off.clone(), off),
            "noicsum" => draft.icsum = off,
            "noocsum" => draft.ocsum = off,
            "nodscp" => draft.dscp_inherit = off,
            _ => draft.dev = no_dev,
        }
        Ok(())
    }

    /// A word that is none of ours: the name, where one can stand.
    fn bare(&mut self, word: &str) -> Result<(), WordError> {
        if self.draft.name.is_some()
            && let Some(switch) = self.switched(word)
        {
            return Err(self.wrong(WordProblem::Switch { word: switch, value: word.to_owned() }));
        }
        let near = nearest(word, &WORDS);
        let nameable = self.position == 1 || near.is_none() && word.parse::<DeviceName>().is_ok();
        match &self.draft.name {
            None if nameable => self.name(word),
            Some(first) if nearest(first.value.as_str(), &WORDS).is_some() && near.is_none() => {
                Err(self.two_names(first.value.clone(), word))
            }
            _ => Err(self.wrong(WordProblem::Unknown { word: word.to_owned(), nearest: near })),
        }
    }

    /// The switch that a word looks like the value of, as files have them.
    fn switched(&self, value: &str) -> Option<&'static str> {
        const SWITCHES: [&str; 10] = [
            "seq",
            "iseq",
            "oseq",
            "csum",
            "icsum",
            "ocsum",
            "pmtudisc",
            "ignore-df",
            "allow-localremote",
            "direct",
        ];
        let before = self.position.checked_sub(2).and_then(|before| self.words.get(before))?;
        let is_value = ["on", "off", "true", "false", "yes", "no"].contains(&value);
        SWITCHES.into_iter().find(|switch| is_value && switch == before)
    }

    fn name(&mut self, text: &str) -> Result<(), WordError> {
        if let Some(first) = &self.draft.name {
            return Err(self.two_names(first.value.clone(), text));
        }
        let Ok(name) = text.parse::<DeviceName>() else {
            let right = "1 to 15 bytes without '/', ':', '%' or blanks are right";
            return Err(self.bad("name", text, right));
        };
        self.draft.name = self.given(name);
        Ok(())
    }

    fn two_names(&self, first: DeviceName, second: &str) -> WordError {
        let nearest = nearest(first.as_str(), &WORDS);
        self.wrong(WordProblem::TwoNames { first, second: second.to_owned(), nearest })
    }

    fn mode(&mut self) -> Result<Given<Mode>, WordError> {
        let right = "gre, ip6gre, gretap or ip6gretap";
        let value = self.value("mode", right)?;
        match value {
            "gre" | "gre/ip" => Ok(self.place(Mode::Gre)),
            "ip6gre" | "gre/ipv6" => Ok(self.place(Mode::Ip6Gre)),
            "gretap" => Ok(self.place(Mode::Gretap)),
            "ip6gretap" => Ok(self.place(Mode::Ip6Gretap)),
            not_yet if MODES_NOT_YET.contains(&not_yet) => {
                Err(self.wrong(WordProblem::ModeNotYet(not_yet.to_owned())))
            }
            _ => Err(self.bad("mode", value, &format!("{right} is right"))),
        }
    }

    fn address(&mut self, word: &'static str) -> Result<Given<IpAddr>, WordError> {
        let value = self.value(word, "an IP address")?;
        if let Some(address) = parse_ipv4(value) {
            return Ok(self.place(address.into()));
        }
        match value.parse::<Ipv6Addr>() {
            Ok(address) => Ok(self.place(address.into())),
            Err(_) => {
                let right = "an address such as 100.0.2.100 or 2001:db8::2 is right, not a host name";
                Err(self.bad(word, value, right))
            }
        }
    }

    fn key(&mut self, word: &'static str) -> Result<Given<Option<u32>>, WordError> {
        let value = self.value(word, "0 to 4294967295, or a dotted quad")?;
        match parse_key(value) {
            Ok(key) => Ok(self.place(Some(key))),
            Err(KeyError::NotANumber(_)) => {
                Err(self.bad(word, value, "0 to 4294967295 is right, or a dotted quad such as 10.0.0.1"))
            }
            Err(KeyError::NotAQuad(_)) => {
                Err(self.bad(word, value, "up to four numbers of 0 to 255 with dots between are right"))
            }
        }
    }

    fn ttl(&mut self) -> Result<Given<Ttl>, WordError> {
        let right = "1 to 255, or inherit, is right";
        let value = self.value("ttl", "1 to 255, or inherit")?;
        if value == "inherit" {
            return Ok(self.place(Ttl::Inherit));
        }
        match parse_u8(value) {
            Some(hops) => Ok(self.place(Ttl::from(hops))),
            None => Err(self.bad("ttl", value, right)),
        }
    }

    fn tos(&mut self) -> Result<Given<Tos>, WordError> {
        let right =
            "00 to ff in hexadecimal, a name such as AF11, CS6 or EF, inherit, or inherit/VALUE is right";
        let value = self.value("tos", "00 to ff, a name, inherit, or inherit/VALUE")?;
        match Tos::parse(value) {
            Some(tos) => Ok(self.place(tos)),
            None => Err(self.bad("tos", value, right)),
        }
    }

    fn dev(&mut self) -> Result<Given<Option<DeviceName>>, WordError> {
        let value = self.value("dev", "the name of a network device")?;
        match value.parse() {
            Ok(name) => Ok(self.place(Some(name))),
            Err(_) => Err(self.bad("dev", value, "the name of a network device is right")),
        }
    }

    fn mtu(&mut self) -> Result<Given<Option<u32>>, WordError> {
        let value = self.value("mtu", "a number of bytes, or auto")?;
        if value == "auto" {
            return Ok(self.place(None));
        }
        match parse_u32(value) {
            Some(mtu) => Ok(self.place(Some(mtu))),
            None => Err(self.bad("mtu", value, "a number of bytes, or auto, is right")),
        }
    }

    fn fwmark(&mut self) -> Result<Given<u32>, WordError> {
        let right = "0 to 0xffffffff";
        let value = self.value("fwmark", right)?;
        match parse_u32(value) {
            Some(mark) => Ok(self.place(mark)),
            None => Err(self.bad("fwmark", value, &format!("{right} is right"))),
        }
    }

    fn encaplimit(&mut self) -> Result<Given<Option<u8>>, WordError> {
        let right = "0 to 255, or none";
        let value = self.value("encaplimit", right)?;
        match parse_u8(value) {
            _ if value == "none" => Ok(self.place(None)),
            Some(limit) => Ok(self.place(Some(limit))),
            None => Err(self.bad("encaplimit", value, &format!("{right}, is right"))),
        }
    }

    fn flow_label(&mut self) -> Result<Given<FlowLabel>, WordError> {
        let right = "0 to fffff in hexadecimal, or inherit";
        let value = self.value("flowlabel", right)?;
        match parse_hex_u32(value) {
            _ if value == "inherit" => Ok(self.place(FlowLabel::Inherit)),
            Some(label @ 0..=0xf_ffff) => Ok(self.place(FlowLabel::Fixed(label))),
            _ => Err(self.bad("flowlabel", value, &format!("{right}, is right"))),
        }
    }

    fn choice<T>(
        &mut self,
        word: &'static str,
        words: &[&str],
        parse: fn(&str) -> Option<T>,
    ) -> Result<Given<T>, WordError> {
        let right = words.join(" or ");
        let value = self.value(word, &right)?;
        match parse(value) {
            Some(choice) => Ok(self.place(choice)),
            None => Err(self.bad(word, value, &format!("{right} is right"))),
        }
    }

    fn value(&mut self, word: &'static str, right: &str) -> Result<&'w str, WordError> {
        if let Some(value) = self.next() {
            return Ok(value);
        }
        let problem = WordProblem::NoValue { word, right: right.to_owned() };
        Err(WordError { position: self.words.len(), ..self.wrong(problem) })
    }

    /// `value` with the place of the word just read.
    fn place<T>(&self, value: T) -> Given<T> {
        Given::at(value, Span::Argument { position: self.position - 1 })
    }

    fn given<T>(&self, value: T) -> Option<Given<T>> {
        Some(self.place(value))
    }

    fn bad(&self, word: &'static str, value: &str, right: &str) -> WordError {
        self.wrong(WordProblem::BadValue { word, value: value.to_owned(), right: right.to_owned() })
    }

    /// An error about the word just read.
    fn wrong(&self, problem: WordProblem) -> WordError {
        let tunnel = self.draft.name.as_ref().map(|name| name.value.clone());
        WordError { tunnel, position: self.position.saturating_sub(1), problem }
    }
}
