//! The names of our pins in a bpffs, and the folders they stand in.
//!
//! ```text
//! <bpffs>/greway/v4/net-4097/greway_counters and the other maps
//!                            overlay-12     the link on device 12's peer end
//!                            underlay-2     the link on device 2
//!                            direct-11      the link on the tunnel device 11, of what leaves it
//! ```
//!
//! One bpffs is seen from many network namespaces, each with a daemon of its own, hence its cookie; a device is
//! named by its index, because names change. A bpffs accepts no dot in a name.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use greway_ebpf_abi::{LAYOUT, MAPS, Point};

use crate::{bpffs, error::FastpathError, netns};

/// The folder of one network namespace in one bpffs.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    bpffs: PathBuf,
    folder: PathBuf,
}

/// A link's pin, as its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkPin {
    pub(crate) point: Point,
    pub(crate) index: u32,
    pub(crate) path: PathBuf,
}

impl Pins {
    /// The folder of the calling thread's network namespace. It need not exist.
    pub(crate) fn of_this_namespace(bpffs: &Path) -> Result<Self, FastpathError> {
        let folder =
            bpffs.join("greway").join(format!("v{LAYOUT}")).join(format!("net-{}", netns::number()?));
        Ok(Self { bpffs: bpffs.to_owned(), folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn link(&self, point: Point, index: u32) -> PathBuf {
        self.folder.join(format!("{}-{index}", point.name()))
    }

    pub(crate) fn create_folder(&self) -> Result<(), FastpathError> {
        bpffs::make_folders(&self.bpffs, &self.folder).map_err(|source| FastpathError::Pin {
            action: "create",
            path: self.folder.clone(),
            kernel: source.to_string(),
        })
    }

    /// The links pinned here, none when there is no folder.
    pub(crate) fn links(&self) -> Result<Vec<LinkPin>, FastpathError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.error("read", &self.folder, &source)),
        };
        let mut links = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| self.error("read", &self.folder, &source))?;
            links.extend(LinkPin::parse(&entry.path()));
        }
        links.sort_by_key(|link| (link.index, link.point));
        Ok(links)
    }

    /// Removes one pin; one that is not there is no error.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), FastpathError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error("remove", path, &error)),
            _ => Ok(()),
        }
    }

    /// The folders of this network namespace that other layouts of the maps have left in the bpffs.
    pub(crate) fn of_other_layouts(&self) -> Result<Vec<Self>, FastpathError> {
        let root = self.bpffs.join("greway");
        let entries = match fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.error("read", &root, &source)),
        };
        let mut others = Vec::new();
        for entry in entries {
            let layout = entry.map_err(|source| self.error("read", &root, &source))?.path();
            let folder = self.folder.file_name().map(|namespace| layout.join(namespace));
            let other = folder.filter(|folder| *folder != self.folder && folder.is_dir());
            others.extend(other.map(|folder| Self { bpffs: self.bpffs.clone(), folder }));
        }
        Ok(others)
    }

    /// The folders of other network namespaces, of whatever layout of the maps, each with its number.
    pub(crate) fn of_other_namespaces(&self) -> Result<Vec<(u64, Self)>, FastpathError> {
        let mut others = Vec::new();
        for layout in self.entries(&self.bpffs.join("greway"))? {
            for folder in self.entries(&layout)? {
                let name =
                    folder.file_name().and_then(|name| name.to_str()?.strip_prefix("net-")?.parse().ok());
                if let Some(number) = name
                    && folder.file_name() != self.folder.file_name()
                {
                    others.push((number, Self { bpffs: self.bpffs.clone(), folder }));
                }
            }
        }
        Ok(others)
    }

    /// What is in a folder; nothing when there is none.
    fn entries(&self, folder: &Path) -> Result<Vec<PathBuf>, FastpathError> {
        let failed = |source: io::Error| self.error("read", folder, &source);
        match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(error)),
            Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
        }
    }

    /// Removes everything from the folder, and it. A link without its pin is let go by the kernel.
    pub(crate) fn remove_everything(&self) -> Result<(), FastpathError> {
        let entries =
            fs::read_dir(&self.folder).map_err(|source| self.error("read", &self.folder, &source))?;
        for entry in entries {
            let path = entry.map_err(|source| self.error("read", &self.folder, &source))?.path();
            self.remove(&path)?;
        }
        self.remove_folder()
    }

    /// Removes the maps and every folder of ours that is empty then.
    pub(crate) fn remove_folder(&self) -> Result<(), FastpathError> {
        for name in MAPS {
            self.remove(&self.map(name))?;
        }
        for folder in self.folder.ancestors().take_while(|folder| *folder != self.bpffs) {
            match fs::remove_dir(folder) {
                // Another namespace's pins, or another layout's, are in it.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.error("remove", folder, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn error(&self, action: &'static str, path: &Path, source: &io::Error) -> FastpathError {
        FastpathError::Pin { action, path: path.to_owned(), kernel: source.to_string() }
    }
}

impl LinkPin {
    fn parse(path: &Path) -> Option<Self> {
        let (word, index) = path.file_name()?.to_str()?.split_once('-')?;
        let point = Point::ALL.into_iter().find(|point| point.name() == word)?;
        Some(Self { point, index: index.parse().ok()?, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_name_tells_its_point_and_device() {
        let pins = Pins::of_this_namespace(Path::new("/bpf")).unwrap();
        assert!(pins.folder().starts_with("/bpf/greway/v4"), "{}", pins.folder().display());
        for point in Point::ALL {
            let path = pins.link(point, 12);
            assert_eq!(LinkPin::parse(&path), Some(LinkPin { point, index: 12, path }));
        }
    }

    #[test]
    fn other_names_are_no_links() {
        for name in ["greway_counters", "overlay", "overlay-", "overlay-x", "egress-3"] {
            assert_eq!(LinkPin::parse(&Path::new("/bpf").join(name)), None, "{name}");
        }
    }
}
