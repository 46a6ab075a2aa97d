//! The words of `cargo xtask bench`.

use std::path::PathBuf;

use anyhow::{Context, bail};

use super::measures::Measure;
use super::native::Plan;
use super::peers::Peer;

/// How a bench is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) parts: Vec<Part>,
    /// As short as can be: to see that it works.
    pub(super) quick: bool,
    pub(super) native: bool,
    pub(super) guest: bool,
    pub(super) json: Option<PathBuf>,
    /// Into docs/bench.
    pub(super) record: bool,
    /// How often each peer is asked for each measure; `None`: as the part has it.
    rounds: Option<usize>,
    /// None: all of the part's.
    peers: Vec<Peer>,
    measures: Vec<Measure>,
}

/// A part of the bench, with a page of its own in docs/bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Both data planes beside all peers.
    Userspace,
    /// The fast path, here and in a guest whose kernel has GRE.
    FastPath,
    /// Many tunnels in one daemon.
    Scale,
    /// Functions alone.
    Micro,
}

impl Part {
    /// What a bench without a word is. The fast path is part of the first; its own adds a guest, and takes as long again.
    const ALL: [Self; 3] = [Self::Userspace, Self::Scale, Self::Micro];

    /// The word for it, and of its files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::FastPath => "fastpath",
            Self::Scale => "scale",
            Self::Micro => "micro",
        }
    }

    /// The head of its page.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Userspace => "Both data planes, measured",
            Self::FastPath => "The fast path, measured",
            Self::Scale => "Many tunnels, measured",
            Self::Micro => "Single functions, measured",
        }
    }
}

const USE: &str = "use --rounds N, --quick, --json FILE, --record; for userspace and fastpath also --peers KEY,… and \
                   --measures KEY,…; for fastpath --only native|guest";

impl Options {
    /// Reads the words behind `bench`.
    pub(super) fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (parts, rest) = match words.as_slice() {
            ["userspace", rest @ ..] => (vec![Part::Userspace], rest),
            ["fastpath", rest @ ..] => (vec![Part::FastPath], rest),
            ["scale", rest @ ..] => (vec![Part::Scale], rest),
            ["micro", rest @ ..] => (vec![Part::Micro], rest),
            [what, ..] if !what.starts_with('-') => {
                bail!(
                    "there is no bench \"{what}\": use userspace, fastpath, scale or micro, or none of them for all"
                )
            }
            rest => (Part::ALL.to_vec(), rest),
        };
        let guest = parts == [Part::FastPath];
        let mut options = Self {
            parts,
            quick: false,
            native: true,
            guest,
            json: None,
            record: false,
            rounds: None,
            peers: Vec::new(),
            measures: Vec::new(),
        };
        let mut rest = rest.iter().copied();
        while let Some(word) = rest.next() {
            match word {
                "--rounds" => {
                    let text = rest.next().unwrap_or_default();
                    let number = text.parse().ok().filter(|number| *number > 0);
                    options.rounds = Some(
                        number
                            .with_context(|| format!("--rounds \"{text}\": a number from 1 on is right"))?,
                    );
                }
                "--quick" => options.quick = true,
                "--record" => options.record = true,
                "--json" => options.json = Some(rest.next().context("--json needs a file")?.into()),
                "--only" if guest => match rest.next() {
                    Some("native") => options.guest = false,
                    Some("guest") => options.native = false,
                    _ => bail!("--only takes native or guest"),
                },
                "--peers" => options.peers = keys(rest.next(), &Plan::all().peers, Peer::key)?,
                "--measures" => {
                    options.measures = keys(rest.next(), &Plan::all().measures, Measure::key)?;
                }
                _ => bail!("\"{word}\" is unknown: {USE}"),
            }
        }
        let partial = !options.peers.is_empty() || !options.measures.is_empty();
        if partial
            && (options.record || options.parts.iter().any(|part| matches!(part, Part::Scale | Part::Micro)))
        {
            bail!(
                "--peers and --measures are for a look at userspace or fastpath, and what they leave is not recorded"
            );
        }
        if options.record && options.quick {
            bail!("what --quick measures is not worth recording");
        }
        if partial || (options.quick && options.native) {
            options.guest = false;
        }
        Ok(options)
    }

    /// Rounds of a part.
    pub(super) fn rounds(&self, part: Part) -> usize {
        let usual = match part {
            _ if self.quick => 1,
            Part::Userspace | Part::Scale | Part::Micro => 5,
            Part::FastPath => 9,
        };
        self.rounds.unwrap_or(usual)
    }

    /// Who is asked what on this machine.
    pub(super) fn plan(&self, part: Part) -> Plan {
        let mut plan = if part == Part::FastPath { Plan::fast_path() } else { Plan::all() };
        plan.peers.retain(|peer| self.peers.is_empty() || self.peers.contains(peer));
        plan.measures.retain(|measure| self.measures.is_empty() || self.measures.contains(measure));
        plan.beside.retain(|peer| plan.peers.contains(peer));
        plan
    }
}

/// Reads `a,b`, each the key of one of `all`.
fn keys<T: Copy>(text: Option<&str>, all: &[T], key: fn(T) -> &'static str) -> anyhow::Result<Vec<T>> {
    let known = || all.iter().copied().map(key).collect::<Vec<_>>().join(", ");
    let text = text.with_context(|| format!("say which: {}", known()))?;
    let find = |word| {
        let found = all.iter().copied().find(|one| key(*one) == word);
        found.with_context(|| format!("there is no \"{word}\" here: use {}", known()))
    };
    text.split(',').map(find).collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    fn parse(words: &str) -> anyhow::Result<Options> {
        Options::parse(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_bench_is_named_or_all_of_them_and_what_is_unknown_is_refused() {
        assert_eq!(parse("").unwrap().parts, Part::ALL);
        assert_eq!(parse("--rounds 3").unwrap().rounds(Part::Userspace), 3);
        let one = parse("fastpath").unwrap();
        assert_eq!((one.rounds(Part::FastPath), one.guest), (9, true));
        for wrong in [
            "slowpath",
            "fastpath --rounds 0",
            "fastpath --only here",
            "userspace --only guest",
            "fastpath --fast",
            "userspace --peers bare,bear",
            "userspace --peers bare --record",
            "userspace --quick --record",
            "micro --measures tcp",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn quick_is_one_native_round_unless_told_otherwise() {
        let quick = parse("fastpath --quick").unwrap();
        assert!(quick.native && !quick.guest && quick.rounds(Part::FastPath) == 1);
        assert_eq!(parse("fastpath --quick --rounds 2").unwrap().rounds(Part::FastPath), 2);
        let guest = parse("fastpath --only guest --quick").unwrap();
        assert!(guest.guest && !guest.native);
    }

    #[test]
    fn a_look_at_some_peers_compares_with_those_that_are_there() {
        let plan = parse("userspace --peers ovs,userspace --measures tcp").unwrap().plan(Part::Userspace);
        assert_eq!(plan.peers, [Peer::Ovs, Peer::Userspace]);
        assert_eq!((plan.measures, plan.beside), (vec![Measure::Tcp], vec![Peer::Ovs]));
        let error = parse("userspace --measures tpc").unwrap_err().to_string();
        assert!(error.starts_with("there is no \"tpc\" here: use tcp, tcp-back, "), "{error}");
    }
}
