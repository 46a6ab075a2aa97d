//! `nmcli connection add` and `modify`: golden cases by number, held to the real `nmcli --offline`.

use crate::*;

#[test]
fn the_guides_command_and_the_file_it_stores() {
    let answer = same(&words(GUIDE));
    let text = format!(
        "[connection]\nid=tun0\nuuid={UUID}\ntype=ip-tunnel\ninterface-name=tun0\n\n[ip-tunnel]\n\
         local=100.0.1.100\nmode=2\nremote=100.0.2.100\n\n[ipv4]\naddress1=172.16.0.1/30\nmethod=manual\n\n\
         [ipv6]\naddr-gen-mode=default\nmethod=auto\n\n[proxy]\n"
    );
    assert_eq!(answer, Answer { stdout: text.clone(), stderr: String::new(), code: 0 });
    let parsed = keyfile::parse(&text, "tun0.nmconnection").unwrap();
    assert!(parsed.onboot && parsed.warnings.is_empty(), "{parsed:?}");
    let spec = parsed.into_spec().unwrap();
    assert_eq!(spec.describe(), spec_of(GUIDE).describe());
    assert_eq!(spec.local, Some(IpAddr::from([100, 0, 1, 100])));
    assert_eq!(spec.remote, Some(IpAddr::from([100, 0, 2, 100])));
    assert_eq!(spec.inner.addresses[0].to_string(), "172.16.0.1/30");
    assert_eq!((spec.ttl, spec.pmtudisc, spec.ikey), (Ttl::Inherit, true, None));
}

#[test]
fn g104_mode_and_remote_are_required() {
    refused("mode gre", "'remote' argument is required.", 2);
    refused("remote 1.2.3.4", "'mode' argument is required.", 2);
    refused("", "'mode' argument is required.", 2);
}

#[test]
fn g105_modes_by_full_lower_case_word_or_number() {
    let modes = "ipip,gre,sit,isatap,vti,ip6ip6,ipip6,ip6gre,vti6,gretap,ip6gretap";
    for word in ["foo", "gr", "GRE"] {
        let text = format!("failed to modify ip-tunnel.mode: invalid option '{word}', use one of [{modes}].");
        refused(&format!("mode {word} remote 1.2.3.4"), &text, 2);
    }
    for (word, number) in [("gre", 2), ("2", 2), ("gretap", 10), ("ipip", 1)] {
        let answer = add(&format!("mode {word} remote 1.2.3.4"));
        assert!(answer.stdout.contains(&format!("\nmode={number}\n")), "{answer:?}");
    }
    for number in [0, 12] {
        let text = format!("Error writing connection: ip-tunnel.mode: '{number}' is not a valid tunnel mode");
        refused(&format!("mode {number} remote 1.2.3.4"), &text, 1);
    }
}

#[test]
fn g107_ends_of_the_modes_family() {
    let wrong = |words: &str, name: &str, value: &str, family: u8| {
        let text = format!(
            "Error writing connection: ip-tunnel.{name}: '{value}' is not a valid IPv{family} address"
        );
        refused(words, &text, 1);
    };
    wrong("mode ip6gre remote 1.2.3.4", "remote", "1.2.3.4", 6);
    wrong("mode gre remote fe80::1", "remote", "fe80::1", 4);
    wrong("mode gre remote host", "remote", "host", 4);
    wrong("mode gre remote any", "remote", "any", 4);
    wrong("mode gre remote 1.2.3.4 local any", "local", "any", 4);
    wrong("mode gre remote 1.2.3.4 local ::1", "local", "::1", 4);
    assert_eq!(add("mode gre remote 0.0.0.0").code, 0);
    assert_eq!(spec_of("c a type ip-tunnel ifname t mode gre remote 0.0.0.0").remote, None);
}

#[test]
fn g109_keys_are_decimal_and_for_gre() {
    let text = "Error writing connection: tunnel keys can only be specified for GRE and VTI tunnels";
    refused("mode ipip remote 1.2.3.4 ip-tunnel.input-key 4", text, 1);
    for key in ["lichenhao", "0x2a", "1.2.3.4", "-1", "4294967296"] {
        let text =
            format!("Error writing connection: ip-tunnel.input-key: '{key}' is not a valid tunnel key");
        refused(&format!("mode gre remote 1.2.3.4 ip-tunnel.input-key {key}"), &text, 1);
    }
    assert!(
        add("mode gre remote 1.2.3.4 ip-tunnel.output-key 4294967295")
            .stdout
            .contains("output-key=4294967295")
    );
    // A leading zero is no octal number here, unlike everywhere else.
    let spec = spec_of("c a type ip-tunnel ifname t mode gre remote 1.2.3.4 ip-tunnel.input-key 042");
    assert_eq!((spec.ikey, spec.okey), (Some(42), None));
}

