//! What is measured, and how a figure is asked for, read and written.

use anyhow::{Context, bail};
use serde_json::Value;

use super::peers::Peer;

/// A figure that is wanted of every peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// One TCP stream: bits a second of payload.
    Tcp,
    /// One the other way.
    TcpBack,
    /// Eight at once.
    TcpEight,
    /// Eight the other way.
    TcpEightBack,
    /// One stream where every packet is one segment: without segmentation or receive offload anywhere.
    TcpNoGso,
    /// Processor time of the whole machine, both ends and whoever makes the traffic, for a gigabyte of one stream.
    CpuMachine,
    /// That of the daemons alone, both of them.
    CpuDaemons,
    /// UDP with 64 bytes of payload: datagrams a second that arrive.
    Udp64,
    /// With 512.
    Udp512,
    /// With 1400, which is a whole packet of any tunnel.
    Udp1400,
    /// Echo requests back to back: the median in nanoseconds.
    RoundTrip,
    /// What 99 of 100 of them stay below.
    RoundTripTail,
    /// Echo requests through the path that a TCP stream fills: the median.
    Loaded,
    /// What 99 of 100 of them stay below.
    LoadedTail,
    /// The same through another tunnel between the same hosts.
    Beside,
    /// What 99 of 100 of them stay below.
    BesideTail,
    /// From nothing to a tunnel that answers: nanoseconds.
    StartUp,
    /// Datagrams lost over `kill -9` and restart of both daemons, of 100,000 a second.
    Restart,
}

/// One run of `greway-load`; it may give several figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    Tcp { streams: u8, back: bool },
    Udp { size: u16 },
    Ping,
    Loaded { beside: bool },
}

/// How long each measurement takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) tcp_ms: u32,
    pub(super) udp_ms: u32,
    pub(super) pings: u32,
    pub(super) loaded_ms: u32,
}

impl Run {
    /// The words for `greway-load`. A bulk transfer beside pings goes to `bulk`; `daemons` are those whose time is asked
    /// for.
    pub(super) fn words(self, sizes: &Sizes, bulk: &str, daemons: &[u32]) -> String {
        match self {
            Self::Tcp { streams, .. } => {
                let daemons: String = daemons.iter().map(|pid| format!(" {pid}")).collect();
                format!("tcp {} {streams}{daemons}", sizes.tcp_ms)
            }
            Self::Udp { size } => format!("udp {size} {}", sizes.udp_ms),
            Self::Ping => format!("ping {}", sizes.pings),
            Self::Loaded { .. } => format!("loaded {bulk} {}", sizes.loaded_ms),
        }
    }
}

