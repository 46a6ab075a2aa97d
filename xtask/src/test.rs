//! `cargo xtask test`: everything that this machine can run, and a table of what it could not.
//!
//! Only test binaries run with privileges, never cargo: the binaries are built first, then run one
//! by one. A test that cannot run says `not run: NAME: REASON` on stderr; those lines become the
//! table at the end, and with `--require all` a failure. A test that fails is run once more by
//! itself; what it said and how it ended then stands at the end, too.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{arch, bench, dist, ebpf, peers, shell};

/// Runs the stages.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    let mut report = Report::default();
    for (name, stage) in STAGES {
        if options.only.as_deref().is_some_and(|only| !name.starts_with(only)) {
            continue;
        }
        let start = Instant::now();
        println!("\n== {name}");
        if let Err(error) = stage(&mut report) {
            println!("FAILED: {error:#}");
            report.failures.push(format!("{name}: {error:#}"));
        }
        report.minutes.push(((*name).to_owned(), start.elapsed().as_secs_f64() / 60.0));
    }
    report.conclude(options.require_all)
}

type Stage = fn(&mut Report) -> anyhow::Result<()>;

/// What there is to run, in this order.
const STAGES: &[(&str, Stage)] = &[
    ("format", |_| shell::run(&mut shell::cargo(&["fmt", "--all", "--check"]))),
    ("arch", |_| arch::run()),
    ("ebpf digest", |_| ebpf::run(&["--check".to_owned()])),
    ("lints", |_| {
        let arguments = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
        shell::run(&mut shell::cargo(&arguments))
    }),
    ("peers", |report| {
        report.not_run.extend(peers::provide());
        Ok(())
    }),
    ("tests", tests),
    ("userspace alone", userspace_alone),
    ("ebpf, built anew", fresh_ebpf),
    ("docs", |_| {
        let mut doc = shell::cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
        shell::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("demo", demo),
    ("demo, unprivileged", unprivileged_demo),
    ("bench, one quick round", |report| {
        report.not_run.extend(bench::smoke()?);
        Ok(())
    }),
    ("dist", |report| {
        report.not_run.extend(dist::check::run()?);
        Ok(())
    }),
    ("machines", machines),
];

struct Options {
    require_all: bool,
    only: Option<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let mut options = Self { require_all: false, only: None };
        let mut rest = arguments.iter().map(String::as_str);
        while let Some(argument) = rest.next() {
            match argument {
                "--require" => match rest.next() {
                    Some("all") => options.require_all = true,
                    other => bail!("--require \"{}\": --require all is right", other.unwrap_or_default()),
                },
                "--only" => {
                    let known = || {
                        STAGES.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
                    };
                    let stage = rest.next().with_context(|| format!("--only needs a stage: {}", known()))?;
                    if !STAGES.iter().any(|(name, _)| name.starts_with(stage)) {
                        bail!("there is no stage \"{stage}\": use the beginning of {}", known());
                    }
                    options.only = Some(stage.to_owned());
                }
                _ => bail!("\"{argument}\" is unknown: use --require all, --only STAGE"),
            }
        }
        Ok(options)
    }
}

#[derive(Default)]
struct Report {
    passed: u64,
    failed: u64,
    failures: Vec<String>,
    /// Tests that failed among the others and passed by themselves, with what they said.
    unsteady: Vec<FailedTest>,
    /// Tests that failed twice.
    broken: Vec<FailedTest>,
    /// What could not run, and why.
    not_run: BTreeSet<(String, String)>,
    minutes: Vec<(String, f64)>,
}

/// A test that failed among the others.
struct FailedTest {
    name: String,
    /// Where it panicked, and with which words.
    said: String,
}

impl fmt::Display for FailedTest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n    {}", self.name, self.said.trim_end().replace('\n', "\n    "))
    }
}

/// So many tests may fail among the others and pass by themselves: on a machine that is shared, one may miss its
/// deadline. More of them have a reason.
const UNSTEADY_AT_MOST: usize = 3;

