//! The state of tunnels as the daemon tells it: facts first, then the one-line verdict drawn from
//! them. These types are also the JSON of `greway status --json`.

use std::fmt;

use greway_spec::TunnelSpec;
use serde::{Deserialize, Serialize};

use crate::check::Finding;

/// Everything `greway status` shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The tunnels, by name.
    pub tunnels: Vec<TunnelStatus>,
    /// GRE packets that matched no tunnel, latest first.
    pub unmatched: Vec<Unmatched>,
    /// Whether their senders were told so.
    #[serde(default)]
    pub answers: Answers,
    /// GRE packets that were refused before a tunnel could be told, by reason.
    pub drops: Vec<Drop>,
    /// Packets that were left to others on this host, by reason.
    #[serde(default)]
    pub declines: Vec<Decline>,
    /// How received packets are spread over CPUs, where the daemon was asked to (`[daemon] steer`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steering: Option<Steering>,
    /// What on this host will stop or bend traffic.
    pub notes: Vec<String>,
    /// The programs in the kernel, where some are loaded.
    #[serde(default)]
    pub fast_path: Option<FastPath>,
    /// The daemon that answered.
    pub daemon: Daemon,
}

/// The daemon that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Version of its binary.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Threads that carry packets in userspace.
    pub workers: usize,
}

/// The programs in the kernel that carry tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastPath {
    /// Where they are attached.
    pub attached: Vec<Attached>,
    /// The folder of their pins, by which the next daemon takes links and counters over.
    pub pins: Option<String>,
    /// Why there are no pins.
    pub no_pins: Option<String>,
}

/// A program on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The device.
    pub device: String,
    /// `overlay`: at a tunnel's own pair, for what is sent; `underlay`: for what is received.
    pub point: String,
    /// `tcx` or `clsact`.
    pub hook: String,
}

/// How received packets are spread over CPUs by the flow inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    /// `rps`.
    pub how: String,
    /// The devices below that do so.
    pub devices: Vec<SteeredDevice>,
}

/// A device that spreads what it receives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteeredDevice {
    /// Its name.
    pub device: String,
    /// How many of its receive queues.
    pub queues: u32,
    /// Over which CPUs: `0-3`.
    pub cpus: String,
}

/// One tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// What it should be, with its origin.
    pub spec: TunnelSpec,
    /// One line for people.
    pub verdict: String,
    /// The same for programs.
    pub state: State,
    /// The device.
    pub device: Option<Device>,
    /// The device was moved to another network namespace, where it is out of sight from here.
    #[serde(default)]
    pub moved: bool,
    /// How it is carried and why so.
    pub datapath: Carried,
    /// Packets and bytes, counted in payload packets.
    pub counters: Counters,
    /// Seconds since the last packet was received.
    pub last_received_seconds: Option<f64>,
    /// Seconds since the last packet was sent.
    pub last_sent_seconds: Option<f64>,
    /// What the numbers of received packets tell, where they are put in order (`seq-mode rfc2890`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<Sequence>,
    /// Dropped packets by reason; reasons that never struck are left out.
    pub drops: Vec<Drop>,
    /// Packets of this tunnel that the programs in the kernel left to userspace, by reason.
    #[serde(default)]
    pub left_to_userspace: Vec<Decline>,
    /// What others said by ICMP about the packets that this tunnel sent, latest first.
    #[serde(default)]
    pub icmp_errors: Vec<IcmpError>,
    /// How often a sender of payload packets was told that the far end cannot be reached.
    #[serde(default)]
    pub unreachable_told: u64,
    /// The inner peer and what came of the echo.
    pub peer: Option<Peer>,
    /// What will stop or bend this tunnel's traffic.
    pub notes: Vec<String>,
    /// What `greway check` finds without a packet of its own; the client that shows the status looks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// Whether a tunnel works, as far as can be told from this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Packets came from the peer.
    Up,
    /// Nothing was ever received.
    NoAnswer,
    /// Nothing was sent or received yet.
    Idle,
    /// The device is down, gone, or not carried.
    Down,
}

/// The tunnel device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Addresses, as `ip addr` writes them.
    pub addresses: Vec<String>,
}

