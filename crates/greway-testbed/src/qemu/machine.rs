//! One machine: a QEMU process, its console log and the port to its agent. Knows nothing of what runs inside.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::channel::{Broken, Channel};
use super::{Image, Say};
use crate::programs::find;
use crate::uml::CommandOutput;
use crate::{Deadline, Error, poll_until};

/// The longest that a command may take unless said otherwise. Installing a package takes 10 s on a machine at rest.
const COMMAND_TIME: Duration = Duration::from_secs(240);
/// A file system in memory.
const MEMORY: &str = "/dev/shm";
/// Somebody who waits for a boot hears of it this often.
const PATIENCE: Duration = Duration::from_secs(15);
/// A disk that is slow for a minute, since this machine is busy with another, is no broken disk.
/// No initramfs, no searching for hardware, no precautions of a kernel that strangers use; addresses fixed, since QEMU
/// 7.2 translates code anew for every address it lies at (three times slower starts of programs otherwise).
const KERNEL_LINE: &str = "root=/dev/nvme0n1 rw nvme_core.io_timeout=600 console=ttyS0 quiet loglevel=4 panic=-1 net.ifnames=0 mitigations=off \
                           nokaslr norandmaps no_timer_check tsc=reliable clocksource=tsc audit=0 \
                           random.trust_cpu=on cryptomgr.notests nowatchdog init_on_alloc=0 \
                           rcupdate.rcu_expedited=1 8250.nr_uarts=1 systemd.show_status=false \
                           modprobe.blacklist=powernow_k8";

/// One end of a cable: Ethernet frames as datagrams between two sockets in the file system. A frame to an end that is
/// not there is lost, as on a real one.
#[derive(Debug, Clone)]
pub struct Nic {
    /// This end.
    pub here: PathBuf,
    /// The other.
    pub there: PathBuf,
    /// The last byte of its hardware address: unique on the cable.
    pub number: u8,
}

/// How to start a machine.
#[derive(Debug, Clone)]
pub struct MachineOptions {
    /// Its host name, also in errors and in the name of its console log.
    pub name: String,
    /// Memory in MiB.
    pub memory: u32,
    /// Kernel modules of GRE, to be loaded at every boot before anything else runs. Without them here the machine's
    /// kernel has no GRE and cannot get it: the modules are not where `modprobe` looks.
    pub gre_modules: Vec<String>,
    /// eth0, eth1 and so on.
    pub nics: Vec<Nic>,
    /// Its clock counts instructions, a nanosecond each: a rate measured in it does not depend on what else this host does.
    /// Everything takes three to six times as long.
    pub counts_instructions: bool,
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self {
            name: "debian".to_owned(),
            memory: 512,
            gre_modules: Vec::new(),
            nics: Vec::new(),
            counts_instructions: false,
        }
    }
}

/// A running machine. Dropped, or with the thread that started it, its process is killed.
#[derive(Debug)]
pub struct Machine {
    name: String,
    directory: PathBuf,
    console: PathBuf,
    process: Child,
    /// None after a command that did not end: what comes then belongs to nobody.
    channel: Option<Channel<UnixStream>>,
    boot_id: String,
}

impl Machine {
    /// Starts a machine. It boots by itself; [`Machine::booted`] waits for that.
    ///
    /// To be called on a thread that lives as long as the machine: the process is killed with the thread that started it.
    ///
    /// # Errors
    /// [`Error::System`] when QEMU cannot be started, [`Error::Guest`] with its message when it ends at once.
    pub fn start(image: &Image, options: &MachineOptions) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short, in /tmp: the path of a socket has 107 bytes at most.
        let directory = std::env::temp_dir().join(format!("greway-qemu-{}-{number}", std::process::id()));
        // Of a dead process that had our number.
        let _ = fs::remove_dir_all(&directory);
        let at = |action| Error::system(directory.display().to_string(), action);
        fs::create_dir(&directory).map_err(at("create it"))?;
        let port = directory.join("agent");
        let listener = UnixListener::bind(&port).map_err(at("make a socket in it"))?;
        listener.set_nonblocking(true).map_err(at("listen"))?;
        let console = image.logs.join(format!("console-{}.log", options.name));
        let errors = directory.join("errors");
        let mut command = command(image, options, &port, &console);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // What the machine writes to its disk lies there until it ends: memory, where there is such a place.
        if Path::new(MEMORY).is_dir() {
            command.env("TMPDIR", MEMORY);
        }
        command.stderr(fs::File::create(&errors).map_err(at("make a file in it"))?);
        let process = command.spawn().map_err(Error::system("qemu-system-x86_64", "start it"))?;
        let name = options.name.clone();
        let mut machine = Self { name, directory, console, process, channel: None, boot_id: String::new() };

