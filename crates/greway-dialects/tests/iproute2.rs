//! The golden rows of `ip tunnel` that apply to our own command: words in, show text out.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use greway_dialects::iproute2::{Verb, WordError, WordProblem, parse_tunnel_words, show, show_json};
use greway_spec::{
    Change, DatapathChoice, Draft, FirewallPolicy, Mode, OverlayChoice, SeqMode, Ttl, TunnelSpec,
    UnderlayChoice,
};

fn draft(verb: Verb, words: &str) -> Result<Draft, WordError> {
    let words: Vec<&str> = words.split_whitespace().collect();
    parse_tunnel_words(&words, verb)
}

fn spec(words: &str) -> TunnelSpec {
    let draft = draft(Verb::Add, words).unwrap_or_else(|error| panic!("{words}: {error}"));
    draft.into_spec().unwrap_or_else(|error| panic!("{words}: {error}"))
}

fn tun1(words: &str) -> TunnelSpec {
    spec(&format!("tun1 mode gre remote 1.2.3.4 local 5.6.7.8 {words}"))
}

const G13: &str = "tun1: gre/ip remote 1.2.3.4 local 5.6.7.8 ttl inherit";

#[test]
fn g13_to_g32_parameters_and_show_text() {
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
        ("ikey 3 okey 3", " key 3"),
        ("key 5 okey 6", " ikey 5 okey 6"),
        (
            "csum seq key 5",
            " key 5\n  Drop packets out of sequence.\n  Checksum in received packet is required.\n  \
             Sequence packets on output.\n  Checksum output packets.",
        ),
        ("icsum", "\n  Checksum in received packet is required."),
        ("ocsum", "\n  Checksum output packets."),
        ("iseq", "\n  Drop packets out of sequence."),
        ("oseq", "\n  Sequence packets on output."),
        ("tos inherit", " tos inherit"),
        ("tos c0", " tos CS6"),
        ("tos CS6", " tos CS6"),
        ("tclass 10", " tos 0x10"),
        ("dsfield EF", " tos EF"),
        ("ds EF", " tos EF"),
        ("tos inherit/c0", " tos inherit/CS6"),
        ("tos default", ""),
        ("nopmtudisc", " nopmtudisc"),
        ("nopmtudisc pmtudisc", ""),
        ("ttl 0", ""),
        ("ttl inherit", ""),
        ("ttl 5 ttl inherit", ""),
        ("key 1 key 2", " key 2"),
    ] {
        assert_eq!(show(&tun1(words)), format!("{G13}{after}\n"), "{words}");
    }
    for (words, line) in [
        ("tun1 remote 010.0.0.1", "tun1: gre/ip remote 8.0.0.1 local any ttl inherit"),
        ("tun1 remote 0x0a.1", "tun1: gre/ip remote 10.1.0.0 local any ttl inherit"),
        ("tun1 remote 1.2.3.4 local any", "tun1: gre/ip remote 1.2.3.4 local any ttl inherit"),
        ("tun1 remote 1.2.3.4 local default", "tun1: gre/ip remote 1.2.3.4 local any ttl inherit"),
        ("gre1 local 1.1.1.1 remote 2.2.2.2", "gre1: gre/ip remote 2.2.2.2 local 1.1.1.1 ttl inherit"),
        ("tun1 remote 1.2.3.4 hoplimit 0x40", "tun1: gre/ip remote 1.2.3.4 local any ttl 64"),
        ("tun1 remote 1.2.3.4 hlim 255", "tun1: gre/ip remote 1.2.3.4 local any ttl 255"),
    ] {
        assert_eq!(spec(words).describe(), line, "{words}");
    }
}

#[test]
fn g31_all_together() {
    assert_eq!(
        show(&tun1("seq csum key 1 ttl 9 tos 10 dev lo")),
        "tun1: gre/ip remote 1.2.3.4 local 5.6.7.8 dev lo ttl 9 tos 0x10 key 1\n  Drop packets out of \
         sequence.\n  Checksum in received packet is required.\n  Sequence packets on output.\n  Checksum output \
         packets.\n"
    );
}

