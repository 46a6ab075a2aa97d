//! Words for a POSIX shell. Every line that is printed to be pasted is made with it.

/// A word as a shell reads it back: as it is where nothing in it means anything to a shell, else in quotes.
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_said() {
        for text in [
            "",
            "tun0",
            "a b",
            "it's",
            "$(id);`id`",
            "a\nb",
            "*",
            "~root",
            "a=b",
            "\\",
            "#x",
            "ä\u{feff}",
            "''",
        ] {
            let script = format!("printf %s {}", word(text));
            let done = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(done.stdout).unwrap(), text, "{script}");
        }
        assert_eq!(word("172.16.0.1/30,fd00::1"), "172.16.0.1/30,fd00::1");
    }
}
