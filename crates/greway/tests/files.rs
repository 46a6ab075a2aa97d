//! `greway up` and `greway down`: both kinds of files, changed files, failures half-way, and the guide's two
//! scenarios through files.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use greway_testbed::{Host, PingOptions, guide, ping, privilege, require};
use support::{Lab, Node, in_vain, two_hosts};

/// The guide's file for linux1 (0) or linux2 (1), as it is.
fn guide_file(end: usize) -> String {
    let (mine, peer) = (end, 1 - end);
    let (outer, inner) = (guide::OUTER, guide::INNER);
    format!(
        "DEVICE=tun0\nONBOOT=yes\nTYPE=GRE\nPEER_OUTER_IPADDR={}\nPEER_INNER_IPADDR={}/30\n\
         MY_OUTER_IPADDR={}\nMY_INNER_IPADDR={}\nKEY=lichenhao\nBOOTPROTO=none\n",
        outer[peer], inner[peer], outer[mine], inner[mine]
    )
}

/// Our own file for linux1 or linux2; `inside` is added to `[inner]`.
fn toml(end: usize, inside: &str) -> String {
    let (mine, peer) = (end, 1 - end);
    let (outer, inner) = (guide::OUTER, guide::INNER);
    format!(
        "local = \"{}\"\nremote = \"{}\"\n\n[inner]\naddress = \"{}\"\npeer = \"{}/30\"\n{inside}\n",
        outer[mine], outer[peer], inner[mine], inner[peer]
    )
}

/// The addresses of a device as `ip` writes them, without the kernel's own link-local ones.
fn addresses(host: &Host, dev: &str) -> Vec<String> {
    let index = host.index(dev).unwrap();
    let entries = host.netlink().unwrap().addresses(Some(index)).unwrap();
    entries.iter().map(|entry| entry.address.to_string()).filter(|text| !text.starts_with("fe80")).collect()
}

/// Destinations of the IPv4 routes of the main table through a device.
fn routes(host: &Host, dev: &str) -> Vec<String> {
    let filter = greway_netlink::RouteFilter {
        table: Some(greway_netlink::table::MAIN),
        ifindex: Some(host.index(dev).unwrap()),
        protocol: None,
    };
    let found = host.netlink().unwrap().routes(greway_netlink::Family::Ipv4, &filter).unwrap();
    let mut found: Vec<String> = found.iter().map(|route| route.destination.to_string()).collect();
    found.sort();
    found
}

/// Every readable setting below /proc/sys/net of a host but those of the tunnel's devices, which come and go.
fn sysctls(host: &Host) -> BTreeMap<String, String> {
    fn walk(directory: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name.contains("tun0") || name.contains("tun1") {
            } else if path.is_dir() {
                walk(&path, found);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.insert(path.display().to_string(), text.trim().to_owned());
            }
        }
    }
    host.run(|| {
        let mut found = BTreeMap::new();
        for family in ["ipv4", "ipv6"] {
            walk(&Path::new("/proc/sys/net").join(family), &mut found);
        }
        found
    })
    .unwrap()
}

fn forwards(host: &Host) -> bool {
    host.read_sysctl("ipv4/ip_forward").unwrap() == "1"
}

fn reaches(from: &Host, to: [u8; 4]) -> bool {
    ping(from, to.into(), &in_vain()).unwrap().complete()
}

#[test]
fn the_guides_file_as_it_is_on_both_hosts() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    for (end, node) in [&lab.one, &lab.two].into_iter().enumerate() {
        let path = node.file("ifcfg-tun0", &guide_file(end));
        // The number that a peer needs is said, and what a key is not.
        node.greway(&["up", &path])
            .ok()
            .says(&["create device tun0, mtu 1472", "with key 63077743"])
            .remarks(&[
                "ifcfg-tun0:8:5",
                "lichenhao",
                "63077743",
                "must be given that number",
                "no password",
            ]);
    }
    let report = lab.ping();
    assert!(report.complete(), "{report}");
    assert_eq!(addresses(&lab.guide.linux1, "tun0"), ["172.16.0.1 peer 172.16.0.2/30"]);
    assert_eq!(routes(&lab.guide.linux1, "tun0"), ["172.16.0.0/30"]);
    // The guide's note: captured on linux2, the source is 172.16.0.1. The answer could come from nowhere else.
    assert!(reaches(&lab.guide.linux2, guide::INNER[0].octets()));
}

