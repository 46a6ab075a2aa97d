//! Open vSwitch's userspace datapath as the peer: an implementation of GRE that shares no code with Linux's, and
//! reads and writes the header by its own rules.
//!
//! ```text
//!   host under test              a host of its own: database, ovs-vswitchd
//!   +--------------+    veth    +-------+--------+       +----------------------+
//!   | dev  near/24 |============| port0 | br-phy | . . . | tunnel port | bridge |  one bridge a tunnel; its
//!   +--------------+            +-------+ far/24 |       |             | inner  |  internal port is a tap
//!                                       +--------+       +----------------------+
//! ```
//!
//! Nothing of the system's is touched: the database, the sockets and the log lie in a directory that goes with the
//! [`OpenVswitch`], and both programs are our children, killed by process number. They may be installed, or only
//! unpacked (`cargo xtask test` does that: installing the package would start them as services). Only for tests; the
//! demo never comes here.
//!
//! What one has to know of it (3.1, measured):
//! - The device given to it must not answer ARP for the tunnel's address, which lives on the bridge, and must have no
//!   offloads: its packet socket sends and takes packets as they are.
//! - All tunnels of a datapath share one sequence counter, so that each tunnel's numbers have gaps. Received numbers
//!   are not looked at.
//! - With checksum and sequence number together its checksum is wrong: the number is written after it was computed.
//! - A frame larger than the underlay's MTU is not told to anybody: the internal port's MTU has to be right.

use std::fs;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use greway_netlink::LinkChange;

use crate::link::{LinkOptions, link, offloads};
use crate::{Error, Host, poll_until};

/// How long the database, the switch and each command may take: generous, for a loaded machine.
const READY_TIME: Duration = Duration::from_secs(30);
/// The underlay device in the switch's host.
const PORT: &str = "port0";
/// The bridge with the underlay's addresses.
const UNDERLAY: &str = "br-phy";

/// The cable below: the switch takes no packet larger than the MTU, and no checksum that is not filled in.
const CABLE: LinkOptions = LinkOptions { mtu: 1500, gro: false, tx_offload: false, link_local: false };

/// Where the programs are. Their libraries are looked for beside those that were only unpacked.
#[derive(Debug, Clone)]
pub struct Programs {
    database: PathBuf,
    database_tool: PathBuf,
    schema: PathBuf,
    switch: PathBuf,
    configure: PathBuf,
    openflow: PathBuf,
    control: PathBuf,
    libraries: Vec<PathBuf>,
}

impl Programs {
    /// The programs below `unpacked` (as the root of a file system), else those that are installed.
    ///
    /// # Errors
    /// What is missing, as one sentence.
    pub fn find(unpacked: &Path) -> Result<Self, String> {
        Self::below(unpacked).or_else(|| Self::below(Path::new("/"))).ok_or_else(|| {
            "no Open vSwitch (package openvswitch-switch); `cargo xtask test` unpacks it".to_owned()
        })
    }

    fn below(root: &Path) -> Option<Self> {
        let file = |path: &str| Some(root.join(path)).filter(|path| path.is_file());
        let mut libraries = Vec::new();
        if root != Path::new("/") {
            // lib/x86_64-linux-gnu, usr/lib/aarch64-linux-gnu
            for folder in ["lib", "usr/lib"] {
                let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
                libraries.extend(
                    entries
                        .map(|entry| entry.path())
                        .filter(|path| path.to_string_lossy().contains("-linux-gnu")),
                );
            }
        }
        Some(Self {
            database: file("usr/sbin/ovsdb-server")?,
            database_tool: file("usr/bin/ovsdb-tool")?,
            schema: file("usr/share/openvswitch/vswitch.ovsschema")?,
            switch: file("usr/lib/openvswitch-switch/ovs-vswitchd")
                .or_else(|| file("usr/sbin/ovs-vswitchd"))?,
            configure: file("usr/bin/ovs-vsctl")?,
            openflow: file("usr/bin/ovs-ofctl")?,
            control: file("usr/bin/ovs-appctl")?,
            libraries,
        })
    }
}

