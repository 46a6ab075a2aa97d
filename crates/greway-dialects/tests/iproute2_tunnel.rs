//! The golden rows of `ip tunnel` in the strict dialect. Rows of commands that go well are also run against
//! a kernel with GRE in iproute2_kernel.rs, errors against the real tool in iproute2_oracle.rs.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_dialects::iproute2::output::{Options, Shown, Statistics, tunnel_show};
use greway_dialects::iproute2::tunnel::{TunnelCommand, parse};
use greway_dialects::iproute2::{Abort, Errno, Family, Lookup, Wording};
use greway_spec::TunnelSpec;

/// A host with some tunnels of ours.
struct Ours(Vec<TunnelSpec>);

impl Lookup for Ours {
    fn device(&self, name: &str) -> bool {
        name == "lo" || self.tunnel(name).is_ok()
    }

    fn tunnel(&self, name: &str) -> Result<TunnelSpec, Errno> {
        let found = self.0.iter().find(|spec| spec.name.as_str() == name);
        found.cloned().ok_or(if name == "lo" { Errno::NotSupported } else { Errno::NoSuchDevice })
    }

    fn tunnels(&self) -> Vec<TunnelSpec> {
        self.0.clone()
    }
}

fn run(words: &str, family: Family, ours: &Ours) -> Result<TunnelCommand, Abort> {
    let words: Vec<&str> = words.split(' ').map(|word| if word == "''" { "" } else { word }).collect();
    parse(&words, family, Wording::V6_1, ours)
}

fn added(words: &str, family: Family) -> TunnelSpec {
    match run(words, family, &Ours(Vec::new())) {
        Ok(TunnelCommand::Add { draft, .. }) => draft.into_spec().unwrap(),
        other => panic!("{words}: {other:?}"),
    }
}

fn tun1(words: &str) -> TunnelSpec {
    let words = format!("add tun1 mode gre remote 1.2.3.4 local 5.6.7.8 {words}");
    added(words.trim_end(), Family::Unspecified)
}

fn changed(words: &str, present: TunnelSpec) -> TunnelSpec {
    match run(words, Family::Unspecified, &Ours(vec![present.clone()])) {
        Ok(TunnelCommand::Change { draft, .. }) => draft.overlay_on(&present).unwrap(),
        other => panic!("{words}: {other:?}"),
    }
}

/// Stdout of a `show` with these tunnels there.
fn stdout(words: &str, specs: &[TunnelSpec], family: Family, options: Options) -> String {
    let Ok(TunnelCommand::Show(show)) = run(words, family, &Ours(Vec::new())) else { panic!("{words}") };
    let shown: Vec<_> = specs.iter().map(|spec| Shown { spec, statistics: Statistics::default() }).collect();
    tunnel_show(&show, &shown, &options, "").unwrap_or_else(|abort| abort.stderr)
}

fn line(spec: &TunnelSpec) -> String {
    stdout(
        &format!("show {}", spec.name),
        std::slice::from_ref(spec),
        Family::Unspecified,
        Options::default(),
    )
}

fn refused(words: &str) -> (String, u8) {
    let abort = run(words, Family::Unspecified, &Ours(Vec::new())).expect_err(words);
    (abort.stderr, abort.code)
}

const G13: &str = "tun1: gre/ip remote 1.2.3.4 local 5.6.7.8 ttl inherit";
const FLAG_LINES: &str = "\n  Drop packets out of sequence.\n  Checksum in received packet is required.\n  \
                          Sequence packets on output.\n  Checksum output packets.";

