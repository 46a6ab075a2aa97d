//! The host's packet filter, asked what becomes of a packet: rules of any shape are no panic, no endless walk,
//! and what is not known is not guessed.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::Ipv4Addr;

use greway_control::check::ruleset::{Base, Chain, Fate, InDevice, Packet, Ruleset, State, parse_legacy};
use greway_linux::xtables::Table;
use greway_netlink::nftables::{
    Comparison, Decision, Family, Hook, Load, NftElement, NftRule, NftSet, Step, TableId,
};
use proptest::prelude::*;

const NAMES: &[&str] = &["input", "a", "b", "c", "nowhere"];
const HOOKS: &[Hook] = &[Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(NAMES).prop_map(str::to_owned)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..24)
}

/// Small numbers are registers and lengths as they are; large ones are what no kernel should send.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0..24_u32, any::<u32>()]
}

fn decision() -> impl Strategy<Value = Decision> {
    prop_oneof![
        Just(Decision::Accept),
        Just(Decision::Drop),
        Just(Decision::Reject),
        Just(Decision::Return),
        Just(Decision::Continue),
        Just(Decision::Queue),
        any::<bool>().prop_map(|source| Decision::Translate { source }),
        name().prop_map(Decision::Jump),
        name().prop_map(Decision::Goto),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let load = prop_oneof![
        number().prop_map(|offset| Load::Network { offset }),
        number().prop_map(|offset| Load::Transport { offset }),
        number().prop_map(Load::Meta),
        number().prop_map(Load::Connection),
        Just(Load::Other),
    ];
    let comparison = prop_oneof![
        Just(Comparison::Equal),
        Just(Comparison::NotEqual),
        Just(Comparison::Less),
        Just(Comparison::GreaterOrEqual),
    ];
    let names = prop::sample::select(&["state", "conntrack", "tcp", "comment", "REJECT", "SNAT", "odd"])
        .prop_map(str::to_owned);
    prop_oneof![
        (load, number(), number()).prop_map(|(what, register, length)| Step::Load { what, register, length }),
        (number(), bytes()).prop_map(|(register, bytes)| Step::Immediate { register, bytes }),
        (number(), number(), bytes(), bytes()).prop_map(|(from, to, mask, xor)| Step::Mask {
            from,
            to,
            mask,
            xor
        }),
        (number(), comparison, bytes()).prop_map(|(register, comparison, bytes)| Step::Compare {
            register,
            comparison,
            bytes
        }),
        (number(), any::<bool>(), bytes(), bytes()).prop_map(|(register, outside, from, to)| Step::Range {
            register,
            outside,
            from,
            to
        }),
        (name(), number(), any::<bool>(), prop::option::of(number()), any::<bool>()).prop_map(
            |(set, register, inverted, to, decides)| Step::Lookup { set, register, inverted, to, decides }
        ),
        decision().prop_map(Step::Decide),
        (names.clone(), 0..4_u32, prop::collection::vec(any::<u8>(), 0..160))
            .prop_map(|(name, revision, info)| Step::Match { name, revision, info }),
        (names, 0..4_u32, bytes()).prop_map(|(name, revision, info)| Step::Target { name, revision, info }),
        Just(Step::Aside),
        Just(Step::Unread("limit".to_owned())),
    ]
}

fn table() -> TableId {
    TableId::new(Family::Inet, "filter")
}

/// A chain with those of the rules that are its own; the first of all sits at a hook.
fn chain(number: usize, name: &str, hook: Hook, drops: bool, rules: &[NftRule]) -> Chain {
    Chain {
        legacy: false,
        table: table(),
        name: name.to_owned(),
        base: (number == 0).then_some(Base { hook, priority: 0, drops, translates: false }),
        rules: rules.iter().filter(|rule| rule.chain == name).cloned().collect(),
    }
}

fn element() -> impl Strategy<Value = NftElement> {
    (bytes(), prop::option::of(bytes()), any::<bool>(), any::<bool>(), prop::option::of(decision())).prop_map(
        |(key, key_end, ends_interval, is_catchall, verdict)| NftElement {
            key,
            key_end,
            ends_interval,
            is_catchall,
            verdict,
        },
    )
}

fn ruleset() -> impl Strategy<Value = Ruleset> {
    let rules = prop::collection::vec((name(), prop::collection::vec(step(), 0..6)), 0..12);
    let sets = prop::collection::vec(
        (name(), number(), any::<bool>(), prop::collection::vec(element(), 0..6)),
        0..3,
    );
    (rules, sets, prop::sample::select(HOOKS)).prop_map(|(rules, sets, hook)| {
        let rule = |(number, (chain, steps)): (u64, (String, Vec<Step>))| NftRule {
            table: table(),
            chain,
            handle: number,
            comment: None,
            steps,
        };
        let set = |(name, key_length, is_interval, elements)| NftSet {
            table: table(),
            name,
            key_length,
            is_interval,
            elements,
        };
        let rules = (0..).zip(rules).map(rule).collect::<Vec<_>>();
        let chains = NAMES.iter().take(4).enumerate();
        Ruleset {
            chains: chains.map(|(number, name)| chain(number, name, hook, true, &rules)).collect(),
            sets: sets.into_iter().map(set).collect(),
        }
    })
}

fn packet() -> Packet<'static> {
    Packet {
        protocol: 47,
        source: Ipv4Addr::new(100, 0, 2, 100).into(),
        destination: Ipv4Addr::new(100, 0, 1, 100).into(),
        input: InDevice::Known("wan0", 2),
        output: InDevice::None,
        state: State::New,
    }
}

