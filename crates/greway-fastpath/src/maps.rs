//! What userspace writes into the maps and reads from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use greway_ebpf_abi::{
    COUNTERS_MAP, Counters, DIRECT_MAP, EGRESS_MAP, EgressEntry, INGRESS_MAP, IngressEntry, IngressKey,
    LOCAL_MAP, Point, SLOTS_MAP, STATE_MAP, Slot, State, TUNNELS_MAP, TunnelCounters,
    witness::{Gate, Verdict},
};
use rustix::time::{ClockId, clock_gettime};

use crate::{Fastpath, FastpathError, Table, entry::bytes, error::words};

impl Fastpath {
    /// Makes the maps say what `table` says, and removes what it does not name. Packets on their way see the old
    /// entry of a tunnel or the new one; none sees half of it. Goes on after an error.
    ///
    /// # Errors
    /// All that went wrong: the kernel has no memory, or there are too many tunnels.
    pub fn apply(&mut self, table: &Table) -> Result<(), Vec<FastpathError>> {
        let mut errors = Vec::new();
        for (key, entry) in &table.ingress {
            errors.extend(self.set_ingress(key, entry).err());
        }
        for (peer, entry) in &table.egress {
            errors.extend(self.set_egress(*peer, entry).err());
        }
        errors.extend(self.set_direct(&table.direct).err());
        match self.ingress_keys() {
            Ok(keys) => {
                for key in keys.iter().filter(|key| !table.ingress.contains_key(key)) {
                    errors.extend(self.remove_ingress(key).err());
                }
            }
            Err(error) => errors.push(error),
        }
        match self.peers() {
            Ok(peers) => {
                for peer in peers.into_iter().filter(|peer| !table.egress.contains_key(peer)) {
                    errors.extend(self.remove_egress(peer).err());
                }
            }
            Err(error) => errors.push(error),
        }
        let known = table.known();
        match self.counted() {
            Ok(counted) => {
                for peer in counted.into_iter().filter(|peer| !known.contains(peer)) {
                    errors.extend(self.forget_counters(peer).err());
                }
            }
            Err(error) => errors.push(error),
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The same where it is known that the maps say what `before` says: only what differs is written.
    ///
    /// # Errors
    /// All that went wrong.
    pub fn apply_changes(&mut self, before: &Table, after: &Table) -> Result<(), Vec<FastpathError>> {
        let mut errors = Vec::new();
        for (key, entry) in &after.ingress {
            if before.ingress.get(key) != Some(entry) {
                errors.extend(self.set_ingress(key, entry).err());
            }
        }
        for (peer, entry) in &after.egress {
            if before.egress.get(peer) != Some(entry) {
                errors.extend(self.set_egress(*peer, entry).err());
            }
        }
        if before.direct != after.direct {
            errors.extend(self.set_direct(&after.direct).err());
        }
        for key in before.ingress.keys().filter(|key| !after.ingress.contains_key(key)) {
            errors.extend(self.remove_ingress(key).err());
        }
        for peer in before.egress.keys().filter(|peer| !after.egress.contains_key(peer)) {
            errors.extend(self.remove_egress(*peer).err());
        }
        let (known, gone) = (after.known(), before.known());
        for peer in gone.difference(&known) {
            errors.extend(self.forget_counters(*peer).err());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// How the packets that come out of the peer end `peer` are encapsulated. An entry that differs in nothing but
    /// a running [`Self::decline_next`] is left alone.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn set_egress(&mut self, peer: u32, entry: &EgressEntry) -> Result<(), FastpathError> {
        self.make_counters(peer)?;
        let mut map = self.hash_mut::<u32, EgressEntry>(EGRESS_MAP)?;
        let now = found(EGRESS_MAP, map.get(&peer, 0))?;
        if now.is_some_and(|Plain(now)| EgressEntry { decline_next: entry.decline_next, ..now } == *entry) {
            return Ok(());
        }
        map.insert(peer, Plain(*entry), ANY).map_err(refused("write to", EGRESS_MAP))
    }

    /// What becomes of the packets with this key.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn set_ingress(&mut self, key: &IngressKey, entry: &IngressEntry) -> Result<(), FastpathError> {
        self.make_counters(entry.peer)?;
        let mut map = self.hash_mut::<Plain<IngressKey>, IngressEntry>(INGRESS_MAP)?;
        if found(INGRESS_MAP, map.get(&Plain(*key), 0))?.is_some_and(|Plain(now)| now == *entry) {
            return Ok(());
        }
        map.insert(Plain(*key), Plain(*entry), ANY).map_err(refused("write to", INGRESS_MAP))
    }

    /// What is known of the packets that come out of `peer`.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn egress(&self, peer: u32) -> Result<Option<EgressEntry>, FastpathError> {
        let map = self.hash::<u32, EgressEntry>(EGRESS_MAP)?;
        Ok(found(EGRESS_MAP, map.get(&peer, 0))?.map(|Plain(entry)| entry))
    }

    /// What is known of the packets with this key.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn ingress(&self, key: &IngressKey) -> Result<Option<IngressEntry>, FastpathError> {
        let map = self.hash::<Plain<IngressKey>, IngressEntry>(INGRESS_MAP)?;
        Ok(found(INGRESS_MAP, map.get(&Plain(*key), 0))?.map(|Plain(entry)| entry))
    }

