//! greway.toml(5) out of docs/files.md, so that there is one text and not two.
//!
//! It knows the markdown that our documents use: headings, paragraphs, lists, fences, tables, and inside a line code,
//! emphasis and links. Anything else comes out as it is.

/// The page, in the man macros (man(7)).
pub(super) fn page(markdown: &str) -> String {
    let mut out = String::from(
        ".TH greway.toml 5 \"\" greway \"File Formats\"\n.SH NAME\ngreway.toml \\- files that describe GRE tunnels\n\
         .SH DESCRIPTION\n",
    );
    let mut fenced = false;
    // Whether the last line was a table's, and which of its rows.
    let mut row = 0;
    for line in markdown.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            out.push_str(if fenced { ".PP\n.RS 4\n.nf\n" } else { ".fi\n.RE\n" });
            continue;
        }
        if fenced {
            out.push_str(&guarded(&line.replace('\\', "\\e")));
            continue;
        }
        let is_row = line.starts_with('|');
        row = if is_row { row + 1 } else { 0 };
        match line {
            "" => out.push_str(".PP\n"),
            // Its title is the page's; the head of a table and the line below it say nothing without columns.
            _ if line.starts_with("# ") || matches!(row, 1 | 2) => {}
            _ if is_row => {
                let mut cells = line.trim_matches('|').split(" | ").map(|cell| inline(cell.trim()));
                let first = cells.next().unwrap_or_default();
                let rest = cells.filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(". Default: ");
                out.push_str(&format!(".TP\n{}{}", guarded(&first), guarded(&rest)));
            }
            _ if line.starts_with("## ") => {
                out.push_str(&format!(".SH \"{}\"\n", inline(&line[3..]).to_uppercase()));
            }
            _ if line.starts_with("### ") => out.push_str(&format!(".SS \"{}\"\n", inline(&line[4..]))),
            _ => match line.strip_prefix("- ") {
                Some(item) => out.push_str(&format!(".IP \\(bu 2\n{}", guarded(&inline(item)))),
                None => out.push_str(&guarded(&inline(line.trim_start()))),
            },
        }
    }
    out.push_str(".SH SEE ALSO\n.BR greway (1),\n.BR greway-up (1),\n.BR greway-import (1)\n");
    out
}

/// A line that no macro is read from.
fn guarded(line: &str) -> String {
    let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
    format!("{guard}{line}\n")
}

/// Code and emphasis in bold, links as their text.
fn inline(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace("**", "`");
    let mut out = String::new();
    let mut bold = false;
    let mut rest = text.as_str();
    while let Some(next) = rest.chars().next() {
        rest = &rest[next.len_utf8()..];
        match next {
            '`' => {
                bold = !bold;
                out.push_str(if bold { "\\fB" } else { "\\fR" });
            }
            '[' if !bold => {
                match rest.split_once("](").and_then(|(words, after)| Some((words, after.split_once(')')?))) {
                    Some((words, (_, after))) if !words.contains(']') => {
                        out.push_str(words);
                        rest = after;
                    }
                    _ => out.push('['),
                }
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_markdown_has_its_macros() {
        let page = page(
            "# Files\n\nA [file](files.md) of `TYPE=GRE`.\n.not a macro\n\n## TOML\n\n```toml\nkey = \"a\\b\"\n```\n\n\
             | key | value | default |\n|---|---|---|\n| `ttl` | 1 to 255 | `\"inherit\"` |\n| `x` | y | |\n\n- one-two\n",
        );
        for part in [
            "A file of \\fBTYPE=GRE\\fR.\n\\&.not a macro\n",
            ".SH \"TOML\"\n",
            ".nf\nkey = \"a\\eb\"\n.fi\n",
            ".TP\n\\fBttl\\fR\n1 to 255. Default: \\fB\"inherit\"\\fR\n",
            ".TP\n\\fBx\\fR\ny\n",
            ".IP \\(bu 2\none\\-two\n",
        ] {
            assert!(page.contains(part), "{part}\n--\n{page}");
        }
        assert!(!page.contains("default |") && !page.contains("---"), "{page}");
    }

    #[test]
    fn brackets_that_are_no_link_stay() {
        assert_eq!(inline("`[inner]` and [a] and [b](c)"), "\\fB[inner]\\fR and [a] and b");
    }
}
