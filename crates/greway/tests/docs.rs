//! The documents stay true: what they list is compared with the code, what they show is read by it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use greway_dialects::ifcfg;
use greway_engine::{Direction, DropReason};

/// The root of the repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every page: the root's, those of docs and the decisions.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/decisions"].map(|folder| root().join(folder));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect();
    pages.sort();
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

/// The fenced blocks of a page: language and text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some((language, text))) => open = Some((language, text + line + "\n")),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block that does not end");
    blocks
}

/// The rows of every table, as cells. A `\|` is no border.
fn rows(page: &str) -> Vec<Vec<String>> {
    let row = |line: &str| {
        let inside = line.strip_prefix('|')?.strip_suffix('|')?.replace("\\|", "\0");
        Some(inside.split('|').map(|cell| cell.trim().replace('\0', "|")).collect())
    };
    page.lines().filter_map(row).collect()
}

/// What stands in backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_drop_reason_is_explained_as_status_explains_it() {
    let page = read("docs/status.md");
    let (_, listed) = page.split_once("## Drop reasons").expect("the section");
    let listed = rows(listed).into_iter().skip(2).map(|cells| cells.join(" | ")).collect::<Vec<_>>();
    let row = |reason: &DropReason| {
        let direction = match reason.direction() {
            Direction::Receive => "receive",
            Direction::Transmit => "transmit",
        };
        let kernel = reason.kernel_counter().map_or_else(|| "–".to_owned(), |counter| format!("`{counter}`"));
        format!("`{}` | {direction} | {kernel} | {}", reason.name(), reason.explain())
    };
    let wanted = DropReason::ALL.iter().map(row).collect::<Vec<_>>();
    assert_eq!(
        listed,
        wanted,
        "the table should be:\n{}",
        wanted.iter().map(|row| format!("| {row} |\n")).collect::<String>()
    );
}

#[test]
fn every_example_of_a_file_can_be_read() {
    let mut read = BTreeMap::new();
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for (language, text) in blocks(&page) {
            let name = match language.as_str() {
                "toml" => "tun0.toml",
                "ifcfg" => "ifcfg-tun0",
                "route" => {
                    let routes = ifcfg::parse_routes(&text, &"tun0".parse().unwrap(), "route-tun0");
                    let routes = routes.unwrap_or_else(|error| panic!("{}: {error}\n{text}", path.display()));
                    assert!(!routes.routes.is_empty() && routes.warnings.is_empty(), "{routes:?}");
                    *read.entry("route").or_insert(0) += 1;
                    continue;
                }
                _ => continue,
            };
            let parsed = greway_dialects::parse(&text, name).and_then(greway_dialects::Parsed::into_spec);
            let spec = parsed.unwrap_or_else(|error| panic!("{}: {error}\n{text}", path.display()));
            assert_eq!(spec.name.as_str(), "tun0");
            *read.entry(name).or_insert(0) += 1;
        }
    }
    assert!(["tun0.toml", "ifcfg-tun0", "route"].iter().all(|kind| read.get(kind) >= Some(&2)), "{read:?}");
}

/// The keys that a table knows, by what the reader says about one that it does not know.
fn known_keys(text: &str) -> Vec<String> {
    let error = greway_dialects::native::parse(text, "tun0.toml").expect_err(text);
    let help = error.help.expect("the keys are listed");
    let keys = help.strip_prefix("the keys here are ").expect("a list of keys");
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_of_a_file_is_on_its_page() {
    let page = read("docs/files.md");
    let first_cells = rows(&page).into_iter().map(|cells| cells[0].clone()).collect::<Vec<_>>();
    let documented = first_cells.iter().flat_map(|cell| quoted(cell)).collect::<BTreeSet<_>>();
    let keys =
        [known_keys("no_such_key_at_all = 1\n"), known_keys("[inner]\nno_such_key_at_all = 1\n")].concat();
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys {
        assert!(documented.contains(key.as_str()), "docs/files.md has no row for {key}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for rest in page.split("](").skip(1) {
            let (target, _) = rest.split_once(')').expect("a link ends");
            if target.contains("://") {
                continue;
            }
            let file = target.split('#').next().unwrap_or_default();
            let there = path.parent().unwrap().join(file);
            assert!(there.exists(), "{} links to {target}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

/// A short name such as `engine/src/table.rs` or `greway/tests/verbs.rs` as a path in the repository.
fn in_a_crate(short: &str) -> PathBuf {
    let prefix = if short.starts_with("greway/") { "" } else { "greway-" };
    root().join("crates").join(format!("{prefix}{short}"))
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let mut checked = 0;
    for page in ["COMPAT.md", "ARCHITECTURE.md"] {
        let mut file = None;
        for cells in rows(&read(page)) {
            for word in quoted(cells.last().unwrap()) {
                if word.contains('/') {
                    let path = in_a_crate(word);
                    assert!(path.exists(), "{page} names {word}");
                    file = Some(path);
                } else if word.contains(".rs") {
                    // Another file of the same folder.
                    file = file.map(|path| path.with_file_name(word));
                } else if word.contains('_') && page == "COMPAT.md" {
                    let path = file.as_deref().unwrap_or_else(|| panic!("{page}: {word} without a file"));
                    let source = fs::read_to_string(path).unwrap();
                    assert!(
                        source.contains(&format!("fn {word}(")),
                        "{page}: {word} is not in {}",
                        path.display()
                    );
                } else {
                    continue;
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "{checked}");
}

/// Crate and what it may depend on, out of the source of `cargo xtask arch`.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let source = read("xtask/src/arch.rs");
    let (_, table) = source.split_once("const ALLOWED").expect("the table");
    let (_, table) = table.split_once("= &[").expect("its beginning");
    let (table, _) = table.split_once("];").expect("its end");
    // Every entry is ("crate", &["other", …]).
    let entries = table.split("&[").skip(1).map(|entry| entry.split(']').next().unwrap_or_default());
    let names = table.split('(').skip(1).filter_map(|entry| entry.split('"').nth(1));
    let set = |list: &str| list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    names.map(str::to_owned).zip(entries.map(set)).collect()
}

#[test]
fn the_rooms_are_those_that_xtask_checks() {
    let page = read("ARCHITECTURE.md");
    let (_, section) = page.split_once("## Rooms").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("the next section");
    let room = |cells: Vec<String>| {
        let name = quoted(&cells[0]).first().map(|name| (*name).to_owned())?;
        let others = cells[2].split(", ").filter(|other| *other != "–");
        Some((name, others.map(|other| format!("greway-{other}")).collect()))
    };
    let drawn: BTreeMap<String, BTreeSet<String>> = rows(section).into_iter().filter_map(room).collect();
    assert!(drawn.len() > 10, "{drawn:?}");
    assert_eq!(drawn, arrows());
}

#[test]
fn both_readmes_have_the_same_commands() {
    let commands = |page: &str| {
        let blocks = blocks(&read(page)).into_iter().map(|(_, text)| text).collect::<String>();
        let bare = |line: &str| line.split('#').next().unwrap_or_default().trim_end().to_owned();
        blocks.lines().map(bare).filter(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    let english = commands("README.md");
    assert!(english.len() > 6, "{english:?}");
    assert_eq!(english, commands("README.zh-CN.md"));
}
