//! The demo's page: what it prints, and the tally of what it checked.
//!
//! The same lines go to a terminal and to a log: nothing is ever overwritten and no cursor is moved. Colour
//! is for a terminal only; box characters are for a UTF-8 locale only, elsewhere the page is plain ASCII.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// How the page may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// Escape sequences for colour are welcome.
    pub(super) colour: bool,
    /// Characters beyond ASCII are welcome.
    pub(super) unicode: bool,
}

impl Style {
    /// The style for standard output, from the terminal and the environment.
    pub(super) fn of_stdout(no_color: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        let colour = !no_color && io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb;
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        Self { colour, unicode: locale.is_some_and(|locale| is_utf8(&locale.to_string_lossy())) }
    }
}

/// `C.UTF-8`, `zh_CN.utf8` and their like.
fn is_utf8(locale: &str) -> bool {
    let charset =
        locale.split('@').next().and_then(|name| name.split_once('.')).map_or("", |(_, charset)| charset);
    charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8")
}

/// One checked claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// What was looked at.
    pub(super) what: String,
    /// What was seen.
    pub(super) result: String,
    /// It is as it should be.
    pub(super) held: bool,
}

/// Writes the demo's text and counts its checks.
pub(super) struct Page<'a> {
    out: &'a mut dyn Write,
    style: Style,
    checks: Vec<Check>,
    broken: Option<io::Error>,
}

/// Columns that running text may take.
const WIDTH: usize = 96;
/// Columns of the first two fields of a check: who asks whom, and what came.
const WHAT: usize = 30;
const RESULT: usize = 23;

impl<'a> Page<'a> {
    /// A page on `out`.
    pub(super) fn new(out: &'a mut dyn Write, style: Style) -> Self {
        Self { out, style, checks: Vec::new(), broken: None }
    }

    /// A line as it is, but for characters that the page cannot show.
    pub(super) fn line(&mut self, text: &str) {
        let text = self.plain(text);
        self.raw(&text);
    }

    /// An empty line.
    pub(super) fn gap(&mut self) {
        self.raw("");
    }

    /// The title of the whole.
    pub(super) fn title(&mut self, text: &str) {
        let bold = self.paint("1", &self.plain(text));
        self.raw(&bold);
    }

    /// The title of a part.
    pub(super) fn heading(&mut self, text: &str) {
        let text = self.plain(text);
        let rule = self.plain("─").repeat(text.chars().count());
        self.gap();
        let bold = self.paint("1", &text);
        self.raw(&bold);
        let faint = self.paint("2", &rule);
        self.raw(&faint);
    }

    /// A paragraph, wrapped.
    pub(super) fn text(&mut self, text: &str) {
        for line in wrap(&self.plain(text), WIDTH) {
            self.raw(&line);
        }
    }

    /// A command that somebody would type on a host.
    pub(super) fn command(&mut self, host: impl std::fmt::Display, command: &str) {
        let prompt = self.paint("36", &format!("{host}#"));
        let command = self.plain(command);
        self.raw(&format!("  {prompt} {command}"));
    }

    /// What a command printed, or the text of a file: set off from the demo's own words.
    pub(super) fn quote(&mut self, lines: impl IntoIterator<Item = impl AsRef<str>>) {
        let bar = self.plain("│");
        let bar = self.paint("2", &bar);
        for line in lines {
            for (number, part) in wrap(&self.plain(line.as_ref()), WIDTH - 8).into_iter().enumerate() {
                let indent = if number == 0 { "" } else { "    " };
                self.raw(format!("  {bar} {indent}{part}").trim_end());
            }
        }
    }

    /// A drawing.
    pub(super) fn art(&mut self, lines: &[&str]) {
        for line in lines {
            let line = self.plain(line);
            self.raw(&line);
        }
    }

    /// A packet that was seen, in tcpdump's manner: the evidence of the line above it.
    pub(super) fn packet(&mut self, line: &str) {
        for (number, part) in wrap(&self.plain(line), WIDTH - 10).into_iter().enumerate() {
            let indent = if number == 0 { "      " } else { "          " };
            let part = self.paint("2", &format!("{indent}{part}"));
            self.raw(&part);
        }
    }

    /// A claim, whether it holds, and why it should.
    pub(super) fn check(&mut self, held: bool, what: &str, result: &str, why: &str) {
        let mark = match (held, self.style.unicode) {
            (true, true) => self.paint("32", "✓"),
            (false, true) => self.paint("31;1", "✗"),
            (true, false) => self.paint("32", "ok  "),
            (false, false) => self.paint("31;1", "FAIL"),
        };
        let (what_text, result_text) = (self.plain(what), self.plain(result));
        let why = self.plain(why);
        let line = format!("  {mark} {what_text:<WHAT$} {result_text:<RESULT$} {why}");
        self.raw(line.trim_end());
        self.checks.push(Check { what: what.to_owned(), result: result.to_owned(), held });
    }

