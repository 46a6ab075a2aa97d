//! TCP between two hosts, checked byte for byte at the receiver.
//!
//! [`transfer`] moves a bulk once; [`TcpPair`] keeps one connection for as long as a test needs it ("TCP
//! connections live on"). Every wait has a deadline: a tunnel that swallows packets fails the test and does not
//! hang it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::pattern::{BLOCK, Digest, Pattern};
use crate::{Deadline, Error, Host};

/// What became of a bulk transfer.
#[derive(Debug, Clone)]
pub struct TransferReport {
    /// Bytes that arrived.
    pub bytes: u64,
    /// From the accepted connection to the last byte, at the receiver.
    pub elapsed: Duration,
    /// FNV-1a (64-bit words) of what was sent.
    pub sent_digest: u64,
    /// FNV-1a (64-bit words) of what arrived.
    pub received_digest: u64,
    /// The first byte that is not what was sent, from 0.
    pub first_difference: Option<u64>,
}

impl TransferReport {
    /// Whether everything arrived as it was sent: compared byte for byte, and by digest.
    pub fn intact(&self) -> bool {
        self.first_difference.is_none() && self.sent_digest == self.received_digest
    }

    /// The rate in bits a second of the TCP payload.
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Sends `bytes` bytes of a deterministic stream from `from` to a listener that `to` opens on `address` (port 0:
/// any), and checks them there.
///
/// # Errors
/// [`Error::System`] when a socket fails, [`Error::TimedOut`] when not everything has arrived `within` the time.
/// Bytes that arrive but are wrong are no error: see [`TransferReport::intact`].
pub fn transfer(
    from: &Host,
    to: &Host,
    address: SocketAddr,
    bytes: u64,
    within: Duration,
) -> Result<TransferReport, Error> {
    let deadline = Deadline::within(within);
    let listener = listen(to, address)?;
    let address = local_address(to, &listener)?;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let stream = accept(to, &listener, deadline)?;
            receive_checked(to.name(), stream, deadline)
        });
        let sent = connect(from, address, deadline)
            .and_then(|stream| send_pattern(from.name(), stream, bytes, deadline));
        let received = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let sent_digest = sent?;
        let received = received?;
        if received.bytes < bytes && received.first_difference.is_none() {
            let what = format!("arrival of {bytes} bytes at {} (got {})", to.name(), received.bytes);
            return Err(deadline.missed(what));
        }
        Ok(TransferReport { sent_digest, ..received })
    })
}

/// One TCP connection between two hosts, through which a test sends step by step.
#[derive(Debug)]
pub struct TcpPair {
    names: [String; 2],
    ends: [TcpStream; 2],
    patterns: [Pattern; 2],
    sent: [u64; 2],
}

/// A direction of a [`TcpPair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the host that connected to the one that listened.
    Forth,
    /// The other way.
    Back,
}

impl TcpPair {
    /// Connects `from` to a listener that `to` opens on `address` (port 0: any).
    ///
    /// # Errors
    /// [`Error::System`] or [`Error::TimedOut`].
    pub fn connect(from: &Host, to: &Host, address: SocketAddr, within: Duration) -> Result<Self, Error> {
        let deadline = Deadline::within(within);
        let listener = listen(to, address)?;
        let address = local_address(to, &listener)?;
        let near = connect(from, address, deadline)?;
        let far = accept(to, &listener, deadline)?;
        for (host, stream) in [(from, &near), (to, &far)] {
            stream.set_nodelay(true).map_err(Error::system(host.name(), "set TCP_NODELAY"))?;
        }
        Ok(Self {
            names: [from.name().to_owned(), to.name().to_owned()],
            ends: [near, far],
            patterns: [Pattern::new(1), Pattern::new(2)],
            sent: [0; 2],
        })
    }

    /// Sends the next `bytes` bytes of a direction's stream and waits until all are there and are right.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when they do not arrive `within` the time, [`Error::Corrupted`] when others do,
    /// [`Error::System`] when the connection breaks. After an error the pair is of no more use.
    pub fn send(&mut self, direction: Direction, bytes: usize, within: Duration) -> Result<(), Error> {
        let deadline = Deadline::within(within);
        let (source, target) = match direction {
            Direction::Forth => (0, 1),
            Direction::Back => (1, 0),
        };
        let offset = self.sent[source];
        let mut data = vec![0; bytes];
        self.patterns[source].fill(offset, &mut data);
        let mut arrived = vec![0; bytes];
        let (names, ends) = (&self.names, &self.ends);
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_all(&names[source], &ends[source], &data, deadline));
            let read = read_full(&names[target], &ends[target], &mut arrived, deadline);
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            match read? {
                length if length == bytes => Ok(()),
                length => Err(Error::System {
                    object: names[target].clone(),
                    action: format!("read {bytes} bytes, the connection closed after {length}"),
                    source: io::ErrorKind::UnexpectedEof.into(),
                }),
            }
        })?;
        self.sent[source] += bytes as u64;
        match self.patterns[source].difference(offset, &arrived) {
            None => Ok(()),
            Some(offset) => Err(Error::Corrupted { object: self.names[target].clone(), offset }),
        }
    }

    /// Sends `bytes` bytes forth and then back.
    ///
    /// # Errors
    /// As [`TcpPair::send`].
    pub fn exchange(&mut self, bytes: usize, within: Duration) -> Result<(), Error> {
        self.send(Direction::Forth, bytes, within)?;
        self.send(Direction::Back, bytes, within)
    }
}