#[test]
fn g13_to_g29_parameters() {
    for (words, after) in [
        ("", ""),
        ("key 42", " key 42"),
        ("key 0x2a", " key 42"),
        ("key 052", " key 42"),
        ("key 0.0.0.42", " key 42"),
        ("key 10.0.0.1", " key 167772161"),
        ("key 1.2.3", " key 16909056"),
        ("key 010", " key 8"),
        ("key 0", " key 0"),
        ("ikey 1 okey 2", " ikey 1 okey 2"),
        ("ikey 1", " ikey 1"),
        ("okey 2", " okey 2"),
        ("csum seq key 5", &format!(" key 5{FLAG_LINES}")),
        ("icsum", "\n  Checksum in received packet is required."),
        ("ocsum", "\n  Checksum output packets."),
        ("tos inherit", " tos inherit"),
        ("tos inherit/c0", " tos inherit/CS6"),
        ("d 10", " tos 0x10"),
        // Cut at the first slash.
        ("tos 10/20", " tos 0x10"),
        ("nopmtudisc", " nopmtudisc"),
        ("key 1 key 2", " key 2"),
        // "inherit" takes nothing back.
        ("ttl 0", ""),
    ] {
        assert_eq!(line(&tun1(words)), format!("{G13}{after}\n"), "{words}");
    }
    assert_eq!(
        line(&tun1("ttl 5 ttl inherit")),
        "tun1: gre/ip remote 1.2.3.4 local 5.6.7.8 ttl 5\n",
        "as iproute2 6.1 and 6.15 have it"
    );
    for (words, shown) in [
        ("add tun1 mode gre remote 010.0.0.1", "remote 8.0.0.1 local any"),
        ("add tun1 mode gre remote 0x0a.1", "remote 10.1.0.0 local any"),
        ("add tun1 mode gre remote 1.2.3.4 local any", "remote 1.2.3.4 local any"),
        ("add tun1 mode gre remote any local 1.2.3.4", "remote any local 1.2.3.4"),
        ("add tun1 mode gre", "remote any local any"),
        ("add tun1 mode gre remote 224.1.2.3 local 1.2.3.4", "remote 224.1.2.3 local 1.2.3.4"),
    ] {
        let spec = added(words, Family::Unspecified);
        assert!(
            line(&spec).starts_with(&format!("tun1: gre/ip {shown} ttl inherit")),
            "{words}: {}",
            line(&spec)
        );
    }
    let group = added("add tun1 mode gre remote 224.1.2.3 local 1.2.3.4 ikey 7", Family::Unspecified);
    assert_eq!((group.ikey, group.okey), (Some(7), Some(0xe001_0203)), "the group is the missing key");
}

#[test]
fn g31_all_together() {
    assert_eq!(
        line(&tun1("seq csum key 1 ttl 9 tos 10 dev lo")),
        format!("tun1: gre/ip remote 1.2.3.4 local 5.6.7.8 dev lo ttl 9 tos 0x10 key 1{FLAG_LINES}\n")
    );
}

#[test]
fn g32_the_name_tells_the_mode() {
    let spec = added("add gre1 local 1.1.1.1 remote 2.2.2.2", Family::Unspecified);
    assert_eq!(line(&spec), "gre1: gre/ip remote 2.2.2.2 local 1.1.1.1 ttl inherit\n");
}

#[test]
fn g33_order_and_abbreviations() {
    for words in [
        "add name tun1 remote 1.2.3.4 local 5.6.7.8 mode gre",
        "a tun1 mode gre/ip remote 1.2.3.4 local 5.6.7.8",
        "ad mode gre remote 1.2.3.4 tun1 local 5.6.7.8",
    ] {
        assert_eq!(line(&added(words, Family::Unspecified)), format!("{G13}\n"), "{words}");
    }
    // Without a name the kernel numbers it; number 0 is taken.
    let nameless = added("add mode gre remote 1.2.3.4", Family::Unspecified);
    assert_eq!(nameless.name.as_str(), "gre1");
}

#[test]
fn g34_change_overlays_by_name_first() {
    let spec = changed("change tun1 ttl 5 key 9", tun1("csum seq"));
    assert_eq!(line(&spec), format!("{} ttl 5 key 9{FLAG_LINES}\n", G13.trim_end_matches(" ttl inherit")));
    let spec = changed("c name tun1 ttl inherit", tun1("ttl 9"));
    assert!(line(&spec).contains("ttl 9"), "inherit takes nothing back");
    let spec = changed("change tun1 remote 224.1.2.3", tun1(""));
    assert_eq!(spec.ikey, Some(0xe001_0203), "the local address is the present one");
}

