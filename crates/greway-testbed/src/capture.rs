//! What really was on the wire: every frame of a device in both directions, taken by a packet socket before any
//! rule of the host sees it.
//!
//! Each frame comes with the state of its checksum, since on a veth a transport checksum that was left
//! to the device is never filled in (a capture that ignores this cries wolf). Nothing is interpreted here.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use greway_linux::batch::{PacketKind, ReceiveBatch, Source};
use greway_linux::event::{Events, Interest, Poller, Waker};
use greway_linux::packet::{Config, PacketSocket, Protocol};
use rustix::net::SendFlags;

use crate::{Deadline, Error, Host, build, pcap};

/// Where a test's pcap files go; the directory for temporary files otherwise.
pub const DIRECTORY: &str = "GREWAY_PCAP_DIR";
/// The next-header value of IPv6 destination options (RFC 8200 §4.6).
const DESTINATION_OPTIONS: u8 = 60;
const SOCKET: u64 = 0;
const WAKER: u64 = 1;
/// Frames taken with one system call.
const BATCH: usize = 32;
/// The largest frame: what a 64 KiB super-packet and its link header come to.
const LONGEST: usize = 65_536 + 64;
const RECEIVE_BUFFER: usize = 16 << 20;

/// A frame as it was seen.
#[derive(Clone, PartialEq, Eq)]
pub struct CapturedPacket {
    /// When this program took it from the kernel.
    pub time: SystemTime,
    /// Whether this host sent it.
    pub outgoing: bool,
    /// The Ethernet frame without VLAN tag and check sequence.
    pub frame: Vec<u8>,
    /// The transport checksum is left to the device, and what the frame holds in its place is no checksum.
    pub checksum_not_ready: bool,
    /// The 802.1Q tag that the kernel took off, as TCI.
    pub vlan: Option<u16>,
}

impl CapturedPacket {
    /// The ethertype.
    pub fn ethertype(&self) -> u16 {
        self.frame.get(12..14).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What follows the Ethernet header.
    pub fn payload(&self) -> &[u8] {
        self.frame.get(14..).unwrap_or_default()
    }

    /// The IP protocol of an IPv4 packet or the next header of an IPv6 packet.
    pub fn protocol(&self) -> Option<u8> {
        match self.ethertype() {
            0x0800 => self.payload().get(9).copied(),
            0x86dd => self.payload().get(6).copied(),
            _ => None,
        }
    }

    /// The GRE header and what follows it, of an IPv4 or IPv6 packet that carries GRE and is no later fragment. An
    /// IPv6 destination options header before it is skipped: Linux puts the tunnel encapsulation limit there.
    pub fn gre(&self) -> Option<&[u8]> {
        let payload = self.payload();
        match (self.ethertype(), self.protocol()?) {
            (0x0800, build::GRE) if u16::from_be_bytes([payload[6], payload[7]]) & 0x1fff != 0 => None,
            (0x0800, build::GRE) => payload.get(usize::from(payload[0] & 0x0f) * 4..),
            (0x86dd, build::GRE) => payload.get(40..),
            (0x86dd, DESTINATION_OPTIONS) if payload.get(40) == Some(&build::GRE) => {
                payload.get(40 + (usize::from(*payload.get(41)?) + 1) * 8..)
            }
            _ => None,
        }
    }
}

impl fmt::Debug for CapturedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.outgoing { "out" } else { "in" };
        write!(f, "{direction} {} bytes:", self.frame.len())?;
        self.frame.iter().take(96).try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

/// A running capture of one device. It sees all frames from the moment [`Capture::start`] returns.
#[derive(Debug)]
pub struct Capture {
    object: String,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    packets: Vec<CapturedPacket>,
    failed: Option<String>,
    lost: u32,
}

impl Capture {
    /// Starts to capture `dev` of `host`.
    ///
    /// # Errors
    /// [`Error::System`] when there is no such device or packet sockets are refused.
    pub fn start(host: &Host, dev: &str) -> Result<Self, Error> {
        let object = format!("{}: {dev}", host.name());
        let ifindex = host.index(dev)?;
        let config = Config {
            protocol: Protocol::All,
            ifindex: Some(ifindex),
            receive_buffer: Some(RECEIVE_BUFFER),
            ..Config::default()
        };
        let socket = host
            .run(|| PacketSocket::open(&config))?
            .map_err(|error| Error::system(&object, "capture it")(io::Error::other(error)))?;
        let waker = Waker::new().map_err(Error::system(&object, "make a waker"))?;
        let stop = waker.try_clone().map_err(Error::system(&object, "make a waker"))?;
        let poller = Poller::new().map_err(Error::system(&object, "make a poller"))?;
        poller
            .add(&socket, SOCKET, Interest::Readable)
            .map_err(Error::system(&object, "watch the socket"))?;
        poller.add(&stop, WAKER, Interest::Readable).map_err(Error::system(&object, "watch the waker"))?;
        let shared = Arc::new(Shared::default());
        let receiver = Receiver { socket, poller, stop, shared: Arc::clone(&shared) };
        let thread = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || receiver.run())
            .map_err(Error::system(&object, "start a thread"))?;
        Ok(Self { object, shared, waker, thread: Some(thread) })
    }

