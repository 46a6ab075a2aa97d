//! The usage texts, which the tool prints on stderr.

use super::abort::Abort;
use super::link::Kind;

/// `ip tunnel help`.
pub(super) fn tunnel() -> Abort {
    Abort {
        stderr: "\
Usage: ip tunnel { add | change | del | show | prl | 6rd } [ NAME ]
        [ mode { gre | ipip | isatap | sit | vti } ]
        [ remote ADDR ] [ local ADDR ]
        [ [i|o]seq ] [ [i|o]key KEY ] [ [i|o]csum ]
        [ prl-default ADDR ] [ prl-nodefault ADDR ] [ prl-delete ADDR ]
        [ 6rd-prefix ADDR ] [ 6rd-relay_prefix ADDR ] [ 6rd-reset ]
        [ ttl TTL ] [ tos TOS ] [ [no]pmtudisc ] [ dev PHYS_DEV ]

Where: NAME := STRING
       ADDR := { IP_ADDRESS | any }
       TOS  := { STRING | 00..ff | inherit | inherit/STRING | inherit/00..ff }
       TTL  := { 1..255 | inherit }
       KEY  := { DOTTED_QUAD | NUMBER }
"
        .to_owned(),
        code: 255,
    }
}

/// `ip -6 tunnel help`.
pub(super) fn tunnel6() -> Abort {
    Abort {
        stderr: "\
Usage: ip -f inet6 tunnel { add | change | del | show } [ NAME ]
          [ mode { ip6ip6 | ipip6 | ip6gre | vti6 | any } ]
          [ remote ADDR local ADDR ] [ dev PHYS_DEV ]
          [ encaplimit ELIM ]
          [ hoplimit TTL ] [ tclass TCLASS ] [ flowlabel FLOWLABEL ]
          [ dscp inherit ]
          [ [no]allow-localremote ]
          [ [i|o]seq ] [ [i|o]key KEY ] [ [i|o]csum ]

Where: NAME      := STRING
       ADDR      := IPV6_ADDRESS
       ELIM      := { none | 0..255 }(default=4)
       TTL       := 0..255 (default=64)
       TCLASS    := { 0x0..0xff | inherit }
       FLOWLABEL := { 0x0..0xfffff | inherit }
       KEY       := { DOTTED_QUAD | NUMBER }
"
        .to_owned(),
        code: 255,
    }
}

/// What an unknown word after `type KIND` gives.
pub(super) fn link(kind: Kind) -> Abort {
    let lines: &[&str] = if kind.over_ipv6() { &LINK6 } else { &LINK4 };
    let erspan: &[&str] = if kind.over_ipv6() || kind == Kind::Erspan { &ERSPAN } else { &[] };
    let notes = if kind.over_ipv6() { NOTES6 } else { NOTES4 };
    let mut stderr = format!("Usage: ... {:<9}\t[ remote ADDR ]\n", kind.word());
    for line in lines.iter().chain(erspan) {
        stderr += &format!("\t\t\t[ {line} ]\n");
    }
    stderr += notes;
    Abort { stderr, code: 1 }
}

const LINK4: [&str; 18] = [
    "local ADDR",
    "[no][i|o]seq",
    "[i|o]key KEY | no[i|o]key",
    "[no][i|o]csum",
    "ttl TTL",
    "tos TOS",
    "[no]pmtudisc",
    "[no]ignore-df",
    "dev PHYS_DEV",
    "fwmark MARK",
    "external",
    "noencap",
    "encap { fou | gue | none }",
    "encap-sport PORT",
    "encap-dport PORT",
    "[no]encap-csum",
    "[no]encap-csum6",
    "[no]encap-remcsum",
];

const LINK6: [&str; 20] = [
    "local ADDR",
    "[no][i|o]seq",
    "[i|o]key KEY | no[i|o]key",
    "[no][i|o]csum",
    "hoplimit TTL",
    "encaplimit ELIM",
    "tclass TCLASS",
    "flowlabel FLOWLABEL",
    "dscp inherit",
    "dev PHYS_DEV",
    "fwmark MARK",
    "[no]allow-localremote",
    "external",
    "noencap",
    "encap { fou | gue | none }",
    "encap-sport PORT",
    "encap-dport PORT",
    "[no]encap-csum",
    "[no]encap-csum6",
    "[no]encap-remcsum",
];

const ERSPAN: [&str; 4] =
    ["erspan_ver version", "erspan IDX", "erspan_dir { ingress | egress }", "erspan_hwid hwid"];

const NOTES4: &str = "
Where:\tADDR := { IP_ADDRESS | any }
\tTOS  := { NUMBER | inherit }
\tTTL  := { 1..255 | inherit }
\tKEY  := { DOTTED_QUAD | NUMBER }
\tMARK := { 0x0..0xffffffff }
";

const NOTES6: &str = "
Where:\tADDR\t  := IPV6_ADDRESS
\tTTL\t  := { 0..255 } (default=64)
\tKEY\t  := { DOTTED_QUAD | NUMBER }
\tELIM\t  := { none | 0..255 }(default=4)
\tTCLASS\t  := { 0x0..0xff | inherit }
\tFLOWLABEL := { 0x0..0xfffff | inherit }
\tMARK\t  := { 0x0..0xffffffff | inherit }
";
