//! What may go wrong while a lab is built or used. Every error names its object first, so that a failed
//! test or demo says which host, device or guest it was.

use std::io;
use std::time::Duration;

/// A step of the lab that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call or a file failed.
    #[error("{object}: cannot {action}: {source}")]
    System {
        /// The host, device or path.
        object: String,
        /// What was tried, as a verb and its object.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A netlink request was refused.
    #[error("{object}: cannot {action}: {source}")]
    Netlink {
        /// The host, device, address or route.
        object: String,
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: greway_netlink::NetlinkError,
    },
    /// An address, prefix or option is not what the call takes.
    #[error("{object}: `{value}` is not {expected}")]
    Value {
        /// The host or device.
        object: String,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {waited:?}{detail}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        waited: Duration,
        /// What was seen instead; empty, or starting with its own separator.
        detail: String,
    },
    /// Data arrived that is not what was sent.
    #[error("{object}: byte {offset} of the stream is not what was sent")]
    Corrupted {
        /// The receiving end.
        object: String,
        /// The first differing byte, from 0.
        offset: u64,
    },
    /// A guest (User Mode Linux or QEMU) failed a command or died.
    #[error("guest {guest}: {what}: {output}")]
    Guest {
        /// The guest's name.
        guest: String,
        /// The command, or the step of its life.
        what: String,
        /// What the guest printed.
        output: String,
    },
}

impl Error {
    pub(crate) fn system<E: Into<io::Error>>(
        object: impl Into<String>,
        action: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let (object, action) = (object.into(), action.into());
        move |source| Self::System { object, action, source: source.into() }
    }

    pub(crate) fn netlink(
        object: impl Into<String>,
        action: impl Into<String>,
    ) -> impl FnOnce(greway_netlink::NetlinkError) -> Self {
        let (object, action) = (object.into(), action.into());
        move |source| Self::Netlink { object, action, source }
    }
}
