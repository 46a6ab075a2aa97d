//! What an operator sees who types `tcpdump -i tun0` and `tcpdump -i eth0 proto gre`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use greway_testbed::{Host, PingOptions, poll_until, privilege, require};

use crate::pair::Pair;
use crate::support::SOON;

/// A tcpdump that ends by itself after `count` packets.
#[derive(Debug)]
struct Tcpdump {
    child: Child,
}

impl Tcpdump {
    /// Starts one and waits until it listens; the error says why there is none.
    fn start(host: &Host, dev: &str, count: u32, filter: &str) -> Result<Self, String> {
        let mut command = Command::new("tcpdump");
        command.args(["-i", dev, "-nn", "-l", "-c", &count.to_string()]).args(filter.split(' '));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin");
        let mut child = host.spawn(&mut command).map_err(|error| format!("tcpdump: {error}"))?;
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut words = String::new();
        for line in stderr.lines().map_while(Result::ok) {
            if line.contains("listening on") {
                return Ok(Self { child });
            }
            words.push_str(&line);
        }
        let _ = child.wait();
        Err(format!("tcpdump on {dev}: {words}"))
    }

    /// The lines that it printed, when it has seen its packets.
    fn lines(mut self) -> Vec<String> {
        let ended = poll_until(SOON, "tcpdump to see its packets", || self.child.try_wait().unwrap());
        if ended.is_err() {
            self.child.kill().unwrap();
        }
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn tcpdump_shows_ten_of_ten_each_way_on_the_tunnel_and_on_the_underlay() {
    require!(privilege::check());
    for underlay in ["packet", "raw"] {
        let pair = Pair::new(&format!("underlay {underlay}"));
        pair.answers(&PingOptions { count: 1, ..PingOptions::default() });
        let started = Tcpdump::start(&pair.left, "tun0", 20, "icmp")
            .and_then(|inside| Ok((inside, Tcpdump::start(&pair.left, "wan0", 20, "proto gre")?)));
        require!(started.as_ref());
        let (inside, outside) = started.unwrap();

        let report = pair.ping(&PingOptions { count: 10, ..PingOptions::default() });
        assert!(report.complete(), "{underlay}: {report}");

        for (name, lines) in [("tun0", inside.lines()), ("wan0", outside.lines())] {
            let of = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
            let seen = (of("ICMP echo request"), of("ICMP echo reply"));
            assert_eq!(seen, (10, 10), "{underlay}: tcpdump on {name}: {lines:#?}");
        }
    }
}
