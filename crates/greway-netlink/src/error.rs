//! One error type for every request, because callers ask the same questions of all of them: did it
//! exist, was it missing, may we, can this kernel. The kernel's own sentence (the extended
//! acknowledgement) is kept word for word: it is usually the only useful part.

use std::fmt;
use std::io;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// No socket of this netlink family could be had; some kernels are built without it.
    #[error("cannot open a {family} netlink socket: {source}")]
    Open {
        /// `route`, `netfilter` or `xfrm`.
        family: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The socket failed between us and the kernel; whether the request was carried out is unknown.
    #[error("cannot {operation} {object}: {source}")]
    Socket {
        /// What was asked for, such as `add route`.
        operation: &'static str,
        /// What it was asked of, such as `10.0.0.0/8 dev tun0`.
        object: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {operation} {object}: {}", Refusal { errno: *errno, message: message.as_deref() })]
    Refused {
        /// What was asked for, such as `add route`.
        operation: &'static str,
        /// What it was asked of, such as `10.0.0.0/8 dev tun0`.
        object: String,
        /// The error number, positive.
        errno: i32,
        /// The kernel's own words (`NLMSGERR_ATTR_MSG`), where it had any.
        message: Option<String>,
    },
    /// The answer is not one this crate can read.
    #[error("cannot {operation} {object}: unexpected answer from the kernel: {reason}")]
    Malformed {
        /// What was asked for.
        operation: &'static str,
        /// What it was asked of.
        object: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// Tables kept changing while they were read (`NLM_F_DUMP_INTR`), more often than we retry.
    #[error("cannot {operation} {object}: it kept changing while it was read")]
    Interrupted {
        /// What was asked for.
        operation: &'static str,
        /// What it was asked of.
        object: String,
    },
    /// The request makes no sense and was not sent.
    #[error("cannot {operation} {object}: {reason}")]
    Invalid {
        /// What was asked for.
        operation: &'static str,
        /// What it was asked of.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl NetlinkError {
    /// The error number behind this error, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { source, .. } | Self::Socket { source, .. } => source.raw_os_error(),
            Self::Refused { errno, .. } => Some(*errno),
            Self::Malformed { .. } | Self::Interrupted { .. } | Self::Invalid { .. } => None,
        }
    }

    /// The kernel's own words about this error, if it had any.
    pub fn kernel_message(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } => message.as_deref(),
            _ => None,
        }
    }

    /// Something of this name, address or prefix is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// What the request named is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
    }

    /// The caller lacks the capability, here mostly `CAP_NET_ADMIN` in the namespace's owner.
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }

    /// This kernel was built without what the request needs, or has it blocked.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT))
    }
}

/// The kernel's words first, the error number's meaning after.
struct Refusal<'a> {
    errno: i32,
    message: Option<&'a str>,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = io::Error::from_raw_os_error(self.errno);
        match self.message {
            Some(message) => write!(f, "{}: {meaning}", message.trim_end_matches('.')),
            None => write!(f, "{meaning}"),
        }
    }
}

/// What a request is about, for the error it may end in.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) operation: &'static str,
    pub(crate) object: &'a dyn fmt::Display,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(operation: &'static str, object: &'a dyn fmt::Display) -> Self {
        Self { operation, object }
    }

    pub(crate) fn socket(self, source: io::Error) -> NetlinkError {
        NetlinkError::Socket { operation: self.operation, object: self.object.to_string(), source }
    }

    pub(crate) fn refused(self, errno: i32, message: Option<String>) -> NetlinkError {
        NetlinkError::Refused { operation: self.operation, object: self.object.to_string(), errno, message }
    }

    pub(crate) fn malformed(self, reason: impl fmt::Display) -> NetlinkError {
        let (operation, object) = (self.operation, self.object.to_string());
        NetlinkError::Malformed { operation, object, reason: reason.to_string() }
    }

    pub(crate) fn interrupted(self) -> NetlinkError {
        NetlinkError::Interrupted { operation: self.operation, object: self.object.to_string() }
    }

    pub(crate) fn invalid(self, reason: impl fmt::Display) -> NetlinkError {
        let (operation, object) = (self.operation, self.object.to_string());
        NetlinkError::Invalid { operation, object, reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_come_before_the_number() {
        let subject = Subject::new("add route", &"10.0.0.0/8");
        let error = subject.refused(libc::ENETDOWN, Some("Device for nexthop is not up.".to_owned()));
        assert_eq!(
            error.to_string(),
            "cannot add route 10.0.0.0/8: Device for nexthop is not up: Network is down (os error 100)"
        );
        assert_eq!(error.kernel_message(), Some("Device for nexthop is not up."));
        assert_eq!(
            subject.refused(libc::EEXIST, None).to_string(),
            "cannot add route 10.0.0.0/8: File exists (os error 17)"
        );
    }

    #[test]
    fn numbers_are_sorted_into_the_four_questions() {
        let of = |errno| Subject::new("do", &"it").refused(errno, None);
        assert!(of(libc::EEXIST).is_exists());
        for errno in [libc::ENOENT, libc::ENODEV, libc::ESRCH, libc::EADDRNOTAVAIL] {
            assert!(of(errno).is_not_found(), "{errno}");
        }
        assert!(of(libc::EPERM).is_permission());
        assert!(of(libc::EOPNOTSUPP).is_unsupported());
        let open = NetlinkError::Open {
            family: "xfrm",
            source: io::Error::from_raw_os_error(libc::EPROTONOSUPPORT),
        };
        assert!(open.is_unsupported() && !open.is_not_found());
        assert_eq!(Subject::new("do", &"it").invalid("no").errno(), None);
    }
}
