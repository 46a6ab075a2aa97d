//! Many tunnels in one daemon: how long they take to come, to be taken over and to go, what they cost in memory, and
//! what a packet through one of them pays for the others.
//!
//! Two pairs of hosts stand side by side. In one the left host has one tunnel, in the other it has thousands, and the
//! tunnel that is measured lies in the middle of them. The others lead to far ends that answer nothing: they are
//! there to be looked at, waited for and searched. Both pairs are asked in turn, and what is compared is what one round
//! gave.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use greway_testbed::{Host, LinkOptions, PingOptions, link, ping, poll_until};
use serde_json::Value;

use super::daemon::{Folder, Greway};
use super::measures::Measure;
use super::programs::Programs;
use super::results::Spread;

/// The ends of the tunnel that is measured.
const UNDERLAY: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const OVERLAY: [&str; 2] = ["10.1.0.1", "10.1.0.2"];
const SOON: Duration = Duration::from_secs(10);
/// How long all of them may take at a time before something is wrong.
const PATIENCE: Duration = Duration::from_secs(600);
/// The tunnel that is measured.
const MEASURED: &str = "tun0";
/// Clock ticks of /proc/PID/stat in a second.
const TICKS: f64 = 100.0;

/// What is to be measured.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    /// Tunnels of the left host.
    pub(super) tunnels: usize,
    /// The word of `datapath`.
    pub(super) datapath: &'static str,
    /// Rounds of the packet rate; 0: it is not measured.
    pub(super) rounds: usize,
    /// How long each of them counts.
    pub(super) milliseconds: u32,
}

/// What came of it. Times in seconds, memory in bytes, rates in packets a second.
#[derive(Debug, Clone, Default)]
pub(super) struct Scale {
    /// `greway up DIR`, to its end.
    pub(super) added: f64,
    /// The same once more, when nothing is to be done.
    pub(super) again: f64,
    /// `greway status --no-echo --json`.
    pub(super) status: f64,
    /// `greway tunnel show`.
    pub(super) list: f64,
    /// Resident memory of the daemon with all tunnels, after its first tunnel.
    pub(super) resident: u64,
    /// What it was before there was a tunnel.
    pub(super) resident_before: u64,
    /// What of the machine's memory is not available any more (MemAvailable), the daemon's own left out.
    pub(super) kernel: u64,
    /// What of that is slabs.
    pub(super) slab: u64,
    /// Open descriptors of the daemon.
    pub(super) descriptors: usize,
    /// Processor time of the daemon in a second in which nothing happens.
    pub(super) idle: f64,
    /// SIGTERM, to the end of the daemon.
    pub(super) ended: f64,
    /// From the start of the next daemon to its first answer, all tunnels taken over.
    pub(super) restarted: f64,
    /// From SIGKILL to the first answer of the next one.
    pub(super) killed: f64,
    /// `greway down DIR`, to its end.
    pub(super) removed: f64,
    /// Packets a second through the tunnel: with the others, and alone, by rounds.
    pub(super) rates: Vec<[f64; 2]>,
}

impl Scale {
    /// The rate with all the others over that alone; the median of the rounds.
    pub(super) fn rate_ratio(&self) -> Option<Spread> {
        Spread::of(self.rates.iter().map(|[among, alone]| among / alone))
    }
}

/// Two hosts, a greway on each, and the tunnel between them.
struct Pair {
    /// What its files are called: of all runs that a folder sees, no two have the same.
    name: String,
    daemons: [Greway; 2],
    hosts: [Host; 2],
}

