//! Cures are typed into a shell: what may be called anything is quoted where a shell would read something else
//! in it.

/// A word as `sh` takes it.
pub(super) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A device's name inside a rule of `nft`, which reads it once more (nft(8), lexical conventions).
pub(super) fn nft_name(name: &str) -> String {
    let letters = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(letters);
    if plain { name.to_owned() } else { word(&format!("\"{name}\"")) }
}

/// `sysctl` of a device: dots part a key, and devices have dots in their names (sysctl(8), `variable`).
pub(super) fn reverse_path_of(device: &str, value: u32) -> String {
    match device.contains('.') {
        true => format!("sysctl -w {}", word(&format!("net/ipv4/conf/{device}/rp_filter={value}"))),
        false => format!("sysctl -w {}", word(&format!("net.ipv4.conf.{device}.rp_filter={value}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_what_was_meant() {
        for text in
            ["tun0", "a b", "it's", "$(id)", "`id`", "a;b", "*", "\"x\"", "eth0.100", "né", "a\\b", "", "~"]
        {
            let line = format!("printf %s {}", word(text));
            let output = Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{line}");
        }
        assert_eq!(word("/etc/greway/tunnels.d/tun0.toml"), "/etc/greway/tunnels.d/tun0.toml");
    }

    #[test]
    fn nft_and_sysctl_have_rules_of_their_own() {
        assert_eq!(nft_name("tun0"), "tun0");
        assert_eq!(nft_name("0tun"), "'\"0tun\"'");
        assert_eq!(reverse_path_of("tun0", 2), "sysctl -w net.ipv4.conf.tun0.rp_filter=2");
        assert_eq!(reverse_path_of("eth0.100", 2), "sysctl -w net/ipv4/conf/eth0.100/rp_filter=2");
    }
}
