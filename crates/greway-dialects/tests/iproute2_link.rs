//! The golden rows of `ip link … type KIND` in the strict dialect, and the output of `ip link show`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_dialects::iproute2::link::{Kind, LinkCommand, LinkRequest, parse};
use greway_dialects::iproute2::output::{
    link_address_line, link_flags, link_kind_line, linkinfo_json, splice_link_json, splice_link_text,
};
use greway_dialects::iproute2::{Abort, Errno, Lookup, Wording};
use greway_spec::{Mode, TunnelSpec};
use serde_json::json;

struct Ours(Option<TunnelSpec>);

impl Lookup for Ours {
    fn device(&self, name: &str) -> bool {
        matches!(name, "lo" | "eth9") || self.tunnel(name).is_ok()
    }

    fn tunnel(&self, name: &str) -> Result<TunnelSpec, Errno> {
        let found = self.0.clone().filter(|spec| spec.name.as_str() == name);
        found.ok_or(if name == "lo" { Errno::NotSupported } else { Errno::NoSuchDevice })
    }

    fn tunnels(&self) -> Vec<TunnelSpec> {
        self.0.clone().into_iter().collect()
    }
}

fn run(words: &str, ours: &Ours) -> Result<LinkCommand, Abort> {
    parse(&words.split(' ').collect::<Vec<_>>(), Wording::V6_1, ours)
}

fn request(words: &str) -> LinkRequest {
    match run(words, &Ours(None)) {
        Ok(LinkCommand::Add(request) | LinkCommand::Replace(request)) => request,
        other => panic!("{words}: {other:?}"),
    }
}

fn spec(words: &str) -> TunnelSpec {
    let request = request(words);
    assert_eq!(request.unsupported, [], "{words}");
    request.draft.into_spec().unwrap()
}

fn refused(words: &str) -> (String, u8) {
    let abort = run(words, &Ours(None)).expect_err(words);
    (abort.stderr, abort.code)
}

#[test]
fn g75_the_block_of_a_plain_tunnel() {
    let spec = spec("add gre1 type gre local 100.0.1.100 remote 100.0.2.100");
    assert_eq!(link_kind_line(&spec), "gre remote 100.0.2.100 local 100.0.1.100 ttl inherit ");
    assert_eq!(link_address_line(&spec).unwrap(), "link/gre 100.0.1.100 peer 100.0.2.100");
    assert_eq!(link_flags(&spec), ["POINTOPOINT", "NOARP"]);
}

#[test]
fn g76_to_g78_keys_flags_and_json() {
    let g76 = spec("add gre1 type gre remote 1.2.3.4 local 5.6.7.8 key 42 csum ttl 64 tos inherit");
    assert_eq!(
        link_kind_line(&g76),
        "gre remote 1.2.3.4 local 5.6.7.8 ttl 64 tos inherit ikey 0.0.0.42 okey 0.0.0.42 icsum ocsum "
    );
    let g77 = spec(
        "add gre1 type gre remote 1.2.3.4 ikey 1 okey 0.0.0.2 icsum oseq tos 0xb8 nopmtudisc ignore-df dev eth9 fwmark \
         0x10",
    );
    assert_eq!(
        link_kind_line(&g77),
        "gre remote 1.2.3.4 local any dev eth9 ttl inherit tos 0xb8 nopmtudisc ignore-df ikey 0.0.0.1 okey 0.0.0.2 oseq \
         icsum fwmark 0x10 "
    );
    assert_eq!(
        linkinfo_json(&g76),
        json!({"info_kind": "gre", "info_data": {"remote": "1.2.3.4", "local": "5.6.7.8", "ttl": 64, "tos": "0x1",
            "pmtudisc": true, "ikey": "0.0.0.42", "okey": "0.0.0.42", "icsum": true, "ocsum": true}})
    );
    assert_eq!(linkinfo_json(&g77)["info_data"]["fwmark"], "0x10");
    assert_eq!(linkinfo_json(&g77)["info_data"]["link"], "eth9");
}

