//! greway on a kernel that has what small ones lack (T17): its own ip_gre, VRF, VLAN devices, IPsec, tc's mirror.
//! The kernel is Debian's in User Mode Linux, whose root is this host's file system; so the binary under test and
//! this very test program are there too.
//!
//! ```text
//!   this host                 guest (one boot)
//!   cargo test  --- serial -> this program again, --ignored THEME::
//!                                ours   wan0 10.0.0.1 ------- 10.0.0.2 wan0   kernel
//!                                greway, and no ip_gre used                   ip_gre, ip6_gre
//! ```
//!
//! One test boots and runs the themes in order, each a module here; the steps are tests of their own, which run in the
//! guest only and are told of by name. On a host they are ignored.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests, and helpers of tests")]

#[path = "../support/bursts.rs"]
mod bursts;
#[path = "../support/pair.rs"]
mod pair;
#[path = "../support/mod.rs"]
mod support;

mod beside;
mod forwarding;
mod inherit;
mod ipsec;
mod lab;
mod mirror;
mod moved;
mod trains;
mod vrf;

use std::time::{Duration, Instant};

use greway_testbed::uml::{self, UmlGuest, UmlOptions};
use greway_testbed::{Host, privilege, require};

/// What the guest's kernel loads, each after those that it needs, ciphers too: the guest's
/// kernel cannot load any by itself.
const MODULES: &str = "nfnetlink nf_tables veth gre ip_tunnel ip_gre tunnel6 ip6_tunnel ip6_gre vrf stp llc p8022 psnap garp \
    mrp bridge 8021q dummy sch_netem sch_ingress cls_matchall cls_bpf act_mirred xfrm_algo xfrm_user esp4 esp6 authenc cbc hmac \
    echainiv ctr seqiv sha512_generic drbg";

/// The themes and how many steps each has: one that is lost from a list would not be missed otherwise.
const THEMES: [(&str, usize); 8] = [
    ("beside", 5),
    ("vrf", 8),
    ("moved", 3),
    ("ipsec", 5),
    ("forwarding", 6),
    ("mirror", 2),
    ("inherit", 2),
    ("trains", 2),
];

/// The longest that a theme may take: generous, the guest has one slow processor.
const THEME_TIME: Duration = Duration::from_secs(480);

#[test]
fn a_kernel_with_gre_vrf_vlan_and_ipsec_of_its_own() {
    require!(privilege::check());
    require!(uml::available());
    let host = Host::new("host").unwrap();
    let options = UmlOptions {
        name: "guest".to_owned(),
        memory: 512,
        modules: MODULES.split_whitespace().map(str::to_owned).collect(),
        ..UmlOptions::default()
    };
    let mut guest =
        UmlGuest::beside(&host, "uml0", "10.9.0.1/24", "10.9.0.2/24", "mkdir -p /run/tmp", &options).unwrap();
    let program = std::env::current_exe().unwrap();
    let only = std::env::var("GREWAY_GUEST_ONLY").unwrap_or_default();
    let mut failed = Vec::new();
    for (theme, steps) in THEMES {
        if !format!("{theme}::").starts_with(only.split("::").next().unwrap_or_default()) {
            continue;
        }
        let filter = if only.is_empty() { format!("{theme}::") } else { only.clone() };
        let start = Instant::now();
        let script = format!(
            "cd /run/tmp && {}=1 TMPDIR=/run/tmp exec {} --ignored --test-threads 1 --color never {filter}",
            lab::INSIDE,
            program.display()
        );
        let output = guest.try_run(&script, THEME_TIME).unwrap();
        for line in output.text.lines().filter(|line| line.starts_with("test ")) {
            eprintln!("guest: {line}");
        }
        eprintln!("guest: {:5.1} s  {theme}", start.elapsed().as_secs_f32());
        // What the guest could not run is not run.
        let whole = only.is_empty() && !output.text.contains(&format!("ok. {steps} passed"));
        if output.status != 0 || whole || output.text.contains("not run: ") {
            eprintln!("{}", output.text);
            failed.push(theme);
        }
    }
    assert!(failed.is_empty(), "{failed:?}; the kernel said: {:#?}", guest.console());
    guest.power_off(Duration::from_secs(30)).unwrap();
}