impl Report {
    fn conclude(self, require_all: bool) -> anyhow::Result<()> {
        println!("\n== minutes");
        for (stage, minutes) in &self.minutes {
            println!("{minutes:6.1}  {stage}");
        }
        if self.not_run.is_empty() {
            println!("\nEverything ran.");
        } else {
            println!("\n== not run");
            for (what, why) in &self.not_run {
                println!("not run: {what} because {why}");
            }
        }
        for test in &self.unsteady {
            println!("passed only when run again: {test}");
        }
        for test in &self.broken {
            println!("failed twice: {test}");
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("\n{} passed, {} failed, {} skipped", self.passed, self.failed, self.not_run.len());
        self.verdict(require_all)
    }

    fn verdict(&self, require_all: bool) -> anyhow::Result<()> {
        if self.unsteady.len() > UNSTEADY_AT_MOST {
            bail!("{} tests passed only when run again", self.unsteady.len());
        }
        if !self.failures.is_empty() {
            bail!("{} stage(s) failed", self.failures.len());
        }
        if require_all && !self.not_run.is_empty() {
            bail!("--require all: {} test(s) could not run", self.not_run.len());
        }
        Ok(())
    }
}

/// Builds every test binary, then runs each in its package's directory.
fn tests(report: &mut Report) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for binary in test_binaries(&["--workspace"])? {
        if binary.name == MACHINES {
            continue;
        }
        println!("\n-- {}", binary.name);
        if !run_binary(&binary, can_elevate(), report)? {
            failed.push(binary.name);
        }
    }
    let mut doctests = shell::cargo(&["test", "--workspace", "--doc", "--quiet"]);
    if shell::run(&mut doctests).is_err() {
        failed.push("doc tests".to_owned());
    }
    if !failed.is_empty() {
        bail!("{}", failed.join(", "));
    }
    Ok(())
}

/// What a tunnel does to packets, which is the same without the fast path. Not here: what holds each plane to the record
/// by itself (`oracle`), what boots a kernel that loads none of the programs (`guest`), and what is about the daemon,
/// files and words.
const WITHOUT_FAST_PATH: [&str; 13] = [
    "datapath",
    "firewall",
    "fwmark",
    "gretap",
    "icmp",
    "interop",
    "ip6",
    "multicast",
    "nbma",
    "ovs",
    "path_mtu",
    "selftests",
    "vector",
];

/// Those of them that say most about how packets are divided among workers, sockets that change while they come included.
const BY_FOUR_WORKERS: [&str; 3] = ["datapath", "gretap", "ip6"];

/// Runs the conformance tests once more with userspace carrying everything: turning the fast path off may change
/// nothing but speed. Nor may several workers.
fn userspace_alone(report: &mut Report) -> anyhow::Result<()> {
    let mut binaries = test_binaries(&["--workspace"])?;
    let mut failed = Vec::new();
    for which in WITHOUT_FAST_PATH {
        let name = format!("greway {which}");
        let binary = binaries.iter_mut().find(|binary| binary.name == name);
        let binary = binary.with_context(|| format!("there are no tests {name}"))?;
        println!("\n-- {name}, GREWAY_FAST_PATH=off");
        binary.environment.push(("GREWAY_FAST_PATH", "off".into()));
        if !run_binary(binary, can_elevate(), report)? {
            failed.push(name.clone());
        }
        if !BY_FOUR_WORKERS.contains(&which) {
            continue;
        }
        println!("\n-- {name}, GREWAY_FAST_PATH=off GREWAY_WORKERS=4");
        binary.environment.push(("GREWAY_WORKERS", "4".into()));
        if !run_binary(binary, can_elevate(), report)? {
            failed.push(format!("{name} by four workers"));
        }
    }
    if !failed.is_empty() {
        bail!("without the fast path: {}", failed.join(", "));
    }
    Ok(())
}

/// The tests of the package on whole machines, which the stage of that name runs.
const MACHINES: &str = "greway debian";

