//! `ip`: GRE commands here, all else by the real one.
//!
//! This stands before every `ip` command of a host, so the first rule is to be in nobody's way: what the words
//! alone show to be no business of ours becomes the real tool at once, before a file is read or a daemon asked.
//! Ours are
//!
//! - `ip tunnel add|change|del` of a GRE mode, and of a name that is greway's;
//! - `ip link add|replace|change|set|del` with a GRE kind, and `ip link del` of a name that is greway's;
//! - what lists tunnels, where there are some of greway's: the real output with ours put in ([`show`]);
//! - batches with such a line in them ([`batch`]);
//! - `ip neigh add … lladdr A.B.C.D dev NAME` of a tunnel without a remote ([`neigh`]);
//! - `ip address|route add … dev NAME`, only to wait for a device that was announced ([`pending`]).
//!
//! What is read to decide is the state directory, never the daemon: a daemon that is dead or hangs makes GRE
//! commands fail, with a message, and no other.

mod batch;
pub(crate) mod kernel;
mod link;
mod neigh;
mod ours;
mod pending;
mod show;
mod tunnel;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use greway_dialects::iproute2::abort::{Abort, Wording};
use greway_dialects::iproute2::front::{self, Front, Object, Options};
use greway_linux::netns::NetNamespace;

use super::real;
use crate::output;

/// Whose tool we are.
const TOOL: &str = "ip";

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is the real tool's.
    Real,
    /// It is done; this is the exit code.
    Done(u8),
    /// The tool's parser gave up: it exits there and then, in a batch too.
    Exit(u8),
}

/// Runs in its place.
pub(super) fn run() -> ExitCode {
    // Words that are no UTF-8 are no words of ours; the real tool gets them as they are.
    let words =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>();
    let outcome = match front::parse_front(&words) {
        None => Outcome::Real,
        Some(front) => act(&front, &words),
    };
    match outcome {
        Outcome::Real => real::become_real(TOOL),
        Outcome::Done(code) | Outcome::Exit(code) => ExitCode::from(code),
    }
}

fn act(front: &Front, words: &[String]) -> Outcome {
    let (globals, rest) = words.split_at(front.length);
    let call = Call { options: &front.options, globals };
    if let Some(file) = &front.options.batch {
        return batch::run(&call, file);
    }
    match (front.object, rest) {
        (Some(object), [_, words @ ..]) => call.serve(object, words),
        _ => Outcome::Real,
    }
}

/// What holds for a command, or all commands of a batch.
struct Call<'w> {
    options: &'w Options,
    /// The words of the options, for the real tool.
    globals: &'w [String],
}

impl Call<'_> {
    /// Serves one command: an object, and the words behind it.
    fn serve(&self, object: Object, words: &[String]) -> Outcome {
        match object {
            Object::Tunnel => tunnel::serve(self, words),
            Object::Link => link::serve(self, words),
            Object::Address => match show::address(self, words) {
                Outcome::Real => pending::wait_for_device(self, words),
                done => done,
            },
            Object::Route => pending::wait_for_device(self, words),
            Object::Neighbour => neigh::serve(self, words),
            Object::Other => Outcome::Real,
        }
    }

    /// Enters the network namespace of `-n`. False: the real tool says why that cannot be.
    fn enter(&self) -> bool {
        let Some(name) = &self.options.netns else { return true };
        // As iproute2's netns_get_fd has it: a name, or a path.
        let path =
            if name.contains('/') { PathBuf::from(name) } else { PathBuf::from("/run/netns").join(name) };
        NetNamespace::from_path(&path).and_then(|namespace| namespace.enter()).is_ok()
    }

    /// The real tool with the options of this call and these words behind them.
    fn real(&self, words: &[&str]) -> Result<Command, real::RealError> {
        let mut command = real::command(TOOL)?;
        let globals = self.globals.iter().filter(|word| *word != "--");
        command.args(globals);
        if self.options.colour {
            // What we are to read.
            command.arg("-c=never");
        }
        command.args(words);
        Ok(command)
    }

    /// Has the real tool carry these words out; its exit code is ours.
    fn carry_out(&self, words: &[&str]) -> Outcome {
        let command = self.real(words).map_err(|error| error.to_string());
        let status = command.and_then(|mut command| {
            command
                .status()
                .map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))
        });
        match status {
            Ok(status) => {
                Outcome::Done(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
            }
            Err(reason) => {
                output::tool_error(TOOL, &reason);
                Outcome::Done(1)
            }
        }
    }

    /// Runs the real tool and gives what it wrote to stdout, and its exit code; its errors go where ours do. No
    /// real tool: nothing, and success, since there is nothing of its to show.
    fn real_output(&self, words: &[&str]) -> (String, u8) {
        let Ok(mut command) = self.real(words) else { return (String::new(), 0) };
        match command.stdin(Stdio::inherit()).stderr(Stdio::inherit()).output() {
            Ok(output) => {
                let code = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX);
                (String::from_utf8_lossy(&output.stdout).into_owned(), code)
            }
            Err(error) => {
                output::tool_error(TOOL, &format!("cannot run {}: {error}", command.get_program().display()));
                (String::new(), u8::MAX)
            }
        }
    }
}

/// Ends a command as `ip` would.
fn abort(abort: &Abort) -> Outcome {
    output::raw_error(&abort.stderr);
    // lib/utils.c: `incomplete_command`, `invarg` and their like exit with -1, `get_addr` with 1; all else returns.
    if abort.code == u8::MAX || abort.stderr.contains("is expected rather than") {
        Outcome::Exit(abort.code)
    } else {
        Outcome::Done(abort.code)
    }
}

/// Ends a command as `ip` would, and says why, which `ip` has no words for.
fn abort_because(stock: &Abort, reason: &str) -> Outcome {
    output::raw_error(&stock.stderr);
    output::tool_error(TOOL, reason);
    Outcome::Done(stock.code)
}

/// Reads words; what is wrong with them is told in the words of the real tool that is installed.
fn in_installed_words<T>(read: impl Fn(Wording) -> Result<T, Abort>) -> Result<T, Abort> {
    read(Wording::default()).or_else(|_| {
        let version = real::command(TOOL).ok().and_then(|mut command| command.arg("-V").output().ok());
        read(version.map_or_else(Wording::default, |output| {
            Wording::of_version(&String::from_utf8_lossy(&output.stdout))
        }))
    })
}
