//! `greway daemon`: run it, supervise it, stop it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use greway_control::api::Request;
use greway_control::api::client::ClientError;
use greway_control::daemon::{BusyPoll, DaemonError, Ended, FastPathOptions, Options, Steer, Workers};
use greway_control::location::Location;
use greway_control::start::StartError;
use greway_control::{daemon, start, unit};

use crate::cli::DaemonArgs;
use crate::output;
use crate::settings::Settings;

/// How long a daemon may take to remove its tunnels.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a daemon may take from there to its end.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Runs the verb.
pub(crate) fn run(args: &DaemonArgs, location: &Location) -> anyhow::Result<ExitCode> {
    if args.stop {
        return stop(location);
    }
    if args.supervise {
        let status = start::supervise(location)?;
        return Ok(exit_code(status.code().unwrap_or(1)));
    }
    match daemon::run(location, &options()) {
        // systemd restarts a unit whatever its end, but for this one.
        Ok(Ended::Asked) if unit::is_unit() => Ok(exit_code(unit::STOPPED)),
        // Neither a clean end nor one that is not tried again.
        Ok(Ended::Broken) => Ok(exit_code(1)),
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let taken = matches!(error, DaemonError::Runs(_) | DaemonError::NotAlone(_));
            output::error(&crate::sentence(&anyhow::Error::new(error)));
            Ok(exit_code(if taken { start::TAKEN } else { start::REFUSED }))
        }
    }
}

/// What /etc/greway/greway.toml says of the daemon. A file that is wrong is no reason to carry no tunnels; but then
/// nobody knows what was switched off in it, and all is off that can be.
fn options() -> Options {
    let options = match Settings::read() {
        Ok(settings) => Options {
            port_unreachable: settings.daemon.port_unreachable,
            fast_path: fast_path(settings.daemon.fast_path),
            steer: settings.daemon.steer,
            busy_poll: settings.daemon.busy_poll,
            workers: workers(settings.daemon.workers),
            super_packets: settings.daemon.super_packets,
            doubt: None,
        },
        Err(_) => Options {
            port_unreachable: false,
            fast_path: fast_path(false),
            steer: Steer::Off,
            busy_poll: BusyPoll::Off,
            workers: workers(Workers::Auto),
            super_packets: false,
            doubt: None,
        },
    };
    Options { doubt: doubt(), ..options }
}

/// What a daemon that is started here and now has against its settings, for itself and for whoever starts it.
pub(crate) fn doubt() -> Option<String> {
    let without = |error| {
        format!(
            "{}: the daemon goes on without its settings, and with all off that they could switch off: it does not answer \
             packets that match no tunnel, loads no eBPF programs (GREWAY_FAST_PATH=on goes before), steers nothing, \
             does not busy-poll and splits all super-packets",
            crate::sentence(&error)
        )
    };
    let word = std::env::var_os(FAST_PATH).filter(|word| !word.is_empty() && word != "on" && word != "off");
    let word = word.map(|word| format!("{FAST_PATH} {word:?} is neither on nor off and has no effect"));
    let count = std::env::var_os(WORKERS).filter(|count| !count.is_empty());
    let count = count.filter(|count| count.to_str().and_then(several).is_none());
    let most = Workers::MOST;
    let count =
        count.map(|count| format!("{WORKERS} {count:?} is no number from 1 to {most} and has no effect"));
    let doubts = [Settings::read().err().map(without), word, count].into_iter().flatten().collect::<Vec<_>>();
    (!doubts.is_empty()).then(|| doubts.join("; "))
}

const FAST_PATH: &str = "GREWAY_FAST_PATH";
const WORKERS: &str = "GREWAY_WORKERS";

/// GREWAY_WORKERS (a number) goes before the file.
fn workers(asked: Workers) -> Workers {
    std::env::var(WORKERS).ok().as_deref().and_then(several).unwrap_or(asked)
}

fn several(word: &str) -> Option<Workers> {
    word.parse().ok().and_then(Workers::fixed)
}

/// GREWAY_FAST_PATH (`on` or `off`) goes before the file, and GREWAY_BPFFS names the bpffs for pins.
fn fast_path(asked: bool) -> FastPathOptions {
    let on = match std::env::var(FAST_PATH).as_deref() {
        Ok("on") => true,
        Ok("off") => false,
        _ => asked,
    };
    let bpffs = std::env::var_os("GREWAY_BPFFS").filter(|path| !path.is_empty());
    FastPathOptions { on, bpffs: bpffs.map(Into::into) }
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn stop(location: &Location) -> anyhow::Result<ExitCode> {
    match remove_all(location)? {
        Some(actions) => actions.iter().for_each(|action| output::line(action)),
        None => output::note("no daemon runs here"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes all tunnels of this network namespace and ends its daemon; what was done, or `None` where there was
/// neither a daemon nor what one that died left.
pub(super) fn remove_all(location: &Location) -> anyhow::Result<Option<Vec<String>>> {
    let running = start::find(location)?;
    let left_over = location.state.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    let mut client = match running {
        Some(client) => client,
        // A daemon that was killed left tunnels behind: only a daemon can remove them.
        None if left_over => super::connect(location)?,
        None => {
            location.clear();
            return Ok(None);
        }
    };
    let stopped = match super::change(&mut client, location, &Request::Stop { remove: true }) {
        // The one that was found was at its end, and there is no next one: its tunnels may be there still.
        Err(error) if is_no_daemon(&error) => return remove_all(location),
        stopped => stopped?,
    };
    let deadline = Instant::now() + PATIENCE;
    while location.socket.exists() {
        if Instant::now() > deadline {
            bail!("the daemon was told to stop and still runs; its log is {}", location.log.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // It lets go of its lock last; should the next daemon have it by now, that is no concern of ours.
    let deadline = Instant::now() + AFTERMATH;
    while location.is_held() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    location.clear();
    Ok(Some(stopped))
}

fn is_no_daemon(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StartError::Client(ClientError::NoDaemon { .. })))
}
