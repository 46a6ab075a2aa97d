//! Who else on this host may take a GRE packet that no tunnel of ours wants.
//!
//! "Port unreachable" for such a packet would end the tunnels of another program that reads GRE from a raw socket
//! of its own, PPTP's among them (trap T8). And where the kernel's own GRE is loaded, it answers by itself. Neither
//! tells when it begins, so both are looked at while there is something to answer, and then once a second at most.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::{fmt, fs, io};

use crate::underlay::GRE;

/// How long a look is good, in milliseconds.
const GOOD_FOR_MS: u64 = 1_000;

/// Why nobody is told that a packet matched no tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It was switched off.
    Off,
    /// Another program has a raw socket for GRE: the packet may be its.
    OtherProgram,
    /// This module of the kernel is loaded, and answers itself.
    Kernel(&'static str),
    /// Whether there is another program cannot be seen.
    Unknown,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("it is switched off"),
            Self::OtherProgram => {
                f.write_str("another program on this host receives GRE (protocol 47) and may take them")
            }
            Self::Kernel(module) => write!(f, "the kernel's own GRE ({module}) is loaded and answers itself"),
            Self::Unknown => f.write_str("whether another program receives GRE cannot be seen in /proc"),
        }
    }
}

/// What was seen of the others of one address family.
#[derive(Debug)]
pub(crate) struct Others {
    /// Below /proc, one row for each raw socket of the namespace.
    sockets: &'static str,
    module: &'static str,
    looked_ms: Option<u64>,
    seen: Option<Silence>,
    /// The sockets that were there at the last look, by inode, and whether they are this process's own: with ten
    /// thousand tunnels it takes long to find out.
    known: HashMap<u64, bool>,
}

impl Others {
    pub(crate) fn over_ipv4() -> Self {
        Self {
            sockets: "thread-self/net/raw",
            module: "ip_gre",
            looked_ms: None,
            seen: None,
            known: HashMap::new(),
        }
    }

    pub(crate) fn over_ipv6() -> Self {
        Self {
            sockets: "thread-self/net/raw6",
            module: "ip6_gre",
            looked_ms: None,
            seen: None,
            known: HashMap::new(),
        }
    }

    /// Why to be silent, if one must be.
    pub(crate) fn silence(&mut self, now_ms: u64) -> Option<Silence> {
        let stale = self.looked_ms.is_none_or(|looked| now_ms.saturating_sub(looked) >= GOOD_FOR_MS);
        if stale {
            self.looked_ms = Some(now_ms);
            self.seen = self.look(Path::new("/"));
        }
        self.seen
    }

    fn look(&mut self, root: &Path) -> Option<Silence> {
        if root.join("sys/module").join(self.module).exists() || is_in_modules(root, self.module) {
            return Some(Silence::Kernel(self.module));
        }
        match self.any_of_others(&root.join("proc")) {
            Ok(true) => Some(Silence::OtherProgram),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!(%error, table = self.sockets, "cannot be read");
                Some(Silence::Unknown)
            }
        }
    }

    fn any_of_others(&mut self, proc: &Path) -> io::Result<bool> {
        let sockets = gre_sockets(&fs::read_to_string(proc.join(self.sockets))?);
        if sockets.iter().any(|inode| !self.known.contains_key(inode)) {
            let own = own_sockets(&proc.join("self/fd"))?;
            self.known = sockets.iter().map(|inode| (*inode, own.contains(inode))).collect();
        }
        self.known.retain(|inode, _| sockets.contains(inode));
        Ok(self.known.values().any(|own| !own))
    }
}

fn is_in_modules(root: &Path, module: &str) -> bool {
    let modules = fs::read_to_string(root.join("proc/modules")).unwrap_or_default();
    modules.lines().any(|line| line.split(' ').next() == Some(module))
}

