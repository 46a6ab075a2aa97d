//! `ip tunnel`: tunnels of a GRE mode, and those that are greway's by name.

use greway_control::api::Request;
use greway_dialects::iproute2::abort::{Abort, Errno, Wording};
use greway_dialects::iproute2::args::{Concern, Family};
use greway_dialects::iproute2::output::{self, Options, Shown, Statistics};
use greway_dialects::iproute2::tunnel::{self, Show, TunnelCommand};
use greway_netlink::LinkStatistics;
use greway_spec::{Change, Draft, Mode, Problem, RecreateReason, TunnelSpec};

use super::ours::{self, Failure, Ours};
use super::{Call, Outcome, TOOL, abort, abort_because, in_installed_words, kernel};
use crate::output as screen;
use crate::settings::{Backend, Settings};

/// Serves `ip tunnel WORDS`.
pub(super) fn serve(call: &Call<'_>, words: &[String]) -> Outcome {
    let family = call.options.family;
    let concern = tunnel::concern(words, family);
    if concern == Concern::None || !call.enter() {
        return Outcome::Real;
    }
    let ours = Ours::read();
    match concern {
        Concern::None => return Outcome::Real,
        Concern::Named(name) if ours.find(&name).is_none() => return Outcome::Real,
        Concern::List if ours.is_empty() => return Outcome::Real,
        Concern::Named(_) | Concern::List => {}
        Concern::Gre => match is_kernels(words_mode(words, family)) {
            Err(done) => return done,
            // A name that is ours is ours with any backend.
            Ok(true) if !adds_ours(words, family, &ours) => return Outcome::Real,
            Ok(_) => {}
        },
    }
    let read = |wording| tunnel::parse(words, family, wording, &ours);
    let command = match in_installed_words(read) {
        Ok(command) => command,
        Err(wrong) => return abort(&wrong),
    };
    match &command {
        TunnelCommand::NotOurs => Outcome::Real,
        TunnelCommand::Show(show) => list(call, words, show, &ours),
        TunnelCommand::Delete { name } => delete(&command, name.as_str(), &ours),
        TunnelCommand::Change { name, draft } => match ours.find(name.as_str()) {
            Some(present) => change(draft, present, &|errno| command.refused(errno)),
            None => Outcome::Real,
        },
        TunnelCommand::Add { draft, stderr } => {
            screen::raw_error(stderr);
            match make(draft, &ours, &|errno| command.refused(errno)) {
                Ok(spec) => leave_as_configured(&spec),
                Err(done) => done,
            }
        }
    }
}

/// The mode that words which concern GRE are of; the values are not read.
fn words_mode(words: &[String], family: Family) -> Mode {
    let said =
        words.windows(2).any(|pair| pair[0] == "mode" && matches!(pair[1].as_str(), "ip6gre" | "gre/ipv6"));
    if said || family == Family::Inet6 { Mode::Ip6Gre } else { Mode::Gre }
}

fn adds_ours(words: &[String], family: Family, ours: &Ours) -> bool {
    match tunnel::parse(words, family, Wording::default(), ours) {
        Ok(TunnelCommand::Add { draft, .. }) => {
            draft.name.as_ref().is_some_and(|name| ours.find(name.value.as_str()).is_some())
        }
        _ => false,
    }
}

/// Whether tunnels of this mode are the kernel's business here.
pub(super) fn is_kernels(mode: Mode) -> Result<bool, Outcome> {
    let settings = settings()?;
    Ok(match settings.shim.backend {
        Backend::Greway => false,
        Backend::Kernel => true,
        Backend::Auto => kernel::can(mode),
    })
}

fn settings() -> Result<Settings, Outcome> {
    Settings::read().map_err(|error| {
        screen::tool_error(TOOL, &format!("{error:#}"));
        Outcome::Done(1)
    })
}

/// Makes a tunnel. `refused` has the tool's words for a kernel that says no.
pub(super) fn make(
    draft: &Draft,
    ours: &Ours,
    refused: &dyn Fn(Errno) -> Abort,
) -> Result<TunnelSpec, Outcome> {
    let cannot = |reason: String| abort_because(&refused(Errno::NotSupported), &reason);
    let exists = || abort(&refused(Errno::Exists));
    if draft.name.as_ref().is_some_and(|name| ours::is_taken(name.value.as_str())) {
        return Err(exists());
    }
    let spec = draft.clone().into_spec().map_err(|error| cannot(error.to_string()))?;
    if ours.clashes(&spec) {
        return Err(exists());
    }
    spec.carried().map_err(|error| match error.problem {
        // CF-04.
        Problem::AnyRemote { .. } => abort_because(&refused(Errno::Invalid), &error.to_string()),
        _ => cannot(error.to_string()),
    })?;
    ask(&Request::Add { spec: Box::new(spec.clone()) }, refused)?;
    Ok(spec)
}

