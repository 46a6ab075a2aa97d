//! Legacy iptables, told in the words of nf_tables: what the kernel keeps as a blob for each table becomes
//! chains whose rules are the same steps.
//!
//! ```text
//! struct ipt_entry (linux include/uapi/linux/netfilter_ipv4/ip_tables.h, v6.18)
//!   0 source, destination, their masks (4 each)      16 in and out device (16 each), their masks
//!  80 protocol (2)   82 flags (1)   83 inverted (1)  84 nfcache (4)
//!  88 offset of the target (2)   90 of the next entry (2)   92 comefrom (4)   96 counters (16)
//! 112 matches: { size (2), name (29), revision (1), info }, then the target in the same form
//! ```

use greway_linux::xtables::Table;
use greway_netlink::nftables::{Comparison, Decision, Family, Hook, Load, NftRule, Step, TableId};

use super::{Base, Chain};

const ENTRY: usize = 112;
/// `struct xt_entry_match` and `xt_entry_target` before their own words.
const EXTENSION: usize = 32;
const HOOKS: [(Hook, &str); 5] = [
    (Hook::Prerouting, "PREROUTING"),
    (Hook::Input, "INPUT"),
    (Hook::Forward, "FORWARD"),
    (Hook::Output, "OUTPUT"),
    (Hook::Postrouting, "POSTROUTING"),
];

/// An entry where it lies.
struct Entry<'a> {
    offset: usize,
    bytes: &'a [u8],
    target: Target<'a>,
}

enum Target<'a> {
    /// A verdict, or a jump where it is not negative.
    Standard(i32),
    /// The head of a user's chain, or the end of the table.
    Head(String),
    Extension {
        name: String,
        revision: u32,
        info: &'a [u8],
    },
}

/// The chains of a table; `None` when the blob is not as expected.
pub fn parse(name: &str, table: &Table) -> Option<Vec<Chain>> {
    let entries = entries(&table.entries)?;
    let id = TableId::new(Family::Ip, name);
    // Offset of the first rule, name and hook of each chain, in the order of the blob.
    let mut chains = Vec::new();
    for (number, (hook, chain)) in HOOKS.into_iter().enumerate() {
        if table.valid_hooks & (1 << number) != 0 {
            chains.push((table.hook_entry[number] as usize, chain.to_owned(), Some(hook)));
        }
    }
    let mut ends = vec![table.entries.len()];
    for (position, entry) in entries.iter().enumerate() {
        if let Target::Head(chain) = &entry.target {
            ends.push(entry.offset);
            if let Some(first) = entries.get(position + 1) {
                chains.push((first.offset, chain.clone(), None));
            }
        }
    }
    ends.extend(chains.iter().map(|(offset, ..)| *offset));
    let of_offset =
        |offset: usize| chains.iter().find(|(first, ..)| *first == offset).map(|(_, name, _)| name);
    let made = chains.iter().map(|(first, chain, hook)| {
        let end = ends.iter().copied().filter(|end| end > first).min().unwrap_or(table.entries.len());
        let mut own =
            entries.iter().filter(|entry| (*first..end).contains(&entry.offset)).collect::<Vec<_>>();
        // The policy is the last entry of a chain with a hook, `RETURN` that of others.
        let last = own.pop().map(|entry| &entry.target);
        let rules = own.iter().zip(1..).map(|(entry, number)| {
            let next = entry.offset + entry.bytes.len();
            NftRule {
                table: id.clone(),
                chain: chain.clone(),
                handle: number,
                comment: None,
                steps: steps(entry, next, of_offset),
            }
        });
        Chain {
            legacy: true,
            table: id.clone(),
            name: chain.clone(),
            base: hook.map(|hook| Base {
                hook,
                priority: priority(name, hook),
                drops: matches!(last, Some(Target::Standard(-1))),
                translates: name == "nat",
            }),
            rules: rules.collect(),
        }
    });
    Some(made.collect())
}

fn entries(blob: &[u8]) -> Option<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    let mut offset = 0;
    while offset < blob.len() {
        let rest = &blob[offset..];
        let half = |at: usize| rest.get(at..at + 2).map(|b| usize::from(u16::from_ne_bytes([b[0], b[1]])));
        let (target, next) = (half(88)?, half(90)?);
        let bytes = rest.get(..next)?;
        if target < ENTRY || next <= target {
            return None;
        }
        entries.push(Entry { offset, bytes, target: parse_target(bytes.get(target..)?)? });
        offset += next;
    }
    Some(entries)
}

