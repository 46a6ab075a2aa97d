//! The word somebody probably meant.

/// The word of `words` nearest to `word`, if it is near: one slip (a letter wrong, missing, too many,
/// or two swapped) in up to five letters, two in longer words. The case of letters does not count.
pub(crate) fn nearest<'w>(word: &str, words: &[&'w str]) -> Option<&'w str> {
    let slips = if word.chars().count() <= 5 { 1 } else { 2 };
    let given = word.to_lowercase();
    words
        .iter()
        .map(|candidate| (distance(&given, &candidate.to_lowercase()), *candidate))
        .filter(|(distance, _)| *distance <= slips)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance with swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slip_or_two() {
        let words = ["remote", "local", "ttl", "tos", "key", "ikey"];
        for (word, meant) in [
            ("remot", Some("remote")),
            ("remoet", Some("remote")),
            ("Remote", Some("remote")),
            ("loacl", Some("local")),
            ("tll", Some("ttl")),
            ("kye", Some("key")),
            ("tun1", None),
            ("gateway", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &words), meant, "{word}");
        }
    }
}
