//! The Debian package, put together by hand and closed by dpkg-deb.
//!
//! It starts nothing, enables nothing and takes no name of another program: that is the administrator's, by
//! `systemctl enable`, `greway boot`, `greway shim`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use super::binary::{Binary, Needs};
use super::tree::Tree;
use super::{Release, licences, output};
use crate::shell;

const MAINTAINER: &str = "The greway developers <greway@packages.invalid>";

const DESCRIPTION: &str = "\
GRE tunnels without the kernel's GRE module
 greway makes and carries GRE tunnels (RFC 2784, 2890) on any Linux host, also
 where the kernel has no ip_gre. It understands what people have: the words of
 ip tunnel, ifcfg files with TYPE=GRE, ip-tunnel profiles of NetworkManager,
 and TOML files of its own. A tunnel is an ordinary device for routing,
 firewall, tcpdump and ip -s link.
 .
 Installing starts nothing and stands in for no other program; see greway(1).";

/// Makes the package; its path.
pub(super) fn make(release: &Release, binary: &Binary) -> anyhow::Result<PathBuf> {
    let architecture = architecture(&binary.target)?;
    let version = format!("{}-{}", release.version, release.revision);
    let tree = Tree::new(release.out.join(format!("deb-{architecture}")))?;
    let generated = Tree::generated(&binary.native()?, &release.out.join("generated"))?;

    tree.copy(&binary.path, "usr/bin/greway", 0o755)?;
    // NetworkManager takes a regular file only, and tells by its place what it is called for.
    let handler = "usr/lib/NetworkManager/dispatcher.d/device/greway";
    tree.folder(handler.trim_end_matches("/greway"))?;
    fs::hard_link(tree.root.join("usr/bin/greway"), tree.root.join(handler))?;
    tree.copy_all("packaging/networkmanager", "usr/lib/NetworkManager/conf.d", 0o644)?;
    tree.copy_all("packaging/systemd", "usr/lib/systemd/system", 0o644)?;
    tree.copy_all("packaging/systemd-preset", "usr/lib/systemd/system-preset", 0o644)?;
    tree.folder("etc/greway/tunnels.d")?;
    for (name, path) in &generated.man {
        let section = name.rsplit_once('.').map_or("1", |(_, section)| section);
        tree.gzip(&format!("usr/share/man/man{section}/{name}"), &fs::read(path)?)?;
    }
    for (name, path) in &generated.completions {
        let place = match name.as_str() {
            "greway.bash" => "usr/share/bash-completion/completions/greway",
            "_greway" => "usr/share/zsh/vendor-completions/_greway",
            "greway.fish" => "usr/share/fish/vendor_completions.d/greway.fish",
            other => bail!("no place for the completions {other}"),
        };
        tree.copy(path, place, 0o644)?;
    }
    let documents = "usr/share/doc/greway";
    let root = shell::root();
    tree.gzip(&format!("{documents}/changelog"), &fs::read(root.join("CHANGELOG.md"))?)?;
    tree.gzip(&format!("{documents}/changelog.Debian"), changelog(release, &version)?.as_bytes())?;
    for document in ["README.md", "docs/files.md", "docs/guide.md", "docs/install.md", "docs/status.md"] {
        let file = document.rsplit('/').next().unwrap_or(document);
        tree.gzip(&format!("{documents}/{file}"), &fs::read(root.join(document))?)?;
    }
    tree.gzip(&format!("{documents}/third-party"), licences::notices(&binary.target)?.as_bytes())?;
    tree.file(&format!("{documents}/copyright"), 0o644, copyright(&root)?)?;
    tree.file(
        "usr/share/lintian/overrides/greway",
        0o644,
        fs::read(root.join("packaging/debian/overrides"))?,
    )?;

    let installed = installed_size(&tree)?;
    for script in ["postinst", "prerm", "postrm"] {
        tree.copy(&root.join("packaging/debian").join(script), &format!("DEBIAN/{script}"), 0o755)?;
    }
    tree.file("DEBIAN/md5sums", 0o644, md5sums(&tree)?)?;
    let depends = match binary.needs {
        Needs::Nothing => String::new(),
        Needs::Glibc(major, minor) => format!("Depends: libc6 (>= {major}.{minor}), libgcc-s1 (>= 4.2)\n"),
    };
    let control = format!(
        "Package: greway\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {installed}\n{depends}Suggests: iproute2, network-manager\n\
         Section: net\nPriority: optional\nDescription: {DESCRIPTION}\n"
    );
    tree.file("DEBIAN/control", 0o644, control)?;

    let package = release.out.join(format!("greway_{version}_{architecture}.deb"));
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "-Zxz", "--build"]).arg(&tree.root).arg(&package);
    output(pack.env("SOURCE_DATE_EPOCH", release.epoch.to_string()))?;
    fs::remove_dir_all(&tree.root)?;
    Ok(package)
}

