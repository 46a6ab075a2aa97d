//! ER-01 to ER-06: ICMP errors about delivery packets, by recorded ones (`oracle/icmp.tsv`: what the kernel did after
//! it, case, title, the tunnel, the packet) and by made-up ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::support::{LOCAL, REMOTE, datagram, hex, ipv6, spec};
use greway_engine::errors::{WINDOW_MS, concerned, is_about, judge, outgoing};
use greway_engine::{
    Complaint, Consequence, ErrorMessage, LinkErrors, Notice, Tunnel, TunnelCounters, TunnelIndex,
    TunnelTable,
};
use greway_spec::{Draft, Mode, Ttl, TunnelSpec};
use greway_wire::icmp::{self, Quote, QuoteV6};
use greway_wire::ipv4::Ipv4Header;
use greway_wire::ipv6::Ipv6Header;
use greway_wire::{checksum, ethertype};

fn tunnel(spec: &TunnelSpec) -> Tunnel {
    Tunnel::new(spec, Arc::new(TunnelCounters::new()))
}

fn table(specs: &[TunnelSpec]) -> TunnelTable {
    TunnelTable::from_endpoints((0..).map(TunnelIndex).zip(specs).map(|(n, spec)| (n, outgoing(spec), None)))
}

/// Reads the packet as the datapath does.
fn read(packet: &[u8]) -> Option<ErrorMessage<'_>> {
    match packet[0] >> 4 {
        4 => ErrorMessage::parse(packet),
        _ => ErrorMessage::parse_v6(Ipv6Header::parse(packet).unwrap().source, &packet[40..]),
    }
}

/// A spec of the words of `ip` that the recording has.
fn of_words(words: &str) -> TunnelSpec {
    let words = words.split(' ').collect::<Vec<_>>();
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    let end = |name| Some(after(name).unwrap().parse::<IpAddr>().unwrap().into());
    let mode = if words.contains(&"ip6gre") { Mode::Ip6Gre } else { Mode::Gre };
    let draft = Draft {
        name: Some("gre1".parse::<greway_spec::DeviceName>().unwrap().into()),
        mode: Some(mode.into()),
        local: end("local"),
        remote: end("remote"),
        ..Draft::default()
    };
    let mut spec = draft.into_spec().unwrap();
    spec.okey = after("key").map(|key| key.parse().unwrap());
    spec.ikey = spec.okey;
    spec
}

#[test]
fn er01_to_er06_as_the_kernel() {
    let mut rows = 0;
    for line in include_str!("../oracle/icmp.tsv").lines().skip(1) {
        let [verdict, case, title, words, sent, _] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("six columns: {line}");
        };
        if verdict == "answer" {
            continue;
        }
        rows += 1;
        let spec = of_words(words);
        let packet = hex(sent);
        let error = read(&packet);
        let found = error.as_ref().map(|error| concerned(&table(std::slice::from_ref(&spec)), error, 2));
        let got = match found {
            None => "unreadable",
            Some(None) => "nobody",
            Some(Some(_)) => match judge(&tunnel(&spec), &error.unwrap()) {
                Consequence::None => "none",
                Consequence::PathMtu => "path-mtu",
                Consequence::Count => "count",
                Consequence::Relay { .. } => "relay",
            },
        };
        assert_eq!(got, verdict, "{case}: {title}");
    }
    assert_eq!(rows, 10, "rows of the recording");
}

/// An ICMP error from a router about `quoted`.
fn error(kind: u8, code: u8, length_word: u8, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 8 + quoted.len()];
    Quote { kind, code, next_hop_mtu: 0, packet: quoted }.emit(&mut message).unwrap();
    message[5] = length_word;
    message[2..4].fill(0);
    let sum = checksum::checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    datagram(0, Ipv4Addr::new(10, 9, 0, 254), LOCAL, icmp::PROTOCOL, &message)
}

