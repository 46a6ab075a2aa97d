//! `ip -batch FILE|-`: lines of ours among lines of the real tool's.
//!
//! Lines are read as they come, since a program may hold such an `ip` open and feed it. Lines that are not ours go
//! on to one child `ip … -b -` until one of ours comes: then the child is let finish, ours is done, and the next
//! foreign line starts another child. A child is first given as many empty lines as were read before, so that
//! its messages name the lines of the batch. A file without a line of ours is the real tool's whole.
//!
//! Words and lines are taken apart as iproute2 does (lib/utils.c `getcmdline`, `makeargs`, `do_batch`).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::thread;

use greway_dialects::iproute2::args::Concern;
use greway_dialects::iproute2::front::{self, Object};
use greway_dialects::iproute2::{link, neigh, tunnel};

use super::ours::Ours;
use super::show::Listing;
use super::{Call, Outcome, TOOL};
use crate::output as screen;

/// Runs a batch.
pub(super) fn run(call: &Call<'_>, file: &str) -> Outcome {
    if file == "-" {
        return Batch::new(call, file).run(io::stdin().lock());
    }
    // What cannot be read, or is read only once, is told by the real tool or read as it comes.
    let Ok(opened) = File::open(file) else { return Outcome::Real };
    if opened.metadata().is_ok_and(|at| at.is_file()) {
        let Ok(bytes) = std::fs::read(file) else { return Outcome::Real };
        return if may_be_ours(call, &bytes) {
            Batch::new(call, file).run(bytes.as_slice())
        } else {
            Outcome::Real
        };
    }
    Batch::new(call, file).run(BufReader::new(opened))
}

/// Whether any line of a batch may be ours.
fn may_be_ours(call: &Call<'_>, bytes: &[u8]) -> bool {
    let mut lines = Lines::new(bytes);
    while let Ok(Some(line)) = lines.next() {
        if line.words().is_some_and(|words| concerns_us(call, &words)) {
            return true;
        }
    }
    false
}

/// A batch at work.
struct Batch<'c> {
    call: &'c Call<'c>,
    file: &'c str,
    child: Option<Running>,
    /// Whether a line failed; with `-force` the batch goes on.
    failed: bool,
}

/// How a batch goes on after a line.
enum Next {
    On,
    /// The whole batch ends, with this exit code.
    End(u8),
}

/// The real tool, reading lines from us.
struct Running {
    child: Child,
    stdin: ChildStdin,
    /// Passes its errors on, with the batch's own name in them.
    errors: Option<thread::JoinHandle<()>>,
}

impl<'c> Batch<'c> {
    fn new(call: &'c Call<'c>, file: &'c str) -> Self {
        Self { call, file, child: None, failed: false }
    }

    fn run(mut self, input: impl BufRead) -> Outcome {
        let mut lines = Lines::new(input);
        loop {
            let before = lines.count;
            let next = match lines.next() {
                Ok(Some(line)) => self.line(&line, before),
                // The real tool ends a batch that cannot be read on as one that is over.
                Ok(None) | Err(_) => break,
            };
            if let Next::End(code) = next {
                return Outcome::Done(code);
            }
        }
        match self.finish_child() {
            Next::End(code) => Outcome::Done(code),
            Next::On => Outcome::Done(u8::from(self.failed)),
        }
    }

    fn line(&mut self, line: &Line, before: u32) -> Next {
        let Some(words) = line.words() else { return self.forward(line, before) };
        if words.is_empty() && self.child.is_none() {
            return Next::On;
        }
        if !concerns_us(self.call, &words) {
            return self.forward(line, before);
        }
        // What was there before this line is done before this line is.
        if let Next::End(code) = self.finish_child() {
            return Next::End(code);
        }
        match self.call.serve(front::parse_object(&words[0]), &words[1..]) {
            Outcome::Real => self.forward(line, before),
            Outcome::Exit(code) => Next::End(code),
            Outcome::Done(0) => Next::On,
            Outcome::Done(_) => {
                screen::raw_error(&format!("Command failed {}:{}\n", self.file, line.number));
                self.failed = true;
                if self.call.options.force { Next::On } else { Next::End(1) }
            }
        }
    }