/// Builds the package and runs it on machines of its own.
fn machines(report: &mut Report) -> anyhow::Result<()> {
    if !shell::has("dpkg-deb") {
        report.not_run.insert(("the package on machines".into(), "there is no dpkg-deb here".into()));
        return Ok(());
    }
    let package = dist::package()?;
    for binary in test_binaries(&["--package", "greway", "--test", "debian"])? {
        let mut binary = binary;
        binary.environment.push(("GREWAY_DEB", package.clone()));
        if !run_binary(&binary, can_elevate(), report)? {
            bail!("{}", binary.name);
        }
    }
    Ok(())
}

/// Builds the eBPF programs and runs the fast path's tests on them: the committed object must not be
/// the last one that a compiler could make.
fn fresh_ebpf(report: &mut Report) -> anyhow::Result<()> {
    let object = target_directory()?.join("greway-fresh.bpf.o");
    if let Err(error) = ebpf::run(&["--out".to_owned(), object.display().to_string()]) {
        report.not_run.insert(("the eBPF programs built anew".to_owned(), format!("{error:#}")));
        return Ok(());
    }
    let mut failed = Vec::new();
    for binary in test_binaries(&["--package", "greway-fastpath"])? {
        let mut binary = binary;
        binary.environment.push(("GREWAY_EBPF_OBJECT", object.clone()));
        if !run_binary(&binary, can_elevate(), report)? {
            failed.push(binary.name);
        }
    }
    if !failed.is_empty() {
        bail!("on the fresh object: {}", failed.join(", "));
    }
    Ok(())
}

/// Whether test binaries are run through sudo.
fn can_elevate() -> bool {
    let sudo = || Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null()).status();
    !shell::is_root() && sudo().is_ok_and(|status| status.success())
}

struct TestBinary {
    name: String,
    executable: PathBuf,
    directory: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
    /// What it prints is shown.
    shown: bool,
}

impl TestBinary {
    fn show(&self, line: &str) {
        if self.shown {
            println!("{line}");
        }
    }
}

/// Builds the tests of the packages that `which` names to cargo.
fn test_binaries(which: &[&str]) -> anyhow::Result<Vec<TestBinary>> {
    let mut build = shell::cargo(&["test", "--no-run", "--message-format=json-render-diagnostics"]);
    build.args(which);
    let output = build.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut binaries = Vec::new();
    for line in output.stdout.lines() {
        let message: Value = serde_json::from_str(&line?)?;
        let Some(executable) = message["executable"].as_str().filter(|_| message["profile"]["test"] == true)
        else {
            continue;
        };
        let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
        let directory = manifest.parent().context("a manifest has a directory")?.to_owned();
        let package = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let target = message["target"]["name"].as_str().unwrap_or_default();
        binaries.push(TestBinary {
            name: format!("{package} {target}"),
            executable: PathBuf::from(executable),
            directory,
            environment: Vec::new(),
            shown: true,
        });
    }
    Ok(binaries)
}

/// Runs one binary; what it could not run goes into the report. False: a test failed, also by itself.
fn run_binary(binary: &TestBinary, elevate: bool, report: &mut Report) -> anyhow::Result<bool> {
    // Two at a time, whatever the machine has: each may be a whole network with its own daemons.
    let ran = run_tests(binary, elevate, report, &["--test-threads", "2"])?;
    if ran.success || ran.failed.is_empty() {
        return Ok(ran.success);
    }
    let mut success = true;
    for name in ran.failed {
        binary.show(&format!("-- {}, {name} once more", binary.name));
        let again = run_tests(binary, elevate, report, &["--exact", &name])?;
        let (mut said, mut later) = (ran.panics.clone(), again.panics);
        said.retain(|(test, _)| *test == name);
        later.retain(|(test, _)| *test == name);
        let said = said.into_iter().chain(later).map(|(_, words)| words).collect();
        let test = FailedTest { name: format!("{} {name}", binary.name), said };
        if again.success {
            report.failed -= 1;
            report.unsteady.push(test);
        } else {
            success = false;
            report.broken.push(test);
        }
    }
    Ok(success)
}

/// How a run of a binary ended.
#[derive(Default)]
struct Ran {
    success: bool,
    /// The tests that failed, by libtest's closing list.
    failed: Vec<String>,
    /// The threads that panicked, a test's by its name, with where and the words.
    panics: Vec<(String, String)>,
}

