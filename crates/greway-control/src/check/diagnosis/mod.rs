//! The diagnoses, one a file, in the order of a packet's way: each a pure function from [`Facts`] to what it
//! found. A test of a diagnosis writes down facts; a test of all of them breaks a real tunnel.

pub mod addresses;
pub mod black_hole;
pub mod checksum;
pub mod daemon;
pub mod destination;
pub mod device;
pub mod device_mtu;
pub mod ends;
pub mod far_end;
pub mod far_forwarding;
mod firewall;
pub mod forward_rules;
pub mod forwarding;
pub mod inner_outer;
pub mod input_rules;
pub mod ipsec;
pub mod kernel_gre;
pub mod key;
pub mod local;
pub mod output_rules;
pub mod peer_route;
pub mod return_path;
pub mod reverse_path;
pub mod route;
pub mod sequence;
pub mod twin;
pub mod underlay_reverse_path;
pub mod way_back;

use super::{Facts, Outcome};

/// Why nothing is said about a far end of a tunnel that has many.
const ONE_FAR_END: &str = "the tunnel has no one far end: its remote is any, or a group";

/// One diagnosis.
#[derive(Clone, Copy, Debug)]
pub struct Diagnosis {
    /// Its name, in kebab case.
    pub id: &'static str,
    /// What it looks at, for people.
    pub looks_at: &'static str,
    /// The names of its findings.
    pub findings: &'static [&'static str],
    /// What it finds.
    pub find: fn(&Facts) -> Outcome,
}

macro_rules! diagnoses {
    ($($module:ident => $id:literal, [$($finding:literal),+], $looks_at:literal;)+) => {
        /// All of them, in the order of a packet's way.
        pub const ALL: &[Diagnosis] =
            &[$(Diagnosis { id: $id, looks_at: $looks_at, findings: &[$($finding),+], find: $module::find }),+];
    };
}

