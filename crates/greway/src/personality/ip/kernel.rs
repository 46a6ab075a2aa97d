//! Whether the kernel makes GRE tunnels itself, found out without a trace.
//!
//! Asking it to make one would load a module, or make the fallback devices that come with it, so nothing is
//! asked: a module that is loaded or built in can be seen, and one that would be loaded when asked for is on
//! disk. What a container cannot see of its host counts as not there; `backend = "kernel"` says otherwise.

use std::fs;
use std::path::Path;

use greway_spec::Mode;

/// Whether this kernel makes tunnels of this mode, now or by loading its module.
pub(crate) fn can(mode: Mode) -> bool {
    let (module, fallback) = if mode.over_ipv6() { ("ip6_gre", "ip6gre0") } else { ("ip_gre", "gre0") };
    // The fallback device is in every network namespace (unless net.core.fb_tunnels_only_for_init_net says
    // otherwise).
    rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None)
        .is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, fallback).is_ok())
        || has_module(Path::new("/"), module)
}

fn has_module(root: &Path, module: &str) -> bool {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let loaded = root.join("sys/module").join(module).exists()
        || read("proc/modules").lines().any(|line| line.split(' ').next() == Some(module));
    if loaded {
        return true;
    }
    let release = read("proc/sys/kernel/osrelease");
    let on_disk = |list: &str| {
        ["lib", "usr/lib"].iter().any(|lib| {
            let path = format!("{lib}/modules/{}/{list}", release.trim());
            read(&path).lines().any(|line| names(line, module))
        })
    };
    if on_disk("modules.builtin") {
        return true;
    }
    let loadable = read("proc/sys/kernel/modules_disabled").trim() == "0";
    loadable && on_disk("modules.dep") && !is_forbidden(root, module)
}

/// Whether a line of modules.dep or modules.builtin begins with the path of a module, compressed or not.
fn names(line: &str, module: &str) -> bool {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    let name = file.split_once(".ko").map_or(file, |(name, _)| name);
    // modprobe makes no difference between the two (modprobe(8)).
    name.replace('-', "_") == module
}

/// Whether modprobe.d(5) keeps the module from being loaded by the kernel's own wish.
fn is_forbidden(root: &Path, module: &str) -> bool {
    let folders = [
        "etc/modprobe.d",
        "run/modprobe.d",
        "usr/local/lib/modprobe.d",
        "usr/lib/modprobe.d",
        "lib/modprobe.d",
    ];
    let files =
        folders.iter().flat_map(|folder| fs::read_dir(root.join(folder)).into_iter().flatten().flatten());
    let files = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "conf"));
    files.filter_map(|file| fs::read_to_string(file.path()).ok()).any(|text| {
        text.lines().any(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["blacklist", name] => name.replace('-', "_") == module,
            ["install", name, command, ..] => {
                name.replace('-', "_") == module
                    && matches!(command.rsplit('/').next(), Some("true" | "false"))
            }
            _ => false,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A host as far as modules go.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root =
                Self(std::env::temp_dir().join(format!("greway-kernel-{name}-{}", std::process::id())));
            root.with("proc/sys/kernel/osrelease", "6.1.0-99-amd64\n");
            for (path, text) in files {
                root.with(path, text);
            }
            root
        }

        fn with(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn can(&self) -> bool {
            has_module(&self.0, "ip_gre")
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const DEP: &str = "lib/modules/6.1.0-99-amd64/modules.dep";
    const FREE: (&str, &str) = ("proc/sys/kernel/modules_disabled", "0\n");
    const ON_DISK: (&str, &str) = (DEP, "kernel/net/ipv4/ip_gre.ko.xz: kernel/net/ipv4/gre.ko.xz\n");

    #[test]
    fn a_kernel_without_it_cannot() {
        assert!(!Root::new("none", &[FREE]).can());
        let other = (DEP, "kernel/net/ipv4/gre.ko:\nkernel/net/ipv6/ip6_gre.ko: kernel/net/ipv4/ip_gre.ko\n");
        assert!(!Root::new("other", &[FREE, other]).can(), "named as a dependency only");
    }

    #[test]
    fn loaded_built_in_or_to_be_loaded_it_can() {
        assert!(Root::new("sys", &[("sys/module/ip_gre/refcnt", "0")]).can());
        assert!(
            Root::new("proc", &[("proc/modules", "gre 16384 1 ip_gre, Live 0x0\nip_gre 1 0 - Live 0x0\n")])
                .can()
        );
        let builtin = "usr/lib/modules/6.1.0-99-amd64/modules.builtin";
        assert!(Root::new("builtin", &[(builtin, "kernel/net/ipv4/ip_gre.ko\n")]).can());
        assert!(Root::new("disk", &[FREE, ON_DISK]).can());
        assert!(Root::new("used", &[("proc/modules", "gre 16384 1 ip_gre, Live 0x0\n")]).can().eq(&false));
    }

    #[test]
    fn on_disk_and_forbidden_it_cannot() {
        let closed = ("proc/sys/kernel/modules_disabled", "1\n");
        assert!(!Root::new("closed", &[closed, ON_DISK]).can());
        assert!(!Root::new("unknown", &[ON_DISK]).can(), "a kernel without modules has no such file");
        let conf = "etc/modprobe.d/a.conf";
        assert!(!Root::new("black", &[FREE, ON_DISK, (conf, "# no\nblacklist ip-gre\n")]).can());
        assert!(!Root::new("install", &[FREE, ON_DISK, (conf, "install ip_gre /bin/true\n")]).can());
        assert!(
            Root::new("wrapper", &[FREE, ON_DISK, (conf, "install ip_gre /sbin/modprobe -i ip_gre\n")]).can()
        );
        assert!(Root::new("comment", &[FREE, ON_DISK, (conf, "#blacklist ip_gre\n")]).can());
    }
}
