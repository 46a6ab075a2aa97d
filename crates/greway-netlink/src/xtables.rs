//! Legacy iptables rules do not show among nf_tables' chains, and reading them takes a socket option per
//! table. Which tables exist is enough to know: a table exists from the first time it is looked at, with
//! its chains hooked in.

use std::fs;
use std::io;

/// The legacy IPv4 and IPv6 tables of the calling thread's network namespace, such as `filter` and `nat`;
/// sorted, each once. Empty where the kernel has none.
///
/// # Errors
/// The system's where they cannot be read: without /proc, or for a user that is not root, who may not open
/// the kernel's list.
pub fn xtables_legacy_tables() -> io::Result<Vec<String>> {
    // Not /proc/net, which is the process's first thread's namespace.
    const NET: &str = "/proc/thread-self/net";
    fs::metadata(NET)?;
    let read = |name: &str| match fs::read_to_string(format!("{NET}/{name}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        outcome => outcome,
    };
    let (ipv4, ipv6) = (read("ip_tables_names")?, read("ip6_tables_names")?);
    let mut tables: Vec<String> = ipv4.lines().chain(ipv6.lines()).map(str::to_owned).collect();
    tables.sort_unstable();
    tables.dedup();
    Ok(tables)
}