/// Runs tests of one binary.
fn run_tests(binary: &TestBinary, elevate: bool, report: &mut Report, which: &[&str]) -> anyhow::Result<Ran> {
    let mut command = if elevate {
        let mut sudo = Command::new("sudo");
        sudo.args([
            "-n",
            "--preserve-env=PATH,CARGO_MANIFEST_DIR,GREWAY_EBPF_OBJECT,GREWAY_DEB,GREWAY_FAST_PATH,GREWAY_WORKERS",
        ])
        .arg(&binary.executable);
        sudo
    } else {
        Command::new(&binary.executable)
    };
    // --nocapture, since a captured `not run:` line of a passing test would be lost.
    command.args(which).arg("--nocapture");
    command.current_dir(&binary.directory).env("CARGO_MANIFEST_DIR", &binary.directory);
    command.envs(binary.environment.iter().map(|(name, value)| (name, value)));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().context("stderr is piped")?;
    let shown = binary.shown;
    let collect = std::thread::spawn(move || {
        let (mut not_run, mut panics) = (Vec::new(), Panics::default());
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            match line.strip_prefix("not run: ").and_then(|row| row.split_once(": ")) {
                Some((what, why)) => not_run.push((what.to_owned(), why.to_owned())),
                None => {
                    panics.read(&line);
                    if shown {
                        eprintln!("{line}");
                    }
                }
            }
        }
        (not_run, panics.found)
    });
    let stdout = child.stdout.take().context("stdout is piped")?;
    let (mut ran, mut in_list) = (Ran::default(), false);
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        report.count(&line);
        in_list = line == "failures:" || in_list && (line.is_empty() || line.starts_with("    "));
        if let Some(name) = line.strip_prefix("    ").filter(|_| in_list) {
            ran.failed.push(name.to_owned());
        }
        // A passing test is worth a line only in a log of its own.
        if !line.ends_with("... ok") && !line.is_empty() {
            binary.show(&line);
        }
    }
    std::io::stdout().flush()?;
    let (rows, panics) = collect.join().ok().context("the reader of stderr")?;
    for (what, why) in &rows {
        println!("not run: {what}: {why}");
    }
    report.not_run.extend(rows);
    ran.panics = panics;
    ran.success = child.wait()?.success();
    Ok(ran)
}

/// Finds the panics in what tests write to stderr.
#[derive(Default)]
struct Panics {
    found: Vec<(String, String)>,
    /// Lines that still belong to the last one.
    more: usize,
}

impl Panics {
    /// A panic's words may be of several lines; these tell enough.
    const LINES: usize = 4;

    fn read(&mut self, line: &str) {
        let thread = line.strip_prefix("thread '").and_then(|rest| rest.split_once('\''));
        if let Some((name, place)) = thread.filter(|(_, rest)| rest.contains("panicked at")) {
            self.found.push((name.to_owned(), format!("{}\n", place.trim())));
            self.more = Self::LINES;
        } else if line.starts_with("stack backtrace:") {
            self.more = 0;
        } else if let Some((_, words)) = self.found.last_mut().filter(|_| self.more > 0) {
            words.push_str(line);
            words.push('\n');
            self.more -= 1;
        }
    }
}

impl Report {
    /// Adds up libtest's closing line.
    fn count(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let number = |word: &str| {
            let before = rest.split(word).next().unwrap_or_default();
            before.split_whitespace().last().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        self.passed += number(" passed");
        self.failed += number(" failed");
    }
}

/// The demo as the README names it.
fn demo(_: &mut Report) -> anyhow::Result<()> {
    shell::run(&mut shell::cargo(&["run", "--release", "--quiet", "--", "demo"]))
}

/// The demo and the verbs that only read, as nobody: root may run what users cannot.
fn unprivileged_demo(report: &mut Report) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;