    /// What has been captured so far, in order.
    pub fn packets(&self) -> Vec<CapturedPacket> {
        self.shared.lock().packets.clone()
    }

    /// What has been captured since the last call, in order, and forgets it.
    pub fn take(&self) -> Vec<CapturedPacket> {
        std::mem::take(&mut self.shared.lock().packets)
    }

    /// How many of the packets so far are `wanted`.
    pub fn count(&self, wanted: impl Fn(&CapturedPacket) -> bool) -> usize {
        self.shared.lock().packets.iter().filter(|packet| wanted(packet)).count()
    }

    /// Frames that were lost because the socket's buffer was full.
    pub fn lost(&self) -> u32 {
        self.shared.lock().lost
    }

    /// Forgets what has been captured so far.
    pub fn clear(&self) {
        self.shared.lock().packets.clear();
    }

    /// Waits for the first packet that is `wanted`; those that came before the call count too.
    ///
    /// # Errors
    /// [`Error::TimedOut`] with `what`, the number of packets seen and the name of a pcap file with them.
    pub fn wait_for(
        &self,
        within: Duration,
        what: &str,
        wanted: impl Fn(&CapturedPacket) -> bool,
    ) -> Result<CapturedPacket, Error> {
        self.wait_for_count(within, what, 1, wanted).map(|mut packets| packets.swap_remove(0))
    }

    /// Waits until at least `count` packets are `wanted` and gives all that are; those that came before the call
    /// count too.
    ///
    /// # Errors
    /// As [`Capture::wait_for`].
    pub fn wait_for_count(
        &self,
        within: Duration,
        what: &str,
        count: usize,
        wanted: impl Fn(&CapturedPacket) -> bool,
    ) -> Result<Vec<CapturedPacket>, Error> {
        let deadline = Deadline::within(within);
        let mut state = self.shared.lock();
        loop {
            let found: Vec<CapturedPacket> = state.packets.iter().filter(|p| wanted(p)).cloned().collect();
            if found.len() >= count {
                return Ok(found);
            }
            if deadline.passed() || state.failed.is_some() {
                let detail = self.detail(&state, found.len());
                let what = format!("{}: {what}", self.object);
                return Err(Error::TimedOut { what, waited: within, detail });
            }
            let (next, _) = self
                .shared
                .changed
                .wait_timeout(state, deadline.remaining())
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
    }

    /// Writes what has been captured so far as a pcap file.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn write_pcap(&self, path: &Path) -> Result<(), Error> {
        write_pcap(path, &self.shared.lock().packets)
            .map_err(Error::system(path.display().to_string(), "write the capture"))
    }

    /// Ends the capture and gives all packets, those included that were in the socket's buffer.
    pub fn stop(mut self) -> Vec<CapturedPacket> {
        self.end();
        std::mem::take(&mut self.shared.lock().packets)
    }

