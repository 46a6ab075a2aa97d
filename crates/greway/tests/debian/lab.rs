//! The two machines as the steps see them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use greway_testbed::guide::{INNER, OUTER};
use greway_testbed::qemu::{CommandOutput, Image, MachineOptions, Pair};
use greway_testbed::{Error, poll_until};

/// How long a boot may take: generous, for a loaded machine.
pub(crate) const BOOT: Duration = Duration::from_secs(240);
/// How long anything else may take.
pub(crate) const LONG: Duration = Duration::from_secs(240);

/// Sends and receives by TCP: perl, which every Debian has.
const TCP: &str = include_str!("tcp.pl");

/// The image, kept between runs.
pub(crate) fn image() -> Result<Image, Error> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("testbed");
    Image::provide(&cache, say)
}

/// Tells whoever waits.
pub(crate) fn say(line: &str) {
    eprintln!("debian: {line}");
}

/// Two machines, the package, and what was there before it.
pub(crate) struct Lab {
    /// linux1 and linux2.
    pub(crate) pair: Pair,
    /// The package on this host; /root/greway.deb in the machines.
    pub(crate) package: PathBuf,
    /// What each machine had before anything was installed.
    pub(crate) before: [Belongings; 2],
    times: Vec<(String, Duration)>,
}

/// What a package, a tunnel or a unit could leave behind: one thing a line, by where it was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Belongings {
    /// Files and directories with mode, owner and what links lead to.
    pub(crate) files: Vec<String>,
    /// Links, nf_tables, addresses, routes, qdiscs, pinned BPF objects, units, processes, sysctls.
    pub(crate) state: Vec<String>,
}

/// Where files may come and go: dpkg's, apt's and systemd's own records, and what the tests put there.
const UNWATCHED: &str = "/var/log /var/cache /var/lib/dpkg /var/lib/apt /var/lib/systemd /root /tmp /var/tmp";

/// The slice is systemd's: it makes one for each template, greway@.service here, and keeps it until the next boot.
const STATE: &str = "
ip -o link | sed 's/^[0-9]*: //; s/ .*//'
ip -o address | sed 's/^[0-9]*: *//; s/ *scope.*//' | grep -v fe80:
ip route show table all | grep -v fe80 | sort
nft list tables
tc qdisc show | grep -E 'clsact|ingress' || true
find /sys/fs/bpf -mindepth 1
find /run -iname '*greway*'
systemctl list-units --all --no-legend --plain '*greway*' | grep -v ^system-greway.slice | sed 's/^/unit /'
systemctl list-unit-files --no-legend '*greway*' | sed 's/^/unit file /'
systemctl list-units --failed --no-legend --plain | sed 's/^/failed /'
pgrep -a greway | sed 's/^[0-9]*/process/' || true
sysctl net.ipv4.ip_forward
";

impl Belongings {
    /// What a machine has now.
    pub(crate) fn of(machine: &mut greway_testbed::qemu::Machine) -> Result<Self, Error> {
        let prune = UNWATCHED.split(' ').map(|path| format!("-path {path}")).collect::<Vec<_>>().join(" -o ");
        let files = format!("find / -xdev \\( {prune} \\) -prune -o -printf '%M %u:%g %p %l\\n' | sort -k 3");
        let lines = |text: String| text.lines().map(|line| line.trim_end().to_owned()).collect();
        Ok(Self { files: lines(machine.run(&files)?), state: lines(machine.run(STATE)?) })
    }

    /// What is in this and not in an earlier one, and with `-` what is gone.
    pub(crate) fn since(&self, before: &Self) -> Vec<String> {
        let difference = |now: &[String], then: &[String]| {
            let come = now.iter().filter(|line| !then.contains(line)).cloned();
            let gone = then.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"));
            come.chain(gone).collect::<Vec<_>>()
        };
        [difference(&self.files, &before.files), difference(&self.state, &before.state)].concat()
    }
}

impl Lab {
    /// Boots both and hands over the package.
    pub(crate) fn boot(image: &Image, package: &Path) -> Self {
        let start = Instant::now();
        let mut pair = Pair::boot(image, &MachineOptions::default(), BOOT, say).unwrap();
        pair.each(|machine| {
            machine.put("/root/tcp.pl", 0o755, TCP.as_bytes())?;
            machine.copy(package, "/root/greway.deb", 0o644)
        })
        .unwrap();
        let before = pair.each(Belongings::of).unwrap();
        let times = vec![("boot".to_owned(), start.elapsed())];
        Self { pair, package: package.to_owned(), before, times }
    }