#[test]
fn g79_g82_g83_what_this_version_cannot_be() {
    for (words, field, value) in [
        ("add gre1 type gre external", "external", None),
        (
            "add gre1 type gre remote 1.2.3.4 encap fou encap-sport auto encap-dport 5555 encap-csum",
            "encap",
            Some("fou"),
        ),
        ("add gre1 type gretap remote 1.2.3.4 encap gue", "encap", Some("gue")),
        ("add gre1 type erspan remote 1.2.3.4 seq key 100 erspan_ver 1 erspan 123", "type", Some("erspan")),
        ("add gre1 type ip6gre remote fd00::1 erspan 5", "erspan", Some("5")),
        ("add gre1 type ip6gre remote fd00::1 fwmark inherit", "fwmark", Some("inherit")),
        ("add gre1 netns 1 type gre remote 1.2.3.4", "netns", Some("1")),
        ("add gre1 alias mine type gre remote 1.2.3.4", "alias", Some("mine")),
        ("add gre1 numtxqueues 4 type gre remote 1.2.3.4", "numtxqueues", Some("4")),
        ("add gre1 address 1.2.3.4 type gre remote 1.2.3.4", "address", Some("1.2.3.4")),
        ("add gre1 address 02:00:00:00:01 type gretap remote 1.2.3.4", "address", Some("02:00:00:00:01")),
        ("add gre1 index 77 type gre remote 1.2.3.4", "index", Some("77")),
        ("add gre1 link lo type gre remote 1.2.3.4", "link", Some("lo")),
        ("add gre1 carrier on type gre remote 1.2.3.4", "carrier", Some("on")),
    ] {
        let request = request(words);
        let refusal = request.unsupported.first().unwrap_or_else(|| panic!("{words}"));
        assert_eq!((refusal.field, refusal.value.as_deref()), (field, value), "{words}");
        let text = refusal.to_string();
        assert!(text.starts_with(&format!("tunnel gre1: {field}")) && text.contains(": "), "{text}");
    }
    // Taken back or without effect: nothing to refuse.
    let quiet = "add gre1 numrxqueues 1 type gre remote 1.2.3.4 encap fou noencap encap-csum noencap-remcsum";
    assert_eq!(request(quiet).unsupported, []);
    let erspan = request("add gre1 type erspan remote 1.2.3.4 erspan_dir eg erspan_hwid 5 erspan_ver 2");
    assert_eq!((erspan.kind, erspan.kind.mode()), (Kind::Erspan, None));
    assert_eq!(erspan.unsupported.len(), 4);
}

#[test]
fn g80_abbreviations_the_first_of_the_list() {
    for words in [
        "add gre1 type gre rem 1.2.3.4 loc 5.6.7.8 k 5 h 9",
        "add gre1 type gre r 1.2.3.4 l 5.6.7.8 ik 5 o 5 t 9",
        "add gre1 type gre r 1.2.3.4 l 5.6.7.8 i 7 i 5 o 5 hl 9 c noc s nos nop p",
    ] {
        assert_eq!(
            link_kind_line(&spec(words)),
            "gre remote 1.2.3.4 local 5.6.7.8 ttl 9 ikey 0.0.0.5 okey 0.0.0.5 ",
            "{words}"
        );
    }
    let six = spec("add gre1 type ip6gre r fd00::1 n to inherit t inherit d lo");
    assert_eq!((six.ikey, six.dev.unwrap().as_str()), (None, "lo"));
}

#[test]
fn g84_the_ipv6_kinds() {
    let spec = spec(
        "add gre1 type ip6gre remote fd00::1 local fd00::2 key 9 hoplimit 5 tclass 0x20 flowlabel 0x12345 encaplimit none \
         dscp inherit",
    );
    assert_eq!(
        link_kind_line(&spec),
        "ip6gre remote fd00::1 local fd00::2 hoplimit 5 encaplimit none tclass 0x20 flowlabel 0x12345 dscp inherit ikey \
         0.0.0.9 okey 0.0.0.9 "
    );
    assert_eq!(link_address_line(&spec).unwrap(), "link/gre6 fd00::2 peer fd00::1");
    assert_eq!(
        linkinfo_json(&spec)["info_data"],
        json!({"remote": "fd00::1", "local": "fd00::2", "ttl": 5, "ip6_tnl_f_ign_encap_limit": true, "tclass": "0x20",
            "flowlabel": "0x12345", "ip6_tnl_f_rcv_dscp_copy": true, "ikey": "0.0.0.9", "okey": "0.0.0.9"})
    );
    let plain = self::spec("add gre1 type ip6gretap remote fd00::1");
    assert_eq!(
        link_kind_line(&plain),
        "ip6gretap remote fd00::1 local any hoplimit 64 encaplimit 4 tclass 0x00 flowlabel 0x00000 "
    );
    assert_eq!((link_address_line(&plain), link_flags(&plain)), (None, &["BROADCAST", "MULTICAST"][..]));
}

