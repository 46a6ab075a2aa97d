//! `greway import` and `greway export`: files of every dialect in and out, nothing written over, and the other end
//! of a tunnel built out of what `export --peer` prints, by each dialect's own way.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use greway_testbed::{Host, PingOptions, guide, ping, privilege, require};
use support::{GREWAY, Lab, Node, Output, two_hosts};

/// Where this node's /etc lies.
fn root(node: &Node) -> PathBuf {
    node.folder().join("root")
}

/// greway with its files below the node's own root.
fn greway(node: &Node, arguments: &[&str]) -> Output {
    let mut command = node.command(arguments);
    command.env("GREWAY_ROOT", root(node));
    node.execute(command)
}

fn words(node: &Node, arguments: &str) -> Output {
    greway(node, &arguments.split_whitespace().collect::<Vec<_>>())
}

/// The file that greway has for a tunnel.
fn own(node: &Node, name: &str) -> PathBuf {
    root(node).join(format!("etc/greway/tunnels.d/{name}.toml"))
}

/// A shell that finds greway under these names before the real tools.
fn shell(node: &Node, names: &[&str], script: &str) -> Output {
    let bin = node.folder().join("bin");
    fs::create_dir_all(&bin).unwrap();
    for name in names {
        let link = bin.join(name);
        if !link.exists() {
            symlink(GREWAY, link).unwrap();
        }
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-ec", script]).env_clear().stdin(Stdio::null()).current_dir(node.folder());
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
    command.env("GREWAY_SOCKET", node.socket()).env("GREWAY_ROOT", root(node));
    command.env("GREWAY_BACKEND", "greway").env("GREWAY_CONFIG", "/dev/null");
    node.execute(command)
}

fn answers(from: &Host, end: usize) {
    let report = ping(from, guide::INNER[end].into(), &PingOptions::default()).unwrap();
    assert!(report.complete(), "{report}");
}

/// linux1's tunnel, with a key each way so that a direction not swapped would show.
const HERE: &str = "local = \"100.0.1.100\"\nremote = \"100.0.2.100\"\nikey = 7\nokey = 9\nttl = 40\n\n[inner]\n\
    address = \"172.16.0.1\"\npeer = \"172.16.0.2/30\"\nroutes = [\"10.10.2.0/24\"]\n";

fn lab_with_one_end() -> Lab {
    let lab = two_hosts();
    let file = lab.one.file("tun0.toml", HERE);
    words(&lab.one, &format!("up {file}")).ok();
    lab
}

#[test]
fn the_other_end_out_of_each_dialect() {
    require!(privilege::check());
    let lab = two_hosts();
    let _daemons = (lab.one.daemon(), lab.two.daemon());
    let file = lab.one.file("tun0.toml", HERE);
    words(&lab.one, &format!("up {file}")).ok();
    for dialect in ["ip", "ifcfg", "nmcli", "keyfile", "toml"] {
        if dialect == "nmcli" && Path::new("/usr/bin/nmcli").exists() {
            eprintln!("not run: the_other_end_out_of_each_dialect, nmcli: NetworkManager is installed here");
            continue;
        }
        let said = words(&lab.one, &format!("export {dialect} tun0 --peer")).ok();
        let text = &said.stdout.clone();
        let said = said.remarks(&[
            "route 10.10.2.0/24 is this host's own affair",
            "10.10.1.0/24 behind this host (lan0)",
        ]);
        match dialect {
            "ip" => {
                shell(&lab.two, &["ip"], text).ok();
            }
            "nmcli" => {
                assert!(
                    said.stderr.contains("172.16.0.2/30 stands for 172.16.0.2 peer 172.16.0.1/30"),
                    "{said}"
                );
                shell(&lab.two, &["nmcli"], text).ok().says(&["successfully added"]);
            }
            "ifcfg" => {
                let path = root(&lab.two).join("etc/sysconfig/network-scripts/ifcfg-tun0");
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
                words(&lab.two, "up tun0").ok();
            }
            "keyfile" => {
                let path = lab.two.file("tun0.nmconnection", text);
                words(&lab.two, &format!("import nm {path} --up")).ok();
            }
            _ => {
                let path = lab.two.file("there.toml", text);
                words(&lab.two, &format!("up {path}")).ok();
            }
        }
        answers(&lab.guide.linux1, 1);
        answers(&lab.guide.linux2, 0);
        words(&lab.two, "down tun0").ok();
        if let Err(error) = fs::remove_dir_all(root(&lab.two)) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{dialect}: {error}");
        }
    }
}

