//! `greway inspect`: the GRE packets of a capture, taken apart, and what a tunnel would do with them.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use greway_dialects::iproute2::{self, Verb};
use greway_inspect::{CaptureWriter, Inspection, Payload, Timestamp};
use greway_spec::{DeviceName, TunnelSpec};

use crate::output;
use crate::output::inspect::Tally;

/// How often progress is told, once a capture has taken as long.
const PROGRESS: Duration = Duration::from_secs(1);

/// `greway inspect`
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A capture, pcap or pcapng; `-` reads stdin (tcpdump -w - | greway inspect -)
    pub(crate) file: PathBuf,
    /// Say what this tunnel would do with each packet: the words of `ip tunnel`, in one argument
    #[arg(long, value_name = "WORDS")]
    pub(crate) tunnel: Option<String>,
    /// Write the decapsulated packets as a capture; with --tunnel those that it delivers
    #[arg(long, value_name = "OUT")]
    pub(crate) write: Option<PathBuf>,
    /// A line of JSON for each packet
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the verb. A capture that is cut or damaged is told to its last whole frame, and is a failure.
pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let tunnel = args.tunnel.as_deref().map(described).transpose()?;
    let shown = args.file.display().to_string();
    let (reader, read) = open(&args.file)?;
    let mut inspection = Inspection::new(reader, tunnel.as_ref()).with_context(|| shown.clone())?;
    let mut writer = args.write.as_deref().map(|out| create(out, &args.file)).transpose()?;
    let mut progress = Progress::new(&args.file, read);
    let mut tally = Tally::default();
    let mut last = None;
    let end = loop {
        let found = match inspection.next_packet() {
            Ok(Some(found)) => found,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        progress.told(tally.packets());
        tally.count(&found.record);
        let written = if args.json {
            output::inspect::json(&found.record)
        } else {
            output::inspect::packet(&found.record)
        };
        // A reader that went away wants no more.
        if written.is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        last = found.time;
        write(&mut writer, last, &found.payloads)?;
    };
    write(&mut writer, last, &inspection.rest())?;
    progress.end();
    if let Some((writer, out)) = writer {
        let count = writer.written();
        writer.finish().with_context(|| format!("cannot write {}", out.display()))?;
        output::note(&format!("{}: {count} packets", out.display()));
    }
    if !args.json {
        output::inspect::summary(&inspection.summary(), &tally);
    }
    end.with_context(|| shown)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes decapsulated packets, where that was asked for.
fn write(to: &mut Option<Output>, time: Option<Timestamp>, payloads: &[Payload]) -> anyhow::Result<()> {
    let Some((writer, out)) = to else { return Ok(()) };
    for (protocol_type, bytes) in payloads {
        let written = writer.write(time, *protocol_type, bytes);
        written.with_context(|| format!("cannot write {}", out.display()))?;
    }
    Ok(())
}

/// The tunnel in question. Its name does not matter here.
fn described(words: &str) -> anyhow::Result<TunnelSpec> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut draft = iproute2::parse_tunnel_words(&words, Verb::Add).context("--tunnel")?;
    if draft.name.is_none() {
        draft.name = Some("tun0".parse::<DeviceName>()?.into());
    }
    draft.into_carried_spec().context("--tunnel")
}

type Source = Box<dyn Read + Send>;

/// The file or stdin, and how many bytes of it were read.
fn open(path: &Path) -> anyhow::Result<(Source, Arc<AtomicU64>)> {
    let read = Arc::new(AtomicU64::new(0));
    let source: Source = if path == Path::new("-") {
        if io::stdin().is_terminal() {
            bail!("stdin is a terminal; a capture is read from a file or a pipe");
        }
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?)
    };
    Ok((Box::new(Counted { source, read: Arc::clone(&read) }), read))
}

/// A capture being written, and where.
type Output = (CaptureWriter<BufWriter<File>>, PathBuf);

fn create(out: &Path, from: &Path) -> anyhow::Result<Output> {
    let same = |path: &Path| std::fs::canonicalize(path).ok();
    if same(out).is_some_and(|out| same(from) == Some(out)) {
        bail!("--write {}: that is the capture being read; name another file", out.display());
    }
    let file = File::create(out).with_context(|| format!("cannot write {}", out.display()))?;
    let writer = CaptureWriter::new(BufWriter::new(file));
    Ok((writer.with_context(|| format!("cannot write {}", out.display()))?, out.to_owned()))
}

struct Counted {
    source: Source,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// How far it is, on a terminal that shows nothing else.
struct Progress {
    read: Arc<AtomicU64>,
    size: Option<u64>,
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    fn new(file: &Path, read: Arc<AtomicU64>) -> Self {
        let quiet = !io::stderr().is_terminal() || io::stdout().is_terminal();
        let size = std::fs::metadata(file).ok().map(|file| file.len());
        Self { read, size, next: (!quiet).then(|| Instant::now() + PROGRESS), shown: false }
    }

    fn told(&mut self, packets: u64) {
        let Some(next) = self.next else { return };
        let now = Instant::now();
        if now < next {
            return;
        }
        self.next = Some(now + PROGRESS);
        self.shown = true;
        let read = self.read.load(Ordering::Relaxed);
        let percent = self.size.filter(|size| *size > 0).map(|size| read.saturating_mul(100) / size);
        let percent = percent.map_or_else(String::new, |percent| format!(", {percent} %"));
        output::progress(&format!("{} MB{percent}, {packets} GRE packets", read / 1_000_000));
    }

    fn end(&self) {
        if self.shown {
            output::progress("");
        }
    }
}
