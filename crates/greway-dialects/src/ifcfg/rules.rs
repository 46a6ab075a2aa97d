//! `rule-NAME` and `rule6-NAME`: each line is what stands after `ip rule add`.

use std::path::Path;
use std::sync::Arc;

use greway_spec::{DeviceName, Given, InnerRule, Span};

use super::rule_words;
use super::tables::Tables;
use super::words::lines;
use crate::diagnostic::Diagnostic;

/// The rules of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// For [`greway_spec::Draft::rules`].
    pub rules: Vec<Given<InnerRule>>,
}

/// Reads the `rule-NAME` (or `rule6-NAME`) file of `device`. `tables` are the host's names for routing
/// tables.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse_rules(
    text: &str,
    device: &DeviceName,
    file: &str,
    tables: &Tables,
) -> Result<Rules, Diagnostic> {
    let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
    let ipv6 = name.starts_with("rule6-");
    let shared: Arc<str> = Arc::from(file);
    let mut rules = Rules::default();
    for (line, words) in lines(text) {
        let rule = rule_words::parse(words, Some(ipv6), tables).map_err(|wrong| {
            Diagnostic::at(file, line, wrong.column, format!("tunnel {device}: rule: {}", wrong.message))
        })?;
        let column = words.chars().take_while(|c| c.is_whitespace()).count() as u32 + 1;
        let place = Span::File { file: Arc::clone(&shared), line, column };
        rules.rules.push(Given::at(rule, place));
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str, file: &str) -> Result<Vec<String>, String> {
        let mut tables = Tables::default();
        tables.extend("100 vpn\n");
        let tun0 = DeviceName::try_from("tun0".to_owned()).map_err(|error| error.to_string())?;
        let rules = parse_rules(text, &tun0, file, &tables).map_err(|error| error.to_string())?.rules;
        Ok(rules.iter().map(|rule| rule.value.to_string()).collect())
    }

    #[test]
    fn a_line_a_rule() {
        let text = "# to the other side\n\nfrom 10.10.1.0/24 table vpn\n  iif tun0 lookup 200 priority 9\n";
        let expected = ["from 10.10.1.0/24 table 100", "from all iif tun0 priority 9 table 200"];
        assert_eq!(rules(text, "rule-tun0").unwrap(), expected);
    }

    #[test]
    fn of_the_files_family_and_refused_with_the_place() {
        assert!(rules("from all table 1", "rule6-tun0").is_ok());
        for (text, file, place, part) in [
            ("from fd00::/8 table 1", "rule-tun0", "1:6", "an IPv4 prefix is right here"),
            ("\n from 10.0.0.0/8 table 1", "d/rule6-tun0", "2:7", "an IPv6 prefix is right here"),
            ("from 10.0.0.0/8 table dsl", "rule-tun0", "1:23", "rt_tables"),
            ("from 10.0.0.0/8 goto 5", "rule-tun0", "1:17", "\"goto\" is not there"),
        ] {
            let message = rules(text, file).expect_err(text);
            assert!(message.starts_with(&format!("{file}:{place}: tunnel tun0: ")), "{message}");
            assert!(message.contains(part), "{message}");
        }
    }
}
