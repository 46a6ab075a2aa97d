//! The maps that concern witnesses, for a thread of its own.

use std::{fmt, os::fd::AsFd as _};

use aya::maps::{HashMap, Map, MapData, PerCpuArray, PerCpuHashMap};
use greway_ebpf_abi::{
    EGRESS_MAP, EgressEntry, GATE_MAP, SLOTS_MAP, Slot, TUNNELS_MAP, TunnelCounters, VERDICT_MAP,
    witness::{Gate, Verdict},
};

use crate::{
    Fastpath, FastpathError,
    maps::{ANY, Plain, found, gone, missing, refused},
};

/// Verdicts, and what they are come to by. Descriptors of its own: it may outlive the [`Fastpath`] that gave it.
pub struct Maps {
    verdicts: HashMap<MapData, u32, Plain<Verdict>>,
    gates: HashMap<MapData, u32, Plain<Gate>>,
    egress: HashMap<MapData, u32, Plain<EgressEntry>>,
    tunnels: PerCpuHashMap<MapData, u32, Plain<TunnelCounters>>,
    slots: PerCpuArray<MapData, Plain<Slot>>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl Fastpath {
    /// The maps that concern witnesses.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn witness_maps(&self) -> Result<Maps, FastpathError> {
        Ok(Maps {
            verdicts: HashMap::try_from(self.another(VERDICT_MAP)?).map_err(refused("open", VERDICT_MAP))?,
            gates: HashMap::try_from(self.another(GATE_MAP)?).map_err(refused("open", GATE_MAP))?,
            egress: HashMap::try_from(self.another(EGRESS_MAP)?).map_err(refused("open", EGRESS_MAP))?,
            tunnels: PerCpuHashMap::try_from(self.another(TUNNELS_MAP)?)
                .map_err(refused("open", TUNNELS_MAP))?,
            slots: PerCpuArray::try_from(self.another(SLOTS_MAP)?).map_err(refused("open", SLOTS_MAP))?,
        })
    }

    fn another(&self, name: &'static str) -> Result<Map, FastpathError> {
        let (kind, map): (fn(MapData) -> Map, _) = match self.map(name)? {
            Map::HashMap(map) => (Map::HashMap, map),
            Map::PerCpuHashMap(map) => (Map::PerCpuHashMap, map),
            Map::PerCpuArray(map) => (Map::PerCpuArray, map),
            _ => return Err(missing(name)),
        };
        let refusal = |kernel: String| FastpathError::Map { action: "open", map: name, kernel };
        let fd = map.fd().as_fd().try_clone_to_owned().map_err(|error| refusal(error.to_string()))?;
        Ok(kind(MapData::from_fd(fd).map_err(refused("open", name))?))
    }
}

impl Maps {
    /// The verdict about the tunnel of the peer end `peer`, if there is one.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn verdict(&self, peer: u32) -> Result<Option<Verdict>, FastpathError> {
        Ok(found(VERDICT_MAP, self.verdicts.get(&peer, 0))?.map(|Plain(verdict)| verdict))
    }

    /// Replaces the verdict as a whole, and has the programs count for it.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn set_verdict(&mut self, peer: u32, verdict: &Verdict) -> Result<(), FastpathError> {
        if self.gate(peer)?.is_none() {
            self.gates.insert(peer, Plain(Gate::default()), ANY).map_err(refused("write to", GATE_MAP))?;
        }
        self.verdicts.insert(peer, Plain(*verdict), ANY).map_err(refused("write to", VERDICT_MAP))
    }

    /// What the programs saw of this tunnel.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn gate(&self, peer: u32) -> Result<Option<Gate>, FastpathError> {
        Ok(found(GATE_MAP, self.gates.get(&peer, 0))?.map(|Plain(gate)| gate))
    }

    /// How the packets of this tunnel are encapsulated.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn egress(&self, peer: u32) -> Result<Option<EgressEntry>, FastpathError> {
        Ok(found(EGRESS_MAP, self.egress.get(&peer, 0))?.map(|Plain(entry)| entry))
    }

    /// Packets carried for this tunnel: in and out.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn carried(&self, peer: u32) -> Result<(u64, u64), FastpathError> {
        let Some(per_cpu) = found(TUNNELS_MAP, self.tunnels.get(&peer, 0))? else { return Ok((0, 0)) };
        let slots = self.slots.get(&Slot::of(peer), 0).map_err(refused("read", SLOTS_MAP))?;
        let slots = slots.iter().filter(|Plain(slot)| slot.peer == peer);
        let slots = slots.map(|Plain(slot)| (slot.traffic.rx_packets, slot.traffic.tx_packets));
        let counted = per_cpu.iter().map(|Plain(counters)| (counters.rx_packets, counters.tx_packets));
        Ok(counted.chain(slots).fold((0_u64, 0_u64), |(rx, tx), (more_rx, more_tx)| {
            (rx.wrapping_add(more_rx), tx.wrapping_add(more_tx))
        }))
    }

    /// The tunnels that there are verdicts about.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn peers(&self) -> Result<Vec<u32>, FastpathError> {
        self.verdicts.keys().collect::<Result<_, _>>().map_err(refused("read", VERDICT_MAP))
    }

    /// Those of them that a [`Watch`](super::Watch) has come to: only they have a secret.
    ///
    /// # Errors
    /// [`FastpathError::Map`].
    pub fn watched(&self) -> Result<Vec<u32>, FastpathError> {
        let mut watched = Vec::new();
        for peer in self.peers()? {
            if self.verdict(peer)?.is_some_and(|verdict| verdict.secret != [0; 16]) {
                watched.push(peer);
            }
        }
        Ok(watched)
    }

    /// Takes everything about a tunnel out: where it is witnessed, nothing is carried then.
    ///
    /// # Errors
    /// [`FastpathError::Map`]; what is not there is no error.
    pub fn forget(&mut self, peer: u32) -> Result<(), FastpathError> {
        gone(VERDICT_MAP, self.verdicts.remove(&peer))?;
        gone(GATE_MAP, self.gates.remove(&peer))
    }
}
