//! `ip -batch`: lines of ours among the real tool's, in their order.

use std::io::Write;
use std::process::Stdio;

use greway_testbed::{Host, privilege, require};

use crate::support::Node;
use crate::{Shimmed, real};

fn host(name: &str) -> Host {
    let host = Host::new(name).unwrap();
    host.address("lo", "5.6.7.8/32").unwrap();
    host.route("default", "dev lo").unwrap();
    host
}

#[test]
fn lines_are_done_in_their_order() {
    require!(privilege::check());
    let host = host("host");
    let ours = Shimmed::new(&host);
    let _daemon = ours.node.daemon();
    let file = ours.node.file(
        "batch",
        "# the guide's, in one file\n\
         link set lo mtu 60000\n\
         tunnel add tun1 mode gre \\\n   remote 1.2.3.4 local 5.6.7.8  # here\n\
         \n\
         addr add 172.16.0.1/30 peer 172.16.0.2/30 dev tun1\n\
         route add 10.10.2.0/24 dev tun1\n\
         tunnel change tun1 ttl 9\n\
         route show dev tun1\n\
         tunnel show tun1\n\
         link show lo\n",
    );
    let done = ours.ip(&format!("-o -b {file}")).ok();
    assert_eq!(done.stderr, "");
    let lines = done.stdout.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(lines, ["10.10.2.0/24", "172.16.0.0/30", "tun1:", "1:"], "{done}");
    assert!(done.stdout.contains("tun1: gre/ip remote 1.2.3.4 local 5.6.7.8 ttl 9\n"), "{done}");
    // From standard input, with the namespace's own options.
    let mut command = ours.shell("ip -batch -");
    command.stdin(Stdio::from(
        std::fs::File::open(ours.node.file("delete", "tunnel del tun1\nlink show tun1\n")).unwrap(),
    ));
    let gone = ours.node.execute(command);
    assert_eq!(
        (gone.code, gone.stderr.as_str()),
        (Some(1), "Device \"tun1\" does not exist.\nCommand failed -:2\n")
    );
}

/// Failures name the line of the batch, whoever did it, and stop it unless `-force`.
#[test]
fn a_line_that_fails_is_named() {
    require!(privilege::check());
    let host = host("host");
    let ours = Shimmed::new(&host);
    let _daemon = ours.node.daemon();
    let file = ours.node.file(
        "batch",
        "link show lo\n\
         tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8\n\
         tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8\n\
         link show nosuch\n\
         tunnel add tun2 mode gre remote 1.2.3.5 local 5.6.7.8\n",
    );
    let exists = "add tunnel \"gre0\" failed: File exists\n";
    let stopped = ours.ip(&format!("-b {file}"));
    assert_eq!((stopped.code, stopped.stderr), (Some(1), format!("{exists}Command failed {file}:3\n")));
    assert!(ours.node.link("tun2").is_none());
    ours.ip("tunnel del tun1").ok();
    let forced = ours.ip(&format!("-force -b {file}"));
    let nosuch = "Device \"nosuch\" does not exist.\n";
    let expected = format!("{exists}Command failed {file}:3\n{nosuch}Command failed {file}:4\n");
    assert_eq!((forced.code, forced.stderr), (Some(1), expected));
    assert!(ours.node.link("tun2").is_some());
    // The parser's own errors end a batch at once, also with -force, as in the real tool.
    let wrong =
        ours.node.file("wrong", "tunnel add tun3 mode gre remote 1.2.3.6 key lichenhao\nlink show lo\n");
    let ended = ours.ip(&format!("-force -b {wrong}"));
    let text = "invalid value for \"key\": \"lichenhao\"; it should be an unsigned integer\n";
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(255), "", text));
}

/// A batch without a line of ours, as a file and fed, is the real tool's to the byte.
#[test]
fn foreign_batches_are_the_real_tools() {
    require!(privilege::check());
    let hosts = ["ours", "theirs"].map(host);
    let (ours, theirs) = (Shimmed::new(&hosts[0]), Node::new(&hosts[1]));
    let batches = [
        "link show lo\nroute show\n",
        "route add 10.0.0.0/8 dev lo\nroute add 10.0.0.0/8 dev lo\nlink show lo\n",
        "\n# comment\naddr show 'lo'\nfrobnicate\naddr show lo",
        "link show lo\n\nlink show \\\n nosuch\n",
        "tunnel show\nlink show type gre\ntunnel add x mode foo\n",
        "addr show 'lo\n",
        "link show lo \\",
        "",
    ];
    for (number, text) in batches.iter().enumerate() {
        let file = ours.node.file(&format!("b{number}"), text);
        for options in ["-b", "-force -b", "-j -batch"] {
            for script in [format!("ip {options} {file}"), format!("ip {options} - < {file}")] {
                let (through, straight) = (ours.sh(&script), real(&theirs, &script));
                assert_eq!(
                    (through.code, &through.stdout, &through.stderr),
                    (straight.code, &straight.stdout, &straight.stderr),
                    "{script}: {text:?}"
                );
                for node in [&ours.node, &theirs] {
                    real(node, "ip route del 10.0.0.0/8 2>/dev/null");
                }
            }
        }
    }
}

/// A program that feeds a batch line by line sees each line done before it sends the next.
#[test]
fn a_fed_batch_does_not_wait_for_its_end() {
    require!(privilege::check());
    let host = host("host");
    let ours = Shimmed::new(&host);
    let _daemon = ours.node.daemon();
    let mut command = ours.shell("exec ip -b -");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = ours.node.run(|| command.spawn()).unwrap();
    ours.node.watch(child.id());
    let mut stdin = child.stdin.take().unwrap();
    for line in [
        "link set lo mtu 50000\n",
        "tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8\n",
        "link set tun1 mtu 1300\n",
    ] {
        stdin.write_all(line.as_bytes()).unwrap();
        stdin.flush().unwrap();
        let reached =
            greway_testbed::poll_until(crate::support::SOON, line, || match line.split(' ').next_back() {
                Some("50000\n") => (ours.node.mtu("lo") == 50_000).then_some(()),
                Some("1300\n") => (ours.node.mtu("tun1") == 1300).then_some(()),
                _ => ours.node.link("tun1").map(drop),
            });
        reached.unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}
