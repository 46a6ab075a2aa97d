//! Lines of words, as `ip` gets them from `route-NAME` and `rule-NAME` files.

/// The words of a line with their columns in characters, from 1.
pub(super) fn words(line: &str) -> impl Iterator<Item = (u32, &str)> {
    line.split_whitespace().map(move |word| {
        let offset = word.as_ptr() as usize - line.as_ptr() as usize;
        let column = line[..offset].chars().count() + 1;
        (u32::try_from(column).unwrap_or(u32::MAX), word)
    })
}

/// The lines that are neither blank nor a comment, with their numbers from 1.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let meant = |line: &str| !line.trim_start().is_empty() && !line.trim_start().starts_with('#');
    (1..).zip(text.lines()).filter(move |(_, line)| meant(line))
}
