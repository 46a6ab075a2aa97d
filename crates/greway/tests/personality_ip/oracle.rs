//! The stock `ip` as oracle: the same words to it, on a kernel that it takes for one with GRE (fixtures/
//! interposer.c), and to ours. What is printed, on which stream, and the exit codes are the same.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use greway_testbed::{Host, privilege, require};

use crate::support::{Daemon, Node, apart};
use crate::{REAL, Shimmed};

/// The tool on both sides of the mirror.
struct Oracle {
    /// Goes first: a daemon has its namespace's lock until its end.
    _daemon: Daemon,
    ours: Shimmed,
    stock: Node,
    interposer: PathBuf,
    _hosts: [Host; 2],
}

/// What ours and the stock tool printed for each command.
type Answers = Vec<(String, String)>;

impl Oracle {
    fn new() -> Self {
        let hosts = ["ours", "stock"].map(|name| {
            let host = Host::new(name).unwrap();
            // Nothing may be counted on a device before it is shown.
            host.sysctl("ipv6/conf/default/disable_ipv6", "1").unwrap();
            for address in ["5.6.7.8/32", "100.0.1.100/32", "1.1.1.1/32"] {
                host.address("lo", address).unwrap();
            }
            host.route("default", "dev lo").unwrap();
            host
        });
        let (ours, stock) = (Shimmed::new(&hosts[0]), Node::new(&hosts[1]));
        let interposer = build(stock.folder());
        stock.file("state/sent", "");
        Self { _daemon: ours.node.daemon(), ours, stock, interposer, _hosts: hosts }
    }