    /// The checks so far.
    pub(super) fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Whether every check held.
    pub(super) fn all_held(&self) -> bool {
        self.checks.iter().all(|check| check.held)
    }

    /// The last word: how many checks held, and which did not.
    pub(super) fn verdict(&mut self, took: Duration) {
        let total = self.checks.len();
        let failed: Vec<Check> = self.checks.iter().filter(|check| !check.held).cloned().collect();
        self.gap();
        if failed.is_empty() {
            let text = format!("All {total} checks held, in {:.1} s.", took.as_secs_f64());
            let text = self.paint("32;1", &text);
            self.raw(&text);
            return;
        }
        let text = format!("{} of {total} checks did not hold ({:.1} s):", failed.len(), took.as_secs_f64());
        let text = self.paint("31;1", &text);
        self.raw(&text);
        for check in failed {
            self.line(&format!("  {}: {}", check.what, check.result));
        }
    }

    /// The first error of writing, for example a closed pipe.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self.broken.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }

    fn raw(&mut self, line: &str) {
        // Each line is flushed, so that a log shows how far a slow step got.
        let written = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
        if let Err(error) = written {
            self.broken.get_or_insert(error);
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.style.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn plain(&self, text: &str) -> String {
        if self.style.unicode { text.to_owned() } else { ascii(text) }
    }
}

/// The nearest ASCII for what the page uses; `?` for anything else, which can only come from outside.
fn ascii(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '┌' | '┐' | '└' | '┘' | '├' | '┤' | '┬' | '┴' | '┼' | '╞' | '╡' => {
                plain.push('+')
            }
            '─' => plain.push('-'),
            '═' => plain.push('='),
            '│' => plain.push('|'),
            '→' => plain.push_str("->"),
            '←' => plain.push_str("<-"),
            '–' | '·' => plain.push('-'),
            '…' => plain.push_str("..."),
            '×' => plain.push('x'),
            'µ' => plain.push('u'),
            '“' | '”' => plain.push('"'),
            '’' => plain.push('\''),
            c if c.is_ascii() => plain.push(c),
            _ => plain.push('?'),
        }
    }
    plain
}

/// Breaks long lines at spaces; leading spaces are the indent of every line. A word longer than a line stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let indent: String = text.chars().take_while(|c| *c == ' ').collect();
    let mut lines = Vec::new();
    let mut rest = text.trim_start().to_owned();
    while indent.len() + rest.chars().count() > width {
        let room = width.saturating_sub(indent.len());
        // The last space that still fits, or else the first one there is.
        let fits = rest.char_indices().take(room + 1).filter(|(_, c)| *c == ' ').last();
        let Some((at, _)) = fits.or_else(|| rest.char_indices().find(|(_, c)| *c == ' ')) else { break };
        let after = rest[at..].trim_start().to_owned();
        lines.push(format!("{indent}{}", rest[..at].trim_end()));
        rest = after;
    }
    lines.push(format!("{indent}{rest}"));
    lines
}

/// The guide's topology.
pub(super) const TOPOLOGY: [&str; 10] = [
    "      lan1                                                              lan2",
    "   10.10.1.100                                                       10.10.2.100",
    "        │                                                                 │",
    "        │ 10.10.1.0/24                                       10.10.2.0/24 │",
    "    10.10.1.1                                                         10.10.2.1",
    " ┌──────┴──────┐                   ┌──────────┐                    ┌──────┴──────┐",
    " │   linux1    ├───────────────────┤  router  ├────────────────────┤   linux2    │",
    " │             │ 100.0.1.100       └──────────┘        100.0.2.100 │             │",
    " │        tun0 ╞═══════════════════════════════════════════════════╡ tun0        │",
    " └─────────────┘ 172.16.0.1           GRE tunnel        172.16.0.2 └─────────────┘",
];

/// A duration as people say it.
pub(super) fn time(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        m if m < 10.0 => format!("{m:.1} µs"),
        m if m < 1000.0 => format!("{m:.0} µs"),
        m if m < 10_000.0 => format!("{:.1} ms", m / 1e3),
        m if m < 1e6 => format!("{:.0} ms", m / 1e3),
        m => format!("{:.1} s", m / 1e6),
    }
}