#[test]
fn g85_no_words_after_the_kind() {
    let spec = spec("add gre1 type gre");
    assert_eq!(link_kind_line(&spec), "gre remote any local any ttl inherit ");
    assert_eq!(link_address_line(&spec).unwrap(), "link/gre 0.0.0.0 brd 0.0.0.0");
    assert_eq!(link_flags(&spec), ["NOARP"]);
}

#[test]
fn g86_g87_errors() {
    for (words, stderr, code) in [
        ("add x type gre remote foo", "Error: inet address is expected rather than \"foo\".\n", 1),
        (
            "add x type ip6gre remote 1.2.3.4",
            "Error: inet6 address is expected rather than \"1.2.3.4\".\n",
            1,
        ),
        ("add x type gre ttl 300", "Error: argument \"300\" is wrong: invalid TTL\n\n", 255),
        ("add x type ip6gre ttl 300", "Error: argument \"300\" is wrong: invalid HLIM\n\n", 255),
        (
            "add x type erspan erspan 0",
            "Error: argument \"0\" is wrong: erspan index must be > 0 and <= 20-bit\n\n",
            255,
        ),
        (
            "add x type erspan erspan_ver 3",
            "Error: argument \"3\" is wrong: erspan version must be 0/1/2\n\n",
            255,
        ),
        ("add x type gre remote 224.1.2.3", "A broadcast tunnel requires a source address.\n", 1),
        ("add x type gre dev nosuch", "Cannot find device \"nosuch\"\n", 255),
        ("set lo type gre ttl 5", "Failed to get existing tunnel info.\n", 1),
        ("set nosuch type gre ttl 5", "Cannot find device \"nosuch\"\n", 1),
    ] {
        assert_eq!(refused(words), (stderr.to_owned(), code), "{words}");
    }
    let (usage, code) = refused("add x type gre bogus");
    assert!(usage.starts_with("Usage: ... gre      \t[ remote ADDR ]\n\t\t\t[ local ADDR ]\n"), "{usage}");
    assert_eq!(code, 1);
    let command = run("add x type gre", &Ours(None)).unwrap();
    assert_eq!(command.refused(Errno::Exists), Abort::line(2, "RTNETLINK answers: File exists"));
}

#[test]
fn the_words_of_every_link() {
    let request = request(
        "add name tap1 mtu 1400 address 02:00:00:00:00:01 txqueuelen 500 group 7 multicast off arp on master lo up type \
         gretap remote 1.2.3.4",
    );
    assert_eq!(request.up, Some(true));
    assert_eq!(
        request.afterwards.join(" "),
        "txqueuelen 500 group 7 multicast off arp on master lo address 02:00:00:00:00:01"
    );
    let spec = request.draft.into_spec().unwrap();
    assert_eq!((spec.mtu, spec.mode, spec.name.as_str()), (Some(1400), Mode::Gretap, "tap1"));
    assert_eq!(self::request("add type ip6gretap remote fd00::1").name.as_str(), "ip6gretap1");
    assert_eq!(run("add d0 type dummy", &Ours(None)), Ok(LinkCommand::NotOurs));
    assert_eq!(run("set lo up", &Ours(None)), Ok(LinkCommand::NotOurs));
}