    /// Runs a step, and prints its name and time.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce(&mut Self)) {
        say(&format!("-- {name}"));
        let start = Instant::now();
        work(self);
        self.times.push((name.to_owned(), start.elapsed()));
    }

    /// Runs a script on linux1 (0) or linux2 (1); it must succeed.
    #[track_caller]
    pub(crate) fn run(&mut self, machine: usize, script: &str) -> String {
        let output = self.attempt(machine, script);
        let name = self.pair.machines[machine].name();
        assert_eq!(output.status, 0, "{name}: `{}`: {}", script.trim(), output.text);
        output.text
    }

    /// Runs a script; whatever its exit status.
    #[track_caller]
    pub(crate) fn attempt(&mut self, machine: usize, script: &str) -> CommandOutput {
        self.pair.machines[machine].try_run(script, LONG).unwrap()
    }

    /// Runs a script on both at once; it must succeed.
    #[track_caller]
    pub(crate) fn both(&mut self, script: &str) -> [String; 2] {
        self.pair.each(|machine| machine.run(script)).unwrap()
    }

    /// Runs on each the script that `script` makes of its own addresses.
    #[track_caller]
    pub(crate) fn each(&mut self, script: impl Fn(&Ends) -> String + Sync) -> [String; 2] {
        let work = |machine: &mut greway_testbed::qemu::Machine| {
            let here = usize::from(machine.name() == "linux2");
            machine.run(&script(&Ends::of(here)))
        };
        self.pair.each(work).unwrap()
    }

    /// Waits until each end's inner address answers the other.
    #[track_caller]
    pub(crate) fn answers(&mut self) {
        for (machine, to) in [(0, INNER[1]), (1, INNER[0])] {
            self.wait_for(machine, &format!("ping -q -c 1 -W 1 {to}"));
        }
    }

    /// Waits until a script succeeds.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, machine: usize, script: &str) {
        let mut last = String::new();
        let reached = poll_until(LONG, script, || {
            let output = self.attempt(machine, script);
            last = output.text;
            (output.status == 0).then_some(())
        });
        assert!(
            reached.is_ok(),
            "{}: `{script}` never succeeded: {last}",
            self.pair.machines[machine].name()
        );
    }

    /// Sends a bulk from linux1 to linux2's inner address; what arrives is compared there.
    #[track_caller]
    pub(crate) fn transfer(&mut self) {
        self.run(1, "./tcp.pl serve 5001 >served 2>&1 &");
        let sent = self.run(0, &format!("./tcp.pl send {} 5001 2000000", INNER[1]));
        assert!(sent.starts_with("intact 2000000 "), "{sent}");
    }

    /// Nothing that the daemon or a unit of greway's logged in this boot is a warning or worse, but for lines that
    /// contain one of these words.
    #[track_caller]
    pub(crate) fn logged_nothing_bad(&mut self, but: &[&str]) {
        // The daemon's own words have no priority for the journal.
        let script = "journalctl --boot --no-pager --output=cat --unit='*greway*' | grep -iE ' (WARN|ERROR) |panicked' || true
             journalctl --boot --no-pager --output=cat --unit='*greway*' --priority=warning";
        for (machine, log) in self.both(script).into_iter().enumerate() {
            let bad: Vec<_> =
                log.lines().filter(|line| !but.iter().any(|word| line.contains(word))).collect();
            assert!(bad.is_empty(), "{}: {bad:#?}", self.pair.machines[machine].name());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for machine in &mut self.pair.machines {
                let what = "ip -br address; systemctl list-units --all --no-pager '*greway*'; \
                            journalctl --boot --no-pager | tail -n 60";
                match machine.try_run(what, Duration::from_secs(20)) {
                    Ok(output) => eprintln!("-- {}\n{}", machine.name(), output.text),
                    Err(error) => eprintln!("-- {}: {error}", machine.name()),
                }
            }
        }
        for (name, time) in &self.times {
            say(&format!("{:6.1} s  {name}", time.as_secs_f32()));
        }
    }
}

/// The addresses of a machine's own end and of the other one.
pub(crate) struct Ends {
    /// The guide's MY_OUTER_IPADDR.
    pub(crate) my_outer: std::net::Ipv4Addr,
    /// The guide's PEER_OUTER_IPADDR.
    pub(crate) peer_outer: std::net::Ipv4Addr,
    /// The guide's MY_INNER_IPADDR.
    pub(crate) my_inner: std::net::Ipv4Addr,
    /// The guide's PEER_INNER_IPADDR.
    pub(crate) peer_inner: std::net::Ipv4Addr,
}

impl Ends {
    fn of(here: usize) -> Self {
        let there = 1 - here;
        Self {
            my_outer: OUTER[here],
            peer_outer: OUTER[there],
            my_inner: INNER[here],
            peer_inner: INNER[there],
        }
    }
}
