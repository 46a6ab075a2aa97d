//! Receive packet steering (RPS) as sysfs has it: which CPUs take over the packets of a device's receive queue, by a
//! hash over their flow (Documentation/networking/scaling.rst).
//!
//! The kernel's flow dissector looks through GRE version 0, keyed or not, and hashes the flow inside
//! (net/core/flow_dissector.c, `__skb_flow_dissect_gre`), so this spreads the one outer flow of a tunnel. Only reading
//! and writing is here; what is to be written is decided in `daemon/steering.rs`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use greway_netlink::{Link, Netlink};

/// A set of CPUs, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cpus(BTreeSet<u32>);

/// The kernel's largest `CONFIG_NR_CPUS`: what names more is no set of CPUs.
const MOST_CPUS: u32 = 8192;

impl Cpus {
    /// Reads a mask as sysfs writes it: hexadecimal, in groups of 32 bits with the highest first (`3`,
    /// `00000001,00000000`). `None` for what is none.
    pub(crate) fn parse_mask(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for (group, digits) in text.trim().rsplit(',').enumerate() {
            let bits = u32::from_str_radix(digits, 16).ok()?;
            let first = u32::try_from(group).ok()?.checked_mul(32).filter(|first| *first < MOST_CPUS)?;
            cpus.extend((0..32).filter(|bit| bits & (1 << bit) != 0).map(|bit| first + bit));
        }
        Some(Self(cpus))
    }

    /// Reads a list as sysfs writes it: `0-3,8`. `None` for what is none.
    pub(crate) fn parse_list(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for range in text.trim().split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
            cpus.extend((first..=last.min(MOST_CPUS - 1)).filter(|_| last < MOST_CPUS));
        }
        Some(Self(cpus))
    }

    /// The mask as the kernel takes it.
    pub(crate) fn mask(&self) -> String {
        let groups = self.0.last().map_or(1, |last| last / 32 + 1);
        let bits = |group: u32| {
            self.0.iter().filter(|cpu| **cpu / 32 == group).map(|cpu| 1 << (cpu % 32)).sum::<u32>()
        };
        let groups = (0..groups).rev().map(|group| format!("{:08x}", bits(group)));
        groups.collect::<Vec<_>>().join(",")
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none: the kernel steers nothing then.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of these are among those.
    pub(crate) fn is_subset(&self, of: &Self) -> bool {
        self.0.is_subset(&of.0)
    }
}

/// As a list, for people: `0-3,8`.
impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for cpu in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
                _ => runs.push((*cpu, *cpu)),
            }
        }
        for (position, (first, last)) in runs.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

/// The sysfs of a network namespace.
#[derive(Debug)]
pub(crate) struct Sysfs {
    root: PathBuf,
    /// Keeps a sysfs that is mounted nowhere.
    _mount: Option<OwnedFd>,
}

