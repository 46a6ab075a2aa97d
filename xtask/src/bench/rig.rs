//! One peer's two hosts and what lies between them.
//!
//! ```text
//!   left    eth0 10.0.0.1/24 ======= veth ======= 10.0.0.2/24 eth0    right
//!           tun0 10.1.0.1/24 ~~~~ the peer's ~~~~ 10.1.0.2/24 tun0
//! ```

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use greway_testbed::{Host, LinkOptions, PingOptions, link, ping, poll_until};

use super::daemon::{Folder, Greway};
use super::measures::Measure;
use super::peers::{NOT_HERE, Peer};
use super::programs::Programs;

const UNDERLAY: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const OVERLAY: [&str; 2] = ["10.1.0.1", "10.1.0.2"];
/// How long a new path may take until it carries.
const SOON: Duration = Duration::from_secs(10);

/// A peer, ready to be measured. Fields drop in this order: daemons before the hosts they run in.
pub(super) struct Rig {
    pub(super) peer: Peer,
    daemons: Vec<Greway>,
    hosts: [Host; 2],
    /// The far end's address of the path to be measured.
    address: &'static str,
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
        link(&hosts[0], "eth0", &hosts[1], "eth0", &LinkOptions::default())?;
        for (host, address) in hosts.iter().zip(UNDERLAY) {
            host.address("eth0", &format!("{address}/24"))?;
        }
        let mut rig = Self { peer, daemons: Vec::new(), hosts, address: OVERLAY[1] };
        match peer {
            Peer::Bare | Peer::BareAgain => rig.address = UNDERLAY[1],
            Peer::Vxlan => rig.kernel("vxlan id 47 dstport 4789")?,
            Peer::IpGre => rig.kernel("gre")?,
            Peer::Userspace | Peer::Ebpf => rig.greway(programs, folder)?,
        }
        rig.carries()?;
        Ok(rig)
    }

    /// A tunnel of the kernel's between the two.
    fn kernel(&self, kind: &str) -> anyhow::Result<()> {
        for here in [0, 1] {
            let (local, remote) = (UNDERLAY[here], UNDERLAY[1 - here]);
            let words = format!("link add tun0 type {kind} local {local} remote {remote}");
            let output = self.hosts[here].output(Command::new("ip").args(words.split(' ')))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                bail!("{NOT_HERE}{} ({said})", self.peer.title());
            }
            self.overlay(here)?;
        }
        Ok(())
    }

    fn greway(&mut self, programs: &Programs, folder: &Folder) -> anyhow::Result<()> {
        let datapath = self.peer.datapath().context("a greway has a data plane")?;
        for here in [0, 1] {
            let name = format!("{}-{here}", self.peer.key());
            let greway = Greway::start(programs, folder, &self.hosts[here], &name)?;
            let (local, remote) = (UNDERLAY[here], UNDERLAY[1 - here]);
            let words = format!("tunnel add tun0 mode gre local {local} remote {remote} datapath {datapath}");
            greway.say(&self.hosts[here], &words)?;
            self.daemons.push(greway);
            self.overlay(here)?;
        }
        Ok(())
    }

    fn overlay(&self, here: usize) -> anyhow::Result<()> {
        self.hosts[here].address("tun0", &format!("{}/24", OVERLAY[here]))?;
        self.hosts[here].set_up("tun0")?;
        Ok(())
    }

    /// Waits until the path answers, and for a greway until the data plane is the one that was asked for.
    fn carries(&self) -> anyhow::Result<()> {
        let options = PingOptions { count: 1, timeout: Duration::from_millis(200), ..PingOptions::default() };
        let address = self.address.parse().context("an address")?;
        poll_until(SOON, &format!("an answer by {}", self.peer.title()), || {
            ping(&self.hosts[0], address, &options).ok().filter(|report| report.complete())
        })?;
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
        for (greway, host) in self.daemons.iter().zip(&self.hosts) {
            greway.is_carried_by(host, datapath)?;
        }
        Ok(())
    }

    /// One figure by `greway-load`.
    pub(super) fn measure(&self, programs: &Programs, measure: Measure, words: &str) -> anyhow::Result<f64> {
        let output = self.load(programs, words).stdout(Stdio::piped()).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let figure = measure.read(&String::from_utf8_lossy(&output.stdout))?;
        self.is_what_it_says()?;
        Ok(figure)
    }

    /// Packets of a paced stream that are lost while both daemons, if there are any, are killed and come back.
    pub(super) fn restart(&mut self, programs: &Programs, stream: &Stream) -> anyhow::Result<f64> {
        let words = format!("paced {} {}", stream.rate, stream.milliseconds);
        let mut load = self.load(programs, &words).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
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
        self.daemons.iter_mut().for_each(Greway::kill);
        std::thread::sleep(stream.restart_after);
        for (greway, host) in self.daemons.iter_mut().zip(&self.hosts) {
            greway.run_daemon(host)?;
        }
        Ok(())
    }

    fn load(&self, programs: &Programs, words: &str) -> Command {
        let mut command = Command::new(&programs.load);
        command.args(self.hosts.iter().map(Host::path)).arg(self.address).args(words.split(' '));
        command.stdin(Stdio::null());
        command
    }
}
