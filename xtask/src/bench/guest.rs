//! The bench in Debian's kernel, which has GRE of its own: in QEMU without hardware virtualisation, with a clock that
//! counts instructions. A rate in that clock is instructions a byte or a packet, upside down, and hardly depends on
//! what else this host does. Caches, branch predictors and a second processor do not appear in it.
//!
//! Two machines at once, each with two namespaces a peer and a veth between them: greway in one, the kernel's GRE in the
//! other, since beside a loaded `ip_gre` greway needs a firewall rule that it does not need at home. The bare link is
//! measured in both.

use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use greway_testbed::qemu::{self, Image, Machine, MachineOptions};
use serde_json::Value;

use super::daemon::carried_by;
use super::measures::{Measure, Sizes};
use super::peers::{NOT_HERE, Peer};
use super::programs::Programs;
use super::results::{Place, Results};

const PEERS: [Peer; 4] = [Peer::Bare, Peer::IpGre, Peer::Ebpf, Peer::BareAgain];
const WITH_OFFLOADS: [Measure; 2] = [Measure::Tcp, Measure::Udp64];
const MEASURES: [Measure; 3] = [Measure::Tcp, Measure::Udp64, Measure::TcpNoGso];
/// What each machine is for: its name, its peers, its modules.
const MACHINES: [(&str, [Peer; 2], Option<&str>); 2] = [
    ("bench-greway", [Peer::Bare, Peer::Ebpf], None),
    ("bench-gre", [Peer::BareAgain, Peer::IpGre], Some("ip_gre")),
];
/// Half a second of a guest takes one to three.
const SIZES: Sizes = Sizes { tcp_ms: 500, udp_ms: 500, pings: 0, loaded_ms: 0 };
/// A boot takes one to two minutes.
const BOOT: Duration = Duration::from_secs(240);
/// By the kernel's names. Without them no packet is larger than one segment, on the way out and on the way in.
const OFFLOADS: &str =
    "tx-generic-segmentation tx-tcp-segmentation tx-tcp6-segmentation tx-udp-segmentation rx-gro";

/// What a machine found out.
type Figures = Vec<(Measure, Peer, anyhow::Result<f64>)>;

