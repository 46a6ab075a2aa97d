//! Following the kernel: what changes on the host is acted on when it happens, not when somebody
//! asks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use greway_linux::event::{Events, Interest, Poller};
use greway_linux::process;
use greway_netlink::{Event, Monitor, NetlinkError, Sources};

use super::host::Host;
use super::{Ended, locked};
use crate::sd_notify::Heart;

/// All that decides over packets – base chains, iptables-legacy tables, IPsec policies – is looked at when
/// the kernel tells of a change, and this often: iptables-legacy tells nobody, and neither does an IPsec
/// policy where its socket cannot be had, nor a data plane that has died.
const LOOK: Duration = Duration::from_millis(500);

/// Forwarding tells nobody either, and neither does a device that joins a VRF; and what was missed is seen then.
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
    Monitor::open(Sources { firewall: true, xfrm: true, neighbours: true })
        .or_else(|_| Monitor::open(Sources { firewall: true, xfrm: false, neighbours: true }))
        .or_else(|_| Monitor::open(Sources { neighbours: true, ..Sources::default() }))
}

/// Where nothing was told of, everything is looked at after so many times as long as that takes: of ten thousand
/// tunnels it takes half a second.
const SELDOM: u32 = 200;
/// A look is followed by a rest of so many times its length; short ones by none.
const REST: u32 = 3;
const SHORT: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(2);
/// What the kernel tells is taken this often meanwhile, or it would have to leave something out.
const STEP: Duration = Duration::from_millis(5);
/// What was put off is asked about this often.
const PUT_OFF: Duration = Duration::from_millis(50);

/// What happened, each thing once.
#[derive(Debug, Default)]
struct News {
    /// The last of each device: its name and MTU, or that it is gone.
    links: BTreeMap<u32, Option<(String, Option<u32>)>>,
    /// Whose reverse path filter is another.
    filters: BTreeSet<u32>,
    neighbours: BTreeSet<(u32, IpAddr)>,
    others: Vec<Event>,
}

impl News {
    fn of(events: Vec<Event>) -> Self {
        let mut news = Self::default();
        let same_kind = |a: &Event, b: &Event| std::mem::discriminant(a) == std::mem::discriminant(b);
        for event in events {
            match event {
                Event::LinkRemoved { index, .. } => drop(news.links.insert(index, None)),
                Event::LinkChanged { index, name, mtu, .. } => {
                    drop(news.links.insert(index, Some((name, mtu))));
                }
                Event::ReversePathFilter { index } => drop(news.filters.insert(index)),
                Event::Neighbour { index, address } => drop(news.neighbours.insert((index, address))),
                other if news.others.iter().any(|known| same_kind(known, &other)) => {}
                other => news.others.push(other),
            }
        }
        news
    }
}

/// Whether it may be that packets must not pass any more that do.
fn is_of_rules(event: &Event) -> bool {
    matches!(event, Event::Firewall | Event::Xfrm)
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
    let mut look_back = LOOK_BACK;
    // Whatever happened since the tunnels were taken over and before the subscription.
    let mut unseen = vec![Event::Overrun];
    let mut wait = LOOK;
    let mut rest = Instant::now();
    loop {
        if let Err(error) = poller.wait(&mut events, Some(wait)) {
            tracing::error!(%error, "the host is no longer followed");
            return Followed::Broken;
        }
        let happened = monitor.drain().unwrap_or_else(|error| {
            tracing::warn!(%error, "notifications of the kernel were lost");
            vec![Event::Overrun]
        });
        unseen.extend(happened);
        // Where a look takes long there is much to look at, and whatever makes so many changes has more of them. Rules hold
        // from the moment they are there, also those of which nobody tells.
        while Instant::now() < rest && looked.elapsed() < LOOK && !unseen.iter().any(is_of_rules) {
            // Told of something it looks at once whether that is a rule.
            let _ = poller.wait(&mut events, Some(STEP.min(rest.saturating_duration_since(Instant::now()))));
            unseen.extend(monitor.drain().unwrap_or_else(|_| vec![Event::Overrun]));
        }
        let mut host = locked(host);
        let began = Instant::now();
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
        let mut routes = looked_back.elapsed() >= look_back;
        let (now, later) = match host.more_follow() || Instant::now() < rest {
            true => unseen.into_iter().partition(is_of_rules),
            false => (unseen, Vec::new()),
        };
        unseen = later;
        routes &= unseen.is_empty();
        let news = News::of(now);
        // Of ten thousand tunnels nobody is asked where nothing came.
        let devices = match news.links.is_empty() && news.filters.is_empty() {
            true => HashMap::new(),
            false => host.by_device(|index| news.links.contains_key(&index) || news.filters.contains(&index)),
        };
        // What comes out of a tunnel's device is no packet of the underlay.
        routes |= news.filters.iter().any(|index| !devices.contains_key(index));
        let underlays = host.underlays();
        for (index, link) in &news.links {
            host.mend_injection(*index);
            match link {
                None => {
                    host.device_removed(*index, devices.get(index));
                    // What happens to a tunnel's own pair concerns no other tunnel, unless one leads through it.
                    ways |= !devices.contains_key(index);
                }
                Some((name, mtu)) => {
                    let tunnel = devices.get(index);
                    host.device_changed(*index, tunnel, name, *mtu);
                    if underlays.contains(name) {
                        host.underlay_changed(name);
                    }
                    match tunnel {
                        Some(name) => drop(own.insert(name.clone())),
                        None => ways = true,
                    }
                }
            }
        }
        ways |= !own.is_empty() && !host.all_ways_are_known();
        for event in news.others {
            match event {
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
        } else if !own.is_empty() {
            host.look_at_places_of(&own);
        }
        if !news.neighbours.is_empty() {
            host.neighbours_changed(&news.neighbours);
        }
        if rules {
            host.look_at_rules();
            host.look_who_sends();
            looked = Instant::now();
        }
        wait = host.open_fast_path().unwrap_or(if unseen.is_empty() { LOOK } else { PUT_OFF });
        let took = began.elapsed();
        if routes {
            look_back = LOOK_BACK.max(SELDOM * took);
        }
        if took > SHORT {
            rest = Instant::now() + (REST * took).min(LONGEST_REST);
            // Of many tunnels the lists of what is there are long.
            process::give_memory_back();
        }
    }
}