/// How a tunnel is carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// `ebpf`: programs in the kernel carry the common packets and leave the others to userspace; `userspace`.
    pub datapath: String,
    /// Why no program carries it; `None` where one does.
    #[serde(default)]
    pub not_ebpf: Option<String>,
    /// What is known of the host's rules by witness packets, where rules may be on the way; `None` where none are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witnesses: Option<String>,
    /// `veth` or `tun`.
    pub overlay: String,
    /// `packet` or `raw`.
    pub underlay: String,
    /// Why this underlay.
    pub why: String,
    /// The neighbour that userspace sends to past the IP stack, by hardware address and device; `None` where the IP stack
    /// sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// Super-packets that leave there leave whole, and the kernel cuts them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub super_packets: bool,
    /// What the packet socket has taken is dropped before it goes up the IP stack.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub early_drop: bool,
}

/// Packets and bytes of payload packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets received and handed to the tunnel device.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets sent; a super-packet counts once, as in the statistics of the device.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}

/// Received packets by their sequence numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Did not come, or not in time.
    pub lost: u64,
    /// Came after a later one, and were put into their place.
    pub reordered: u64,
    /// Came twice; dropped as `sequence-duplicate`.
    pub duplicates: u64,
    /// Came when they were given up; dropped as `sequence-late`.
    pub late: u64,
    /// How often the peer began to count anew.
    pub restarts: u64,
}

/// Packets left to others for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decline {
    /// The reason's stable name: `version-1-pptp`.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// Stable name.
    pub reason: String,
    /// `receive` or `transmit`.
    pub direction: String,
    /// How many.
    pub packets: u64,
    /// What it means, for people.
    pub explanation: String,
}

/// ICMP errors of one kind from one host about what a tunnel sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IcmpError {
    /// What it says: `host unreachable`.
    pub error: String,
    /// Type of the message; of ICMPv6 where the tunnel is over IPv6.
    pub icmp_type: u8,
    /// Code of the message.
    pub icmp_code: u8,
    /// Who sent it.
    pub from: String,
    /// How many.
    pub packets: u64,
    /// Seconds since the last one.
    pub last_seconds: f64,
    /// What it means, for people.
    pub explanation: String,
}

/// What became of packets that matched no tunnel and might have been answered with "port unreachable".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// Their senders were told.
    pub answered: u64,
    /// Their senders had been told often enough.
    pub limited: u64,
    /// Nobody was told, by rule.
    pub withheld: u64,
    /// The host did not let the answer out.
    pub unsent: u64,
    /// The rule by which nobody was told when the last such packet came; `None`: nothing stands against it.
    pub silent_because: Option<String>,
}

/// The inner peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its address.
    pub address: String,
    /// Whether it was asked and answered; `None`: not asked.
    pub answers: Option<bool>,
    /// Round trip in milliseconds, when it answered.
    pub round_trip_ms: Option<f64>,
}

/// GRE packets that matched no tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unmatched {
    /// Outer source.
    pub source: String,
    /// Outer destination.
    pub destination: String,
    /// Key, when one was there.
    pub key: Option<u32>,
    /// GRE protocol type.
    pub protocol_type: u16,
    /// How many.
    pub packets: u64,
    /// Seconds since the last one.
    pub last_seen_seconds: f64,
}

/// The reason for what names no endpoint. A host says much to everybody, so that this counts least.
const NO_ENDPOINT: &str = "no-endpoint";

/// What a verdict is drawn from.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The tunnel as far as it is filled in.
    pub tunnel: &'a TunnelStatus,
    /// All that matched no tunnel.
    pub unmatched: &'a [Unmatched],
}