    /// Takes the tunnel of the peer end `peer` out of all maps, its counters too. Its packets are userspace's from
    /// then on.
    ///
    /// # Errors
    /// [`FastpathError::Map`]; what is not there is no error.
    pub fn remove(&mut self, peer: u32) -> Result<(), FastpathError> {
        for key in self.ingress_keys()? {
            if self.ingress(&key)?.is_some_and(|entry| entry.peer == peer) {
                self.remove_ingress(&key)?;
            }
        }
        self.remove_egress(peer)?;
        self.forget_counters(peer)
    }

    /// The same where it is known which keys are the tunnel's: of many tunnels nobody looks for them.
    ///
    /// # Errors
    /// [`FastpathError::Map`]; what is not there is no error.
    pub fn remove_known(&mut self, peer: u32, keys: &[IngressKey]) -> Result<(), FastpathError> {
        for key in keys {
            self.remove_ingress(key)?;
        }
        self.remove_egress(peer)?;
        self.forget_counters(peer)
    }

    /// Takes one key out: its packets are userspace's, or those of a tunnel that matches with less.
    ///
    /// # Errors
    /// [`FastpathError::Map`]; a key that is not there is no error.
    pub fn remove_ingress(&mut self, key: &IngressKey) -> Result<(), FastpathError> {
        let mut map = self.hash_mut::<Plain<IngressKey>, IngressEntry>(INGRESS_MAP)?;
        gone(INGRESS_MAP, map.remove(&Plain(*key)))
    }

    /// Leaves what comes out of `peer` to userspace.
    ///
    /// # Errors
    /// [`FastpathError::Map`]; a tunnel that is not there is no error.
    pub fn remove_egress(&mut self, peer: u32) -> Result<(), FastpathError> {
        gone(EGRESS_MAP, self.hash_mut::<u32, EgressEntry>(EGRESS_MAP)?.remove(&peer))
    }