    fn detail(&self, state: &State, found: usize) -> String {
        let path = pcap_path(&self.object);
        let saved = match write_pcap(&path, &state.packets) {
            Ok(()) => format!("see {}", path.display()),
            Err(error) => format!("{} could not be written: {error}", path.display()),
        };
        let failed =
            state.failed.as_ref().map_or_else(String::new, |error| format!("; the capture ended: {error}"));
        format!("; {} packets seen, {found} of them wanted, {saved}{failed}", state.packets.len())
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.waker.wake();
            if let Err(panic) = thread.join()
                && !thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Capture {
    /// Leaves a pcap file when the test is failing.
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            // The panic that is under way says what failed; this one could only add that the disk is full.
            let _ = write_pcap(&pcap_path(&self.object), &self.shared.lock().packets);
        }
    }
}

/// Sends an Ethernet frame out of a device, past the IP stack.
///
/// # Errors
/// [`Error::System`]: `EMSGSIZE` for a frame over the MTU, `ENETDOWN` when the device is down.
pub fn inject(host: &Host, dev: &str, frame: &[u8]) -> Result<(), Error> {
    let object = format!("{}: {dev}", host.name());
    let ifindex = host.index(dev)?;
    let socket = host
        .run(|| PacketSocket::open(&Config { ifindex: Some(ifindex), ..Config::default() }))?
        .map_err(|error| Error::system(&object, "open a packet socket")(io::Error::other(error)))?;
    rustix::net::send(&socket, frame, SendFlags::empty())
        .map(drop)
        .map_err(Error::system(&object, format!("send a frame of {} bytes", frame.len())))
}

/// The capturing thread's end.
struct Receiver {
    socket: PacketSocket,
    poller: Poller,
    stop: Waker,
    shared: Arc<Shared>,
}

impl Receiver {
    fn run(self) {
        if let Err(error) = self.receive() {
            self.shared.lock().failed = Some(error.to_string());
            self.shared.changed.notify_all();
        }
    }

    fn receive(&self) -> io::Result<()> {
        let mut batch = ReceiveBatch::new(BATCH, LONGEST, 0);
        let mut events = Events::with_capacity(2);
        loop {
            self.poller.wait(&mut events, None)?;
            let stopping = self.stop.drain();
            while self.take(&mut batch)? {}
            if stopping {
                return Ok(());
            }
        }
    }

    /// Takes one batch; `false` when there was none.
    fn take(&self, batch: &mut ReceiveBatch) -> io::Result<bool> {
        let result = batch.recv(&self.socket);
        // "Device is down" waits on the socket once; the device may come up again.
        let Ok(count) = result else { return Ok(true) };
        if count == 0 {
            return Ok(false);
        }
        let time = SystemTime::now();
        let lost = self.socket.statistics()?.drops;
        let mut state = self.shared.lock();
        state.lost += lost;
        state.packets.extend((0..count).map(|index| {
            let meta = batch.meta(index);
            let link = match meta.source {
                Source::Link(link) => Some(link),
                _ => None,
            };
            CapturedPacket {
                time,
                outgoing: link.is_some_and(|link| link.kind == PacketKind::Outgoing),
                frame: batch.data(index).to_vec(),
                checksum_not_ready: meta.auxdata.is_some_and(|auxdata| auxdata.csum_not_ready),
                vlan: meta.auxdata.and_then(|auxdata| auxdata.vlan).map(|vlan| vlan.tci),
            }
        }));
        drop(state);
        self.shared.changed.notify_all();
        Ok(true)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pcap_path(object: &str) -> PathBuf {
    let directory = std::env::var_os(DIRECTORY).map_or_else(std::env::temp_dir, PathBuf::from);
    let test = thread::current().name().unwrap_or("capture").replace("::", "-");
    let device = object.replace(": ", "-");
    directory.join(format!("greway-{test}-{device}-{}.pcap", std::process::id()))
}

fn write_pcap(path: &Path, packets: &[CapturedPacket]) -> io::Result<()> {
    let frames = packets.iter().map(|packet| (packet.time, packet.frame.as_slice()));
    pcap::emit(BufWriter::new(File::create(path)?), frames)
}