#[test]
fn g35_change_starts_from_defaults_by_name_later() {
    let spec =
        changed("change mode gre tun1 remote 1.2.3.4 local 5.6.7.8 tos 10", tun1("key 1.2.3 csum ttl 9"));
    assert_eq!(line(&spec), format!("{G13} tos 0x10\n"));
    // Without a name the ends tell which.
    let spec = changed("change mode gre remote 1.2.3.4 local 5.6.7.8 ttl 5", tun1("tos 10"));
    assert_eq!(line(&spec), "tun1: gre/ip remote 1.2.3.4 local 5.6.7.8 ttl 5\n");
}

/// The kernel clears the mark with every `ip tunnel change`, which has no word for it; here it stays.
#[test]
fn change_keeps_what_it_has_no_word_for() {
    let marked =
        TunnelSpec { fwmark: 3, mtu: Some(1400), seq_mode: greway_spec::SeqMode::Rfc2890, ..tun1("seq") };
    for words in ["change tun1 ttl 5", "change mode gre tun1 remote 1.2.3.4 local 5.6.7.8 ttl 5"] {
        let spec = changed(words, marked.clone());
        assert_eq!((spec.fwmark, spec.mtu), (3, Some(1400)), "{words}");
        assert_eq!(spec.seq_mode, marked.seq_mode, "{words}");
        assert!(!line(&spec).contains("rfc2890"), "{words}: the tool has no line for it");
    }
    // With path MTU discovery DF is always set, so that ignoring it means nothing any more.
    let ignoring = TunnelSpec { pmtudisc: false, ignore_df: true, ..tun1("") };
    let spec = changed("change tun1 pmtudisc", ignoring.clone());
    assert_eq!((spec.pmtudisc, spec.ignore_df), (true, false));
    assert!(changed("change tun1 key 5", ignoring).ignore_df);
}

#[test]
fn words_of_ours_are_none_here() {
    // To the tool it is a name, and then there are two.
    let text = "Error: either \"name\" is duplicate, or \"seq-mode\" is a garbage.\n".to_owned();
    for words in ["add tun1 mode gre remote 1.2.3.4 seq seq-mode rfc2890", "add tun1 mode gre seq-mode linux"]
    {
        assert_eq!(refused(words), (text.clone(), 255), "{words}");
    }
}

#[test]
fn g35b_two_modes() {
    let refused = |words| run(words, Family::Unspecified, &Ours(vec![tun1("")])).unwrap_err();
    let abort = refused("change tun1 mode ipip");
    assert_eq!(abort.stderr, "You managed to ask for more than one tunnel mode.\n");
    assert_eq!(abort.code, 255);
    // With the name later, the kernel's answer to another protocol.
    let abort = refused("change mode ipip name tun1");
    assert_eq!(abort.stderr, "add tunnel \"tun1\" failed: Invalid argument\n");
    assert_eq!(abort.code, 1);
    // The present TTL counts too.
    let abort = run("change tun1 nopmtudisc", Family::Unspecified, &Ours(vec![tun1("ttl 9")])).unwrap_err();
    assert_eq!(abort.stderr, "ttl != 0 and nopmtudisc are incompatible\n");
    let six = added("add tun1 mode ip6gre remote fd00::1", Family::Unspecified);
    let abort = run("change tun1 ttl 5", Family::Unspecified, &Ours(vec![six])).unwrap_err();
    assert_eq!(abort.stderr, "Error: argument \"tun1\" is wrong: \"name\" is not an ip tunnel\n");
}

