//! The guide's topology in network namespaces, with greway as people use it: a daemon on linux1 and one on linux2, and
//! this program's own verbs, each a process of its own in the host's namespace.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use greway_control::status::{State, Status as Report};
use greway_netlink::nftables::Nftables;
use greway_testbed::{Capture, Guide, Host, PingOptions, ping, poll_until, tcp};

use super::lab::{self, Lab};
use super::world::{HostName, Leftover, Ping, Said, Sighting, Status, Tap, Transfer, TunnelFile, Way, World};

use HostName::{Lan1, Lan2, Linux1, Linux2, Router};

/// How long an echo is waited for.
const ECHO: Duration = Duration::from_secs(1);
/// How long a capture may lag behind the packet that it must hold.
const CAPTURE: Duration = Duration::from_millis(200);
/// How long a daemon may take to start or to end.
const DAEMON: Duration = Duration::from_secs(10);
/// How long the bulk transfer may take.
const TRANSFER: Duration = Duration::from_secs(60);

/// The world in the kernel.
pub(super) struct Kernel {
    // Dropped in this order: the daemons end before their namespaces.
    daemons: Vec<Daemon>,
    holders: Vec<(HostName, Child)>,
    lab: Option<Lab>,
    guide: Option<Guide>,
    /// Devices of linux1 and linux2 before any tunnel.
    devices: Vec<(HostName, BTreeSet<String>)>,
}

/// A daemon of the demo.
struct Daemon {
    host: HostName,
    process: Child,
    socket: PathBuf,
    /// Its working folder: the tunnel files are written here.
    folder: PathBuf,
}

/// What stays with `--keep`.
pub(super) struct Kept {
    /// For each host a process in its namespace.
    pub(super) processes: Vec<(HostName, u32)>,
    /// The sockets of the daemons.
    pub(super) sockets: Vec<(HostName, PathBuf)>,
    /// The lab's folder.
    pub(super) folder: PathBuf,
}

impl Kernel {
    /// Builds the hosts and starts both daemons; with `keep` also processes that keep the other hosts alive.
    pub(super) fn new(keep: bool) -> Result<Self> {
        let guide = Guide::build()?;
        let lab = Lab::new()?;
        let folder = lab.folder().to_owned();
        let mut world = Self {
            daemons: Vec::new(),
            holders: Vec::new(),
            lab: Some(lab),
            guide: Some(guide),
            devices: Vec::new(),
        };
        for host in [Linux1, Linux2] {
            let devices = world.devices_of(host)?;
            world.devices.push((host, devices));
            world.start_daemon(host)?;
        }
        if keep {
            for host in [Lan1, Router, Lan2] {
                let mut command = Command::new(lab::program()?);
                command.args(["demo", "--stage", "hold", "--folder"]).arg(&folder);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let holder = world.host(host)?.spawn(command.process_group(0))?;
                world.holders.push((host, holder));
            }
        }
        Ok(world)
    }

    /// Leaves everything as it is.
    pub(super) fn keep(mut self) -> Kept {
        let daemons = std::mem::take(&mut self.daemons);
        let mut processes: Vec<_> = daemons.iter().map(|daemon| (daemon.host, daemon.process.id())).collect();
        let holders = std::mem::take(&mut self.holders);
        processes.extend(holders.iter().map(|(host, process)| (*host, process.id())));
        processes.sort_unstable();
        let sockets = daemons.iter().map(|daemon| (daemon.host, daemon.socket.clone())).collect();
        let folder = self.lab.as_ref().map(|lab| lab.folder().to_owned()).unwrap_or_default();
        if let Some(lab) = self.lab.take() {
            lab.keep();
        }
        Kept { processes, sockets, folder }
    }

    fn host(&self, name: HostName) -> Result<&Host> {
        let guide = self.guide.as_ref().context("the hosts are gone")?;
        Ok(match name {
            Lan1 => &guide.lan1,
            Linux1 => &guide.linux1,
            Router => &guide.router,
            Linux2 => &guide.linux2,
            Lan2 => &guide.lan2,
        })
    }

    fn daemon(&self, host: HostName) -> Result<&Daemon> {
        self.daemons
            .iter()
            .find(|daemon| daemon.host == host)
            .with_context(|| format!("{host} has no daemon"))
    }