    /// The peer ends whose packets are encapsulated.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn peers(&self) -> Result<Vec<u32>, FastpathError> {
        let map = self.hash::<u32, EgressEntry>(EGRESS_MAP)?;
        map.keys().collect::<Result<_, _>>().map_err(refused("read", EGRESS_MAP))
    }

    /// The keys whose packets are known.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn ingress_keys(&self) -> Result<Vec<IngressKey>, FastpathError> {
        let map = self.hash::<Plain<IngressKey>, IngressEntry>(INGRESS_MAP)?;
        let keys = map.keys().map(|key| key.map(|Plain(key)| key));
        keys.collect::<Result<_, _>>().map_err(refused("read", INGRESS_MAP))
    }

    /// Lets the next `packets` that come out of `peer` go to userspace (T18). `false`: there is no such tunnel.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn decline_next(&mut self, peer: u32, packets: u32) -> Result<bool, FastpathError> {
        let mut map = self.hash_mut::<u32, EgressEntry>(EGRESS_MAP)?;
        let Some(Plain(entry)) = found(EGRESS_MAP, map.get(&peer, 0))? else { return Ok(false) };
        let entry = EgressEntry { decline_next: packets, ..entry };
        map.insert(peer, Plain(entry), ANY).map_err(refused("write to", EGRESS_MAP))?;
        Ok(true)
    }

    /// The devices whose packets do not go through their pair, each with its peer end.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn set_direct(&mut self, wanted: &BTreeMap<u32, u32>) -> Result<(), FastpathError> {
        let map = self.map_mut(DIRECT_MAP)?;
        let mut map = HashMap::<_, u32, u32>::try_from(map).map_err(refused("open", DIRECT_MAP))?;
        let known: Vec<u32> = map.keys().collect::<Result<_, _>>().map_err(refused("read", DIRECT_MAP))?;
        for (device, peer) in wanted {
            map.insert(device, peer, ANY).map_err(refused("write to", DIRECT_MAP))?;
        }
        for device in known.iter().filter(|device| !wanted.contains_key(device)) {
            gone(DIRECT_MAP, map.remove(device))?;
        }
        Ok(())
    }

    /// The addresses of this host, asked for packets to a tunnel without a `local`.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn set_local_addresses(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), FastpathError> {
        let wanted: BTreeSet<[u8; 16]> = addresses.into_iter().map(bytes).collect();
        let map = self.map_mut(LOCAL_MAP)?;
        let mut map = HashMap::<_, [u8; 16], u32>::try_from(map).map_err(refused("open", LOCAL_MAP))?;
        let known: BTreeSet<[u8; 16]> =
            map.keys().collect::<Result<_, _>>().map_err(refused("read", LOCAL_MAP))?;
        for address in wanted.difference(&known) {
            map.insert(address, 0, ANY).map_err(refused("write to", LOCAL_MAP))?;
        }
        for address in known.difference(&wanted) {
            gone(LOCAL_MAP, map.remove(address))?;
        }
        Ok(())
    }

    /// The addresses that [`Self::set_local_addresses`] has set, ascending.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn local_addresses(&self) -> Result<Vec<IpAddr>, FastpathError> {
        let map = HashMap::<_, [u8; 16], u32>::try_from(self.map(LOCAL_MAP)?)
            .map_err(refused("open", LOCAL_MAP))?;
        let addresses: BTreeSet<[u8; 16]> =
            map.keys().collect::<Result<_, _>>().map_err(refused("read", LOCAL_MAP))?;
        Ok(addresses.into_iter().map(|bytes| IpAddr::from(bytes).to_canonical()).collect())
    }

    /// A sign of life: until five seconds after it the programs trust the next hops they were told.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn beat(&mut self) -> Result<(), FastpathError> {
        let now = clock_gettime(ClockId::Monotonic);
        // Positive on every machine that has booted.
        let heartbeat_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let map = self.map_mut(STATE_MAP)?;
        let mut map = Array::<_, Plain<State>>::try_from(map).map_err(refused("open", STATE_MAP))?;
        map.set(0, Plain(State { heartbeat_ns }), ANY).map_err(refused("write to", STATE_MAP))
    }

    /// What concerns all tunnels.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn state(&self) -> Result<State, FastpathError> {
        let map =
            Array::<_, Plain<State>>::try_from(self.map(STATE_MAP)?).map_err(refused("open", STATE_MAP))?;
        map.get(&0, 0).map(|Plain(state)| state).map_err(refused("read", STATE_MAP))
    }

    /// The counters of `point`, all CPUs together, in packets since the map was made.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn counters(&self, point: Point) -> Result<Counters, FastpathError> {
        let map = self.map(COUNTERS_MAP)?;
        let map = PerCpuArray::<_, Plain<Counters>>::try_from(map).map_err(refused("open", COUNTERS_MAP))?;
        let per_cpu = map.get(&point.index(), 0).map_err(refused("read", COUNTERS_MAP))?;
        let mut sum = Counters::default();
        for Plain(counters) in per_cpu.iter() {
            sum.add(counters);
        }
        Ok(sum)
    }

    /// The counters of the tunnel of the peer end `peer`, all CPUs together; `None` where there is no such tunnel.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn tunnel_counters(&self, peer: u32) -> Result<Option<TunnelCounters>, FastpathError> {
        let map = self.map(TUNNELS_MAP)?;
        let map = PerCpuHashMap::<_, u32, Plain<TunnelCounters>>::try_from(map)
            .map_err(refused("open", TUNNELS_MAP))?;
        let Some(per_cpu) = found(TUNNELS_MAP, map.get(&peer, 0))? else { return Ok(None) };
        let mut sum = TunnelCounters::default();
        for Plain(counters) in per_cpu.iter() {
            sum.add(counters);
        }
        for Plain(slot) in self.slot(peer)?.iter().filter(|Plain(slot)| slot.peer == peer) {
            sum.add_traffic(&slot.traffic);
        }
        Ok(Some(sum))
    }

    /// The programs count into what is there only.
    fn make_counters(&mut self, peer: u32) -> Result<(), FastpathError> {
        let mut map = self.tunnels_mut()?;
        if found(TUNNELS_MAP, map.get(&peer, 0))?.is_some() {
            return Ok(());
        }
        let zero = on_each_cpu(TUNNELS_MAP, TunnelCounters::default())?;
        map.insert(peer, zero, ANY).map_err(refused("write to", TUNNELS_MAP))?;
        match self.slot(peer)?.iter().all(|Plain(slot)| slot.peer == 0) {
            true => self.set_slot(peer, Slot { peer, ..Slot::default() }),
            false => Ok(()),
        }
    }

    fn forget_counters(&mut self, peer: u32) -> Result<(), FastpathError> {
        if self.slot(peer)?.iter().any(|Plain(slot)| slot.peer == peer) {
            self.set_slot(peer, Slot::default())?;
        }
        gone(TUNNELS_MAP, self.tunnels_mut()?.remove(&peer))
    }

    /// The slot that may be this tunnel's, of each CPU.
    fn slot(&self, peer: u32) -> Result<PerCpuValues<Plain<Slot>>, FastpathError> {
        let map = PerCpuArray::try_from(self.map(SLOTS_MAP)?).map_err(refused("open", SLOTS_MAP))?;
        map.get(&Slot::of(peer), 0).map_err(refused("read", SLOTS_MAP))
    }

    fn set_slot(&mut self, peer: u32, slot: Slot) -> Result<(), FastpathError> {
        let map = self.map_mut(SLOTS_MAP)?;
        let mut map = PerCpuArray::try_from(map).map_err(refused("open", SLOTS_MAP))?;
        let values = on_each_cpu(SLOTS_MAP, slot)?;
        map.set(Slot::of(peer), values, ANY).map_err(refused("write to", SLOTS_MAP))
    }

    /// The peer ends that have counters.
    fn counted(&self) -> Result<Vec<u32>, FastpathError> {
        let map = PerCpuHashMap::<_, u32, Plain<TunnelCounters>>::try_from(self.map(TUNNELS_MAP)?)
            .map_err(refused("open", TUNNELS_MAP))?;
        map.keys().collect::<Result<_, _>>().map_err(refused("read", TUNNELS_MAP))
    }

    fn tunnels_mut(
        &mut self,
    ) -> Result<PerCpuHashMap<&mut MapData, u32, Plain<TunnelCounters>>, FastpathError> {
        PerCpuHashMap::try_from(self.map_mut(TUNNELS_MAP)?).map_err(refused("open", TUNNELS_MAP))
    }

    fn hash<K: Pod, V>(&self, name: &'static str) -> Result<HashMap<&MapData, K, Plain<V>>, FastpathError>
    where
        Plain<V>: Pod,
    {
        HashMap::try_from(self.map(name)?).map_err(refused("open", name))
    }

    fn hash_mut<K: Pod, V>(
        &mut self,
        name: &'static str,
    ) -> Result<HashMap<&mut MapData, K, Plain<V>>, FastpathError>
    where
        Plain<V>: Pod,
    {
        HashMap::try_from(self.map_mut(name)?).map_err(refused("open", name))
    }

    pub(crate) fn map(&self, name: &'static str) -> Result<&Map, FastpathError> {
        self.bpf.map(name).ok_or_else(|| missing(name))
    }

    fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, FastpathError> {
        self.bpf.map_mut(name).ok_or_else(|| missing(name))
    }
}