#[test]
fn g35c_a_tunnel_called_h() {
    let (stderr, code) = refused("add h mode gre");
    assert!(stderr.starts_with("Usage: ip tunnel { add | change | del | show | prl | 6rd } [ NAME ]\n"));
    assert_eq!(code, 255);
    assert_eq!(added("add name h mode gre remote 9.9.9.9", Family::Unspecified).name.as_str(), "h");
}

#[test]
fn g35d_d_is_dsfield() {
    let text = "Error: argument \"lo\" is wrong: bad TOS value\n";
    assert_eq!(refused("add tun1 mode gre d lo"), (text.to_owned(), 255));
}

#[test]
fn g36_oneline() {
    let options = Options { oneline: true, ..Options::default() };
    assert_eq!(
        stdout("show tun1", &[tun1("csum seq")], Family::Unspecified, options),
        format!("{G13}{}\n", FLAG_LINES.replace('\n', "\\"))
    );
}

#[test]
fn g37_statistics() {
    let options = Options { statistics: true, ..Options::default() };
    assert_eq!(
        stdout("show tun1", &[tun1("")], Family::Unspecified, options),
        format!(
            "{G13}\nRX: Packets    Bytes        Errors CsumErrs OutOfSeq Mcasts\n    0          0            0      \
             0        0        0       \nTX: Packets    Bytes        Errors DeadLoop NoRoute  NoBufs\n    0          \
             0            0      0        0        0     \n"
        )
    );
    let spec = tun1("");
    let statistics = Statistics {
        rx_packets: 1,
        rx_bytes: 2,
        rx_errors: 3,
        rx_frame_errors: 4,
        rx_fifo_errors: 5,
        multicast: 6,
        tx_packets: 7,
        tx_bytes: 8,
        tx_errors: 9,
        collisions: 10,
        tx_carrier_errors: 11,
        tx_dropped: 12_345_678,
    };
    let Ok(TunnelCommand::Show(show)) = run("show tun1", Family::Inet, &Ours(Vec::new())) else { panic!() };
    let text = tunnel_show(&show, &[Shown { spec: &spec, statistics }], &options, "").unwrap();
    assert!(text.contains("\n    1          2            3      4        5        6       \n"), "{text}");
    assert!(text.ends_with("\n    7          8            9      10       11       12345678\n"), "{text}");
}

#[test]
fn g38_g39_json() {
    let json = Options { json: true, ..Options::default() };
    let tun0 = added("add tun0 mode gre remote 100.0.2.100 local 100.0.1.100", Family::Unspecified);
    let show = |words: &str, specs: &[TunnelSpec]| stdout(words, specs, Family::Unspecified, json);
    assert_eq!(
        show("show tun0", std::slice::from_ref(&tun0)),
        "[{\"ifname\":\"tun0\",\"mode\":\"gre/ip\",\"remote\":\"100.0.2.100\",\"local\":\"100.0.1.100\",\"flags\":[]}\n]\n"
    );
    for (words, members) in [
        ("nopmtudisc", ",\"nopmtudisc\":null,\"flags\":[]"),
        ("ttl 9 tos 10 key 1 dev lo", ",\"dev\":\"lo\",\"ttl\":9,\"tos\":\"0x10\",\"key\":1,\"flags\":[]"),
        ("ikey 1 okey 2", ",\"ikey\":1,\"okey\":2,\"flags\":[]"),
        ("tos inherit", ",\"flags\":[]"),
        ("tos inherit/c0", ",\"tos\":\"0xc1\",\"flags\":[]"),
        ("csum seq", ",\"flags\":[\"rx_drop_ooseq\",\"rx_csum\",\"tx_seq\",\"tx_csum\"]"),
    ] {
        assert!(
            show("show", &[tun1(words)]).ends_with(&format!("\"local\":\"5.6.7.8\"{members}}}\n]\n")),
            "{words}"
        );
    }
    let any = added("add tun2 mode gre", Family::Unspecified);
    assert!(
        show("show", std::slice::from_ref(&any)).contains("\"remote\":\"0.0.0.0\",\"local\":\"0.0.0.0\"")
    );
    assert_eq!(show("show", &[]), "[]\n");
    assert!(show("show", &[tun0, any]).contains("\"flags\":[]}\n,{\"ifname\":\"tun2\""));
}