/// A delivery packet of this end with a payload.
fn delivery(protocol_type: u16, payload: &[u8]) -> Vec<u8> {
    let gre = [&[0, 0][..], &protocol_type.to_be_bytes(), payload].concat();
    datagram(0, LOCAL, REMOTE, 47, &gre)
}

fn fixed_ttl() -> TunnelSpec {
    TunnelSpec { ttl: Ttl::Fixed(64), ..spec(LOCAL, REMOTE) }
}

fn judged(spec: &TunnelSpec, kind: u8, code: u8) -> Consequence {
    let packet = error(kind, code, 0, &delivery(ethertype::IPV4, &[0x45; 40]));
    judge(&tunnel(spec), &ErrorMessage::parse(&packet).unwrap())
}

#[test]
fn er03_which_unreachables_count() {
    for code in 0..=20 {
        let wanted = match code {
            4 => Consequence::PathMtu,
            3 | 5 | 16.. => Consequence::None,
            _ => Consequence::Count,
        };
        assert_eq!(judged(&spec(LOCAL, REMOTE), 3, code), wanted, "code {code}");
    }
    assert_eq!(judged(&fixed_ttl(), 12, 0), Consequence::None);
}

#[test]
fn er03_time_exceeded_counts_with_a_fixed_ttl_only() {
    assert_eq!(judged(&fixed_ttl(), 11, 0), Consequence::Count);
    assert_eq!(judged(&fixed_ttl(), 11, 1), Consequence::None);
    assert_eq!(judged(&spec(LOCAL, REMOTE), 11, 0), Consequence::None);
}

#[test]
fn er03_a_trace_beside_the_tunnel_says_nothing_about_it() {
    let mut probe = delivery(ethertype::IPV4, &[0x45; 40]);
    let is = |spec: &TunnelSpec, kind, quoted: &[u8]| {
        is_about(&tunnel(spec), &ErrorMessage::parse(&error(kind, 0, 0, quoted)).unwrap())
    };
    assert!(is(&fixed_ttl(), 11, &probe));
    // Without DF, where the tunnel always sets it.
    probe[6] = 0;
    assert!(!is(&fixed_ttl(), 11, &probe));
    assert!(is(&fixed_ttl(), 3, &probe), "a router on the way may clear DF");
    assert!(is(&TunnelSpec { pmtudisc: false, ..fixed_ttl() }, 11, &probe));
}

#[test]
fn er06_tunnels_to_many_ignore_errors_and_learn_the_path() {
    for remote in [None, Some(IpAddr::V4(Ipv4Addr::new(239, 1, 1, 1)))] {
        let to_many = TunnelSpec { remote, ..fixed_ttl() };
        assert_eq!(judged(&to_many, 3, 1), Consequence::None);
        assert_eq!(judged(&to_many, 3, 4), Consequence::PathMtu);
    }
}

#[test]
fn er01_the_key_that_was_sent_is_looked_for() {
    let mut one = spec(LOCAL, REMOTE);
    (one.ikey, one.okey) = (Some(1), Some(2));
    let mut other = spec(LOCAL, REMOTE);
    (other.ikey, other.okey) = (Some(2), Some(1));
    let sent = table(&[one, other]);
    let keyed = datagram(0, LOCAL, REMOTE, 47, &[&[0x20, 0, 8, 0, 0, 0, 0, 2][..], &[0x45; 20]].concat());
    let packet = error(3, 1, 0, &keyed);
    let error_message = ErrorMessage::parse(&packet).unwrap();
    assert_eq!(concerned(&sent, &error_message, 2), Some(TunnelIndex(0)));
    // The other way round it would be an error about the peer's packets.
    let mut turned = keyed;
    turned[12..20].rotate_left(4);
    let packet = error(3, 1, 0, &turned);
    assert_eq!(concerned(&sent, &ErrorMessage::parse(&packet).unwrap(), 2), None);
}

