//! What `greway status` tells: facts gathered under the lock, echoes sent without it, then the
//! verdicts.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Mutex;

use greway_datapath::{IcmpReport, SuperPackets};
use greway_engine::{CounterSnapshot, Direction, DropReason, HeardEntry};
use greway_fastpath::{Dropped, Pinning, TunnelCounters};
use greway_linux::clock;
use greway_netlink::{Link, Netlink};
use greway_spec::{DeviceName, InnerAddress, SeqMode, TunnelSpec};

use super::between::Between;
use super::host::{Host, Live};
use super::probe::{self, Question};
use super::{locked, notes};
use crate::status::{
    Answers, Attached, Carried, Counters, Daemon, Decline, Device, Drop, Facts, FastPath, IcmpError, Peer,
    Sequence, State, Status, TunnelStatus, Unmatched,
};

/// The status of one tunnel or all.
pub(super) fn status(host: &Mutex<Host>, name: Option<&DeviceName>, probe: bool) -> Result<Status, String> {
    if let Some(name) = name
        && !locked(host).tunnels.contains_key(name)
    {
        return Err(format!("there is no tunnel {name} here; `greway status` lists those there are"));
    }
    if probe {
        let questions = questions(host, name);
        let rounds = probe::ask(&questions.iter().map(|(_, question)| *question).collect::<Vec<_>>());
        let asked = questions.into_iter().map(|(name, _)| name).zip(rounds).collect::<Vec<_>>();
        // Read after the echoes, so that they are in the counters that the verdict is drawn from.
        return gather(&mut locked(host), name, Some(&asked));
    }
    gather(&mut locked(host), name, None)
}

/// Round-trip times in milliseconds of the tunnels whose peer was asked.
type Asked = [(DeviceName, Option<f64>)];

fn questions(host: &Mutex<Host>, name: Option<&DeviceName>) -> Vec<(DeviceName, Question)> {
    let host = locked(host);
    let wanted = host.tunnels.values().filter(|live| name.is_none_or(|name| live.spec().name == *name));
    wanted
        .filter_map(|live| {
            let peer = inner_peer(&host.netlink, live.index)?;
            // Only IPv4 is asked so far; an unasked peer is no silent one.
            peer.is_ipv4().then(|| (live.spec().name.clone(), Question { peer, ifindex: live.index }))
        })
        .collect()
}

fn gather(host: &mut Host, name: Option<&DeviceName>, asked: Option<&Asked>) -> Result<Status, String> {
    let now = clock::monotonic_millis();
    let (unmatched, underlay) = host.datapath.strangers().map_err(|error| error.to_string())?;
    let icmp = host.datapath.icmp().map_err(|error| error.to_string())?;
    // What was heard until then has had its effect when it is told of.
    host.heed_news();
    let host = &*host;
    let mut unmatched = unmatched
        .into_iter()
        .map(|entry| Unmatched {
            source: entry.source.to_string(),
            destination: entry.destination.to_string(),
            key: entry.key,
            protocol_type: entry.protocol_type,
            packets: entry.count,
            last_seen_seconds: seconds_since(entry.last_seen_ms, now),
        })
        .collect::<Vec<_>>();
    unmatched.sort_by(|a, b| a.last_seen_seconds.total_cmp(&b.last_seen_seconds));
    let wanted = host.tunnels.values().filter(|live| name.is_none_or(|name| live.spec().name == *name));
    let tunnels = wanted.map(|live| tunnel(host, live, asked, &unmatched, &icmp, now)).collect();
    Ok(Status {
        tunnels,
        unmatched,
        answers: answers(&icmp.answers),
        drops: drops(&underlay.drops),
        declines: declines(&underlay.declines),
        steering: host.steering.report(),
        notes: notes::of_host(host),
        fast_path: fast_path(host),
        daemon: Daemon {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: host.started.elapsed().as_secs(),
            workers: host.datapath.workers(),
        },
    })
}

