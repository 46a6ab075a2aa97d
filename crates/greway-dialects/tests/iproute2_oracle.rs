//! The real `ip` as the oracle of the strict dialect: what it says of a command that goes wrong, we say,
//! to the letter and with its exit code. It runs in a network namespace of its own, where the kernel has
//! no tunnels, so that a command that goes well ends at the kernel's refusal.

#![allow(clippy::unwrap_used, clippy::unwrap_in_result, reason = "helpers of tests")]

use std::process::{Command, Output};

use greway_dialects::iproute2::link::{self, LinkCommand};
use greway_dialects::iproute2::tunnel::{self, TunnelCommand};
use greway_dialects::iproute2::{Abort, Concern, Errno, Family, Lookup, Wording};
use greway_spec::TunnelSpec;

/// A namespace that has nothing but `lo`.
struct Bare;

impl Lookup for Bare {
    fn device(&self, name: &str) -> bool {
        name == "lo"
    }

    fn tunnel(&self, name: &str) -> Result<TunnelSpec, Errno> {
        Err(if self.device(name) { Errno::NotSupported } else { Errno::NoSuchDevice })
    }

    fn tunnels(&self) -> Vec<TunnelSpec> {
        Vec::new()
    }
}

struct Real {
    wording: Wording,
    /// The kernel makes no GRE tunnel, so that what follows a command that is right is known.
    without_gre: bool,
}

impl Real {
    /// The tool, or why it cannot be asked.
    fn find() -> Result<Self, String> {
        let version = ip(&["-V"]).map_err(|error| format!("no ip in a namespace of its own: {error}"))?;
        if !version.status.success() {
            return Err(format!("unshare: {}", String::from_utf8_lossy(&version.stderr)));
        }
        let wording = Wording::of_version(&String::from_utf8_lossy(&version.stdout));
        let probe =
            ip(&["tunnel", "add", "x", "mode", "gre", "remote", "1.2.3.4"]).map_err(|e| e.to_string())?;
        let without_gre = String::from_utf8_lossy(&probe.stderr).contains("No such device");
        Ok(Self { wording, without_gre })
    }
}