/// A tunnel port of the switch.
#[derive(Debug, Clone, Copy)]
pub struct Tunnel<'a> {
    /// The name of its bridge, and of the internal port that is its inner end; at most 14 bytes.
    pub name: &'a str,
    /// The other end's outer address.
    pub remote: IpAddr,
    /// Layer 3 (protocol type 0x0800 or 0x86dd), instead of Ethernet frames (0x6558).
    pub layer_3: bool,
    /// More options of the port, as `ovs-vsctl` takes them: `options:key=42 options:csum=true`.
    pub options: &'a str,
    /// The internal port's MTU in bytes.
    pub mtu: u32,
}

/// A running Open vSwitch on a host of its own. Dropped, both programs are killed and the directory removed; so they are
/// when this process ends in a way that drops nothing.
pub struct OpenVswitch {
    programs: Programs,
    directory: PathBuf,
    children: Vec<Child>,
    guard: Option<Child>,
    host: Host,
}

impl std::fmt::Debug for OpenVswitch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenVswitch").field("directory", &self.directory).field("pids", &self.pids()).finish()
    }
}

impl OpenVswitch {
    /// Starts one on a cable to `host`: `dev` there, which is left without an address, and on the switch's side the
    /// bridge with the addresses `far` (with prefix length).
    ///
    /// # Errors
    /// [`Error::System`] when it cannot be started, [`Error::Guest`] with its log when it dies or a command of its
    /// own fails, [`Error::TimedOut`] when it does not come up.
    pub fn beside(programs: &Programs, host: &Host, dev: &str, far: &[&str]) -> Result<Self, Error> {
        let switch = Host::new("ovs")?;
        link(host, dev, &switch, PORT, &CABLE)?;
        Self::on(programs, switch, far)
    }

    /// Lays a cable between two hosts that will each be given to [`OpenVswitch::on`].
    ///
    /// # Errors
    /// Those of [`link`].
    pub fn cable(left: &Host, right: &Host) -> Result<(), Error> {
        link(left, PORT, right, PORT, &CABLE)
    }

    /// Starts one on a host with such a cable, with these addresses (with prefix length) on its bridge.
    ///
    /// # Errors
    /// As [`OpenVswitch::beside`].
    pub fn on(programs: &Programs, host: Host, addresses: &[&str]) -> Result<Self, Error> {
        let switch = Self::start(programs, host)?;
        switch.underlay(addresses)?;
        Ok(switch)
    }

    /// The bridge with the cable's end and these addresses.
    fn underlay(&self, addresses: &[&str]) -> Result<(), Error> {
        self.host.change(PORT, &LinkChange { arp: Some(false), ..LinkChange::default() })?;
        self.configure(&format!(
            "add-br {UNDERLAY} -- set bridge {UNDERLAY} datapath_type=netdev fail-mode=standalone \
             -- add-port {UNDERLAY} {PORT}"
        ))?;
        for address in addresses {
            self.host.address(UNDERLAY, address)?;
        }
        self.host.set_up(UNDERLAY)
    }