#[test]
fn er01_what_cannot_be_read_is_nobodys() {
    let good = delivery(ethertype::IPV4, &[0x45; 40]);
    assert!(ErrorMessage::parse(&error(3, 1, 0, &good)).is_some());
    // RX-02 and RX-03: version, reserved flags, routing.
    for (at, bits) in [(21, 0x01), (21, 0x02), (21, 0x08), (20, 0x40)] {
        let mut bad = good.clone();
        bad[at] |= bits;
        assert_eq!(ErrorMessage::parse(&error(3, 1, 0, &bad)), None, "byte {at}");
    }
    // RX-04 and the kernel's eight bytes; of another protocol; a later fragment; a damaged message.
    for (length, wanted) in [(20, false), (27, false), (28, true)] {
        assert_eq!(ErrorMessage::parse(&error(3, 1, 0, &good[..length])).is_some(), wanted, "{length} bytes");
    }
    let mut udp = good.clone();
    udp[9] = 17;
    assert_eq!(ErrorMessage::parse(&error(3, 1, 0, &udp)), None);
    let mut later = good.clone();
    later[7] = 5;
    assert_eq!(ErrorMessage::parse(&error(3, 1, 0, &later)), None);
    let mut damaged = error(3, 1, 0, &good);
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(ErrorMessage::parse(&damaged), None);
    // The checksum of what is quoted is not verified: most of it is missing.
    let summed = datagram(0, LOCAL, REMOTE, 47, &[0x80, 0, 8, 0, 0xba, 0xad, 0, 0, 0x45, 0, 0, 0]);
    assert!(ErrorMessage::parse(&error(3, 1, 0, &summed)).is_some());
}

#[test]
fn er04_errors_count_for_thirty_seconds_from_the_last() {
    let mut errors = LinkErrors::default();
    assert!(!errors.take(1));
    for now in [100, 200, 300] {
        errors.record(now);
    }
    assert_eq!(errors.pending(), 3);
    assert!(errors.take(400) && errors.take(300 + WINDOW_MS - 1));
    // What is left is forgotten, and counting begins anew.
    assert!(!errors.take(300 + WINDOW_MS));
    assert_eq!(errors.pending(), 0);
    errors.record(300 + WINDOW_MS);
    errors.record(300 + 2 * WINDOW_MS);
    assert_eq!(errors.pending(), 1);
    assert!(errors.take(300 + 2 * WINDOW_MS) && !errors.take(300 + 2 * WINDOW_MS));
}

#[test]
fn er04_the_sender_is_told_of_the_host() {
    let packet = datagram(0, [172, 16, 0, 1].into(), [172, 16, 0, 2].into(), 17, &[7; 800]);
    let message = Notice::Unreachable.message(ethertype::IPV4, &packet).unwrap();
    let header = Ipv4Header::parse(&message).unwrap();
    assert_eq!((header.source, header.destination), ([172, 16, 0, 2].into(), [172, 16, 0, 1].into()));
    assert_eq!(message.len(), 576);
    let quote = Quote::parse(&message[20..]).unwrap();
    assert_eq!((quote.kind, quote.code, quote.next_hop_mtu), (3, 1, 0));
    assert_eq!(quote.packet, &packet[..548]);

    let packet = ipv6(17, &[7; 1400]);
    let message = Notice::Unreachable.message(ethertype::IPV6, &packet).unwrap();
    let quote = QuoteV6::parse(&message[40..]).unwrap();
    assert_eq!((quote.kind, quote.code, quote.word, message.len()), (1, 3, 0, 1280));
    assert_eq!(quote.packet, &packet[..1232]);

    // Nobody is told of an error, a later fragment, what went to many, or anything else.
    let unreachable = datagram(0, [172, 16, 0, 1].into(), [172, 16, 0, 2].into(), 1, &[3, 1, 0, 0]);
    assert_eq!(Notice::Unreachable.message(ethertype::IPV4, &unreachable), None);
    let to_many = datagram(0, [172, 16, 0, 1].into(), [224, 0, 0, 5].into(), 89, &[0; 40]);
    assert_eq!(Notice::Unreachable.message(ethertype::IPV4, &to_many), None);
    for after in [vec![1, 0, 0, 0], vec![]] {
        assert_eq!(Notice::Unreachable.message(ethertype::IPV6, &ipv6(58, &after)), None, "{after:?}");
    }
    // Also behind an option.
    let hidden = ipv6(0, &[58, 0, 1, 4, 0, 0, 0, 0, 1, 3, 0, 0]);
    assert_eq!(Notice::Unreachable.message(ethertype::IPV6, &hidden), None);
    assert_eq!(Notice::Unreachable.message(ethertype::MPLS, &packet), None);
}

