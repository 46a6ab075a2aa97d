//! The words between a test and the agent in a machine (`qemu/agent.pl`), over a stream socket that QEMU connects to a
//! virtio-serial port. Knows neither QEMU nor what a machine is.

use std::io::{self, Read, Write};
use std::time::Duration;

use crate::Deadline;
use crate::uml::CommandOutput;

/// A stream whose reads can be given a time. A Unix socket, but for the tests below.
pub(super) trait Timed: Read + Write {
    /// Has a read fail after this long.
    fn limit(&self, time: Duration) -> io::Result<()>;
}

impl Timed for std::os::unix::net::UnixStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time.max(Duration::from_millis(1))))
    }
}

/// What went wrong, with what the command printed until then.
#[derive(Debug)]
pub(super) enum Broken {
    /// Nothing more came within the time.
    TimedOut { printed: String },
    /// The other side is gone, or speaks nonsense.
    Ended { why: io::Error, printed: String },
}

/// The test's end of the port.
#[derive(Debug)]
pub(super) struct Channel<S> {
    stream: S,
    received: Vec<u8>,
}

impl<S: Timed> Channel<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, received: Vec::new() }
    }

    /// Waits for the agent of a machine that has just booted; gives the kernel's boot id. What an agent before it had
    /// still to say is passed over.
    pub(super) fn hello(&mut self, deadline: &Deadline) -> Result<String, Broken> {
        loop {
            let line = self.line(deadline).map_err(|why| broken(why, &[]))?;
            // The agent's first line may follow what the one before it did not finish.
            if let Some((_, id)) = line.rsplit_once("HELLO ") {
                return Ok(id.to_owned());
            }
        }
    }

    /// Runs a script to its end.
    pub(super) fn run(&mut self, script: &str, deadline: &Deadline) -> Result<CommandOutput, Broken> {
        self.send(format!("RUN {}\n", script.len()).as_bytes(), script.as_bytes())?;
        self.answer(deadline)
    }

    /// Makes a file; its mode in octal digits. The status is 0 when it is there.
    pub(super) fn put(
        &mut self,
        path: &str,
        mode: u32,
        data: &[u8],
        deadline: &Deadline,
    ) -> Result<CommandOutput, Broken> {
        self.send(format!("PUT {} {mode:o} {path}\n", data.len()).as_bytes(), data)?;
        self.answer(deadline)
    }

    fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), Broken> {
        let sent = self.stream.write_all(head).and_then(|()| self.stream.write_all(body));
        sent.map_err(|why| broken(why, &[]))
    }

    fn answer(&mut self, deadline: &Deadline) -> Result<CommandOutput, Broken> {
        let mut printed = Vec::new();
        loop {
            let line = self.line(deadline).map_err(|why| broken(why, &printed))?;
            match parse(&line) {
                Some(Word::Output(length)) => {
                    while self.received.len() < length {
                        self.receive(deadline).map_err(|why| broken(why, &printed))?;
                    }
                    printed.extend(self.received.drain(..length));
                }
                Some(Word::Done(status)) => {
                    return Ok(CommandOutput {
                        status,
                        text: String::from_utf8_lossy(&printed).into_owned(),
                    });
                }
                None => {
                    let why = io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("`{line}` is no word of the agent"),
                    );
                    return Err(broken(why, &printed));
                }
            }
        }
    }

    fn line(&mut self, deadline: &Deadline) -> io::Result<String> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.receive(deadline)?;
        }
    }

    fn receive(&mut self, deadline: &Deadline) -> io::Result<()> {
        if deadline.passed() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.limit(deadline.remaining())?;
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }
}

fn broken(why: io::Error, printed: &[u8]) -> Broken {
    let printed = String::from_utf8_lossy(printed).into_owned();
    match why.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Broken::TimedOut { printed },
        _ => Broken::Ended { why, printed },
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// So many bytes that the command printed follow.
    Output(usize),
    /// The command ended with this status.
    Done(i32),
}

fn parse(line: &str) -> Option<Word> {
    match line.split_once(' ')? {
        ("OUT", length) => length.parse().ok().map(Word::Output),
        ("DONE", status) => status.parse().ok().map(Word::Done),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that has said all it will ever say, and hands it over in pieces of `step` bytes.
    struct Said {
        text: Vec<u8>,
        step: usize,
        heard: Vec<u8>,
    }

    impl Read for Said {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.step.min(self.text.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.text[..count]);
            self.text.drain(..count);
            Ok(count)
        }
    }

    impl Write for Said {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.heard.extend(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Timed for Said {
        fn limit(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }
    }

    fn channel(text: &[u8], step: usize) -> Channel<Said> {
        Channel::new(Said { text: text.to_vec(), step, heard: Vec::new() })
    }

    fn soon() -> Deadline {
        Deadline::within(Duration::from_secs(10))
    }

    #[test]
    fn output_is_kept_as_it_was_written_however_it_is_cut() {
        for step in [1, 3, 1000] {
            let mut channel = channel(b"OUT 9\nDONE 0\n\n\nOUT 1\nxDONE 7\n", step);
            let output = channel.run("exit 7", &soon()).unwrap();
            assert_eq!((output.status, output.text.as_str()), (7, "DONE 0\n\n\nx"));
            assert_eq!(channel.stream.heard, b"RUN 6\nexit 7");
        }
    }

    #[test]
    fn files_go_with_length_and_octal_mode() {
        let mut channel = channel(b"DONE 0\n", 100);
        assert_eq!(channel.put("/a b", 0o644, b"1\n2", &soon()).unwrap().status, 0);
        assert_eq!(channel.stream.heard, b"PUT 3 644 /a b\n1\n2");
    }

    #[test]
    fn what_the_last_boot_left_unsaid_is_passed_over() {
        let mut channel = channel(b"OUT 5\nhalHELLO 12-34\nDONE 0\n", 4);
        assert_eq!(channel.hello(&soon()).unwrap(), "12-34");
        assert_eq!(channel.run("", &soon()).unwrap().status, 0);
    }

    #[test]
    fn an_end_and_nonsense_are_told_with_what_was_printed() {
        let error = channel(b"OUT 3\nabc", 100).run("", &soon()).unwrap_err();
        assert!(matches!(&error, Broken::Ended { printed, .. } if printed == "abc"), "{error:?}");
        let error = channel(b"OUT x\n", 100).run("", &soon()).unwrap_err();
        assert!(
            matches!(&error, Broken::Ended { why, .. } if why.to_string().contains("OUT x")),
            "{error:?}"
        );
        let error = channel(b"", 1).run("", &Deadline::within(Duration::ZERO)).unwrap_err();
        assert!(matches!(error, Broken::TimedOut { .. }), "{error:?}");
    }
}
