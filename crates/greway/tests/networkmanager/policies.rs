//! Profiles that are not adopted, devices that are not NetworkManager's, and errors.

use crate::machine::Debian;
use crate::{LINUX1, Single};

fn add(words: &str) -> String {
    format!("nmcli connection add con-name tun0 ifname tun0 type ip-tunnel {words}")
}

fn policy_shadow_and_off(test: &str, debian: Debian) {
    let Some(single) = Single::new(test, debian, true) else { return };
    let machine = &single.machine;
    // G117: left alone, NetworkManager fails as ever on a kernel without GRE.
    machine.run("greway nm policy off").ok();
    machine.run(LINUX1.lines().next().unwrap()).ok();
    machine.run("nmcli connection up tun0").fails(
        4,
        "Error: Connection activation failed: tun0 failed to create resources: Failed to create GRE interface 'tun0' \
         for 'tun0': Operation not supported",
    );
    assert_eq!(machine.profile("tun0", "connection.type"), "ip-tunnel");

    // A shadow: the profile stays as it is, and the device has its addresses.
    machine.run("greway nm policy shadow tun0").ok();
    machine.until("the shadow", || {
        machine.run("ip -4 -o address show dev tun0").stdout.contains("172.16.0.1/30")
            && machine.run("greway tunnel show").stdout.contains("remote 100.0.2.100")
    });
    assert_eq!(machine.profile("tun0", "connection.type"), "ip-tunnel");
    assert!(machine.run("greway nm status").ok().contains("tun0  tun0  shadowed"));
    let devices = machine.run("nmcli -t -f DEVICE,STATE device").ok();
    assert!(devices.contains("tun0:unmanaged") && devices.contains("gw-tun0:unmanaged"), "{devices}");
    // G118: the device is there, and not of the kind that the profile asks for.
    machine.run("nmcli connection up tun0").fails(4, "wrong-type");
    // A shadow follows its profile.
    machine.run("nmcli connection modify tun0 ip-tunnel.remote 100.0.3.100").ok();
    machine.until("the change", || machine.run("greway tunnel show").stdout.contains("remote 100.0.3.100"));
    machine.run("nmcli connection delete tun0").ok();
    single.is_gone();
}

#[test]
fn g117_g118_policies_shadow_and_off_on_1_42() {
    policy_shadow_and_off("g117_g118_policies_shadow_and_off_on_1_42", Debian::Bookworm);
}

#[test]
fn g117_g118_policies_shadow_and_off_on_1_52() {
    policy_shadow_and_off("g117_g118_policies_shadow_and_off_on_1_52", Debian::Trixie);
}

#[test]
fn profiles_that_cannot_be_carried_are_told_and_left_alone() {
    let test = "profiles_that_cannot_be_carried_are_told_and_left_alone";
    let Some(single) = Single::new(test, Debian::Bookworm, true) else { return };
    let machine = &single.machine;
    let cases = [
        ("mode gretap remote 0.0.0.0", "remote"),
        ("mode gre remote 100.0.2.100 local 100.0.2.100", "remote"),
    ];
    for (words, why) in cases {
        machine
            .run(&format!(
                "{} connection.autoconnect no ipv4.method disabled ipv6.method disabled",
                add(words)
            ))
            .ok();
        machine.until(words, || machine.run("cat /run/watch.log").stdout.contains(why));
        let status = machine.run("greway nm status").ok();
        assert!(status.contains("left alone: ") && status.contains(why), "{words}: {status}");
        assert_eq!(machine.profile("tun0", "connection.type"), "ip-tunnel", "{words}");
        machine.run("nmcli connection delete tun0 && : >/run/watch.log").ok();
    }
    // Another kind of tunnel is none of greway's business: nothing is said.
    machine.run(&format!("{} connection.autoconnect no", add("mode ipip remote 100.0.2.100"))).ok();
    assert!(machine.run("greway nm status").ok().contains("left alone: no GRE tunnel"));
    machine.run("nmcli connection delete tun0").ok();

    // A name that is taken: the tunnel of a command, then somebody's device.
    machine.run("greway tunnel add tun0 mode gre remote 100.0.9.9 local 100.0.1.100").ok();
    machine.run(LINUX1.lines().next().unwrap()).ok();
    machine.until("the refusal", || {
        machine.run("cat /run/watch.log").stdout.contains("defined by greway tunnel add")
    });
    assert!(machine.run("greway tunnel show").ok().contains("remote 100.0.9.9"));
    assert_eq!(machine.profile("tun0", "connection.type"), "ip-tunnel");
    machine.run("nmcli connection delete tun0; greway tunnel del tun0").ok();
    machine.run("ip link add tun0 type veth peer name other").ok();
    machine.run(LINUX1.lines().next().unwrap()).ok();
    machine.until("the refusal", || machine.run("cat /run/watch.log").stdout.contains("somebody else made"));
    assert!(machine.run("/bin/ip -d link show tun0").ok().contains("tun0@other"));
}