/// Measures them all.
pub(super) fn run(programs: &Programs, rounds: usize) -> anyhow::Result<Results> {
    qemu::available().map_err(|why| anyhow::anyhow!("{NOT_HERE}{why}"))?;
    // Where the tests keep it too.
    let release = programs.load.parent().context("a program is in a folder")?;
    let cache = release.with_file_name("testbed");
    let image = Image::provide(&cache, say)?;
    let mut results = Results::new(Place::Guest, &MEASURES, &PEERS, &[Peer::Bare, Peer::IpGre]);
    let found: Vec<anyhow::Result<Figures>> = thread::scope(|scope| {
        let start = |what| {
            let image = &image;
            // Its machine ends with this thread.
            scope.spawn(move || on_machine(programs, image, what, rounds))
        };
        let threads: Vec<_> = MACHINES.iter().map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    for ((_, peers, _), figures) in MACHINES.iter().zip(found) {
        match figures {
            Ok(figures) => {
                figures.into_iter().for_each(|(measure, peer, figure)| results.add(measure, peer, figure));
            }
            Err(why) => {
                eprintln!("bench: guest: skipped: {why:#}");
                peers.iter().for_each(|peer| results.skip(*peer, &format!("{why:#}")));
            }
        }
    }
    Ok(results)
}

fn say(line: &str) {
    eprintln!("bench: guest: {line}");
}

fn on_machine(
    programs: &Programs,
    image: &Image,
    (name, peers, module): &(&str, [Peer; 2], Option<&str>),
    rounds: usize,
) -> anyhow::Result<Figures> {
    let options = MachineOptions {
        name: (*name).to_owned(),
        gre_modules: module.iter().map(|module| (*module).to_owned()).collect(),
        counts_instructions: true,
        ..MachineOptions::default()
    };
    say(&format!("{name}: booting, which takes one to two minutes"));
    let mut machine = Machine::boot(image, &options, BOOT, say)?;
    machine.copy(&programs.load, "/root/greway-load", 0o755)?;
    for peer in peers {
        prepare(&mut machine, programs, *peer)?;
    }
    let mut figures = Figures::new();
    for round in 1..=rounds {
        for peer in peers {
            for measure in WITH_OFFLOADS {
                figures.push((measure, *peer, one(&mut machine, measure, *peer)));
            }
            tell(name, &format!("round {round}/{rounds}"), &figures[figures.len() - WITH_OFFLOADS.len()..]);
        }
    }
    for peer in peers {
        without_offloads(&mut machine, *peer)?;
    }
    for round in 1..=rounds {
        for peer in peers {
            figures.push((Measure::TcpNoGso, *peer, one(&mut machine, Measure::TcpNoGso, *peer)));
            tell(name, &format!("round {round}/{rounds}, no GSO"), &figures[figures.len() - 1..]);
        }
    }
    Ok(figures)
}

fn tell(name: &str, round: &str, figures: &[(Measure, Peer, anyhow::Result<f64>)]) {
    let said = figures.iter().map(|(measure, _, figure)| match figure {
        Ok(value) => measure.write(*value),
        Err(why) => format!("{why:#}"),
    });
    let peer = figures.first().map_or("", |(_, peer, _)| peer.title());
    say(&format!("{name}: {round}: {peer:16}  {}", said.collect::<Vec<_>>().join("  ")));
}

/// The peer's namespaces, KEY-0 and KEY-1, and its path.
fn prepare(machine: &mut Machine, programs: &Programs, peer: Peer) -> anyhow::Result<()> {
    let key = peer.key();
    let mut script = format!(
        "ip netns add {key}-0; ip netns add {key}-1
         ip link add eth0 netns {key}-0 type veth peer name eth0 netns {key}-1\n"
    );
    for (here, there) in [(1, 2), (2, 1)] {
        let namespace = format!("{key}-{}", here - 1);
        script += &format!(
            "ip netns exec {namespace} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
             ip -n {namespace} link set lo up
             ip -n {namespace} address add 10.0.0.{here}/24 dev eth0; ip -n {namespace} link set eth0 up\n"
        );
        if peer == Peer::IpGre {
            script += &format!(
                "ip -n {namespace} link add tun0 type gre local 10.0.0.{here} remote 10.0.0.{there}\n"
            );
        }
        if let Some(datapath) = peer.datapath() {
            // Not by `ip netns exec`, which hides /sys/fs/bpf.
            script += &format!(
                "nsenter --net=/run/netns/{namespace} /root/greway --socket /root/{namespace}.sock daemon >/root/{namespace}.log 2>&1 &
                 for i in $(seq 100); do test -S /root/{namespace}.sock && break; sleep 0.1; done
                 nsenter --net=/run/netns/{namespace} /root/greway --socket /root/{namespace}.sock tunnel add tun0 mode gre local 10.0.0.{here} remote 10.0.0.{there} datapath {datapath}\n"
            );
        }
        if !peer.is_bare() {
            script += &format!(
                "ip -n {namespace} address add 10.1.0.{here}/24 dev tun0; ip -n {namespace} link set tun0 up\n"
            );
        }
    }
    script += &format!("ip netns exec {key}-0 ping -q -c 1 -w 10 {} >/dev/null", address(peer));
    if peer.datapath().is_some() {
        machine.copy(&programs.greway, "/root/greway", 0o755)?;
        machine.run("/root/greway --version").context("greway of this machine does not run on Debian 12")?;
    }
    machine.run(&script)?;
    is_what_it_says(machine, peer)
}

fn address(peer: Peer) -> &'static str {
    if peer.is_bare() { "10.0.0.2" } else { "10.1.0.2" }
}

fn one(machine: &mut Machine, measure: Measure, peer: Peer) -> anyhow::Result<f64> {
    let (key, address) = (peer.key(), address(peer));
    let words = measure.run().context("not measured in guests")?.words(&SIZES, address, &[]);
    let said =
        machine.run(&format!("/root/greway-load /run/netns/{key}-0 /run/netns/{key}-1 {address} {words}"))?;
    let figure = measure.read(&said)?;
    is_what_it_says(machine, peer)?;
    Ok(figure)
}

fn is_what_it_says(machine: &mut Machine, peer: Peer) -> anyhow::Result<()> {
    let Some(datapath) = peer.datapath() else { return Ok(()) };
    for end in [0, 1] {
        let namespace = format!("{}-{end}", peer.key());
        let script = format!(
            "nsenter --net=/run/netns/{namespace} /root/greway --socket /root/{namespace}.sock status --json --no-echo"
        );
        let text = machine.run(&script)?;
        let Ok(status) = serde_json::from_str::<Value>(&text) else {
            bail!("greway's status is no JSON: {text}")
        };
        carried_by(&status, datapath)?;
    }
    Ok(())
}

fn without_offloads(machine: &mut Machine, peer: Peer) -> anyhow::Result<()> {
    for end in [0, 1] {
        let namespace = format!("/run/netns/{}-{end}", peer.key());
        for device in ["eth0", "tun0"].iter().take(if peer.is_bare() { 1 } else { 2 }) {
            machine.run(&format!("/root/greway-load features {namespace} {device} {OFFLOADS}"))?;
        }
    }
    Ok(())
}
