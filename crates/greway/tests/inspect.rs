//! `greway inspect` on captures as people have them, with tshark's reading of the same bytes beside it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use greway_testbed::build;
use serde_json::Value;

const GREWAY: &str = env!("CARGO_BIN_EXE_greway");

/// Datagrams of one IP version that a real kernel was sent, with their GRE headers right and wrong.
fn recorded(version: u8) -> Vec<Vec<u8>> {
    let table = include_str!("../../greway-engine/tests/oracle/accept.tsv");
    let hex = |text: &str| {
        let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digits).collect::<Vec<_>>()
    };
    let sent = table.lines().next().unwrap().split('\t').position(|column| column == "sent").unwrap();
    // In some rows several fragments.
    let sent = |row: &'static str| row.split('\t').nth(sent).unwrap().split(' ').map(hex);
    table.lines().skip(1).flat_map(sent).filter(|datagram| datagram[0] >> 4 == version).collect()
}

fn pcap(link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let word = |value: u32| value.to_le_bytes();
    let mut file = [&word(0xa1b2_c3d4)[..], &[2, 0, 4, 0], &[0; 8], &word(262_144), &word(link)].concat();
    for frame in frames {
        let length = word(frame.len() as u32);
        file.extend([&word(1_700_000_000)[..], &word(5), &length, &length, frame].concat());
    }
    file
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("inspect-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn inspect(arguments: &[&str]) -> Output {
    Command::new(GREWAY).arg("inspect").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Two tunnels' packets: plain; and with key, checksum and sequence number.
fn sample() -> Vec<Vec<u8>> {
    let [one, two] = greway_testbed::guide::OUTER;
    let inner = build::ipv4(
        build::ipv4_header([172, 16, 0, 1].into(), [172, 16, 0, 2].into(), 1),
        &[8, 0, 0xf7, 0xff, 0, 0, 0, 0],
    );
    let header = |full: bool| greway_wire::gre::GreHeader {
        protocol_type: 0x0800,
        checksum: full.then_some(0),
        key: full.then_some(42),
        sequence_number: full.then_some(7),
    };
    let datagram = |full| {
        let gre = build::gre(header(full), &inner);
        build::ipv4(build::ipv4_header(one, two, build::GRE), &gre)
    };
    vec![datagram(false), datagram(true)]
}

#[test]
fn tshark_reads_the_same_fields() {
    if Command::new("tshark").arg("--version").output().is_err() {
        eprintln!("not run: tshark_reads_the_same_fields: there is no tshark; apt-get install tshark");
        return;
    }
    let ipv4 = ["ip.src", "ip.dst", "ip.ttl", "ip.len", "ip.id"];
    let read = compared(4, ipv4, &[(3, "ttl", 0), (4, "len", 0), (5, "id", 0)]);
    assert!(read > 70, "{read} of IPv4");
    let ipv6 = ["ipv6.src", "ipv6.dst", "ipv6.hlim", "ipv6.plen", "ipv6.flow"];
    // The header says how much is behind it.
    let read = compared(6, ipv6, &[(3, "ttl", 0), (4, "len", 40), (5, "flowlabel", 0)]);
    assert!(read > 70, "{read} of IPv6");
}

/// Has tshark read the recorded datagrams of an IP version. `outer`: its fields of the delivery header. `numbers`: which
/// of them is which of ours, and how much more ours is. How many were compared to the end.
#[track_caller]
fn compared(version: u8, outer: [&str; 5], numbers: &[(usize, &str, u64)]) -> usize {
    let folder = Folder::new(&format!("tshark-{version}"));
    let capture = folder.file("recorded.pcap", &pcap(101, &recorded(version)));
    let options = [
        "gre.flags_and_version",
        "gre.proto",
        "gre.key",
        "gre.sequence_number",
        "gre.checksum",
        "gre.checksum.status",
    ];
    let mut tshark = Command::new("tshark");
    tshark.args(["-r", &capture, "-n", "-T", "fields", "-E", "occurrence=f", "-E", "separator=,"]);
    for field in ["frame.number"].iter().chain(&outer).chain(&options) {
        tshark.args(["-e", field]);
    }
    let theirs = text(&tshark.output().unwrap().stdout);
    let ours = lines(&inspect(&["--json", &capture]));
    let mut compared = 0;
    for packet in &ours {
        let number = packet["frame"].as_u64().unwrap();
        let row = theirs.lines().find(|row| row.starts_with(&format!("{number},"))).unwrap();
        let cell: Vec<&str> = row.split(',').collect();
        let parsed = |at: usize| {
            let text: &str = cell[at];
            match text.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => text.parse::<u64>().ok(),
            }
        };
        let (outer, gre) = (&packet["outer"], &packet["gre"]);
        assert_eq!((outer["src"].as_str(), outer["dst"].as_str()), (Some(cell[1]), Some(cell[2])), "{row}");
        for (at, field, more) in numbers {
            // That of fragments put together is in none of them.
            if *field == "len" && packet["fragments"].is_array() {
                continue;
            }
            let theirs = parsed(*at).map(|number| number + more);
            assert_eq!(outer[field].as_u64(), theirs, "frame {number}, {field}: {row}");
        }
        // What is cut, of another version or routed is read differently, and that is no fault.
        let readable = gre["header_len"].is_u64() && parsed(6).is_some();
        if !readable {
            continue;
        }
        compared += 1;
        assert_eq!(gre["flags"].as_u64(), parsed(6), "{row}");
        assert_eq!(gre["protocol"].as_u64(), parsed(7), "{row}");
        assert_eq!(gre["key"].as_u64(), parsed(8), "{row}");
        assert_eq!(gre["sequence"].as_u64(), parsed(9), "{row}");
        assert_eq!(gre["checksum"]["value"].as_u64(), parsed(10), "{row}");
        // 1 is good, 0 is bad to tshark, which knows no field left to a device.
        let state = match parsed(11) {
            None => "absent",
            Some(1) => "good",
            Some(_) if parsed(10) == Some(0) => "unfilled",
            Some(_) => "bad",
        };
        if gre["checksum"]["state"].is_string() && parsed(11) != Some(2) {
            assert_eq!(gre["checksum"]["state"], state, "{row}");
        }
    }
    compared
}

/// Over IPv6: plain, with key, checksum and number behind an encapsulation limit, and one in fragments.
fn sample6() -> Vec<Vec<u8>> {
    let ends = ["fd00:47::1".parse().unwrap(), "fd00:47::2".parse().unwrap()];
    let inside = |size| {
        let header = build::ipv4_header([172, 16, 0, 1].into(), [172, 16, 0, 2].into(), 1);
        build::ipv4(header, &build::echo_request(1, 1, &vec![0x5a; size]))
    };
    let carried = |full: bool, size| {
        let header = greway_wire::gre::GreHeader {
            protocol_type: 0x0800,
            checksum: full.then_some(0),
            key: full.then_some(42),
            sequence_number: full.then_some(7),
        };
        build::gre(header, &inside(size))
    };
    let packet = |next, payload: &[u8]| {
        let mut header = build::ipv6_header(ends[0], ends[1], next);
        header.flow_label = 0x1_2345;
        build::ipv6(header, payload)
    };
    let limited = [&[47, 0, 4, 1, 4, 1, 1, 0][..], &carried(true, 56)].concat();
    let mut large = carried(true, 2_000);
    // The next number, in the last word of the header, and what it makes of the checksum.
    large[15] = 8;
    large[4..6].fill(0);
    let sum = greway_wire::checksum::checksum(&large);
    large[4..6].copy_from_slice(&sum.to_be_bytes());
    let (first, last) = large.split_at(1_000);
    let piece = |more: u8, at: u16, bytes: &[u8]| {
        let word = (at | u16::from(more)).to_be_bytes();
        packet(44, &[&[47, 0, word[0], word[1], 0, 0, 0, 9][..], bytes].concat())
    };
    vec![packet(47, &carried(false, 56)), packet(60, &limited), piece(0, 1_000, last), piece(1, 0, first)]
}

#[test]
fn tshark_reads_the_same_over_ipv6() {
    if Command::new("tshark").arg("--version").output().is_err() {
        eprintln!("not run: tshark_reads_the_same_over_ipv6: there is no tshark; apt-get install tshark");
        return;
    }
    let folder = Folder::new("tshark6");
    let capture = folder.file("six.pcap", &pcap(101, &sample6()));
    let ours = lines(&inspect(&["--json", &capture]));
    let mut tshark = Command::new("tshark");
    tshark.args([
        "-r",
        &capture,
        "-n",
        "-Y",
        "gre",
        "-T",
        "fields",
        "-E",
        "occurrence=f",
        "-E",
        "separator=,",
    ]);
    let fields = ["frame.number", "ipv6.src", "ipv6.dst", "ipv6.hlim", "ipv6.flow"];
    let options = ["gre.flags_and_version", "gre.proto", "gre.key", "gre.sequence_number", "gre.checksum"];
    for field in fields.iter().chain(&options) {
        tshark.args(["-e", field]);
    }
    let theirs = text(&tshark.output().unwrap().stdout);
    assert_eq!((theirs.lines().count(), ours.len()), (3, 3), "{theirs}");
    for (row, packet) in theirs.lines().zip(&ours) {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse::<u64>().ok(),
        };
        let cell: Vec<&str> = row.split(',').collect();
        let (outer, gre) = (&packet["outer"], &packet["gre"]);
        assert_eq!((outer["src"].as_str(), outer["dst"].as_str()), (Some(cell[1]), Some(cell[2])), "{row}");
        for (at, field) in [
            (0, &packet["frame"]),
            (3, &outer["ttl"]),
            (4, &outer["flowlabel"]),
            (5, &gre["flags"]),
            (6, &gre["protocol"]),
            (7, &gre["key"]),
            (8, &gre["sequence"]),
            (9, &gre["checksum"]["value"]),
        ] {
            assert_eq!(field.as_u64(), number(cell[at]), "cell {at} of {row}");
        }
        assert_eq!((&outer["df"], &outer["id"]), (&Value::Null, &Value::Null));
    }
    assert_eq!(ours[2]["fragments"], serde_json::json!([3, 4]));
    assert_eq!(ours[2]["gre"]["checksum"]["state"], "good");
}

