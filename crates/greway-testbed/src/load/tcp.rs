//! One TCP stream, as fast as it goes. The kernel's defaults, since those are what people have: its congestion
//! control, its own sizing of buffers, 128 KiB a call as iperf3 has it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use rustix::event::PollFlags;

use super::{Counter, PATIENCE, Rate, Way, Window, both, dead, inside, ready};
use crate::Error;

/// Bytes a call, in both directions.
const BLOCK: usize = 128 * 1024;

/// Bytes of payload that arrive in a window.
///
/// # Errors
/// [`Error::System`] when a socket fails, [`Error::TimedOut`] when nothing arrives for five seconds.
pub fn tcp(way: &Way<'_>, window: Window) -> Result<Rate, Error> {
    let listener = inside(way.to, "receiver", || {
        TcpListener::bind(SocketAddr::new(way.address, 0)).map_err(Error::system("receiver", "listen"))
    })?;
    let address = listener.local_addr().map_err(Error::system("receiver", "read its address"))?;
    let (_, rate) = both(way, || send(address), || receive(way, &listener, window))?;
    Ok(rate)
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

fn receive(way: &Way<'_>, listener: &TcpListener, window: Window) -> Result<Rate, Error> {
    let failed = |action| Error::system("receiver", action);
    if !ready(listener, PollFlags::IN, PATIENCE).map_err(failed("wait for the connection"))? {
        return Err(dead(way, "a TCP connection"));
    }
    let (mut stream, _) = listener.accept().map_err(failed("accept the connection"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed("set a timeout"))?;
    let mut buffer = vec![0; BLOCK];
    let mut counter = Counter::new(window);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(dead(way, "the rest of a TCP stream")),
            Ok(length) => {
                if let Some(rate) = counter.arrived(length as u64, Instant::now()) {
                    return Ok(rate);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(dead(way, "more of a TCP stream"));
            }
            Err(error) => return Err(failed("read from the connection")(error)),
        }
    }
}
