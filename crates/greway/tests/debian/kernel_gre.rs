//! A kernel that gets its own GRE while greway carries (`modprobe ip_gre` on linux1): it would tell every peer that it has
//! no tunnel for them. Debian's kernel has the nf_tables that User Mode Linux has not; all else about the kernel's
//! own GRE is in `tests/guest`.

use greway_testbed::guide::OUTER;

use crate::lab::Lab;

/// Loads and removes the module where the image keeps it.
const MODPROBE: &str = "modprobe -d /usr/lib/testbed/modules";
const TABLE: &str = "nft list table ip greway-port-unreachable";

/// Prints how often a host was sent ICMP "destination unreachable".
const TOLD: &str = "awk '/^Icmp: [0-9]/ { print $5 }' /proc/net/snmp";

/// ICMP "destination unreachable" that linux2 has been sent.
fn told(lab: &mut Lab) -> u64 {
    let text = lab.run(1, TOLD);
    text.trim().parse().unwrap()
}

/// Every ping from linux2 is answered once, and linux1 tells it nothing.
fn answered_in_peace(lab: &mut Lab, what: &str) {
    let before = told(lab);
    let text = lab.run(1, "ping -n -q -i 0.05 -c 20 -W 5 172.16.7.1");
    assert!(text.contains("20 received") && !text.contains("duplicates"), "{what}: {text}");
    let after = told(lab);
    assert_eq!(after, before, "{what}: linux2 was told that linux1 has no tunnel");
}

pub(crate) fn beside(lab: &mut Lab) {
    let [here, there] = OUTER;
    lab.run(0, &format!("greway tunnel add q0 mode gre local {here} remote {there} key 5; ip address add 172.16.7.1/30 dev q0"));
    lab.run(1, &format!("greway tunnel add q0 mode gre local {there} remote {here} key 5; ip address add 172.16.7.2/30 dev q0"));
    lab.wait_for(1, "ping -q -c 1 -W 1 172.16.7.1");
    assert_ne!(lab.attempt(0, TABLE).status, 0, "no rule without need");

    lab.run(0, &format!("{MODPROBE} ip_gre"));
    lab.wait_for(0, TABLE);
    for underlay in ["packet", "raw"] {
        lab.run(0, &format!("greway tunnel change q0 underlay {underlay}"));
        answered_in_peace(lab, &format!("by {underlay} socket"));
    }
    // greway's own rule is no firewall that GRE has to pass: nothing else is on this host.
    lab.run(0, "greway tunnel change q0 underlay auto");
    let status = lab.run(0, "greway status q0");
    assert!(!status.contains("greway-port-unreachable"), "{status}");

    // What is not ours is told as ever: a host that linux1 has no tunnel for. It has an address of its own, since what
    // the rule took away counted all the same towards how often one host is told.
    let stranger = "100.0.2.101";
    let before = told(lab);
    lab.run(0, &format!("ip route add {stranger}/32 dev eth0"));
    lab.run(
        1,
        &format!(
            "ip address add {stranger}/32 dev eth0
             greway tunnel add q9 mode gre local {stranger} remote {here} key 7
             ip address add 172.16.9.2/30 dev q9
             ping -n -q -c 3 -i 0.2 -W 1 172.16.9.1 || true
             greway tunnel del q9
             ip address del {stranger}/32 dev eth0"
        ),
    );
    assert!(told(lab) > before, "the kernel's answers to others are let alone");
    lab.run(0, &format!("ip route del {stranger}/32 dev eth0"));
    // The rule follows a change.
    lab.run(1, "greway tunnel change q0 key 6");
    lab.run(0, "greway tunnel change q0 key 6");
    answered_in_peace(lab, "with another key");
    // Flushed with everything else it comes back.
    lab.run(0, "nft delete table ip greway-port-unreachable");
    lab.wait_for(0, TABLE);
    answered_in_peace(lab, "put back");

    // The kernel's own tunnels go on, and one of theirs is not made again.
    lab.run(
        0,
        &format!(
            "ip link add k1 type gre local {here} remote {there} key 9
             ip address add 172.16.8.1/30 dev k1
             ip link set k1 up"
        ),
    );
    lab.run(1, &format!("greway tunnel add k1 mode gre local {there} remote {here} key 9; ip address add 172.16.8.2/30 dev k1"));
    lab.wait_for(1, "ping -n -q -c 3 -i 0.2 -W 1 172.16.8.1");
    answered_in_peace(lab, "beside a tunnel of the kernel's");
    let refused = lab.attempt(0, &format!("greway tunnel add q1 mode gre local {here} remote {there} key 9"));
    assert!(refused.status != 0 && refused.text.contains("the kernel's own tunnel k1"), "{}", refused.text);

    lab.run(0, "ip link del k1; greway tunnel del q0");
    lab.run(1, "greway tunnel del k1; greway tunnel del q0");
    // The rule goes with the module.
    lab.run(0, &format!("{MODPROBE} -r ip_gre"));
    lab.wait_for(0, &format!("! {TABLE}"));
}
