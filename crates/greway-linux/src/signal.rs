//! Signals as a descriptor, so that a thread that waits for packets or requests waits for them too.
//!
//! No handler runs: handlers interrupt code at any point, and what they may do is next to nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};

/// The signals that a daemon is spoken to with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End.
    Terminate,
    /// End, from the terminal.
    Interrupt,
    /// Read the configuration again, or the terminal is gone.
    HangUp,
    /// A child ended.
    Child,
    /// Ends a process that cannot refuse. Cannot be blocked or read.
    Kill,
}

impl Signal {
    pub(crate) const fn number(self) -> i32 {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Interrupt => libc::SIGINT,
            Self::HangUp => libc::SIGHUP,
            Self::Child => libc::SIGCHLD,
            Self::Kill => libc::SIGKILL,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        [Self::Terminate, Self::Interrupt, Self::HangUp, Self::Child]
            .into_iter()
            .find(|signal| signal.number() as u32 == number)
    }
}

/// Gives signals their default effect again. Ignored ones stay ignored across exec: a caller that ignores
/// SIGCHLD would leave us without the ends of our own children (wait(2): `ECHILD`).
///
/// # Errors
///
/// `EINVAL` for [`Signal::Kill`], whose effect cannot be changed.
pub fn restore_default(signals: &[Signal]) -> io::Result<()> {
    for signal in signals {
        // SAFETY: signal(2): SIG_DFL sets the default action; no handler of ours is ever installed, so
        // none is taken away from code that counts on it.
        if unsafe { libc::signal(signal.number(), libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Blocked signals, to be read one by one (signalfd(2)). Non-blocking.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks the signals in this thread and opens a descriptor for them. Threads inherit the block:
    /// call this before the first one is started, or a signal may still end the process. Child
    /// processes inherit it too: [`Signals::unblock_all`] belongs before `exec`.
    ///
    /// # Errors
    ///
    /// What signalfd(2) says; `EINVAL` for [`Signal::Kill`].
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        if signals.contains(&Signal::Kill) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let set = signal_set(signals)?;
        change_mask(libc::SIG_BLOCK, &set)?;
        Ok(Self { fd: open(&set)? })
    }

    /// Lets every signal through again in this thread.
    ///
    /// # Errors
    ///
    /// What pthread_sigmask(3) says.
    pub fn unblock_all() -> io::Result<()> {
        change_mask(libc::SIG_SETMASK, &signal_set(&[])?)
    }

    /// The next signal that came, `None` when none is left.
    ///
    /// # Errors
    ///
    /// What read(2) says.
    pub fn read(&self) -> io::Result<Option<Signal>> {
        // `struct signalfd_siginfo` is 128 bytes and begins with the signal's number.
        let mut record = [0; 128];
        match rustix::io::read(&self.fd, &mut record) {
            Ok(_whole) => Ok(Signal::from_number(crate::abi::word(&record, 0))),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn signal_set(signals: &[Signal]) -> io::Result<libc::sigset_t> {
    let mut set = empty_set()?;
    for signal in signals {
        // SAFETY: sigsetops(3): the set was initialised by sigemptyset, the number is a valid signal.
        crate::sockopt::done(unsafe { libc::sigaddset(&raw mut set, signal.number()) })?;
    }
    Ok(set)
}

fn empty_set() -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigsetops(3): "sigemptyset() initializes the signal set given by set to empty".
    crate::sockopt::done(unsafe { libc::sigemptyset(set.as_mut_ptr()) })?;
    // SAFETY: just initialised.
    Ok(unsafe { set.assume_init() })
}

fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: pthread_sigmask(3): reads the given set; "if oldset is NULL", nothing is written.
    match unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn open(set: &libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: signalfd(2): with fd -1 "the call creates a new file descriptor and associates the
    // signal set specified in mask with it"; the set is only read.
    let fd = unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    crate::sockopt::done(fd)?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
