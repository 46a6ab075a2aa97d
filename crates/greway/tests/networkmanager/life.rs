//! An adopted profile's life: down and up, changed, restarts of all who take part, deleted, given back.

use crate::machine::Debian;
use crate::{LINUX1, Single};

fn goes_down_comes_up_and_is_deleted(test: &str, debian: Debian) {
    let Some(single) = Single::with_tunnel(test, debian) else { return };
    let machine = &single.machine;
    machine.run("nmcli connection down tun0").ok();
    single.is_gone();
    let again = machine.run("nmcli connection up tun0");
    assert_eq!(again.code, Some(0), "{again:?}\n{}", machine.told());
    single.is_up();
    // Once more while it is up.
    machine.run("nmcli connection up tun0").ok();
    single.is_up();
    // Somebody else deletes the device: NetworkManager hears of it, and makes another when asked to.
    machine.run("/bin/ip link del tun0").ok();
    single.is_gone();
    machine.until("the profile down", || machine.profile("tun0", "GENERAL.STATE").is_empty());
    machine.run("nmcli connection up tun0").ok();
    single.is_up();
    machine.run("nmcli connection delete tun0").ok();
    single.is_gone();
    // G119: whatever became of it, nmcli's own words hold.
    machine.run("nmcli connection up tun0").fails(10, "Error: unknown connection 'tun0'.");
    machine.run("nmcli connection delete tun0").fails(10, "Error: unknown connection 'tun0'.");
}

#[test]
fn an_adopted_profile_goes_down_comes_up_and_is_deleted_on_1_42() {
    goes_down_comes_up_and_is_deleted(
        "an_adopted_profile_goes_down_comes_up_and_is_deleted_on_1_42",
        Debian::Bookworm,
    );
}

#[test]
fn an_adopted_profile_goes_down_comes_up_and_is_deleted_on_1_52() {
    goes_down_comes_up_and_is_deleted(
        "an_adopted_profile_goes_down_comes_up_and_is_deleted_on_1_52",
        Debian::Trixie,
    );
}

fn outlives_restarts(test: &str, debian: Debian) {
    let Some(single) = Single::with_tunnel(test, debian) else { return };
    let machine = &single.machine;
    // NetworkManager: the device stays as it is all the time, and is its own again.
    let index = machine.run("cat /sys/class/net/tun0/ifindex").ok();
    machine.stop_manager();
    machine.start_manager();
    single.is_up();
    assert_eq!(machine.run("cat /sys/class/net/tun0/ifindex").ok(), index);
    machine.run("nmcli connection down tun0").ok();
    single.is_gone();
    machine.run("nmcli connection up tun0").ok();
    single.is_up();

    // The watcher, killed; what happened while it was away is made good.
    machine.stop_watcher("KILL");
    machine.run("nmcli connection delete tun0").ok();
    machine.start_watcher();
    single.is_gone();
    machine.run(LINUX1).ok();
    single.is_up();

    // The daemon, killed: its supervisor starts another, and NetworkManager never knows.
    let daemon = || machine.run("pgrep -f '^/usr/bin/greway daemon$'").stdout;
    let before = daemon();
    assert_eq!(before.lines().count(), 1, "{before}\n{}", machine.run("ps ax").stdout);
    machine.run(&format!("kill -9 {before}")).ok();
    machine.until("another daemon", || !daemon().is_empty() && daemon() != before);
    single.is_up();

    // A reboot: no device, no daemon, nothing in /run; profiles are all there is.
    machine.stop_watcher("TERM");
    machine.stop_manager();
    machine.run("greway daemon --stop && rm -rf /run/greway /run/NetworkManager").ok();
    machine.start_manager();
    machine.start_watcher();
    single.is_up();
}

#[test]
fn an_adopted_profile_outlives_restarts_on_1_42() {
    outlives_restarts("an_adopted_profile_outlives_restarts_on_1_42", Debian::Bookworm);
}

