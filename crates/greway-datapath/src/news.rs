//! What the data plane hears about the way to a peer that whoever carries packets beside it has to know (T18): a program
//! in the kernel sees no ICMP.
//!
//! News is kept until it is taken, each piece once: a flood of messages makes no more of it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use greway_linux::event::Waker;
use greway_spec::DeviceName;

/// Something heard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// Somebody on the way said that packets to this remote are too large for it (ER-02).
    PathMtu {
        /// The far end.
        remote: IpAddr,
    },
    /// An error about a tunnel's packets counts against the next ones that it sends (ER-04).
    Unreachable {
        /// The tunnel.
        name: DeviceName,
        /// How many packets are to be seen by the data plane.
        packets: u32,
    },
}

/// What is not taken yet, and how whoever takes it is woken.
#[derive(Clone, Debug)]
pub(crate) struct Newsroom {
    waiting: Arc<Mutex<BTreeSet<News>>>,
    wake: Arc<Waker>,
}

/// Most pieces that wait: there are no more tunnels, and what is forgotten is heard again.
const MOST: usize = 1_024;

impl Newsroom {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { waiting: Arc::default(), wake: Arc::new(Waker::new()?) })
    }

    pub(crate) fn tell(&self, news: News) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MOST && waiting.insert(news) {
            self.wake.wake();
        }
    }

    pub(crate) fn take(&self) -> BTreeSet<News> {
        self.wake.drain();
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.wake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t18_a_flood_is_one_piece_of_news_until_it_is_taken() {
        let room = Newsroom::new().unwrap();
        let remote: IpAddr = [192, 0, 2, 2].into();
        (0..10_000).for_each(|_| room.tell(News::PathMtu { remote }));
        room.tell(News::Unreachable { name: "tun0".parse().unwrap(), packets: 1 });
        assert_eq!(room.take().len(), 2);
        assert!(room.take().is_empty());
        room.tell(News::PathMtu { remote });
        assert_eq!(room.take().into_iter().collect::<Vec<_>>(), [News::PathMtu { remote }]);
        (0..MOST as u32 + 9)
            .for_each(|host| room.tell(News::PathMtu { remote: IpAddr::from(host.to_be_bytes()) }));
        assert_eq!(room.take().len(), MOST);
    }
}
