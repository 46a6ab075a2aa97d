//! Tunnels and their fields as text, in iproute2's words.

use std::fmt;

use crate::policy::{DatapathChoice, FirewallPolicy, MssClamp, OverlayChoice, SeqMode, UnderlayChoice};
use crate::spec::{FlowLabel, Mode, Origin, Ttl, TunnelSpec};

impl TunnelSpec {
    /// One line, as `ip tunnel show` prints it (without the lines for checksums and sequence
    /// numbers): `tun0: gre/ip remote 100.0.2.100 local 100.0.1.100 ttl inherit key 42`.
    pub fn describe(&self) -> String {
        let local = self.local.map_or_else(|| "any".to_owned(), |local| local.to_string());
        let over = if self.mode.over_ipv6() { "ipv6" } else { "ip" };
        let what = if self.mode.is_ethernet() { "gretap" } else { "gre" };
        let mut line = format!("{}: {what}/{over} remote {} local {local}", self.name, self.far_end());
        if let Some(dev) = &self.dev {
            line += &format!(" dev {dev}");
        }
        line += &format!(" ttl {}", self.ttl);
        if self.tos.bits() != 0 {
            line += &format!(" tos {}", self.tos);
        }
        if !self.pmtudisc {
            line += " nopmtudisc";
        }
        match (self.ikey, self.okey) {
            (Some(ikey), Some(okey)) if ikey == okey => line += &format!(" key {ikey}"),
            (ikey, okey) => {
                if let Some(key) = ikey {
                    line += &format!(" ikey {key}");
                }
                if let Some(key) = okey {
                    line += &format!(" okey {key}");
                }
            }
        }
        line
    }

    /// What [`Self::describe`] leaves out and is not as it is by default, in the words of `greway tunnel add`:
    /// `csum`, `oseq`, `encaplimit none`.
    pub fn further_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (both, of_received, received, of_sent, sent) in [
            ("csum", "icsum", self.icsum, "ocsum", self.ocsum),
            ("seq", "iseq", self.iseq, "oseq", self.oseq),
        ] {
            match (received, sent) {
                (true, true) => words.push(both.to_owned()),
                (true, false) => words.push(of_received.to_owned()),
                (false, true) => words.push(of_sent.to_owned()),
                (false, false) => {}
            }
        }
        let mut say = |said: bool, word: String| words.extend(said.then_some(word));
        say(self.seq_mode != SeqMode::default(), format!("seq-mode {}", self.seq_mode));
        say(self.ignore_df, "ignore-df".to_owned());
        if self.mode.over_ipv6() && self.encaplimit != Some(crate::draft::DEFAULT_ENCAPLIMIT) {
            let limit = self.encaplimit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
            say(true, format!("encaplimit {limit}"));
        }
        say(self.flowlabel != FlowLabel::default(), format!("flowlabel {}", self.flowlabel));
        say(self.dscp_inherit, "dscp inherit".to_owned());
        say(self.allow_localremote, "allow-localremote".to_owned());
        say(self.fwmark != 0, format!("fwmark {:#x}", self.fwmark));
        say(self.mtu.is_some(), format!("mtu {}", self.mtu.unwrap_or_default()));
        say(self.mss != MssClamp::default(), format!("mss {}", self.mss));
        say(self.direct, "direct".to_owned());
        words
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherit => f.write_str("inherit"),
            Self::Fixed(hops) => write!(f, "{hops}"),
        }
    }
}

impl fmt::Display for MssClamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Fixed(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl MssClamp {
    /// Reads its word, or a number of bytes from 1 to 65535.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto),
            "off" => Some(Self::Off),
            _ => word.parse().ok().filter(|bytes| *bytes > 0).map(Self::Fixed),
        }
    }
}

impl fmt::Display for FlowLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherit => f.write_str("inherit"),
            Self::Fixed(label) => write!(f, "{label:#07x}"),
        }
    }
}

impl From<u8> for Ttl {
    /// 0 is `inherit`, as in `ip tunnel`.
    fn from(hops: u8) -> Self {
        if hops == 0 { Self::Inherit } else { Self::Fixed(hops) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command => f.write_str("greway tunnel add"),
            Self::File(path) => f.write_str(path),
            Self::Profile(uuid) => write!(f, "the NetworkManager profile {uuid}"),
        }
    }
}

/// Gives a choice its words: `WORDS` for messages, `word` to print, `parse` to read.
macro_rules! words {
    ($choice:ident: $($word:literal = $variant:ident),+) => {
        impl $choice {
            /// All its words.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// Its word on every surface.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// Reads its word.
            pub fn parse(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $choice {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words!(DatapathChoice: "auto" = Auto, "ebpf" = Ebpf, "userspace" = Userspace);
words!(UnderlayChoice: "auto" = Auto, "packet" = Packet, "raw" = Raw);
words!(OverlayChoice: "auto" = Auto, "veth" = Veth, "tun" = Tun);
words!(FirewallPolicy: "honour" = Honour, "bypass" = Bypass);
words!(SeqMode: "linux" = Linux, "rfc2890" = Rfc2890);