#[test]
fn an_adopted_profile_outlives_restarts_on_1_52() {
    outlives_restarts("an_adopted_profile_outlives_restarts_on_1_52", Debian::Trixie);
}

fn g123_converted_in_place_and_back(test: &str, debian: Debian) {
    let Some(single) = Single::new(test, debian, true) else { return };
    let machine = &single.machine;
    machine.run("greway nm policy off").ok();
    machine
        .run(&format!(
            "{} ip-tunnel.ttl 64 ip-tunnel.input-key 42 ip-tunnel.output-key 42",
            LINUX1.lines().next().unwrap()
        ))
        .ok();
    let all =
        "connection.id,connection.uuid,connection.type,connection.interface-name,ip-tunnel,ipv4,ipv6,proxy";
    let shown = |name: &str| machine.run(&format!("nmcli -f {all} connection show {name}")).stdout;
    let before = shown("tun0");
    let file = "grep -v timestamp /etc/NetworkManager/system-connections/tun0.nmconnection";
    let stored = machine.run(file).ok();
    assert!(before.contains("ip-tunnel.remote"), "{before}");
    let uuid = machine.profile("tun0", "connection.uuid");
    assert!(machine.run("greway nm status").ok().contains("tun0  tun0  left alone: policy off  down"));

    machine.run("greway nm policy adopt tun0").ok();
    single.is_up();
    assert_eq!(machine.profile("tun0", "connection.type"), debian.adopted_type());
    assert_eq!(machine.profile("tun0", "connection.uuid"), uuid);
    let tunnel = machine.run("greway tunnel show tun0").ok();
    assert!(tunnel.contains("ttl 64") && tunnel.contains("key 42"), "{tunnel}");
    let status = machine.run("greway nm status").ok();
    assert!(status.contains(&format!("adopted, type {}  up", debian.adopted_type())), "{status}");

    // What nmcli has no word for any more has greway's.
    machine.run("greway nm change tun0 key 43").ok();
    machine.until("key 43", || machine.run("greway tunnel show tun0").stdout.contains("key 43"));
    machine.run("greway nm change tun0 key 42").ok();
    machine.until("key 42", || machine.run("greway tunnel show tun0").stdout.contains("key 42"));

    machine.run("greway nm unadopt tun0").ok();
    single.is_gone();
    // Nothing of greway's but the word that it is to be left alone from now on.
    assert_eq!(shown("tun0"), before);
    let kept = machine.run(file).ok();
    assert_eq!(kept.replace("\n[user]\ngreway.policy=off\n", ""), stored, "{kept}");
    machine.run("greway nm unadopt tun0").fails(1, "profile tun0 was not adopted");

    // What `greway purge` does gives everything back, to the letter.
    machine.run("nmcli connection delete tun0 && greway nm policy adopt").ok();
    machine
        .run(&format!(
            "{} ip-tunnel.ttl 64 ip-tunnel.input-key 42 ip-tunnel.output-key 42",
            LINUX1.lines().next().unwrap()
        ))
        .ok();
    single.is_up();
    machine.stop_watcher("TERM");
    machine.run("greway purge").ok();
    let uuid = |text: &str| text.lines().filter(|line| !line.contains("uuid")).collect::<Vec<_>>().join("\n");
    assert_eq!(uuid(&machine.run(file).ok()), uuid(&stored));
    single.is_gone();
}

#[test]
fn g123_a_profile_is_converted_in_place_and_back_on_1_42() {
    g123_converted_in_place_and_back(
        "g123_a_profile_is_converted_in_place_and_back_on_1_42",
        Debian::Bookworm,
    );
}

#[test]
fn g123_a_profile_is_converted_in_place_and_back_on_1_52() {
    g123_converted_in_place_and_back("g123_a_profile_is_converted_in_place_and_back_on_1_52", Debian::Trixie);
}