#[test]
fn g111_numbers_have_no_words() {
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.ttl 300",
        "failed to modify ip-tunnel.ttl: '300' is out of range [0, 255].",
        2,
    );
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.ttl inherit",
        "failed to modify ip-tunnel.ttl: 'inherit' is not a valid number.",
        2,
    );
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.tos 0x10",
        "failed to modify ip-tunnel.tos: '0x10' is not a valid number.",
        2,
    );
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.ttl -1",
        "failed to modify ip-tunnel.ttl: '-1' is out of range [0, 255].",
        2,
    );
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.flow-label 4000000",
        "failed to modify ip-tunnel.flow-label: '4000000' is out of range [0, 1048575].",
        2,
    );
    refused(
        "mode gre remote 1.2.3.4 ip-tunnel.path no ip-tunnel.ttl 5",
        "Error writing connection: ip-tunnel.ttl: a fixed TTL is allowed only when path MTU discovery is enabled",
        1,
    );
}

#[test]
fn g112_no_mark_on_gre() {
    let text = "Error writing connection: ip-tunnel.fwmark: can be set only on VTI tunnels";
    refused("mode gre remote 1.2.3.4 ip-tunnel.fwmark 1", text, 1);
}

#[test]
fn g113_routes() {
    let answer =
        add("mode gre remote 1.2.3.4 ipv4.routes 10.10.2.0/24 +ipv4.routes 10.10.3.0/24_172.16.0.2_100");
    assert!(
        answer.stdout.contains("route1=10.10.2.0/24\nroute2=10.10.3.0/24,172.16.0.2,100\n"),
        "{answer:?}"
    );
    let more = add("mode gre remote 1.2.3.4 ipv4.routes 10.0.0.0/8_100,11.0.0.0/8_src=1.2.3.4_table=5");
    assert!(
        more.stdout.contains(
            "route1=10.0.0.0/8,0.0.0.0,100\nroute2=11.0.0.0/8\nroute2_options=src=1.2.3.4,table=5\n"
        ),
        "{more:?}"
    );
}

#[test]
fn g114_manual_needs_an_address() {
    for family in ["ipv4", "ipv6"] {
        let text = format!(
            "Error writing connection: {family}.addresses: this property cannot be empty for 'method=manual'"
        );
        refused(&format!("mode gre remote 1.2.3.4 {family}.method manual"), &text, 1);
    }
}

#[test]
fn g115_an_address_without_length_is_its_full_length() {
    let answer = add("mode gre remote 1.2.3.4 ipv4.method manual ipv4.addresses 172.16.0.1");
    assert!(answer.stdout.contains("address1=172.16.0.1/32\n"), "{answer:?}");
}

#[test]
fn g116_aliases_come_after_the_type_and_in_full() {
    for (line, text) in [
        ("c a mode gre type ip-tunnel", "invalid <setting>.<property> 'mode'."),
        ("c a remote 1.2.3.4 type ip-tunnel", "invalid <setting>.<property> 'remote'."),
        ("c a type ip-tunnel ifname tun0 mode gre rem 1.2.3.4", "invalid <setting>.<property> 'rem'."),
        ("c a typ ip-tunnel", "invalid <setting>.<property> 'typ'."),
        ("c a ifname x", "'type' argument is required."),
        ("c a type", "value for 'type' is missing."),
        ("c a type ip mode gre", "bad connection type: 'ip' is ambiguous: ip-tunnel, ipv4, ipv6"),
        (
            "c a ip-tunnel.mode gre type ip-tunnel",
            "invalid or not allowed setting 'ip-tunnel': 'ip-tunnel' not among [connection, match, ipv4, ipv6, \
             hostname, tc, proxy].",
        ),
    ] {
        let answer = same(&words(line));
        assert_eq!((answer.stderr, answer.code), (format!("Error: {text}\n"), 2), "{line}");
    }
    let types = same(&["c", "a", "type", "gre", "mode", "gre"]);
    assert!(types.stderr.starts_with("Error: bad connection type: 'gre' not among [6lowpan, "), "{types:?}");
    same(&["c", "a", "type", ""]);
}

