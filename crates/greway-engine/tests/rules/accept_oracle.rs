//! What a Linux 6.1 kernel did with crafted packets, one at a time, and what the engine does.
//!
//! `oracle/accept.tsv`: tunnel, case, verdict, counters that moved, kind of answer, TOS of the payload
//! packet that answered (which is that of the request after decapsulation), the datagram.

use std::net::Ipv4Addr;

use crate::support::{Host, LOCAL, PLAIN, hex, spec};
use greway_engine::{DeclineReason, Verdict};
use greway_spec::TunnelSpec;
use greway_wire::ipv4::Ipv4Header;

const NAMES: [&str; 6] = ["plain", "key", "csum", "seq", "full", "key0"];

fn kernel_tunnels() -> Vec<TunnelSpec> {
    let mut specs: Vec<_> = (11..17).map(|last| spec(LOCAL, Ipv4Addr::new(10, 9, 0, last))).collect();
    let both = |spec: &mut TunnelSpec, key| {
        spec.ikey = key;
        spec.okey = key;
    };
    both(&mut specs[1], Some(42));
    specs[2].icsum = true;
    specs[3].iseq = true;
    both(&mut specs[4], Some(42));
    specs[4].icsum = true;
    specs[4].iseq = true;
    both(&mut specs[5], Some(0));
    specs
}

/// The recording is a selection, and the state of a sequence carries over. Each tunnel got the same
/// series, so the two numbers that were sent between the rows there are known from the other tunnel.
const MISSING: [(&str, &str, u32); 2] =
    [("seq", "seq 1003", 1005), ("full", "seq 2147484654", 2_147_483_647)];

#[test]
fn rx01_to_rx25_as_the_kernel() {
    let mut host = Host::new(&kernel_tunnels());
    let mut rows = 0;
    for line in include_str!("../oracle/accept.tsv").lines().skip(1) {
        let [name, case, verdict, counters, answer, reply_tos, bytes] =
            line.split('\t').collect::<Vec<_>>()[..]
        else {
            panic!("seven columns: {line}");
        };
        let mut bytes = hex(bytes);
        let index = NAMES.iter().position(|n| *n == name).unwrap();
        if let Some((.., number)) = MISSING.iter().find(|row| (row.0, row.1) == (name, case)) {
            host.tunnels[index].1.expected_sequence = number + 1;
        }
        let verdict_of_engine = host.receive(&mut bytes, PLAIN);
        let context = format!("{name}: {case}: {verdict_of_engine:?}");
        rows += 1;
        match (verdict, answer) {
            ("accept" | "accept+reply", _) => {
                let Verdict::Deliver(delivery) = verdict_of_engine else { panic!("{context}") };
                assert_eq!(delivery.tunnel.0 as usize, index, "{context}");
                if reply_tos != "-" {
                    let inner = &bytes[delivery.inner];
                    let tos = if inner[0] >> 4 == 4 { inner[1] } else { inner[0] << 4 | inner[1] >> 4 };
                    assert_eq!(format!("{tos:02x}"), reply_tos, "{context}");
                    let whole = Ipv4Header::parse(inner).map(|h| h.header_len()).unwrap_or(0);
                    assert!(whole == 0 || greway_wire::checksum::verifies(&inner[..whole]), "{context}");
                }
            }
            ("drop", "port-unreachable") => {
                let no_tunnel = matches!(verdict_of_engine, Verdict::Decline(DeclineReason::NoTunnel { .. }));
                assert!(no_tunnel, "{context}");
            }
            ("drop", "-") => match verdict_of_engine {
                Verdict::Drop { reason, .. } => assert_eq!(reason.kernel_counter(), None, "{context}"),
                Verdict::Decline(reason) => assert_eq!(reason, DeclineReason::Version1Pptp, "{context}"),
                Verdict::Deliver(_) => panic!("{context}"),
            },
            ("error", _) => {
                let Verdict::Drop { tunnel, reason } = verdict_of_engine else { panic!("{context}") };
                assert_eq!(tunnel.map(|t| t.0 as usize), Some(index), "{context}");
                let counter = reason.kernel_counter().unwrap_or("none");
                assert_eq!(counters, format!("{name}.rx_errors+1 {name}.{counter}+1"), "{context}");
            }
            _ => panic!("a verdict of the recording that is not known: {line}"),
        }
    }
    assert_eq!(rows, 134, "rows of the recording");
    assert_eq!(host.counted(), rows);
}