/// The inodes of the raw sockets for GRE (linux net/ipv4/raw.c, net/ipv6/datagram.c v6.18,
/// `__ip6_dgram_sock_seq_show`): the protocol stands where others have the local port.
///
/// ```text
///   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
///   47: 00000000:002F 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12345 2 0000000000000000 0
/// ```
fn gre_sockets(table: &str) -> Vec<u64> {
    let inode = |line: &str| {
        let mut fields = line.split_whitespace();
        let (_, protocol) = fields.nth(1)?.rsplit_once(':')?;
        (u8::from_str_radix(protocol, 16) == Ok(GRE)).then_some(())?;
        fields.nth(7)?.parse::<u64>().ok()
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// The inodes of this process's sockets.
fn own_sockets(folder: &Path) -> io::Result<HashSet<u64>> {
    let inode = |entry: io::Result<fs::DirEntry>| {
        // A descriptor may be closed meanwhile.
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
    };
    Ok(fs::read_dir(folder)?.filter_map(inode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";

    fn row(protocol: &str, inode: u64) -> String {
        format!(
            "  47: 00000000:{protocol} 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 {inode} 2 0000000000000000 0\n"
        )
    }

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, raw: Option<&str>) -> Self {
            let root = std::env::temp_dir().join(format!("greway-others-{name}-{}", std::process::id()));
            fs::create_dir_all(root.join("proc/thread-self/net")).unwrap();
            fs::create_dir_all(root.join("proc/self/fd")).unwrap();
            fs::create_dir_all(root.join("sys/module")).unwrap();
            symlink("socket:[100]", root.join("proc/self/fd/3")).unwrap();
            symlink("/dev/null", root.join("proc/self/fd/0")).unwrap();
            if let Some(raw) = raw {
                fs::write(root.join("proc/thread-self/net/raw"), raw).unwrap();
            }
            Self(root)
        }

        fn look(&self) -> Option<Silence> {
            Others::over_ipv4().look(&self.0)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn t08_another_programs_socket_is_told_from_ours() {
        let ours = HEAD.to_owned() + &row("002F", 100) + &row("0001", 200);
        assert_eq!(Root::new("ours", Some(&ours)).look(), None);
        let both = ours + &row("002F", 300);
        assert_eq!(Root::new("both", Some(&both)).look(), Some(Silence::OtherProgram));
        assert_eq!(Root::new("blind", None).look(), Some(Silence::Unknown));
    }

    #[test]
    fn t08_only_a_socket_that_is_new_has_all_descriptors_looked_at() {
        let ours = HEAD.to_owned() + &row("002F", 100);
        let root = Root::new("again", Some(&ours));
        let mut others = Others::over_ipv4();
        assert_eq!(others.look(&root.0), None);
        fs::remove_dir_all(root.0.join("proc/self")).unwrap();
        assert_eq!(others.look(&root.0), None, "known");
        let table = root.0.join("proc/thread-self/net/raw");
        fs::write(&table, ours.clone() + &row("002F", 300)).unwrap();
        assert_eq!(others.look(&root.0), Some(Silence::Unknown));
        fs::create_dir_all(root.0.join("proc/self/fd")).unwrap();
        symlink("socket:[100]", root.0.join("proc/self/fd/3")).unwrap();
        assert_eq!(others.look(&root.0), Some(Silence::OtherProgram));
        fs::write(&table, ours).unwrap();
        assert_eq!(others.look(&root.0), None, "it has gone");
    }

    #[test]
    fn t08_the_kernels_gre_is_seen_by_either_sign() {
        let root = Root::new("sys", Some(HEAD));
        fs::create_dir(root.0.join("sys/module/ip6_gre")).unwrap();
        assert_eq!(root.look(), None, "of the other family");
        fs::create_dir(root.0.join("sys/module/ip_gre")).unwrap();
        assert_eq!(root.look(), Some(Silence::Kernel("ip_gre")));
        let root = Root::new("proc", Some(HEAD));
        fs::write(root.0.join("proc/modules"), "gre 16384 1 ip_gre, Live 0x0\n").unwrap();
        assert_eq!(root.look(), None);
        fs::write(root.0.join("proc/modules"), "ip_gre 16384 0 - Live 0x0\n").unwrap();
        assert_eq!(root.look(), Some(Silence::Kernel("ip_gre")));
    }

    #[test]
    fn rows_of_either_family_are_read_and_others_ignored() {
        let six = "  47: 00000000000000000000000000000000:002F 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 77 2 0000000000000000 0\n";
        assert_eq!(gre_sockets(&(HEAD.to_owned() + six)), [77]);
        assert_eq!(gre_sockets(HEAD), []);
        assert_eq!(gre_sockets("x\n  47: 00:002F\n 1 2 3\n\n"), []);
    }

    #[test]
    fn this_process_sees_its_own_sockets() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = {
            use std::os::fd::AsRawFd as _;
            fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap()
        };
        let own = own_sockets(Path::new("/proc/self/fd")).unwrap();
        assert!(
            own.iter().any(|own| inode.to_str() == Some(&format!("socket:[{own}]"))),
            "{inode:?} in {own:?}"
        );
    }
}