impl Sysfs {
    /// One at a directory, whosever it is.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), _mount: None }
    }

    /// That of the calling thread's network namespace: /sys where it shows the devices of `netlink`, else one
    /// that is mounted nowhere. A /sys that shows them and cannot be written stays the one: that is how somebody wants
    /// it.
    ///
    /// # Errors
    /// A sentence, where there is none.
    pub(crate) fn of_this_namespace(netlink: &Netlink) -> Result<Self, String> {
        let usual = Self::at(Path::new("/sys"));
        // A device may come or go while they are compared.
        for _ in 0..3 {
            let links = netlink.links().map_err(|error| error.to_string())?;
            if usual.shows_all(&links) {
                return Ok(usual);
            }
        }
        match greway_linux::sysfs::of_this_namespace() {
            Ok(mount) => {
                let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
                Ok(Self { root, _mount: Some(mount) })
            }
            Err(error) => Err(format!(
                "/sys shows the devices of another network namespace, and one of this one cannot be had: {error}"
            )),
        }
    }

    /// Whether this is the place of a link, and not that of another namespace's device of the same name.
    pub(crate) fn shows(&self, link: &Link) -> bool {
        let folder = self.device(&link.name);
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
        let index = read("ifindex").and_then(|text| text.trim().parse::<u32>().ok());
        let address = read("address").unwrap_or_default();
        let here = link.address.map(|bytes| bytes.map(|byte| format!("{byte:02x}")).join(":"));
        index == Some(link.index) && here.is_none_or(|here| here == address.trim())
    }

    fn shows_all(&self, links: &[Link]) -> bool {
        // A loopback device has index 1 everywhere.
        let Ok(entries) = fs::read_dir(self.root.join("class/net")) else { return false };
        // Beside the devices there may be plain files (bonding_masters).
        let devices =
            entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_file())).count();
        devices == links.len() && links.iter().all(|link| self.shows(link))
    }

    /// The CPUs that are there to take packets.
    ///
    /// # Errors
    /// The system's, or `InvalidData`.
    pub(crate) fn online(&self) -> io::Result<Cpus> {
        let text = fs::read_to_string(self.root.join("devices/system/cpu/online"))?;
        Cpus::parse_list(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The receive queues of a device, `rx-0` and so on.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn queues(&self, device: &str) -> io::Result<Vec<String>> {
        let mut queues = Vec::new();
        for entry in fs::read_dir(self.device(device).join("queues"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("rx-") && self.file(device, &name).exists() {
                queues.push(name);
            }
        }
        queues.sort_by_key(|name| name[3..].parse::<u32>().unwrap_or(u32::MAX));
        Ok(queues)
    }

    /// Which CPUs a queue's packets go to; none: they stay where they arrive.
    ///
    /// # Errors
    /// The system's, or `InvalidData`.
    pub(crate) fn rps(&self, device: &str, queue: &str) -> io::Result<Cpus> {
        let text = fs::read_to_string(self.file(device, queue))?;
        Cpus::parse_mask(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Has a queue's packets go to these CPUs.
    ///
    /// # Errors
    /// The system's: a read-only /sys, `EPERM` without `CAP_NET_ADMIN` in the first user namespace.
    pub(crate) fn set_rps(&self, device: &str, queue: &str, cpus: &Cpus) -> io::Result<()> {
        // Not made anew where there is none.
        let mut file = fs::File::options().write(true).open(self.file(device, queue))?;
        io::Write::write_all(&mut file, cpus.mask().as_bytes())
    }

    fn device(&self, name: &str) -> PathBuf {
        self.root.join("class/net").join(name)
    }

    fn file(&self, device: &str, queue: &str) -> PathBuf {
        self.device(device).join("queues").join(queue).join("rps_cpus")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_and_written_as_the_kernel_does() {
        for (mask, list, canonical) in [
            ("0\n", "", "00000000"),
            ("3\n", "0-1", "00000003"),
            ("f5", "0,2,4-7", "000000f5"),
            ("00000001,80000000\n", "31-32", "00000001,80000000"),
            ("00000000,00000000,0000000f\n", "0-3", "0000000f"),
        ] {
            let cpus = Cpus::parse_mask(mask).unwrap();
            assert_eq!(cpus.to_string(), list, "{mask}");
            assert_eq!(cpus.mask(), canonical);
            assert_eq!(Cpus::parse_mask(canonical).unwrap(), cpus);
            assert_eq!(Cpus::parse_list(&format!("{list}\n")).unwrap(), cpus);
            assert_eq!(cpus.is_empty(), list.is_empty());
        }
        for wrong in ["", "x", "1,", "100000000", "-1"] {
            assert_eq!(Cpus::parse_mask(wrong), None, "{wrong}");
        }
        for wrong in ["a", "1-", "-1", "1-2-3"] {
            assert_eq!(Cpus::parse_list(wrong), None, "{wrong}");
        }
        assert!(Cpus::parse_mask(&"0,".repeat(400)).is_none());
        assert!(Cpus::parse_list("0-4000000000").unwrap().is_empty(), "no machine has as many");
    }
}