fn tunnel(
    host: &Host,
    live: &Live,
    asked: Option<&Asked>,
    unmatched: &[Unmatched],
    icmp: &IcmpReport,
    now: u64,
) -> TunnelStatus {
    let spec = live.spec().clone();
    let said = icmp.tunnels.get(&spec.name).cloned().unwrap_or_default();
    let link = host.netlink.link_by_index(live.index).ok().flatten();
    let counted = live.traffic.snapshot();
    let last = |ms: u64| (ms != 0).then(|| seconds_since(ms, now));
    let not_ebpf = host.not_on_fast_path(live);
    let fast = host.fast.counters(live.peer).unwrap_or_default();
    // Only programs send in without being told what is lost.
    let other_end = live.peer.filter(|_| fast.rx_packets > 0);
    let other_end = other_end.and_then(|other_end| host.netlink.link_by_index(other_end).ok().flatten());
    let lost = Between::of(link.as_ref(), other_end.as_ref());
    let lost = lost.since(live.lost_before);
    // What the data plane itself did not get in is told when it tries.
    let lost_by_programs = lost.into.saturating_sub(counted.dropped(DropReason::DeviceQueueFull));
    let lost_by_programs = lost_by_programs.min(fast.rx_packets);
    let latest = |ms: u64, ns: u64| last(ms.max(ns / 1_000_000));
    let mut tunnel = TunnelStatus {
        verdict: String::new(),
        state: State::Idle,
        device: link.as_ref().map(|link| device(&host.netlink, link)),
        moved: link.is_none() && host.has_peer_end(live),
        datapath: Carried {
            datapath: if not_ebpf.is_none() { "ebpf" } else { "userspace" }.to_owned(),
            not_ebpf,
            witnesses: host.witnesses(live),
            overlay: if live.peer.is_some() { "veth" } else { "tun" }.to_owned(),
            underlay: live.decision.receive.word().to_owned(),
            why: live.decision.why.clone(),
            exit: exit(host, live),
            super_packets: live.exit.is_some_and(|exit| exit.whole != SuperPackets::Split)
                && live.spec().fwmark == 0,
            early_drop: host.early_drop.holds_for(live),
        },
        counters: Counters {
            received_packets: counted.rx_packets + fast.rx_packets - lost_by_programs,
            received_bytes: counted.rx_bytes + fast.rx_bytes,
            sent_packets: counted.tx_packets + fast.tx_packets,
            sent_bytes: counted.tx_bytes + fast.tx_bytes,
        },
        last_received_seconds: latest(counted.last_rx_ms, fast.last_rx_ns),
        last_sent_seconds: latest(counted.last_tx_ms, fast.last_tx_ns),
        sequence: sequence(&spec, &counted),
        drops: drops(&with_kernel(
            with_programs(&counted.drops, &fast),
            [
                (if live.peer.is_some() { DropReason::KernelQueue } else { DropReason::QueueFull }, lost.out),
                (DropReason::DeviceQueueFull, lost_by_programs),
            ],
        )),
        left_to_userspace: left_to_userspace(&fast),
        icmp_errors: icmp_errors(said.heard, now),
        unreachable_told: said.told,
        peer: inner_peer(&host.netlink, live.index).map(|address| peer(address, &spec, asked)),
        notes: notes::of_tunnel(host, live, link.as_ref()),
        findings: Vec::new(),
        spec,
    };
    (tunnel.state, tunnel.verdict) = Facts { tunnel: &tunnel, unmatched }.verdict();
    tunnel
}

/// The neighbour that userspace sends a tunnel's packets to.
fn exit(host: &Host, live: &Live) -> Option<String> {
    let exit = live.exit?;
    let link = host.netlink.link_by_index(exit.ifindex).ok().flatten()?;
    Some(format!("{} on {}", exit.neighbour, link.name))
}

fn device(netlink: &Netlink, link: &Link) -> Device {
    let entries = netlink.addresses(Some(link.index)).unwrap_or_default();
    Device {
        index: link.index,
        up: link.up,
        mtu: link.mtu,
        addresses: entries.iter().map(|entry| entry.address.to_string()).collect(),
    }
}

/// Nothing where numbers are not looked at so closely.
fn sequence(spec: &TunnelSpec, counted: &CounterSnapshot) -> Option<Sequence> {
    (spec.iseq && spec.seq_mode == SeqMode::Rfc2890).then(|| Sequence {
        lost: counted.lost,
        reordered: counted.reordered,
        duplicates: counted.dropped(DropReason::SequenceDuplicate),
        late: counted.dropped(DropReason::SequenceLate),
        restarts: counted.restarts,
    })
}