/// Measures `sizes.tunnels` tunnels. `say` is told what is being done.
pub(super) fn run(
    programs: &Programs,
    folder: &Folder,
    sizes: &Sizes,
    say: &mut dyn FnMut(&str),
) -> anyhow::Result<Scale> {
    let alone = match sizes.rounds {
        0 => None,
        _ => {
            let pair = Pair::new(programs, folder, &format!("alone-{}-{}", sizes.datapath, sizes.tunnels))?;
            pair.up(0, &write(&pair.folder(folder), 1, sizes.datapath)?)?;
            pair.other_end(sizes.datapath)?;
            Some(pair)
        }
    };
    let mut many = Pair::new(programs, folder, &format!("many-{}-{}", sizes.datapath, sizes.tunnels))?;
    let files = write(&many.folder(folder), sizes.tunnels, sizes.datapath)?;
    let mut scale = Scale { resident_before: many.resident()?, ..Scale::default() };
    let before = Memory::now()?;
    let timed = |begin: Instant| begin.elapsed().as_secs_f64();

    say(&format!("{} tunnels, {}: adding", sizes.tunnels, sizes.datapath));
    let begin = Instant::now();
    many.up(0, &files)?;
    scale.added = timed(begin);
    say(&format!("added in {:.1} s", scale.added));
    many.other_end(sizes.datapath)?;
    let begin = Instant::now();
    many.up(0, &files)?;
    scale.again = timed(begin);
    many.settle()?;
    scale.resident = many.resident()?;
    let after = Memory::now()?;
    scale.slab = after.slab.saturating_sub(before.slab);
    let gone = before.available.saturating_sub(after.available);
    scale.kernel = gone.saturating_sub(scale.resident - scale.resident_before);
    scale.descriptors = many.descriptors()?;
    let begin = Instant::now();
    let told = many.daemons[0].say(&many.hosts[0], "status --no-echo --json")?;
    scale.status = timed(begin);
    let told: Value = serde_json::from_str(&told).context("status --json")?;
    let count = told["tunnels"].as_array().map_or(0, Vec::len);
    if count != sizes.tunnels {
        bail!("{count} of {} tunnels are there", sizes.tunnels);
    }
    let begin = Instant::now();
    many.daemons[0].say(&many.hosts[0], "tunnel show")?;
    scale.list = timed(begin);
    say(&format!(
        "resident {} MB, kernel {} MB, {} descriptors, status {:.2} s, list {:.2} s",
        scale.resident >> 20,
        scale.kernel >> 20,
        scale.descriptors,
        scale.status,
        scale.list
    ));
    scale.idle = many.idle()?;

    if let Some(alone) = &alone {
        for pair in [&many, alone] {
            pair.carries(sizes.datapath)?;
        }
        for round in 0..sizes.rounds {
            let mut rates = [0.0; 2];
            // Whoever comes first in one round comes last in the next.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for which in order {
                let pair = if which == 0 { &many } else { alone };
                rates[which] = pair.rate(programs, sizes.milliseconds)?;
            }
            pair_says(say, round, sizes.rounds, rates);
            scale.rates.push(rates);
        }
        for pair in [&many, alone] {
            pair.carries(sizes.datapath)?;
        }
    }

    say("ending the daemon");
    let begin = Instant::now();
    many.daemons[0].end(PATIENCE)?;
    scale.ended = timed(begin);
    let begin = Instant::now();
    many.daemons[0].run_daemon_within(&many.hosts[0], PATIENCE)?;
    many.is_answered_by_its_daemon()?;
    scale.restarted = timed(begin);
    say(&format!("ended in {:.1} s, restarted in {:.1} s", scale.ended, scale.restarted));
    many.answers()?;
    let begin = Instant::now();
    let dying = many.daemons[0].shoot();
    // As whoever supervises it would, until the last one is out of the way.
    let mut last = Ok(());
    let back = poll_until(PATIENCE, "the next daemon", || {
        last = many.daemons[0]
            .run_daemon_within(&many.hosts[0], PATIENCE)
            .and_then(|()| many.is_answered_by_its_daemon());
        if last.is_err() {
            // One that has not found out yet that it may not be.
            many.daemons[0].kill();
        }
        last.is_ok().then_some(())
    });
    last.and_then(|()| Ok(back?))?;
    scale.killed = timed(begin);
    say(&format!("back {:.1} s after kill -9", scale.killed));
    many.answers()?;

    let begin = Instant::now();
    many.daemons[0].say(&many.hosts[0], &format!("down {files}"))?;
    scale.removed = timed(begin);
    say(&format!("removed in {:.1} s", scale.removed));
    let left = many.hosts[0].run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let left = left.lines().filter(|line| line.contains("gw-")).count();
    if left > 0 {
        bail!("{left} devices are left behind");
    }
    drop(dying);
    Ok(scale)
}

