//! The bench on this machine: every peer has two namespaces, and each round asks each in turn.

use std::time::Duration;

use super::Options;
use super::daemon::Folder;
use super::measures::{Measure, Sizes};
use super::peers::Peer;
use super::programs::Programs;
use super::results::{Place, Results};
use super::rig::{Rig, Stream};

const PEERS: [Peer; 5] = [Peer::Bare, Peer::Vxlan, Peer::Userspace, Peer::Ebpf, Peer::BareAgain];
const MEASURES: [Measure; 4] = [Measure::Tcp, Measure::Udp, Measure::RoundTrip, Measure::Restart];
/// Restarts take 3 s each, and what must never happen needs no median.
const RESTARTS: usize = 3;

/// Measures them all.
pub(super) fn run(programs: &Programs, options: &Options) -> anyhow::Result<Results> {
    let mut results = Results::new(Place::Native, &MEASURES, &PEERS);
    let folder = Folder::new(programs)?;
    let mut rigs = Vec::new();
    for peer in PEERS {
        match Rig::new(programs, &folder, peer) {
            Ok(rig) => rigs.push(rig),
            Err(why) => {
                eprintln!("bench: {}: skipped: {why:#}", peer.title());
                results.skip(peer, &format!("{why:#}"));
            }
        }
    }
    let sizes = if options.quick {
        Sizes { tcp_ms: 150, udp_ms: 100, pings: 200 }
    } else {
        Sizes { tcp_ms: 1000, udp_ms: 600, pings: 2000 }
    };
    for round in 1..=options.rounds {
        // Whoever comes first in one round comes last in the next: a machine that gets slower favours nobody.
        let order: Vec<&Rig> =
            if round % 2 == 1 { rigs.iter().collect() } else { rigs.iter().rev().collect() };
        for rig in order {
            let mut said = Vec::new();
            for measure in MEASURES {
                let Some(words) = measure.words(&sizes) else { continue };
                let figure = rig.measure(programs, measure, &words);
                said.push(match &figure {
                    Ok(value) => measure.write(*value),
                    Err(why) => format!("{why:#}"),
                });
                results.add(measure, rig.peer, figure);
            }
            eprintln!(
                "bench: round {round}/{}: {:16}  {}",
                options.rounds,
                rig.peer.title(),
                said.join("  ")
            );
        }
    }
    restarts(programs, options, &mut rigs, &mut results);
    Ok(results)
}

fn restarts(programs: &Programs, options: &Options, rigs: &mut [Rig], results: &mut Results) {
    let stream = Stream {
        rate: 100_000,
        milliseconds: if options.quick { 2000 } else { 3000 },
        kill_after: Duration::from_millis(if options.quick { 200 } else { 500 }),
        restart_after: Duration::from_millis(if options.quick { 100 } else { 500 }),
    };
    let times = if options.quick { 1 } else { RESTARTS.min(options.rounds) };
    for round in 1..=times {
        for rig in rigs.iter_mut().filter(|rig| Measure::Restart.is_of(rig.peer)) {
            let lost = rig.restart(programs, &stream);
            let said = match &lost {
                Ok(lost) => format!("{lost} lost"),
                Err(why) => format!("{why:#}"),
            };
            eprintln!("bench: kill -9 {round}/{times}: {:16}  {said}", rig.peer.title());
            results.add(Measure::Restart, rig.peer, lost);
        }
    }
}
