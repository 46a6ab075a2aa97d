//! The site's own programs that `ifup` and `ifdown` call: `/sbin/ifup-pre-local` and the like.
//!
//! They are called as the originals call them, in the scripts' directory and with the scripts' PATH, and
//! what they return is not looked at.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::output;
use crate::sources::Roots;

/// What `network-functions` sets before anything is run.
const PATH: &str = "/sbin:/usr/sbin:/bin:/usr/bin";

pub(super) struct Hooks<'r> {
    roots: &'r Roots,
}

impl<'r> Hooks<'r> {
    pub(super) fn of(roots: &'r Roots) -> Self {
        Self { roots }
    }

    /// `config` is the name of the file.
    pub(super) fn before_up(&self, config: &str, boot: bool) {
        let words: &[&str] = if boot { &[config, "boot"] } else { &[config] };
        self.call("/sbin/ifup-pre-local", words);
    }

    pub(super) fn after_up(&self, device: &str) {
        self.call("/sbin/ifup-local", &[device]);
    }

    pub(super) fn before_down(&self, device: &str) {
        self.call("/sbin/ifdown-pre-local", &[device]);
    }

    pub(super) fn after_down(&self, device: &str) {
        self.call("/sbin/ifdown-local", &[device]);
    }

    fn call(&self, program: &str, words: &[&str]) {
        let program: PathBuf = self.roots.path(program);
        let runs =
            fs::metadata(&program).is_ok_and(|at| at.is_file() && at.permissions().mode() & 0o111 != 0);
        if !runs {
            return;
        }
        let mut command = Command::new(&program);
        command.args(words).env("PATH", PATH);
        let directory = self.roots.scripts();
        if directory.is_dir() {
            command.current_dir(directory);
        }
        if let Err(error) = command.status() {
            output::error(&format!("cannot run {}: {error}", program.display()));
        }
    }
}