impl Facts<'_> {
    /// The state and the line that says it.
    pub fn verdict(&self) -> (State, String) {
        let tunnel = self.tunnel;
        let name = &tunnel.spec.name;
        match &tunnel.device {
            None if tunnel.moved => {}
            None => {
                return (
                    State::Down,
                    format!("{name} down · its device is gone: `greway tunnel del {name}`"),
                );
            }
            Some(device) if !device.up => {
                return (State::Down, format!("{name} down · the device is down: `ip link set {name} up`"));
            }
            Some(_) => {}
        }
        let counters = &tunnel.counters;
        let peer = tunnel.peer.as_ref();
        if counters.received_packets > 0 {
            let mut line = format!("{name} up");
            if let Some(seconds) = tunnel.last_received_seconds {
                line.push_str(&format!(" · last received {} ago", Ago(seconds)));
            }
            match peer {
                Some(Peer { address, round_trip_ms: Some(ms), .. }) => {
                    line.push_str(&format!(" · peer {address} answers, {}", Milliseconds(*ms)));
                }
                Some(Peer { address, answers: Some(false), .. }) => {
                    line.push_str(&format!(" · peer {address} does not answer an echo now"));
                }
                _ if tunnel.moved => line.push_str(" · its device is in another network namespace"),
                _ => {}
            }
            return (State::Up, line);
        }
        let sent = counters.sent_packets;
        if let Some(cause) = self.cause_of_silence() {
            return (State::NoAnswer, format!("{name} not working · sent {sent}, received 0: {cause}"));
        }
        if sent == 0 && self.telling_drops().next().is_none() {
            let hint = match peer {
                None => " · no inner peer address is known, so nothing was asked",
                Some(_) => "",
            };
            return (State::Idle, format!("{name} up · nothing sent or received yet{hint}"));
        }
        let why = match tunnel.spec.remote {
            None => "nobody has sent into it yet, or protocol 47 is filtered on the way".to_owned(),
            Some(group) if group.is_multicast() => {
                format!("nobody in {group} has sent yet, or protocol 47 or the group is filtered on the way")
            }
            Some(_) => "the far end is not up or protocol 47 is filtered on the way".to_owned(),
        };
        (State::NoAnswer, format!("{name} no answer · sent {sent}, received 0: {why}"))
    }

    /// The drops that may be why nothing arrives. A tunnel without a remote finds no endpoint for what this
    /// host says to everybody, such as router solicitations; that explains nothing where it has endpoints.
    fn telling_drops(&self) -> impl Iterator<Item = &Drop> {
        let spec = &self.tunnel.spec;
        let named =
            !spec.inner.neighbours.is_empty() || spec.inner.routes.iter().any(|route| route.via.is_some());
        let has_endpoints = spec.remote.is_none() && (named || self.tunnel.counters.sent_packets > 0);
        self.tunnel.drops.iter().filter(move |drop| !(has_endpoints && drop.reason == NO_ENDPOINT))
    }

    /// What this end can see of why nothing arrives.
    fn cause_of_silence(&self) -> Option<String> {
        let spec = &self.tunnel.spec;
        let most = self.telling_drops().max_by_key(|drop| (drop.reason != NO_ENDPOINT, drop.packets));
        if let Some(drop) = most {
            return Some(format!("{} dropped, {}: {}", drop.packets, drop.reason, drop.explanation));
        }
        let Some(stranger) = self.stranger() else { return self.cause_by_icmp() };
        let remote = &stranger.source;
        let has = stranger.key.map_or_else(|| "no key".to_owned(), |key| format!("key {key}"));
        let wants = spec.ikey.map_or_else(|| "no key".to_owned(), |key| format!("key {key}"));
        if stranger.key != spec.ikey {
            return Some(format!("{remote} sends packets with {has}, this tunnel takes {wants}"));
        }
        Some(format!(
            "{remote} sends packets to {}, which is not this tunnel's `local`",
            stranger.destination
        ))
    }

    /// GRE that matched no tunnel and may have been meant for this one: of its remote, or to its group. Who means a
    /// tunnel without a remote is known by its local address, and by a key that is another one.
    fn stranger(&self) -> Option<&Unmatched> {
        let spec = &self.tunnel.spec;
        let is = |text: &str, address: std::net::IpAddr| text.parse() == Ok(address);
        self.unmatched.iter().find(|packet| match (spec.remote, spec.local) {
            (Some(group), _) if group.is_multicast() => {
                is(&packet.destination, group) && packet.key != spec.ikey
            }
            (Some(remote), _) => is(&packet.source, remote),
            (None, Some(local)) => is(&packet.destination, local) && packet.key != spec.ikey,
            (None, None) => false,
        })
    }

    /// What an error says that came a short while ago and is about more than the size of a packet.
    fn cause_by_icmp(&self) -> Option<String> {
        /// What was said longer ago, in seconds, is not why nothing comes now.
        const SHORT_WHILE: f64 = 120.0;
        let is_cause = |error: &&IcmpError| {
            let over_ipv6 = self.tunnel.spec.mode.over_ipv6();
            match (over_ipv6, error.icmp_type, error.icmp_code) {
                (false, 3, 4) | (true, 2, _) => false,
                (over_ipv6, kind, _) => over_ipv6 || matches!(kind, 3 | 11),
            }
        };
        let mut recent = self.tunnel.icmp_errors.iter().filter(|error| error.last_seconds < SHORT_WHILE);
        let error = recent.find(is_cause)?;
        Some(format!("{} says {}: {}", error.from, error.error, error.explanation))
    }
}

