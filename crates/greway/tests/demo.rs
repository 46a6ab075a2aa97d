//! `greway demo` as people start it: the whole of it, with nothing in the environment, not even a PATH.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use greway_testbed::{poll_until, privilege, require};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_greway"));
    command.arg("demo").args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn both_scenarios_hold_in_the_kernel_and_leave_nothing() {
    require!(privilege::check());
    let output = demo(&["--require", "kernel"]).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.is_ascii() && !text.contains('\x1b'), "no locale, no terminal: {text}");
    for shown in ["Scenario 1", "Scenario 2", "GREv0, key=0x3c27d6f", "63077743", "All ", "MiB in"] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
}

#[test]
fn the_simulated_scenarios_hold_anywhere() {
    for scenario in
        [&["--simulate"][..], &["--simulate", "--scenario", "1"], &["--simulate", "--scenario", "2"]]
    {
        let output = demo(scenario).output().unwrap();
        let text = text(&output);
        assert!(output.status.success(), "{scenario:?}: {text}");
        assert!(text.starts_with("SIMULATED: "), "{text}");
    }
}

#[test]
fn json_is_json_and_nothing_else() {
    let output = demo(&["--simulate", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["world"], &report["held"]), (&"simulated".into(), &true.into()));
    assert!(report["checks"].as_array().is_some_and(|checks| checks.len() > 20), "{report}");
}

#[test]
fn a_killed_demo_leaves_no_daemon_and_no_file() {
    require!(privilege::check());
    let mut demo = demo(&["--require", "kernel"]).stdout(Stdio::piped()).spawn().unwrap();
    // The first check is printed when both daemons run.
    read_until(&mut demo, "100.0.2.100  ");
    // The demo's environment is empty, so that its folder is in /tmp.
    let folder = Path::new("/tmp").join(format!("greway-demo-{}-0", demo.id()));
    assert!(folder.join("linux2.sock").exists());
    demo.kill().unwrap();
    demo.wait().unwrap();
    let gone = || (!folder.exists() && processes_with(&folder).is_empty()).then_some(());
    poll_until(Duration::from_secs(10), "the end of the lab", gone).unwrap();
}

fn read_until(process: &mut Child, wanted: &str) {
    let mut seen = Vec::new();
    let mut byte = [0];
    let stdout = process.stdout.as_mut().unwrap();
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
}

/// Processes that have `folder` in their command line.
fn processes_with(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let line = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    names.filter(|pid| line(pid).contains(folder)).collect()
}
