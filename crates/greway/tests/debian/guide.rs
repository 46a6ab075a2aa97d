//! The guide's words on two real hosts: files, commands, and what is there after a reboot.

use greway_testbed::guide::{GATEWAY, INNER, LAN};

use crate::lab::{BOOT, Ends, Lab, say};

/// The guide's file, key and all.
fn ifcfg_file(ends: &Ends) -> String {
    let Ends { my_outer, peer_outer, my_inner, peer_inner } = ends;
    format!(
        "mkdir -p /etc/sysconfig/network-scripts
cat >/etc/sysconfig/network-scripts/ifcfg-tun0 <<'END'
DEVICE=tun0
ONBOOT=yes
TYPE=GRE
PEER_OUTER_IPADDR={peer_outer}
PEER_INNER_IPADDR={peer_inner}/30
MY_OUTER_IPADDR={my_outer}
MY_INNER_IPADDR={my_inner}
KEY=lichenhao
BOOTPROTO=none
END"
    )
}

pub(crate) fn ifcfg(lab: &mut Lab) {
    lab.each(ifcfg_file);
    lab.both("systemctl enable --now greway@tun0");
    lab.answers();
    lab.transfer();
    // As the guide says it; its own text has the host bits in the wrong place.
    let routes = lab.each(|ends| format!("ip route show dev tun0; echo {}", ends.my_inner));
    for text in routes {
        let (route, me) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(route.trim_end(), format!("172.16.0.0/30 proto kernel scope link src {me}"));
    }
    for text in lab.both("systemctl is-active greway@tun0 greway.service; systemctl is-enabled greway@tun0") {
        assert_eq!(text, "active\nactive\nenabled\n");
    }
    // udev's rules for links left the pair alone: both ends have addresses of their own, kept.
    for text in lab.both("greway status") {
        assert!(
            text.contains("tun0 up") && text.contains("/etc/sysconfig/network-scripts/ifcfg-tun0"),
            "{text}"
        );
    }
    lab.logged_nothing_bad(&["lichenhao"]);
}

/// linux1 reaches a host behind linux2, which knows nothing of tunnels.
pub(crate) fn scenario_1(lab: &mut Lab) {
    let (gateway, host) = (GATEWAY[1], LAN[1]);
    lab.run(
        1,
        &format!(
            "ip netns add lan2
             ip link add lan0 type veth peer name eth0 netns lan2
             ip address add {gateway}/24 dev lan0
             ip link set lan0 up
             ip -n lan2 address add {host}/24 dev eth0
             ip -n lan2 link set eth0 up
             sysctl -q -w net.ipv4.ip_forward=1
             iptables -t nat -A POSTROUTING -s {}/32 -d 10.10.2.0/24 -j SNAT --to-source {gateway}",
            INNER[0]
        ),
    );
    lab.run(0, "ip route add 10.10.2.0/24 dev tun0");
    lab.wait_for(0, &format!("ping -q -c 1 -W 1 {host}"));
    // Debian's iptables are nf_tables: their chains are seen, and INPUT and OUTPUT are honoured from now on.
    lab.wait_for(1, "greway status tun0 | grep 'raw socket'");
    lab.run(1, "ip netns exec lan2 /root/tcp.pl serve 5002 >served2 2>&1 &");
    let sent = lab.run(0, &format!("./tcp.pl send {host} 5002 500000"));
    assert!(sent.starts_with("intact 500000 "), "{sent}");
    lab.run(0, "ip route delete 10.10.2.0/24 dev tun0");
    lab.run(
        1,
        "iptables -t nat -F POSTROUTING
         nft delete table ip nat
         ip netns delete lan2
         sysctl -q -w net.ipv4.ip_forward=0",
    );
    lab.wait_for(1, "! ip link show lan0 2>/dev/null");
}

/// linux1 has one tunnel by name, linux2 all that their files want; on both lie files that nobody enabled.
pub(crate) fn reboot(lab: &mut Lab) {
    let other = |onboot: &str| {
        format!(
            "sed 's/^DEVICE=.*/DEVICE=tun1/; s/^ONBOOT=.*/ONBOOT={onboot}/; s/^KEY=.*/KEY=2/; s/172.16.0/172.16.1/' \
             /etc/sysconfig/network-scripts/ifcfg-tun0 >/etc/sysconfig/network-scripts/ifcfg-tun1"
        )
    };
    lab.run(0, &other("yes"));
    lab.run(1, &other("no"));
    lab.run(1, "systemctl disable greway@tun0; greway boot enable");
    let start = std::time::Instant::now();
    lab.pair.reboot(BOOT, say).unwrap();
    lab.answers();
    say(&format!("pings go {:.1} s after the order to reboot", start.elapsed().as_secs_f32()));
    for (machine, unit) in [(0, "greway@tun0"), (1, "greway-boot")] {
        let text = lab.run(machine, &format!("systemctl is-active {unit} greway.service; ip -br link"));
        assert!(text.starts_with("active\nactive\n"), "{text}");
        assert!(!text.contains("tun1"), "a file that nobody enabled started: {text}");
    }
    assert_eq!(lab.attempt(0, "systemctl is-active greway-boot").text, "inactive\n");
    assert_eq!(lab.attempt(1, "systemctl is-active greway@tun0").text, "inactive\n");
    // Before what waits for the network starts.
    let order = lab.both("systemctl show -P Before greway.service");
    assert!(order.iter().all(|units| units.contains("network.target")), "{order:?}");
    lab.logged_nothing_bad(&["lichenhao"]);
}

/// The guide's commands, with the shims before the real `ip`; Linux2's addresses put right.
pub(crate) fn ip_commands(lab: &mut Lab) {
    lab.run(0, "systemctl disable --now greway@tun0");
    lab.run(1, "greway boot disable; greway down tun0");
    for text in lab.both("rm /etc/sysconfig/network-scripts/ifcfg-*; ip -br link") {
        assert!(!text.contains("tun0"), "{text}");
    }
    lab.both("greway shim install");
    assert_eq!(lab.both("command -v ip"), ["/usr/local/sbin/ip\n", "/usr/local/sbin/ip\n"]);
    lab.each(|ends| {
        let Ends { my_outer, peer_outer, my_inner, peer_inner } = ends;
        let lan = if my_inner.octets()[3] == 1 { 2 } else { 1 };
        format!(
            "ip tunnel add tun0 mode gre remote {peer_outer} local {my_outer}
             ip addr add {my_inner}/30 peer {peer_inner}/30 dev tun0
             ip link set tun0 up
             ip route add 10.10.{lan}.0/24 dev tun0"
        )
    });
    lab.answers();
    lab.transfer();
    for text in lab.each(|ends| format!("ip tunnel show tun0; echo {} {}", ends.peer_outer, ends.my_outer)) {
        let (shown, ends) = text.trim_end().split_once('\n').unwrap();
        let (remote, local) = ends.split_once(' ').unwrap();
        assert_eq!(shown.trim_end(), format!("tun0: gre/ip remote {remote} local {local} ttl inherit"));
    }
    // What is not GRE is the real tool's.
    for text in lab.both("ip -br link show eth0; ip -V") {
        assert!(text.starts_with("eth0 ") && text.contains("iproute2-"), "{text}");
    }
}