impl Measure {
    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Tcp => "TCP, one stream",
            Self::TcpBack => "TCP, one stream back",
            Self::TcpEight => "TCP, eight streams",
            Self::TcpEightBack => "TCP, eight streams back",
            Self::TcpNoGso => "TCP without GSO",
            Self::CpuMachine => "CPU of the machine for 1 GB",
            Self::CpuDaemons => "CPU of the daemons for 1 GB",
            Self::Udp64 => "UDP, 64 bytes",
            Self::Udp512 => "UDP, 512 bytes",
            Self::Udp1400 => "UDP, 1400 bytes",
            Self::RoundTrip => "ping round trip",
            Self::RoundTripTail => "ping round trip, p99",
            Self::Loaded => "ping in a full tunnel",
            Self::LoadedTail => "ping in a full tunnel, p99",
            Self::Beside => "ping beside a full tunnel",
            Self::BesideTail => "ping beside a full tunnel, p99",
            Self::StartUp => "start-up",
            Self::Restart => "lost over kill -9",
        }
    }

    /// For programs.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::TcpBack => "tcp-back",
            Self::TcpEight => "tcp-8",
            Self::TcpEightBack => "tcp-8-back",
            Self::TcpNoGso => "tcp-no-gso",
            Self::CpuMachine => "cpu-machine",
            Self::CpuDaemons => "cpu-daemons",
            Self::Udp64 => "udp-64",
            Self::Udp512 => "udp-512",
            Self::Udp1400 => "udp-1400",
            Self::RoundTrip => "round-trip",
            Self::RoundTripTail => "round-trip-p99",
            Self::Loaded => "loaded",
            Self::LoadedTail => "loaded-p99",
            Self::Beside => "beside",
            Self::BesideTail => "beside-p99",
            Self::StartUp => "start-up",
            Self::Restart => "restart",
        }
    }

    /// For programs.
    pub(super) fn unit(self) -> &'static str {
        match self.kind() {
            Kind::Bits => "bit/s",
            Kind::Packets => "packet/s",
            Kind::Time => "ns",
            Kind::Processor => "s/GB",
            Kind::Count => "packets",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Tcp | Self::TcpBack | Self::TcpEight | Self::TcpEightBack | Self::TcpNoGso => Kind::Bits,
            Self::CpuMachine | Self::CpuDaemons => Kind::Processor,
            Self::Udp64 | Self::Udp512 | Self::Udp1400 => Kind::Packets,
            Self::RoundTrip | Self::RoundTripTail | Self::StartUp => Kind::Time,
            Self::Loaded | Self::LoadedTail | Self::Beside | Self::BesideTail => Kind::Time,
            Self::Restart => Kind::Count,
        }
    }

    /// A figure with its unit.
    pub(super) fn write(self, value: f64) -> String {
        match self.kind() {
            Kind::Bits => format!("{:.2} Gbit/s", value / 1e9),
            Kind::Packets => format!("{:.0} kpps", value / 1e3),
            Kind::Time => time(value),
            Kind::Processor => format!("{value:.2} s"),
            Kind::Count => format!("{value:.0}"),
        }
    }

    /// Whether less is better.
    pub(super) fn is_price(self) -> bool {
        !matches!(self.kind(), Kind::Bits | Kind::Packets)
    }

    /// Whether figures are compared by their ratio and not by their difference.
    pub(super) fn is_ratio(self) -> bool {
        !matches!(self.kind(), Kind::Time | Kind::Count)
    }

    /// Whether a peer is asked this. Restarting needs a daemon, and so does the time of one; the bare link shows that the
    /// stream itself loses none. A link is nothing that starts, and has no other tunnel beside it.
    pub(super) fn is_of(self, peer: Peer) -> bool {
        match self {
            Self::Restart => peer == Peer::Bare || peer.datapath().is_some(),
            Self::CpuDaemons => peer == Peer::Ovs || peer.datapath().is_some(),
            Self::StartUp | Self::Beside | Self::BesideTail => !peer.is_bare(),
            _ => true,
        }
    }

    /// One figure beside another: over it, or minus it for what is a price to be added.
    pub(super) fn compare(self, one: f64, other: f64) -> f64 {
        if self.is_ratio() { one / other } else { one - other }
    }

    /// What [`Measure::compare`] gave, in words.
    pub(super) fn write_comparison(self, value: f64) -> String {
        match self.kind() {
            Kind::Time => format!("{}{}", if value < 0.0 { "-" } else { "+" }, time(value.abs())),
            Kind::Count => format!("{value:+.0}"),
            Kind::Bits | Kind::Packets | Kind::Processor => format!("{value:.2}"),
        }
    }

    /// The run of `greway-load` that tells it; none for what takes more than that.
    pub(super) fn run(self) -> Option<Run> {
        let tcp = |streams, back| Run::Tcp { streams, back };
        Some(match self {
            Self::Tcp | Self::TcpNoGso | Self::CpuMachine | Self::CpuDaemons => tcp(1, false),
            Self::TcpBack => tcp(1, true),
            Self::TcpEight => tcp(8, false),
            Self::TcpEightBack => tcp(8, true),
            Self::Udp64 => Run::Udp { size: 64 },
            Self::Udp512 => Run::Udp { size: 512 },
            Self::Udp1400 => Run::Udp { size: 1400 },
            Self::RoundTrip | Self::RoundTripTail => Run::Ping,
            Self::Loaded | Self::LoadedTail => Run::Loaded { beside: false },
            Self::Beside | Self::BesideTail => Run::Loaded { beside: true },
            Self::StartUp | Self::Restart => return None,
        })
    }

    /// The figure in what `greway-load` says.
    pub(super) fn read(self, said: &str) -> anyhow::Result<f64> {
        let line = said.lines().last().context("greway-load said nothing")?;
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("greway-load said `{line}`"))?;
        let number =
            |key: &str| value[key].as_f64().with_context(|| format!("greway-load said no {key}: `{line}`"));
        // Nanoseconds a byte are seconds a gigabyte.
        Ok(match self {
            Self::CpuMachine => number("machine_nanos")? / number("bytes")?,
            Self::CpuDaemons => number("process_nanos")? / number("bytes")?,
            Self::Restart => number("lost")?,
            Self::RoundTrip | Self::RoundTripTail => {
                let (lost, answered) = (number("lost")?, number("answered")?);
                if lost * 100.0 > answered {
                    bail!("{lost} of {} pings were lost", lost + answered);
                }
                number(if self == Self::RoundTrip { "median_nanos" } else { "p99_nanos" })?
            }
            Self::Loaded | Self::LoadedTail | Self::Beside | Self::BesideTail => {
                let tail = matches!(self, Self::LoadedTail | Self::BesideTail);
                let key = if tail { "p99_nanos" } else { "median_nanos" };
                let (lost, answered) = (number("lost")?, number("answered")?);
                let lost = || format!("{lost} of {} pings were lost", lost + answered);
                value[key].as_f64().with_context(lost)?
            }
            _ if self.kind() == Kind::Bits => number("bytes")? * 8e9 / number("nanos")?,
            _ => number("packets")? * 1e9 / number("nanos")?,
        })
    }
}