/// Debian's word for a processor.
fn architecture(target: &str) -> anyhow::Result<&'static str> {
    match target.split('-').next() {
        Some("x86_64") => Ok("amd64"),
        Some("aarch64") => Ok("arm64"),
        _ => bail!("no Debian architecture is known for {target}: x86_64 and aarch64 are"),
    }
}

fn changelog(release: &Release, version: &str) -> anyhow::Result<String> {
    let time = format!("@{}", release.epoch);
    let date =
        output(Command::new("date").args(["--utc", "--rfc-email", "--date", &time]).env("LC_ALL", "C"))?;
    Ok(format!(
        "greway ({version}) unstable; urgency=medium\n\n  * What has changed is in changelog.gz beside this file.\n\n \
         -- {MAINTAINER}  {date}"
    ))
}

/// In the format of Debian policy 12.5 (DEP-5).
fn copyright(root: &std::path::Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(root.join("LICENSE-MIT")).context("cannot read LICENSE-MIT")?;
    let holder =
        text.lines().find(|line| line.starts_with("Copyright")).unwrap_or("Copyright the greway authors");
    let body = text.lines().skip_while(|line| !line.starts_with("Permission"));
    let indented = body.map(|line| if line.trim().is_empty() { " .".to_owned() } else { format!(" {line}") });
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: greway\n\
         Comment: What is compiled into the program beside its own code, with all notices, is in third-party.gz.\n\n\
         Files: *\nCopyright: {}\nLicense: Expat or Apache-2.0\n\nLicense: Expat\n{}\n\nLicense: Apache-2.0\n \
         On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n",
        holder.trim_start_matches("Copyright").trim_start_matches(" (c)").trim(),
        indented.collect::<Vec<_>>().join("\n"),
    ))
}

/// Kibibytes as Debian policy 5.6.20 counts them.
fn installed_size(tree: &Tree) -> anyhow::Result<u64> {
    let listed = output(
        Command::new("du").args(["--apparent-size", "--summarize", "--block-size=1024"]).arg(&tree.root),
    )?;
    Ok(listed.split_whitespace().next().context("du says no size")?.parse()?)
}

fn md5sums(tree: &Tree) -> anyhow::Result<String> {
    let script = "find usr etc -type f -print0 2>/dev/null | LC_ALL=C sort -z | xargs -0 md5sum";
    output(Command::new("sh").args(["-c", script]).current_dir(&tree.root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_debians_names() {
        assert_eq!(architecture("x86_64-unknown-linux-gnu").unwrap(), "amd64");
        assert_eq!(architecture("aarch64-unknown-linux-musl").unwrap(), "arm64");
        assert!(architecture("riscv64gc-unknown-linux-gnu").is_err());
    }

    #[test]
    fn the_copyright_file_has_the_licence_and_its_holder() {
        let text = copyright(&shell::root()).unwrap();
        for part in
            ["\nLicense: Expat\n Permission is hereby granted", "\n .\n", "common-licenses/Apache-2.0"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.lines().any(|line| line.starts_with("Copyright: ") && line.len() > 15), "{text}");
    }

    #[test]
    fn the_changelog_is_dated_by_the_release() {
        let release = Release { version: "1.2.3".into(), revision: 4, epoch: 86_400, out: PathBuf::new() };
        let text = changelog(&release, "1.2.3-4").unwrap();
        assert!(text.starts_with("greway (1.2.3-4) unstable"), "{text}");
        assert!(text.ends_with(">  Fri, 02 Jan 1970 00:00:00 +0000\n"), "{text}");
    }
}
