//! Whether the lab can be built at all: the question behind `not run:` lines of tests and behind the demo's
//! choice between real links and simulated ones. It is answered by trying, on a thread that ends at once.

use std::fs;
use std::io;
use std::thread;

use greway_linux::netns::{self, UnshareError};

use greway_linux::process::{Capability, has_capability};

use crate::Host;
use crate::link::{LinkOptions, link};

/// What stands in the way of building hosts and links.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// No network namespace can be made.
    #[error("a network namespace cannot be made ({source}){hint}")]
    Namespace {
        /// The kernel's answer.
        source: io::Error,
        /// What the system's settings say about it; empty, or starting with its own separator.
        hint: String,
    },
    /// No user namespace can be had either.
    #[error("no privilege, and none by a user namespace: {source}{hint}")]
    UserNamespace {
        /// The step that was refused.
        source: UnshareError,
        /// As above.
        hint: String,
    },
    /// A namespace can be made, but not a veth pair in it.
    #[error("a veth pair cannot be made: {reason}")]
    Veth {
        /// The kernel's answer.
        reason: String,
    },
    /// Packet or raw sockets are refused.
    #[error("a packet socket cannot be opened ({reason}); CAP_NET_RAW is needed")]
    Socket {
        /// The kernel's answer.
        reason: String,
    },
}

/// Where the privilege comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// This process has it: root, or the capabilities.
    Own,
    /// It is root in a user namespace of its own, which [`acquire`] made.
    UserNamespace,
}

/// Gets what the lab needs: what the process has already, or else a user namespace in which it is root.
///
/// To be called before the first thread is started, since the kernel gives a user namespace only to a process with one
/// thread. After an error the process may be in a user namespace that grants nothing; it can go on without
/// privilege.
///
/// # Errors
/// What is missing.
pub fn acquire() -> Result<Privilege, Missing> {
    let privilege = if has_capability(Capability::SysAdmin).unwrap_or(false) {
        Privilege::Own
    } else {
        netns::unshare_user_and_net().map_err(|source| Missing::UserNamespace { source, hint: hint() })?;
        Privilege::UserNamespace
    };
    check()?;
    Ok(privilege)
}

/// Tries whether hosts, links and packet sockets can be made as this user.
///
/// # Errors
/// What is missing.
pub fn check() -> Result<(), Missing> {
    thread::scope(|scope| {
        let tried = scope.spawn(netns::unshare_net);
        tried.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
    .map_err(|source| Missing::Namespace { source, hint: hint() })?;
    let veth = |error: crate::Error| Missing::Veth { reason: error.to_string() };
    let host = Host::new("probe").map_err(veth)?;
    link(&host, "a", &host, "b", &LinkOptions::default()).map_err(veth)?;
    let socket = |reason: String| Missing::Socket { reason };
    crate::capture::Capture::start(&host, "a").map_err(|error| socket(error.to_string()))?;
    Ok(())
}

/// The system settings that are known to forbid user namespaces.
fn hint() -> String {
    let switches = [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts user namespaces"),
        ("kernel/unprivileged_userns_clone", "0", "unprivileged user namespaces are switched off"),
        ("user/max_user_namespaces", "0", "user namespaces are switched off"),
        ("user/max_net_namespaces", "0", "network namespaces are switched off"),
    ];
    let set = |key: &str, value: &str| {
        fs::read_to_string(format!("/proc/sys/{key}")).is_ok_and(|text| text.trim() == value)
    };
    let found = switches.iter().find(|(key, value, _)| set(key, value));
    found
        .map_or_else(String::new, |(key, value, meaning)| format!(": {meaning} (/proc/sys/{key} is {value})"))
}

/// Leaves a test that cannot run here, with the line `not run: NAME: REASON` on standard error.
///
/// The argument is a `Result` whose error says what is missing: [`privilege::check()`](crate::privilege::check) or
/// [`uml::available()`](crate::uml::available).
///
/// ```no_run
/// # fn a_test() {
/// greway_testbed::require!(greway_testbed::privilege::check());
/// # }
/// ```
#[macro_export]
macro_rules! require {
    ($check:expr) => {
        if let Err(reason) = $check {
            fn here() {}
            let name = std::any::type_name_of_val(&here);
            eprintln!("not run: {}: {reason}", name.trim_end_matches("::here"));
            return;
        }
    };
}