fn ip(words: &[&str]) -> std::io::Result<Output> {
    // Without privileges in a user namespace of its own as well.
    let own = if is_root() { "--net" } else { "--map-root-user" };
    Command::new("unshare").args([own, "--net", "--", "ip"]).args(words).env("LC_ALL", "C").output()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// What the tool said of an `ip` command, and what it would have to say by our reading; `None`: ours has
/// no opinion.
fn compare(real: &Real, command: &str) -> Option<(Abort, Abort)> {
    let words: Vec<&str> = command.split(' ').map(|word| if word == "''" { "" } else { word }).collect();
    let mut ours = ours(real, &words)?;
    // A command without a name asks the fallback device for the tunnel with these ends. With GRE in the
    // kernel there is no such tunnel, without it no such device.
    if real.without_gre && ours.stderr.contains("gre0\" failed: ") {
        ours.stderr = ours.stderr.replace("No such file or directory", "No such device");
    }
    let output = ip(&words).unwrap();
    let code = u8::try_from(output.status.code().unwrap()).unwrap();
    Some((Abort { stderr: String::from_utf8(output.stderr).unwrap(), code }, ours))
}

fn ours(real: &Real, words: &[&str]) -> Option<Abort> {
    let (family, words) = match words.split_first() {
        Some((&"-6", rest)) => (Family::Inet6, rest),
        Some((&"-4", rest)) => (Family::Inet, rest),
        _ => (Family::Unspecified, words),
    };
    let fine = Abort { stderr: String::new(), code: 0 };
    if words[0] == "link" {
        return match link::parse(&words[1..], real.wording, &Bare) {
            Err(abort) => Some(abort),
            Ok(LinkCommand::Add(_) | LinkCommand::Replace(_)) if real.without_gre => {
                Some(Abort { stderr: "Error: Unknown device type.\n".to_owned(), code: 2 })
            }
            Ok(_) => None,
        };
    }
    match tunnel::parse(&words[1..], family, real.wording, &Bare) {
        Err(abort) => Some(abort),
        Ok(TunnelCommand::NotOurs) => None,
        Ok(TunnelCommand::Show(show)) if show.is_single(false) => {
            let errno = Bare.tunnel(show.name.as_deref().unwrap_or_default()).unwrap_err();
            Some(show.failed(errno))
        }
        Ok(TunnelCommand::Show(_)) => Some(fine),
        Ok(TunnelCommand::Change { name, draft }) => {
            let errno = Bare.tunnel(name.as_str()).unwrap_err();
            Some(TunnelCommand::Change { name, draft }.refused(errno))
        }
        Ok(TunnelCommand::Delete { name }) => {
            let errno = Bare.tunnel(name.as_str()).unwrap_err();
            Some(TunnelCommand::Delete { name }.refused(errno))
        }
        Ok(TunnelCommand::Add { stderr, draft }) if real.without_gre => {
            let said = TunnelCommand::Add { stderr, draft }.refused(Errno::NoSuchDevice);
            Some(Abort { stderr: format!("{stderr}{}", said.stderr), code: said.code })
        }
        Ok(TunnelCommand::Add { .. }) => None,
    }
}

/// The rows of the golden table that are errors, and every other text of the parsers.
const COMMANDS: &[&str] = &[
    // G47 to G58
    "tunnel add tun1 mode gre remote 1.2.3.4",
    "tunnel add tun1 mode gre key lichenhao",
    "tunnel add tun1 mode gre key 4294967296",
    "tunnel add tun1 mode gre key -1",
    "tunnel add tun1 mode gre ikey ''",
    "tunnel add tun1 mode gre okey x",
    "tunnel add tun1 mode gre key 1.2.3.400",
    "tunnel add tun1 remote 1.2.3.4",
    "tunnel add tun1 mode foo",
    "tunnel add tun1 mode ipip key 5",
    "tunnel add tun1 mode gre ttl 256",
    "tunnel add tun1 mode gre ttl x",
    "tunnel add tun1 mode gre ttl 64 nopmtudisc",
    "tunnel add tun1 mode gre tos zz",
    "tunnel add tun1 mode gre tos inherit/zz",
    "tunnel add tun1 mode gre tos inherit/",
    "tunnel add tun1 mode gre tos zz/10",
    "tunnel add tun1 mode gre tos 10/20",
    "tunnel add tun1 mode gre tos 100",
    "tunnel add tun1 mode gre d lo",
    "tunnel add h mode gre",
    "tunnel add name h mode gre remote 9.9.9.9",
    "tunnel add tun1 mode gre ignore-df",
    "tunnel add tun1 mode gre nokey",
    "tunnel add tun1 name tun2",
    "tunnel add tunnelwithaverylongname mode gre",
    "tunnel add a/b mode gre",
    "tunnel add name '' mode gre",
    "tunnel add tun1 mode gre mode ipip",
    "tunnel add tun1 mode gre mode gre/ip",
    "tunnel add tun1 mode gre remote host.example",
    "tunnel add tun1 mode gre remote 1.2.3.4/24",
    "tunnel add tun1 mode gre local fd00::1",
    "tunnel add tun1 mode gre remote",
    "tunnel add tun1 mode",
    "tunnel add tun1 mode gre dev nosuch",
    "tunnel add tun1 mode gre dev lo",
    "tunnel add tun1 mode gre remote 224.1.2.3",
    "tunnel add tun1 mode gre remote 224.1.2.3 local 1.2.3.4",
    "tunnel add mode gre remote 1.2.3.4",
    "tunnel add gre7 remote 1.2.3.4 key 5",
    "tunnel add ipip7 remote 1.2.3.4 key 5",
    "tunnel add tun1 mode sit key 5",
    "tunnel add tun1 mode vti key 5 ttl 900",
    "tunnel",
    "tunnel help",
    "tunnel h",
    "tunnel frob",
    "tunnel ''",
    "-6 tunnel frob",
    "-6 tunnel help",
    "-6 tunnel prl",
    "tunnel show",
    "tunnel show tun1",
    "tunnel show gre1",
    "tunnel show mode gre",
    "tunnel show lo",
    "tunnel show tun1 mode gre",
    "tunnel show key 5",
    "tunnel show remote 1.2.3.4",
    "tunnel show dev nosuch",
    "tunnel lst",
    "tunnel li",
    "tunnel change tun1 ttl 5",
    "tunnel change mode gre tun1 ttl 5",
    "tunnel change ttl 5",
    "tunnel del tun1",
    "tunnel del",
    "tunnel del gre1 key 5",
    "tunnel del tun1 key 5",
    "tunnel del name tun1 tun2",
    "-4 tunnel add tun1 mode ip6gre remote fd00::1",
    "tunnel add tun1 mode gre/ipv6 remote fd00::1",
    "-6 tunnel add tun1 mode gre",
    "-6 tunnel add mode ip6gre remote fd00::1",
    "-6 tunnel add tun1 mode ip6gre remote 1.2.3.4",
    "-6 tunnel add tun1 mode ip6gre ttl inherit",
    "-6 tunnel add tun1 mode ip6gre hoplimit 256",
    "-6 tunnel add tun1 mode ip6gre tclass 100",
    "-6 tunnel add tun1 mode ip6gre tc zz",
    "-6 tunnel add tun1 mode ip6gre fl 100000",
    "-6 tunnel add tun1 mode ip6gre flowlabel x",
    "-6 tunnel add tun1 mode ip6gre dscp keep",
    "-6 tunnel add tun1 mode ip6gre encaplimit none key lichenhao",
    "-6 tunnel add tun1 mode ip6gre key 1.2.3.400",
    "-6 tunnel add tun1 mode ip6gre dev nosuch",
    "-6 tunnel add tun1 mode ip6gre nopmtudisc",
    "-6 tunnel show",
    "-6 tunnel show tun1",
    "-6 tunnel change tun1 ttl 5",
    "-6 tunnel change mode ip6gre ttl 5",
    "-6 tunnel del tun1",
    "-6 tunnel del mode ip6gre tun1",
    // G80, G85 to G87
    "link add x type gre",
    "link add x type gre rem 1.2.3.4 loc 5.6.7.8 k 5",
    "link add x type gre r 1.2.3.4 l 5.6.7.8 h 9",
    "link add x type gre t 9 c s i 5 o 6 d lo p nop no noi",
    "link add x type gre remote foo",
    "link add x type ip6gre remote 1.2.3.4",
    "link add x type gre bogus",
    "link add x type gre help",
    "link add x type gretap bogus",
    "link add x type erspan bogus",
    "link add x type ip6gre bogus",
    "link add x type ip6gretap help",
    "link add x type ip6erspan help",
    "link add x type gre ttl 300",
    "link add x type ip6gre ttl 300",
    "link add x type erspan erspan 0",
    "link add x type erspan erspan x",
    "link add x type erspan erspan 1048576",
    "link add x type erspan erspan_ver 3",
    "link add x type erspan erspan_ver 300",
    "link add x type erspan erspan_dir sideways",
    "link add x type erspan erspan_hwid 70000",
    "link add x type ip6gre erspan_dir i erspan_hwid 1",
    "link add x type gre remote 224.1.2.3",
    "link add x type ip6gre remote ff02::1",
    "link add x type gre tos inherit/10",
    "link add x type gre tos zz",
    "link add x type gre dsf EF",
    "link add x type ip6gre tos EF",
    "link add x type gre key lichenhao",
    "link add x type gre okey 1.2.3.400",
    "link add x type gre dev nosuch",
    "link add x type gre encap foo",
    "link add x type gre encap fou encap-sport x",
    "link add x type gre encap-dport auto",
    "link add x type gre encap-csum6",
    "link add x type gre fwmark inherit",
    "link add x type ip6gre fwmark inherit",
    "link add x type ip6gre fwmark x",
    "link add x type gre external noencap ignore-df noignore-df",
    "link add x type ip6gre encaplimit 256",
    "link add x type ip6gre encaplimit",
    "link add x type ip6gre fl 12345 dscp inherit allow-localremote noallow-localremote",
    "link add x type ip6gre dscp keep",
    "link add x type ip6gre nopmtudisc",
    "link add x type ip6gre ignore-df",
    "link add type gre remote 1.2.3.4",
    "link add name x type gre key",
    "link add x y type gre",
    "link add name x dev y type gre",
    "link add name x name y type gre",
    "link add name x/y type gre",
    "link add dev x/y type gre",
    "link add x mtu 1400 mtu 1300 type gre",
    "link add x mtu big type gre",
    "link add x mtu 99999999999 type gre",
    "link add x qlen x type gre",
    "link add x txq 5 txqlen 6 type gre",
    "link add x address zz type gre",
    "link add x address 1:2:300 type gretap",
    "link add x address 1.2.3.400 type gre",
    "link add x index 0 type gre",
    "link add x index 5 index 6 type gre",
    "link add x link nosuch type gre",
    "link add x master nosuch type gre",
    "link add x vrf nosuch type gre",
    "link add x arp maybe type gre",
    "link add x multicast x type gre",
    "link add x numtxqueues a type gre",
    "link add x numtxqueues 1 numtxqueues 1 type gre",
    "link add x group 0 group 0 type gre",
    "link add group 0 type gre ttl 5",
    "link add group 0 type gre",
    "link add x gso_max_size x type gre",
    "link add x up up down type gre remote 1.2.3.4",
    "link replace x type gre ttl 5",
    "link set lo type gre ttl 5",
    "link set nosuch type gre ttl 5",
    "link set type gre ttl 5",
    "link change lo type ip6gre ttl 5",
    "link set lo index 7 type gre ttl 5",
    "link del lo type gre ttl 5",
    "link del nosuch type gre",
    "link del type gre",
];

#[test]
fn says_what_the_real_tool_says() {
    let real = match Real::find() {
        Ok(real) => real,
        Err(reason) => {
            eprintln!("not run: says_what_the_real_tool_says: {reason}");
            return;
        }
    };
    let mut wrong = Vec::new();
    for command in COMMANDS {
        if let Some((said, ours)) = compare(&real, command)
            && said != ours
        {
            wrong.push(format!("ip {command}\n  real {said:?}\n  ours {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Words and values in any order, so that no check and no order of checks is left out.
#[test]
fn says_what_the_real_tool_says_of_anything() {
    let real = match Real::find() {
        Ok(real) => real,
        Err(reason) => {
            eprintln!("not run: says_what_the_real_tool_says_of_anything: {reason}");
            return;
        }
    };
    let mut random = Random(0x5eed);
    let (mut wrong, mut compared) = (Vec::new(), 0);
    while compared < 250 {
        let command = random.command();
        let Some((said, ours)) = compare(&real, &command) else { continue };
        compared += 1;
        // A value out of range, which the tool takes for junk, we refuse.
        if said != ours && !ours.stderr.contains("invalid ELIM") {
            wrong.push(format!("ip {command}\n  real {said:?}\n  ours {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn pick<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[self.below(words.len())]
    }

    fn command(&mut self) -> String {
        let start = self.pick(&[
            "tunnel add tun1 mode gre",
            "tunnel add",
            "tunnel change mode gre",
            "tunnel del",
            "tunnel show",
            "-6 tunnel add tun1 mode ip6gre",
            "-6 tunnel show",
            "link add x type gre",
            "link add x type gretap",
            "link add x type ip6gre",
            "link add x type erspan",
            "link replace x type ip6gretap",
        ]);
        let mut command = start.to_owned();
        for _ in 0..self.below(5) {
            let word = self.pick(&[
                "remote",
                "local",
                "key",
                "ikey",
                "okey",
                "seq",
                "csum",
                "iseq",
                "ocsum",
                "ttl",
                "hoplimit",
                "tos",
                "tclass",
                "dsfield",
                "pmtudisc",
                "nopmtudisc",
                "dev",
                "name",
                "mode",
                "encaplimit",
                "flowlabel",
                "fl",
                "dscp",
                "allow-localremote",
                "fwmark",
                "ignore-df",
                "external",
                "encap",
                "encap-sport",
                "encap-dport",
                "erspan",
                "erspan_ver",
                "nokey",
                "nocsum",
                "r",
                "l",
                "k",
                "t",
                "h",
                "d",
                "i",
                "o",
                "s",
                "no",
                "nop",
                "he",
                "x",
            ]);
            command += &format!(" {word}");
            if self.below(4) > 0 {
                let value = self.pick(&[
                    "1.2.3.4",
                    "any",
                    "224.0.0.5",
                    "fd00::1",
                    "ff02::5",
                    "5",
                    "0",
                    "256",
                    "-1",
                    "0x10",
                    "010",
                    "1.2",
                    "1.2.3.400",
                    "inherit",
                    "inherit/10",
                    "EF",
                    "zz",
                    "lo",
                    "nosuch",
                    "gre",
                    "ipip",
                    "ip6gre",
                    "none",
                    "auto",
                    "fou",
                    "tun2",
                    "gre5",
                    "100000",
                ]);
                command += &format!(" {value}");
            }
        }
        command
    }
}

#[test]
fn what_is_no_gre_is_left_alone() {
    for (command, concern) in [
        ("add tun1 mode gre remote 1.2.3.4", Concern::Gre),
        ("a tun1 mode gre/ip", Concern::Gre),
        ("add gre1 remote 1.2.3.4", Concern::Gre),
        ("add name gre1 remote 1.2.3.4", Concern::Gre),
        ("add tun1 mode ip6gre", Concern::Gre),
        ("add tun1 mode ipip", Concern::None),
        ("add gre1 mode sit", Concern::None),
        ("add tun1 mode vti key 5", Concern::None),
        ("add tun1", Concern::None),
        ("add tun1 key gre", Concern::None),
        ("add tun1 remote mode", Concern::None),
        ("add tun1 mode ip6ip6", Concern::None),
        ("change tun1 ttl 5", Concern::Named("tun1".to_owned())),
        ("change tun1 mode ipip", Concern::Named("tun1".to_owned())),
        ("change mode gre local 1.2.3.4", Concern::Gre),
        ("change mode ipip local 1.2.3.4", Concern::None),
        ("del tun1", Concern::Named("tun1".to_owned())),
        ("del", Concern::None),
        ("show", Concern::List),
        ("show remote 1.2.3.4", Concern::List),
        ("show tun1", Concern::Named("tun1".to_owned())),
        ("show mode gre", Concern::None),
        ("prl dev sit1", Concern::None),
        ("6rd dev sit1", Concern::None),
        ("help", Concern::None),
        ("add tun1 mode gre help", Concern::None),
        ("frob", Concern::None),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(tunnel::concern(&words, Family::Unspecified), concern, "ip tunnel {command}");
    }
    assert_eq!(tunnel::concern::<&str>(&[], Family::Inet), Concern::List);
    assert_eq!(tunnel::concern(&["add", "gre1"], Family::Inet6), Concern::None);
    assert_eq!(tunnel::concern(&["add", "x", "mode", "gre"], Family::Other(17)), Concern::None);
    for (command, concern) in [
        ("add gre1 type gre remote 1.2.3.4", Concern::Gre),
        ("add name gre1 mtu 1400 ty gretap", Concern::Gre),
        ("replace gre1 type ip6gre", Concern::Gre),
        ("add type gre", Concern::Gre),
        ("add gre1 type veth peer name type", Concern::None),
        ("add gre1 alias type type gre", Concern::Gre),
        ("add gre1 mtu type type dummy", Concern::None),
        ("add gre1 type GRE", Concern::None),
        ("add gre1 type gr", Concern::None),
        ("add gre1", Concern::None),
        ("set gre1 up", Concern::None),
        ("set dev gre1 mtu 1400 type gre ttl 5", Concern::Named("gre1".to_owned())),
        ("set dev gre1 name gre2 type gre", Concern::Named("gre1".to_owned())),
        ("set type gre", Concern::None),
        ("c gre1 type gre", Concern::Named("gre1".to_owned())),
        ("del gre1", Concern::None),
        ("del gre1 type gre", Concern::Named("gre1".to_owned())),
        ("show", Concern::List),
        ("show up", Concern::List),
        ("show type gre", Concern::List),
        ("show master br0", Concern::List),
        ("show dev gre1", Concern::Named("gre1".to_owned())),
        ("ls gre1", Concern::Named("gre1".to_owned())),
        ("property add dev gre1 altname x", Concern::None),
        ("xstats type bridge", Concern::None),
        ("help gre", Concern::None),
        ("add h type gre", Concern::None),
        ("add name help type gre", Concern::Gre),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(link::concern(&words), concern, "ip link {command}");
    }
}