/// Leaves a new tunnel up or down, as greway.toml has it; greway makes them up.
pub(super) fn leave_as_configured(spec: &TunnelSpec) -> Outcome {
    match settings() {
        Err(done) => done,
        Ok(settings) if settings.shim.up_on_create => Outcome::Done(0),
        Ok(_) => match ours::set_up(&spec.name, false) {
            Ok(()) => Outcome::Done(0),
            Err(reason) => {
                screen::tool_error(TOOL, &format!("{} stays up: {reason}", spec.name));
                Outcome::Done(1)
            }
        },
    }
}

/// Changes a tunnel of ours.
pub(super) fn change(draft: &Draft, present: &TunnelSpec, refused: &dyn Fn(Errno) -> Abort) -> Outcome {
    let cannot = |reason: String| abort_because(&refused(Errno::NotSupported), &reason);
    let spec = match draft.clone().overlay_on(present) {
        Ok(spec) => spec,
        Err(error) => return cannot(error.to_string()),
    };
    if let Err(error) = spec.carried() {
        return cannot(error.to_string());
    }
    // CF-02.
    if let Change::Recreate(reason @ RecreateReason::Remote) = Change::between(present, &spec) {
        return abort_because(&refused(Errno::Invalid), &format!("{}: {reason}; delete it first", spec.name));
    }
    ask(&Request::Change { spec: Box::new(spec) }, refused).map_or_else(|done| done, |()| Outcome::Done(0))
}

fn delete(command: &TunnelCommand, name: &str, ours: &Ours) -> Outcome {
    match ours.find(name) {
        Some(spec) => remove(spec, &|errno| command.refused(errno)),
        None => Outcome::Real,
    }
}

/// Removes a tunnel of ours.
pub(super) fn remove(spec: &TunnelSpec, refused: &dyn Fn(Errno) -> Abort) -> Outcome {
    let was_there = ours::has_device(spec.name.as_str());
    match ask(&Request::Delete { name: spec.name.clone(), dry_run: false }, refused) {
        Ok(()) => Outcome::Done(0),
        // Somebody deleted it while no daemon was there to see; what was left of it has gone with the question.
        Err(_) if !was_there && Ours::read().find(spec.name.as_str()).is_none() => {
            abort(&refused(Errno::NoSuchDevice))
        }
        Err(done) => done,
    }
}

/// Asks the daemon; its refusal in the tool's words, and the reason behind them.
pub(super) fn ask(request: &Request, refused: &dyn Fn(Errno) -> Abort) -> Result<(), Outcome> {
    let is_root = greway_linux::process::effective_uid() == 0;
    ours::change(request).map_err(|failure| match failure {
        Failure::Refused(reason) if !is_root => abort_because(&refused(Errno::NotPermitted), &reason),
        Failure::Refused(reason) => abort_because(&refused(Errno::NotSupported), &reason),
        Failure::Unreachable(reason) => {
            screen::tool_error(TOOL, &reason);
            Outcome::Done(1)
        }
    })
}

/// `ip tunnel show`: what the real tool shows, and ours.
fn list(call: &Call<'_>, words: &[String], show: &Show, ours: &Ours) -> Outcome {
    // A device by name that is ours is none that the real tool could tell of.
    let (real, code) = if show.is_single(call.options.stats > 0) || show.name.is_some() {
        (String::new(), 0)
    } else {
        let words = words.iter().map(String::as_str);
        call.real_output(&std::iter::once("tunnel").chain(words).collect::<Vec<_>>())
    };
    let present = ours.present();
    let shown = present
        .iter()
        .map(|(spec, counted)| Shown { spec, statistics: statistics(counted) })
        .collect::<Vec<_>>();
    let options = Options {
        json: call.options.json,
        pretty: call.options.pretty,
        oneline: call.options.oneline,
        statistics: call.options.stats > 0,
        numeric: call.options.numeric,
    };
    match output::tunnel_show(show, &shown, &options, &real) {
        Ok(text) => {
            screen::raw(text.as_bytes());
            Outcome::Done(code)
        }
        Err(wrong) => abort(&wrong),
    }
}

fn statistics(counted: &LinkStatistics) -> Statistics {
    Statistics {
        rx_packets: counted.rx_packets,
        rx_bytes: counted.rx_bytes,
        rx_errors: counted.rx_errors,
        tx_packets: counted.tx_packets,
        tx_bytes: counted.tx_bytes,
        tx_errors: counted.tx_errors,
        tx_dropped: counted.tx_dropped,
        ..Statistics::default()
    }
}
