//! Pings from inside a guest, by its ping program (iputils): a guest has no program of ours.

use std::net::IpAddr;
use std::time::Duration;

use super::UmlGuest;
use crate::{Error, PingOptions};

/// What the guest's ping program counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPing {
    /// Requests sent.
    pub sent: u16,
    /// Requests answered.
    pub received: u16,
    /// All that it printed.
    pub text: String,
}

impl UmlGuest {
    /// Pings `destination` from the guest; of `options`, `interval` is taken as 0.2 s when not given, which is the
    /// shortest that every ping program allows.
    ///
    /// # Errors
    /// [`Error::Guest`] when the program cannot be run, [`Error::TimedOut`] when it does not end.
    pub fn ping(&mut self, destination: IpAddr, options: &PingOptions) -> Result<GuestPing, Error> {
        let PingOptions { count, size, tos, .. } = *options;
        let interval = options.interval.unwrap_or(Duration::from_millis(200));
        let discovery = if options.df { "do" } else { "dont" };
        let mut script = format!(
            "exec ping -n -c {count} -s {size} -Q {tos} -M {discovery} -i {:.3} -W {:.3}",
            interval.as_secs_f64(),
            options.timeout.as_secs_f64(),
        );
        if let Some(source) = options.source {
            script += &format!(" -I {source}");
        }
        if let Some(ttl) = options.ttl {
            script += &format!(" -t {ttl}");
        }
        script += &format!(" {destination}");
        let within = (interval + options.timeout) * u32::from(count) + Duration::from_secs(10);
        let output = self.try_run(&script, within)?;
        match parse(&output.text) {
            Some((sent, received)) => Ok(GuestPing { sent, received, text: output.text }),
            None => Err(Error::Guest { guest: self.name.clone(), what: script, output: output.text }),
        }
    }
}

/// `3 packets transmitted, 2 received, …` or `3 packets transmitted, 0 received, +3 errors, …`.
fn parse(text: &str) -> Option<(u16, u16)> {
    let line = text.lines().find(|line| line.contains(" packets transmitted, "))?;
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_line_is_read() {
        let text = "PING 10.0.0.1 56(84) bytes of data.\n\n--- 10.0.0.1 ping statistics ---\n\
                    3 packets transmitted, 2 received, 33.3333% packet loss, time 403ms\n";
        assert_eq!(parse(text), Some((3, 2)));
        let text = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2043ms";
        assert_eq!(parse(text), Some((3, 0)));
        assert_eq!(parse("ping: connect: Network is unreachable"), None);
    }
}
