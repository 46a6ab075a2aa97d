//! TCP streams, as fast as they go. The kernel's defaults, since those are what people have: its congestion
//! control, its own sizing of buffers, 128 KiB a call as iperf3 has it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use rustix::event::PollFlags;

use super::cpu::{Clocks, Spent};
use super::{PATIENCE, Rate, Way, Window, both, dead, inside, ready};
use crate::{Error, poll_until};

/// Bytes a call, in both directions.
const BLOCK: usize = 128 * 1024;

/// What streams carried, and at what price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TcpRate {
    /// Bytes of payload that arrived in the window, of all streams.
    pub received: Rate,
    /// Processor time over the window.
    pub spent: Spent,
}

/// Bytes of payload that arrive in a window by so many streams at once, and what that costs this machine and these
/// `processes`. The window begins with the first byte of any.
///
/// # Errors
/// [`Error::System`] when a socket fails, [`Error::TimedOut`] when nothing arrives for five seconds, or nothing within
/// the window.
pub fn tcp(way: &Way<'_>, streams: usize, window: Window, processes: &[u32]) -> Result<TcpRate, Error> {
    let listener = inside(way.to, "receiver", || {
        TcpListener::bind(SocketAddr::new(way.address, 0)).map_err(Error::system("receiver", "listen"))
    })?;
    let address = listener.local_addr().map_err(Error::system("receiver", "read its address"))?;
    let send = || {
        thread::scope(|scope| {
            let senders: Vec<_> = (0..streams).map(|_| scope.spawn(|| send(address))).collect();
            senders.into_iter().try_for_each(|sender| join(sender))
        })
    };
    let (_, rate) = both(way, send, || receive(way, &listener, streams, window, processes))?;
    Ok(rate)
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Sends until the receiver has enough.
fn send(address: SocketAddr) -> Result<(), Error> {
    let failed = |action| Error::system("sender", action);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed("connect"))?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed("set a timeout"))?;
    let block = vec![0x5a; BLOCK];
    loop {
        match stream.write(&block) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Closed by the receiver; or stuck, and then the receiver says so.
            Err(_) => return Ok(()),
        }
    }
}

/// A thread for each stream counts what comes; this one only looks at the clock, twice.
fn receive(
    way: &Way<'_>,
    listener: &TcpListener,
    count: usize,
    window: Window,
    processes: &[u32],
) -> Result<TcpRate, Error> {
    let failed = |action| Error::system("receiver", action);
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        if !ready(listener, PollFlags::IN, PATIENCE).map_err(failed("wait for the connection"))? {
            return Err(dead(way, "a TCP connection"));
        }
        let (stream, _) = listener.accept().map_err(failed("accept the connection"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed("set a timeout"))?;
        streams.push(stream);
    }
    let total = AtomicU64::new(0);
    thread::scope(|scope| {
        let readers: Vec<_> = streams.iter().map(|stream| scope.spawn(|| drain(stream, &total))).collect();
        let measured = measure(way, &total, window, processes);
        // What wakes the readers, and ends the senders.
        streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        readers.into_iter().for_each(join);
        measured
    })
}

fn measure(way: &Way<'_>, total: &AtomicU64, window: Window, processes: &[u32]) -> Result<TcpRate, Error> {
    let count = || total.load(Ordering::Relaxed);
    let what = format!("the first byte of a TCP stream at {}", way.address);
    poll_until(PATIENCE, &what, || (count() > 0).then_some(()))?;
    thread::sleep(window.warm_up);
    let (clocks, begin, before) = (Clocks::now(processes), Instant::now(), count());
    thread::sleep(window.length);
    let (elapsed, after) = (begin.elapsed(), count());
    let spent = Clocks::now(processes).since(&clocks);
    if after == before {
        return Err(dead(way, "more of a TCP stream"));
    }
    Ok(TcpRate { received: Rate { count: after - before, elapsed }, spent })
}

/// Reads and counts until the stream ends, in whatever way: the one who counts sees that nothing comes.
fn drain(mut stream: &TcpStream, total: &AtomicU64) {
    let mut buffer = vec![0; BLOCK];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                total.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
