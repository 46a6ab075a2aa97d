//! One peer's two hosts and what lies between them.
//!
//! ```text
//!   left    eth0 10.0.0.1/24 ======= veth ======= 10.0.0.2/24 eth0    right
//!           tun0 10.1.0.1/24 ~~~~ the peer's ~~~~ 10.1.0.2/24 tun0
//!           tun1 10.2.0.1/24 ~~~ another one ~~~~ 10.2.0.2/24 tun1    where the bench asks for it
//! ```

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use greway_testbed::ovs::{OpenVswitch, Tunnel};
use greway_testbed::{Host, LinkOptions, PingOptions, link, ping, poll_until};

use super::daemon::{Folder, Greway, SOON};
use super::measures::{Measure, Run, Sizes};
use super::peers::{NOT_HERE, Peer};
use super::programs::Programs;

const UNDERLAY: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
/// Of `tun0` and `tun1`, left and right.
const OVERLAY: [[&str; 2]; 2] = [["10.1.0.1", "10.1.0.2"], ["10.2.0.1", "10.2.0.2"]];
/// How long a measurement may take. Each has patience of its own; this is for what nobody thought of.
const LONG: Duration = Duration::from_secs(60);
/// Outer IPv4, GRE and the inner Ethernet header, off 1500.
const OVS_MTU: u32 = 1500 - 20 - 4 - 14;

/// A peer, ready to be measured. Fields drop in this order: daemons before the hosts they run in.
pub(super) struct Rig {
    pub(super) peer: Peer,
    daemons: [Option<Greway>; 2],
    ends: [End; 2],
    /// The far end's address of the path to be measured.
    address: &'static str,
    /// From nothing on the left host to a path that answers.
    pub(super) started: Duration,
}

/// A host, by itself or with a switch on it.
enum End {
    Host(Host),
    Switch(Box<OpenVswitch>),
}

impl End {
    fn host(&self) -> &Host {
        match self {
            Self::Host(host) => host,
            Self::Switch(switch) => switch.host(),
        }
    }
}

/// What becomes of a paced stream, and when.
pub(super) struct Stream {
    /// Packets a second.
    pub(super) rate: u32,
    pub(super) milliseconds: u32,
    /// From the first arrival to `kill -9`.
    pub(super) kill_after: Duration,
    /// From there to the restart.
    pub(super) restart_after: Duration,
}

impl Rig {
    /// Makes the hosts and the peer's path, and waits until it carries.
    pub(super) fn new(programs: &Programs, folder: &Folder, peer: Peer) -> anyhow::Result<Self> {
        let hosts = [Host::new("left")?, Host::new("right")?];
        for host in &hosts {
            for (key, value) in [("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")]
            {
                // Nothing of IPv6 is measured, and its announcements would be. A kernel without it has none.
                let _ = host.sysctl(key, value);
            }
        }
        if peer == Peer::Ovs {
            OpenVswitch::cable(&hosts[0], &hosts[1])?;
        } else {
            link(&hosts[0], "eth0", &hosts[1], "eth0", &LinkOptions::default())?;
            for (host, address) in hosts.iter().zip(UNDERLAY) {
                host.address("eth0", &format!("{address}/24"))?;
            }
        }
        let address = if peer.is_bare() { UNDERLAY[1] } else { OVERLAY[0][1] };
        let (ends, daemons) = (hosts.map(End::Host), [None, None]);
        let mut rig = Self { peer, daemons, ends, address, started: Duration::ZERO };
        // The left one last: what it takes alone is a figure.
        rig = rig.end(programs, folder, 1)?;
        let begin = Instant::now();
        rig = rig.end(programs, folder, 0)?;
        rig.answers(address, Duration::from_millis(20))?;
        rig.started = begin.elapsed();
        rig.carries()?;
        Ok(rig)
    }

    /// One end of the path.
    fn end(mut self, programs: &Programs, folder: &Folder, here: usize) -> anyhow::Result<Self> {
        match self.peer {
            Peer::Bare | Peer::BareAgain => return Ok(self),
            Peer::Ovs => self = self.switch(programs, here)?,
            Peer::Userspace | Peer::UserspaceCsum | Peer::Ebpf => {
                static NEXT: AtomicU32 = AtomicU32::new(0);
                let name = format!("{}-{here}-{}", self.peer.key(), NEXT.fetch_add(1, Ordering::Relaxed));
                let greway = Greway::start(programs, folder, self.host(here), &name)?;
                self.daemons[here] = Some(greway);
            }
            Peer::Vxlan | Peer::IpGre => {}
        }
        self.tunnel(here, 0)?;
        Ok(self)
    }

