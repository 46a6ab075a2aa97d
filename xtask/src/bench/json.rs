//! The figures for programs: every round of every cell.

use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::about::About;
use super::floors;
use super::peers::Peer;
use super::results::{Cell, Place, Results};

/// Writes parts to a file, under who they are of.
pub(super) fn write(
    path: &Path,
    about: &About,
    parts: impl IntoIterator<Item = (&'static str, Value)>,
) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(&value(about, parts))? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether such a file can be written: not to be found out after minutes of measuring. What is in it stays for now, and
/// where there is none there is none afterwards.
pub(super) fn try_to_write(path: &Path) -> anyhow::Result<()> {
    let is_new = !path.exists();
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    let tried = opened.and_then(|_| if is_new { std::fs::remove_file(path) } else { Ok(()) });
    tried.with_context(|| format!("cannot write {}", path.display()))
}

fn value(about: &About, parts: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let About { commit, day, kernel, processor } = about;
    let about = [("commit", commit), ("day", day), ("kernel", kernel), ("processor", processor)];
    let about = about.map(|(key, text)| (key.to_owned(), json!(text)));
    let parts = parts.into_iter().map(|(key, part)| (key.to_owned(), part));
    about.into_iter().chain(parts).collect::<Map<_, _>>().into()
}

/// Every round of every cell.
pub(super) fn cells(all: &[Results]) -> Value {
    all.iter().flat_map(|results| results.cells.iter().map(|cell| one(results, cell))).collect()
}

fn one(results: &Results, cell: &Cell) -> Value {
    let compared = |with: Peer| results.compare(cell.measure, cell.peer, with).map(|spread| spread.median);
    let floors = floors::of(results, cell.measure, cell.peer);
    json!({
        "place": match results.place { Place::Native => "native", Place::Guest => "guest" },
        "measure": cell.measure.key(),
        "unit": cell.measure.unit(),
        "peer": cell.peer.key(),
        "rounds": cell.rounds,
        "median": cell.spread().map(|spread| spread.median),
        "beside": results.beside.iter().map(|with| (with.key().to_owned(), json!(compared(*with)))).collect::<Map<_, _>>(),
        "why_not": cell.why_not,
        "floors": floors.iter().map(|f| json!({ "floor": f.text, "measured": f.measured, "passed": f.passed })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod unit {
    use super::super::measures::Measure;
    use super::*;

    const PEERS: [Peer; 2] = [Peer::Bare, Peer::IpGre];

    #[test]
    fn where_a_file_cannot_be_is_told_before_and_one_that_is_there_stays() {
        let folder = std::env::temp_dir().join(format!("greway-bench-json-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (new, old) = (folder.join("new.json"), folder.join("old.json"));
        std::fs::write(&old, "{}").unwrap();
        let tried = [&new, &old, &folder.join("none/x.json"), &folder].map(|path| try_to_write(path).is_ok());
        let left = (new.exists(), std::fs::read_to_string(&old).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((tried, left), ([true, true, false, false], (false, "{}".to_owned())));
    }

    #[test]
    fn a_cell_has_its_rounds_its_median_and_its_reason() {
        let mut results = Results::new(Place::Guest, &[Measure::Udp64], &PEERS, &PEERS);
        results.add(Measure::Udp64, Peer::Bare, Ok(4.0));
        results.skip(Peer::IpGre, "no module");
        let text = ["c", "d", "k", "p"].map(str::to_owned);
        let [commit, day, kernel, processor] = text;
        let value = value(&About { commit, day, kernel, processor }, [("cells", cells(&[results]))]);
        assert_eq!(value["commit"], "c");
        assert_eq!(value["cells"][0]["rounds"], json!([4.0]));
        assert_eq!(value["cells"][0]["beside"], json!({ "bare": 1.0, "ip-gre": null }));
        assert_eq!(value["cells"][1]["median"], Value::Null);
        assert_eq!(value["cells"][1]["why_not"], "no module");
    }
}