#[test]
fn ours_come_after_what_the_real_tool_listed() {
    let spec = tun1("key 7");
    let specs = [Shown { spec: &spec, statistics: Statistics::default() }];
    let Ok(TunnelCommand::Show(show)) = run("show", Family::Inet, &Ours(Vec::new())) else { panic!() };
    let merged = |real: &str, options: Options| tunnel_show(&show, &specs, &options, real).unwrap();
    assert_eq!(
        merged("gre0: gre/ip remote any local any ttl inherit nopmtudisc\n", Options::default()),
        format!("gre0: gre/ip remote any local any ttl inherit nopmtudisc\n{G13} key 7\n")
    );
    let ours = "{\"ifname\":\"tun1\",\"mode\":\"gre/ip\",\"remote\":\"1.2.3.4\",\"local\":\"5.6.7.8\",\"key\":7,\
                \"flags\":[]}\n]\n";
    let json = Options { json: true, ..Options::default() };
    assert_eq!(
        merged("[{\"ifname\":\"gre0\",\"flags\":[]}\n]\n", json),
        format!("[{{\"ifname\":\"gre0\",\"flags\":[]}}\n,{ours}")
    );
    assert_eq!(merged("[]\n", json), format!("[{ours}"));
    assert_eq!(merged("", json), format!("[{ours}"));
    // What the writer writes for two is what is merged of one and one.
    let pretty = Options { json: true, pretty: true, ..Options::default() };
    let other = added("add tun0 mode gre", Family::Unspecified);
    let first = [Shown { spec: &other, statistics: Statistics::default() }];
    let both = [first[0], specs[0]];
    let one = tunnel_show(&show, &first, &pretty, "").unwrap();
    assert_eq!(merged(&one, pretty), tunnel_show(&show, &both, &pretty, "").unwrap());
    assert!(
        one.starts_with("[ {\n        \"ifname\": \"tun0\",\n") && one.ends_with("\n    }\n ]\n"),
        "{one}"
    );
}

#[test]
fn g41_a_name_that_tells_the_mode_is_asked_for_by_itself() {
    let gre1 = added("add gre1 local 1.1.1.1 remote 2.2.2.2", Family::Unspecified);
    let all = Options { json: true, statistics: true, ..Options::default() };
    let text = "gre1: gre/ip remote 2.2.2.2 local 1.1.1.1 ttl inherit\n";
    assert_eq!(stdout("show gre1", std::slice::from_ref(&gre1), Family::Unspecified, all), text);
    assert_eq!(
        stdout("show gre1", &[], Family::Unspecified, all),
        "get tunnel \"gre1\" failed: No such device\n"
    );
    assert_eq!(stdout("show tun9", &[], Family::Unspecified, Options::default()), "");
    let tun = tun1("");
    assert_eq!(stdout("show tun1 mode gre", &[tun], Family::Unspecified, all), format!("{G13}\n"));
}

#[test]
fn g42_filters() {
    let specs = [tun1("dev lo"), added("add tun2 mode gre remote 9.9.9.9", Family::Unspecified)];
    let shown = |words: &str| stdout(words, &specs, Family::Unspecified, Options::default()).lines().count();
    for (words, count) in [
        ("show remote 1.2.3.4", 1),
        ("show local 9.9.9.9", 0),
        ("show local 5.6.7.8 remote 1.2.3.4", 1),
        ("show dev lo", 1),
        ("show remote any", 2),
        ("show", 2),
        ("lst name tun2", 1),
    ] {
        assert_eq!(shown(words), count, "{words}");
    }
    // Against the manual a key does not select: there is no mode that could have one.
    assert_eq!(refused("show key 5"), ("Keys are not allowed with ipip and sit tunnels\n".to_owned(), 1));
}