#[test]
fn g33_the_name_where_it_may_stand() {
    for words in [
        "name tun1 remote 1.2.3.4 local 5.6.7.8 mode gre",
        "remote 1.2.3.4 local 5.6.7.8 mode gre/ip name tun1",
        "mode gre tun1 remote 1.2.3.4 local 5.6.7.8",
        "mode gre remote 1.2.3.4 local 5.6.7.8 tun1",
    ] {
        assert_eq!(spec(words).describe(), G13, "{words}");
    }
    assert_eq!(spec("name h mode gre remote 9.9.9.9").name.as_str(), "h");
    assert_eq!(spec("name remote remote 9.9.9.9").name.as_str(), "remote");
}

#[test]
fn our_own_words() {
    let spec = tun1(
        "datapath userspace underlay raw overlay tun firewall bypass mtu 1400 nopmtudisc ignore-df \
         datapath ebpf",
    );
    assert_eq!(spec.datapath, DatapathChoice::Ebpf);
    assert_eq!(spec.underlay, UnderlayChoice::Raw);
    assert_eq!(spec.overlay, OverlayChoice::Tun);
    assert_eq!(spec.firewall, FirewallPolicy::Bypass);
    assert_eq!((spec.mtu, spec.ignore_df), (Some(1400), true));
    assert!(!tun1("nopmtudisc ignore-df noignore-df").ignore_df);
    assert_eq!(tun1("mtu 1400 mtu auto").mtu, None);
    assert!(tun1("direct").direct && !tun1("direct nodirect").direct);
    for beside in ["datapath userspace", "underlay raw", "overlay tun"] {
        let words = format!("tun1 remote 9.9.9.9 local 9.9.9.8 direct {beside}");
        let error = draft(Verb::Add, &words).unwrap().into_spec().unwrap_err().to_string();
        assert!(error.contains("direct \"on\"") && error.contains(beside), "{error}");
    }
}

#[test]
fn a_switch_has_no_value() {
    let error = |words: &str| draft(Verb::Add, words).unwrap_err().to_string();
    assert_eq!(
        error("tun1 mode gre remote 9.9.9.9 direct on"),
        "tunnel tun1: direct takes no value, \"on\" is wrong: direct alone turns it on, and nodirect off"
    );
    assert!(error("tun1 remote 9.9.9.9 csum off").contains("csum takes no value, \"off\" is wrong"));
    // Elsewhere it is a word like others, and a tunnel may be called so.
    assert!(error("tun1 remote 9.9.9.9 on").contains("unknown word \"on\""));
    assert_eq!(draft(Verb::Add, "seq on remote 9.9.9.9").unwrap().name.unwrap().value.as_str(), "on");
}

#[test]
fn g34_change() {
    let present = tun1("csum seq");
    let change = |words| draft(Verb::Change, words).unwrap().overlay_on(&present).unwrap();
    let changed = change("tun1 ttl 5 key 9");
    assert_eq!((changed.ttl, changed.ikey, changed.okey), (Ttl::Fixed(5), Some(9), Some(9)));
    assert!(changed.icsum && changed.ocsum && changed.iseq && changed.oseq);
    // Unlike ip (G35), what is not named stays wherever the name stands.
    assert!(change("mode gre tun1 tos 10").icsum);
    let plain = draft(Verb::Change, "tun1 nokey nocsum noseq ttl inherit").unwrap();
    assert_eq!(plain.overlay_on(&changed).unwrap().describe(), G13);
    let half = draft(Verb::Change, "tun1 noikey noicsum nooseq nodev").unwrap().overlay_on(&changed).unwrap();
    assert_eq!((half.ikey, half.okey), (None, Some(9)));
    assert_eq!([half.icsum, half.ocsum, half.iseq, half.oseq], [false, true, true, false]);
}

