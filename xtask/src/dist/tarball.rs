//! The static tarball: for every Linux of its processor, whatever C library and package manager it has.

use std::fs;
use std::path::PathBuf;

use super::binary::{Binary, Needs};
use super::tree::Tree;
use super::{Release, licences, tar};
use crate::shell;

/// Makes the tarball; its path.
pub(super) fn make(release: &Release, binary: &Binary) -> anyhow::Result<PathBuf> {
    if binary.needs != Needs::Nothing {
        anyhow::bail!(
            "the tarball is for any Linux, and {} needs a C library: take a -musl target",
            binary.target
        );
    }
    // x86_64-unknown-linux-musl: who made the processor says nothing to anybody.
    let name = format!("greway-{}-{}", release.version, binary.target.replace("-unknown", ""));
    let scratch = release.out.join("tarball");
    let tree = Tree::new(scratch.join(&name))?;
    let generated = Tree::generated(&binary.native()?, &release.out.join("generated"))?;
    let root = shell::root();

    tree.copy(&binary.path, "bin/greway", 0o755)?;
    tree.copy(&root.join("packaging/install.sh"), "install.sh", 0o755)?;
    tree.copy_all("packaging/systemd", "systemd", 0o644)?;
    tree.copy_all("packaging/networkmanager", "networkmanager", 0o644)?;
    for (name, path) in generated.man {
        let section = name.rsplit_once('.').map_or("1", |(_, section)| section);
        tree.copy(&path, &format!("man/man{section}/{name}"), 0o644)?;
    }
    for (name, path) in generated.completions {
        tree.copy(&path, &format!("completions/{name}"), 0o644)?;
    }
    for document in ["README.md", "README.zh-CN.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        tree.copy(&root.join(document), document, 0o644)?;
    }
    for document in ["files.md", "guide.md", "install.md", "status.md"] {
        tree.copy(&root.join("docs").join(document), &format!("docs/{document}"), 0o644)?;
    }
    tree.file("THIRD-PARTY", 0o644, licences::notices(&binary.target)?)?;

    let tarball = release.out.join(format!("{name}.tar.gz"));
    tar(&scratch, &name, release.epoch, &tarball)?;
    fs::remove_dir_all(scratch)?;
    Ok(tarball)
}
