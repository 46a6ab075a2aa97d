//! Where tunnels are defined: files in greway's own directory and those of the network-scripts.
//!
//! ```text
//! /etc/greway/tunnels.d/*.toml                     greway's own
//! /etc/sysconfig/network-scripts/ifcfg-*           with TYPE=GRE or GRE6; others' files are passed over
//! ```
//!
//! A NAME is looked for as `ifup` does it. A tunnel has one definition: a second one, in the other
//! directory or in another file of the same, makes both unusable until one is gone, and both are named.
//! Nothing here changes anything.

mod ifcfg;
mod names;
mod read;
mod roots;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use greway_dialects::Dialect;
use greway_spec::TunnelSpec;

pub(crate) use ifcfg::{Lookup, look_up};
pub(crate) use names::by_boot_order;
pub(crate) use read::{read, read_ifcfg_file, tables};
pub(crate) use roots::Roots;

use names::boot_order;
use read::read_all_in;

/// A file that defines a tunnel, read and understood.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// The tunnel in it.
    pub(crate) spec: TunnelSpec,
    /// What its author should know, each with its place.
    pub(crate) warnings: Vec<String>,
    /// Whether it comes up with the system, where starting at boot is enabled.
    pub(crate) onboot: bool,
    /// How it is written.
    pub(crate) dialect: Dialect,
    /// Why this version does not carry such a tunnel, where it does not.
    pub(crate) carried: Result<(), Refusal>,
}

/// A file that is there to define a tunnel, whether it can be understood or not.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    /// The tunnel's name; the file's where the text gives none that could be read.
    pub(crate) name: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// How it is written.
    pub(crate) dialect: Dialect,
    /// Whether it comes up with the system; `false` where that could not be read.
    pub(crate) onboot: bool,
    /// The tunnel, or why it cannot be had.
    pub(crate) result: Result<File, Refusal>,
}

/// Why a file, or a name, gives no tunnel. A text of one or several lines for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

/// The definition of the tunnel `name`.
///
/// # Errors
/// None, or more than one, which are all named.
pub(crate) fn find(name: &str) -> Result<Definition, Refusal> {
    find_in(&Roots::of_this_system(), name)
}

/// All definitions on this system, in the order in which they are started at boot.
pub(crate) fn all() -> Vec<Definition> {
    all_in(&Roots::of_this_system())
}

/// All definitions in a directory, in that order.
pub(crate) fn all_of(directory: &Path) -> Vec<Definition> {
    let mut all = read_all_in(directory);
    refuse_doubles(&mut all);
    boot_order(&mut all);
    all
}

/// As [`find`], below other roots.
pub(crate) fn find_in(roots: &Roots, name: &str) -> Result<Definition, Refusal> {
    let all = all_in(roots);
    let own = own_file(&all, roots, name);
    let scripts = look_up(roots, name).map_err(|error| Refusal(error.to_string()))?;
    let scripts = match scripts {
        Lookup::Ours(found) => Some(found.path),
        // It has that name and is about something else: say what.
        Lookup::Foreign(found) if own.is_none() => {
            let why = read(&found.path).err();
            let why = why.unwrap_or_else(|| Refusal(format!("{} is not about GRE", found.path.display())));
            return Err(why);
        }
        Lookup::Foreign(_) | Lookup::Nothing => None,
    };
    match (own, scripts) {
        (Some(own), Some(scripts)) => Err(twice(name, &[own.path.as_path(), scripts.as_path()])),
        (Some(own), None) => Ok(own.clone()),
        (None, Some(path)) => match all.into_iter().find(|definition| definition.path == path) {
            Some(definition) => Ok(definition),
            // `ifup` takes a file of any name in its directory.
            None => {
                let mut definition = Definition::of(&path);
                if let Some(other) = all_in(roots).into_iter().find(|other| other.name == definition.name) {
                    definition.result = Err(twice(&definition.name, &[&path, &other.path]));
                }
                Ok(definition)
            }
        },
        (None, None) => Err(nowhere(roots, name, &all)),
    }
}

