//! `greway-load FROM TO ADDRESS MEASURE…`: one measurement of [`greway_testbed::load`], its result one line of JSON.
//!
//! A program of its own because a measurement needs optimised code and a process that does nothing else, and because
//! a guest has no xtask.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its result")]

use std::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use greway_linux::ethtool;
use greway_linux::netns::NetNamespace;
use greway_testbed::load::{self, RoundTrips, Sending, TcpRate, Way, Window};

const USAGE: &str = "\
usage: greway-load FROM TO ADDRESS MEASURE
       greway-load features NETNS DEVICE FEATURE...

FROM, TO, NETNS: files that are network namespaces; ADDRESS: one of TO's

  tcp MILLISECONDS [STREAMS [PID...]]
                                     bytes of one stream, or of so many at once, that arrive in that time, and the
                                     processor time of this machine and of these processes
  udp BYTES MILLISECONDS [singly]    datagrams of that size that arrive; sent 64 a call, or one a call
  ping COUNT                         round trips back to back
  loaded BULK MILLISECONDS           round trips while one TCP stream goes to BULK, an address of TO's
  paced RATE MILLISECONDS            numbered datagrams at that rate a second; says `first` on a line when one is there

  features: switches a device's offloads off, by the kernel's names
";

/// What a stream needs to find its rate.
const WARM_UP: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["features", netns, device, ref features @ ..] => switch_off(netns, device, features),
        [from, to, address, ref measure @ ..] if !measure.is_empty() => run(from, to, address, measure),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("greway-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(from: &str, to: &str, address: &str, measure: &[&str]) -> Result<String, Box<dyn Error>> {
    let from = NetNamespace::from_path(Path::new(from)).map_err(|error| format!("{from}: {error}"))?;
    let to = NetNamespace::from_path(Path::new(to)).map_err(|error| format!("{to}: {error}"))?;
    let address: IpAddr = address.parse().map_err(|error| format!("`{address}`: {error}"))?;
    let way = Way { from: &from, to: &to, address };
    Ok(match *measure {
        ["tcp", time] => tcp(&way, time, "1", &[])?,
        ["tcp", time, streams, ref pids @ ..] => tcp(&way, time, streams, pids)?,
        ["udp", size, time] => udp(&way, size, time, Sending::Batches)?,
        ["udp", size, time, "singly"] => udp(&way, size, time, Sending::Singly)?,
        ["ping", count] => {
            format!("{{{}}}", trips(&load::round_trips(&way, number(count)?)?))
        }
        ["loaded", bulk, time] => {
            let bulk: IpAddr = bulk.parse().map_err(|error| format!("`{bulk}`: {error}"))?;
            let (seen, stream) = load::loaded(&way, bulk, window(time)?)?;
            format!(
                r#"{{{},"bytes":{},"nanos":{}}}"#,
                trips(&seen),
                stream.received.count,
                stream.received.elapsed.as_nanos()
            )
        }
        ["paced", rate, time] => {
            let time = Duration::from_millis(number(time)?.into());
            let seen = load::paced(&way, number(rate)?, time, || println!("first"))?;
            format!(
                r#"{{"sent":{},"received":{},"lost":{},"duplicates":{},"late":{},"longest_gap_nanos":{}}}"#,
                seen.sent,
                seen.received,
                seen.lost(),
                seen.duplicates,
                seen.late,
                seen.longest_gap.as_nanos()
            )
        }
        _ => return Err(format!("`{}` is no measure\n{USAGE}", measure.join(" ")).into()),
    })
}

fn tcp(way: &Way<'_>, time: &str, streams: &str, pids: &[&str]) -> Result<String, Box<dyn Error>> {
    let pids = pids.iter().map(|pid| number(pid)).collect::<Result<Vec<u32>, _>>()?;
    let TcpRate { received, spent } = load::tcp(way, number(streams)? as usize, window(time)?, &pids)?;
    Ok(format!(
        r#"{{"bytes":{},"nanos":{},"machine_nanos":{},"process_nanos":{}}}"#,
        received.count,
        received.elapsed.as_nanos(),
        spent.machine.as_nanos(),
        spent.processes.as_nanos()
    ))
}

/// Fields of an object; a time that is `null` is that of a request that was lost.
fn trips(trips: &RoundTrips) -> String {
    let nanos =
        |percent| trips.percentile(percent).map_or_else(|| "null".to_owned(), |nanos| nanos.to_string());
    format!(
        r#""answered":{},"lost":{},"median_nanos":{},"p99_nanos":{}"#,
        trips.nanos.len(),
        trips.lost,
        nanos(50),
        nanos(99)
    )
}

fn udp(way: &Way<'_>, size: &str, time: &str, sending: Sending) -> Result<String, Box<dyn Error>> {
    let rate = load::udp(way, number(size)? as usize, sending, window(time)?)?;
    Ok(format!(
        r#"{{"packets":{},"nanos":{},"sent":{},"sent_nanos":{}}}"#,
        rate.received.count,
        rate.received.elapsed.as_nanos(),
        rate.sent.count,
        rate.sent.elapsed.as_nanos()
    ))
}

fn switch_off(netns: &str, device: &str, features: &[&str]) -> Result<String, Box<dyn Error>> {
    let namespace = NetNamespace::from_path(Path::new(netns)).map_err(|error| format!("{netns}: {error}"))?;
    let wanted: Vec<(&str, bool)> = features.iter().map(|feature| (*feature, false)).collect();
    namespace
        .run_in(|| ethtool::set_features(device, &wanted))?
        .map_err(|error| format!("{device}: {error}"))?;
    Ok("{}".to_owned())
}

fn window(milliseconds: &str) -> Result<Window, String> {
    Ok(Window { warm_up: WARM_UP, length: Duration::from_millis(number(milliseconds)?.into()) })
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("`{text}` is not a number from 1"))
}