    fn forward(&mut self, line: &Line, before: u32) -> Next {
        if self.child.is_none() {
            match self.start(before) {
                Ok(running) => self.child = Some(running),
                Err(reason) => {
                    screen::tool_error(TOOL, &reason);
                    return Next::End(127);
                }
            }
        }
        let written = self.child.as_mut().map(|running| running.stdin.write_all(&line.raw));
        match written {
            // It ended by itself: a line failed, and its exit code says how.
            Some(Err(_)) => match self.finish_child() {
                Next::On => Next::End(u8::from(self.failed)),
                end => end,
            },
            _ => Next::On,
        }
    }

    fn start(&self, before: u32) -> Result<Running, String> {
        let mut command = self.call.real(&["-b", "-"]).map_err(|error| error.to_string())?;
        let renames = self.file != "-";
        command.stdin(Stdio::piped());
        if renames {
            command.stderr(Stdio::piped());
        }
        let started = command.spawn();
        let mut child =
            started.map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))?;
        let errors = child.stderr.take().map(|errors| {
            let file = self.file.to_owned();
            thread::spawn(move || pass_on(BufReader::new(errors), &file))
        });
        let mut stdin = child.stdin.take().ok_or("no pipe to the real ip")?;
        // Should it have died, the next write tells.
        let _ = stdin.write_all("\n".repeat(before as usize).as_bytes());
        Ok(Running { child, stdin, errors })
    }

    /// Lets the child read to the end of what it was given.
    fn finish_child(&mut self) -> Next {
        let Some(Running { mut child, stdin, errors }) = self.child.take() else { return Next::On };
        drop(stdin);
        let status = child.wait();
        if let Some(errors) = errors {
            // A panic there was told of already.
            let _ = errors.join();
        }
        let code = status.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
        match code {
            Some(0) => Next::On,
            Some(1) if self.call.options.force => {
                self.failed = true;
                Next::On
            }
            code => Next::End(code.unwrap_or(u8::MAX)),
        }
    }
}

/// Whether a line is ours, as things are now.
fn concerns_us(call: &Call<'_>, words: &[String]) -> bool {
    let Some((object, words)) = words.split_first() else { return false };
    let concern = match front::parse_object(object) {
        Object::Tunnel => tunnel::concern(words, call.options.family),
        Object::Link => match (Listing::of(words), super::link::deleted(words)) {
            (Some(listing), _) => listing.concern(call),
            (None, Some(name)) => Concern::Named(name.to_owned()),
            (None, None) => link::concern(words),
        },
        Object::Address => {
            Listing::of_addresses(words).map_or(Concern::None, |listing| listing.concern(call))
        }
        Object::Neighbour => {
            neigh::parse(words).map_or(Concern::None, |found| Concern::Named(found.dev.to_owned()))
        }
        Object::Route | Object::Other => Concern::None,
    };
    match concern {
        Concern::None => false,
        Concern::Gre => true,
        Concern::Named(name) => call.enter() && Ours::read().find(&name).is_some(),
        Concern::List => call.enter() && !Ours::read().is_empty(),
    }
}

/// Copies the child's errors, with the name of the file for the `-` that it reads.
fn pass_on(mut errors: impl BufRead, file: &str) {
    let mut line = Vec::new();
    while errors.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line);
        match text.strip_prefix("Command failed -:") {
            Some(rest) => screen::raw_error(&format!("Command failed {file}:{rest}")),
            None => screen::raw_error(&text),
        }
        line.clear();
    }
}

/// A line, with those that continue it.
struct Line {
    /// As it was read.
    raw: Vec<u8>,
    /// Without comments and line ends that are escaped.
    text: String,
    /// The number of its last line, from 1.
    number: u32,
}