/// A time span as people say it.
pub struct Ago(pub f64);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds < 1.0 => write!(f, "less than 1 s"),
            seconds if seconds < 120.0 => write!(f, "{seconds:.0} s"),
            seconds if seconds < 7_200.0 => write!(f, "{:.0} min", seconds / 60.0),
            seconds if seconds < 172_800.0 => write!(f, "{:.0} h", seconds / 3_600.0),
            seconds => write!(f, "{:.0} days", seconds / 86_400.0),
        }
    }
}

/// Milliseconds with as many digits as mean something.
pub struct Milliseconds(pub f64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms < 1.0 => write!(f, "{ms:.2} ms"),
            ms if ms < 10.0 => write!(f, "{ms:.1} ms"),
            ms => write!(f, "{ms:.0} ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use greway_spec::{Draft, InnerNeighbour};

    use super::*;

    /// A tunnel without a remote whose host has told everybody that it is there.
    fn without_remote(neighbours: Vec<InnerNeighbour>) -> TunnelStatus {
        let address = |text: &str| text.parse().unwrap();
        let mut draft = Draft::new("tun0".parse().unwrap(), address("10.0.0.1"), address("0.0.0.0"));
        draft.neighbours = Some(neighbours.into_iter().map(Into::into).collect());
        let solicitations = Drop {
            reason: "no-endpoint".to_owned(),
            direction: "transmit".to_owned(),
            packets: 5,
            explanation: "no neighbour names one".to_owned(),
        };
        TunnelStatus {
            spec: draft.into_spec().unwrap(),
            verdict: String::new(),
            state: State::Idle,
            device: Some(Device { index: 4, up: true, mtu: 1_476, addresses: Vec::new() }),
            moved: false,
            datapath: Carried {
                datapath: "userspace".to_owned(),
                witnesses: None,
                not_ebpf: None,
                overlay: "veth".to_owned(),
                underlay: "raw".to_owned(),
                why: String::new(),
                exit: None,
                super_packets: false,
                early_drop: false,
            },
            counters: Counters::default(),
            last_received_seconds: None,
            last_sent_seconds: None,
            sequence: None,
            drops: vec![solicitations],
            left_to_userspace: Vec::new(),
            icmp_errors: Vec::new(),
            unreachable_told: 0,
            peer: None,
            notes: Vec::new(),
            findings: Vec::new(),
        }
    }

    #[test]
    fn what_a_host_says_to_everybody_is_no_reason_where_endpoints_are_named() {
        let verdict = |tunnel: &TunnelStatus| Facts { tunnel, unmatched: &[] }.verdict();
        let (state, line) = verdict(&without_remote(Vec::new()));
        assert!(state == State::NoAnswer && line.contains("no neighbour names one"), "{line}");

        let neighbour =
            InnerNeighbour { address: "172.16.0.2".parse().unwrap(), endpoint: "10.0.0.2".parse().unwrap() };
        let (state, line) = verdict(&without_remote(vec![neighbour]));
        assert!(state == State::Idle && line.contains("nothing sent or received yet"), "{line}");

        let mut sent = without_remote(Vec::new());
        sent.counters.sent_packets = 3;
        let (state, line) = verdict(&sent);
        assert!(state == State::NoAnswer && line.contains("nobody has sent into it yet"), "{line}");

        let mut refused = without_remote(Vec::new());
        refused.drops.push(Drop { reason: "no-route".to_owned(), packets: 1, ..refused.drops[0].clone() });
        let (_, line) = verdict(&refused);
        assert!(line.contains("1 dropped, no-route"), "{line}");
    }
}