#[test]
fn up_twice_has_nothing_to_do_and_down_removes_all_of_it() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let before = (lab.one.belongings(), sysctls(&lab.guide.linux1));
    for (name, text) in [
        ("ifcfg-tun0", guide_file(0)),
        ("tun0.toml", toml(0, "routes = [\"10.10.2.0/24\"]\nforward = true\nsnat = \"10.10.1.1\"")),
    ] {
        let path = lab.one.file(name, &text);
        lab.one.greway(&["up", &path]).ok();
        let (links, state) = (lab.one.links(), lab.one.belongings());
        lab.one.greway(&["up", &path]).ok().says(&["nothing to do"]);
        assert_eq!((lab.one.links(), lab.one.belongings()), (links, state));
        // By the file and by the name.
        let by = if name.ends_with("toml") { "tun0" } else { path.as_str() };
        lab.one.greway(&["down", by]).ok().says(&["delete device tun0"]);
        assert_eq!((lab.one.belongings(), sysctls(&lab.guide.linux1)), before, "{name}");
        lab.one.greway(&["down", by]).ok().says(&["tun0 is not up"]);
    }
}

#[test]
fn a_route_file_beside_an_ifcfg_file_is_read() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let path = lab.one.file("ifcfg-tun0", &guide_file(0));
    lab.one.file("route-tun0", "10.10.2.0/24 dev tun0\n10.99.0.0/16 via 172.16.0.2 dev tun0\n");
    lab.one.greway(&["up", &path]).ok().says(&["add route 10.10.2.0/24 dev tun0"]);
    assert_eq!(routes(&lab.guide.linux1, "tun0"), ["10.10.2.0/24", "10.99.0.0/16", "172.16.0.0/30"]);
    lab.one.greway(&["up", &path]).ok().says(&["nothing to do"]);
    // The network-scripts' older form, and a route less.
    lab.one.file("route-tun0", "ADDRESS0=10.10.2.0\nNETMASK0=255.255.255.0\n");
    lab.one.greway(&["up", &path]).ok().says(&["remove route 10.99.0.0/16 via 172.16.0.2 dev tun0"]);
    assert_eq!(routes(&lab.guide.linux1, "tun0"), ["10.10.2.0/24", "172.16.0.0/30"]);
}

#[test]
fn a_changed_file_changes_the_tunnel_in_place() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let host = &lab.guide.linux1;
    let path = lab.one.file("tun0.toml", &toml(0, "routes = [\"10.10.2.0/24\", \"10.20.0.0/16\"]"));
    lab.one.greway(&["up", &path]).ok();
    let index = host.index("tun0").unwrap();
    // Somebody adds an address and a route of his own.
    host.address("tun0", "192.168.7.1/24").unwrap();
    host.route("10.77.0.0/16", "dev tun0").unwrap();
    let text = toml(0, "routes = [\"10.10.2.0/24\", \"10.30.0.0/16\"]").replace("172.16.0.", "172.16.9.");
    lab.one.file("tun0.toml", &format!("key = 5\n{text}"));
    lab.one.greway(&["up", &path]).ok().says(&[
        "carry tun0 with the changed parameters",
        "set mtu of tun0 from 1476 to 1472",
        "remove address 172.16.0.1 peer 172.16.0.2/30 from tun0",
        "add address 172.16.9.1 peer 172.16.9.2/30 to tun0",
        "remove route 10.20.0.0/16 dev tun0",
        "add route 10.30.0.0/16 dev tun0",
    ]);
    assert_eq!(host.index("tun0").unwrap(), index, "the device is the same");
    assert_eq!(lab.one.mtu("tun0"), 1472);
    let mut present = addresses(host, "tun0");
    present.sort();
    assert_eq!(present, ["172.16.9.1 peer 172.16.9.2/30", "192.168.7.1/24"]);
    assert_eq!(
        routes(host, "tun0"),
        ["10.10.2.0/24", "10.30.0.0/16", "10.77.0.0/16", "172.16.9.0/30", "192.168.7.0/24"]
    );
    lab.one.greway(&["up", &path]).ok().says(&["nothing to do"]);
}

