//! What was measured, and on what: without that a table of figures says nothing.

use std::fs;

use crate::shell;

/// Commit, day and machine.
pub(super) struct About {
    pub(super) commit: String,
    pub(super) day: String,
    pub(super) kernel: String,
    pub(super) processor: String,
}

impl About {
    /// This checkout on this machine, now.
    pub(super) fn now() -> Self {
        let commit = said("git", &["rev-parse", "--short=12", "HEAD"]);
        let changed = !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        let commit = if commit.is_empty() { "unknown".to_owned() } else { commit };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            commit: if changed { format!("{commit} with changes") } else { commit },
            day: said("date", &["-u", "+%Y-%m-%d"]),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            processor: format!("{processors} × {}", model()),
        }
    }

    /// In one line.
    pub(super) fn line(&self) -> String {
        let Self { commit, day, kernel, processor } = self;
        format!("greway {commit}, {day}; Linux {kernel}, {processor}")
    }
}

fn model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    line.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.trim().to_owned())
}

/// What a program prints; nothing where it cannot be run.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = shell::command(program, arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