#[test]
fn g45_the_ipv6_header() {
    let six = |words: &str| {
        added(&format!("add tun6 mode ip6gre remote fd00::1 local fd00::2 {words}"), Family::Inet6)
    };
    let show = |spec: &TunnelSpec| {
        stdout("show tun6", std::slice::from_ref(spec), Family::Inet6, Options::default())
    };
    let plain = "tun6: gre/ipv6 remote fd00::1 local fd00::2 encaplimit 4 hoplimit 64 tclass 0x00 flowlabel 0x00000 \
                 (flowinfo 0x00000000)";
    // Without a newline, and -j is not looked at.
    assert_eq!(show(&six("ttl 64")), plain);
    let json = Options { json: true, ..Options::default() };
    assert_eq!(stdout("show tun6", &[six("ttl 64")], Family::Inet6, json), plain);
    for (words, part) in [
        ("encaplimit none", "fd00::2 encaplimit none hoplimit"),
        ("ttl 0", "hoplimit inherit"),
        ("tclass 0x10", "tclass 0x10 flowlabel 0x00000 (flowinfo 0x01000000)"),
        ("tc 20 fl 12345", "tclass 0x20 flowlabel 0x12345 (flowinfo 0x02012345)"),
        ("fl inherit", "flowlabel inherit (flowinfo 0x00000000)"),
        ("dscp inherit", ") dscp inherit"),
        ("allow-localremote key 5", ") allow-localremote key 5"),
        ("dev lo csum", "local fd00::2 dev lo encaplimit"),
    ] {
        assert!(show(&six(words)).contains(part), "{words}: {}", show(&six(words)));
    }
    let listed = stdout(
        "show",
        &[six("encaplimit none tc inherit fl inherit dev lo dscp inherit ttl 0")],
        Family::Inet6,
        json,
    );
    assert_eq!(
        listed,
        "[{\"ifname\":\"tun6\",\"mode\":\"gre/ipv6\",\"remote\":\"fd00::1\",\"local\":\"fd00::2\",\"link\":\"lo\",\
         \"ip6_tnl_f_ign_encap_limit\":null,\"ip6_tnl_f_use_orig_tclass\":null,\"ip6_tnl_f_use_orig_flowlabel\":null,\
         \"flowinfo\":\"0x00000000\",\"ip6_tnl_f_rcv_dscp_copy\":null,\"flags\":[]}\n]\n"
    );
    let any = added("add tun6 mode ip6gre", Family::Inet6);
    assert!(show(&any).starts_with("tun6: gre/ipv6 remote :: local :: encaplimit 4"));
    // With -s the list is searched, and the header's fields select.
    let specs = [six("ttl 9 tc 20")];
    let all = Options { statistics: true, ..Options::default() };
    for (words, found) in [
        ("show tun6", true),
        ("show tun6 ttl 9", true),
        ("show tun6 ttl 8", false),
        ("show tun6 tclass 20 remote fd00::1", true),
        ("show tun6 fl inherit", false),
        ("show tun6 encaplimit 3", false),
        ("show tun7", false),
    ] {
        assert_eq!(stdout(words, &specs, Family::Inet6, all).is_empty(), !found, "{words}");
    }
    // The family is told by the mode, even against -4; the lists are apart.
    assert_eq!(added("add tun6 mode gre/ipv6 remote fd00::1", Family::Inet).mode.word(), "ip6gre");
    assert_eq!(stdout("show", &specs, Family::Inet, Options::default()), "");
    // The kernel changes nothing of a tunnel over IPv6 whose ends and key stay; here the words hold.
    let change = |words: &str| match run(words, Family::Inet6, &Ours(specs.to_vec())).unwrap() {
        TunnelCommand::Change { draft, .. } => draft.overlay_on(&specs[0]).unwrap(),
        other => panic!("{other:?}"),
    };
    assert!(show(&change("change tun6 encaplimit none")).contains("encaplimit none hoplimit 9 tclass 0x20"));
    assert!(
        show(&change("change ttl 5 tun6")).contains("remote :: local :: encaplimit 4 hoplimit 5 tclass 0x00")
    );
    // iproute2 sends junk for it; here it is refused as by ip link.
    let abort = run("add tun6 mode ip6gre encaplimit 256", Family::Inet6, &Ours(Vec::new())).unwrap_err();
    assert_eq!(
        (abort.stderr.as_str(), abort.code),
        ("Error: argument \"256\" is wrong: invalid ELIM\n", 255)
    );
}