#[test]
fn routes_outlive_a_change_of_the_only_address() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let host = &lab.guide.linux1;
    let text = |address: &str| {
        format!(
            "local = \"100.0.1.100\"\nremote = \"100.0.2.100\"\n[inner]\naddress = \"{address}\"\n\
             routes = [\"10.10.2.0/24\"]\n"
        )
    };
    let path = lab.one.file("tun0.toml", &text("172.16.0.1/24"));
    lab.one.greway(&["up", &path]).ok();
    host.route("10.77.0.0/16", "dev tun0").unwrap();
    // In another network, in the same network, and the same address with another length.
    for (address, connected) in [
        ("172.17.0.1/24", "172.17.0.0/24"),
        ("172.17.0.9/24", "172.17.0.0/24"),
        ("172.17.0.9/16", "172.17.0.0/16"),
    ] {
        lab.one.file("tun0.toml", &text(address));
        lab.one.greway(&["up", &path]).ok();
        assert_eq!(addresses(host, "tun0"), [address]);
        assert_eq!(routes(host, "tun0"), ["10.10.2.0/24", "10.77.0.0/16", connected], "{address}");
    }
}

#[test]
fn up_repairs_what_was_taken_away() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let host = &lab.guide.linux1;
    let path = lab.one.file("tun0.toml", &toml(0, "routes = [\"10.10.2.0/24\"]\nforward = true"));
    lab.one.greway(&["up", &path]).ok();
    // The kernel forgets the routes of a device that goes down.
    host.set_down("tun0").unwrap();
    host.sysctl("ipv4/ip_forward", "0").unwrap();
    lab.one.greway(&["up", &path]).ok().says(&[
        "set tun0 up",
        "add route 10.10.2.0/24",
        "net.ipv4.ip_forward = 1",
    ]);
    assert_eq!(routes(host, "tun0"), ["10.10.2.0/24", "172.16.0.0/30"]);
    lab.one.greway(&["up", &path]).ok().says(&["nothing to do"]);
    lab.one.greway(&["down", "tun0"]).ok();
    assert!(!forwards(host));
}

#[test]
fn a_failure_half_way_leaves_everything_as_it_was() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let before = (lab.one.belongings(), sysctls(&lab.guide.linux1));
    let beyond = "{ to = \"10.99.0.0/16\", via = \"192.0.2.77\" }";
    let bad =
        toml(0, &format!("routes = [\"10.10.2.0/24\", {beyond}]\nforward = true\nsnat = \"10.10.1.1\""));
    let path = lab.one.file("tun0.toml", &bad);
    lab.one.greway(&["up", &path]).refused(&[
        "tun0: cannot add route 10.99.0.0/16 via 192.0.2.77",
        "everything before it was taken back",
    ]);
    assert_eq!((lab.one.belongings(), sysctls(&lab.guide.linux1)), before);
    assert_eq!(lab.one.words("tunnel show").ok().stdout, "");

    // The same to a tunnel that is up: it stays what it was.
    let good = toml(0, "routes = [\"10.20.0.0/16\"]");
    lab.one.file("tun0.toml", &good);
    lab.one.greway(&["up", &path]).ok();
    let state = fs::read_to_string(lab.one.state().join("tun0.json")).unwrap();
    let shown = lab.one.words("tunnel show").ok().stdout;
    lab.one.file("tun0.toml", &format!("key = 9\n{}", bad.replace("172.16.0.", "172.16.9.")));
    lab.one.greway(&["up", &path]).refused(&["10.99.0.0/16", "everything before it was taken back"]);
    assert_eq!(addresses(&lab.guide.linux1, "tun0"), ["172.16.0.1 peer 172.16.0.2/30"]);
    assert_eq!(routes(&lab.guide.linux1, "tun0"), ["10.20.0.0/16", "172.16.0.0/30"]);
    assert_eq!(lab.one.mtu("tun0"), 1476);
    assert_eq!(fs::read_to_string(lab.one.state().join("tun0.json")).unwrap(), state);
    assert_eq!(lab.one.words("tunnel show").ok().stdout, shown);
    assert!(!forwards(&lab.guide.linux1));
    lab.one.file("tun0.toml", &good);
    lab.one.greway(&["up", &path]).ok().says(&["nothing to do"]);
}

