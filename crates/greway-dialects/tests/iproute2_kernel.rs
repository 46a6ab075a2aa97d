//! The real `ip` on a kernel that has GRE, as the oracle of what the strict dialect makes of commands that
//! go well: the same commands run there and through our parser, and both show the same tunnels.

#![allow(clippy::unwrap_used, clippy::unwrap_in_result, reason = "helpers of tests")]

use std::fmt::Write as _;
use std::time::Duration;

use greway_dialects::iproute2::link::{self, LinkCommand};
use greway_dialects::iproute2::output::{self, Options, Shown, Statistics};
use greway_dialects::iproute2::tunnel::{self, TunnelCommand};
use greway_dialects::iproute2::{Abort, Errno, Family, Lookup, Wording, commands};
use greway_spec::{DraftAddress, DraftRoute, Mode, TunnelSpec};
use greway_testbed::uml::{self, UmlGuest, UmlOptions};
use greway_testbed::{Host, privilege, require};
use serde_json::Value;

/// Commands for one namespace, and the tunnel to look at afterwards.
const SESSIONS: &[(&str, &[&str])] = &[
    // G13 to G33
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8 key 052"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 key 1.2.3"]),
    ("tun1", &["tunnel add tun1 mode gre remote 010.0.0.1 local 0x0a.1 key 0"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8 ikey 1 okey 2"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 okey 2 icsum oseq"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8 csum seq key 5"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 tos inherit"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 tos inherit/c0"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 tos EF nopmtudisc"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 tos 10/20 ttl 5 ttl inherit"]),
    ("tun1", &["tunnel add tun1 mode gre remote any local any key 1"]),
    ("tun1", &["tunnel add tun1 mode gre local 5.6.7.8 key 7"]),
    ("tun1", &["tunnel add tun1 mode gre remote 224.1.2.3 local 5.6.7.8"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 seq csum key 1 ttl 9 tos 10 dev lo"]),
    ("gre5", &["tunnel add gre5 local 1.1.1.1 remote 2.2.2.2"]),
    ("gre1", &["tunnel add mode gre local 1.1.1.1 remote 2.2.2.2"]),
    ("h", &["tunnel add name h mode gre remote 9.9.9.9"]),
    // Changes: G34 to G35b, and those by the ends alone
    (
        "tun1",
        &["tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8 csum seq", "tunnel change tun1 ttl 5 key 9"],
    ),
    (
        "tun1",
        &[
            "tunnel add tun1 mode gre remote 1.2.3.4 local 5.6.7.8 csum key 1.2.3 ttl 9",
            "tunnel change mode gre tun1 remote 1.2.3.4 local 5.6.7.8 tos 10",
        ],
    ),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 ttl 9", "tunnel change tun1 ttl inherit"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4", "tunnel change tun1 mode ipip"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4", "tunnel change mode ipip name tun1"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4 ttl 9", "tunnel change tun1 nopmtudisc"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4", "tunnel change mode gre remote 1.2.3.4 ttl 7"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4", "tunnel change mode gre remote 1.2.3.5 ttl 7"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4", "tunnel change lo ttl 7"]),
    ("tun1", &["tunnel add tun1 mode gre remote 1.2.3.4", "tunnel change tun1 name tun2"]),
    ("tun2", &["tunnel add tun2 mode gre remote 1.2.3.4", "tunnel del mode gre remote 1.2.3.4"]),
    ("tun2", &["tunnel add tun2 mode gre remote 1.2.3.4", "tunnel del tun2", "tunnel del tun2"]),
    ("tun2", &["tunnel add tun2 mode gre remote 1.2.3.4", "tunnel del mode gre remote 1.2.3.5"]),
    ("tun2", &["tunnel add tun2 mode gre remote 1.2.3.4", "tunnel add tun2 mode gre remote 1.2.3.5"]),
    // IPv6: G43 to G46
    ("tun6", &["-6 tunnel add tun6 mode ip6gre remote fd00::1 local fd00::2"]),
    ("tun6", &["tunnel add tun6 mode ip6gre remote fd00::1 local fd00::2 key 5 csum seq dev lo"]),
    ("tun6", &["-6 tunnel add tun6 mode gre/ipv6 remote fd00::1 encaplimit none ttl 0 tclass 0x10"]),
    (
        "tun6",
        &["-6 tunnel add tun6 mode ip6gre remote fd00::1 local fd00::2 fl inherit tc inherit dscp inherit"],
    ),
    (
        "tun6",
        &["-6 tunnel add tun6 mode ip6gre remote fd00::1 fl 12345 encaplimit 7 allow-localremote ikey 1"],
    ),
    ("tun6", &["-6 tunnel add tun6 mode ip6gre remote any key 1"]),
    // The kernel changes nothing where ends and key stay; we do.
    (
        "tun6",
        &[
            "-6 tunnel add tun6 mode ip6gre remote fd00::1 key 3",
            "-6 tunnel change tun6 key 4 ttl 5 tclass 20",
        ],
    ),
    (
        "tun6",
        &[
            "-6 tunnel add tun6 mode ip6gre remote fd00::1 key 3",
            "-6 tunnel change ttl 5 tun6 remote fd00::1",
        ],
    ),
    ("tun6", &["-6 tunnel add tun6 mode ip6gre remote fd00::1", "-6 tunnel del tun6"]),
    // G75 to G85
    ("gre7", &["link add gre7 type gre local 100.0.1.100 remote 100.0.2.100"]),
    ("gre7", &["link add gre7 type gre r 1.2.3.4 l 5.6.7.8 key 42 csum ttl 64 tos inherit"]),
    (
        "gre7",
        &[
            "link add gre7 type gre remote 1.2.3.4 ikey 1 okey 0.0.0.2 icsum oseq tos 0xb8 nopmtudisc ignore-df dev \
           lo fwmark 0x10",
        ],
    ),
    ("gre7", &["link add gre7 type gre remote 1.2.3.4 tos 11 k 5 nok s nos c noc"]),
    ("gre1", &["link add type gre remote 1.2.3.4"]),
    ("gre7", &["link add gre7 type gre remote 1.2.3.4", "link add gre7 type gre remote 1.2.3.5"]),
    ("gre7", &["link add gre7 type gre remote 1.2.3.4 k 5", "link set gre7 type gre ttl 5 noikey"]),
    (
        "gre7",
        &["link replace gre7 type gre remote 1.2.3.4", "link replace gre7 type gre remote 1.2.3.4 ttl 5"],
    ),
    ("gre7", &["link add gre7 type gre remote 1.2.3.4", "link set gre7 type gretap ttl 5"]),
    ("gre7", &["link add gre7 type gre remote 1.2.3.4", "link set gre7 type ip6gre ttl 5"]),
    ("gre7", &["link add gre7 type gre remote 1.2.3.4", "link del gre7 type gre"]),
    ("tap7", &["link add tap7 type gretap remote 1.2.3.4 local 5.6.7.8 key 9"]),
    ("tap7", &["link add tap7 type gretap remote 1.2.3.4", "tunnel change tap7 ttl 5"]),
    (
        "gre7",
        &[
            "link add gre7 type ip6gre remote fd00::1 local fd00::2 key 9 hoplimit 5 tclass 0x20 flowlabel 0x12345 \
           encaplimit none dscp inherit",
        ],
    ),
    (
        "gre7",
        &[
            "link add gre7 type ip6gre remote fd00::1 t inherit tos inherit fl inherit allow-localremote fwmark 7",
        ],
    ),
    ("tap7", &["link add tap7 type ip6gretap remote fd00::1 local fd00::2"]),
];

/// What the kernel and `ip` keep, kept by our reading of the commands.
#[derive(Default)]
struct Model {
    tunnels: Vec<TunnelSpec>,
}

impl Lookup for Model {
    fn device(&self, name: &str) -> bool {
        name == "lo" || self.find(name).is_some()
    }

    fn tunnel(&self, name: &str) -> Result<TunnelSpec, Errno> {
        let missing = if self.device(name) { Errno::NotSupported } else { Errno::NoSuchDevice };
        self.find(name).cloned().ok_or(missing)
    }

    fn tunnels(&self) -> Vec<TunnelSpec> {
        self.tunnels.clone()
    }
}

impl Model {
    fn find(&self, name: &str) -> Option<&TunnelSpec> {
        self.tunnels.iter().find(|spec| spec.name.as_str() == name)
    }

    fn run(&mut self, command: &str) -> Abort {
        let done = Abort { stderr: String::new(), code: 0 };
        self.try_run(command).err().unwrap_or(done)
    }

    fn try_run(&mut self, command: &str) -> Result<(), Abort> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (family, words) =
            if words[0] == "-6" { (Family::Inet6, &words[1..]) } else { (Family::Unspecified, &words[..]) };
        if words[0] == "link" {
            return self.link(link::parse(&words[1..], Wording::default(), self)?);
        }
        let command = tunnel::parse(&words[1..], family, Wording::default(), self)?;
        match &command {
            TunnelCommand::Add { draft, .. } => {
                let spec = draft.clone().into_spec().unwrap();
                if self.find(spec.name.as_str()).is_some() {
                    return Err(command.refused(Errno::Exists));
                }
                self.tunnels.push(spec);
            }
            TunnelCommand::Change { name, draft } => {
                let Some(present) = self.tunnels.iter_mut().find(|spec| spec.name == *name) else {
                    return Err(command.refused(Errno::NoSuchDevice));
                };
                *present = draft.clone().overlay_on(present).unwrap();
            }
            TunnelCommand::Delete { name } => {
                if self.find(name.as_str()).is_none() {
                    return Err(command.refused(Errno::NoSuchDevice));
                }
                self.tunnels.retain(|spec| spec.name != *name);
            }
            TunnelCommand::Show(_) | TunnelCommand::NotOurs => panic!("{words:?}"),
        }
        Ok(())
    }

    fn link(&mut self, command: LinkCommand) -> Result<(), Abort> {
        match &command {
            LinkCommand::Add(request) if self.find(request.name.as_str()).is_some() => {
                return Err(command.refused(Errno::Exists));
            }
            LinkCommand::Add(request) | LinkCommand::Replace(request) => {
                self.tunnels.push(request.draft.clone().into_spec().unwrap())
            }
            LinkCommand::Set(request) => {
                let present = self.tunnels.iter_mut().find(|spec| spec.name == request.name).unwrap();
                *present = request.draft.clone().overlay_on(present).unwrap();
            }
            LinkCommand::Delete { name } => self.tunnels.retain(|spec| spec.name != *name),
            LinkCommand::NotOurs => panic!("not ours"),
        }
        Ok(())
    }
}

const NEXT: &str = "@@next@@";

const LOOKS: usize = 8;

/// The looks taken at a tunnel after each session, in order.
fn looks(name: &str, over_ipv6: bool) -> [String; LOOKS] {
    let tunnel = if over_ipv6 { "-6 tunnel" } else { "tunnel" };
    [
        format!("ip {tunnel} show name {name}"),
        format!("ip -o {tunnel} show name {name}"),
        format!("ip -s {tunnel} show name {name}"),
        format!("ip -j {tunnel} show name {name}"),
        format!("ip -j -p -N {tunnel} show name {name}"),
        format!("ip -d link show dev {name}"),
        format!("ip -d -j link show dev {name}"),
        format!("ip -d -j -p link show dev {name}"),
    ]
}

fn shown(spec: Option<&TunnelSpec>, name: &str, over_ipv6: bool, options: &Options) -> String {
    let family = if over_ipv6 { Family::Inet6 } else { Family::Unspecified };
    let words = ["show", "name", name];
    let show = tunnel::parse(&words, family, Wording::default(), &Model::default()).unwrap();
    let TunnelCommand::Show(show) = show else { panic!("{words:?}") };
    let shown: Vec<Shown<'_>> =
        spec.iter().map(|spec| Shown { spec, statistics: Statistics::default() }).collect();
    output::tunnel_show(&show, &shown, options, "").unwrap_or_else(|abort| abort.stderr)
}

#[test]
fn reads_and_shows_as_the_real_tool_and_kernel_do() {
    require!(privilege::check());
    require!(uml::available());
    let host = Host::new("host").unwrap();
    let modules = ["ip_gre", "ip6_gre"].map(str::to_owned).to_vec();
    let options = UmlOptions { name: "oracle".into(), modules, ..UmlOptions::default() };
    let mut guest = UmlGuest::beside(&host, "uml0", "10.9.0.1/24", "10.9.0.2/24", "", &options).unwrap();

    let mut script = String::new();
    let mut expected = Vec::new();
    for (number, (name, commands)) in SESSIONS.iter().enumerate() {
        let mut model = Model::default();
        let mut refused = false;
        for command in *commands {
            let command = command.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(script, "code=0; ip {command} 2>&1 || code=$?; echo \"rc $code\"; echo {NEXT}").unwrap();
            let Abort { stderr, code } = model.run(&command);
            refused = code != 0;
            expected.push((format!("ip {command}"), Expect::Exactly(format!("{stderr}rc {code}\n"))));
        }
        // What was refused changed nothing, which needs no second look.
        let spec = model.find(name).filter(|_| !refused).cloned();
        let over_ipv6 = spec.as_ref().is_some_and(|spec| spec.mode.over_ipv6());
        let plain = Options::default();
        let with = [
            plain,
            Options { oneline: true, ..plain },
            Options { statistics: true, ..plain },
            Options { json: true, ..plain },
            Options { json: true, pretty: true, numeric: true, ..plain },
        ];
        for (index, look) in looks(name, over_ipv6).into_iter().enumerate() {
            // One look of each sort: programs start slowly in a guest.
            if index != number % with.len() && index != with.len() + number % (LOOKS - with.len()) {
                continue;
            }
            // What is no tunnel to `ip tunnel`, or is gone, is not looked at.
            let listed = spec.as_ref().is_some_and(|spec| matches!(spec.mode, Mode::Gre | Mode::Ip6Gre));
            let expect = match (&spec, with.get(index)) {
                (Some(_), Some(options)) if listed => {
                    Expect::Exactly(shown(spec.as_ref(), name, over_ipv6, options))
                }
                (Some(spec), None) => Expect::Link(Box::new(spec.clone())),
                _ => continue,
            };
            writeln!(script, "{look} 2>&1 || true; echo {NEXT}").unwrap();
            expected.push((format!("{commands:?}: {look}"), expect));
        }
        writeln!(script, "ip link del {name} 2>/dev/null || true").unwrap();
    }
    written_commands_build_it(&mut script, &mut expected);
    let output = guest.try_run(&script, Duration::from_secs(240)).unwrap();
    assert_eq!(output.status, 0, "{}", output.text);
    let text = output.text.replace("\r\n", "\n");
    let parts: Vec<&str> = text.split(NEXT).collect();
    assert_eq!(parts.len(), expected.len() + 1, "{text}");
    let mut wrong = Vec::new();
    for (part, (what, expect)) in parts.iter().zip(&expected) {
        let real = part.strip_prefix('\n').unwrap_or(part);
        if let Err(ours) = expect.meets(real) {
            wrong.push(format!("{what}\n real {real:?}\n ours {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), expected.len(), wrong.join("\n"));
    guest.power_off(Duration::from_secs(20)).unwrap();
}

/// What we write as commands is taken by the real tool and builds the tunnel.
fn written_commands_build_it(script: &mut String, expected: &mut Vec<(String, Expect)>) {
    let address = |text: &str| {
        let (local, peer) = text.split_once(' ').unwrap();
        let peer = Some(peer.parse().unwrap());
        DraftAddress { local: local.parse().unwrap(), peer, prefix_length: 30 }.into()
    };
    for (command, mark) in [
        ("add tun1 mode gre remote 1.2.3.4 local 5.6.7.8 ikey 7 ocsum oseq tos inherit/c0 ttl 9 dev lo", 0),
        ("add tun1 mode gre remote 1.2.3.4 key 7 csum nopmtudisc", 0x10),
        ("add tun1 mode ip6gre remote fd00::1 ttl 0 fl inherit encaplimit none tc 20 dscp inherit seq", 0),
        ("add tun1 mode ip6gre remote fd00::1 local fd00::2 fl 12345 okey 3", 7),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let parsed =
            tunnel::parse(&words, Family::Unspecified, Wording::default(), &Model::default()).unwrap();
        let TunnelCommand::Add { mut draft, .. } = parsed else { panic!("{command}") };
        draft.fwmark = Some(mark.into());
        draft.mtu = Some(Some(1300).into());
        draft.addresses = Some(vec![address("172.16.0.1 172.16.0.2")]);
        draft.routes = Some(vec![DraftRoute::to([10, 10, 2, 0].into(), 24).into()]);
        let spec = draft.into_spec().unwrap();
        let commands = commands(&spec).unwrap();
        for command in &commands {
            writeln!(script, "{command} 2>&1").unwrap();
        }
        writeln!(script, "echo {NEXT}").unwrap();
        expected.push((commands.join("\n"), Expect::Exactly(String::new())));
        writeln!(script, "ip -d link show dev tun1; echo {NEXT}").unwrap();
        expected.push((commands.join("\n"), Expect::Link(Box::new(spec))));
        writeln!(script, "ip -br addr show dev tun1 | grep -o '172.16.0.1 peer 172.16.0.2/30'").unwrap();
        writeln!(script, "ip route show dev tun1; ip link del tun1; echo {NEXT}").unwrap();
        let routes = "172.16.0.1 peer 172.16.0.2/30\n10.10.2.0/24 scope link \n172.16.0.0/30 proto kernel scope link src \
                      172.16.0.1 \n";
        expected.push((commands.join("\n"), Expect::Exactly(routes.to_owned())));
    }
}

enum Expect {
    Exactly(String),
    /// The parts of `ip -d link show` that are the kind's.
    Link(Box<TunnelSpec>),
}

impl Expect {
    fn meets(&self, real: &str) -> Result<(), String> {
        let spec = match self {
            Self::Exactly(text) if text == real => return Ok(()),
            Self::Exactly(text) => return Err(format!("{text:?}")),
            Self::Link(spec) => spec,
        };
        if real.starts_with('[') {
            return json_meets(spec, real);
        }
        let kind = format!("\n    {}addrgenmode", output::link_kind_line(spec));
        let address = output::link_address_line(spec).map(|line| format!("\n    {line} "));
        let flags = format!("<{},UP", output::link_flags(spec).join(","));
        let down = format!("<{}>", output::link_flags(spec).join(","));
        if !real.contains(&flags) && !real.contains(&down) {
            return Err(down);
        }
        match address {
            Some(address) if !real.contains(&address) => Err(address),
            _ if !real.contains(&kind) => Err(kind),
            _ => Ok(()),
        }
    }
}

fn json_meets(spec: &TunnelSpec, real: &str) -> Result<(), String> {
    let value: Value = serde_json::from_str(real).map_err(|error| error.to_string())?;
    let device = &value[0];
    let linkinfo = output::linkinfo_json(spec);
    if device["linkinfo"] != linkinfo {
        return Err(linkinfo.to_string());
    }
    // The splice is the identity on what is right already.
    let spliced = output::splice_link_json(real, &[spec]).unwrap();
    let mut wanted = value.clone();
    if device.get("link").is_none() {
        wanted[0]["link"] = Value::Null;
    }
    let spliced_value: Value = serde_json::from_str(&spliced).map_err(|error| error.to_string())?;
    if device["link_pointtopoint"] == Value::Bool(true) || spliced_value == value {
        Ok(())
    } else {
        Err(spliced)
    }
}