#[test]
fn g47_and_what_else_the_kernel_refuses() {
    let command = run("add tun1 mode gre remote 1.2.3.4", Family::Unspecified, &Ours(Vec::new())).unwrap();
    let abort = command.refused(Errno::NoSuchDevice);
    assert_eq!((abort.stderr.as_str(), abort.code), ("add tunnel \"gre0\" failed: No such device\n", 1));
    assert_eq!(command.refused(Errno::Exists).stderr, "add tunnel \"gre0\" failed: File exists\n");
    let command = run("del tun1", Family::Unspecified, &Ours(Vec::new())).unwrap();
    assert_eq!(
        command.refused(Errno::NoSuchDevice).stderr,
        "delete tunnel \"tun1\" failed: No such device\n"
    );
    assert_eq!(refused("del"), ("delete tunnel \"\" failed: No such device\n".to_owned(), 1));
}

#[test]
fn g48_to_g58_errors() {
    let integer =
        |value: &str| format!("invalid value for \"key\": \"{value}\"; it should be an unsigned integer\n");
    for (words, stderr, code) in [
        ("add tun1 mode gre key lichenhao", integer("lichenhao").as_str(), 255),
        ("add tun1 mode gre key 4294967296", &integer("4294967296"), 255),
        ("add tun1 mode gre key -1", &integer("-1"), 255),
        ("add tun1 mode gre key ''", &integer(""), 255),
        (
            "add tun1 mode gre key 1.2.3.400",
            "Error: an IP address is expected rather than \"1.2.3.400\"\n",
            1,
        ),
        ("add tun1 remote 1.2.3.4", "cannot determine tunnel mode (ipip, gre, vti or sit)\n", 1),
        ("add tun1 mode foo", "Unknown tunnel mode \"foo\"\n", 255),
        ("add tun1 mode ipip key 5", "Keys are not allowed with ipip and sit tunnels\n", 1),
        ("add tun1 mode gre ttl 256", "Error: argument \"256\" is wrong: invalid TTL\n\n", 255),
        ("add tun1 mode gre ttl 64 nopmtudisc", "ttl != 0 and nopmtudisc are incompatible\n", 1),
        ("add tun1 mode gre tos zz", "Error: argument \"zz\" is wrong: bad TOS value\n", 255),
        ("add tun1 mode gre tos inherit/zz", "Error: argument \"inherit\" is wrong: bad TOS value\n", 255),
        (
            "add tun1 mode gre ignore-df",
            "Error: either \"name\" is duplicate, or \"ignore-df\" is a garbage.\n",
            255,
        ),
        ("add tun1 mode gre dev nosuch", "Cannot find device \"nosuch\"\n", 1),
        ("add tun1 mode gre remote", "Command line is not complete. Try option \"help\"\n", 255),
        ("frob", "Command \"frob\" is unknown, try \"ip tunnel help\"\n", 255),
    ] {
        assert_eq!(refused(words), (stderr.to_owned(), code), "{words}");
    }
    let words = ["add", "tun1", "mode", "gre", "ignore-df"];
    let abort = parse(&words, Family::Unspecified, Wording::V6_15, &Ours(Vec::new())).unwrap_err();
    assert_eq!(abort.stderr, "Error: either \"name\" is duplicate, or \"ignore-df\" is garbage.\n");
    // What only a name of ours cannot be: the kernel's words.
    assert_eq!(refused("add a:b mode gre"), ("add tunnel \"gre0\" failed: Invalid argument\n".to_owned(), 1));
}