    if !shell::is_root() {
        report.not_run.insert(("the binary as uid 65534".into(), "this needs root to become nobody".into()));
        return Ok(());
    }
    // The target directory may lie where nobody may not look.
    let directory = std::env::temp_dir().join(format!("greway-xtask-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let binary = directory.join("greway");
    std::fs::copy(target_directory()?.join("release/greway"), &binary)?;
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command.args(arguments).uid(65534).gid(65534).current_dir("/").env_clear().env("LC_ALL", "C.UTF-8");
        shell::run(&mut command)
    };
    let ran = as_nobody(&["demo"]).and_then(|()| as_nobody(&["status"]));
    std::fs::remove_dir_all(&directory)?;
    ran
}

fn target_directory() -> anyhow::Result<PathBuf> {
    let output = shell::cargo(&["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(PathBuf::from(metadata["target_directory"].as_str().context("cargo names its target directory")?))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn closing_lines_add_up() {
        let mut report = Report::default();
        report.count("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        report.count("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        report.count("test something ... ok");
        assert_eq!((report.passed, report.failed), (15, 2));
    }

    #[test]
    fn a_panic_is_kept_with_its_words_and_without_its_stack() {
        let mut panics = Panics::default();
        for line in [
            "something",
            "thread 'bulk::tcp' (812) panicked at crates/greway/tests/x.rs:1:2:",
            "8 packets",
            "stack backtrace:",
            "   0: core",
        ] {
            panics.read(line);
        }
        let words = "(812) panicked at crates/greway/tests/x.rs:1:2:\n8 packets\n";
        assert_eq!(panics.found, [("bulk::tcp".to_owned(), words.to_owned())]);
    }

    /// What stands for a test binary: two tests fail, and one of them by itself, too.
    const SCRIPT: &str = "#!/bin/sh
case \"$*\" in
*--exact*steady*)
    echo 'test result: ok. 1 passed; 0 failed; 0 ignored' ;;
*--exact*broken*)
    echo \"thread 'broken' (8) panicked at b.rs:1:1:\" >&2
    printf '\\nfailures:\\n    broken\\n\\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\\n'
    exit 101 ;;
*)
    printf '\\nfailures:\\n    broken\\n    steady\\n\\ntest result: FAILED. 3 passed; 2 failed; 0 ignored\\n'
    echo \"thread 'steady' (7) panicked at s.rs:2:2:\" >&2
    exit 101 ;;
esac
";

    #[test]
    fn what_fails_is_run_once_more_by_itself() {
        use std::os::unix::fs::PermissionsExt;

        let directory = std::env::temp_dir().join(format!("greway-xtask-unit-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let executable = directory.join("tests");
        std::fs::write(&executable, SCRIPT).unwrap();
        std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o755)).unwrap();
        let binary = TestBinary {
            name: "package tests".into(),
            executable,
            directory: directory.clone(),
            environment: Vec::new(),
            // Or whoever reads the log would take its failures for ours.
            shown: false,
        };
        let mut report = Report::default();
        let passed = run_binary(&binary, false, &mut report);
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(!passed.unwrap(), "one failed twice");
        let names = |tests: &[FailedTest]| tests.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&report.unsteady), ["package tests steady\n    (7) panicked at s.rs:2:2:"]);
        assert_eq!(names(&report.broken), ["package tests broken\n    (8) panicked at b.rs:1:1:"]);
        assert!(report.verdict(true).is_ok(), "a test that failed twice fails its stage, which says so");
        report.unsteady.extend((0..3).map(|_| FailedTest { name: String::new(), said: String::new() }));
        assert!(report.verdict(false).is_err(), "four have a reason");
    }

    #[test]
    fn options_that_are_unknown_are_refused() {
        let parse =
            |words: &[&str]| Options::parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert!(parse(&["--require", "all"]).unwrap().require_all);
        assert!(parse(&["--require", "some"]).is_err());
        assert!(parse(&["--quick"]).is_err());
        assert_eq!(parse(&["--only", "bench"]).unwrap().only.as_deref(), Some("bench"));
        // A stage that is misspelt runs nothing, and nothing would fail.
        let error = parse(&["--only", "benches"]).err().unwrap().to_string();
        assert!(
            error.contains("there is no stage \"benches\"") && error.contains("\"userspace alone\""),
            "{error}"
        );
    }
}