/// The same value for each CPU.
fn on_each_cpu<T: Clone>(map: &'static str, value: T) -> Result<PerCpuValues<Plain<T>>, FastpathError>
where
    Plain<T>: Pod,
{
    let refusal = |kernel| FastpathError::Map { action: "write to", map, kernel };
    let cpus = nr_cpus().map_err(|(what, error)| refusal(format!("{what}: {error}")))?;
    PerCpuValues::try_from(vec![Plain(value); cpus]).map_err(|source| refusal(source.to_string()))
}

/// `BPF_ANY`: add or replace.
pub(crate) const ANY: u64 = 0;

pub(crate) fn missing(map: &'static str) -> FastpathError {
    FastpathError::Map { action: "open", map, kernel: "the object has no such map".to_owned() }
}

pub(crate) fn refused(action: &'static str, map: &'static str) -> impl Fn(MapError) -> FastpathError {
    move |error| FastpathError::Map { action, map, kernel: words(&error) }
}

/// `None` for a key that is not there.
pub(crate) fn found<V>(map: &'static str, result: Result<V, MapError>) -> Result<Option<V>, FastpathError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(refused("read", map)(error)),
    }
}

/// A key that is not there needs no removing.
pub(crate) fn gone(map: &'static str, result: Result<(), MapError>) -> Result<(), FastpathError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused("remove from", map)(error)),
    }
}

/// What is in a map, as aya wants it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

macro_rules! plain {
    ($($kind:ty),+) => {
        $(
            // SAFETY: repr(C), of numbers only, without padding (greway-ebpf-abi asserts the sizes), so any bytes
            // are a value and all of them may be read.
            #[expect(unsafe_code, reason = "the marker of aya's that a map type needs")]
            unsafe impl Pod for Plain<$kind> {}
        )+
    };
}

plain!(Counters, EgressEntry, Gate, IngressEntry, IngressKey, Slot, State, TunnelCounters, Verdict);