diagnoses! {
    daemon => "daemon", ["daemon-dead", "not-up", "daemon-silent", "not-carried", "device-moved"], "whether a daemon carries the tunnel";
    device => "device", ["device-down", "no-carrier"], "whether the tunnel device is there and up";
    addresses => "addresses", ["address-missing", "route-missing"], "whether addresses and routes of the tunnel's file are there";
    inner_outer => "inner-outer", ["inner-is-outer"], "whether the peer's inner address is another one than its outer one";
    peer_route => "peer-route", ["peer-is-here", "peer-not-through-tunnel"], "whether packets for the inner peer go into the tunnel";
    reverse_path => "reverse-path", ["rp-filter"], "whether rp_filter lets in what comes out of the tunnel";
    device_mtu => "device-mtu", ["mtu-larger-than-path"], "whether the tunnel device's MTU fits the path";
    ends => "ends", ["ends-swapped", "both-ends-here"], "whether local and remote are this host and another one";
    local => "local", ["local-not-here"], "whether local is an address of this host";
    route => "route", ["route-through-tunnel", "underlay-down", "no-route"], "whether there is a way to the remote";
    ipsec => "ipsec", ["ipsec-blocks", "ipsec-no-state"], "whether IPsec policies let GRE pass";
    output_rules => "output-rules", ["output-drops-gre"], "whether the firewall lets GRE out";
    far_end => "far-end", ["far-end-quiet", "far-end-silent", "protocol-47-filtered", "far-end-no-gre", "far-end-no-tunnel", "far-end-unreachable"], "whether GRE reaches the far end and is answered";
    underlay_reverse_path => "underlay-reverse-path", ["rp-filter-underlay"], "whether rp_filter lets in the far end's GRE";
    input_rules => "input-rules", ["input-takes-answers-only", "conntrack-invalid", "input-drops-gre"], "whether the firewall lets GRE in";
    key => "key", ["key-mismatch", "sent-elsewhere"], "whether both ends use one key and the same addresses";
    checksum => "checksum", ["checksum-mismatch", "checksum-wrong"], "whether both ends agree on checksums";
    sequence => "sequence", ["sequence-mismatch", "sequence-late"], "whether both ends agree on sequence numbers";
    twin => "twin", ["same-inner-address"], "whether the far end has another inner address than this one";
    black_hole => "black-hole", ["mtu-black-hole"], "whether packets of the device's MTU pass";
    forwarding => "forwarding", ["no-forwarding"], "whether this host forwards what it should";
    forward_rules => "forward-rules", ["forward-drops"], "whether the firewall lets pass what is forwarded";
    far_forwarding => "far-forwarding", ["far-end-no-route", "far-end-does-not-forward"], "whether the far end hands on what is for the networks behind it";
    way_back => "way-back", ["no-way-back"], "whether the far end knows the way back to the networks here";
    return_path => "return-path", ["no-return-path"], "whether hosts behind this one know the way back to the peer";
    destination => "destination", ["not-through-tunnel", "destination-silent"], "whether the host behind the far end that was named answers";
    kernel_gre => "kernel-gre", ["kernel-tunnel", "module-ip-gre"], "whether the kernel's own GRE is in the way";
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use greway_spec::Draft;

    use super::*;
    use crate::check::facts::{Daemon, HostFacts, Probes};
    use crate::status::{Carried, Counters, State, Status, TunnelStatus};

    /// A tunnel that sends and hears nothing, on a host without rules.
    pub(in crate::check) fn facts() -> Facts {
        let address = |text: &str| text.parse().unwrap();
        let draft = Draft::new("tun0".parse().unwrap(), address("10.0.0.1"), address("10.0.0.2"));
        let spec = draft.into_spec().unwrap();
        let tunnel = TunnelStatus {
            spec: spec.clone(),
            verdict: String::new(),
            state: State::NoAnswer,
            device: None,
            moved: false,
            datapath: Carried {
                datapath: "userspace".to_owned(),
                not_ebpf: None,
                witnesses: None,
                overlay: "veth".to_owned(),
                underlay: "raw".to_owned(),
                why: String::new(),
                exit: None,
                super_packets: false,
                early_drop: false,
            },
            counters: Counters { sent_packets: 3, ..Counters::default() },
            last_received_seconds: None,
            last_sent_seconds: None,
            sequence: None,
            drops: Vec::new(),
            left_to_userspace: Vec::new(),
            icmp_errors: Vec::new(),
            unreachable_told: 0,
            peer: None,
            notes: Vec::new(),
            findings: Vec::new(),
        };
        let status = Arc::new(Status { tunnels: vec![tunnel], ..Status::default() });
        Facts {
            spec,
            daemon: Daemon::Answers { before: status.clone(), after: status },
            host: HostFacts {
                devices: Arc::default(),
                way: Ok(None),
                free_way: None,
                peers: Vec::new(),
                routes: Vec::new(),
                forwards_v4: false,
                forwards_v6: false,
                reverse_path: Arc::default(),
                ruleset: Ok(Arc::default()),
                ipsec: Ok(Default::default()),
                ip6tables_legacy: false,
                kernel_gre: Arc::default(),
                connections: Ok(Arc::default()),
            },
            probes: Probes::none("not asked"),
        }
    }

    /// The names of what a diagnosis found.
    pub(in crate::check) fn ids(outcome: Outcome) -> Vec<String> {
        match outcome {
            Outcome::Found(findings) => findings.into_iter().map(|finding| finding.id).collect(),
            Outcome::Fine => Vec::new(),
            Outcome::NotLooked(reason) => panic!("not looked: {reason}"),
        }
    }

    #[test]
    fn names_are_kebab_case_and_unique() {
        let names = ALL.iter().map(|diagnosis| diagnosis.id).collect::<HashSet<_>>();
        assert_eq!(names.len(), ALL.len());
        for diagnosis in ALL {
            let kebab = |letter: char| letter.is_ascii_lowercase() || letter == '-';
            assert!(diagnosis.id.chars().all(kebab), "{diagnosis:?}");
            assert!(diagnosis.looks_at.starts_with("whether "), "{diagnosis:?}");
        }
    }
}
