//! The real peers and tools that tests run against, and how they come to this machine.

use crate::shell;

/// A program that some tests need and the Debian package it comes in.
pub(crate) struct Peer {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) purpose: &'static str,
}

pub(crate) const PEERS: &[Peer] = &[
    Peer { program: "ip", package: "iproute2", purpose: "ip as operators use it, beside our verbs" },
    Peer { program: "nft", package: "nftables", purpose: "the host's firewall" },
    Peer { program: "iptables-legacy", package: "iptables", purpose: "the firewall of older hosts" },
    Peer { program: "strace", package: "strace", purpose: "a data plane that breaks" },
    Peer { program: "tcpdump", package: "tcpdump", purpose: "what an operator sees on the wire" },
    Peer { program: "linux.uml", package: "user-mode-linux", purpose: "the Linux kernel's own ip_gre" },
    Peer { program: "modprobe", package: "kmod", purpose: "the modules of that kernel" },
    Peer { program: "ping", package: "iputils-ping", purpose: "pings from inside that kernel" },
    Peer { program: "ethtool", package: "ethtool", purpose: "offloads, inside that kernel" },
    Peer { program: "python3", package: "python3-minimal", purpose: "TCP transfers inside that kernel" },
];

/// Installs what is missing, where that can be done; says in a table what is still missing.
/// Returns (what needs it, why it is missing) for each.
pub(crate) fn provide() -> Vec<(String, String)> {
    let missing = || PEERS.iter().filter(|peer| !shell::has(peer.program)).collect::<Vec<_>>();
    let packages = missing().iter().map(|peer| peer.package).collect::<Vec<_>>();
    if packages.is_empty() {
        return Vec::new();
    }
    let why = install(&packages);
    let row = |peer: &&Peer| {
        let reason = why.clone().unwrap_or_else(|| "the package has no such program".to_owned());
        (format!("{} ({})", peer.purpose, peer.program), reason)
    };
    missing().iter().map(row).collect()
}

/// Installs packages; the reason where it cannot.
fn install(packages: &[&str]) -> Option<String> {
    let list = packages.join(" ");
    if !shell::has("apt-get") {
        return Some(format!("there is no apt-get; install what Debian calls: {list}"));
    }
    if !shell::is_root() {
        return Some(format!("sudo apt-get install {list}"));
    }
    println!("installing with apt: {list}");
    let apt = |arguments: &[&str]| {
        let mut command = shell::command("apt-get", arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdout(std::process::Stdio::null());
        shell::run(&mut command)
    };
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(packages);
    // The lists may be old or missing: update once, when the first try fails.
    let installed = apt(&arguments).or_else(|_| apt(&["update", "-qq"]).and_then(|()| apt(&arguments)));
    installed.err().map(|error| format!("{error:#}"))
}