/// Why a name leads to no file. Where several could be meant `ifup` takes none of them.
fn nowhere(roots: &Roots, name: &str, all: &[Definition]) -> Refusal {
    if let Some(Err(why)) = all.iter().find(|definition| definition.name == name).map(|found| &found.result) {
        return why.clone();
    }
    let called = ifcfg::called(roots, name);
    if called.len() > 1 {
        return twice(name, &called.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    }
    let (own, scripts) = (roots.tunnels(), roots.scripts());
    // Where nothing could be looked at, nothing is known.
    for directory in [&own, &scripts] {
        match fs::read_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Refusal(format!(
                    "cannot tell what describes {name}: {}: {error}",
                    directory.display()
                ));
            }
            _ => {}
        }
    }
    Refusal(format!("no file describes {name}: looked in {} and {}", own.display(), scripts.display()))
}

/// As [`all`], below other roots.
pub(crate) fn all_in(roots: &Roots) -> Vec<Definition> {
    let mut all = read_all_in(&roots.tunnels());
    all.extend(read_all_in(&roots.scripts()));
    refuse_doubles(&mut all);
    boot_order(&mut all);
    all
}

/// greway's own file for a name: `NAME.toml`, else the one that gives that name.
fn own_file<'d>(all: &'d [Definition], roots: &Roots, name: &str) -> Option<&'d Definition> {
    let directory = roots.tunnels();
    let mut own = all.iter().filter(|definition| definition.path.parent() == Some(directory.as_path()));
    let by_file = directory.join(format!("{name}.toml"));
    own.clone().find(|own| own.path == by_file).or_else(|| own.find(|own| own.name == name))
}

/// Several files that define one tunnel are refused, each naming all.
fn refuse_doubles(all: &mut [Definition]) {
    let mut paths = HashMap::<String, Vec<PathBuf>>::new();
    for definition in all.iter() {
        paths.entry(definition.name.clone()).or_default().push(definition.path.clone());
    }
    for definition in all {
        let same = paths.get(&definition.name).map_or(&[][..], Vec::as_slice);
        if same.len() > 1 {
            let same = same.iter().map(PathBuf::as_path).collect::<Vec<_>>();
            definition.result = Err(twice(&definition.name, &same));
        }
    }
}

fn twice(name: &str, paths: &[&Path]) -> Refusal {
    let paths = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    Refusal(format!(
        "tunnel {name} is defined {}, by {}: remove or rename all but one",
        if paths.len() == 2 { "twice".to_owned() } else { format!("{} times", paths.len()) },
        paths.join(" and by ")
    ))
}

impl Definition {
    /// Reads one file. The name is the file's where it cannot be understood.
    pub(crate) fn of(path: &Path) -> Self {
        read::definition(path)
    }
}

