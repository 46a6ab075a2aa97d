//! The committed object is that of the sources, and small enough to be committed.

#[path = "../../../xtask/src/ebpf/sources.rs"]
mod sources;

use std::{fs, path::Path};

#[expect(clippy::unwrap_used, reason = "the crate is two folders deep")]
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

#[test]
fn the_object_is_that_of_the_sources() {
    let record = fs::read_to_string(root().join(sources::RECORD)).unwrap();
    let now = sources::sources_digest(root()).unwrap();
    assert_eq!(
        sources::recorded(&record, "sources"),
        Some(now.as_str()),
        "{} is older than its sources: run `cargo xtask ebpf` and commit both files",
        sources::OBJECT
    );
    assert_eq!(sources::recorded(&record, "target"), Some(sources::TARGET));
    assert_eq!(sources::recorded(&record, "flags"), Some(sources::RUSTFLAGS.join(" ").as_str()));
}

#[test]
fn the_record_is_about_this_object() {
    let record = fs::read_to_string(root().join(sources::RECORD)).unwrap();
    let object = fs::read(root().join(sources::OBJECT)).unwrap();
    assert_eq!(sources::recorded(&record, "object"), Some(sources::digest(&object).as_str()));
    assert_eq!(sources::recorded(&record, "bytes"), Some(object.len().to_string().as_str()));
}

#[test]
fn the_object_has_btf_but_neither_debug_information_nor_the_builders_paths() {
    let object = fs::read(root().join(sources::OBJECT)).unwrap();
    let has = |text: &str| object.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has(".BTF\0") && has(".BTF.ext\0"), "no BTF");
    assert!(has("classifier\0"), "no section that aya takes for tc");
    assert!(!has(".debug_"), "DWARF was not stripped");
    for path in ["/home/", "/root/", "/usr/", "/tmp/", root().to_str().unwrap()] {
        assert!(!has(path), "a path of the machine that built it: {path}");
    }
    assert!(object.len() < 128 * 1024, "{} bytes", object.len());
}
