//! A greway on a host of the bench: the program of this checkout, its daemon, and what it says is in use.
//!
//! Nothing of it outlives the bench, however that ends: the warden of `greway demo` ends every greway that was given a
//! path in the folder and removes the folder when this process goes away; /run is the daemon's own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use greway_testbed::{Bpffs, Host, poll_until};
use serde_json::Value;

use super::programs::Programs;

/// How long a daemon may take until it answers.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// The folder of all daemons, and who clears it away.
pub(super) struct Folder {
    path: PathBuf,
    warden: Child,
    pipe: Option<ChildStdin>,
}

impl Folder {
    pub(super) fn new(programs: &Programs) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("greway-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        // In a group of its own: Ctrl-C is for the bench and not for the one who cleans up after it.
        let mut warden = Command::new(&programs.greway)
            .args(["demo", "--stage", "warden", "--folder"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start greway's warden")?;
        let pipe = warden.stdin.take();
        Ok(Self { path, warden, pipe })
    }

    /// Where the files are.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.warden.wait();
    }
}

/// A greway on one host.
pub(super) struct Greway {
    program: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    bpffs: Bpffs,
    daemon: Option<Child>,
}

impl Greway {
    /// A running daemon on `host`; `name` is that of its files.
    pub(super) fn start(
        programs: &Programs,
        folder: &Folder,
        host: &Host,
        name: &str,
    ) -> anyhow::Result<Self> {
        let [socket, log] = ["sock", "log"].map(|end| folder.path.join(format!("{name}.{end}")));
        let program = programs.greway.clone();
        let mut greway = Self { program, socket, log, bpffs: Bpffs::new()?, daemon: None };
        greway.run_daemon(host)?;
        Ok(greway)
    }

    /// Starts the daemon and waits until it answers: it has adopted by then what an earlier one left.
    pub(super) fn run_daemon(&mut self, host: &Host) -> anyhow::Result<()> {
        self.run_daemon_within(host, SOON)
    }

    /// The same with more patience.
    pub(super) fn run_daemon_within(&mut self, host: &Host, patience: Duration) -> anyhow::Result<()> {
        self.launch(host)?;
        self.is_ready(host, patience)
    }

    /// Starts the daemon.
    pub(super) fn launch(&mut self, host: &Host) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command.arg("mount -t tmpfs greway-bench /run && exec \"$0\" \"$@\"").arg(&self.program);
        command.arg("--socket").arg(&self.socket).arg("daemon");
        // What this machine's own greway is told is for it alone.
        command.env("GREWAY_CONFIG", "/dev/null").env("GREWAY_FAST_PATH", "on");
        command.env("GREWAY_BPFFS", self.bpffs.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(host.spawn(&mut command)?);
        Ok(())
    }

    /// Waits until the daemon that was launched answers.
    pub(super) fn is_ready(&mut self, host: &Host, patience: Duration) -> anyhow::Result<()> {
        let what = format!("an answer of the daemon on {}", host.name());
        poll_until(patience, &what, || {
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten());
            match ended {
                Some(status) => Some(Err(anyhow::anyhow!("it ended: {status}"))),
                // A verb that only reads would answer without a daemon.
                None => (greeted(&self.socket, patience) == self.pid()).then_some(Ok(())),
            }
        })
        .map_err(anyhow::Error::from)
        .and_then(|answered| answered)
        .with_context(|| fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// SIGTERM, and waits for the end of it.
    pub(super) fn end(&mut self, patience: Duration) -> anyhow::Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let told = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &daemon.id().to_string()]).status()?;
        if !told.success() {
            bail!("the daemon cannot be told to end: {told}");
        }
        let ended = poll_until(patience, "the end of the daemon", || daemon.try_wait().ok().flatten());
        let _ = daemon.kill();
        let _ = daemon.wait();
        Ok(ended.map(drop)?)
    }

    /// `kill -9`, without waiting until the kernel has cleared up behind it.
    pub(super) fn shoot(&mut self) -> Shot {
        let mut daemon = self.daemon.take();
        if let Some(daemon) = &mut daemon {
            let _ = daemon.kill();
        }
        Shot(daemon)
    }

    /// Its process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Runs a verb and gives what it printed.
    pub(super) fn say(&self, host: &Host, words: &str) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("--socket").arg(&self.socket).args(words.split_whitespace()).stdin(Stdio::null());
        let output = host.output(&mut command)?;
        if !output.status.success() {
            bail!("greway {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Fails unless all tunnels are carried as `wanted` says, by their own status.
    pub(super) fn is_carried_by(&self, host: &Host, wanted: &str) -> anyhow::Result<()> {
        let status: Value = serde_json::from_str(&self.say(host, "status --json --no-echo")?)?;
        carried_by(&status, wanted).with_context(|| host.name().to_owned())
    }

    /// The same for one of several tunnels.
    pub(super) fn carries(&self, host: &Host, tunnel: &str, wanted: &str) -> anyhow::Result<()> {
        let told = self.say(host, &format!("status {tunnel} --json --no-echo"))?;
        carried_by(&serde_json::from_str(&told)?, wanted).with_context(|| host.name().to_owned())
    }
}

/// The process that answers a greeting at a socket.
fn greeted(socket: &Path, patience: Duration) -> Option<u32> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(b"{\"method\":\"io.greway.Hello\"}\0").ok()?;
    let mut reply = Vec::new();
    BufReader::new(stream).read_until(0, &mut reply).ok()?;
    reply.pop();
    let reply: Value = serde_json::from_slice(&reply).ok()?;
    reply["parameters"]["hello"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
}

/// A daemon that was killed and may not be gone yet.
pub(super) struct Shot(Option<Child>);

impl Drop for Shot {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.0 {
            let _ = daemon.wait();
        }
    }
}