/// `tun0 (/etc/greway/tunnels.d/tun0.toml)`.
impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str = "TYPE=GRE\nPEER_OUTER_IPADDR=100.0.2.100\nMY_OUTER_IPADDR=100.0.1.100\n";
    const OWN: &str = "remote = \"100.0.2.100\"\n";

    /// A root with files, gone with it.
    struct Root(PathBuf);

    impl Root {
        fn with(name: &str, files: &[(&str, &str)]) -> Self {
            let root =
                Self(std::env::temp_dir().join(format!("greway-sources-{name}-{}", std::process::id())));
            for (path, text) in files {
                root.file(path, text);
            }
            root
        }

        fn file(&self, path: &str, text: &str) {
            let path = match path.strip_prefix("own/") {
                Some(path) => self.roots().tunnels().join(path),
                None => self.roots().scripts().join(path),
            };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn roots(&self) -> Roots {
            Roots::below(&self.0)
        }

        /// The file that a name leads to, or why none does; the root left out.
        fn find(&self, name: &str) -> Result<String, String> {
            let short = |text: String| text.replace(&format!("{}/", self.0.display()), "/");
            match find_in(&self.roots(), name) {
                Err(why) => Err(short(why.0)),
                Ok(Definition { result: Err(why), .. }) => Err(short(why.0)),
                Ok(found) => Ok(found.path.file_name().unwrap().to_string_lossy().into_owned()),
            }
        }

        fn names(&self) -> Vec<String> {
            all_in(&self.roots()).into_iter().map(|definition| definition.name).collect()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn guide(device: &str, more: &str) -> String {
        format!("DEVICE={device}\n{GUIDE}{more}")
    }

    #[test]
    fn in_the_order_of_ifup() {
        let root = Root::with(
            "order",
            &[
                ("ifcfg-tun0", &guide("tun0", "")),
                ("tunnel.conf", &guide("tun1", "KEY=1\n")),
                ("ifcfg-x", &guide("tun2", "KEY=2\nNAME=\"to B\"\n")),
                ("ifcfg-y", &guide("tun3", "KEY=3\nNAME=\"System Other\"\n")),
                ("ifcfg-y.bak", &guide("tun4", "KEY=4\nNAME=gone\n")),
            ],
        );
        for (name, file) in [
            ("tun0", "ifcfg-tun0"),
            ("x", "ifcfg-x"),
            ("tunnel.conf", "tunnel.conf"),
            ("to b", "ifcfg-x"),
            ("Other", "ifcfg-y"),
            ("tun2", "ifcfg-x"),
            ("tun3", "ifcfg-y"),
        ] {
            assert_eq!(root.find(name).as_deref(), Ok(file), "{name}");
        }
        root.file("ifcfg-tun1", &guide("tun1", ""));
        let why = root.find("tunnel.conf").unwrap_err();
        assert!(why.contains("tunnel.conf") && why.contains("ifcfg-tun1"), "{why}");
        for name in ["gone", "tun4", "tun9"] {
            let why = root.find(name).unwrap_err();
            assert!(why.starts_with(&format!("no file describes {name}: looked in ")), "{why}");
        }
    }

    #[test]
    fn all_in_the_order_of_the_scripts() {
        let root = Root::with(
            "all",
            &[
                ("ifcfg-tun10", &guide("tun10", "")),
                ("ifcfg-tun9", &guide("tun9", "KEY=9\n")),
                ("ifcfg-eth0", "DEVICE=eth0\nTYPE=Ethernet\nX=$(date)\n"),
                ("ifcfg-lo", "DEVICE=lo\n"),
                ("ifcfg-tun9~", &guide("tun9", "")),
                ("ifcfg-tun9.rpmsave", &guide("tun9", "")),
                ("ifcfg-tun9:1", &guide("tun9", "")),
                (
                    "ifcfg-zz6",
                    "DEVICE=zz6\nTYPE=GRE6\nPEER_OUTER_IPADDR=2001:db8::2\nMY_OUTER_IPADDR=2001:db8::1\n",
                ),
                ("own/gre1.toml", OWN),
                ("own/gre1.toml~", OWN),
                ("own/.#gre2.toml", OWN),
            ],
        );
        // GRE6 is not of the class that comes last.
        assert_eq!(root.names(), ["zz6", "gre1", "tun9", "tun10"]);
    }

    #[test]
    fn two_definitions_of_one_tunnel_are_both_named_and_neither_is_used() {
        let root = Root::with("twice", &[("ifcfg-tun0", &guide("tun0", "")), ("own/tun0.toml", OWN)]);
        let why = root.find("tun0").unwrap_err();
        assert_eq!(
            why,
            "tunnel tun0 is defined twice, by /etc/greway/tunnels.d/tun0.toml and by \
             /etc/sysconfig/network-scripts/ifcfg-tun0: remove or rename all but one"
        );
        assert!(all_in(&root.roots()).iter().all(|definition| definition.result.is_err()));
    }

    #[test]
    fn two_names_for_one_device_are_refused_too() {
        let root = Root::with(
            "device",
            &[("ifcfg-a", &guide("tun0", "")), ("ifcfg-b", &guide("tun0", "KEY=$(id)\n"))],
        );
        for name in ["a", "b", "tun0"] {
            let why = root.find(name).unwrap_err();
            assert!(
                why.contains("ifcfg-a") && why.contains("ifcfg-b") && why.contains("tun0"),
                "{name}: {why}"
            );
        }
        let named = guide("tun1", "NAME=\"to B\"\n");
        let root = Root::with("named", &[("ifcfg-a", &named), ("ifcfg-b", &named.replace("tun1", "tun2"))]);
        assert!(root.find("to B").unwrap_err().starts_with("tunnel to B is defined twice"));
        let root = Root::with(
            "toml",
            &[("own/a.toml", "name = \"tun0\"\nremote = \"1.2.3.4\"\n"), ("own/tun0.toml", OWN)],
        );
        assert!(root.find("a").unwrap_err().contains("a.toml"));
    }

    #[test]
    fn a_file_about_something_else_says_so() {
        let root = Root::with(
            "other",
            &[("ifcfg-tun0", "DEVICE=tun0\nTYPE=gre\n"), ("ifcfg-eth0", "TYPE=Ethernet\n")],
        );
        let why = root.find("tun0").unwrap_err();
        assert!(why.contains("ifcfg-tun0:2:6: TYPE \"gre\" is wrong") && why.contains("capitals"), "{why}");
        assert!(root.find("eth0").unwrap_err().contains("is no tunnel"));
    }

    #[test]
    fn a_broken_file_is_there_and_tells_its_place() {
        let root = Root::with("broken", &[("ifcfg-x", &guide("tun0", "KEY=$(id)\n")), ("route-tun1", "")]);
        root.file("own/tun1.toml", "remot = 1\n");
        assert_eq!(root.names(), ["tun0", "tun1"]);
        assert!(root.find("tun0").unwrap_err().contains("ifcfg-x:5:5: "));
        assert!(root.find("tun1").unwrap_err().contains("tun1.toml:1:1: "));
    }

    #[test]
    fn the_files_beside_are_read_with_the_ifcfg_file() {
        let root = Root::with(
            "beside",
            &[
                ("ifcfg-branch", &guide("tun0", "KEY=1\n")),
                ("keys-branch", "KEY=7\n"),
                ("route-tun0", "10.10.2.0/24 dev tun0\n"),
                ("route6-branch", "fd00::/64 dev tun0\n"),
                ("rule-tun0", "from 10.10.1.0/24 table 100\n"),
            ],
        );
        fs::write(root.0.join("etc/sysconfig/network"), "NETWORKING=yes\nTTL=9\nONBOOT=no\n").unwrap();
        let definition = find_in(&root.roots(), "branch").unwrap();
        assert!(!definition.onboot, "the global file's word holds where the tunnel's says nothing");
        let file = definition.result.unwrap();
        assert_eq!((file.spec.ikey, file.spec.ttl), (Some(7), greway_spec::Ttl::Fixed(9)));
        let routes = file.spec.inner.routes.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(routes, ["10.10.2.0/24", "fd00::/64"]);
        assert_eq!(file.spec.inner.rules.len(), 1);
        root.file("rule-tun0", "from 10.10.1.0/24 table 100\nform x\n");
        let why = root.find("branch").unwrap_err();
        assert!(why.contains("rule-tun0:2:1: ") && why.contains("2 | form x"), "{why}");
    }

    #[test]
    fn g94_without_an_outer_peer_there_are_many() {
        let root =
            Root::with("many", &[("ifcfg-tun0", "DEVICE=tun0\nTYPE=GRE\nMY_OUTER_IPADDR=100.0.1.100\n")]);
        let file = find_in(&root.roots(), "tun0").unwrap().result.unwrap();
        assert_eq!(file.spec.remote, None);
        assert!(file.carried.is_ok());
    }
}