#[test]
fn profiles_of_tunnels_over_ipv6_come_up() {
    let Some(single) = Single::new("profiles_of_tunnels_over_ipv6_come_up", Debian::Bookworm, true) else {
        return;
    };
    let machine = &single.machine;
    for (mode, kind) in [("ip6gre", "gre/ipv6"), ("ip6gretap", "gretap/ipv6")] {
        let ends = format!("mode {mode} remote fd00:47::2 local fd00:47::1 ip-tunnel.encapsulation-limit 3");
        machine
            .run(&format!(
                "{} ipv4.method manual ipv4.addresses 172.16.9.1/30 ipv6.method disabled",
                add(&ends)
            ))
            .ok();
        machine.until("the tunnel", || {
            let shown = machine.run("greway tunnel show").stdout;
            shown.contains(&format!("tun0: {kind} remote fd00:47::2 local fd00:47::1 encaplimit 3"))
        });
        machine.until("its address", || {
            machine.run("ip -4 -o address show dev tun0").stdout.contains("172.16.9.1/30")
        });
        assert!(machine.run("nmcli -g GENERAL.STATE device show tun0").ok().contains("connected"), "{mode}");
        machine.run("nmcli connection delete tun0").ok();
        machine.until("the end", || !machine.run("greway tunnel show").stdout.contains("tun0"));
    }
}

#[test]
fn a_native_profile_of_any_tunnel_is_stored_by_greway_nm_add() {
    let test = "a_native_profile_of_any_tunnel_is_stored_by_greway_nm_add";
    for debian in [Debian::Bookworm, Debian::Trixie] {
        let Some(single) = Single::new(test, debian, true) else { return };
        let machine = &single.machine;
        machine
            .run("greway nm add tun0 mode gre remote 100.0.2.100 local 100.0.1.100 csum seq address 172.16.0.1/30")
            .ok();
        single.is_up();
        assert!(machine.run("greway tunnel show tun0").ok().contains("hecksum"));
        machine.run("greway nm unadopt tun0").fails(1, "was not adopted");
        machine.run("nmcli connection delete tun0").ok();
        single.is_gone();
    }
}

#[test]
fn g121_g122_what_a_device_handler_says() {
    let Some(single) = Single::new("g121_g122_what_a_device_handler_says", Debian::Trixie, true) else {
        return;
    };
    let machine = &single.machine;
    let generic = "nmcli connection add type generic generic.device-handler greway ipv4.method disabled ipv6.method disabled";
    // G122
    let unnamed = machine.run(&format!("{generic} con-name x"));
    assert!(unnamed.code != Some(0), "{unnamed:?}");
    assert!(
        unnamed.stderr.contains("the property is required when generic.device-handler is set"),
        "{unnamed:?}"
    );
    // G121: nothing describes tun7.
    machine.run(&format!("{generic} con-name tun7 ifname tun7 connection.autoconnect no")).ok();
    machine
        .run("nmcli connection up tun7")
        .fails(4, "Error: Connection activation failed: The device handler dispatcher returned an error");
    let handler = "/usr/lib/NetworkManager/dispatcher.d/device/greway";
    let said = machine.run(&format!("{handler} tun7 device-add"));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.starts_with("ERROR=") && said.stdout.contains("tun7"), "{said:?}");
    assert!(said.stderr.contains("tun7"), "the journal has it too: {said:?}");
    // A profile without items is described by greway's own file.
    let file = "name = \"tun7\"\\nremote = \"100.0.2.100\"\\nlocal = \"100.0.1.100\"\\n";
    machine
        .run(&format!("mkdir -p /etc/greway/tunnels.d && printf '{file}' >/etc/greway/tunnels.d/tun7.toml"))
        .ok();
    machine.run("nmcli connection up tun7").ok();
    machine.until("tun7", || machine.run("greway tunnel show").stdout.contains("tun7"));
    // Asked again it says the same.
    let index = machine.run("cat /sys/class/net/tun7/ifindex").ok();
    assert_eq!(machine.run(&format!("{handler} tun7 device-add")).ok(), format!("IFINDEX={index}"));
    assert_eq!(machine.run(&format!("{handler} tun7 device-delete")).ok(), "");
    machine.run("nmcli connection down tun7").ok();
    machine
        .until("the end of tun7", || !machine.run("greway tunnel show; ip -br link").stdout.contains("tun7"));
}

#[test]
fn without_udev_networkmanager_leaves_other_tunnels_alone() {
    let test = "without_udev_networkmanager_leaves_other_tunnels_alone";
    for debian in [Debian::Bookworm, Debian::Trixie] {
        let Some(single) = Single::new(test, debian, false) else { return };
        let machine = &single.machine;
        let file = "name = \"tun5\"\nremote = \"100.0.5.100\"\nlocal = \"100.0.1.100\"\n[inner]\n\
                    address = \"172.16.5.1\"\npeer = \"172.16.5.2/30\"\n";
        machine
            .run(&format!(
                "mkdir -p /etc/greway/tunnels.d; cat >/etc/greway/tunnels.d/tun5.toml <<'END'\n{file}END"
            ))
            .ok();
        machine.stop_watcher("TERM");
        machine.start_watcher();
        machine.until("the list", || {
            machine.run("cat /run/NetworkManager/conf.d/*").stdout.contains("=gw-tun5;")
        });
        machine.run("greway up tun5").ok();
        machine.until("both ends left alone", || {
            let devices = machine.run("nmcli -t -f DEVICE,STATE device").stdout;
            devices.contains("tun5:unmanaged") && devices.contains("gw-tun5:unmanaged")
        });
        // And an adopted one comes up all the same.
        machine.run(LINUX1).ok();
        single.is_up();
        assert!(machine.run("nmcli -t -f DEVICE,STATE device").ok().contains("gw-tun0:unmanaged"));
        let address = machine.run("ip -o address show dev tun5 up").ok();
        assert!(address.contains("172.16.5.1 peer 172.16.5.2/30"), "{address}\n{}", machine.told());
    }
}
