//! The short way out of tunnels that userspace carries: past the IP stack, to a neighbour whose hardware address the
//! kernel knows.
//!
//! The kernel's routing and neighbour table say where it leads, and are asked again when they change; nothing is
//! worked out here. A tunnel has none where a rule or a policy may be on the longer way ([`super::firewall`]), and none
//! where the programs carry it: what they leave is little.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use greway_datapath::{Exit, SuperPackets};
use greway_fastpath::NextHop;
use greway_linux::MacAddr;
use greway_netlink::{Neighbour, NeighbourState, Netlink, ResolvedRoute, RouteKind, RouteOptions};
use greway_spec::DeviceName;

use super::host::{Host, Live};
use super::injection;
use super::place::{self, Devices, Way};

/// With more tunnels than this only so many have one, those that send most: each change of a route has each of them
/// asked about.
const MOST: usize = 64;
/// It is looked who sends so often.
const AGAIN: Duration = Duration::from_secs(2);
/// Packets that a tunnel sends in that time if it is worth it.
const ENOUGH: u64 = 1_000;

/// Who has a short way out, where not all may have one.
#[derive(Debug, Default)]
pub(super) struct Exits {
    sending: BTreeSet<DeviceName>,
    /// What each had sent when that was last looked at.
    sent: HashMap<DeviceName, u64>,
    looked: Option<Instant>,
}

impl Host {
    /// The tunnels that have a short way out; of many they are few.
    pub(in crate::daemon) fn with_exits(&self) -> impl Iterator<Item = &Live> {
        let few = self.tunnels.len() <= MOST;
        let all = few.then(|| self.tunnels.values()).into_iter().flatten();
        let sending =
            self.exits.sending.iter().filter(move |_| !few).filter_map(|name| self.tunnels.get(name));
        all.chain(sending).filter(|live| live.exit.is_some())
    }

    /// Looks by which way packets of all tunnels leave, and tells the data plane what is new.
    pub(in crate::daemon) fn look_at_exits(&mut self) {
        self.look_at_exits_where(|_| true);
    }

    /// The same for some.
    pub(in crate::daemon) fn look_at_exits_of(&mut self, names: &BTreeSet<DeviceName>) {
        self.look_at_exits_where(|live| names.contains(&live.spec().name));
    }

    /// The same for those whose packets leave by one of these neighbours.
    pub(in crate::daemon) fn neighbours_changed(&mut self, changed: &BTreeSet<(u32, IpAddr)>) {
        self.look_at_exits_where(|live| {
            live.exit_by.is_some_and(|NextHop { ifindex, address }| changed.contains(&(ifindex, address)))
        });
    }

    /// Looks which tunnels send most, where there are many, and gives these a short way out.
    pub(in crate::daemon) fn look_who_sends(&mut self) {
        if self.tunnels.len() <= MOST {
            return self.exits = Exits::default();
        }
        if self.exits.looked.is_some_and(|looked| looked.elapsed() < AGAIN) {
            return;
        }
        let sent = self.tunnels.iter().map(|(name, live)| (name.clone(), live.traffic.sent()));
        let sent = sent.collect::<HashMap<_, _>>();
        let before = &self.exits.sent;
        // Who was not there has sent nothing that says how much it sends.
        let since = |(name, now): (&DeviceName, &u64)| {
            let since = now.saturating_sub(*before.get(name)?);
            (since >= ENOUGH).then(|| (since, name.clone()))
        };
        let mut busy = sent.iter().filter_map(since).collect::<Vec<_>>();
        busy.sort_unstable_by(|one, other| other.cmp(one));
        let sending = busy.into_iter().take(MOST).map(|(_, name)| name).collect::<BTreeSet<_>>();
        let changed = sending.symmetric_difference(&self.exits.sending).cloned().collect::<BTreeSet<_>>();
        self.exits = Exits { sending, sent, looked: Some(Instant::now()) };
        if !changed.is_empty() {
            self.look_at_exits_of(&changed);
        }
    }