#[test]
fn a_route_on_another_device_is_not_replaced() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    lab.guide.linux1.route("10.99.0.0/16", "dev lan0").unwrap();
    let before = lab.one.belongings();
    let path = lab.one.file("tun0.toml", &toml(0, "routes = [\"10.99.0.0/16\"]"));
    lab.one.greway(&["up", &path]).refused(&[
        "tun0: cannot add route 10.99.0.0/16 dev tun0",
        "there is such a route by another way, which stays",
        "everything before it was taken back",
    ]);
    assert_eq!(lab.one.belongings(), before);
    assert!(routes(&lab.guide.linux1, "lan0").contains(&"10.99.0.0/16".to_owned()));
    // With a metric of its own it stands beside it.
    let beside = "routes = [{ to = \"10.99.0.0/16\", metric = 50 }]";
    lab.one.file("tun0.toml", &toml(0, beside));
    lab.one.greway(&["up", &path]).ok();
    assert!(routes(&lab.guide.linux1, "lan0").contains(&"10.99.0.0/16".to_owned()));
    assert!(routes(&lab.guide.linux1, "tun0").contains(&"10.99.0.0/16".to_owned()));
}

#[test]
fn an_address_that_is_elsewhere_too_is_fine() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    lab.guide.linux1.address("lan0", "172.16.0.1/24").unwrap();
    let path = lab.one.file("tun0.toml", &toml(0, ""));
    lab.one.greway(&["up", &path]).ok();
    assert_eq!(addresses(&lab.guide.linux1, "tun0"), ["172.16.0.1 peer 172.16.0.2/30"]);
}

#[test]
fn a_file_that_is_named_twice_is_up_the_second_time() {
    require!(privilege::check());
    let lab = two_hosts();
    // Its table and the seal of its device are looked at again, and not made again.
    let mut text = toml(0, "snat = \"10.10.1.1\"");
    text.insert_str(0, "datapath = \"userspace\"\n");
    let path = lab.one.file("tun0.toml", &text);
    let up = lab.one.words(&format!("up {path} {path}")).ok();
    assert_eq!(up.stdout.matches("translate source").count(), 1, "{up}");
    assert_eq!(up.stdout.matches("nothing to do").count(), 1, "{up}");
}

#[test]
fn a_tunnel_that_two_files_define_is_refused_once() {
    require!(privilege::check());
    let lab = two_hosts();
    lab.one.file("two/tun0.toml", "remote = \"192.0.2.7\"\n");
    lab.one.file("two/tun1.toml", "remote = \"192.0.2.8\"\n");
    lab.one.file("two/tun2.toml", "name = \"tun0\"\nremote = \"192.0.2.9\"\n");
    let files = lab.one.folder().join("two");
    let up = lab.one.words(&format!("up {}/", files.display())).refused(&["1 of 2 tunnels failed"]);
    assert_eq!(up.stderr.matches("tunnel tun0 is defined twice").count(), 1, "{up}");
    up.says(&["create device tun1"]);
}

#[test]
fn a_tunnel_that_is_named_twice_goes_once() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    for (name, remote) in [("tun0", "192.0.2.7"), ("tun1", "192.0.2.8")] {
        lab.one.words(&format!("tunnel add {name} mode gre remote {remote}")).ok();
    }
    let down = lab.one.words("down tun0 tun1 tun0 tun2").ok();
    assert_eq!(down.stdout.matches("delete device tun0").count(), 1, "{down}");
    down.says(&["delete device tun1", "tun0 is not up", "tun2 is not up"]);
    // As many as are asked for one by one.
    lab.one.words("tunnel add tun0 mode gre remote 192.0.2.7").ok();
    lab.one.words("down tun0 tun0").ok().says(&["delete device tun0", "tun0 is not up"]);
}

