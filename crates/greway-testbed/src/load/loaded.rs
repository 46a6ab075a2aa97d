//! Round trips while a TCP stream takes all that a path gives: what a bulk transfer does to everybody else's packets.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::round_trip::pinger;
use super::tcp::{TcpRate, tcp};
use super::{RoundTrips, Way, Window, inside};
use crate::Error;

/// Between an answer and the next request: few enough not to be a load themselves.
const PACE: Duration = Duration::from_millis(2);

/// Pings `way.address` while one TCP stream goes to `bulk`, another address of the same host or the same one. Pings begin
/// with the window and end with it.
///
/// # Errors
/// Those of [`tcp`] and [`super::round_trips`].
pub fn loaded(way: &Way<'_>, bulk: IpAddr, window: Window) -> Result<(RoundTrips, TcpRate), Error> {
    let stream = Way { from: way.from, to: way.to, address: bulk };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let carried = scope.spawn(|| {
            let carried = tcp(&stream, 1, window, &[]);
            over.store(true, Ordering::Relaxed);
            carried
        });
        let trips = inside(way.from, "sender", || {
            thread::sleep(window.warm_up);
            let mut pinger = pinger(way.address)?;
            while !over.load(Ordering::Relaxed) && pinger.once()? {
                thread::sleep(PACE);
            }
            Ok(pinger.report())
        });
        let carried = carried.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((trips?, carried?))
    })
}