#[test]
fn er05_an_error_is_passed_on_to_the_inner_sender() {
    let inner = ipv6(17, &[7; 100]);
    for (kind, code, wanted) in [(3, 1, (1, 3)), (3, 13, (1, 3)), (11, 0, (3, 0))] {
        let packet = error(kind, code, 0, &delivery(ethertype::IPV6, &inner)[..120]);
        // Though the ttl is inherited: it is not counted but passed on.
        let consequence = judge(&tunnel(&spec(LOCAL, REMOTE)), &ErrorMessage::parse(&packet).unwrap());
        let Consequence::Relay { packet } = consequence else { panic!("{kind}/{code}: {consequence:?}") };
        let header = Ipv6Header::parse(&packet).unwrap();
        let quote = QuoteV6::parse(&packet[40..]).unwrap();
        assert_eq!((quote.kind, quote.code, quote.word), (wanted.0, wanted.1, 0));
        assert_eq!(quote.packet, &inner[..96]);
        let was = Ipv6Header::parse(&inner).unwrap();
        assert_eq!((header.source, header.destination), (was.destination, was.source));
        assert_eq!(usize::from(header.payload_length), packet.len() - 40);
    }
}

#[test]
fn er05_less_than_enough_is_counted() {
    let whole = delivery(ethertype::IPV6, &ipv6(17, &[7; 100]));
    let of = |length: usize| {
        let packet = error(3, 1, 0, &whole[..length]);
        judge(&tunnel(&spec(LOCAL, REMOTE)), &ErrorMessage::parse(&packet).unwrap())
    };
    assert_eq!(of(20 + 4 + 47), Consequence::Count);
    assert!(matches!(of(20 + 4 + 48), Consequence::Relay { .. }));
    // An error about an error is neither passed on nor counted.
    let packet = error(3, 1, 0, &delivery(ethertype::IPV6, &ipv6(58, &[1; 60])));
    let consequence = judge(&tunnel(&spec(LOCAL, REMOTE)), &ErrorMessage::parse(&packet).unwrap());
    assert_eq!(consequence, Consequence::None);
}

#[test]
fn er05_extensions_stay_where_the_length_says() {
    let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 0, 1, 2, 3];
    let mut quoted = delivery(ethertype::IPV6, &ipv6(17, &[7; 200]));
    quoted.truncate(128);
    let inner_len = 128 - 24;
    let with = |kind, code, words| {
        let packet = error(kind, code, words, &[&quoted[..], &extension].concat());
        let error_message = ErrorMessage::parse(&packet).unwrap();
        let Consequence::Relay { packet } = judge(&tunnel(&spec(LOCAL, REMOTE)), &error_message) else {
            panic!("enough is quoted")
        };
        let quote = QuoteV6::parse(&packet[40..]).unwrap();
        (quote.word, quote.packet.to_vec())
    };
    // 32 words of 4 bytes are 16 of 8.
    let (word, body) = with(11, 0, 32);
    assert_eq!(word, 16 << 24);
    assert_eq!(body[..inner_len], quoted[24..]);
    assert_eq!(body[inner_len..128], [0; 24]);
    assert_eq!(body[128..], extension);
    // A length that cannot be, or in a message where the kernel does not read it: all is the quote.
    for (kind, code, words) in [(11, 0, 30), (11, 0, 33), (11, 0, 200), (3, 1, 32)] {
        let (word, body) = with(kind, code, words);
        assert_eq!((word, body.len()), (0, inner_len + extension.len()), "{kind}/{code}, {words}");
    }
}