    fn start_daemon(&mut self, host: HostName) -> Result<()> {
        let lab = self.lab.as_ref().context("the lab is gone")?;
        let folder = lab.folder().join(host.as_str());
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let socket = lab.folder().join(format!("{host}.sock"));
        let log = folder.join("log");
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = Command::new(lab::program()?);
        command.arg("--socket").arg(&socket).arg("daemon").current_dir(&folder);
        let (out, err) = (file.try_clone().context("cannot duplicate a file")?, file);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // In a process group of its own: at Ctrl-C the warden ends it, and a kept lab outlives the terminal.
        let process = self.host(host)?.spawn(command.process_group(0))?;
        self.daemons.push(Daemon { host, process, socket, folder });
        let daemon = self.daemons.last_mut().context("just pushed")?;
        let answer = || match daemon.process.try_wait() {
            Ok(Some(status)) => Some(Err(status)),
            _ => UnixStream::connect(&daemon.socket).is_ok().then_some(Ok(())),
        };
        let last_words = || format!("the daemon of {host} does not start; its log ends: {}", tail(&log));
        match poll_until(DAEMON, "an answer", answer).with_context(last_words)? {
            Ok(()) => Ok(()),
            Err(status) => Err(anyhow::anyhow!("{status}")).with_context(last_words),
        }
    }

    /// Runs a verb of this program on a host, with that host's daemon.
    fn verb(&self, host: HostName, words: &[&str]) -> Result<Output> {
        let daemon = self.daemon(host)?;
        let mut command = Command::new(lab::program()?);
        command
            .arg("--socket")
            .arg(&daemon.socket)
            .args(words)
            .current_dir(&daemon.folder)
            .stdin(Stdio::null());
        let output = self.host(host)?.run(|| command.output())?.context("cannot run greway")?;
        if !output.status.success() {
            let said = lines(&output.stderr).join(" / ");
            bail!("greway {} on {host} failed ({}): {said}", words.join(" "), output.status);
        }
        Ok(output)
    }

    fn devices_of(&self, host: HostName) -> Result<BTreeSet<String>> {
        let links = self.host(host)?.netlink()?.links().context("cannot list devices")?;
        Ok(links.into_iter().map(|link| link.name).collect())
    }

    /// Ends a daemon in the way an administrator would; what it left.
    fn stop(&mut self, host: HostName) -> Result<Vec<Leftover>> {
        let stopped = self.verb(host, &["daemon", "--stop"]);
        let position = self.daemons.iter().position(|daemon| daemon.host == host);
        let mut daemon = self.daemons.remove(position.with_context(|| format!("{host} has no daemon"))?);
        let waited = poll_until(DAEMON, &format!("the end of the daemon of {host}"), || {
            daemon.process.try_wait().ok().flatten()
        });
        let ended = stopped.map(drop).and_then(|()| Ok(waited.map(drop)?));
        if ended.is_err() {
            end(&mut daemon.process);
        }
        let mut leftovers =
            vec![gone(format!("{host}: daemon has ended"), ended.err().map(|error| format!("{error:#}")))];

        let before = self.devices.iter().find(|(name, _)| *name == host).map(|(_, devices)| devices.clone());
        let extra: Vec<String> =
            self.devices_of(host)?.difference(&before.unwrap_or_default()).cloned().collect();
        let tables = self.host(host)?.run(|| Nftables::open()?.tables())?;
        // A kernel without nf_tables has no rules of ours either.
        let tables: Vec<String> =
            tables.unwrap_or_default().into_iter().map(|table| format!("{table:?}")).collect();
        let rest = [extra, tables].concat();
        leftovers
            .push(gone(format!("{host}: no device, no rule"), (!rest.is_empty()).then(|| rest.join(", "))));
        let files = [daemon.socket.clone(), daemon.socket.with_extension("sock.state")];
        let files: Vec<String> =
            files.iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
        leftovers.push(gone(
            format!("{host}: no socket, no state"),
            (!files.is_empty()).then(|| files.join(", ")),
        ));
        Ok(leftovers)
    }
}

impl World for Kernel {
    fn up(&mut self, host: HostName, file: &TunnelFile) -> Result<Said> {
        let path = self.daemon(host)?.folder.join(file.name);
        fs::write(&path, &file.text).with_context(|| format!("cannot write {}", path.display()))?;
        let output = self.verb(host, &["up", file.name])?;
        Ok(Said { actions: lines(&output.stdout), notes: lines(&output.stderr) })
    }

    fn down(&mut self, host: HostName) -> Result<()> {
        self.verb(host, &["down", "tun0"]).map(drop)
    }

    fn forward(&mut self, host: HostName) -> Result<()> {
        Ok(self.host(host)?.sysctl("ipv4/ip_forward", "1")?)
    }

    fn route_add(&mut self, host: HostName, way: Way) -> Result<()> {
        Ok(self.host(host)?.route(&way.destination(), &way.next.to_string())?)
    }

    fn route_del(&mut self, host: HostName, way: Way) -> Result<()> {
        // It may have gone with its device, and with the device its very name.
        let _ = self.host(host)?.delete_route(&way.destination(), &way.next.to_string());
        Ok(())
    }