/// Whatever else was found out about the real one: each line is answered alike.
#[test]
fn as_the_real_one_word_for_word() {
    for line in [
        "mode gre remote",
        "mode gre remote 1.2.3.4 foo",
        "mode gre remote 1.2.3.4 foo bar",
        "mode gre remote 1.2.3.4 foo.bar x",
        "mode gre remote 1.2.3.4 ip-tunnel.foo x",
        "mode gre remote 1.2.3.4 ip-tunnel.m 5",
        "mode gre remote 1.2.3.4 ip.ttl 5",
        "mode gre remote 1.2.3.4 connection.foo 5",
        "mode gre remote 1.2.3.4 ipv4.foo 5",
        "mode gre remote 1.2.3.4 ipv6.foo 5",
        "mode gre remote 1.2.3.4 match.foo 5",
        "mode gre remote 1.2.3.4 proxy.foo 5",
        "mode gre remote 1.2.3.4 802-3-ethernet.foo 5",
        "mode gre remote 1.2.3.4 ip-t.path maybe",
        "mode gre remote 1.2.3.4 ip-tunnel.path no",
        "mode gre remote 1.2.3.4 autoconnect no save yes",
        "mode gre remote 1.2.3.4 autoconnect maybe",
        "mode gre remote 1.2.3.4 autoconnect o",
        "mode gre remote 1.2.3.4 autoconnect of",
        "mode gre remote 1.2.3.4 autoconnect 0",
        "mode gre remote 1.2.3.4 autoconnect N",
        "mode gre remote 1.2.3.4 ip-tunnel.ttl 010",
        "mode gre remote 1.2.3.4 ip-tunnel.mtu 99999999999",
        "mode gre remote 1.2.3.4 ipv4.method foo",
        "mode gre remote 1.2.3.4 ipv4.method m",
        "mode gre remote 1.2.3.4 ipv4.addresses foo",
        "mode gre remote 1.2.3.4 ipv4.addresses 1.2.3.4/x",
        "mode gre remote 1.2.3.4 ipv4.addresses 1.2.3.4/33",
        "mode gre remote 1.2.3.4 ipv4.addresses 1.2.3.4/24_peer_1.2.3.5",
        "mode gre remote 1.2.3.4 ipv4.addresses 1.2.3.4/24,5.6.7.8/24",
        "mode gre remote 1.2.3.4 ipv4.addresses 1.2.3.4/24 ipv4.addresses 2.2.2.2/24",
        "mode gre remote 1.2.3.4 +ipv4.addresses 1.1.1.1/24 +ipv4.addresses 2.2.2.2/24",
        "mode gre remote 1.2.3.4 ip4 1.2.3.4/24 ip4 2.2.2.2/24",
        "mode gre remote 1.2.3.4 +ip4 1.1.1.1/8",
        "mode gre remote 1.2.3.4 ip4 1.2.3.4/24 gw4 1.2.3.1",
        "mode gre remote 1.2.3.4 ip6 fd00::1/64",
        "mode gre remote 1.2.3.4 ipv4.gateway x",
        "mode gre remote 1.2.3.4 ipv4.gateway 1.1.1.1",
        "mode gre remote 1.2.3.4 ipv4.method manual ipv4.addresses 1.1.1.1/24 gw4 1.1.1.2 ipv4.never-default yes",
        "mode gre remote 1.2.3.4 ipv4.never-default yes ipv4.method manual ipv4.addresses 1.1.1.1/8 gw4 1.1.1.2",
        "mode gre remote 1.2.3.4 ipv4.method disabled ipv4.addresses 1.2.3.4/24",
        "mode gre remote 1.2.3.4 ipv4.method disabled ipv4.routes 10.0.0.0/8",
        "mode gre remote 1.2.3.4 ipv4.routes 10.0.0.0/8_x",
        "mode gre remote 1.2.3.4 ipv4.routes 10.10.2.0/33",
        "mode gre remote 1.2.3.4 ipv4.routes 10.0.0.0/8_foo=bar",
        "mode gre remote 1.2.3.4 ipv4.routes default",
        "mode gre remote 1.2.3.4 ipv4.routes 10.0.0.0/8_metric=5",
        "mode gre remote 1.2.3.4 ipv4.routes 10.0.0.0",
        "mode gre remote 1.2.3.4 ipv6.routes 10.0.0.0/8",
        "mode gre remote 1.2.3.4 ipv4.routes fe80::/64",
        "mode gre remote 1.2.3.4 ipv4.routes 10.10.2.1/24",
        "mode gre remote 1.2.3.4 ipv4.route-metric x",
        "mode gre remote 1.2.3.4 ipv4.route-metric 50",
        "mode gre remote 1.2.3.4 ipv4.route-metric -2",
        "mode gre remote 1.2.3.4 dev eth5",
        "mode gre remote 1.2.3.4 dev a_b",
        "mode gre remote 1.2.3.4 remote 5.5.5.5",
        "mode gre remote 1.2.3.4 ip-tunnel.flags foo",
        "mode gre remote 1.2.3.4 ip-tunnel.flags none",
        "mode gre remote 1.2.3.4 connection.uuid xx",
        "mode gre remote 1.2.3.4 connection.id foo",
        "mode gre remote 1.2.3.4 connection.type foo",
        "mode gre remote 1.2.3.4 connection.interface-name foo",
        "mode gre remote 1.2.3.4 -ip-tunnel.ttl 5",
        "mode gre remote 1.2.3.4 -ipv4.routes 0",
        "mode gre remote 1.2.3.4 ipv6.method disabled",
        "mode gre remote 1.2.3.4 ipv6.method link-local",
        "mode gre remote 1.2.3.4 con-name __sp_ace\\_back",
        "mode gre remote 1.2.3.4 -- ipv4.method disabled",
        "mode ip6gre remote fd00::2 local fd00::1 ip-tunnel.encapsulation-limit 4 ip-tunnel.flow-label 5",
        "mode ip6gretap remote fd00::2",
        "mode gre remote 1.2.3.4 ip-tunnel.input-key 42 ip-tunnel.output-key 43",
        "mode gre remote 1.2.3.4 connection.zone foo connection.stable-id x ipv4.may-fail no",
    ] {
        add(line);
    }
    for name in ["all", ".", "a/b", "a%b", "toolongname12345678", "a b", "", "*"] {
        same(&["c", "a", "type", "ip-tunnel", "ifname", name, "mode", "gre", "remote", "1.2.3.4"]);
    }
    same(&words(
        "conn add con-name foo ifname bar type ip-t mode gre ip-t.rem 1.2.3.4 ipv4.meth man ipv4.addr 1.1.1.1/8",
    ));
    same(&words("c show"));
}