fn declines(counted: &[(&'static str, u64)]) -> Vec<Decline> {
    counted
        .iter()
        .map(|(reason, packets)| Decline { reason: (*reason).to_owned(), packets: *packets })
        .collect()
}

fn drops(counted: &[(DropReason, u64)]) -> Vec<Drop> {
    let words = |reason: DropReason| match reason.direction() {
        Direction::Receive => "receive",
        Direction::Transmit => "transmit",
    };
    let row = |(reason, packets): &(DropReason, u64)| Drop {
        reason: reason.name().to_owned(),
        direction: words(*reason).to_owned(),
        packets: *packets,
        explanation: reason.explain().to_owned(),
    };
    counted.iter().map(row).collect()
}

/// The programs' drops beside userspace's, which have the same names.
fn with_programs(counted: &[(DropReason, u64)], fast: &TunnelCounters) -> Vec<(DropReason, u64)> {
    let mut all = counted.to_vec();
    for dropped in Dropped::ALL {
        let more = fast.dropped_for(dropped);
        let Some(reason) = DropReason::ALL.iter().copied().find(|reason| reason.name() == dropped.name())
        else {
            continue;
        };
        match all.iter_mut().find(|(known, _)| *known == reason) {
            _ if more == 0 => {}
            Some((_, packets)) => *packets += more,
            None => all.push((reason, more)),
        }
    }
    all
}

/// What the kernel lost between the ends of the pair, beside the others.
fn with_kernel(mut all: Vec<(DropReason, u64)>, lost: [(DropReason, u64); 2]) -> Vec<(DropReason, u64)> {
    for (reason, more) in lost {
        match all.iter_mut().find(|(known, _)| *known == reason) {
            _ if more == 0 => {}
            Some((_, packets)) => *packets += more,
            None => all.push((reason, more)),
        }
    }
    all
}

fn left_to_userspace(fast: &TunnelCounters) -> Vec<Decline> {
    let counted = greway_fastpath::Decline::ALL.map(|reason| (reason.name(), fast.declined_for(reason)));
    declines(&counted.into_iter().filter(|(_, packets)| *packets > 0).collect::<Vec<_>>())
}

fn fast_path(host: &Host) -> Option<FastPath> {
    let (pins, no_pins) = match host.fast.pinning()? {
        Pinning::Lasting(folder) => (Some(folder.display().to_string()), None),
        Pinning::Process(why) => (None, Some(why.clone())),
    };
    let attached = host.fast.attachments().map(|program| Attached {
        device: program.device.clone(),
        point: program.point.name().to_owned(),
        hook: program.hook.name().to_owned(),
    });
    Some(FastPath { attached: attached.collect(), pins, no_pins })
}

fn icmp_errors(mut heard: Vec<HeardEntry>, now: u64) -> Vec<IcmpError> {
    heard.sort_by_key(|entry| Reverse(entry.last_ms));
    let row = |entry: HeardEntry| IcmpError {
        error: entry.complaint.name().to_owned(),
        icmp_type: entry.complaint.kind,
        icmp_code: entry.complaint.code,
        from: entry.from.to_string(),
        packets: entry.count,
        last_seconds: seconds_since(entry.last_ms, now),
        explanation: entry.complaint.explain().to_owned(),
    };
    heard.into_iter().map(row).collect()
}

fn answers(counted: &greway_datapath::Answers) -> Answers {
    Answers {
        answered: counted.answered,
        limited: counted.limited,
        withheld: counted.withheld,
        unsent: counted.unsent,
        silent_because: counted.silence.map(|silence| silence.to_string()),
    }
}

fn peer(address: IpAddr, spec: &TunnelSpec, asked: Option<&Asked>) -> Peer {
    let answer = asked.and_then(|asked| asked.iter().find(|(name, _)| *name == spec.name));
    Peer {
        address: address.to_string(),
        answers: answer.map(|(_, round_trip)| round_trip.is_some()),
        round_trip_ms: answer.and_then(|(_, round_trip)| *round_trip),
    }
}

/// The peer's inner address, by the addresses on the device now: people add them with `ip`.
fn inner_peer(netlink: &Netlink, index: u32) -> Option<IpAddr> {
    let entries = netlink.addresses(Some(index)).ok()?;
    let mut peers = entries.iter().filter_map(|entry| {
        crate::peer::of_address(&InnerAddress {
            local: entry.address.local,
            peer: entry.address.peer,
            prefix_length: entry.address.prefix_length,
        })
    });
    peers.next()
}

fn seconds_since(then_ms: u64, now_ms: u64) -> f64 {
    now_ms.saturating_sub(then_ms) as f64 / 1000.0
}