/// What a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bits,
    Packets,
    /// In nanoseconds.
    Time,
    /// Seconds a gigabyte.
    Processor,
    Count,
}

/// Nanoseconds for people.
fn time(nanos: f64) -> String {
    match nanos {
        ..1e6 => format!("{:.1} µs", nanos / 1e3),
        ..1e9 => format!("{:.1} ms", nanos / 1e6),
        _ => format!("{:.2} s", nanos / 1e9),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn figures_are_read_in_their_units() {
        let tcp = Measure::Tcp.read(r#"{"bytes":1000000,"nanos":1000000}"#).unwrap();
        assert_eq!(Measure::Tcp.write(tcp), "8.00 Gbit/s");
        let udp = Measure::Udp64.read(r#"{"packets":250,"nanos":1000000,"sent":9,"sent_nanos":1}"#).unwrap();
        assert_eq!(Measure::Udp64.write(udp), "250 kpps");
        let ping = Measure::RoundTrip.read(r#"{"answered":200,"lost":0,"median_nanos":6290}"#).unwrap();
        assert_eq!(Measure::RoundTrip.write(ping), "6.3 µs");
        let lost = Measure::Restart.read("first\n{\"sent\":5,\"lost\":3}\n").unwrap();
        assert_eq!(Measure::Restart.write(lost), "3");
    }

    #[test]
    fn what_says_nothing_or_loses_pings_has_no_figure() {
        assert!(Measure::Tcp.read("").is_err());
        assert!(Measure::Tcp.read("{}").is_err());
        let error = Measure::RoundTrip.read(r#"{"answered":0,"lost":5,"median_nanos":null}"#).unwrap_err();
        assert_eq!(error.to_string(), "5 of 5 pings were lost");
    }

    #[test]
    fn a_round_trip_costs_more_and_a_rate_is_a_share() {
        assert_eq!(
            Measure::RoundTrip.write_comparison(Measure::RoundTrip.compare(9300.0, 6000.0)),
            "+3.3 µs"
        );
        assert_eq!(Measure::Udp64.write_comparison(Measure::Udp64.compare(3.0, 4.0)), "0.75");
    }
}