    fn ping(&mut self, from: HostName, to: Ipv4Addr, taps: &[Tap]) -> Result<Ping> {
        let mut captures = Vec::new();
        for tap in taps {
            let (host, dev) = match tap {
                Tap::Underlay => (Linux2, "wan0"),
                Tap::Tunnel => (Linux2, "tun0"),
                Tap::Lan => (Lan2, "eth0"),
            };
            captures.push((*tap, Capture::start(self.host(host)?, dev)?));
        }
        let options = PingOptions { count: 1, timeout: ECHO, ..PingOptions::default() };
        let report = ping(self.host(from)?, IpAddr::V4(to), &options)?;
        let mut seen = Vec::new();
        for (tap, capture) in captures {
            // A packet that passed may still be on its way to the capturing thread; that none comes is an answer too.
            let _ = poll_until(CAPTURE, "a packet", || {
                (capture.count(|packet| packet.ethertype() == 0x0800) > 0).then_some(())
            });
            let packets = capture.stop().into_iter().filter(|packet| packet.ethertype() == 0x0800);
            seen.extend(packets.map(|packet| Sighting { tap, packet: packet.payload().to_vec() }));
        }
        Ok(Ping { reply: report.rtts.first().copied(), seen })
    }

    fn transfer(&mut self, from: HostName, to: HostName, bytes: u64) -> Result<Transfer> {
        let address = match to {
            Lan1 => greway_testbed::guide::LAN[0],
            Lan2 => greway_testbed::guide::LAN[1],
            _ => bail!("only the LAN hosts receive transfers"),
        };
        let report =
            tcp::transfer(self.host(from)?, self.host(to)?, SocketAddr::from((address, 0)), bytes, TRANSFER)?;
        Ok(Transfer { bytes: report.bytes, elapsed: report.elapsed, intact: report.intact() })
    }

    fn status(&mut self, host: HostName) -> Result<Status> {
        let json = self.verb(host, &["status", "tun0", "--json"])?;
        let report: Report =
            serde_json::from_slice(&json.stdout).context("greway status --json is not what it should be")?;
        let up = report.tunnels.iter().any(|tunnel| tunnel.state == State::Up);
        let text = self.verb(host, &["status", "tun0"])?;
        Ok(Status { lines: lines(&text.stdout), up })
    }

    fn remove(&mut self) -> Result<Vec<Leftover>> {
        let mut leftovers = Vec::new();
        for host in [Linux1, Linux2] {
            match self.stop(host) {
                Ok(found) => leftovers.extend(found),
                Err(error) => {
                    leftovers.push(gone(format!("{host}: daemon has ended"), Some(format!("{error:#}"))))
                }
            }
        }
        let mut namespaces = Vec::new();
        for host in HostName::ALL {
            namespaces.push(inode(self.host(host)?)?);
        }
        self.guide = None;
        let inside = processes_in(&namespaces);
        leftovers
            .push(gone("no process in any host".to_owned(), (!inside.is_empty()).then(|| inside.join(", "))));
        if let Some(lab) = self.lab.take() {
            let folder = lab.remove();
            let left = folder.exists().then(|| folder.display().to_string());
            leftovers.push(gone("no file of the demo".to_owned(), left));
        }
        Ok(leftovers)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            end(&mut daemon.process);
        }
        for (_, holder) in &mut self.holders {
            end(holder);
        }
    }
}

fn end(process: &mut Child) {
    // It may have ended by itself; either way it is waited for.
    let _ = process.kill();
    let _ = process.wait();
}

fn gone(what: String, left: Option<String>) -> Leftover {
    Leftover { what, gone: left.is_none(), detail: left.unwrap_or_default() }
}

fn inode(host: &Host) -> Result<u64> {
    let link = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&host.as_fd())));
    let link = link.context("cannot tell a namespace's number")?;
    let text = link.to_string_lossy();
    let number =
        text.strip_prefix("net:[").and_then(|rest| rest.strip_suffix(']')).and_then(|text| text.parse().ok());
    number.with_context(|| format!("{text} is no network namespace"))
}

/// Processes of this user that are in one of these namespaces.
fn processes_in(namespaces: &[u64]) -> Vec<String> {
    let names: BTreeSet<String> = namespaces.iter().map(|inode| format!("net:[{inode}]")).collect();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let inside = |pid: &String| {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/net"));
        namespace.is_ok_and(|link| names.contains(link.to_string_lossy().as_ref()))
    };
    let pids = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter(inside).collect()
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// The end of a log, in one line.
fn tail(log: &std::path::Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(5)..];
    if last.is_empty() { "empty".to_owned() } else { last.join(" / ") }
}
