//! The real peers and tools that tests run against, and how they come to this machine.

use std::path::PathBuf;

use crate::shell;

/// A program that some tests need and the Debian package it comes in.
pub(crate) struct Peer {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) purpose: &'static str,
}

pub(crate) const PEERS: &[Peer] = &[
    Peer { program: "ip", package: "iproute2", purpose: "ip as operators use it, beside our verbs" },
    Peer {
        program: "gcc",
        package: "build-essential",
        purpose: "a kernel with GRE, as far as the stock ip can tell",
    },
    Peer { program: "nft", package: "nftables", purpose: "the host's firewall" },
    Peer { program: "iptables-legacy", package: "iptables", purpose: "the firewall of older hosts" },
    Peer { program: "strace", package: "strace", purpose: "a data plane that breaks" },
    Peer { program: "tcpdump", package: "tcpdump", purpose: "what an operator sees on the wire" },
    Peer { program: "tshark", package: "tshark", purpose: "another reading of the same packets" },
    Peer { program: "linux.uml", package: "user-mode-linux", purpose: "the Linux kernel's own ip_gre" },
    Peer { program: "modprobe", package: "kmod", purpose: "the modules of that kernel" },
    Peer { program: "ping", package: "iputils-ping", purpose: "pings from inside that kernel" },
    Peer { program: "ethtool", package: "ethtool", purpose: "offloads, inside that kernel" },
    Peer {
        program: "systemd-analyze",
        package: "systemd",
        purpose: "the units of the package, and socket activation",
    },
    Peer { program: "python3", package: "python3-minimal", purpose: "TCP transfers inside that kernel" },
    Peer { program: "qemu-system-x86_64", package: "qemu-system-x86", purpose: "machines that boot" },
    Peer {
        program: "mmdebstrap",
        package: "mmdebstrap",
        purpose: "the Debian on those machines, and others' NetworkManagers",
    },
    Peer { program: "mke2fs", package: "e2fsprogs", purpose: "their disk" },
];

/// A program that is unpacked beside what is built and not installed: installing it would start a service that
/// takes this machine's network over, or that nobody asked for.
struct Unpacked {
    /// Where below the folder it is.
    program: &'static str,
    /// The folder, below `peers` in cargo's target directory, where the tests look for it.
    folder: &'static str,
    /// Its package and libraries that a bare Debian has not.
    from: &'static [&'static str],
    purpose: &'static str,
}

const UNPACKED: &[Unpacked] = &[
    Unpacked {
        program: "usr/bin/nmcli",
        folder: "networkmanager",
        from: &[
            "network-manager",
            "libnm0",
            "libglib2.0-0",
            "libreadline8",
            "libndp0",
            "libjansson4",
            "libteamdctl0",
            "libbluetooth3",
            "libmm-glib0",
            "libnewt0.52",
        ],
        purpose: "nmcli --offline, whose keyfiles and error texts are ours to match",
    },
    Unpacked {
        program: "sbin/ifup",
        folder: "ifupdown",
        from: &["ifupdown"],
        purpose: "Debian's ifup, which calls ip by its name",
    },
    Unpacked {
        program: "usr/lib/openvswitch-switch/ovs-vswitchd",
        folder: "openvswitch",
        from: &[
            "openvswitch-switch",
            "openvswitch-common",
            "libbpf1",
            "libcap-ng0",
            "libelf1",
            "libevent-2.1-7",
            "libgmp10",
            "libhogweed6",
            "libnettle8",
            "libnuma1",
            "libssl3",
            "libunbound8",
            "libxdp1",
        ],
        purpose: "Open vSwitch's own GRE, in userspace",
    },
];

/// Installs what is missing, where that can be done; says in a table what is still missing.
/// Returns (what needs it, why it is missing) for each.
pub(crate) fn provide() -> Vec<(String, String)> {
    let mut missing = installed();
    for peer in UNPACKED {
        if let Some(why) = unpack(peer) {
            missing.push((format!("{} ({})", peer.purpose, peer.program), why));
        }
    }
    missing
}

/// The folder of a program that is unpacked and not installed, with the program in it where that can be done; the reason
/// where it cannot.
pub(crate) fn unpacked(folder: &str) -> Result<PathBuf, String> {
    let Some(peer) = UNPACKED.iter().find(|peer| peer.folder == folder) else {
        return Err(format!("nothing is unpacked as {folder}"));
    };
    unpack(peer).map_or_else(|| Ok(place(peer)), Err)
}

fn place(peer: &Unpacked) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), Into::into);
    shell::root().join(target).join("peers").join(peer.folder)
}

/// Downloads and unpacks; the reason where it cannot.
fn unpack(peer: &Unpacked) -> Option<String> {
    let folder = place(peer);
    if folder.join(peer.program).is_file() {
        return None;
    }
    if !shell::has("apt-get") || !shell::has("dpkg-deb") {
        return Some("there is no apt-get or no dpkg-deb".to_owned());
    }
    println!("unpacking into {}: {}", folder.display(), peer.from.join(" "));
    let unpacked = || -> anyhow::Result<()> {
        let downloads = folder.with_extension("debs");
        std::fs::create_dir_all(&downloads)?;
        let mut download = shell::command("apt-get", &["download", "-qq"]);
        download.args(peer.from).current_dir(&downloads).stdout(std::process::Stdio::null());
        let update =
            || shell::run(shell::command("apt-get", &["update", "-qq"]).stdout(std::process::Stdio::null()));
        shell::run(&mut download).or_else(|_| update().and_then(|()| shell::run(&mut download)))?;
        // The program last becomes visible with the whole, so that a half of it is never taken for it.
        let half = folder.with_extension("half");
        for package in std::fs::read_dir(&downloads)? {
            let mut extract = shell::command("dpkg-deb", &["-x"]);
            shell::run(extract.arg(package?.path()).arg(&half))?;
        }
        std::fs::rename(&half, &folder)?;
        Ok(std::fs::remove_dir_all(&downloads)?)
    };
    unpacked().err().map(|error| format!("{error:#}"))
}

/// Packages of [`PEERS`].
fn installed() -> Vec<(String, String)> {
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
