//! Bar charts as SVG, drawn by hand: rectangles and words take a hundred lines, a plotting library a hundred crates. It
//! knows nothing of what it draws.
//!
//! Colours follow the reader's scheme, light or dark, and the background is part of the picture, since a page's own may
//! follow another.

use std::fmt::Write as _;

/// One measure.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    /// The unit, and which way is better.
    pub(super) note: String,
    pub(super) bars: Vec<Bar>,
}

/// One figure of it.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) label: String,
    /// Median, least and most; `None`: there is none, and the text says why.
    pub(super) value: Option<[f64; 3]>,
    /// The figure in words.
    pub(super) text: String,
    pub(super) colour: Colour,
}

/// Who a bar is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    /// What all are measured against.
    Reference,
    Other,
    Ours,
}

impl Colour {
    fn class(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Other => "other",
            Self::Ours => "ours",
        }
    }
}

const MARGIN: usize = 20;
const COLUMNS: usize = 2;
const COLUMN: usize = 494;
const HEAD: usize = 64;
const PANEL_HEAD: usize = 28;
const PANEL_FOOT: usize = 22;
const ROW: usize = 20;
const LABELS: usize = 196;
const LONGEST: f64 = 140.0;
/// Of what is longer than that, the words are behind the bar's own place.
const WORDS: usize = LABELS + 148;

const STYLE: &str = "\
text { font: 12px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 } .panel { font-weight: 600 }
.quiet { fill: #59636e; font-size: 11px }
.ground { fill: #ffffff } .base { stroke: #d1d9e0 } .range { stroke: #1f2328 }
.reference { fill: #8c959f } .other { fill: #54aeff } .ours { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .quiet { fill: #9198a1 }
.ground { fill: #0d1117 } .base { stroke: #3d444d } .range { stroke: #f0f6fc }
.reference { fill: #6e7681 } .other { fill: #388bfd } .ours { fill: #3fb950 }
}
";

/// Draws panels, two a row, below a title and a line about where the figures are from.
pub(super) fn draw(title: &str, about: &str, panels: &[Panel]) -> String {
    let rows: Vec<&[Panel]> = panels.chunks(COLUMNS).collect();
    let height_of = |row: &[Panel]| {
        PANEL_HEAD + PANEL_FOOT + ROW * row.iter().map(|panel| panel.bars.len()).max().unwrap_or(0)
    };
    let width = 2 * MARGIN + COLUMNS * COLUMN;
    let height = HEAD + MARGIN + rows.iter().map(|row| height_of(row)).sum::<usize>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n<style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n",
        escaped(title)
    );
    text(&mut svg, MARGIN, 30, "title", title);
    text(&mut svg, MARGIN, 50, "quiet", about);
    let mut top = HEAD;
    for row in rows {
        for (column, panel) in row.iter().enumerate() {
            draw_panel(&mut svg, MARGIN + column * COLUMN, top, panel);
        }
        top += height_of(row);
    }
    svg + "</svg>\n"
}

fn draw_panel(svg: &mut String, left: usize, top: usize, panel: &Panel) {
    text(svg, left, top + 16, "panel", &panel.title);
    text(svg, left + WORDS, top + 16, "quiet", &panel.note);
    let values = || panel.bars.iter().filter_map(|bar| bar.value);
    let longest = values().flatten().fold(0.0, f64::max);
    let length = |value: f64| if longest > 0.0 { value.max(0.0) / longest * LONGEST } else { 0.0 };
    let base = left + LABELS;
    for (number, bar) in panel.bars.iter().enumerate() {
        let y = top + PANEL_HEAD + number * ROW;
        text(svg, left, y + 13, "", &bar.label);
        if let Some([median, least, most]) = bar.value {
            let (class, width) = (bar.colour.class(), length(median));
            // Writing to a string does not fail.
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{base}\" y=\"{}\" width=\"{width:.1}\" height=\"12\"/>",
                y + 3
            );
            if least < most {
                let (from, to) = (base as f64 + length(least), base as f64 + length(most));
                let y = y + 9;
                let _ = writeln!(
                    svg,
                    "<line class=\"range\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y}\" y2=\"{y}\"/>"
                );
            }
        }
        text(svg, left + WORDS, y + 13, if bar.value.is_some() { "" } else { "quiet" }, &bar.text);
    }
    let (from, to) = (top + PANEL_HEAD, top + PANEL_HEAD + panel.bars.len() * ROW);
    let _ = writeln!(svg, "<line class=\"base\" x1=\"{base}\" x2=\"{base}\" y1=\"{from}\" y2=\"{to}\"/>");
}

fn text(svg: &mut String, x: usize, y: usize, class: &str, words: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let _ = writeln!(svg, "<text{class} x=\"{x}\" y=\"{y}\">{}</text>", escaped(words));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod unit {
    use super::*;

    fn bar(label: &str, value: Option<[f64; 3]>) -> Bar {
        Bar { label: label.to_owned(), value, text: format!("{label}'s"), colour: Colour::Ours }
    }

    fn panel(bars: Vec<Bar>) -> Panel {
        Panel { title: "A & B".to_owned(), note: "kpps".to_owned(), bars }
    }

    #[test]
    fn bars_are_as_long_as_their_share_of_the_longest_range() {
        let bars =
            vec![bar("one", Some([5.0, 4.0, 10.0])), bar("two", Some([2.5, 2.5, 2.5])), bar("no", None)];
        let svg = draw("T", "here", &[panel(bars)]);
        assert!(
            svg.contains("<rect class=\"ours\" x=\"216\" y=\"95\" width=\"70.0\" height=\"12\"/>"),
            "{svg}"
        );
        assert!(svg.contains("width=\"35.0\""), "{svg}");
        assert_eq!(svg.matches("class=\"range\"").count(), 1, "one figure has no range: {svg}");
        assert_eq!(svg.matches("class=\"ours\"").count(), 2, "what has no figure has no bar: {svg}");
        assert!(svg.contains("<text class=\"quiet\" x=\"364\" y=\"145\">no's</text>"), "{svg}");
    }

    #[test]
    fn a_picture_is_as_high_as_its_panels_and_its_words_are_escaped() {
        let three = || panel(vec![bar("a<b", Some([0.0; 3]))]);
        let svg = draw("T", "\"q\"", &[three(), three(), three()]);
        assert!(svg.contains("height=\"224\""), "two rows of panels: {svg}");
        assert!(
            svg.contains("A &amp; B") && svg.contains("a&lt;b") && svg.contains("&quot;q&quot;"),
            "{svg}"
        );
        assert!(!svg.contains("NaN"), "nothing is longer than zero: {svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn both_schemes_have_every_colour() {
        let (light, dark) = STYLE.split_once("@media (prefers-color-scheme: dark)").unwrap();
        for class in ["text ", ".quiet", ".ground", ".base", ".range", ".reference", ".other", ".ours"] {
            assert!(light.contains(class) && dark.contains(class), "{class}");
        }
    }
}