/// A rate of payload bytes as people say it.
pub(super) fn rate(bytes: u64, elapsed: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let bits = bytes as f64 * 8.0 / elapsed.as_secs_f64().max(1e-9);
    if bits >= 1e9 { format!("{:.2} Gbit/s", bits / 1e9) } else { format!("{:.0} Mbit/s", bits / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(style: Style, write: impl FnOnce(&mut Page<'_>)) -> String {
        let mut out = Vec::new();
        let mut page = Page::new(&mut out, style);
        write(&mut page);
        page.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    const PLAIN: Style = Style { colour: false, unicode: false };
    const BOXES: Style = Style { colour: false, unicode: true };
    const COLOUR: Style = Style { colour: true, unicode: true };

    #[test]
    fn the_topology_is_drawn_in_both_alphabets() {
        let boxes = shown(BOXES, |page| page.art(&TOPOLOGY));
        assert!(boxes.contains("│        tun0 ╞═════"), "{boxes}");
        let plain = shown(PLAIN, |page| page.art(&TOPOLOGY));
        assert!(plain.is_ascii(), "{plain}");
        assert!(plain.contains("|        tun0 +====="), "{plain}");
        let widths = |text: &str| text.lines().map(|line| line.chars().count()).collect::<Vec<_>>();
        assert_eq!(widths(&boxes), widths(&plain));
        let right_edge = widths(&boxes)[5];
        assert!(widths(&boxes)[5..].iter().all(|width| *width == right_edge), "{boxes}");
    }

    #[test]
    fn a_check_is_one_line_and_counted() {
        let mut out = Vec::new();
        let mut page = Page::new(&mut out, BOXES);
        page.check(true, "linux1 → 172.16.0.2", "reply after 84 µs", "through the tunnel");
        page.check(false, "linux1 → 10.10.2.100", "no reply", "");
        assert!(!page.all_held());
        page.verdict(Duration::from_millis(1234));
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "  ✓ linux1 → 172.16.0.2            reply after 84 µs       through the tunnel\n\
             \x20 ✗ linux1 → 10.10.2.100           no reply\n\
             \n\
             1 of 2 checks did not hold (1.2 s):\n\
             \x20 linux1 → 10.10.2.100: no reply\n"
        );
    }

    #[test]
    fn plain_pages_say_ok_and_fail() {
        let text = shown(PLAIN, |page| {
            page.check(true, "a → b", "84 µs", "");
            page.check(false, "a → b", "none", "");
        });
        assert_eq!(text.lines().next(), Some("  ok   a -> b                         84 us"));
        assert!(text.contains("  FAIL a -> b"), "{text}");
    }

    #[test]
    fn colour_is_the_only_difference_of_a_terminal() {
        let write = |page: &mut Page<'_>| {
            page.heading("The tunnel");
            page.command("linux1", "greway up ifcfg-tun0");
            page.quote(["KEY=lichenhao"]);
            page.check(true, "x", "y", "z");
        };
        let coloured = shown(COLOUR, write);
        assert!(coloured.contains("\x1b[36mlinux1#\x1b[0m greway up"), "{coloured:?}");
        let mut stripped = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once("\x1b[") {
            stripped.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        stripped.push_str(rest);
        assert_eq!(stripped, shown(BOXES, write));
    }

    #[test]
    fn long_text_is_wrapped_and_keeps_its_indent() {
        let lines = wrap(&format!("  {}", "word ".repeat(40)), 30);
        assert!(lines.iter().all(|line| line.starts_with("  word") && line.len() <= 30), "{lines:?}");
        assert_eq!(lines.iter().map(|line| line.split_whitespace().count()).sum::<usize>(), 40);
        assert_eq!(wrap("short", 30), ["short"]);
        assert_eq!(wrap("a   b longword", 8), ["a   b", "longword"]);
        assert_eq!(wrap("  unbreakable end", 6), ["  unbreakable", "  end"]);
    }

    #[test]
    fn locales() {
        assert!(is_utf8("C.UTF-8") && is_utf8("zh_CN.utf8") && is_utf8("de_DE.UTF-8@euro"));
        assert!(!is_utf8("C") && !is_utf8("POSIX") && !is_utf8("de_DE.ISO-8859-1"));
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(time(Duration::from_nanos(2_340)), "2.3 µs");
        assert_eq!(time(Duration::from_micros(84)), "84 µs");
        assert_eq!(time(Duration::from_micros(1_250)), "1.2 ms");
        assert_eq!(time(Duration::from_millis(1_500)), "1.5 s");
        assert_eq!(rate(125_000_000, Duration::from_secs(1)), "1.00 Gbit/s");
        assert_eq!(rate(1_250_000, Duration::from_secs(1)), "10 Mbit/s");
    }
}
