//! greway as `ip`: the real binary called by that name, first in PATH, on hosts of the lab.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../support/mod.rs"]
mod support;

mod batch;
mod debian;
mod foreign;
mod guide;
mod namespaces;
mod oracle;
mod trouble;
mod tunnels;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use greway_testbed::Host;
use support::{GREWAY, Node, Output};

/// Where the real tools are.
const USUAL: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The real `ip`, by whatever way the tests' PATH finds it.
const REAL: &str = "/usr/sbin/ip";

/// A host on which `ip` is greway.
struct Shimmed {
    node: Node,
    bin: PathBuf,
}

impl Shimmed {
    fn new(host: &Host) -> Self {
        Self::of(Node::new(host))
    }

    fn of(node: Node) -> Self {
        let bin = node.folder().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(GREWAY, bin.join("ip")).unwrap();
        Self { node, bin }
    }

    fn path(&self) -> String {
        format!("{}:{USUAL}", self.bin.display())
    }

    /// `sh -c SCRIPT` with the shim first in PATH, and greway taking GRE whatever this kernel can do.
    fn shell(&self, script: &str) -> Command {
        let mut command = self.shell_with_path(&self.path(), script);
        command.env("GREWAY_BACKEND", "greway");
        command
    }

    fn shell_with_path(&self, path: &str, script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env_clear().env("PATH", path).stdin(Stdio::null());
        // An administrator's own is none of the tests'.
        command.env("GREWAY_CONFIG", self.node.folder().join("greway.toml")).current_dir(self.node.folder());
        command.env("GREWAY_SOCKET", self.node.socket());
        command
    }

    fn sh(&self, script: &str) -> Output {
        self.node.execute(self.shell(script))
    }

    /// `ip WORDS`.
    fn ip(&self, words: &str) -> Output {
        self.sh(&format!("ip {words}"))
    }
}

/// What the real `ip` does with the same words on a host, and nothing of greway's in the environment.
fn real(node: &Node, script: &str) -> Output {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", script])
        .env_clear()
        .env("PATH", USUAL)
        .stdin(Stdio::null())
        .current_dir(node.folder());
    node.execute(command)
}