    /// Adds a second tunnel between the two.
    pub(super) fn add_another(&self) -> anyhow::Result<()> {
        if self.peer.is_bare() {
            return Ok(());
        }
        self.tunnel(1, 1)?;
        self.tunnel(0, 1)?;
        self.answers(OVERLAY[1][1], Duration::from_millis(200))?;
        self.carries()
    }

    fn switch(mut self, programs: &Programs, here: usize) -> anyhow::Result<Self> {
        let found = programs.open_vswitch().map_err(|why| anyhow::anyhow!("{NOT_HERE}{why}"))?;
        let address = format!("{}/24", UNDERLAY[here]);
        let start = |end| match end {
            End::Host(host) => Ok(End::Switch(Box::new(OpenVswitch::on(&found, host, &[&address])?))),
            end @ End::Switch(_) => anyhow::Ok(end),
        };
        let [left, right] = self.ends;
        self.ends = if here == 0 { [start(left)?, right] } else { [left, start(right)?] };
        Ok(self)
    }

    /// One end of tunnel `number`.
    fn tunnel(&self, here: usize, number: usize) -> anyhow::Result<()> {
        let (local, remote) = (UNDERLAY[here], UNDERLAY[1 - here]);
        let name = format!("tun{number}");
        // Two between the same addresses differ by their key.
        let key = if number == 0 { String::new() } else { format!("key {number}") };
        let address = format!("{}/24", OVERLAY[number][here]);
        match (&self.ends[here], &self.daemons[here]) {
            (End::Switch(switch), _) => {
                let options = if number == 0 { String::new() } else { format!("options:key={number}") };
                let remote = remote.parse().context("an address")?;
                let tunnel = Tunnel { name: &name, remote, layer_3: false, options: &options, mtu: OVS_MTU };
                switch.tunnel(&tunnel, &[&address])?;
                return Ok(());
            }
            (End::Host(host), Some(greway)) => {
                let datapath = self.peer.datapath().context("a greway has a data plane")?;
                let (key, words) = if self.peer == Peer::UserspaceCsum && number == 0 {
                    ("key 42".to_owned(), "csum")
                } else {
                    (key, self.peer.words())
                };
                let words = format!(
                    "tunnel add {name} mode gre local {local} remote {remote} {key} {words} datapath {datapath}"
                );
                greway.say(host, &words)?;
            }
            (End::Host(host), None) => {
                let kind = match self.peer {
                    Peer::Vxlan => format!("vxlan id {} dstport 4789", 47 + number),
                    _ => format!("gre {key}"),
                };
                let words = format!("link add {name} type {kind} local {local} remote {remote}");
                let output = host.output(Command::new("ip").args(words.split_whitespace()))?;
                if !output.status.success() {
                    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    bail!("{NOT_HERE}{} ({said})", self.peer.title());
                }
            }
        }
        self.host(here).address(&name, &address)?;
        self.host(here).set_up(&name)?;
        Ok(())
    }

    fn host(&self, here: usize) -> &Host {
        self.ends[here].host()
    }

    /// Waits until an address of the right host answers the left one.
    fn answers(&self, address: &str, timeout: Duration) -> anyhow::Result<()> {
        let options = PingOptions { count: 1, timeout, ..PingOptions::default() };
        let address = address.parse().context("an address")?;
        poll_until(SOON, &format!("an answer by {}", self.peer.title()), || {
            ping(self.host(0), address, &options).ok().filter(|report| report.complete())
        })?;
        Ok(())
    }

    /// Waits for a greway until the data plane is the one that was asked for.
    fn carries(&self) -> anyhow::Result<()> {
        let mut last = Ok(());
        let carried = poll_until(SOON, "the data plane", || {
            last = self.is_what_it_says();
            last.is_ok().then_some(())
        });
        last.and_then(|()| Ok(carried?))
    }

