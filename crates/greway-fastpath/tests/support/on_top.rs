//! A cable whose ends are not the devices with the addresses: those are on top of them.

use std::process::Command;

use greway_testbed::{Host, LinkOptions, PingOptions, link, ping, poll_until};

use crate::tunnel::{PATIENCE, end_addresses, outer4, outer6};

/// Two hosts on a cable between their devices port0. These words of `ip` make eth0 of them, which has the addresses.
/// `None` without the privilege or without `ip`.
pub(crate) fn on_top(words: &[&str]) -> Option<[Host; 2]> {
    greway_testbed::privilege::check().ok()?;
    let hosts = [Host::new("left").ok()?, Host::new("right").ok()?];
    link(&hosts[0], "port0", &hosts[1], "port0", &LinkOptions::default()).unwrap();
    for (host, end) in hosts.iter().zip(1..) {
        // Else port0 answers for eth0's address, with its own.
        host.sysctl("ipv4/conf/all/arp_ignore", "1").unwrap();
        for words in words {
            let output = host.output(Command::new("ip").args(words.split_whitespace())).ok()?;
            assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
        }
        host.set_up("eth0").unwrap();
        end_addresses(host, end);
    }
    // A bridge begins to hand on a little after its port carries.
    let once = PingOptions { count: 1, ..PingOptions::default() };
    for to in [outer4(2), outer6(2)] {
        let answered = || ping(&hosts[0], to, &once).unwrap().complete().then_some(());
        poll_until(PATIENCE, "the cable carries", answered).unwrap();
    }
    Some(hosts)
}