#[test]
fn over_ipv6_the_words_of_its_header_and_the_verdict() {
    let folder = Folder::new("six");
    let capture = folder.file("six.pcap", &pcap(101, &sample6()));
    let out = folder.0.join("out.pcapng");
    let out = out.to_str().unwrap();
    let words = "mode ip6gre local fd00:47::2 remote any key 42 csum seq";
    let shown = inspect(&[&capture, "--tunnel", words, "--write", out]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let shown = text(&shown.stdout);
    let rows: Vec<_> = shown.lines().collect();
    assert!(
        rows[0].contains("| fd00:47::1 > fd00:47::2 ttl 64 flowlabel 0x12345 len 128 | GRE IPv4 |"),
        "{shown}"
    );
    assert!(rows[0].ends_with("ICMP → decline (no-tunnel)"), "{shown}");
    assert!(
        rows[1].contains("flowlabel 0x12345 encaplimit 4 len 148 | GRE key 42 seq 7 csum good IPv4"),
        "{shown}"
    );
    assert!(rows[1].ends_with("→ deliver"), "{shown}");
    assert!(rows[2].contains("(2 fragments)") && rows[2].ends_with("→ deliver"), "{shown}");
    assert_eq!(text(&inspect(&[out]).stdout), "2 frames: 0 GRE, 2 other, 0 not read\n");
}

#[test]
fn a_line_a_packet_and_what_it_came_to() {
    let folder = Folder::new("text");
    let capture = folder.file("sample.pcap", &pcap(101, &sample()));
    let shown =
        inspect(&[&capture, "--tunnel", "mode gre local 100.0.2.100 remote 100.0.1.100 key 42 csum seq"]);
    assert!(shown.status.success());
    assert_eq!(
        text(&shown.stdout),
        "     1 1700000000.000005 | 100.0.1.100 > 100.0.2.100 ttl 64 DF len 52 | GRE IPv4 \
         | 172.16.0.1 > 172.16.0.2 ttl 64 DF len 28 ICMP → decline (no-tunnel)\n     \
         2 1700000000.000005 | 100.0.1.100 > 100.0.2.100 ttl 64 DF len 64 | GRE key 42 seq 7 csum good IPv4 \
         | 172.16.0.1 > 172.16.0.2 ttl 64 DF len 28 ICMP → deliver\n\
         2 frames: 2 GRE, 0 other, 0 not read\n\
         1 decline no-tunnel: no tunnel has these addresses and this key; compare both ends\n\
         1 deliver\n"
    );
}

#[test]
fn what_the_tunnel_delivers_is_written() {
    let folder = Folder::new("write");
    let capture = folder.file("sample.pcap", &pcap(101, &sample()));
    let out = folder.0.join("out.pcapng");
    let out = out.to_str().unwrap();
    let words = "tun0 local 100.0.2.100 remote 100.0.1.100";
    let packets = lines(&inspect(&["--json", &capture, "--tunnel", words, "--write", out]));
    let verdicts: Vec<_> = packets.iter().map(|packet| packet["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["deliver", "decline"]);
    let again = inspect(&[out]);
    assert_eq!(text(&again.stdout), "1 frames: 0 GRE, 1 other, 0 not read\n");
    let itself = inspect(&[&capture, "--write", &capture]);
    assert!(!itself.status.success());
    assert!(text(&itself.stderr).contains("that is the capture being read; name another file"));
    assert_eq!(fs::read(&capture).unwrap(), pcap(101, &sample()));
}

#[test]
fn what_is_wrong_is_named() {
    let folder = Folder::new("wrong");
    let script = folder.file("script", b"#!/bin/sh\necho this is no capture at all\n");
    let whole = pcap(101, &sample());
    let cut = folder.file("cut.pcap", &whole[..whole.len() - 3]);
    let good = folder.file("good.pcap", &whole);
    let cases: [(&[&str], &str); 5] = [
        (&["/nonexistent/x.pcap"], "cannot read /nonexistent/x.pcap: No such file"),
        (&[&script], "script: this is no capture: pcap or pcapng is right"),
        (&[&cut], "cut.pcap: the capture is cut: it ends in the middle of what follows frame 1"),
        (&[&good, "--tunnel", "remote 100.0.1.100 key lichenhao"], "\"lichenhao\""),
        (&[&good, "--tunnel", "mode ip6gre remote 100.0.1.100"], "100.0.1.100"),
    ];
    for (arguments, message) in cases {
        let output = inspect(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains(message), "{arguments:?}: {}", text(&output.stderr));
    }
    // What came before the cut is told all the same.
    assert!(text(&inspect(&[&cut]).stdout).contains("1 frames: 1 GRE"));
}

/// The most memory a process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_gigabyte_streams_in_bounded_memory() {
    let [one, two] = greway_testbed::guide::OUTER;
    let header = greway_wire::gre::GreHeader { protocol_type: 0x0800, ..Default::default() };
    let inner =
        build::ipv4(build::ipv4_header([172, 16, 0, 1].into(), [172, 16, 0, 2].into(), 17), &[0; 60_000]);
    let frame = build::ipv4(build::ipv4_header(one, two, build::GRE), &build::gre(header, &inner));
    let capture = pcap(101, &[frame]);
    let (head, record) = capture.split_at(24);
    let mut child = Command::new(GREWAY)
        .args(["inspect", "--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(head).unwrap();
    for _ in 0..(1 << 30) / record.len() {
        stdin.write_all(record).unwrap();
    }
    let peak = peak_kib(child.id());
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert!(peak < 64 * 1024, "{peak} KiB");
}