/// An entry of iptables-legacy that says what `field` says, and is otherwise zero.
fn legacy_entry() -> impl Strategy<Value = Vec<u8>> {
    (112..160_usize, 0..80_usize, prop::collection::vec(any::<u8>(), 112), any::<bool>()).prop_map(
        |(target, rest, noise, whole)| {
            let mut entry = noise;
            entry.resize(target, 0x20);
            entry.resize(target + rest, 0);
            entry[88..90].copy_from_slice(&(target as u16).to_ne_bytes());
            let next = if whole { target + rest } else { target + rest + 8 };
            entry[90..92].copy_from_slice(&(next as u16).to_ne_bytes());
            entry
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_rules_are_walked_to_an_end(ruleset in ruleset()) {
        let fate = ruleset.fate(HOOKS, &packet());
        if let Fate::Dropped(place) | Fate::Unknown(place) = &fate {
            prop_assert_eq!(&place.table, &table());
            prop_assert!(ruleset.chains.iter().any(|chain| chain.name == place.chain), "{place}");
        }
        let _translated = ruleset.translates_source(&packet());
    }

    #[test]
    fn any_blob_of_iptables_legacy_is_read_or_refused(
        entries in prop::collection::vec(legacy_entry(), 0..6),
        hooks in any::<[u32; 5]>(),
        valid_hooks in any::<u32>(),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut blob = entries.concat();
        blob.extend(noise);
        let small = hooks.map(|hook| hook % 1024);
        for hook_entry in [hooks, small, [0; 5]] {
            let table = Table { hook_entry, valid_hooks, entries: blob.clone() };
            if let Some(chains) = parse_legacy("filter", &table) {
                let ruleset = Ruleset { chains, sets: Vec::new() };
                let _fate = ruleset.fate(HOOKS, &packet());
            }
        }
    }
}

fn rule(chain: &str, steps: Vec<Step>) -> NftRule {
    NftRule { table: table(), chain: chain.to_owned(), handle: 1, comment: None, steps }
}

/// Sixteen chains, each of which jumps to the next twelve times, and nobody knows whether: 12¹⁶ ways.
#[test]
fn chains_that_fan_out_without_end_are_not_known() {
    let name = |number: usize| format!("c{number}");
    let mut rules = Vec::new();
    for number in 0..15 {
        for _ in 0..12 {
            let maybe = Step::Unread("limit".to_owned());
            rules.push(rule(&name(number), vec![maybe, Step::Decide(Decision::Jump(name(number + 1)))]));
        }
    }
    rules.push(rule(&name(15), vec![Step::Decide(Decision::Drop)]));
    let chains = (0..16).map(|number| chain(number, &name(number), Hook::Input, false, &rules)).collect();
    let ruleset = Ruleset { chains, sets: Vec::new() };
    let fate = ruleset.fate(&[Hook::Input], &packet());
    assert!(matches!(fate, Fate::Unknown(_)), "{fate:?}");
    assert_eq!(ruleset.translates_source(&packet()), Some(false), "no chain translates");
}