impl Drop for Greway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Packets that a fast path may leave to userspace and still be the one that is measured: the first ones, before the
/// far end is there.
const LEFT_PERCENT: u64 = 1;
const FIRST_PACKETS: u64 = 20;

/// Whether `greway status --json` says of every tunnel that `wanted` carries it, and its counters agree.
pub(super) fn carried_by(status: &Value, wanted: &str) -> anyhow::Result<()> {
    let tunnels = status["tunnels"].as_array().map(Vec::as_slice).unwrap_or_default();
    if tunnels.is_empty() {
        bail!("status names no tunnel: {status}");
    }
    tunnels.iter().try_for_each(|tunnel| is_carried_by(tunnel, wanted))
}

fn is_carried_by(tunnel: &Value, wanted: &str) -> anyhow::Result<()> {
    match tunnel["datapath"]["datapath"].as_str() {
        Some(word) if word == wanted => {}
        Some(word) => bail!("status says that {word} carries and not {wanted}: {}", tunnel["datapath"]),
        None => bail!("status does not say what carries: {tunnel}"),
    }
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let counters = &tunnel["counters"];
    let packets = number(&counters["received_packets"]) + number(&counters["sent_packets"]);
    let reasons = tunnel["left_to_userspace"].as_array().into_iter().flatten();
    let left: u64 = reasons.map(|reason| number(&reason["packets"])).sum();
    if left * 100 > packets * LEFT_PERCENT && left > FIRST_PACKETS {
        bail!("{left} of {packets} packets were left to userspace: {}", tunnel["left_to_userspace"]);
    }
    Ok(())
}

#[cfg(test)]
mod unit {
    use serde_json::json;

    use super::*;

    #[test]
    fn another_data_plane_is_not_measured_under_this_ones_name() {
        let status =
            json!({ "tunnels": [{ "datapath": { "datapath": "userspace", "not_ebpf": "no BPF" } }] });
        assert!(carried_by(&status, "userspace").is_ok());
        let error = carried_by(&status, "ebpf").unwrap_err().to_string();
        assert!(error.starts_with("status says that userspace carries and not ebpf: "), "{error}");
        assert!(error.contains("no BPF"), "{error}");
        assert!(carried_by(&json!({ "tunnels": [] }), "ebpf").is_err());
    }

    #[test]
    fn who_answers_a_greeting_is_known_by_its_number() {
        let socket = std::env::temp_dir().join(format!("greway-greeted-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let pid = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                BufReader::new(&stream).read_until(0, &mut request).unwrap();
                assert_eq!(request, b"{\"method\":\"io.greway.Hello\"}\0");
                (&stream)
                    .write_all(b"{\"parameters\":{\"hello\":{\"version\":\"1\",\"pid\":42}}}\0")
                    .unwrap();
            });
            greeted(&socket, SOON)
        });
        drop(listener);
        let nobody = greeted(&socket, SOON);
        fs::remove_file(&socket).unwrap();
        assert_eq!((pid, nobody), (Some(42), None));
    }

    #[test]
    fn a_fast_path_that_leaves_packets_to_userspace_is_not_what_is_measured() {
        let status = |packets: u64, left: u64| {
            json!({ "tunnels": [{
                "datapath": { "datapath": "ebpf" },
                "counters": { "received_packets": packets, "sent_packets": packets },
                "left_to_userspace": [{ "reason": "multicast", "packets": left }],
            }] })
        };
        assert!(carried_by(&status(5000, 99), "ebpf").is_ok());
        let error = carried_by(&status(5000, 101), "ebpf").unwrap_err().to_string();
        assert!(error.starts_with("101 of 10000 packets were left to userspace: "), "{error}");
        assert!(carried_by(&status(1, 2), "ebpf").is_ok(), "the first ones");
    }
}
