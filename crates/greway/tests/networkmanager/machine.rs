//! A host of the lab as a machine with a system of its own: Debian's files, a private D-Bus, udev, the real
//! NetworkManager, and greway installed as the package does it.
//!
//! The system is a process of its own in new mount and process namespaces, inside the host's network namespace; its
//! root is pivoted to Debian's files, so nothing in it reaches the files, the bus or the devices of the machine that
//! the tests run on. Its first process reads a pipe from the test, and all in it ends with the test, however that ends.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use greway_testbed::{Host, poll_until};

use crate::support::{GREWAY, Node, SOON};

/// A Debian whose NetworkManager is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Debian {
    /// NetworkManager 1.42: no device handlers.
    Bookworm,
    /// NetworkManager 1.52.
    Trixie,
}

impl Debian {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// The type that an adopted profile has there.
    pub(crate) fn adopted_type(self) -> &'static str {
        match self {
            Self::Bookworm => "veth",
            Self::Trixie => "generic",
        }
    }
}

/// What is in a machine beside what these need.
const PACKAGES: &str = "network-manager,dbus,udev,iproute2,iptables,bash,coreutils,grep,\
                        procps,nftables";

/// Folders and files that are mounted over.
const MOUNTPOINTS: [&str; 12] = [
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "root",
    "outside",
    "etc/NetworkManager",
    "etc/greway",
    "usr/local/sbin",
    "var/lib/NetworkManager",
    "var/log",
];

/// Makes the machine's mounts, pivots into it and starts bus and udev. Arguments: root, greway's binary, its
/// NetworkManager snippet, `udev` or `no-udev`.
const INIT: &str = r#"
set -eu
root=$1 binary=$2 snippet=$3 udev=$4
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
# NetworkManager takes a /sys that cannot be written to for a container's, where no udev is to be waited for.
if [ "$udev" = udev ]; then mount -t sysfs sysfs sys; else mount -t sysfs -o ro sysfs sys; fi
for folder in run tmp etc/NetworkManager etc/greway usr/local/sbin var/lib/NetworkManager var/log; do
    mount -t tmpfs tmpfs "$folder"
done
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mount --bind "$binary" usr/bin/greway
mount --bind "$binary" usr/lib/NetworkManager/dispatcher.d/device/greway
mount --bind "$snippet" usr/lib/NetworkManager/conf.d/90-greway.conf
mkdir -p etc/NetworkManager/system-connections run/dbus
cat >etc/NetworkManager/NetworkManager.conf <<END
[main]
plugins=keyfile
END
cat >run/bus.conf <<END
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <servicedir>/usr/share/dbus-1/system-services</servicedir>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
END
pivot_root . outside
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
umount -l /outside
dbus-daemon --config-file=/run/bus.conf --fork --nopidfile
if [ "$udev" = udev ]; then
    if [ -x /usr/lib/systemd/systemd-udevd ]; then daemon=/usr/lib/systemd/systemd-udevd; else daemon=/lib/systemd/systemd-udevd; fi
    "$daemon" --daemon
fi
ln -s /usr/bin/greway /usr/local/sbin/ip
: >/run/ready
# Until the test goes away, however it does.
exec cat >/dev/null
"#;

/// What a command in a machine gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// It must have succeeded; its answer.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// It must have failed with this code and these words.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(words), "no `{words}` in {self:?}");
    }
}

/// A machine that runs.
pub(crate) struct Machine {
    child: Child,
    /// Its first process, as seen from outside.
    init: u32,
    node: Node,
}

