//! The bench on this machine: every peer has two namespaces, and each round asks each in turn.

use std::time::Duration;

use super::daemon::Folder;
use super::measures::{Measure, Sizes};
use super::peers::Peer;
use super::programs::Programs;
use super::results::{Place, Results};
use super::rig::{Rig, Stream};

/// Restarts and start-ups take seconds each, and differ little or must never happen.
const FEW: usize = 3;

/// Who is asked what.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) peers: Vec<Peer>,
    pub(super) measures: Vec<Measure>,
    /// Whom the tunnels are compared with.
    pub(super) beside: Vec<Peer>,
}

impl Plan {
    /// The fast path beside the link and the kernel.
    pub(super) fn fast_path() -> Self {
        Self {
            peers: vec![Peer::Bare, Peer::Vxlan, Peer::Userspace, Peer::Ebpf, Peer::BareAgain],
            measures: vec![Measure::Tcp, Measure::Udp64, Measure::RoundTrip, Measure::Restart],
            beside: vec![Peer::Bare, Peer::Vxlan],
        }
    }

    /// Both data planes beside the link, the kernel, and another program in userspace.
    pub(super) fn all() -> Self {
        Self {
            peers: vec![
                Peer::Bare,
                Peer::Vxlan,
                Peer::Ovs,
                Peer::Userspace,
                Peer::UserspaceCsum,
                Peer::Ebpf,
                Peer::BareAgain,
            ],
            measures: vec![
                Measure::Tcp,
                Measure::TcpBack,
                Measure::TcpEight,
                Measure::TcpEightBack,
                Measure::CpuMachine,
                Measure::CpuDaemons,
                Measure::Udp64,
                Measure::Udp512,
                Measure::Udp1400,
                Measure::RoundTrip,
                Measure::RoundTripTail,
                Measure::Loaded,
                Measure::LoadedTail,
                Measure::Beside,
                Measure::BesideTail,
                Measure::StartUp,
                Measure::Restart,
            ],
            beside: vec![Peer::Bare, Peer::Vxlan, Peer::Ovs],
        }
    }

    fn asks(&self, measure: Measure) -> bool {
        self.measures.contains(&measure)
    }

    /// Whether a second tunnel is needed.
    fn asks_beside(&self) -> bool {
        self.asks(Measure::Beside) || self.asks(Measure::BesideTail)
    }
}

/// Measures them all.
pub(super) fn run(programs: &Programs, plan: &Plan, rounds: usize, quick: bool) -> anyhow::Result<Results> {
    let mut results = Results::new(Place::Native, &plan.measures, &plan.peers, &plan.beside);
    let folder = Folder::new(programs)?;
    let mut rigs = Vec::new();
    for peer in &plan.peers {
        match rig(programs, &folder, *peer, plan) {
            Ok(rig) => rigs.push(rig),
            Err(why) => {
                eprintln!("bench: {}: skipped: {why:#}", peer.title());
                results.skip(*peer, &format!("{why:#}"));
            }
        }
    }
    let sizes = if quick {
        Sizes { tcp_ms: 150, udp_ms: 100, pings: 200, loaded_ms: 150 }
    } else {
        Sizes { tcp_ms: 800, udp_ms: 500, pings: 2000, loaded_ms: 1000 }
    };
    for round in 1..=rounds {
        // Whoever comes first in one round comes last in the next: a machine that gets slower favours nobody.
        let order: Vec<&Rig> =
            if round % 2 == 1 { rigs.iter().collect() } else { rigs.iter().rev().collect() };
        for rig in order {
            let said = ask(programs, plan, rig, &sizes, &mut results);
            eprintln!("bench: round {round}/{rounds}: {:27}  {}", rig.peer.title(), said.join("  "));
        }
    }
    let few = if quick { 1 } else { FEW.min(rounds) };
    if plan.asks(Measure::StartUp) {
        start_ups(programs, &folder, few, &rigs, &mut results);
    }
    if plan.asks(Measure::Restart) {
        restarts(programs, quick, few, &mut rigs, &mut results);
    }
    Ok(results)
}

fn rig(programs: &Programs, folder: &Folder, peer: Peer, plan: &Plan) -> anyhow::Result<Rig> {
    let rig = Rig::new(programs, folder, peer)?;
    if plan.asks_beside() {
        rig.add_another()?;
    }
    Ok(rig)
}

/// One peer's part of a round: each run once, with all that it tells.
fn ask(programs: &Programs, plan: &Plan, rig: &Rig, sizes: &Sizes, results: &mut Results) -> Vec<String> {
    let wanted = || plan.measures.iter().filter(|measure| measure.is_of(rig.peer));
    let mut done = Vec::new();
    let mut said = Vec::new();
    for run in wanted().filter_map(|measure| measure.run()) {
        if done.contains(&run) {
            continue;
        }
        done.push(run);
        let answer = rig.run(programs, run, sizes);
        for measure in wanted().filter(|measure| measure.run() == Some(run)) {
            let figure = match &answer {
                Ok(line) => measure.read(line),
                Err(why) => Err(anyhow::anyhow!("{why:#}")),
            };
            said.push(match &figure {
                Ok(value) => measure.write(*value),
                Err(why) => format!("{why:#}"),
            });
            results.add(*measure, rig.peer, figure);
        }
    }
    said
}

/// The peers' own start is the first figure; the others are of hosts that are made for it.
fn start_ups(programs: &Programs, folder: &Folder, times: usize, rigs: &[Rig], results: &mut Results) {
    for rig in rigs.iter().filter(|rig| Measure::StartUp.is_of(rig.peer)) {
        results.add(Measure::StartUp, rig.peer, Ok(rig.started.as_nanos() as f64));
    }
    for round in 2..=times {
        for rig in rigs.iter().filter(|rig| Measure::StartUp.is_of(rig.peer)) {
            let started = Rig::new(programs, folder, rig.peer).map(|rig| rig.started.as_nanos() as f64);
            tell(&format!("start-up {round}/{times}"), Measure::StartUp, rig.peer, &started);
            results.add(Measure::StartUp, rig.peer, started);
        }
    }
}

fn restarts(programs: &Programs, quick: bool, times: usize, rigs: &mut [Rig], results: &mut Results) {
    let stream = Stream {
        rate: 100_000,
        milliseconds: 3000,
        kill_after: Duration::from_millis(if quick { 200 } else { 500 }),
        restart_after: Duration::from_millis(if quick { 100 } else { 500 }),
    };
    for round in 1..=times {
        for rig in rigs.iter_mut().filter(|rig| Measure::Restart.is_of(rig.peer)) {
            let lost = rig.restart(programs, &stream);
            tell(&format!("lost over kill -9 {round}/{times}"), Measure::Restart, rig.peer, &lost);
            results.add(Measure::Restart, rig.peer, lost);
        }
    }
}

fn tell(what: &str, measure: Measure, peer: Peer, figure: &anyhow::Result<f64>) {
    let said = match figure {
        Ok(value) => measure.write(*value),
        Err(why) => format!("{why:#}"),
    };
    eprintln!("bench: {what}: {:27}  {said}", peer.title());
}