fn parse_target(bytes: &[u8]) -> Option<Target<'_>> {
    let name = text(bytes.get(2..31)?);
    let info = bytes.get(EXTENSION..)?;
    Some(match name.as_str() {
        "" => Target::Standard(i32::from_ne_bytes(*info.first_chunk()?)),
        "ERROR" => Target::Head(text(info)),
        _ => Target::Extension { revision: u32::from(bytes[31]), info, name },
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// linux include/uapi/linux/netfilter_ipv4.h, `enum nf_ip_hook_priorities`.
fn priority(table: &str, hook: Hook) -> i32 {
    match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", Hook::Prerouting | Hook::Output) => -100,
        ("security", _) => 50,
        ("nat", _) => 100,
        _ => 0,
    }
}

fn steps<'n>(entry: &Entry<'_>, next: usize, chain: impl Fn(usize) -> Option<&'n String>) -> Vec<Step> {
    // IPT_INV_VIA_IN, VIA_OUT, SRCIP, DSTIP, FRAG and PROTO; IPT_F_FRAG and IPT_F_GOTO.
    let inverted = |bit: u8| entry.bytes[83] & bit != 0;
    let flags = entry.bytes[82];
    let mut steps = Vec::new();
    for (address, mask, offset, bit) in [(0, 8, 12, 0x08), (4, 12, 16, 0x10)] {
        masked(
            &mut steps,
            Load::Network { offset },
            &entry.bytes[address..address + 4],
            &entry.bytes[mask..mask + 4],
            inverted(bit),
        );
    }
    // NFT_META_IIFNAME and OIFNAME.
    for (device, mask, meta, bit) in [(16, 48, 6, 0x01), (32, 64, 7, 0x02)] {
        let (device, mask) = (&entry.bytes[device..device + 16], &entry.bytes[mask..mask + 16]);
        masked(&mut steps, Load::Meta(meta), device, mask, inverted(bit));
    }
    let protocol = u16::from_ne_bytes([entry.bytes[80], entry.bytes[81]]);
    if protocol != 0 {
        // NFT_META_L4PROTO. No protocol has a number over 255.
        let value = u8::try_from(protocol).unwrap_or(u8::MAX);
        masked(&mut steps, Load::Meta(16), &[value], &[0xff], inverted(0x40));
    }
    if flags & 0x01 != 0 && !inverted(0x20) {
        // Second and later fragments only: none of ours are.
        steps.push(Step::Unread("frag".to_owned()));
    }
    let mut at = ENTRY;
    let target = usize::from(u16::from_ne_bytes([entry.bytes[88], entry.bytes[89]]));
    while at + EXTENSION <= target {
        let size = usize::from(u16::from_ne_bytes([entry.bytes[at], entry.bytes[at + 1]]));
        let Some(bytes) = entry.bytes.get(at..at + size.max(EXTENSION)) else { break };
        let (name, revision) = (text(&bytes[2..31]), u32::from(bytes[31]));
        steps.push(Step::Match { name, revision, info: bytes[EXTENSION..].to_vec() });
        at += size.max(EXTENSION);
    }
    steps.push(match &entry.target {
        Target::Standard(-1) => Step::Decide(Decision::Drop),
        Target::Standard(-2) => Step::Decide(Decision::Accept),
        Target::Standard(-5) => Step::Decide(Decision::Return),
        Target::Standard(verdict) => match usize::try_from(*verdict) {
            // A rule without a target goes on to the next.
            Ok(offset) if offset == next => Step::Aside,
            Ok(offset) => match chain(offset) {
                Some(name) if flags & 0x02 != 0 => Step::Decide(Decision::Goto(name.clone())),
                Some(name) => Step::Decide(Decision::Jump(name.clone())),
                None => Step::Unread(format!("jump to {offset}")),
            },
            Err(_negative) => Step::Decide(Decision::Queue),
        },
        Target::Extension { name, revision, info } => {
            Step::Target { name: name.clone(), revision: *revision, info: info.to_vec() }
        }
        Target::Head(_) => Step::Aside,
    });
    steps
}

/// A comparison under a mask; none where the mask is empty.
fn masked(steps: &mut Vec<Step>, what: Load, value: &[u8], mask: &[u8], inverted: bool) {
    // An inverted test against everything never holds, as in the kernel.
    if mask.iter().all(|byte| *byte == 0) && !inverted {
        return;
    }
    let length = u32::try_from(mask.len()).unwrap_or(0);
    steps.push(Step::Load { what, register: 0, length });
    steps.push(Step::Mask { from: 0, to: 0, mask: mask.to_vec(), xor: vec![0; mask.len()] });
    let comparison = if inverted { Comparison::NotEqual } else { Comparison::Equal };
    let bytes = value.iter().zip(mask).map(|(value, mask)| value & mask).collect();
    steps.push(Step::Compare { register: 0, comparison, bytes });
}