fn pair_says(say: &mut dyn FnMut(&str), round: usize, rounds: usize, [among, alone]: [f64; 2]) {
    say(&format!(
        "round {}/{rounds}: {:.0} kpps among them, {:.0} kpps alone, {:.3}",
        round + 1,
        among / 1e3,
        alone / 1e3,
        among / alone
    ));
}

/// A directory of files, one a tunnel, and its name. The one that is measured is in the middle.
fn write(folder: &Path, tunnels: usize, datapath: &str) -> anyhow::Result<String> {
    fs::create_dir_all(folder)?;
    let [local, remote] = UNDERLAY;
    for number in 0..tunnels {
        let measured = number == tunnels / 2;
        let (name, remote) = match measured {
            true => (MEASURED.to_owned(), remote.to_owned()),
            false => (format!("t{number}"), format!("10.64.{}.{}", number >> 8, number & 0xff)),
        };
        let (a, b) = (number >> 6, number << 2 & 0xff);
        let (address, peer) = match measured {
            true => (format!("{}/24", OVERLAY[0]), String::new()),
            false => (format!("10.128.{a}.{}", b + 1), format!("peer = \"10.128.{a}.{}/30\"\n", b + 2)),
        };
        let address = if number >> 6 > 255 { address.replace("10.128.", "10.129.") } else { address };
        let text = format!(
            "name = \"{name}\"\nlocal = \"{local}\"\nremote = \"{remote}\"\nkey = {number}\n\
             datapath = \"{datapath}\"\n\n[inner]\naddress = \"{address}\"\n{peer}"
        );
        fs::write(folder.join(format!("{name}.toml")), text)?;
    }
    Ok(format!("{}/", folder.display()))
}

impl Pair {
    fn new(programs: &Programs, folder: &Folder, name: &str) -> anyhow::Result<Self> {
        let hosts = [Host::new("left")?, Host::new("right")?];
        for host in &hosts {
            for (key, value) in [("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")]
            {
                // A kernel without it has none.
                let _ = host.sysctl(key, value);
            }
        }
        link(&hosts[0], "eth0", &hosts[1], "eth0", &LinkOptions::default())?;
        for (host, address) in hosts.iter().zip(UNDERLAY) {
            host.address("eth0", &format!("{address}/24"))?;
        }
        hosts[0].route("10.64.0.0/10", &format!("via {}", UNDERLAY[1]))?;
        let start = |here: usize| Greway::start(programs, folder, &hosts[here], &format!("{name}-{here}"));
        Ok(Self { name: name.to_owned(), daemons: [start(0)?, start(1)?], hosts })
    }

    fn folder(&self, folder: &Folder) -> std::path::PathBuf {
        folder.path().join(format!("{}.d", self.name))
    }

    fn up(&self, here: usize, files: &str) -> anyhow::Result<()> {
        self.daemons[here].say(&self.hosts[here], &format!("up {files}")).map(drop)
    }

