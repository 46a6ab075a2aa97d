//! `greway daemon`: run it, supervise it, stop it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use greway_control::api::Request;
use greway_control::daemon::{DaemonError, Ended};
use greway_control::location::Location;
use greway_control::{daemon, start, unit};

use crate::cli::DaemonArgs;
use crate::output;

/// How long a daemon may take to remove its tunnels.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the verb.
pub(crate) fn run(args: &DaemonArgs, location: &Location) -> anyhow::Result<ExitCode> {
    if args.stop {
        return stop(location);
    }
    if args.supervise {
        let status = start::supervise(location)?;
        return Ok(exit_code(status.code().unwrap_or(1)));
    }
    match daemon::run(location) {
        // systemd restarts a unit whatever its end, but for this one.
        Ok(Ended::Asked) if unit::is_unit() => Ok(exit_code(unit::STOPPED)),
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let taken = matches!(error, DaemonError::Runs(_) | DaemonError::NotAlone(_));
            output::error(&crate::sentence(&anyhow::Error::new(error)));
            Ok(exit_code(if taken { start::TAKEN } else { start::REFUSED }))
        }
    }
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn stop(location: &Location) -> anyhow::Result<ExitCode> {
    let running = start::find(location);
    let left_over = location.state.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    let mut client = match running {
        Ok(client) => client,
        // A daemon that was killed left tunnels behind: only a daemon can remove them.
        Err(_) if left_over => super::connect(location)?,
        Err(_) => {
            location.clear();
            output::note("no daemon runs here");
            return Ok(ExitCode::SUCCESS);
        }
    };
    for action in super::change(&mut client, &Request::Stop { remove: true })? {
        output::line(&action);
    }
    let deadline = Instant::now() + PATIENCE;
    while location.socket.exists() {
        if Instant::now() > deadline {
            bail!("the daemon was told to stop and still runs; its log is {}", location.log.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    location.clear();
    Ok(ExitCode::SUCCESS)
}
