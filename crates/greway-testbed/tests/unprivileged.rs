//! The lab as a user without any privilege, with an empty environment: what the demo rests on in a user namespace.
//!
//! A program of its own without the test harness, since the kernel gives a user namespace only to a process with
//! one thread. It runs itself again as uid 65534 when it was started as root.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test, though clippy cannot know it without the harness"
)]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use greway_testbed::privilege::{self, Privilege};
use greway_testbed::tcp::transfer;
use greway_testbed::{Guide, PingOptions, guide, ping};

const INSIDE: &str = "GREWAY_TESTBED_INSIDE";
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let mut command = Command::new("/proc/self/exe");
    command.env_clear().env(INSIDE, "1").current_dir("/");
    if greway_linux::process::effective_uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        outcome => {
            eprintln!("unprivileged: {outcome:?}");
            ExitCode::FAILURE
        }
    }
}

fn inside() -> ExitCode {
    match privilege::acquire() {
        Err(missing) => {
            eprintln!("not run: unprivileged: {missing}");
            return ExitCode::SUCCESS;
        }
        Ok(privilege) => assert_eq!(privilege, Privilege::UserNamespace),
    }
    let lab = Guide::build().unwrap();
    let report = ping(&lab.linux1, guide::OUTER[1].into(), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
    let address = (guide::OUTER[0], 0).into();
    let report = transfer(&lab.linux2, &lab.linux1, address, 1_000_000, Duration::from_secs(20)).unwrap();
    assert!(report.intact(), "{report:?}");
    println!("unprivileged: ok");
    ExitCode::SUCCESS
}