/// Opens a listener inside `host`.
pub(crate) fn listen(host: &Host, address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = host
        .run(|| TcpListener::bind(address))?
        .map_err(Error::system(host.name(), format!("listen on {address}")))?;
    listener.set_nonblocking(true).map_err(Error::system(host.name(), "make the listener non-blocking"))?;
    Ok(listener)
}

/// The address a listener is bound to.
pub(crate) fn local_address(host: &Host, listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(Error::system(host.name(), "read the listener's address"))
}

/// Waits for the listener's first connection.
pub(crate) fn accept(host: &Host, listener: &TcpListener, deadline: Deadline) -> Result<TcpStream, Error> {
    wait_readable(listener, deadline)
        .map_err(Error::system(host.name(), "wait for a connection"))?
        .then_some(())
        .ok_or_else(|| deadline.missed(format!("a TCP connection to {}", host.name())))?;
    let (stream, _) = listener.accept().map_err(Error::system(host.name(), "accept a connection"))?;
    stream.set_nonblocking(false).map_err(Error::system(host.name(), "make the connection blocking"))?;
    Ok(stream)
}

/// Sends `bytes` bytes of the pattern and closes; gives the digest of what was sent.
pub(crate) fn send_pattern(
    name: &str,
    stream: TcpStream,
    bytes: u64,
    deadline: Deadline,
) -> Result<u64, Error> {
    let mut pattern = Pattern::new(1);
    let mut digest = Digest::default();
    let mut offset = 0;
    while offset < bytes {
        let length = (bytes - offset).min(BLOCK as u64) as usize;
        let block = &pattern.block(offset / BLOCK as u64)[..length];
        digest.update(block);
        write_all(name, &stream, block, deadline)?;
        offset += length as u64;
    }
    stream.shutdown(std::net::Shutdown::Write).map_err(Error::system(name, "close the stream"))?;
    Ok(digest.value())
}

/// Reads to the end and compares with the pattern; `sent_digest` is left 0 for the caller to fill.
pub(crate) fn receive_checked(
    name: &str,
    stream: TcpStream,
    deadline: Deadline,
) -> Result<TransferReport, Error> {
    let started = Instant::now();
    let mut pattern = Pattern::new(1);
    let mut digest = Digest::default();
    let mut buffer = vec![0; BLOCK];
    let mut bytes = 0;
    let mut first_difference = None;
    loop {
        // Whole blocks, so that the digest sees the same pieces as the sender's.
        let length = read_full(name, &stream, &mut buffer, deadline)?;
        digest.update(&buffer[..length]);
        first_difference = first_difference.or_else(|| pattern.difference(bytes, &buffer[..length]));
        bytes += length as u64;
        if length < BLOCK {
            break;
        }
    }
    Ok(TransferReport {
        bytes,
        elapsed: started.elapsed(),
        sent_digest: 0,
        received_digest: digest.value(),
        first_difference,
    })
}

fn connect(host: &Host, address: SocketAddr, deadline: Deadline) -> Result<TcpStream, Error> {
    let allowed = deadline.remaining().max(Duration::from_millis(1));
    host.run(|| TcpStream::connect_timeout(&address, allowed))?.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => deadline.missed(format!("{}: a TCP connection to {address}", host.name())),
        _ => Error::system(host.name(), format!("connect to {address}"))(error),
    })
}

/// Reads until the buffer is full or the stream ends; gives the bytes read.
fn read_full(
    name: &str,
    mut stream: &TcpStream,
    buffer: &mut [u8],
    deadline: Deadline,
) -> Result<usize, Error> {
    let mut done = 0;
    while done < buffer.len() {
        let missed = || deadline.missed(format!("{name}: arrival of the next bytes"));
        stream
            .set_read_timeout(Some(left(deadline, missed)?))
            .map_err(Error::system(name, "set a timeout"))?;
        match stream.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(error) if again(&error) => {}
            Err(error) => return Err(Error::system(name, "read from the connection")(error)),
        }
    }
    Ok(done)
}

fn write_all(name: &str, mut stream: &TcpStream, data: &[u8], deadline: Deadline) -> Result<(), Error> {
    let mut done = 0;
    while done < data.len() {
        let missed = || deadline.missed(format!("{name}: room to send the next bytes"));
        stream
            .set_write_timeout(Some(left(deadline, missed)?))
            .map_err(Error::system(name, "set a timeout"))?;
        match stream.write(&data[done..]) {
            Ok(length) => done += length,
            Err(error) if again(&error) => {}
            Err(error) => return Err(Error::system(name, "write to the connection")(error)),
        }
    }
    Ok(())
}

fn left(deadline: Deadline, missed: impl FnOnce() -> Error) -> Result<Duration, Error> {
    match deadline.remaining() {
        Duration::ZERO => Err(missed()),
        left => Ok(left),
    }
}

/// A timeout of the socket or a signal: the loop looks at its own deadline.
fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Waits until `fd` can be read; `false` when the deadline passes first.
pub(crate) fn wait_readable(fd: impl std::os::fd::AsFd, deadline: Deadline) -> io::Result<bool> {
    loop {
        let left = deadline.remaining();
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if deadline.passed() => return Ok(false),
            Ok(0) => {}
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