        let what = format!("machine {}: QEMU opens the port of the agent", machine.name);
        let stream = poll_until(COMMAND_TIME, &what, || match listener.accept() {
            Ok((stream, _)) => Some(Ok(stream)),
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                Some(Err(Error::system(what.clone(), "accept it")(error)))
            }
            Err(_) => machine.process.try_wait().ok().flatten().map(|status| {
                let output = fs::read_to_string(&errors).unwrap_or_default();
                Err(Error::Guest {
                    guest: machine.name.clone(),
                    what: format!("QEMU ended: {status}"),
                    output,
                })
            }),
        })??;
        stream.set_nonblocking(false).map_err(Error::system(what, "set it up"))?;
        machine.channel = Some(Channel::new(stream));
        Ok(machine)
    }

    /// Starts a machine and waits until it has booted. One that did not get there in time is started once more: what
    /// is tried is what runs on it.
    ///
    /// # Errors
    /// Those of [`Machine::start`] and [`Machine::booted`].
    pub fn boot(image: &Image, options: &MachineOptions, within: Duration, say: Say) -> Result<Self, Error> {
        let mut machine = Self::start(image, options)?;
        let Err(error) = machine.booted(within, say) else { return Ok(machine) };
        if !matches!(error, Error::TimedOut { .. }) {
            return Err(error);
        }
        say(&format!("{}: once more, since {error}", options.name));
        drop(machine);
        let mut machine = Self::start(image, options)?;
        machine.booted(within, say)?;
        Ok(machine)
    }

    /// Waits until the machine has reached multi-user.target.
    ///
    /// # Errors
    /// [`Error::TimedOut`] with the end of its console, [`Error::Guest`] when it ended.
    pub fn booted(&mut self, within: Duration, say: Say) -> Result<(), Error> {
        let deadline = Deadline::within(within);
        loop {
            let slice = Deadline::within(PATIENCE.min(deadline.remaining()));
            let Some(channel) = &mut self.channel else { return Err(self.deaf()) };
            match channel.hello(&slice) {
                // After a reboot: not what the machine said before it.
                Ok(id) if id == self.boot_id => {}
                Ok(id) => {
                    self.boot_id = id;
                    return Ok(());
                }
                Err(Broken::TimedOut { .. }) if !deadline.passed() => {
                    let waited = within.saturating_sub(deadline.remaining()).as_secs();
                    say(&format!("{}: boots since {waited} s", self.name));
                }
                Err(broken) => return Err(self.explain(broken, "boot", within)),
            }
        }
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell script in the machine (`sh -e`, as root, in /root) and gives its output.
    ///
    /// # Errors
    /// [`Error::Guest`] when a line fails or the machine dies, [`Error::TimedOut`] after four minutes.
    pub fn run(&mut self, script: &str) -> Result<String, Error> {
        let output = self.try_run(script, COMMAND_TIME)?;
        if output.status == 0 {
            return Ok(output.text);
        }
        let what = format!("`{}` ended with status {}", script.trim(), output.status);
        Err(Error::Guest { guest: self.name.clone(), what, output: output.text })
    }

    /// Runs a shell script for at most `within`; whatever its exit status, it is an answer.
    ///
    /// # Errors
    /// [`Error::Guest`] when the machine dies, [`Error::TimedOut`]: after that no further command can run.
    pub fn try_run(&mut self, script: &str, within: Duration) -> Result<CommandOutput, Error> {
        let mut channel = self.channel.take().ok_or_else(|| self.deaf())?;
        let output = channel.run(script, &Deadline::within(within));
        self.channel = output.is_ok().then_some(channel);
        output.map_err(|broken| self.explain(broken, &format!("`{}`", script.trim()), within))
    }

    /// Makes a file in the machine.
    ///
    /// # Errors
    /// [`Error::Guest`] when it cannot be made, and those of [`Machine::try_run`].
    pub fn put(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<(), Error> {
        let mut channel = self.channel.take().ok_or_else(|| self.deaf())?;
        let output = channel.put(path, mode, data, &Deadline::within(COMMAND_TIME));
        self.channel = output.is_ok().then_some(channel);
        let what = format!("make {path}");
        match output.map_err(|broken| self.explain(broken, &what, COMMAND_TIME))? {
            CommandOutput { status: 0, .. } => Ok(()),
            CommandOutput { text, .. } => Err(Error::Guest { guest: self.name.clone(), what, output: text }),
        }
    }

    /// Copies a file of this host into the machine.
    ///
    /// # Errors
    /// [`Error::System`] when it cannot be read, and those of [`Machine::put`].
    pub fn copy(&mut self, file: &Path, path: &str, mode: u32) -> Result<(), Error> {
        let data = fs::read(file).map_err(Error::system(file.display().to_string(), "read it"))?;
        self.put(path, mode, &data)
    }

    /// Begins an orderly reboot; [`Machine::booted`] waits for its end.
    ///
    /// # Errors
    /// Those of [`Machine::run`].
    pub fn reboot(&mut self) -> Result<(), Error> {
        self.shut_down("reboot.target")
    }

    /// The console so far: the kernel's messages, and systemd's when something fails. The file stays after the
    /// machine.
    pub fn console(&self) -> String {
        fs::read(&self.console).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// The process on this host.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Powers the machine off in order and waits for its process to end.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when it does not end `within` the time; it is killed then.
    pub fn power_off(mut self, within: Duration) -> Result<(), Error> {
        self.shut_down("poweroff.target")?;
        let what = format!("machine {}: power off", self.name);
        poll_until(within, &what, || self.process.try_wait().ok().flatten()).map(drop)
    }

    /// As `systemctl reboot` does it without logind, which is not there: it would be waited for.
    fn shut_down(&mut self, target: &str) -> Result<(), Error> {
        self.run(&format!("systemctl --no-block --job-mode=replace-irreversibly start {target}")).map(drop)
    }

    fn deaf(&self) -> Error {
        let what = "a command before did not end, and nothing can be asked any more".to_owned();
        Error::Guest { guest: self.name.clone(), what, output: self.end_of_console() }
    }

    fn explain(&self, broken: Broken, what: &str, waited: Duration) -> Error {
        let (guest, console) = (self.name.clone(), self.end_of_console());
        match broken {
            Broken::TimedOut { printed } => {
                let detail = format!("; it printed: {printed}; its console: {console}");
                Error::TimedOut { what: format!("machine {guest}: end of {what}"), waited, detail }
            }
            Broken::Ended { why, printed } => {
                let output = format!("{printed}\nits console: {console}");
                Error::Guest { guest, what: format!("{why} during {what}"), output }
            }
        }
    }

    fn end_of_console(&self) -> String {
        let text = self.console();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn command(image: &Image, options: &MachineOptions, port: &Path, console: &Path) -> Command {
    let mut line = format!("{KERNEL_LINE} systemd.hostname={}", options.name);
    if !options.gre_modules.is_empty() {
        line += &format!(" testbed.modules={}", options.gre_modules.join(","));
    }
    let program = |name: &str| find(name).unwrap_or_else(|| PathBuf::from(name));
    let mut command = Command::new(program("setpriv"));
    command.args(["--pdeathsig", "KILL"]).arg(program("qemu-system-x86_64"));
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-M", "q35", "-smp", "1"]);
    if options.counts_instructions {
        command.args(["-accel", "tcg,thread=single", "-icount", "shift=0"]);
    } else {
        command.args(["-accel", "tcg,thread=multi"]);
    }
    // The plain processor: libc then picks routines without AVX, which are quicker where AVX is emulated.
    command.args(["-cpu", "qemu64,+rdrand,-svm"]);
    command.args(["-m", &options.memory.to_string()]);
    command.arg("-kernel").arg(&image.kernel).args(["-append", &line]);
    command.arg("-serial").arg(argument("file:", console));
    command.args(["-device", "virtio-rng-pci"]);
    // Writes go to a file that has no name and goes with the process.
    command.arg("-drive");
    command.arg(argument("if=none,id=disk,format=raw,snapshot=on,cache=unsafe,file=", &image.disk));
    command.args(["-device", "nvme,drive=disk,serial=testbed", "-device", "virtio-serial-pci"]);
    command.arg("-chardev").arg(argument("socket,id=agent,path=", port));
    command.args(["-device", "virtserialport,chardev=agent,name=testbed"]);
    for (index, nic) in options.nics.iter().enumerate() {
        let here = argument(&format!("dgram,id=n{index},local.type=unix,local.path="), &nic.here);
        command.arg("-netdev").arg(argument(&format!("{here},remote.type=unix,remote.path="), &nic.there));
        let mac = format!("52:54:00:00:{index:02x}:{:02x}", nic.number);
        command.args(["-device", &format!("virtio-net-pci,netdev=n{index},mac={mac},romfile=")]);
    }
    command
}

/// A path within an option of QEMU, where a comma has to be doubled.
fn argument(before: &str, path: &Path) -> String {
    format!("{before}{}", path.display().to_string().replace(',', ",,"))
}