#[test]
fn set_overlays_and_takes_back() {
    let present = spec("add gre1 type gre remote 1.2.3.4 local 5.6.7.8 key 5 csum ttl 9 fwmark 3");
    let ours = Ours(Some(present.clone()));
    let set = |words: &str| match run(words, &ours).unwrap() {
        LinkCommand::Set(request) => link_kind_line(&request.draft.overlay_on(&present).unwrap()),
        other => panic!("{words}: {other:?}"),
    };
    assert_eq!(
        set("set dev gre1 type gre ttl inherit noikey nocsum"),
        "gre remote 1.2.3.4 local 5.6.7.8 ttl inherit okey 0.0.0.5 fwmark 0x3 "
    );
    assert_eq!(set("change gre1 mtu 1300 type gre"), link_kind_line(&present));
    for (words, stderr) in [
        ("set gre1 type gretap ttl 5", "RTNETLINK answers: Operation not supported\n"),
        ("replace gre1 type gre ttl 5", "RTNETLINK answers: Operation not supported\n"),
        ("set gre1 type ip6gre ttl 5", "Failed to get existing tunnel info.\n"),
    ] {
        assert_eq!(run(words, &ours).unwrap_err().stderr, stderr, "{words}");
    }
    let name = "gre1".parse().unwrap();
    assert_eq!(run("del gre1 type gre", &ours), Ok(LinkCommand::Delete { name }));
}

/// As the real `ip` prints one end of a veth pair.
const VETH: &str = "\
3: tun0@gw-tun0: <NO-CARRIER,BROADCAST,MULTICAST,NOARP,UP> mtu 1476 qdisc noqueue state DOWN mode DEFAULT group default qlen 1000
    link/ether ee:63:94:3c:a6:1e brd ff:ff:ff:ff:ff:ff link-netnsid 0 promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 
    veth addrgenmode eui64 numtxqueues 2 numrxqueues 2 gso_max_size 65536 
    alias greway tun0
4: eth0@if9: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP mode DEFAULT group default qlen 1000
    link/ether 00:00:00:00:00:01 brd ff:ff:ff:ff:ff:ff promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 
    veth addrgenmode eui64 numtxqueues 1 
";

const SPLICED: &str = "\
3: tun0@NONE: <NO-CARRIER,POINTOPOINT,NOARP,UP> mtu 1476 qdisc noqueue state DOWN mode DEFAULT group default qlen 1000
    link/gre 100.0.1.100 peer 100.0.2.100 promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 
    gre remote 100.0.2.100 local 100.0.1.100 ttl inherit addrgenmode eui64 numtxqueues 2 numrxqueues 2 gso_max_size 65536 
    alias greway tun0
";

#[test]
fn text_is_spliced_in_for_our_devices_alone() {
    let tun0 = spec("add tun0 type gre local 100.0.1.100 remote 100.0.2.100");
    let others = VETH.split_once("4: eth0").unwrap().1;
    assert_eq!(splice_link_text(VETH, &[&tun0]), format!("{SPLICED}4: eth0{others}"));
    assert_eq!(splice_link_text(VETH, &[]), VETH);
    // One line a device.
    let oneline = |text: &str| {
        let records =
            text.split_inclusive("\n4: ").map(|record| record.trim_end_matches("4: ").trim_end_matches('\n'));
        records.map(|record| record.replace('\n', "\\")).collect::<Vec<_>>().join("\n4: ") + "\n"
    };
    assert_eq!(splice_link_text(&oneline(VETH), &[&tun0]), oneline(&format!("{SPLICED}4: eth0{others}")));
    // Without -d: no line of the kind, and nothing after the addresses.
    let short = "3: tun0@gw-tun0: <BROADCAST,MULTICAST,NOARP,UP,LOWER_UP> mtu 1476 qdisc noqueue state UP\n    link/ether \
                 ee:63:94:3c:a6:1e brd ff:ff:ff:ff:ff:ff\n    inet 172.16.0.1 peer 172.16.0.2/30 scope global tun0\n";
    assert_eq!(
        splice_link_text(short, &[&tun0]),
        "3: tun0@NONE: <POINTOPOINT,NOARP,UP,LOWER_UP> mtu 1476 qdisc noqueue state UP\n    link/gre 100.0.1.100 peer \
         100.0.2.100\n    inet 172.16.0.1 peer 172.16.0.2/30 scope global tun0\n"
    );
    // The fallback device is a TUN.
    let tun = "5: tun0: <POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 1476 qdisc fq state UNKNOWN\n    link/none  \
               promiscuity 0 \n    tun type tun pi off vnet_hdr on persist on addrgenmode random numtxqueues 1 \n";
    assert_eq!(
        splice_link_text(tun, &[&tun0]),
        "5: tun0@NONE: <POINTOPOINT,NOARP,UP,LOWER_UP> mtu 1476 qdisc fq state UNKNOWN\n    link/gre 100.0.1.100 peer \
         100.0.2.100 promiscuity 0 \n    gre remote 100.0.2.100 local 100.0.1.100 ttl inherit addrgenmode random \
         numtxqueues 1 \n"
    );
    // An Ethernet tunnel keeps its addresses.
    let tap = spec("add tun0 type gretap remote 1.2.3.4 key 7");
    let spliced = splice_link_text(VETH, &[&tap]);
    assert!(spliced.contains("3: tun0@NONE: <NO-CARRIER,BROADCAST,MULTICAST,NOARP,UP> mtu"), "{spliced}");
    assert!(
        spliced.contains("\n    link/ether ee:63:94:3c:a6:1e brd ff:ff:ff:ff:ff:ff promiscuity 0  allmulti"),
        "{spliced}"
    );
    assert!(
        spliced.contains(
            "\n    gretap remote 1.2.3.4 local any ttl inherit ikey 0.0.0.7 okey 0.0.0.7 addrgenmode"
        )
    );
}