impl Machine {
    /// Starts a machine on a host, without NetworkManager and greway.
    pub(crate) fn start(host: &Host, root: &Path, udev: bool) -> Self {
        let node = Node::by_namespace(host);
        let snippet =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/networkmanager/90-greway.conf");
        let log = File::create(node.folder().join("init.log")).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", INIT, "machine"])
            .arg(root)
            .args([GREWAY.as_ref(), snippet.as_os_str()])
            .arg(if udev { "udev" } else { "no-udev" })
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut child = host.spawn(&mut command).unwrap();
        let path = node.folder().join("init.log");
        let init = poll_until(SOON, "the machine to start", || {
            let log = || fs::read_to_string(&path).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "the machine ended: {}", log());
            let pid = child.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            let init = children.split_whitespace().next()?.parse::<u32>().ok()?;
            Path::new(&format!("/proc/{init}/root/run/ready")).exists().then_some(init)
        });
        Self { init: init.unwrap(), child, node }
    }

    /// Runs a shell script in it to its end, as root with a login's environment, shims first in PATH.
    pub(crate) fn run(&self, script: &str) -> Ran {
        let target = self.init.to_string();
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &target, "--mount", "--pid", "--net", "--root", "--wd"])
            .args(["timeout", "40", "bash", "-c", script])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ran =
            Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        ran
    }

    /// Starts NetworkManager and waits until it answers.
    pub(crate) fn start_manager(&self) {
        self.run("NetworkManager --debug >>/run/nm.log 2>&1 </dev/null & echo $! >/run/nm.pid").ok();
        self.until("NetworkManager's answer", || {
            self.run("nmcli -t -f RUNNING general").stdout == "running\n"
        });
    }

    /// Ends NetworkManager as systemd does.
    pub(crate) fn stop_manager(&self) {
        self.run("kill $(cat /run/nm.pid)").ok();
        self.ended("/run/nm.pid");
        // The bus may take a moment longer to let go of its name, and the next one would find it taken.
        self.until("the bus without NetworkManager", || {
            let asked = self.run("nmcli -t -f RUNNING general");
            asked.code != Some(0) && asked.stderr.contains("not running")
        });
    }

    /// Starts greway's watcher and waits until it follows.
    pub(crate) fn start_watcher(&self) {
        self.run("greway nm watch >>/run/watch.log 2>&1 </dev/null & echo $! >/run/watch.pid").ok();
        self.until("the watcher", || {
            self.run("grep -q 'watches NetworkManager' /run/watch.log").code == Some(0)
        });
    }

    /// Ends the watcher by a signal.
    pub(crate) fn stop_watcher(&self, signal: &str) {
        self.run(&format!("kill -{signal} $(cat /run/watch.pid) && : >/run/watch.log")).ok();
        self.ended("/run/watch.pid");
    }

    /// Waits until a process ended. Nobody waits for it in there, so what is left of it is a zombie.
    fn ended(&self, file: &str) {
        let alive = format!("grep -q '^State:[[:space:]]*[^Z[:space:]]' /proc/$(cat {file})/status");
        self.until("the end of a process", || self.run(&alive).code != Some(0));
    }

    /// Waits until something holds.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let held = poll_until(2 * SOON, what, || holds().then_some(()));
        if let Err(error) = held {
            panic!("{error}\n{}", self.told());
        }
    }

    /// A property of a profile as nmcli tells it; empty when there is no such profile.
    pub(crate) fn profile(&self, name: &str, property: &str) -> String {
        self.run(&format!("nmcli -g {property} connection show {name}")).stdout.trim_end().to_owned()
    }

    /// What there is to know of it when something went wrong.
    pub(crate) fn told(&self) -> String {
        let all = "nmcli device; nmcli connection; ip addr; greway nm status; greway status; cat /run/watch.log; \
                   cat /run/greway/*/log; grep -v '<trace>\\|platform' /run/nm.log | tail -n 80";
        let ran = self.run(all);
        format!("{}\n{}", ran.stdout, ran.stderr)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- {}\n{}", self.node.folder().display(), self.told());
        }
        // With its parent the machine's first process goes, and with that all others in it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = poll_until(SOON, "the machine's end", || {
            (!Path::new(&format!("/proc/{}", self.init)).exists()).then_some(())
        });
    }
}

/// Debian's files, from the registry where they are not there yet; why they cannot be had.
pub(crate) fn root(debian: Debian) -> Result<PathBuf, String> {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let root = base.join(format!("networkmanager-{}-2", debian.name()));
    fs::create_dir_all(base).map_err(|error| error.to_string())?;
    // Tests run at the same time, in threads and in processes.
    let lock = File::create(root.with_extension("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if root.is_dir() {
        return Ok(root);
    }
    let new = root.with_extension("new");
    let _ = fs::remove_dir_all(&new);
    let output = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=extract", "--components=main"])
        .arg(format!("--include={PACKAGES}"))
        .args([debian.name().as_ref(), new.as_os_str()])
        .arg("http://deb.debian.org/debian")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("mmdebstrap: {error}"))?;
    if !output.status.success() {
        return Err(format!("mmdebstrap: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    prepare(&new).map_err(|error| format!("{}: {error}", new.display()))?;
    fs::rename(&new, &root).map_err(|error| error.to_string())?;
    Ok(root)
}

/// What the packages' scripts would have done, as far as it is needed here.
fn prepare(root: &Path) -> std::io::Result<()> {
    for folder in MOUNTPOINTS {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    for (file, folder) in [
        ("greway", "usr/bin"),
        ("greway", "usr/lib/NetworkManager/dispatcher.d/device"),
        ("90-greway.conf", "usr/lib/NetworkManager/conf.d"),
    ] {
        fs::create_dir_all(root.join(folder))?;
        File::create(root.join(folder).join(file))?;
    }
    let run = root.join("var/run");
    if !run.is_symlink() {
        let _ = fs::remove_dir_all(&run);
        symlink("/run", run)?;
    }
    if !root.join("usr/sbin/iptables").exists() {
        symlink("xtables-nft-multi", root.join("usr/sbin/iptables"))?;
    }
    // Of udev's rules those for devices of the network: it hears of the machine's other devices too.
    for folder in ["usr/lib/udev/rules.d", "lib/udev/rules.d"] {
        for entry in fs::read_dir(root.join(folder)).into_iter().flatten() {
            let path = entry?.path();
            let kept = ["75-net", "80-net", "85-nm", "99-systemd"];
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if !kept.iter().any(|kept| name.starts_with(kept)) {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}
