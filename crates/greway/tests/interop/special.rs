//! Tunnels whose delivery is not to one configured address by the main routing table: by a firewall mark, to a group,
//! and to whomever a neighbour or a next hop names.

use std::process::Command;

use greway_testbed::{Capture, PingOptions, PingReport, ping, poll_until};

use crate::lab::{Interop, LONG, MIB};
use crate::outer::has_end;
use crate::support::{SOON, in_vain};

/// Runs `ip` with these words on greway's host.
fn ip(lab: &Interop, words: &str) {
    let output = lab.host.output(Command::new("ip").args(words.split_whitespace())).unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Pings both ways, small and larger than the path, and a bulk both ways, between the inner addresses `PREFIX1` and `PREFIX2`.
fn carries(lab: &mut Interop, name: &str, prefix: &str) {
    let [near, far] = [1, 2].map(|end| format!("{prefix}{end}").parse().unwrap());
    poll_until(SOON, &format!("{name}: a first answer of {far}"), || {
        ping(&lab.host, far, &in_vain()).ok().filter(PingReport::complete)
    })
    .unwrap_or_else(|error| panic!("{error}: {}", lab.status(name)));
    for size in [56, 3_000] {
        let options = PingOptions { size, ..PingOptions::default() };
        let report = ping(&lab.host, far, &options).unwrap();
        assert!(report.complete(), "{name}, {size} bytes to {far}: {report}");
        lab.answered(name, near, &options);
    }
    let up = lab.guest.upload(&lab.host, near, MIB / 4, LONG).unwrap();
    assert!(up.intact(), "{name}, from the guest: {up:?}");
    let down = lab.guest.download(&lab.host, near, MIB / 4, LONG).unwrap();
    assert!(down.intact(), "{name}, to the guest: {down:?}");
}

/// Both outer addresses are reached by a table that only the mark leads to.
pub(crate) fn by_firewall_mark(lab: &mut Interop) {
    for (name, mode, family, [near, far], [near_hop, far_hop], bits) in [
        ("m-mark", "gre", "-4", ["10.8.0.1", "10.8.0.2"], ["10.9.0.1", "10.9.0.2"], 32),
        ("m-mark6", "ip6gretap", "-6", ["fd08::1", "fd08::2"], ["fd09::1", "fd09::2"], 128),
    ] {
        lab.host.address("uml0", &format!("{near}/{bits}")).unwrap();
        ip(lab, &format!("{family} rule add fwmark 7 lookup 107"));
        ip(lab, &format!("{family} route add {far} via {far_hop} dev uml0 table 107"));
        let prefix = format!("172.30.{bits}.");
        let make = format!(
            "ip address add {far}/{bits} dev vec0
             ip {family} rule add fwmark 9 lookup 107
             ip {family} route add {near} via {near_hop} dev vec0 table 107
             ip link add {name} type {mode} local {far} remote {near} fwmark 9
             ip address add {prefix}2/24 dev {name}
             ip link set {name} up"
        );
        lab.guest.run(&make).unwrap();
        // Without the mark there is no way to the other end.
        lab.node.words(&format!("tunnel add {name} mode {mode} local {near} remote {far}")).ok();
        lab.host.address(name, &format!("{prefix}1/24")).unwrap();
        let far_inside = format!("{prefix}2").parse().unwrap();
        let report = ping(&lab.host, far_inside, &in_vain()).unwrap();
        assert_eq!(report.received(), 0, "{name} without its mark: {report}");
        lab.node.words(&format!("tunnel change {name} fwmark 7")).ok();
        carries(lab, name, &prefix);
    }
}

/// Neither end has a remote: at each, a neighbour's address or the next hop of a route says where a packet goes.
pub(crate) fn by_neighbour_and_next_hop(lab: &mut Interop) {
    let name = "m-any";
    lab.host.address("uml0", "10.9.0.201/24").unwrap();
    let make = format!(
        "ip link add {name} type gre local 10.9.0.2 key 77
         ip address add 172.29.1.2/24 dev {name}
         ip link set {name} up
         ip neigh add 172.29.1.1 lladdr 10.9.0.201 dev {name} nud permanent"
    );
    lab.guest.run(&make).unwrap();
    lab.node.words(&format!("tunnel add {name} mode gre local 10.9.0.201 remote any key 77")).ok();
    lab.host.address(name, "172.29.1.1/24").unwrap();
    // 02:00 and the endpoint's four bytes.
    ip(lab, &format!("neigh add 172.29.1.2 lladdr 02:00:0a:09:00:02 dev {name} nud permanent"));
    carries(lab, name, "172.29.1.");

    // At greway's end by a next hop that is the endpoint. (The kernel sends to itself without a neighbour entry.)
    lab.guest
        .run(&format!(
            "ip neigh del 172.29.1.1 dev {name}
             ip address add 172.29.2.2/24 dev {name}
             ip neigh add 172.29.2.1 lladdr 10.9.0.201 dev {name} nud permanent"
        ))
        .unwrap();
    ip(lab, &format!("neigh del 172.29.1.2 dev {name}"));
    ip(lab, &format!("address del 172.29.1.1/24 dev {name}"));
    lab.host.address(name, "172.29.2.1/32").unwrap();
    ip(lab, &format!("route add 172.29.2.2/32 via 10.9.0.2 dev {name} onlink src 172.29.2.1"));
    carries(lab, name, "172.29.2.");
}

/// The same over IPv6, with greway as the hub; the kernel's end (6.1) sends nothing without a remote, even where a
/// neighbour entry has the address (16 bytes as a hardware address): all are errors of its device.
pub(crate) fn by_neighbour_over_ipv6(lab: &mut Interop) {
    let name = "m-any6";
    lab.host.address("uml0", "fd09::203/64").unwrap();
    let make = format!(
        "ip link add {name} type ip6gre local fd09::2 remote fd09::203 key 77
         ip address add fd29::2/64 dev {name}
         ip address add 172.29.4.2/24 dev {name}
         ip link set {name} up"
    );
    lab.guest.run(&make).unwrap();
    let text = "mode = \"ip6gre\"\nlocal = \"fd09::203\"\nremote = \"any\"\nkey = 77\n\n\
                [inner]\naddresses = [\"fd29::1/64\", \"172.29.4.1/24\"]\n\n\
                [[inner.neighbours]]\naddress = \"fd29::2\"\nendpoint = \"fd09::2\"\n\n\
                [[inner.neighbours]]\naddress = \"172.29.4.2\"\nendpoint = \"fd09::2\"\n";
    let path = lab.node.file(&format!("{name}.toml"), text);
    lab.node.greway(&["up", &path]).ok();
    for prefix in ["fd29::", "172.29.4."] {
        carries(lab, name, prefix);
    }
}

/// Both ends' remote is a group that both have joined.
pub(crate) fn to_a_group(lab: &mut Interop) {
    let name = "m-group";
    lab.host.route("239.0.0.0/8", "dev uml0").unwrap();
    lab.host.address("uml0", "10.9.0.202/24").unwrap();
    let make = format!(
        "ip route add 239.0.0.0/8 dev vec0
         ip link add {name} type gre local 10.9.0.2 remote 239.1.2.3 key 78 ttl 5
         ip address add 172.29.3.2/24 dev {name}
         ip link set {name} up
         ip neigh add 172.29.3.1 lladdr 239.1.2.3 dev {name} nud permanent"
    );
    lab.guest.run(&make).unwrap();
    lab.node
        .words(&format!("tunnel add {name} mode gre local 10.9.0.202 remote 239.1.2.3 key 78 ttl 5"))
        .ok();
    lab.host.address(name, "172.29.3.1/24").unwrap();
    let wire = Capture::start(&lab.host, "uml0").unwrap();
    carries(lab, name, "172.29.3.");
    let group = "239.1.2.3".parse().unwrap();
    for outgoing in [true, false] {
        let what = format!("{name}: packets to the group, outgoing: {outgoing}");
        wire.wait_for_count(SOON, &what, 100, |packet| {
            packet.outgoing == outgoing && has_end(packet, group) && packet.gre().is_some()
        })
        .unwrap();
    }
}