#[test]
fn g35_to_g58_refused_with_what_would_be_right() {
    for (words, position, message) in [
        (
            "tun1 key lichenhao",
            2,
            "tunnel tun1: key \"lichenhao\" is wrong: 0 to 4294967295 is right, or a dotted quad",
        ),
        ("tun1 key 4294967296", 2, "tunnel tun1: key \"4294967296\" is wrong: 0 to 4294967295"),
        ("tun1 key -1", 2, "tunnel tun1: key \"-1\" is wrong: 0 to 4294967295"),
        (
            "tun1 ikey 1.2.3.400",
            2,
            "tunnel tun1: ikey \"1.2.3.400\" is wrong: up to four numbers of 0 to 255",
        ),
        ("tun1 mode foo", 2, "tunnel tun1: mode \"foo\" is wrong: gre, ip6gre, gretap or ip6gretap is right"),
        ("tun1 mode ipip", 2, "tunnel tun1: mode \"ipip\" is not there yet; this version has gre, ip6gre"),
        ("tun1 mode erspan", 2, "tunnel tun1: mode \"erspan\" is not there yet"),
        ("tun1 fwmark x", 2, "fwmark \"x\" is wrong: 0 to 0xffffffff is right"),
        ("tun1 encaplimit 256", 2, "encaplimit \"256\" is wrong: 0 to 255, or none, is right"),
        (
            "tun1 fl 100000",
            2,
            "flowlabel \"100000\" is wrong: 0 to fffff in hexadecimal, or inherit, is right",
        ),
        ("tun1 dscp keep", 2, "dscp \"keep\" is wrong: inherit is right"),
        ("tun1 ttl 256", 2, "tunnel tun1: ttl \"256\" is wrong: 1 to 255, or inherit, is right"),
        ("tun1 hlim x", 2, "tunnel tun1: ttl \"x\" is wrong"),
        ("tun1 tos zz", 2, "tunnel tun1: tos \"zz\" is wrong: 00 to ff in hexadecimal"),
        ("tun1 tos inherit/zz", 2, "tunnel tun1: tos \"inherit/zz\" is wrong"),
        ("tun1 mode gre d lo", 4, "tunnel tun1: tos \"lo\" is wrong"),
        ("tun1 remote host.example", 2, "tunnel tun1: remote \"host.example\" is wrong: an address such as"),
        ("tun1 remote 1.2.3.4/24", 2, "tunnel tun1: remote \"1.2.3.4/24\" is wrong"),
        ("tun1 remote", 2, "tunnel tun1: remote needs a value: an IP address"),
        ("tun1 dev a/b", 2, "tunnel tun1: dev \"a/b\" is wrong: the name of a network device"),
        ("tun1 remot 1.2.3.4", 1, "tunnel tun1: unknown word \"remot\"; is \"remote\" meant?"),
        ("tun1 gateway 1.2.3.4", 1, "tunnel tun1: unknown word \"gateway\""),
        ("remoet 1.2.3.4", 1, "tunnel remoet: two names: \"remoet\" and \"1.2.3.4\"; is \"remote\" meant by"),
        ("name tun1 name tun2", 3, "tunnel tun1: two names: \"tun1\" and \"tun2\""),
        ("name a/b", 1, "tunnel: name \"a/b\" is wrong: 1 to 15 bytes"),
        ("tunnelwithaverylongname", 0, "tunnel: name \"tunnelwithaverylongname\" is wrong: 1 to 15 bytes"),
        (
            "tun1 nokey",
            1,
            "tunnel tun1: \"nokey\" takes something back and belongs to \"tunnel change\"; leave it out here",
        ),
        ("tun1 datapath fast", 2, "datapath \"fast\" is wrong: auto or ebpf or userspace is right"),
        ("tun1 firewall honor", 2, "firewall \"honor\" is wrong: honour or bypass is right"),
        ("tun1 seq-mode tcp", 2, "seq-mode \"tcp\" is wrong: linux or rfc2890 is right"),
        ("tun1 seqmode linux", 1, "unknown word \"seqmode\"; is \"seq-mode\" meant?"),
        ("tun1 mtu big", 2, "mtu \"big\" is wrong: a number of bytes, or auto, is right"),
    ] {
        let error = draft(Verb::Add, words).expect_err(words);
        assert!(error.to_string().contains(message), "{words}: {error}");
        assert_eq!(error.position, position, "{words}: {error}");
    }
    let empty = parse_tunnel_words(&["tun1", "key", ""], Verb::Add).unwrap_err();
    assert!(matches!(&empty.problem, WordProblem::BadValue { word: "key", value, .. } if value.is_empty()));
    assert!(parse_tunnel_words(&["tun1", ""], Verb::Add).is_err());
}

#[test]
fn refused_by_the_model() {
    for (words, message) in [
        (
            "tun1 mode gretap remote any",
            "remote \"any\": is not for mode gretap: an Ethernet tunnel has one far end",
        ),
        ("tun1 remote 224.1.2.3", "remote \"224.1.2.3\": is a multicast address and needs a local address"),
        ("tun1 remote fd00::1", "remote \"fd00::1\": is of the wrong family; an IPv4 address is right"),
        ("tun1", "remote: is missing"),
        ("remote 1.2.3.4", "tunnel: name: is missing"),
        ("gre0 remote 1.2.3.4", "name \"gre0\": is a reserved name"),
    ] {
        let error = draft(Verb::Add, words).unwrap().into_carried_spec().expect_err(words);
        assert!(error.to_string().contains(message), "{words}: {error}");
    }
}

