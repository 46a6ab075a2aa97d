//! Legacy iptables rules do not show among nf_tables' chains, and reading them takes a socket option per
//! table. Which tables exist is enough to know: a table exists from the first time it is looked at, with
//! its chains hooked in.

use std::fs;

/// The legacy IPv4 and IPv6 tables of the calling thread's network namespace, such as `filter` and `nat`;
/// sorted, each once. Empty where the kernel has none or hides them.
pub fn xtables_legacy_tables() -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    // Not /proc/net, which is the process's first thread's namespace.
    let ipv4 = read("/proc/thread-self/net/ip_tables_names");
    let ipv6 = read("/proc/thread-self/net/ip6_tables_names");
    let mut tables: Vec<String> = ipv4.lines().chain(ipv6.lines()).map(str::to_owned).collect();
    tables.sort_unstable();
    tables.dedup();
    tables
}
