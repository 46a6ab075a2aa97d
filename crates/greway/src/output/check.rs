//! What a check found, as people read it: the sentence, what was seen, and the command to type.

use std::io::IsTerminal;

use greway_control::check::{Checked, Finding, LookState, Place, Severity};
use serde::Serialize;

use super::line;

/// The JSON of `greway check --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    /// Each tunnel that was checked.
    pub(crate) tunnels: &'a [Checked],
    /// Whether anything was found that is more than a remark; the exit code says the same.
    pub(crate) found: bool,
}

/// Prints what was found.
pub(crate) fn print(checked: &[Checked]) {
    if checked.is_empty() {
        line("no tunnels, and no file defines one: nothing to check");
    }
    let paint = Paint::of_stdout();
    for (number, tunnel) in checked.iter().enumerate() {
        if number > 0 {
            line("");
        }
        print_tunnel(tunnel, paint);
    }
}

fn print_tunnel(tunnel: &Checked, paint: Paint) {
    let name = &tunnel.name;
    let found = tunnel.findings.iter().filter(|finding| finding.severity > Severity::Note).count();
    match found {
        0 => line(&format!("{name} {}", paint.good("nothing found that would stop traffic"))),
        1 => line(&format!("{name} 1 finding")),
        many => line(&format!("{name} {many} findings")),
    }
    for finding in &tunnel.findings {
        print_finding(finding, paint);
    }
    let not_looked =
        tunnel.looks.iter().filter(|look| look.state == LookState::NotLooked).collect::<Vec<_>>();
    let looked = tunnel.looks.len() - not_looked.len();
    if not_looked.is_empty() {
        return;
    }
    line(&format!("  looked at {looked} of {}; not looked at:", tunnel.looks.len()));
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for look in not_looked {
        let reason = look.reason.as_deref().unwrap_or_default();
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, ids)) => ids.push(&look.id),
            None => reasons.push((reason, vec![&look.id])),
        }
    }
    for (reason, ids) in reasons {
        line(&format!("    {}: {reason}", ids.join(", ")));
    }
}

fn print_finding(finding: &Finding, paint: Paint) {
    let word = finding.severity.word();
    line(&format!("  {} {}", paint.severity(finding.severity, &format!("{word:<8}")), finding.sentence));
    for evidence in &finding.evidence {
        line(&format!("           seen: {evidence}"));
    }
    for cure in &finding.cure {
        line(&format!("           cure{}: {}", place(cure.place), paint.command(&cure.command)));
    }
}

/// How a place is said.
pub(crate) fn place(place: Place) -> &'static str {
    match place {
        Place::Here => "",
        Place::FarEnd => " (on the far end)",
        Place::Behind => " (on the host behind)",
    }
}

/// Colours, on a terminal that wants them.
#[derive(Clone, Copy, Debug)]
struct Paint {
    on: bool,
}

impl Paint {
    fn of_stdout() -> Self {
        // https://no-color.org
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { on: !unwanted && std::io::stdout().is_terminal() }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn severity(self, severity: Severity, text: &str) -> String {
        self.wrap(
            match severity {
                Severity::Stops => "1;31",
                Severity::Hinders => "1;33",
                Severity::Note => "36",
            },
            text,
        )
    }

    fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    fn command(self, text: &str) -> String {
        self.wrap("1", text)
    }
}