#[test]
fn g38_g39_json() {
    let g38 = spec("tun0 mode gre remote 100.0.2.100 local 100.0.1.100");
    assert_eq!(g38.mode, Mode::Gre);
    assert_eq!(
        show_json([&g38]),
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
        let start = "[{\"ifname\":\"tun1\",\"mode\":\"gre/ip\",\"remote\":\"1.2.3.4\",\"local\":\"5.6.7.8\"";
        assert_eq!(show_json([&tun1(words)]), format!("{start}{members}}}\n]\n"), "{words}");
    }
    let any = spec("tun1 remote 1.2.3.4");
    assert!(show_json([&any]).contains("\"local\":\"0.0.0.0\""));
    let two = show_json([&g38, &any]);
    assert!(two.contains("\"flags\":[]}\n,{\"ifname\""), "{two}");
    let none: [&TunnelSpec; 0] = [];
    assert_eq!(show_json(none), "[]\n");
}

#[test]
fn seq_mode_is_said_and_shown_and_taken_back() {
    assert_eq!(tun1("seq").seq_mode, SeqMode::Linux);
    let in_order = tun1("seq seq-mode rfc2890");
    assert_eq!(in_order.seq_mode, SeqMode::Rfc2890);
    let lines = "  Drop packets out of sequence.\n  Sequence packets on output.\n  Sequence numbers in mode rfc2890.\n";
    assert_eq!(show(&in_order), format!("{G13}\n{lines}"));
    let json = show_json([&in_order]);
    assert!(json.contains("\"flags\":[\"rx_drop_ooseq\",\"tx_seq\"],\"seq_mode\":\"rfc2890\"}"), "{json}");
    assert!(!show_json([&tun1("seq")]).contains("seq_mode"));

    let change = |words| draft(Verb::Change, words).unwrap().overlay_on(&in_order).unwrap();
    // What is not named stays, with the numbers switched off too.
    assert_eq!(change("tun1 noseq").seq_mode, SeqMode::Rfc2890);
    assert_eq!(change("tun1 seq-mode linux"), tun1("seq"));
    assert_eq!(Change::between(&in_order, &tun1("seq")), Change::InPlace(vec!["seq-mode"]));
}

#[test]
fn the_kinds_over_ipv6_and_of_ethernet_are_read_and_shown() {
    let six = spec(
        "tun6 mode ip6gre remote fd00::1 local any encaplimit none flowlabel 12345 tc 20 dscp inherit \
         allow-localremote fwmark 5 key 7",
    );
    assert_eq!(
        show(&six),
        "tun6: gre/ipv6 remote fd00::1 local :: encaplimit none hoplimit 64 tclass 0x20 flowlabel 0x12345 (flowinfo \
         0x02012345) dscp inherit allow-localremote key 7\n"
    );
    assert_eq!((six.mode, six.fwmark), (Mode::Ip6Gre, 5));
    for (words, line) in [
        ("tap1 mode gretap remote 1.2.3.4", "tap1: gretap/ip remote 1.2.3.4 local any ttl inherit\n"),
        (
            "tap1 mode ip6gretap remote fd00::1 ttl inherit fl inherit",
            "tap1: gretap/ipv6 remote fd00::1 local :: encaplimit 4 hoplimit inherit tclass 0x00 flowlabel inherit \
             (flowinfo 0x00000000)\n",
        ),
    ] {
        assert_eq!(show(&spec(words)), line, "{words}");
    }
    let plain =
        draft(Verb::Change, "tun6 nodscp noallow-localremote fwmark 0 encaplimit 4 local any").unwrap();
    let plain = plain.overlay_on(&six).unwrap();
    assert!(!plain.dscp_inherit && !plain.allow_localremote);
    assert_eq!((plain.fwmark, plain.encaplimit, plain.local), (0, Some(4), None));
    for words in ["tun1 mode gre remote 1.2.3.4 encaplimit 3", "tun1 remote 1.2.3.4 dscp inherit"] {
        let error = draft(Verb::Add, words).unwrap().into_spec().expect_err(words);
        assert!(error.to_string().contains("modes ip6gre and ip6gretap have it"), "{error}");
    }
}