    /// Fails for a greway that is carried by another data plane than the one in its name.
    pub(super) fn is_what_it_says(&self) -> anyhow::Result<()> {
        let Some(datapath) = self.peer.datapath() else { return Ok(()) };
        for (here, greway) in self.daemons.iter().enumerate() {
            let greway = greway.as_ref().context("a greway at each end")?;
            greway.is_carried_by(self.host(here), datapath)?;
        }
        Ok(())
    }

    /// What `greway-load` says of one run.
    pub(super) fn run(&self, programs: &Programs, run: Run, sizes: &Sizes) -> anyhow::Result<String> {
        let words = run.words(sizes, self.address, &self.pids());
        let (back, beside) =
            (matches!(run, Run::Tcp { back: true, .. }), matches!(run, Run::Loaded { beside: true }));
        let address = match (self.peer.is_bare(), back) {
            _ if beside => OVERLAY[1][1],
            (_, false) => self.address,
            (true, true) => UNDERLAY[0],
            (false, true) => OVERLAY[0][0],
        };
        let said = bounded(&mut self.load(programs, back, address, &words), LONG)?;
        self.is_what_it_says()?;
        Ok(said)
    }

    /// The daemons of both ends.
    fn pids(&self) -> Vec<u32> {
        let greways = self.daemons.iter().flatten().filter_map(Greway::pid);
        let switches = self.ends.iter().flat_map(|end| match end {
            End::Switch(switch) => switch.pids(),
            End::Host(_) => Vec::new(),
        });
        greways.chain(switches).collect()
    }

    /// Packets of a paced stream that are lost while both daemons, if there are any, are killed and come back.
    pub(super) fn restart(&mut self, programs: &Programs, stream: &Stream) -> anyhow::Result<f64> {
        let words = format!("paced {} {}", stream.rate, stream.milliseconds);
        let mut load = self.load(programs, false, self.address, &words);
        let mut load = load.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let mut said = BufReader::new(load.stdout.take().context("its output is piped")?);
        let mut first = String::new();
        said.read_line(&mut first)?;
        let began = Instant::now();
        let restarted = self.kill_and_restart(stream);
        let in_time = began.elapsed() < Duration::from_millis(stream.milliseconds.into());
        let mut rest = String::new();
        said.read_to_string(&mut rest)?;
        let status = load.wait()?;
        restarted?;
        if !status.success() || first != "first\n" {
            bail!("greway-load {words} ended with {status}");
        }
        if !in_time {
            bail!("the daemons came back when the stream was over: it has to be longer");
        }
        self.is_what_it_says()?;
        Measure::Restart.read(&rest)
    }

    fn kill_and_restart(&mut self, stream: &Stream) -> anyhow::Result<()> {
        std::thread::sleep(stream.kill_after);
        self.daemons.iter_mut().flatten().for_each(Greway::kill);
        std::thread::sleep(stream.restart_after);
        let mut both: Vec<_> = self.daemons.iter_mut().flatten().zip(&self.ends).collect();
        both.iter_mut().try_for_each(|(greway, end)| greway.launch(end.host()))?;
        both.iter_mut().try_for_each(|(greway, end)| greway.is_ready(end.host(), SOON))
    }

    fn load(&self, programs: &Programs, back: bool, address: &str, words: &str) -> Command {
        let mut command = Command::new(&programs.load);
        let mut ends = [self.host(0), self.host(1)];
        if back {
            ends.reverse();
        }
        command.args(ends.map(Host::path)).arg(address).args(words.split(' '));
        command.stdin(Stdio::null());
        command
    }
}

/// What a program prints, a few lines at most; it is killed when it takes too long.
fn bounded(command: &mut Command, within: Duration) -> anyhow::Result<String> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let ended = poll_until(within, &format!("the end of {command:?}"), || child.try_wait().transpose());
    if ended.is_err() {
        let _ = child.kill();
    }
    let output = child.wait_with_output()?;
    ended??;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn what_never_ends_is_ended() {
        let shell = |script: &str, within| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            bounded(&mut command, within).map_err(|error| error.to_string())
        };
        assert_eq!(shell("echo 1", LONG), Ok("1\n".to_owned()));
        assert_eq!(shell("echo why >&2; exit 3", LONG), Err("why".to_owned()));
        let error = shell("exec sleep 100", Duration::from_millis(50)).unwrap_err();
        assert!(error.contains("sleep 100") && error.contains("did not happen"), "{error}");
    }
}
