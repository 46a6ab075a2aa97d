//! What can go wrong, with the device and the kernel's words.

use std::{error::Error, io, path::PathBuf};

use greway_ebpf_abi::Point;

/// Why the fast path is not there, or not all of it.
///
/// `kernel` is what the kernel answered, or aya when it never came to ask.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FastpathError {
    /// The programs or their map were not accepted. EPERM means that CAP_BPF or CAP_NET_ADMIN is missing, EACCES
    /// with the verifier's words often CAP_PERFMON.
    #[error("cannot load the BPF programs: {kernel}")]
    Load {
        /// The kernel's words, with the verifier's last where it had any.
        kernel: String,
    },
    /// No such device in this network namespace.
    #[error("no device {device} in this network namespace: {kernel}")]
    Device {
        /// Name, or index when that is all there is.
        device: String,
        /// The kernel's words.
        kernel: String,
    },
    /// Attached by this very object before.
    #[error("the {} program is on {device} already", point.name())]
    AlreadyAttached {
        /// The device's name.
        device: String,
        /// Where on it.
        point: Point,
    },
    /// Not, or no longer, attached by this object.
    #[error("the {} program is not on {device}", point.name())]
    NotAttached {
        /// The device's name.
        device: String,
        /// Where on it.
        point: Point,
    },
    /// Neither tcx nor clsact, or not the one that was asked for.
    #[error("cannot attach the {} program to {device}: {kernel}", point.name())]
    Attach {
        /// The device's name.
        device: String,
        /// Where on it.
        point: Point,
        /// What each way answered.
        kernel: String,
    },
    /// The program stays where it is.
    #[error("cannot detach the {} program from {device}: {kernel}", point.name())]
    Detach {
        /// The device's name.
        device: String,
        /// Where on it.
        point: Point,
        /// The kernel's words.
        kernel: String,
    },
    /// A pin, or the folder it belongs in, could not be made, read or removed.
    #[error("cannot {action} {}: {kernel}", path.display())]
    Pin {
        /// What was tried: `create`, `pin`, `open`, `remove`.
        action: &'static str,
        /// The pin or the folder.
        path: PathBuf,
        /// The kernel's words.
        kernel: String,
    },
    /// One of the maps could not be read or written.
    #[error("cannot {action} the map {map}: {kernel}")]
    Map {
        /// What was tried: `open`, `read`, `write to`, `remove from`.
        action: &'static str,
        /// The map's name.
        map: &'static str,
        /// The kernel's words.
        kernel: String,
    },
    /// The filters or qdiscs of a device could not be listed.
    #[error("cannot list the tc filters of {device}: {source}")]
    Filters {
        /// The device's name.
        device: String,
        /// The kernel's words.
        source: io::Error,
    },
    /// The network namespace, or a list of its devices, could not be read.
    #[error("cannot look at this network namespace: {source}")]
    Namespace {
        /// The kernel's words.
        source: io::Error,
    },
}

/// All that an error of aya's says, from what failed down to the kernel's words, each thing once.
pub(crate) fn words(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

/// What the verifier ended with, out of a log of hundreds of lines: the last but its statistics.
pub(crate) fn verdict(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["verification time ", "stack depth ", "processed "];
    log.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !STATISTICS.iter().any(|statistic| line.starts_with(statistic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_last_words_are_its_verdict() {
        let log = "0: R1=ctx() R10=fp0\n48: (0f) r0 += r8\nR0 tried to add from different maps\n\
                   verification time 4378 usec\nstack depth 40\nprocessed 60 insns (limit 1000000)\n";
        assert_eq!(verdict(log), Some("R0 tried to add from different maps"));
        assert_eq!(verdict(""), None);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the call failed")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_kernels_words_are_at_the_end() {
        let error = Outer(io::Error::from_raw_os_error(1));
        assert_eq!(words(&error), "the call failed: Operation not permitted (os error 1)");
    }

    #[test]
    fn nothing_is_said_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Same(#[source] io::Error);
        let error = Same(io::Error::from_raw_os_error(95));
        assert_eq!(words(&error), "Operation not supported (os error 95)");
    }
}