    /// The far end of the tunnel that is measured.
    fn other_end(&self, datapath: &str) -> anyhow::Result<()> {
        let files: Value = serde_json::from_str(
            &self.daemons[0].say(&self.hosts[0], &format!("status {MEASURED} --json --no-echo"))?,
        )?;
        let key = files["tunnels"][0]["spec"]["okey"].as_u64().context("status names the key")?;
        let [remote, local] = UNDERLAY;
        let words = format!(
            "tunnel add {MEASURED} mode gre local {local} remote {remote} key {key} datapath {datapath}"
        );
        self.daemons[1].say(&self.hosts[1], &words)?;
        self.hosts[1].address(MEASURED, &format!("{}/24", OVERLAY[1]))?;
        self.hosts[1].set_up(MEASURED)?;
        self.answers()
    }

    /// Fails where somebody else answers, or nobody.
    fn is_answered_by_its_daemon(&self) -> anyhow::Result<()> {
        let told = self.daemons[0].say(&self.hosts[0], &format!("status {MEASURED} --json --no-echo"))?;
        let told: Value = serde_json::from_str(&told)?;
        let pid = self.pid()?;
        if told["daemon"]["pid"] != pid {
            bail!("process {} answers, and not {pid}", told["daemon"]["pid"]);
        }
        Ok(())
    }

    fn answers(&self) -> anyhow::Result<()> {
        let options = PingOptions { count: 1, timeout: Duration::from_millis(200), ..PingOptions::default() };
        let address = OVERLAY[1].parse().context("an address")?;
        poll_until(SOON, "an answer through the tunnel", || {
            ping(&self.hosts[0], address, &options).ok().filter(|report| report.complete())
        })?;
        Ok(())
    }

    /// Waits until the data plane is the one that was asked for; fails where it is not.
    fn carries(&self, datapath: &str) -> anyhow::Result<()> {
        let mut last = Ok(());
        let carried = poll_until(SOON, "the data plane", || {
            let mut both = self.daemons.iter().zip(&self.hosts);
            last = both.try_for_each(|(daemon, host)| daemon.carries(host, MEASURED, datapath));
            last.is_ok().then_some(())
        });
        last.and_then(|()| Ok(carried?))
    }

    fn rate(&self, programs: &Programs, milliseconds: u32) -> anyhow::Result<f64> {
        let mut command = Command::new(&programs.load);
        command.args(self.hosts.iter().map(Host::path)).args([OVERLAY[1], "udp", "64"]);
        command.arg(milliseconds.to_string()).stdin(Stdio::null());
        let output = command.output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Measure::Udp64.read(&String::from_utf8_lossy(&output.stdout))
    }

    /// Waits until the daemon has done what there was to do.
    fn settle(&self) -> anyhow::Result<()> {
        let mut before = self.ticks()?;
        let idle = || {
            std::thread::sleep(Duration::from_secs(1));
            let now = self.ticks().ok()?;
            let did = now - std::mem::replace(&mut before, now);
            (did < 20).then_some(())
        };
        Ok(poll_until(PATIENCE, "an idle daemon", idle)?)
    }

    /// Processor seconds of the daemon a second, over a while.
    fn idle(&self) -> anyhow::Result<f64> {
        const WHILE: Duration = Duration::from_secs(5);
        let before = self.ticks()?;
        std::thread::sleep(WHILE);
        Ok((self.ticks()? - before) as f64 / TICKS / WHILE.as_secs_f64())
    }

    fn ticks(&self) -> anyhow::Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // Behind the name in brackets; utime and stime are the 12th and 13th from there (proc(5)).
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
        field(11).zip(field(12)).map(|(user, system)| user + system).context("/proc/PID/stat has both")
    }

    fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        kilobytes(&status, "VmRSS:").context("/proc/PID/status has VmRSS")
    }

    fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.count())
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.daemons[0].pid().context("the daemon runs")
    }
}

/// The machine's, in bytes.
struct Memory {
    available: u64,
    slab: u64,
}

impl Memory {
    fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let read = |name| kilobytes(&text, name).with_context(|| format!("/proc/meminfo has {name}"));
        Ok(Self { available: read("MemAvailable:")?, slab: read("Slab:")? })
    }
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}
