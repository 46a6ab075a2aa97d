//! greway: GRE tunnelling for Linux that needs no kernel GRE module.

#![forbid(unsafe_code)]

mod cli;
mod demo;
mod nm;
mod other_end;
mod output;
mod personality;
mod said;
mod settings;
mod sources;
mod tunnel_file;
mod verbs;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use greway_control::location::Location;

use crate::cli::{Cli, StatusArgs, Verb};

fn main() -> ExitCode {
    if let Some(called) = personality::called_as() {
        return personality::run(called);
    }
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            output::error(&sentence(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    if let Some(Verb::Demo(args)) = &cli.verb {
        return demo::run(args);
    }
    if let Some(Verb::Inspect(args)) = &cli.verb {
        return verbs::inspect::run(args);
    }
    if let Some(Verb::Generate(args)) = &cli.verb {
        return verbs::generate::run(args);
    }
    let location = Location::find(cli.socket.as_deref()).context("cannot tell this network namespace")?;
    match &cli.verb {
        None => verbs::status::run(&StatusArgs::default(), &location),
        Some(Verb::Status(args)) => verbs::status::run(args, &location),
        Some(Verb::Tunnel(args)) => verbs::tunnel::run(args, &location),
        Some(Verb::Up(args)) => verbs::up::run(args, &location),
        Some(Verb::Down(args)) => verbs::down::run(args, &location),
        Some(Verb::Boot(args)) => verbs::boot::run(args, &location),
        Some(Verb::Check(args)) => verbs::check::run(args, &location),
        Some(Verb::Export(args)) => verbs::export::run(args, &location),
        Some(Verb::Import(args)) => verbs::import::run(args, &location),
        Some(Verb::New(args)) => verbs::new::run(args, &location),
        Some(Verb::Nm(args)) => verbs::nm::run(args, &location),
        Some(Verb::Purge(args)) => verbs::purge::run(args, &location),
        Some(Verb::Restart(args)) => verbs::restart::run(args, &location),
        Some(Verb::Shim(args)) => verbs::shim::run(args, &location),
        Some(Verb::Daemon(args)) => {
            start_log();
            verbs::daemon::run(args, &location)
        }
        Some(Verb::Demo(_) | Verb::Generate(_) | Verb::Inspect(_)) => {
            unreachable!("they need no location and were run above")
        }
    }
}

/// An error with its causes, on one line. A cause that the error before it tells already is not told again.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.ends_with(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

/// The daemon's log goes to stderr: journald, the log file or the terminal takes it from there.
pub(crate) fn start_log() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::other("no space");
        let told = anyhow::Error::new(cause()).context("tun0: no space").context("cannot remember tun0");
        assert_eq!(sentence(&told), "cannot remember tun0: tun0: no space");
        let plain = anyhow::Error::new(cause()).context("cannot remember tun0");
        assert_eq!(sentence(&plain), "cannot remember tun0: no space");
    }
}