#[test]
fn json_is_spliced_in_for_our_devices_alone() {
    let tun0 = spec("add tun0 type gre local 100.0.1.100 remote 100.0.2.100");
    let real = "[{\"ifindex\":3,\"link_index\":9,\"ifname\":\"tun0\",\"flags\":[\"BROADCAST\",\"MULTICAST\",\"NOARP\",\"UP\"],\
                \"link_type\":\"ether\",\"address\":\"ee:63:94:3c:a6:1e\",\"broadcast\":\"ff:ff:ff:ff:ff:ff\",\"link_netnsid\":0,\
                \"linkinfo\":{\"info_kind\":\"veth\"},\"ifalias\":\"greway tun0\"},{\"ifname\":\"eth0\",\"link_type\":\"ether\"}]\n";
    assert_eq!(
        splice_link_json(real, &[&tun0]).unwrap(),
        "[{\"ifindex\":3,\"link\":null,\"ifname\":\"tun0\",\"flags\":[\"POINTOPOINT\",\"NOARP\",\"UP\"],\"link_type\":\"gre\",\
         \"address\":\"100.0.1.100\",\"link_pointtopoint\":true,\"broadcast\":\"100.0.2.100\",\"linkinfo\":{\"info_kind\":\"gre\",\
         \"info_data\":{\"remote\":\"100.0.2.100\",\"local\":\"100.0.1.100\",\"ttl\":0,\"pmtudisc\":true}},\"ifalias\":\"greway \
         tun0\"},{\"ifname\":\"eth0\",\"link_type\":\"ether\"}]\n"
    );
    assert_eq!(splice_link_json(real, &[]).unwrap(), real);
    assert_eq!(splice_link_json("Device \"x\" does not exist.\n", &[&tun0]), None);
    let brief = "[{\"link\":\"gw-tun0\",\"ifname\":\"tun0\",\"operstate\":\"UP\",\"flags\":[\"UP\"]}]\n";
    assert_eq!(splice_link_json(brief, &[&tun0]).unwrap(), brief);
    let pretty = "[ {\n        \"ifname\": \"tun0\",\n        \"flags\": [ \"NOARP\",\"UP\" ],\n        \"link_type\": \"ether\",\n        \
                  \"address\": \"ee:63:94:3c:a6:1e\",\n        \"linkinfo\": {\n            \"info_kind\": \"veth\"\n        }\n    } ]\n";
    assert_eq!(
        splice_link_json(pretty, &[&tun0]).unwrap(),
        "[ {\n        \"ifname\": \"tun0\",\n        \"flags\": [ \"POINTOPOINT\",\"NOARP\",\"UP\" ],\n        \"link_type\": \"gre\",\n        \
         \"address\": \"100.0.1.100\",\n        \"link_pointtopoint\": true,\n        \"linkinfo\": {\n            \"info_kind\": \
         \"gre\",\n            \"info_data\": {\n                \"remote\": \"100.0.2.100\",\n                \"local\": \
         \"100.0.1.100\",\n                \"ttl\": 0,\n                \"pmtudisc\": true\n            }\n        }\n    } ]\n"
    );
}
