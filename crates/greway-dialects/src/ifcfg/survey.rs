//! What a file is about, told without reading it in earnest.
//!
//! `ifup` looks through all files for a name, most of which are about other things and may be any shell.
//! So lines that are no plain assignment are passed over here; that such a line is refused is for
//! [`super::parse_files`], and only where the file is about a tunnel.

use super::lexer;
use super::map::is_false;

/// What can be told of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Its TYPE.
    pub kind: Kind,
    /// Its DEVICE, where one is set.
    pub device: Option<String>,
    /// Its NAME, where one is set.
    pub name: Option<String>,
    /// Whether it is to start at boot: all but a false word in ONBOOT.
    pub onboot: bool,
    /// Whether it is to start when its device appears: all but a false word in HOTPLUG.
    pub hotplug: bool,
}

/// Whose business a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `TYPE=GRE`.
    Gre,
    /// `TYPE=GRE6`.
    Gre6,
    /// Any other type or none: not ours.
    Other,
}

/// Looks through the text of an `ifcfg` file. As with bash the last assignment holds.
pub fn survey(text: &str) -> Survey {
    let mut survey = Survey { kind: Kind::Other, device: None, name: None, onboot: true, hotplug: true };
    // With a byte order mark it is no file that can be read, and about what it is about all the same.
    for (name, value) in lexer::plain(text.trim_start_matches('\u{feff}')) {
        let given = Some(value.clone()).filter(|value| !value.is_empty());
        match name.as_str() {
            "TYPE" => {
                survey.kind = match value.as_str() {
                    "GRE" => Kind::Gre,
                    "GRE6" => Kind::Gre6,
                    _ => Kind::Other,
                }
            }
            "DEVICE" => survey.device = given,
            "NAME" => survey.name = given,
            "ONBOOT" => survey.onboot = !is_false(&value),
            "HOTPLUG" => survey.hotplug = !is_false(&value),
            _ => {}
        }
    }
    survey
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_shell_around_it() {
        let text = "if [ -x /bin/id ]; then\n  TYPE=GRE\nfi\nDEVICE=\"tun0\" # mine\nKEY=$(cat k)\nNAME='to B'\nONBOOT=No\n";
        let expected = Survey {
            kind: Kind::Gre,
            device: Some("tun0".to_owned()),
            name: Some("to B".to_owned()),
            onboot: false,
            hotplug: true,
        };
        assert_eq!(survey(text), expected);
    }

    #[test]
    fn whose_business() {
        for (text, kind) in [
            ("TYPE=GRE", Kind::Gre),
            ("TYPE=\"GRE6\"", Kind::Gre6),
            ("export TYPE=GRE", Kind::Gre),
            ("TYPE=gre", Kind::Other),
            ("TYPE=Ethernet", Kind::Other),
            ("TYPE=GRE\nTYPE=SIT", Kind::Other),
            ("# TYPE=GRE", Kind::Other),
            ("TYPE=GRE\r\n", Kind::Gre),
            ("\u{feff}TYPE=GRE\n", Kind::Gre),
            ("", Kind::Other),
        ] {
            assert_eq!(survey(text).kind, kind, "{text}");
        }
    }
}