#[test]
fn a_dry_run_prints_the_plan_and_does_nothing() {
    require!(privilege::check());
    let lab = two_hosts();
    let node = &lab.one;
    let before = (node.belongings(), sysctls(&lab.guide.linux1));
    let path =
        node.file("tun0.toml", &toml(0, "routes = [\"10.10.2.0/24\"]\nforward = true\nsnat = \"10.10.1.1\""));
    let plan = [
        "would create device tun0, mtu 1476",
        "would add address 172.16.0.1 peer 172.16.0.2/30 to tun0",
        "would add route 10.10.2.0/24 dev tun0",
        "would set net.ipv4.ip_forward = 1",
        "would translate source 172.16.0.2 to 10.10.1.1",
    ];
    node.words(&format!("up --dry-run {path}")).ok().says(&plan);
    // Without privileges too, and no daemon was started by either.
    node.nobody(&format!("up --dry-run {path}")).ok().says(&plan);
    assert!(!node.socket().exists());
    node.words("down --dry-run tun0").ok().says(&["tun0 is not up"]);

    let _daemon = node.daemon();
    node.words(&format!("up --dry-run {path}")).ok().says(&plan);
    assert_eq!((node.belongings(), sysctls(&lab.guide.linux1)), before);
    node.greway(&["up", &path]).ok();
    node.nobody(&format!("up --dry-run {path}")).ok().says(&["nothing to do"]);
    let down = node.words("down --dry-run tun0").ok().says(&["would delete device tun0"]).stdout;
    // The plan is what is done.
    let done = node.words("down tun0").ok().stdout;
    assert_eq!(down.replace("would ", ""), done);
}

#[test]
fn a_dry_run_starts_no_daemon_for_what_a_killed_one_left() {
    require!(privilege::check());
    let lab = two_hosts();
    let node = &lab.one;
    let daemon = node.daemon();
    let path = node.file("tun0.toml", &toml(0, "routes = [\"10.10.2.0/24\"]"));
    node.greway(&["up", &path]).ok();
    daemon.kill();
    let (files, socket) = (node.state_files(), fs::metadata(node.socket()).is_ok());
    for words in [&["down", "tun0"][..], &["down", "--all"], &["down", path.as_str()], &["up", path.as_str()]]
    {
        let said = node.greway(&[words, &["--dry-run"]].concat()).ok();
        assert!(!said.stderr.contains("daemon"), "{words:?}: {said}");
        let plan = if words[0] == "down" { "would delete device tun0" } else { "tun0" };
        said.says(&[plan]);
    }
    assert_eq!((node.state_files(), fs::metadata(node.socket()).is_ok()), (files, socket));
    assert!(node.link("tun0").is_some());
    let _daemon = node.daemon();
    node.words("down tun0").ok().says(&["delete device tun0"]);
}

#[test]
fn forwarding_is_put_back_only_where_we_turned_it_on() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let host = &lab.guide.linux1;
    let path = lab.one.file("tun0.toml", &toml(0, "forward = true"));
    lab.one.greway(&["up", &path]).ok().says(&["set net.ipv4.ip_forward = 1"]);
    assert!(forwards(host));
    lab.one.greway(&["down", &path]).ok().says(&["set net.ipv4.ip_forward = 0, as it was"]);
    assert!(!forwards(host));

    host.sysctl("ipv4/ip_forward", "1").unwrap();
    let done = lab.one.greway(&["up", &path]).ok().stdout;
    assert!(!done.contains("ip_forward"), "{done}");
    lab.one.greway(&["down", &path]).ok();
    assert!(forwards(host), "it was on before");
}

#[test]
fn the_last_of_two_forwarding_tunnels_puts_it_back() {
    require!(privilege::check());
    let lab = two_hosts();
    let host = &lab.guide.linux1;
    for stop in [["tun0", "tun1"], ["tun1", "tun0"]] {
        let daemon = lab.one.daemon();
        let one = lab.one.file("tun0.toml", &toml(0, "forward = true"));
        let other = format!("key = 2\n{}", toml(0, "forward = true").replace("172.16.0.", "172.16.1."));
        let other = lab.one.file("tun1.toml", &other);
        lab.one.greway(&["up", &one]).ok();
        lab.one.greway(&["up", &other]).ok();
        lab.one.greway(&["down", stop[0]]).ok();
        assert!(forwards(host), "{} needs it still", stop[1]);
        // What was turned on is known to the next daemon as well.
        daemon.kill();
        let _daemon = lab.one.daemon();
        lab.one.greway(&["down", stop[1]]).ok();
        assert!(!forwards(host), "nobody needs it any more");
    }
}

#[test]
fn forwarding_goes_off_when_the_file_no_longer_asks_for_it() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemon = lab.one.daemon();
    let path = lab.one.file("tun0.toml", &toml(0, "forward = true"));
    lab.one.greway(&["up", &path]).ok();
    lab.one.file("tun0.toml", &toml(0, ""));
    lab.one.greway(&["up", &path]).ok().says(&["set net.ipv4.ip_forward = 0, as it was"]);
    assert!(!forwards(&lab.guide.linux1));
    lab.one.greway(&["up", &path]).ok().says(&["nothing to do"]);
}