    fn look_at_exits_where(&mut self, concerned: impl Fn(&Live) -> bool) {
        self.keep_injection();
        let few = self.tunnels.len() <= MOST;
        let mut devices = Devices::new(&self.netlink);
        let mut neighbours = Neighbours { netlink: &self.netlink, known: HashMap::new() };
        let mut whole = Whole { wanted: self.injecting.is_there(), known: HashMap::new() };
        for live in self.tunnels.values_mut().filter(|live| concerned(live)) {
            let one_of_few = few || self.exits.sending.contains(&live.stored.spec.name);
            let way = match one_of_few && live.decision.past_the_stack {
                true => place::way(&mut devices, live.spec(), live.bound_to),
                false => Way::default(),
            };
            live.exit_by = way.next_hop;
            let mut exit = exit(&mut neighbours, live, &way);
            if let (Some(exit), Some(hop)) = (&mut exit, way.next_hop) {
                exit.whole = whole.by(&self.netlink, hop, exit.destination.into());
            }
            if exit != live.exit {
                live.exit = exit;
                self.datapath.set_exit(&live.stored.spec.name, exit);
            }
        }
    }
}

fn exit(neighbours: &mut Neighbours<'_>, live: &Live, way: &Way) -> Option<Exit> {
    let ipv4 = |address: Option<IpAddr>| match address? {
        IpAddr::V4(address) => Some(address).filter(|address| *address != Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => None,
    };
    let hop = way.next_hop?;
    Some(Exit {
        ifindex: hop.ifindex,
        neighbour: neighbours.of(hop)?,
        source: ipv4(way.source)?,
        destination: ipv4(live.spec().remote)?,
        path_mtu: way.path_mtu,
        whole: SuperPackets::Split,
    })
}

/// Which devices take super-packets in GRE, each looked at once.
struct Whole {
    /// Somebody hands them over.
    wanted: bool,
    known: HashMap<u32, SuperPackets>,
}

impl Whole {
    /// What may leave whole by this next hop.
    fn by(&mut self, netlink: &Netlink, hop: NextHop, remote: IpAddr) -> SuperPackets {
        let look = || {
            let link = netlink.link_by_index(hop.ifindex).ok().flatten();
            link.map_or(SuperPackets::Split, |link| injection::taken_whole(&link))
        };
        if !self.wanted || *self.known.entry(hop.ifindex).or_insert_with(look) == SuperPackets::Split {
            return SuperPackets::Split;
        }
        // The kernel asks for their way by remote and device alone, and a rule may go by more.
        let options = RouteOptions { oif: Some(hop.ifindex), ..RouteOptions::default() };
        let same = |route: ResolvedRoute| {
            let address = route.via.unwrap_or(remote);
            route.kind == RouteKind::Unicast && NextHop { ifindex: route.ifindex, address } == hop
        };
        match netlink.route_to(remote, &options) {
            Ok(route) if same(route) => self.known[&hop.ifindex],
            _ => SuperPackets::Split,
        }
    }
}

/// The neighbours on the devices that ways lead by, each device asked for once: many tunnels go by few.
struct Neighbours<'a> {
    netlink: &'a Netlink,
    known: HashMap<u32, Vec<Neighbour>>,
}

impl Neighbours<'_> {
    /// The hardware address of a neighbour that the kernel would send to at once. `None`, too, on devices that have no
    /// such addresses.
    fn of(&mut self, hop: NextHop) -> Option<MacAddr> {
        let usable = |state| {
            use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
            matches!(state, Delay | Permanent | Probe | Reachable | Stale)
        };
        let ask = || self.netlink.neighbours(hop.ifindex).unwrap_or_default();
        let known = self.known.entry(hop.ifindex).or_insert_with(ask);
        let known = known.iter().find(|known| known.address == hop.address && usable(known.state))?;
        known.link_address.map(MacAddr::new)
    }
}
