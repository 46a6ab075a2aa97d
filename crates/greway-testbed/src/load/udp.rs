//! Datagrams of one size, as many as go, and how many of them arrive.
//!
//! A batch a call takes the sender's own system calls out of the figure, a call a datagram is what most programs do; the
//! receiver always takes batches. Neither end looks at a datagram.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use greway_linux::batch::{Control, ReceiveBatch, SendStorage, Target};
use greway_linux::sockopt;
use rustix::event::PollFlags;

use super::{Counter, PATIENCE, Rate, Way, Window, both, dead, inside, ready};
use crate::Error;

/// Datagrams a call.
pub(super) const BATCH: usize = 64;
/// Of the receiver: as much as it takes not to be the one that loses, and no more than a program would ask for.
const RECEIVE_BUFFER: usize = 4 << 20;

/// No measurement goes on for longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Between two looks of the receiver; its buffer holds ten times what comes meanwhile.
const PAUSE: Duration = Duration::from_micros(200);

/// How datagrams are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// 64 a call (sendmmsg).
    Batches,
    /// One a call (sendto).
    Singly,
}

/// What a path took and what it carried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UdpRate {
    /// What the kernel took from the sender, until the window was over.
    pub sent: Rate,
    /// What arrived in the window.
    pub received: Rate,
}

/// Datagrams with `size` bytes of payload that arrive in a window.
///
/// # Errors
/// [`Error::System`] when a socket fails, [`Error::TimedOut`] when nothing arrives for five seconds.
pub fn udp(way: &Way<'_>, size: usize, sending: Sending, window: Window) -> Result<UdpRate, Error> {
    let receiver = receiver(way, RECEIVE_BUFFER)?;
    let address = receiver.local_addr().map_err(Error::system("receiver", "read its address"))?;
    // Until the receiver has enough, or has given up.
    let over = AtomicBool::new(false);
    let receive = || {
        let received = receive(way, &receiver, size, window);
        over.store(true, Ordering::Relaxed);
        received
    };
    let (sent, received) = both(way, || send(address, size, sending, &over), receive)?;
    Ok(UdpRate { sent, received })
}

/// A socket of the receiver with room for `buffer` bytes.
pub(super) fn receiver(way: &Way<'_>, buffer: usize) -> Result<UdpSocket, Error> {
    inside(way.to, "receiver", || {
        let socket = UdpSocket::bind(SocketAddr::new(way.address, 0))
            .map_err(Error::system("receiver", "open a UDP socket"))?;
        sockopt::set_receive_buffer(&socket, buffer).map_err(Error::system("receiver", "set its buffer"))?;
        Ok(socket)
    })
}

/// A socket of the sender, to be called inside its namespace.
pub(super) fn sender(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Ok(socket)
}

fn send(address: SocketAddr, size: usize, sending: Sending, over: &AtomicBool) -> Result<Rate, Error> {
    let failed = |action| Error::system("sender", action);
    let socket = sender(address).map_err(failed("open a UDP socket"))?;
    let data = vec![0x5a; size];
    let begin = Instant::now();
    let mut count = 0;
    let mut storage = SendStorage::new(BATCH);
    // A receiver that could not begin ends nothing.
    while !over.load(Ordering::Relaxed) && begin.elapsed() < LONGEST {
        count += match sending {
            // So many between two looks.
            Sending::Singly => (0..BATCH).filter(|_| socket.send(&data).is_ok()).count(),
            Sending::Batches => send_batch(&socket, &mut storage, &data).map_err(failed("send"))?,
        } as u64;
    }
    Ok(Rate { count, elapsed: begin.elapsed() })
}

/// Sends a full batch; how many the kernel took. One that it refuses (an ICMP error of an earlier one, a full queue)
/// is lost, as for any program.
fn send_batch(socket: &UdpSocket, storage: &mut SendStorage, data: &[u8]) -> io::Result<usize> {
    let mut batch = storage.start();
    while batch.push(&[data], Target::Connected, Control::NONE).is_ok() {}
    let mut sent = 0;
    loop {
        let outcome = batch.send(socket, |_, _| {});
        sent += outcome.sent;
        if outcome.pending == 0 {
            return Ok(sent);
        }
        if !ready(socket, PollFlags::OUT, PATIENCE)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Looks every [`PAUSE`] and sleeps in between, so that nobody has to wake it: with a receiver that waits in poll(2) the
/// sender's processor would spend half of its time on that, whatever lies between the two.
fn receive(way: &Way<'_>, socket: &UdpSocket, size: usize, window: Window) -> Result<Rate, Error> {
    let mut batch = ReceiveBatch::new(BATCH, size.max(1), 0);
    let mut counter = Counter::new(window);
    let mut last = Instant::now();
    loop {
        let count = batch.recv(socket).map_err(Error::system("receiver", "receive"))?;
        let now = Instant::now();
        if count > 0 {
            last = now;
        } else if now - last > PATIENCE {
            return Err(dead(way, "a datagram"));
        } else {
            thread::sleep(PAUSE);
        }
        if last == now
            && let Some(rate) = counter.arrived(count as u64, now)
        {
            return Ok(rate);
        }
    }
}
