//! Waiting for descriptors, and waking a thread that waits.
//!
//! Level-triggered only: a worker that leaves packets in a socket is woken again, so a bounded
//! batch loses nothing. Descriptors are named by a number of the caller's choosing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll;
use rustix::event::{EventfdFlags, Timespec};

/// What to wait for. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Readable,
    /// Room to write.
    Writable,
    /// Either.
    Both,
    /// Errors and hang-ups alone.
    ErrorsOnly,
}

/// One descriptor that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number it was added with.
    pub token: u64,
    /// There is something to read.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// An error waits: for raw sockets, look at the error queue.
    pub error: bool,
    /// The other end is gone.
    pub hang_up: bool,
}

/// A set of descriptors to wait for (epoll(7)).
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

/// Room for the events of one wait.
pub struct Events {
    buffer: Vec<epoll::Event>,
    filled: usize,
}

impl Events {
    /// Room for `capacity` events, at least one; more that are ready are reported by the next wait.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let empty = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        Self { buffer: vec![empty; capacity.max(1)], filled: 0 }
    }

    /// What the last wait found.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.buffer[..self.filled].iter().map(|event| {
            let flags = event.flags;
            Event {
                token: event.data.u64(),
                readable: flags.contains(epoll::EventFlags::IN),
                writable: flags.contains(epoll::EventFlags::OUT),
                error: flags.contains(epoll::EventFlags::ERR),
                hang_up: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::RDHUP),
            }
        })
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    ///
    /// What epoll_create1(2) says: out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Adds a descriptor. It leaves the set by [`Poller::remove`], or when its last copy is closed.
    ///
    /// # Errors
    ///
    /// `EEXIST` when it is in the set, `EPERM` when it cannot be waited for.
    pub fn add(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(token), flags(interest))?)
    }

    /// Changes what to wait for, or the number.
    ///
    /// # Errors
    ///
    /// `ENOENT` when it is not in the set.
    pub fn modify(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, source, epoll::EventData::new_u64(token), flags(interest))?)
    }

    /// Takes a descriptor out.
    ///
    /// # Errors
    ///
    /// `ENOENT` when it is not in the set.
    pub fn remove(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, source)?)
    }

    /// Waits until something is ready or `timeout` is over (`None`: for ever) and returns how many
    /// events there are. A signal ends the wait with none.
    ///
    /// # Errors
    ///
    /// What epoll_wait(2) says.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<usize> {
        // Rounded up, so that a wait for a deadline does not end before it and spin.
        let timeout = timeout.map(|timeout| {
            let millis = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64;
            Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 }
        });
        events.filled = 0;
        match epoll::wait(&self.epoll, &mut events.buffer[..], timeout.as_ref()) {
            Ok(filled) => events.filled = filled,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events.filled)
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Ends another thread's wait (eventfd(2)). Waking twice before the other thread looks is one wake-up.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
}

impl Waker {
    /// A waker to be added to a [`Poller`] with [`Interest::Readable`].
    ///
    /// # Errors
    ///
    /// What eventfd(2) says: out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Wakes. Cannot fail in a way that matters: a full counter is a wake-up already on its way.
    pub fn wake(&self) {
        let _already_awake = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Goes back to sleep; returns whether somebody had woken it.
    pub fn drain(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.fd, &mut count).is_ok()
    }

    /// Another handle on the same waker, for another thread.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    match interest {
        Interest::Readable => epoll::EventFlags::IN,
        Interest::Writable => epoll::EventFlags::OUT,
        Interest::Both => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        Interest::ErrorsOnly => epoll::EventFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_wakes_until_it_is_drained() {
        let poller = Poller::new().unwrap();
        let waker = Waker::new().unwrap();
        let mut events = Events::with_capacity(4);
        poller.add(&waker, 7, Interest::Readable).unwrap();
        assert_eq!(poller.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
        waker.try_clone().unwrap().wake();
        waker.wake();
        assert_eq!(poller.wait(&mut events, None).unwrap(), 1);
        let event = events.iter().next().unwrap();
        assert!(event.token == 7 && event.readable && !event.writable && !event.error && !event.hang_up);
        assert!(waker.drain() && !waker.drain());
        assert_eq!(poller.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
        assert_eq!(events.iter().count(), 0);
        poller.remove(&waker).unwrap();
        assert_eq!(poller.remove(&waker).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }
}
