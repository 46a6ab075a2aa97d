//! What is measured, and how a figure is asked for, read and written.

use anyhow::{Context, bail};
use serde_json::Value;

use super::peers::Peer;

/// A question to every peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// One TCP stream: bits a second of payload.
    Tcp,
    /// The same where every packet is one segment: without segmentation or receive offload anywhere.
    TcpNoGso,
    /// UDP with 64 bytes of payload: datagrams a second that arrive.
    Udp,
    /// Echo requests back to back: the median in nanoseconds.
    RoundTrip,
    /// Datagrams lost over `kill -9` and restart of both daemons, of 100,000 a second.
    Restart,
}

/// How long each measurement takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) tcp_ms: u32,
    pub(super) udp_ms: u32,
    pub(super) pings: u32,
}

impl Measure {
    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Tcp => "TCP, one stream",
            Self::TcpNoGso => "TCP without GSO",
            Self::Udp => "UDP, 64 bytes",
            Self::RoundTrip => "ping round trip",
            Self::Restart => "lost over kill -9",
        }
    }

    /// For programs.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::TcpNoGso => "tcp-no-gso",
            Self::Udp => "udp-64",
            Self::RoundTrip => "round-trip",
            Self::Restart => "restart",
        }
    }

    /// For programs.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Tcp | Self::TcpNoGso => "bit/s",
            Self::Udp => "packet/s",
            Self::RoundTrip => "ns",
            Self::Restart => "packets",
        }
    }

    /// A figure with its unit.
    pub(super) fn write(self, value: f64) -> String {
        match self {
            Self::Tcp | Self::TcpNoGso => format!("{:.2} Gbit/s", value / 1e9),
            Self::Udp => format!("{:.0} kpps", value / 1e3),
            Self::RoundTrip => format!("{:.1} µs", value / 1e3),
            Self::Restart => format!("{value:.0}"),
        }
    }

    /// Whether a peer is asked this. Restarting needs a daemon; the bare link shows that the stream itself loses none.
    pub(super) fn is_of(self, peer: Peer) -> bool {
        self != Self::Restart || peer == Peer::Bare || peer.datapath().is_some()
    }

    /// One figure beside another: over it, or minus it for what is a price to be added.
    pub(super) fn compare(self, one: f64, other: f64) -> f64 {
        match self {
            Self::RoundTrip | Self::Restart => one - other,
            _ => one / other,
        }
    }

    /// What [`Measure::compare`] gave, in words.
    pub(super) fn write_comparison(self, value: f64) -> String {
        match self {
            Self::RoundTrip => format!("{:+.1} µs", value / 1e3),
            Self::Restart => format!("{value:+.0}"),
            _ => format!("{value:.2}"),
        }
    }

    /// The words for `greway-load`; none for what takes more than that.
    pub(super) fn words(self, sizes: &Sizes) -> Option<String> {
        Some(match self {
            Self::Tcp | Self::TcpNoGso => format!("tcp {}", sizes.tcp_ms),
            Self::Udp => format!("udp 64 {}", sizes.udp_ms),
            Self::RoundTrip => format!("ping {}", sizes.pings),
            Self::Restart => return None,
        })
    }

    /// The figure in what `greway-load` says.
    pub(super) fn read(self, said: &str) -> anyhow::Result<f64> {
        let line = said.lines().last().context("greway-load said nothing")?;
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("greway-load said `{line}`"))?;
        let number =
            |key: &str| value[key].as_f64().with_context(|| format!("greway-load said no {key}: `{line}`"));
        Ok(match self {
            Self::Tcp | Self::TcpNoGso => number("bytes")? * 8e9 / number("nanos")?,
            Self::Udp => number("packets")? * 1e9 / number("nanos")?,
            Self::RoundTrip => {
                let (lost, answered) = (number("lost")?, number("answered")?);
                if lost * 100.0 > answered {
                    bail!("{lost} of {} pings were lost", lost + answered);
                }
                number("median_nanos")?
            }
            Self::Restart => number("lost")?,
        })
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn figures_are_read_in_their_units() {
        let tcp = Measure::Tcp.read(r#"{"bytes":1000000,"nanos":1000000}"#).unwrap();
        assert_eq!(Measure::Tcp.write(tcp), "8.00 Gbit/s");
        let udp = Measure::Udp.read(r#"{"packets":250,"nanos":1000000,"sent":9,"sent_nanos":1}"#).unwrap();
        assert_eq!(Measure::Udp.write(udp), "250 kpps");
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
        assert_eq!(Measure::Udp.write_comparison(Measure::Udp.compare(3.0, 4.0)), "0.75");
    }
}
