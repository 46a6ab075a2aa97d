//! The files of a release, put together in a folder: what lies in `packaging`, and what the program says of itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::{manual, output};
use crate::shell;

/// A folder that is made anew, and what is put into it.
pub(super) struct Tree {
    pub(super) root: PathBuf,
}

impl Tree {
    /// An empty folder; what an earlier run left there goes.
    pub(super) fn new(root: PathBuf) -> anyhow::Result<Self> {
        match fs::remove_dir_all(&root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", root.display()));
            }
            _ => {}
        }
        let tree = Self { root };
        tree.folder("")?;
        Ok(tree)
    }

    /// Makes a folder with those above it, with modes of their own whatever the umask is.
    pub(super) fn folder(&self, path: &str) -> anyhow::Result<()> {
        let mut folder = self.root.clone();
        fs::create_dir_all(&folder)?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            folder.push(part);
            if !folder.is_dir() {
                fs::create_dir(&folder)?;
            }
        }
        for folder in folder.ancestors().take_while(|above| above.starts_with(&self.root)) {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// Writes a file.
    pub(super) fn file(&self, path: &str, mode: u32, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        self.folder(path.rsplit_once('/').map_or("", |(folder, _)| folder))?;
        let path = self.root.join(path);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
    }

    /// Copies a file.
    pub(super) fn copy(&self, from: &Path, path: &str, mode: u32) -> anyhow::Result<()> {
        self.file(path, mode, fs::read(from).with_context(|| format!("cannot read {}", from.display()))?)
    }

    /// Copies every file of a folder of the workspace; a folder that is not there has none.
    pub(super) fn copy_all(&self, from: &str, folder: &str, mode: u32) -> anyhow::Result<()> {
        for (name, path) in files(&shell::root().join(from))? {
            self.copy(&path, &format!("{folder}/{name}"), mode)?;
        }
        Ok(())
    }

    /// Writes a file through gzip, without name and time in it.
    pub(super) fn gzip(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let plain = self.root.join(path);
        self.file(path, 0o644, bytes)?;
        output(Command::new("gzip").args(["-9n", "--force"]).arg(&plain).stdin(Stdio::null())).map(drop)
    }

    /// The manual pages, by name, and the completions, by shell, as the program makes them of its own commands.
    pub(super) fn generated(program: &Path, scratch: &Path) -> anyhow::Result<Generated> {
        let scratch = Self::new(scratch.to_owned())?;
        for what in ["man", "completions"] {
            output(Command::new(program).args(["generate", what]).arg(&scratch.root))?;
        }
        let mut man = files(&scratch.root.join("man"))?;
        let markdown = shell::root().join("docs/files.md");
        let text =
            fs::read_to_string(&markdown).with_context(|| format!("cannot read {}", markdown.display()))?;
        scratch.file("man5/greway.toml.5", 0o644, manual::page(&text))?;
        man.extend(files(&scratch.root.join("man5"))?);
        let completions = files(&scratch.root.join("completions"))?;
        if man.is_empty() || completions.len() != 3 {
            bail!(
                "{} generated {} manual pages and {} completions",
                program.display(),
                man.len(),
                completions.len()
            );
        }
        Ok(Generated { man, completions })
    }
}

/// Files that the program made, by name.
pub(super) struct Generated {
    pub(super) man: Vec<(String, PathBuf)>,
    pub(super) completions: Vec<(String, PathBuf)>,
}

/// The files of a folder, by name; of one that is not there none.
pub(super) fn files(folder: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    files.sort();
    Ok(files)
}