impl Line {
    /// The words; `None` where the real tool gives up.
    fn words(&self) -> Option<Vec<String>> {
        let blank = |character: char| matches!(character, ' ' | '\t' | '\r' | '\n');
        let mut words = Vec::new();
        let mut rest = self.text.trim_start_matches(blank);
        while let Some(first) = rest.chars().next() {
            let (word, after) = if matches!(first, '\'' | '"') {
                rest[1..].split_once(first)?
            } else {
                let end = rest.find(blank).unwrap_or(rest.len());
                (&rest[..end], rest.get(end + 1..).unwrap_or_default())
            };
            words.push(word.to_owned());
            rest = after.trim_start_matches(blank);
        }
        Some(words)
    }
}

/// The lines of a batch.
struct Lines<R> {
    input: R,
    /// How many were read.
    count: u32,
}

impl<R: BufRead> Lines<R> {
    fn new(input: R) -> Self {
        Self { input, count: 0 }
    }

    fn next(&mut self) -> io::Result<Option<Line>> {
        let mut raw = Vec::new();
        let Some(mut text) = self.read(&mut raw)? else { return Ok(None) };
        while let Some(at) = text.find("\\\n") {
            text.truncate(at);
            // "Missing continuation line": the real tool says so when it gets what there is.
            let Some(more) = self.read(&mut raw)? else { break };
            text.push_str(&more);
        }
        Ok(Some(Line { raw, text, number: self.count }))
    }

    /// One line into `raw`, and its text up to a comment.
    fn read(&mut self, raw: &mut Vec<u8>) -> io::Result<Option<String>> {
        let before = raw.len();
        if self.input.read_until(b'\n', raw)? == 0 {
            return Ok(None);
        }
        self.count += 1;
        let text = String::from_utf8_lossy(&raw[before..]).into_owned();
        Ok(Some(text.split('#').next().unwrap_or_default().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(Option<Vec<String>>, u32, String)> {
        let mut lines = Lines::new(text.as_bytes());
        let mut read = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            read.push((line.words(), line.number, String::from_utf8(line.raw).unwrap()));
        }
        read
    }

    #[test]
    fn lines_are_taken_apart_as_iproute2_does() {
        let words = |text: &str| lines(text)[0].0.clone().map(|words| words.join("|"));
        assert_eq!(words("link  set\tlo up\n").as_deref(), Some("link|set|lo|up"));
        assert_eq!(words("link set lo alias 'a b' # c\n").as_deref(), Some("link|set|lo|alias|a b"));
        assert_eq!(words("link set lo alias \"\"up").as_deref(), Some("link|set|lo|alias||up"));
        assert_eq!(words("# only\n").as_deref(), Some(""));
        assert_eq!(words("link set 'lo\n"), None);
        assert_eq!(words("addr add \\\n 1.2.3.4 \\\n dev lo\n").as_deref(), Some("addr|add|1.2.3.4|dev|lo"));
    }

    #[test]
    fn a_line_has_the_number_of_its_last_part_and_is_kept_as_it_was() {
        let read = lines("a\n\nb \\\n c # d\ne");
        assert_eq!(read.iter().map(|line| line.1).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!(read[2].2, "b \\\n c # d\n");
    }

    #[test]
    fn which_files_are_ours() {
        let is_ours = |options: &str, text: &str| {
            let words = options.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let front = front::parse_front(&words).unwrap();
            may_be_ours(&Call { options: &front.options, globals: &words }, text.as_bytes())
        };
        assert!(!is_ours("", "route add 10.0.0.0/8 dev lo\n# tunnel\naddr add 1.2.3.4 dev lo\nlink show\n"));
        assert!(!is_ours("", "tunnel add x mode ipip remote 1.2.3.4\nlink set lo up\nlink show type veth\n"));
        assert!(is_ours("", "route add 10.0.0.0/8 dev lo\ntun add tun0 mode gre remote 1.2.3.4\n"));
        assert!(is_ours("", "addr show\n link a gre1 type gretap remote 1.2.3.4 # here"));
    }
}
