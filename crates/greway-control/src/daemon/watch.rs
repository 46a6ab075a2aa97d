//! Following the kernel: what changes on the host is acted on when it happens, not when somebody
//! asks.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use greway_linux::event::{Events, Interest, Poller};
use greway_netlink::{Event, Monitor, NetlinkError, Sources};

use super::host::Host;
use super::locked;

/// iptables-legacy tells nobody of a change, and neither does an IPsec policy where its socket
/// cannot be had: looked at this often.
const LOOK: Duration = Duration::from_millis(500);

/// Starts the thread.
pub(super) fn start(host: Arc<Mutex<Host>>) -> io::Result<()> {
    let monitor = open().map_err(io::Error::other)?;
    let poller = Poller::new()?;
    poller.add(&monitor, 0, Interest::Readable)?;
    thread::Builder::new().name("watch".into()).spawn(move || follow(&monitor, &poller, &host)).map(drop)
}

/// All sources where they can be had; links and addresses in any case.
fn open() -> Result<Monitor, NetlinkError> {
    Monitor::open(Sources { firewall: true, xfrm: true })
        .or_else(|_| Monitor::open(Sources { firewall: true, xfrm: false }))
        .or_else(|_| Monitor::open(Sources::default()))
}

fn follow(monitor: &Monitor, poller: &Poller, host: &Mutex<Host>) {
    let mut events = Events::with_capacity(1);
    let mut looked = Instant::now();
    loop {
        if let Err(error) = poller.wait(&mut events, Some(LOOK)) {
            tracing::error!(%error, "the host is no longer followed");
            return;
        }
        let happened = monitor.drain().unwrap_or_else(|error| {
            tracing::warn!(%error, "notifications of the kernel were lost");
            vec![Event::Overrun]
        });
        let mut host = locked(host);
        let mut rules = looked.elapsed() >= LOOK;
        let mut addresses = false;
        for event in happened {
            match event {
                Event::LinkRemoved { index, .. } => host.device_removed(index),
                Event::LinkChanged { index, .. } => host.device_changed(index),
                Event::Address { .. } => addresses = true,
                Event::Firewall | Event::Xfrm => rules = true,
                Event::Overrun => {
                    addresses = true;
                    rules = true;
                    host.devices_gone();
                }
                // Routes are the kernel's to follow: what is sent goes by its own socket.
                _ => {}
            }
        }
        if addresses {
            host.look_at_addresses();
        }
        if rules {
            host.look_at_rules();
            looked = Instant::now();
        }
    }
}
