//! Whether packets overtook each other: what a host's TCP has counted of it, and a sender that gives no cause itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{Error, Host};

/// Keeps this thread, and those it starts, on the first CPU: packets of a pair of devices overtake each other when their
/// sender changes CPUs, with and without a tunnel.
///
/// # Errors
/// [`Error::System`] where the first CPU may not be used.
pub fn on_one_cpu() -> Result<(), Error> {
    let mut first = CpuSet::new();
    first.set(0);
    let kept = sched_setaffinity(None, &first).map_err(io::Error::from);
    kept.map_err(Error::system("this thread", "keep it on the first CPU"))
}

/// What TCP on this host has counted so far that is about order, of both directions.
///
/// # Errors
/// [`Error::System`] where the host cannot be entered or has no such counters.
pub fn out_of_order(host: &Host) -> Result<u64, Error> {
    const FILE: &str = "/proc/thread-self/net/netstat";
    let text = host.run(|| fs::read_to_string(FILE))?;
    let text = text.map_err(Error::system(host.name(), "read its TCP counters"))?;
    sum(&text).ok_or_else(|| Error::Value {
        object: host.name().to_owned(),
        value: FILE.to_owned(),
        expected: "a list of TCP's counters about order",
    })
}

/// `None` where one of them is not there: nobody could tell.
fn sum(netstat: &str) -> Option<u64> {
    const ABOUT_ORDER: [&str; 5] =
        ["TCPOFOQueue", "TCPSACKReorder", "TCPRenoReorder", "TCPTSReorder", "TCPSackRecovery"];
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let all: BTreeMap<&str, &str> = lines.next()?.split(' ').zip(lines.next()?.split(' ')).collect();
    ABOUT_ORDER.iter().map(|name| all.get(name)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_about_order_are_added_up_and_a_missing_one_is_no_zero() {
        let names = "TCPOFOQueue TCPSACKReorder Other TCPRenoReorder TCPTSReorder TCPSackRecovery";
        let netstat = format!("TcpExt: {names}\nTcpExt: 1 20 7 300 4000 50000\nIpExt: A\nIpExt: 9\n");
        assert_eq!(sum(&netstat), Some(54_321));
        assert_eq!(sum(&netstat.replace("TCPTSReorder", "TCPTimely")), None);
        assert_eq!(sum(""), None);
    }
}