    /// Runs a script on both sides; in it `ip` is the tool, `device NAME` makes the device that a kernel with GRE
    /// would have made, `gone` and `unlink` take it away, and `kind` and `info` show what is of its kind. Each line that `run` runs is told with its exit code.
    fn both(&self, script: &str) -> Answers {
        let run = "run() { echo \"+ $*\"; \"$@\" 2>&1; echo \"rc $?\"; }
             kind() { ip -d link show \"$1\" | sed -n '3s/ addrgenmode.*/./p'; }
             info() { ip -d -j link show \"$1\" | sed 's/.*\\(\"linkinfo\".*\\),\"inet6_addr.*/\\1/'; }\n";
        let ours = self.ours.sh(&format!(
            "device() {{ :; }}\ngone() {{ :; }}\nunlink() {{ ip link del \"$1\"; }}\n{run}{script}"
        ));
        let stock = format!(
            "ip() {{ LD_PRELOAD={} {REAL} \"$@\"; }}\n\
             device() {{ {REAL} link add \"$1\" type veth peer \"gw-$1\"; }}\n\
             gone() {{ {REAL} link del \"$1\"; rm -f \"$INTERPOSER_STATE/$1\".*; }}
             unlink() {{ gone \"$1\"; }}\n{run}{script}",
            self.interposer.display()
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &stock]).env_clear().env("PATH", crate::USUAL).stdin(Stdio::null());
        command.env("INTERPOSER_STATE", self.stock.folder().join("state")).current_dir(self.stock.folder());
        let stock = self.stock.execute(command);
        assert_eq!((ours.stderr.as_str(), stock.stderr.as_str()), ("", ""), "{ours}\n{stock}");
        let parts = |text: &str| text.split("+ ").skip(1).map(str::to_owned).collect::<Vec<_>>();
        // In the script both streams are one.
        let (ours, stock) = (parts(&apart(&ours.stdout).1), parts(&stock.stdout));
        assert_eq!(ours.len(), stock.len(), "{ours:#?}\n{stock:#?}");
        ours.into_iter().zip(stock).collect()
    }

    #[track_caller]
    fn same(&self, script: &str) {
        for (ours, stock) in self.both(script) {
            assert_eq!(ours, stock, "ours on the left, the stock tool on the right");
        }
    }
}

fn build(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/interposer.c");
    let library = folder.join("interposer.so");
    let mut command = Command::new("gcc");
    command.args(["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    let output = command.arg("-ldl").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

fn has_gcc() -> Result<(), String> {
    let found = Command::new("gcc").arg("--version").output();
    found.map(drop).map_err(|error| format!("no gcc (package gcc): {error}"))
}

/// §7.2 of the golden cases: words behind `ip tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8`.
const G13_TO_G31: &[&str] = &[
    "",
    "key 42",
    "key 0x2a",
    "key 052",
    "key 0.0.0.42",
    "key 10.0.0.1",
    "key 1.2.3",
    "key 010",
    "key 0",
    "key 4294967295",
    "ikey 1 okey 2",
    "ikey 1",
    "okey 2",
    "csum seq key 5",
    "icsum",
    "ocsum",
    "iseq",
    "oseq",
    "tos inherit",
    "tos inherit/c0",
    "tos CS6",
    "tos 10",
    "tclass EF",
    "ds AF11",
    "ttl 64",
    "ttl 0",
    "hoplimit 0x40",
    "ttl inherit",
    "nopmtudisc",
    "local any",
    "seq csum key 1 ttl 9 tos 10 dev lo",
    "remote 010.0.0.1",
    "remote 0x0a.1",
    "key 1 key 2",
];

#[test]
fn g13_to_g39_parameters_and_what_is_shown() {
    require!(privilege::check());
    require!(has_gcc());
    let oracle = Oracle::new();
    let mut script = String::new();
    for words in G13_TO_G31 {
        script += &format!(
            "run ip tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8 {words}; device tun1
             run ip tunnel show tun1; run ip -o tunnel show; run ip -j tunnel show tun1; run ip -j -p tunnel
             run ip tunnel del tun1; gone tun1\n"
        );
    }
    oracle.same(&script);
}

#[test]
fn g32_to_g42_other_spellings_and_lists() {
    require!(privilege::check());
    require!(has_gcc());
    let oracle = Oracle::new();
    let ends = "remote 1.2.3.4 local 5.6.7.8";
    let mut script = String::new();
    for add in [
        &format!("tunnel add name tun1 {ends} mode gre"),
        &format!("t a tun1 mode gre {ends}"),
        &format!("tun a mode gre/ip {ends} tun1"),
        &format!("tunl a {ends} tun1 mode gre"),
        &format!("-4 tunnel add tun1 mode gre {ends}"),
    ] {
        script += &format!(
            "run ip {add}; device tun1; run ip t; run ip -s tunnel show tun1; run ip tunnel del tun1; gone tun1\n"
        );
    }
    script += &format!(
        "run ip tunnel add gre1 local 1.1.1.1 remote 2.2.2.2; device gre1
         run ip tunnel show gre1; run ip -j tunnel show gre1; run ip -s tunnel show gre1; run ip -o tunnel show gre1
         run ip tunnel add tun1 mode gre {ends} csum seq; device tun1
         run ip tunnel change tun1 ttl 5 key 9; run ip tunnel show tun1
         run ip tunnel change mode gre tun1 {ends} tos 10; run ip tunnel show tun1
         run ip tunnel change tun1 key 7; run ip tunnel show tun1
         run ip tunnel show remote 1.2.3.4; run ip tunnel show local 9.9.9.9; run ip tunnel show dev lo
         run ip -s -o tunnel show tun1; run ip -j -s tunnel show tun1
         run ip tunnel show nosuch; run ip tunnel change tun1 mode ipip; run ip tunnel show mode gre tun1
         run ip tunnel del name tun1; run ip tunnel del gre1; gone tun1; gone gre1
         run ip tunnel show\n"
    );
    oracle.same(&script);
}

/// §7.3, and what is refused before the kernel is asked.
#[test]
fn g49_to_g58_errors_of_ip_tunnel() {
    require!(privilege::check());
    require!(has_gcc());
    let oracle = Oracle::new();
    let words = [
        "mode gre remote 1.2.3.4 key lichenhao",
        "mode gre remote 1.2.3.4 key 4294967296",
        "mode gre remote 1.2.3.4 key -1",
        "mode gre remote 1.2.3.4 key ''",
        "mode gre remote 1.2.3.4 key 1.2.3.400",
        "mode gre remote 1.2.3.4 ikey x",
        "mode gre remote 1.2.3.4 key",
        "mode gre remote foo",
        "mode gre remote",
        "mode gre remote 1.2.3.4 ttl 256",
        "mode gre remote 1.2.3.4 ttl 64 nopmtudisc",
        "mode gre remote 1.2.3.4 tos zz",
        "mode gre remote 1.2.3.4 tos inherit/zz",
        "mode gre remote 1.2.3.4 dev nosuch",
        "mode gre d lo",
        "mode gre remote 1.2.3.4 ignore-df",
        "mode gre remote 1.2.3.4 nokey",
        "mode gre remote 1.2.3.4 name tun2",
        "mode gre mode ipip",
        "mode gre remote 224.1.1.1",
        "remote 1.2.3.4 key 5",
        "mode ipip remote 1.2.3.4 key 5",
    ];
    let mut script =
        words.iter().map(|words| format!("run ip tunnel add tun1 {words}\n")).collect::<String>();
    script += "run ip tunnel add h mode gre
               run ip tunnel add mode gre remote 1.2.3.4 name a/b
               run ip tunnel add mode gre remote 1.2.3.4 name 1234567890123456
               run ip tunnel add tun1 mode gre remote 1.2.3.4; device tun1
               run ip tunnel add tun1 mode gre remote 1.2.3.4
               run ip tunnel change tun1 ttl 300
               run ip tunnel change tun1 key x
               run ip tunnel change tun1 mode ipip
               run ip tunnel del tun1 tun2
               run ip tunnel show tun1 frob
               run ip tunnel del tun1; gone tun1
               run ip tunnel del gre1
               run ip tunnel show gre1\n";
    oracle.same(&script);
}

/// §7.5: the line of the kind, in text and JSON, for what this version carries.
#[test]
fn g75_to_g85_ip_link_and_its_details() {
    require!(privilege::check());
    require!(has_gcc());
    let oracle = Oracle::new();
    let mut script = String::new();
    for words in [
        "local 100.0.1.100 remote 100.0.2.100",
        "remote 100.0.2.100 local 100.0.1.100 ttl 64 tos inherit key 42 csum",
        "local 100.0.1.100 remote 100.0.2.100 ikey 1 okey 0.0.0.2 icsum oseq tos 0xb8 nopmtudisc ignore-df dev lo",
        "rem 1.2.3.4 loc 5.6.7.8 k 5",
        "r 1.2.3.4 l 5.6.7.8",
        "r 1.2.3.4 h 9",
        "r 1.2.3.4 t 9 s c",
        "remote 1.2.3.4 key 1 nokey csum nocsum seq noseq",
        "remote 1.2.3.4 i 3 o 4",
        "remote 1.2.3.4 noencap",
        "remote 1.2.3.4 ttl inherit tos inherit",
    ] {
        script += &format!(
            "run ip link add gre1 type gre {words}; device gre1
             run kind gre1; run info gre1
             run ip link set gre1 type gre key 9 ttl 7 pmtudisc noignore-df; run kind gre1; unlink gre1\n"
        );
    }
    let answers = oracle.both(&script);
    let lines = answers.iter().filter(|(ours, _)| ours.contains("    gre remote ")).count();
    assert_eq!(lines, 22, "{answers:#?}");
    for (ours, stock) in answers {
        assert_eq!(ours, stock, "ours on the left, the stock tool on the right");
    }
}

#[test]
fn g86_errors_of_ip_link() {
    require!(privilege::check());
    require!(has_gcc());
    let oracle = Oracle::new();
    let mut script = String::new();
    for words in [
        "gre remote foo",
        "gre remote fd00::1",
        "ip6gre remote 1.2.3.4",
        "gre bogus",
        "gre help",
        "gre remote 1.2.3.4 ttl 300",
        "gre remote 1.2.3.4 tos zz",
        "gre remote 1.2.3.4 key lichenhao",
        "gre remote 1.2.3.4 dev nosuch",
        "erspan erspan 0",
        "erspan erspan_ver 3",
        "gre remote 224.1.1.1",
        "gre remote",
        "gretap remote foo",
    ] {
        script += &format!("run ip link add gre1 type {words}\n");
    }
    script += "run ip link set nosuch type gre ttl 5\nrun ip link set lo type gre ttl 5\n";
    oracle.same(&script);
}

/// In a batch: what returns fails its line, what exits ends the batch.
#[test]
fn errors_in_batches_end_them_as_the_stock_tool_does() {
    require!(privilege::check());
    require!(has_gcc());
    let oracle = Oracle::new();
    let mut script = String::new();
    for line in [
        "tunnel add tun1 mode gre remote foo",
        "tunnel add tun1 mode gre remote 1.2.3.4 ttl 256",
        "tunnel add tun1 mode gre remote 1.2.3.4 ttl 9 nopmtudisc",
        "tunnel add tun1 mode gre remote 1.2.3.4 key",
        "link add tun1 type gre remote foo",
        "link add tun1 type gre bogus",
        "link add tun1 type gre remote 224.1.1.1",
        "tunnel show gre1",
    ] {
        script += &format!(
            "printf 'route get 5.6.7.8\\n%s\\n\\nroute get 127.0.0.1\\n' '{line}' > b
             run ip -b b; run ip -force -b b; run ip -force -b - < b\n"
        );
    }
    oracle.same(&script);
}