#[test]
fn export_of_a_running_tunnel_of_a_file_and_of_what_cannot_be_said() {
    require!(privilege::check());
    let lab = lab_with_one_end();
    // As it runs, without any file of that name; and the same from the file.
    let running = words(&lab.one, "export toml tun0").ok().stdout;
    let file = lab.one.file("tun0.toml", HERE);
    assert_eq!(words(&lab.one, &format!("export toml {file}")).ok().stdout, running);
    assert!(running.contains("ikey = 7\nokey = 9\n"), "{running}");
    // Several files are several commands.
    let said = words(&lab.one, "export ifcfg tun0").ok().remarks(&["ifcfg-tun0, route-tun0 are written by"]);
    assert!(said.stdout.contains("network-scripts/route-tun0 <<'END'\n"), "{said}");
    let folder = lab.one.folder().join("out");
    fs::create_dir(&folder).unwrap();
    words(&lab.one, "export ifcfg tun0 -o out").ok().says(&["wrote out/ifcfg-tun0", "wrote out/route-tun0"]);
    words(&lab.one, "export ifcfg tun0 -o out").refused(&["ifcfg-tun0 exists; nothing is written over"]);
    // All of them or none; and several are not one.
    fs::remove_file(folder.join("ifcfg-tun0")).unwrap();
    words(&lab.one, "export ifcfg tun0 -o out").refused(&["route-tun0 exists; nothing is written over"]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing half written");
    words(&lab.one, "export ifcfg tun0 -o ifcfg-tun0")
        .refused(&["ifcfg-tun0 is one file, and these are 2: ifcfg-tun0, route-tun0", "a directory"]);
    // NetworkManager takes no keyfile that others can read.
    words(&lab.one, "export keyfile tun0 -o out").ok().says(&["wrote out/tun0.nmconnection"]);
    let keyfile = fs::metadata(folder.join("tun0.nmconnection")).unwrap();
    assert_eq!(keyfile.permissions().mode() & 0o777, 0o600);
    words(&lab.one, "export nmcli tun0").ok().says(&[
        "nmcli connection add type ip-tunnel con-name tun0 ifname tun0 mode gre",
        "ip-tunnel.output-key 9",
    ]);
    let odd = lab.one.file("odd.toml", &format!("csum = true\n{HERE}"));
    for dialect in ["nmcli", "keyfile"] {
        words(&lab.one, &format!("export {dialect} {odd}")).refused(&["tunnel odd: icsum", "NetworkManager"]);
    }
    words(&lab.one, "export ip nosuch").refused(&["nosuch does not run", "no file describes nosuch"]);
    let any = lab.one.file("any.toml", "remote = \"100.0.2.100\"\n[inner]\naddress = \"172.16.0.1/30\"\n");
    words(&lab.one, &format!("export ip {any} --peer"))
        .ok()
        .says(&["remote 100.0.1.100 local 100.0.2.100", "ip addr add 172.16.0.2/30 dev any"])
        .remarks(&["local is any here; 100.0.1.100"]);
    words(&lab.one, "daemon --stop").ok();
}

#[test]
fn import_writes_one_file_and_never_over_another() {
    require!(privilege::check());
    let host = Host::new("import").unwrap();
    let node = Node::new(&host);
    let ifcfg = "DEVICE=tun0\nTYPE=GRE\nONBOOT=no\nMY_OUTER_IPADDR=100.0.1.100\nPEER_OUTER_IPADDR=100.0.2.100\n\
        MY_INNER_IPADDR=172.16.0.1\nPEER_INNER_IPADDR=172.16.0.2/30\nKEY=lichenhao\n";
    let file = node.file("ifcfg-tun0", ifcfg);
    node.file("route-tun0", "10.10.2.0/24 dev tun0\n");
    let printed = words(&node, &format!("import ifcfg {file} --stdout")).ok().remarks(&["63077743"]);
    assert!(!own(&node, "tun0").exists());
    words(&node, &format!("import ifcfg {file}")).ok().says(&["wrote", "tunnels.d/tun0.toml"]);
    let text = fs::read_to_string(own(&node, "tun0")).unwrap();
    assert_eq!(text, printed.stdout);
    for part in [
        "# Imported from",
        "onboot = false\n",
        "key = 63077743\n",
        "peer = \"172.16.0.2/30\"\n",
        "\"10.10.2.0/24\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    words(&node, &format!("import ifcfg {file}")).refused(&["tun0.toml exists", "--force"]);
    assert_eq!(fs::read_to_string(own(&node, "tun0")).unwrap(), text);
    let changed = node.file("ifcfg-tun0", &ifcfg.replace("KEY=lichenhao", "KEY=5"));
    words(&node, &format!("import ifcfg {changed} --force")).ok();
    assert!(fs::read_to_string(own(&node, "tun0")).unwrap().contains("key = 5\n"));
    words(&node, &format!("import ifcfg {changed} -o elsewhere.toml")).ok();
    words(&node, &format!("import ifcfg {changed} -o elsewhere.toml")).refused(&["elsewhere.toml exists"]);
    // Another file that defines the name is in the way, also of --force.
    let scripts = root(&node).join("etc/sysconfig/network-scripts");
    fs::create_dir_all(&scripts).unwrap();
    fs::write(scripts.join("ifcfg-tun0"), ifcfg).unwrap();
    let there = scripts.join("ifcfg-tun0").display().to_string();
    fs::remove_file(own(&node, "tun0")).unwrap();
    words(&node, &format!("import ifcfg {there} --force")).refused(&[
        "tun0 is defined already, by",
        "ifcfg-tun0",
        "greway reads that file as it is",
    ]);
    assert!(!own(&node, "tun0").exists());
    assert_eq!(node.links(), Vec::<String>::new(), "importing brings nothing up");
}

#[test]
fn import_of_commands_keyfiles_and_toml() {
    require!(privilege::check());
    let host = Host::new("import").unwrap();
    let node = Node::new(&host);
    let command = "ip tunnel add tun1 mode gre remote 100.0.2.100 local 100.0.1.100 ttl 64 key 42";
    greway(&node, &["import", "ip", command]).ok();
    assert!(fs::read_to_string(own(&node, "tun1")).unwrap().contains("# Imported from ip commands"));
    assert!(fs::read_to_string(own(&node, "tun1")).unwrap().contains("key = 42\n"));
    let script = "ip tunnel add tun2 mode gre remote 100.0.2.100 local 100.0.1.100\nip link set tun2 up\n\
        ip addr add 172.16.0.1/30 peer 172.16.0.2/30 dev tun2\nip route add 10.10.2.0/24 dev tun2\n";
    let script = node.file("commands", script);
    words(&node, &format!("import ip {script}")).ok();
    let text = fs::read_to_string(own(&node, "tun2")).unwrap();
    assert!(text.contains("address = \"172.16.0.1\"") && text.contains("10.10.2.0/24"), "{text}");
    let keyfile = "[connection]\ntype=ip-tunnel\ninterface-name=tun3\nautoconnect=false\n[ip-tunnel]\nmode=2\n\
        remote=100.0.2.100\n[ipv4]\nmethod=manual\naddress1=172.16.0.1/30\n";
    let file = node.file("tun3.nmconnection", keyfile);
    words(&node, &format!("import keyfile {file}")).ok();
    assert!(fs::read_to_string(own(&node, "tun3")).unwrap().contains("onboot = false\n"));
    let vti = node.file("vti.nmconnection", &keyfile.replace("mode=2", "mode=5"));
    words(&node, &format!("import nm {vti} --stdout"))
        .refused(&["vti.nmconnection:6:6", "(vti) is not GRE and not greway's"]);
    let dhcp = node
        .file("dhcp.nmconnection", &keyfile.replace("method=manual\naddress1=172.16.0.1/30", "method=auto"));
    words(&node, &format!("import nm {dhcp} --stdout"))
        .refused(&["dhcp.nmconnection:9:8", "ipv4.method \"auto\""]);
    let toml = node.file("tun4.toml", HERE);
    words(&node, &format!("import toml {toml}")).ok();
    words(&node, "import toml nosuch.toml").refused(&["cannot read nosuch.toml"]);
    let nobody = "ip link add tun5 type gretap local 100.0.1.100";
    greway(&node, &["import", "ip", nobody, "--up"]).refused(&["tun5", "remote"]);
    assert!(!own(&node, "tun5").exists(), "nothing is written for what cannot be brought up");
    greway(&node, &["import", "ip", nobody, "--stdout"])
        .ok()
        .says(&["mode = \"gretap\""])
        .remarks(&["will refuse"]);
    let v6 = "ip -6 tunnel add tun5 mode ip6gre remote fd00::2 local fd00::1";
    let imported = greway(&node, &["import", "ip", v6, "--stdout"]).ok();
    assert_eq!(imported.stderr, "", "nothing to remark");
    imported.says(&["mode = \"ip6gre\""]);
    words(&node, &format!("import toml {toml} --eval --stdout")).refused(&["--eval is for ifcfg"]);
}

#[test]
fn only_eval_runs_a_file_and_in_an_empty_environment() {
    require!(privilege::check());
    let host = Host::new("import").unwrap();
    let node = Node::new(&host);
    let mark = node.folder().join("was-run");
    let file = node.file(
        "ifcfg-tun0",
        &format!(
            "DEVICE=tun0\nTYPE=GRE\nPEER_OUTER_IPADDR=100.0.2.100\nMY_OUTER_IPADDR=100.0.${{SECRET-1}}.100\n\
             KEY=$((40 + 2))\necho noise\n: >{}\n",
            mark.display()
        ),
    );
    words(&node, &format!("import ifcfg {file} --stdout")).refused(&["ifcfg-tun0:4:", "import ifcfg --eval"]);
    assert!(!mark.exists(), "a file is data unless somebody says otherwise");
    let mut command = node.command(&["import", "ifcfg", &file, "--eval", "--stdout"]);
    command.env("GREWAY_ROOT", root(&node)).env("SECRET", "9");
    let said =
        node.execute(command).ok().says(&["local = \"100.0.1.100\"", "key = 42\n"]).remarks(&["bash runs"]);
    assert!(mark.exists() && !said.stdout.contains("noise"), "{said}");
    let broken = node.file("ifcfg-tun1", "DEVICE=tun1\nTYPE=GRE\nexit 3\n");
    words(&node, &format!("import ifcfg {broken} --eval --stdout"))
        .refused(&["bash ended with exit status: 3"]);
    let quiet = node.file("ifcfg-tun2", "DEVICE=tun2\nTYPE=GRE\nexit 0\n");
    words(&node, &format!("import ifcfg {quiet} --eval --stdout")).refused(&["before the end of the file"]);
}

/// Kept apart from the rest: it needs nothing but the binary.
#[test]
fn help_names_every_dialect() {
    for (verb, dialects) in [
        ("import", &["ifcfg", "nm", "ip", "toml"][..]),
        ("export", &["ifcfg", "ip", "nmcli", "keyfile", "toml"]),
    ] {
        let output = Command::new(GREWAY).arg0("greway").args([verb, "--help"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for dialect in dialects {
            assert!(text.contains(&format!("- {dialect}:")), "{verb} {dialect}: {text}");
        }
    }
}
