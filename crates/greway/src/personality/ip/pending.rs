//! `ip address|route add … dev NAME` a moment before NAME is there.
//!
//! The guide's `nmcli connection add …` returns before its tunnel exists, and its next line is `ip route add …
//! dev tun0`. Where the watcher of NetworkManager's profiles announced that it is making the device, that command
//! waits for it ([`nm::pending`]); where no watcher runs, nothing is waited for.

use greway_dialects::iproute2::args::begins;

use super::{Call, Outcome, ours};
use crate::nm;

/// Verbs of `ip address` and `ip route` that put something on a device.
const VERBS: [&str; 5] = ["add", "change", "replace", "prepend", "append"];

/// Waits for the device that a command names, where it was announced. The command is the real tool's in any case.
pub(super) fn wait_for_device(call: &Call<'_>, words: &[String]) -> Outcome {
    if let Some(name) = device(words)
        && call.enter()
        && let Some(location) = ours::location()
    {
        // Whatever came of it: the real tool says what is missing.
        let _ = nm::pending::wait(&location, name);
    }
    Outcome::Real
}

fn device(words: &[String]) -> Option<&str> {
    let (verb, words) = words.split_first()?;
    if !VERBS.iter().any(|whole| begins(verb, whole)) {
        return None;
    }
    let at = words.iter().position(|word| word == "dev")?;
    words.get(at + 1).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_of_what_puts_something_there() {
        let device = |text: &str| {
            let words = text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            device(&words).map(str::to_owned)
        };
        assert_eq!(device("add 10.10.2.0/24 dev tun0").as_deref(), Some("tun0"));
        assert_eq!(device("a 172.16.0.1/30 peer 172.16.0.2/30 dev tun0 scope link").as_deref(), Some("tun0"));
        assert_eq!(device("show dev tun0"), None);
        assert_eq!(device("del 10.10.2.0/24 dev tun0"), None);
        assert_eq!(device("add 10.10.2.0/24 dev"), None);
        assert_eq!(device("add 10.10.2.0/24 via 172.16.0.2"), None);
        assert_eq!(device(""), None);
    }
}