    /// The database and the switch, with no bridge.
    fn start(programs: &Programs, host: Host) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("greway-ovs-{}-{number}", std::process::id()));
        // Of a dead process that had our number.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).map_err(Error::system(directory.display().to_string(), "create it"))?;
        // From here on whatever fails is cleaned up by dropping it.
        let mut switch =
            Self { programs: programs.clone(), directory, children: Vec::new(), guard: None, host };
        let at = |name: &str| switch.directory.join(name).display().to_string();
        let [file, socket] = [at("conf.db"), at("db.sock")];
        let schema = switch.programs.schema.display().to_string();
        switch.run(&switch.programs.database_tool, &["create", &file, &schema])?;
        let remote = format!("--remote=punix:{socket}");
        let server = switch.programs.database.clone();
        switch.spawn(&server, "ovsdb", &[&file, &remote])?;
        switch.wait_for_file("db.sock", "the database")?;
        switch.run(&switch.programs.configure, &[&switch.at_database(), "--no-wait", "init"])?;
        let program = switch.programs.switch.clone();
        switch.spawn(&program, "vswitchd", &[&format!("unix:{socket}")])?;
        switch.guard = Some(switch.guard()?);
        switch.wait_for_file("vswitchd.ctl", "the switch")?;
        Ok(switch)
    }

    /// Its host: the internal ports are devices there.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The process numbers of its programs.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Adds a bridge with a tunnel port, and sets its internal port up with these addresses.
    ///
    /// # Errors
    /// [`Error::Guest`] when the switch refuses, and those of the addresses.
    pub fn tunnel(&self, tunnel: &Tunnel<'_>, addresses: &[&str]) -> Result<(), Error> {
        let Tunnel { name, remote, layer_3, options, mtu } = *tunnel;
        let (kind, mode) = if layer_3 {
            // Nothing but the flows below decides what is sent where.
            ("options:packet_type=legacy_l3", "secure")
        } else {
            ("", "standalone")
        };
        self.configure(&format!(
            "add-br {name} -- set bridge {name} datapath_type=netdev fail-mode={mode} protocols=OpenFlow13 \
             -- set interface {name} mtu_request={mtu} \
             -- add-port {name} {name}-t -- set interface {name}-t type=gre options:remote_ip={remote} {kind} {options}"
        ))?;
        if layer_3 {
            // The internal port is an Ethernet device, the tunnel is not: a received packet gets the header that the
            // device expects, and neighbours of a device without ARP need not be asked for.
            self.host.change(name, &LinkChange { arp: Some(false), ..LinkChange::default() })?;
            let address = self.host.netlink()?.link_by_name(name).map_err(Error::netlink(name, "read it"))?;
            let mac = address.and_then(|link| link.address).unwrap_or_default();
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            for flow in [
                format!(
                    "in_port={name}-t,actions=set_field:{mac}->eth_dst,set_field:02:00:00:00:00:01->eth_src,LOCAL"
                ),
                format!("in_port=LOCAL,ip,actions=output:{name}-t"),
                format!("in_port=LOCAL,ipv6,actions=output:{name}-t"),
            ] {
                let bridge = format!("unix:{}", self.directory.join(format!("{name}.mgmt")).display());
                self.run(&self.programs.openflow, &["-O", "OpenFlow13", "add-flow", &bridge, &flow])?;
            }
        }
        for address in addresses {
            self.host.address(name, address)?;
        }
        self.host.set_up(name)
    }

    /// Runs `ovs-vsctl` with these words, and waits until the switch has done what they say.
    ///
    /// # Errors
    /// [`Error::Guest`] with its message when it fails.
    pub fn configure(&self, words: &str) -> Result<String, Error> {
        let (database, limit) = (self.at_database(), format!("--timeout={}", READY_TIME.as_secs()));
        let words: Vec<&str> = [&*database, &*limit].into_iter().chain(words.split_whitespace()).collect();
        self.run(&self.programs.configure, &words)
    }

    /// Asks the switch itself, by `ovs-appctl` with these words.
    ///
    /// # Errors
    /// As [`OpenVswitch::configure`].
    pub fn ask(&self, words: &str) -> Result<String, Error> {
        let target = self.directory.join("vswitchd.ctl").display().to_string();
        let words: Vec<&str> = ["-t", &*target].into_iter().chain(words.split_whitespace()).collect();
        self.run(&self.programs.control, &words)
    }

    /// What the switch has logged so far.
    pub fn log(&self) -> String {
        ["ovsdb", "vswitchd"].map(|name| self.read(&format!("{name}.log"))).concat()
    }

    /// Sets the offloads of its underlay device as [`link`] does.
    ///
    /// # Errors
    /// As [`offloads`].
    pub fn underlay_offloads(&self, options: &LinkOptions) -> Result<(), Error> {
        offloads(&self.host, PORT, options)
    }

    fn at_database(&self) -> String {
        format!("--db=unix:{}", self.directory.join("db.sock").display())
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }

    /// A command with nothing of the system's directories in its environment.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(&self.directory).stdin(Stdio::null());
        for key in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
            command.env(key, &self.directory);
        }
        let folders: Vec<String> =
            self.programs.libraries.iter().map(|folder| folder.display().to_string()).collect();
        if !folders.is_empty() {
            command.env("LD_LIBRARY_PATH", folders.join(":"));
        }
        command
    }

    fn run(&self, program: &Path, words: &[&str]) -> Result<String, Error> {
        let mut command = self.command(program);
        let output = self.host.output(command.args(words))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let what = format!("`{} {}` ended with {}", program.display(), words.join(" "), output.status);
        let said = [&output.stdout[..], &output.stderr].concat();
        let output = format!("{}\n{}", String::from_utf8_lossy(&said).trim(), self.log());
        Err(Error::Guest { guest: "ovs".to_owned(), what, output })
    }

    /// Starts a program in the foreground, as our child, with its control socket and log in the directory.
    fn spawn(&mut self, program: &Path, name: &str, words: &[&str]) -> Result<(), Error> {
        let at = |kind: &str| self.directory.join(format!("{name}.{kind}")).display().to_string();
        let mut command = self.command(program);
        command
            .args(words)
            .arg(format!("--unixctl={}", at("ctl")))
            .arg(format!("--log-file={}", at("log")))
            .args(["-vconsole:off", "-vsyslog:off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = self.host.spawn(&mut command)?;
        self.children.push(child);
        Ok(())
    }

    /// Starts who waits until our end of a pipe closes, which it does however we end, and clears up then. In a process
    /// group of its own: Ctrl-C is not for it.
    fn guard(&self) -> Result<Child, Error> {
        let script = "cat >/dev/null; kill -9 \"$@\"; rm -rf \"$0\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&self.directory).args(self.pids().iter().map(u32::to_string));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().map_err(Error::system("ovs", "start who ends it"))
    }

    fn wait_for_file(&mut self, name: &str, what: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        let children = &mut self.children;
        let alive = poll_until(READY_TIME, &format!("{what} of Open vSwitch"), || {
            let alive = children.iter_mut().all(|child| matches!(child.try_wait(), Ok(None)));
            (!alive || path.exists()).then_some(alive)
        })?;
        if alive {
            return Ok(());
        }
        let what = format!("{what} died while it started");
        Err(Error::Guest { guest: "ovs".to_owned(), what, output: self.log() })
    }
}

impl Drop for OpenVswitch {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            // Before the numbers that it knows may be other processes'.
            let _ = guard.kill();
            let _ = guard.wait();
        }
        // The switch before its database.
        for child in self.children.iter_mut().rev() {
            // Already gone is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unpacked_and_nothing_installed_is_said_in_one_sentence() {
        let empty = std::env::temp_dir().join(format!("greway-no-ovs-{}", std::process::id()));
        assert!(Programs::below(&empty).is_none());
        if let Err(sentence) = Programs::find(&empty) {
            assert!(sentence.contains("openvswitch-switch") && !sentence.contains('\n'), "{sentence}");
        }
    }

    #[test]
    fn unpacked_programs_bring_their_libraries() {
        let root = std::env::temp_dir().join(format!("greway-some-ovs-{}", std::process::id()));
        for program in [
            "usr/sbin/ovsdb-server",
            "usr/bin/ovsdb-tool",
            "usr/share/openvswitch/vswitch.ovsschema",
            "usr/lib/openvswitch-switch/ovs-vswitchd",
            "usr/bin/ovs-vsctl",
            "usr/bin/ovs-ofctl",
            "usr/bin/ovs-appctl",
            "usr/lib/x86_64-linux-gnu/libunbound.so.8",
            "lib/x86_64-linux-gnu/libcap-ng.so.0",
        ] {
            let path = root.join(program);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = Programs::find(&root);
        fs::remove_file(root.join("usr/bin/ovs-ofctl")).unwrap();
        let half = Programs::below(&root);
        fs::remove_dir_all(&root).unwrap();
        let mut libraries = found.unwrap().libraries;
        libraries.sort();
        assert_eq!(libraries, ["lib", "usr/lib"].map(|folder| root.join(folder).join("x86_64-linux-gnu")));
        assert!(half.is_none(), "a half of it is none of it");
    }
}