#[test]
fn no_setting_but_forwarding_is_touched() {
    require!(privilege::check());
    let lab = two_hosts();
    let daemon = lab.one.daemon();
    let host = &lab.guide.linux1;
    let before = sysctls(host);
    let path = lab
        .one
        .file("tun0.toml", &toml(0, "routes = [\"10.10.2.0/24\"]\nforward = true\nsnat = \"10.10.1.1\""));
    lab.one.greway(&["up", &path]).ok();
    let during = sysctls(host);
    let changed: Vec<&String> = before.keys().filter(|key| before[*key] != during[*key]).collect();
    // Writing ip_forward changes these by the kernel's hand (net/ipv4/devinet.c inet_forward_change).
    let by_the_kernel = |key: &str| {
        key.ends_with("ipv4/ip_forward")
            || (key.contains("/ipv4/conf/") && key.ends_with("/forwarding"))
            || key.ends_with("/ipv4/conf/all/accept_redirects")
    };
    assert!(changed.iter().any(|key| key.ends_with("ip_forward")), "{changed:?}");
    assert!(changed.iter().all(|key| by_the_kernel(key)), "{changed:?}");
    lab.one.words("daemon --stop").ok();
    assert_eq!(daemon.ended(), Some(0));
    assert_eq!(sysctls(host), before);
}

#[test]
fn scenario_1_needs_snat_or_a_route_back() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    let lan2 = guide::LAN[1].octets();
    let one = lab.one.file("tun0.toml", &toml(0, "routes = [\"10.10.2.0/24\"]"));
    lab.one.greway(&["up", &one]).ok();
    let two = lab.two.file("tun0.toml", &toml(1, "forward = true"));
    lab.two.greway(&["up", &two]).ok();
    assert!(reaches(&lab.guide.linux1, guide::INNER[1].octets()));
    assert!(!reaches(&lab.guide.linux1, lan2), "lan2 knows no way back to 172.16.0.1");

    lab.two.file("tun0.toml", &toml(1, "forward = true\nsnat = \"10.10.2.1\""));
    lab.two.greway(&["up", &two]).ok().says(&["translate source 172.16.0.1 to 10.10.2.1"]);
    assert!(reaches(&lab.guide.linux1, lan2), "with SNAT: {}", lab.two.words("status").stdout);
    lab.two.greway(&["up", &two]).ok().says(&["nothing to do"]);

    lab.two.file("tun0.toml", &toml(1, "forward = true"));
    lab.two.greway(&["up", &two]).ok().says(&["stop translating source 172.16.0.1"]);
    assert!(!reaches(&lab.guide.linux1, lan2), "SNAT is gone");
    lab.guide.lan2.route("172.16.0.0/30", "via 10.10.2.1").unwrap();
    assert!(reaches(&lab.guide.linux1, lan2), "with a route on the LAN host");
}

#[test]
fn scenario_2_joins_the_lans_by_routes() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    lab.guide.default_routes().unwrap();
    for (end, node) in [&lab.one, &lab.two].into_iter().enumerate() {
        let far = 2 - end;
        let path =
            node.file("tun0.toml", &toml(end, &format!("routes = [\"10.10.{far}.0/24\"]\nforward = true")));
        node.greway(&["up", &path]).ok();
    }
    for (from, to) in [(&lab.guide.lan1, guide::LAN[1]), (&lab.guide.lan2, guide::LAN[0])] {
        let report = ping(from, to.into(), &PingOptions::default()).unwrap();
        assert!(report.complete(), "{report}");
    }
}

#[test]
fn a_tunnel_of_one_origin_is_not_taken_over_by_another() {
    require!(privilege::check());
    let lab: Lab = two_hosts();
    let node: &Node = &lab.one;
    let _daemon = node.daemon();
    let one = node.file("tun0.toml", &toml(0, ""));
    let other = node.file("ifcfg-tun0", &guide_file(0));
    node.greway(&["up", &one]).ok();
    node.greway(&["up", &other]).refused(&["tunnel tun0 is defined by", "tun0.toml", "ifcfg-tun0"]);
    node.greway(&["down", &one]).ok();
    node.greway(&["up", &other]).ok();
}
