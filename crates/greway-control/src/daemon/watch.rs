//! Following the kernel: what changes on the host is acted on when it happens, not when somebody
//! asks.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use greway_linux::event::{Events, Interest, Poller};
use greway_netlink::{Event, Monitor, NetlinkError, Sources};

use super::host::Host;
use super::{Ended, locked};
use crate::sd_notify::Heart;

/// All that decides over packets – base chains, iptables-legacy tables, IPsec policies – is looked at when
/// the kernel tells of a change, and this often: iptables-legacy tells nobody, and neither does an IPsec
/// policy where its socket cannot be had, nor a data plane that has died.
const LOOK: Duration = Duration::from_millis(500);

/// `rp_filter` tells nobody either; every device is asked for it.
const LOOK_BACK: Duration = Duration::from_secs(2);

/// Starts the thread. `end` is told when the daemon cannot go on, and `heart` beats as long as this thread comes
/// round, the lock of the host is had, and the data plane answers.
pub(super) fn start(host: Arc<Mutex<Host>>, end: Sender<Ended>, heart: Heart) -> io::Result<()> {
    let monitor = open().map_err(io::Error::other)?;
    let poller = Poller::new()?;
    poller.add(&monitor, 0, Interest::Readable)?;
    let news = locked(&host).datapath.news_waker();
    poller.add(news.as_ref(), 1, Interest::Readable)?;
    let follow = move || {
        if follow(&monitor, &poller, &host, &heart) == Followed::Broken {
            // Nobody listens when the daemon ends already.
            let _ = end.send(Ended::Broken);
        }
    };
    thread::Builder::new().name("watch".into()).spawn(follow).map(drop)
}

/// All sources where they can be had; links and addresses in any case.
fn open() -> Result<Monitor, NetlinkError> {
    Monitor::open(Sources { firewall: true, xfrm: true })
        .or_else(|_| Monitor::open(Sources { firewall: true, xfrm: false }))
        .or_else(|_| Monitor::open(Sources::default()))
}

/// Why the host is no longer followed.
#[derive(Debug, PartialEq, Eq)]
enum Followed {
    /// The daemon ends.
    Enough,
    /// It cannot go on, and whoever supervises it should start another.
    Broken,
}

fn follow(monitor: &Monitor, poller: &Poller, host: &Mutex<Host>, heart: &Heart) -> Followed {
    let mut events = Events::with_capacity(2);
    let mut looked = Instant::now();
    let mut looked_back = Instant::now();
    // Whatever happened since the tunnels were taken over and before the subscription.
    let mut unseen = vec![Event::Overrun];
    let mut wait = LOOK;
    loop {
        if let Err(error) = poller.wait(&mut events, Some(wait)) {
            tracing::error!(%error, "the host is no longer followed");
            return Followed::Broken;
        }
        let happened = monitor.drain().unwrap_or_else(|error| {
            tracing::warn!(%error, "notifications of the kernel were lost");
            vec![Event::Overrun]
        });
        let happened = std::mem::take(&mut unseen).into_iter().chain(happened);
        let mut host = locked(host);
        if host.ending {
            return Followed::Enough;
        }
        if !host.datapath.is_alive() {
            tracing::error!("the data plane has died");
            return Followed::Broken;
        }
        // A data plane that hangs keeps us here, and no heartbeat is given.
        if heart.is_due() && host.datapath.strangers().is_ok() {
            heart.beat();
        }
        heart.status(&host.at_a_glance());
        if host.fast.beat() {
            host.look_at_neighbours();
        }
        host.heed_news();
        if host.fast.is_behind() {
            host.follow_fast_path();
        }
        let mut rules = looked.elapsed() >= LOOK;
        let mut addresses = false;
        let mut ways = false;
        let mut own = BTreeSet::new();
        // A changed `rp_filter` tells nobody; a changed route tells at once.
        let mut routes = looked_back.elapsed() >= LOOK_BACK;
        for event in happened {
            match event {
                Event::LinkRemoved { index, .. } => {
                    host.device_removed(index);
                    ways = true;
                }
                Event::LinkChanged { index, name, .. } => {
                    host.device_changed(index);
                    host.underlay_changed(&name);
                    // What happens to a tunnel's own pair concerns no other tunnel, unless one leads through it.
                    match host.tunnel_of_device(index) {
                        Some(name) if host.all_ways_are_known() => drop(own.insert(name)),
                        _ => ways = true,
                    }
                }
                Event::Address { .. } => addresses = true,
                Event::Firewall => {
                    rules = true;
                    host.fast.witnesses.hurry();
                    if host.nftables.is_none() {
                        // The kernel has loaded its module since.
                        host.open_nftables();
                    }
                }
                Event::Xfrm => rules = true,
                Event::Overrun => {
                    addresses = true;
                    rules = true;
                    ways = true;
                    host.devices_gone();
                    host.underlay_unknown();
                }
                // What is sent goes by the kernel's own routing; these are for what comes in.
                Event::Route | Event::Rule => {
                    routes = true;
                    ways = true;
                }
                _ => {}
            }
        }
        if addresses {
            host.look_at_addresses();
        }
        if routes || addresses {
            host.look_at_reverse_paths();
            host.look_at_forwarding();
            looked_back = Instant::now();
        }
        if ways {
            host.look_at_mtus();
        }
        if ways || addresses || routes {
            host.look_at_places();
            host.look_at_steering();
        } else {
            own.iter().for_each(|name| host.look_at_place(name));
        }
        if rules {
            host.look_at_rules();
            looked = Instant::now();
        }
        wait = host.open_fast_path().unwrap_or(LOOK);
    }
}