#[test]
fn g119_selectors_and_other_commands() {
    let command = |line: &str| nmcli::parse(&words(line)).map(|invocation| invocation.command);
    assert!(matches!(command("c up nosuch"), Ok(nmcli::Command::Up(selector)) if selector.text == "nosuch"));
    assert!(matches!(command("c d a uuid b"), Ok(nmcli::Command::Down(two)) if two.len() == 2));
    assert!(matches!(command("con del tun0"), Ok(nmcli::Command::Delete(one)) if one.len() == 1));
    assert!(matches!(command("-t -f NAME c"), Ok(nmcli::Command::Show { active: false, .. })));
    for line in
        ["", "d", "general", "c reload", "c add type bridge ifname br0", "c add type wifi", "-v", "c up help"]
    {
        assert_eq!(command(line), Ok(nmcli::Command::NotOurs), "{line}");
    }
    for (line, text, code) in [
        ("c up", "neither a valid connection nor device given.", 10),
        ("c down", "No connection specified.", 2),
        ("c delete", "No connection specified.", 10),
        ("c modify", "No connection specified.", 2),
        ("-x c", "Option '-x' is unknown, try 'nmcli -help'.", 2),
        ("-f", "missing argument for '-f' option.", 2),
        ("--wait x c up a", "'x' is not a valid timeout.", 2),
        ("-m foo c", "'foo' is not a valid argument for 'foo' option.", 2),
    ] {
        assert_eq!(command(line), Err(Refusal::new(text, code)), "{line}");
    }
}

#[test]
fn modify_adds_takes_away_and_says_what_is_wrong() {
    let mut profile = profile_of(GUIDE);
    let mut change = |words: &str| {
        let words = format!("c modify tun0 {words}");
        let words = words.split_whitespace().map(|word| word.replace('_', " ")).collect::<Vec<_>>();
        match nmcli::parse(&words).unwrap().command {
            nmcli::Command::Modify(modify) => modify.apply(&mut profile).map(|()| keyfile::emit(&profile)),
            other => panic!("{other:?}"),
        }
    };
    let text = change("+ipv4.routes 10.1.0.0/16_172.16.0.2 ip-tunnel.ttl 64").unwrap();
    assert!(text.contains("route1=10.1.0.0/16,172.16.0.2\n") && text.contains("ttl=64\n"), "{text}");
    let text =
        change("+ipv4.routes 10.2.0.0/16 -ipv4.routes 10.1.0.0/16_172.16.0.2 -ip-tunnel.ttl 64").unwrap();
    assert!(text.contains("route1=10.2.0.0/16\n") && !text.contains("ttl="), "{text}");
    assert!(!change("-ipv4.routes 0").unwrap().contains("route1"));
    assert!(change("remote 5.5.5.5 con-name foo").unwrap().contains("id=foo\n"));
    for (words, text) in [
        ("", "<setting>.<property> argument is missing."),
        ("ip-tunnel.ttl", "value for 'ip-tunnel.ttl' is missing."),
        ("ip-tunnel.ttl 500", "failed to modify ip-tunnel.ttl: '500' is out of range [0, 255]."),
        ("connection.type foo", "failed to modify connection.type: Can not change the connection type."),
        (
            "-ipv4.routes foo",
            "failed to remove a value from ipv4.routes: invalid route: Invalid IPv4 address 'foo'. The valid \
             syntax is: 'ip[/prefix] [next-hop] [metric] [attribute=val]... [,ip[/prefix] ...]'.",
        ),
    ] {
        assert_eq!(change(words), Err(Refusal::new(text, 2)), "{words}");
    }
}