fn over_ipv6() -> TunnelSpec {
    of_words("type ip6gre local 2001:db8::2 remote 2001:db8::1")
}

fn judged_v6(spec: &TunnelSpec, kind: u8, code: u8, gre: &[u8]) -> Option<Consequence> {
    let [local, remote] = ["2001:db8::2", "2001:db8::1"].map(|text| text.parse::<Ipv6Addr>().unwrap());
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_length: gre.len() as u16,
        next_header: 60,
        hop_limit: 64,
        source: local,
        destination: remote,
    };
    let mut quoted = vec![0; 40];
    header.emit(&mut quoted).unwrap();
    // The encapsulation limit option of most tunnels.
    quoted.extend([47, 0, 4, 1, 4, 1, 0, 0]);
    quoted.extend(gre);
    let router = "2001:db8::77".parse::<Ipv6Addr>().unwrap();
    let mut message = vec![0; 8 + quoted.len()];
    QuoteV6 { kind, code, word: 0, packet: &quoted }.emit(router, local, &mut message).unwrap();
    let error = ErrorMessage::parse_v6(router, &message)?;
    assert_eq!((error.from, error.complaint), (router.into(), Complaint::ipv6(kind, code)));
    assert_eq!(concerned(&table(std::slice::from_ref(spec)), &error, 2), Some(TunnelIndex(0)));
    Some(judge(&tunnel(spec), &error))
}

#[test]
fn er06_over_ipv6() {
    let gre = [&[0, 0, 0x86, 0xdd][..], &ipv6(17, &[7; 60])].concat();
    let spec = over_ipv6();
    for code in 0..=6 {
        let wanted = if code == 4 { Consequence::None } else { Consequence::Count };
        assert_eq!(judged_v6(&spec, 1, code, &gre), Some(wanted), "code {code}");
    }
    assert_eq!(judged_v6(&spec, 2, 0, &gre), Some(Consequence::PathMtu));
    // A hop limit that is inherited makes no difference here.
    assert_eq!(
        judged_v6(&TunnelSpec { ttl: Ttl::Inherit, ..spec.clone() }, 3, 0, &gre),
        Some(Consequence::Count)
    );
    assert_eq!(judged_v6(&spec, 3, 1, &gre), Some(Consequence::None));
    for code in 0..=2 {
        assert_eq!(judged_v6(&spec, 4, code, &gre), Some(Consequence::None), "code {code}");
    }
    // Reserved flags do not matter (RX-02), too little does.
    let flagged = [&[0, 0x08][..], &gre[2..]].concat();
    assert_eq!(judged_v6(&spec, 1, 0, &flagged), Some(Consequence::Count));
    assert_eq!(judged_v6(&spec, 1, 0, &gre[..7]), None);
}

#[test]
fn noise_is_nobodys_error() {
    let whole = error(3, 1, 0, &delivery(ethertype::IPV6, &ipv6(17, &[7; 100])));
    for length in 0..whole.len() {
        let mut cut = whole[..length].to_vec();
        assert_eq!(ErrorMessage::parse(&cut), None, "cut to {length}");
        // Said to be whole: the checksum tells.
        if length >= 28 {
            cut[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            assert_eq!(ErrorMessage::parse(&cut), None, "shortened to {length}");
        }
    }
    for length in 0..100 {
        let bytes = vec![0x60; length];
        assert_eq!(ErrorMessage::parse_v6(Ipv6Addr::LOCALHOST, &bytes), None);
    }
}
