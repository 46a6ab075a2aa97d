//! The daemon's side: a listening socket, a thread a connection.
//!
//! Everyone on the host may connect and read; a request that changes something needs uid 0 or the
//! uid the daemon runs as, told by the kernel (`SO_PEERCRED`), never by the client, and before a byte of
//! its is read. What a connection can cost is bounded: in bytes, in time, in number (`admission.rs`).

use std::fs;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use greway_linux::{process, unix};

use super::admission::{Admission, Admitted};
use super::codec::{self, Answer, ErrorParameters};
use super::{Reply, Request};

/// How long a client may take from the end of an answer to the end of its next request, and to take an
/// answer in.
const PATIENCE: Duration = Duration::from_secs(30);

/// Without descriptors or memory the next attempt to accept fails as well.
const PAUSE: Duration = Duration::from_millis(100);

/// What the server asks for answers.
pub trait Handler: Send + Sync + 'static {
    /// Carries a request out; the error is a sentence for people.
    ///
    /// # Errors
    /// Whatever made the request fail, nothing having been changed.
    fn handle(&self, request: &Request) -> Result<Reply, String>;

    /// A request was carried out and its answer is on its way: what must not come before goes here.
    fn answered(&self, request: &Request);
}

/// A listening API socket; its file goes with it.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<UnixListener>,
    path: PathBuf,
}

impl Server {
    /// Listens at `path`. A socket file that nobody answers at is a dead daemon's and is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when a daemon answers there already; else the system's.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if answers(path) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = process::let_go_first(UnixListener::bind(path)?.into()).into();
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        Ok(Self { listeners: vec![listener], path: path.to_owned() })
    }

    /// Listens at sockets that a service manager opened as well; their files are its own.
    #[must_use]
    pub fn also(mut self, inherited: Vec<UnixListener>) -> Self {
        self.listeners.extend(inherited);
        self
    }

    /// Answers for ever, each connection on a thread of its own.
    ///
    /// # Errors
    /// When a thread for a listener cannot be made.
    pub fn serve(&self, handler: Arc<dyn Handler>) -> io::Result<()> {
        // One bound for all: who is refused at one socket gets in at no other.
        let admission = Arc::new(Admission::default());
        for listener in &self.listeners {
            let listener = listener.try_clone()?;
            let (admission, handler) = (Arc::clone(&admission), Arc::clone(&handler));
            let serve = move || accept(&listener, &admission, &handler);
            thread::Builder::new().name("api".into()).spawn(serve)?;
        }
        Ok(())
    }
}

/// Whether somebody listens at `path`, be it one who has no time.
pub(crate) fn answers(path: &Path) -> bool {
    match unix::connect(path, PAUSE) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn accept(listener: &UnixListener, admission: &Arc<Admission>, handler: &Arc<dyn Handler>) {
    let mut failing = false;
    loop {
        let served = listener.accept().and_then(|(stream, _)| welcome(stream, admission, handler));
        if let Err(error) = &served {
            // Once, or whoever takes the descriptors away fills the log too.
            if !failing {
                tracing::warn!(%error, "clients cannot be served now");
            }
            thread::sleep(PAUSE);
        }
        failing = served.is_err();
    }
}

/// Gives a new client a thread of its own, or a refusal.
fn welcome(stream: UnixStream, admission: &Arc<Admission>, handler: &Arc<dyn Handler>) -> io::Result<()> {
    let peer = process::peer_credentials(&stream)?;
    let privileged = peer.uid == 0 || peer.uid == process::effective_uid();
    let admitted = match admission.admit(peer.uid, privileged) {
        Ok(admitted) => admitted,
        Err(sentence) => {
            // The empty buffer of a new connection has room for it; a client that is gone already is none.
            stream.set_nonblocking(true)?;
            let _ = codec::emit(&mut &stream, &refusal(sentence));
            return Ok(());
        }
    };
    let handler = Arc::clone(handler);
    let client = Client { stream, privileged, _admitted: admitted };
    thread::Builder::new().name("api-client".into()).spawn(move || {
        if let Err(error) = client.converse(handler.as_ref(), PATIENCE) {
            tracing::debug!(%error, "a client went away");
        }
    })?;
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the API socket could not be removed");
        }
    }
}

/// One connection.
struct Client {
    stream: UnixStream,
    privileged: bool,
    _admitted: Admitted,
}

impl Client {
    fn converse(&self, handler: &dyn Handler, patience: Duration) -> io::Result<()> {
        let longest = if self.privileged { codec::LONGEST_REQUEST } else { codec::LONGEST_PLAIN_REQUEST };
        self.stream.set_write_timeout(Some(patience))?;
        let mut reader = BufReader::new(Deadline { stream: &self.stream, until: Instant::now() });
        let mut writer = &self.stream;
        loop {
            reader.get_mut().until = Instant::now() + patience;
            let request = match codec::parse::<Request>(&mut reader, longest) {
                Ok(None) => return Ok(()),
                Ok(Some(request)) => request,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let text = format!("this is no request that greway knows: {error}");
                    codec::emit(&mut writer, &refusal(text))?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                    // Where the next one would begin is not known.
                    return codec::emit(&mut writer, &refusal(error.to_string()));
                }
                Err(error) => return Err(error),
            };
            if !self.privileged && !request.is_read_only() {
                let text = "changing tunnels needs root: run the command with sudo";
                codec::emit(&mut writer, &refusal(text.to_owned()))?;
                continue;
            }
            match handler.handle(&request) {
                Ok(parameters) => {
                    let emitted = codec::emit(&mut writer, &Answer::Reply { parameters });
                    // Whether or not the client still listens, what it asked for was done.
                    handler.answered(&request);
                    emitted?;
                }
                Err(message) => codec::emit(&mut writer, &refusal(message))?,
            }
        }
    }
}

/// Reads until a moment in time, however small the pieces come in.
struct Deadline<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl Read for Deadline<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

fn refusal(message: String) -> Answer {
    Answer::Error { error: "io.greway.Refused".to_owned(), parameters: ErrorParameters { message } }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Silent;

    impl Handler for Silent {
        fn handle(&self, _: &Request) -> Result<Reply, String> {
            Ok(Reply::Tunnels(Vec::new()))
        }

        fn answered(&self, _: &Request) {}
    }

    fn pair(privileged: bool) -> (Client, UnixStream) {
        let (stream, other) = UnixStream::pair().unwrap();
        let admitted = Arc::new(Admission::default()).admit(1, privileged).unwrap();
        (Client { stream, privileged, _admitted: admitted }, other)
    }

    fn answer(from: UnixStream) -> String {
        match codec::parse::<Answer>(&mut BufReader::new(from), codec::LONGEST_REPLY).unwrap().unwrap() {
            Answer::Error { parameters, .. } => parameters.message,
            Answer::Reply { parameters } => format!("{parameters:?}"),
        }
    }

    #[test]
    fn half_a_request_and_silence_end_in_time() {
        for half in [&b"{\"method\":"[..], b""] {
            let (client, mut other) = pair(true);
            other.write_all(half).unwrap();
            let error = client.converse(&Silent, Duration::from_millis(20)).unwrap_err();
            assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
        }
    }

    #[test]
    fn a_request_too_long_is_refused_by_who_asks() {
        for (privileged, longest) in [(false, 64 << 10), (true, 1 << 20)] {
            let (client, mut other) = pair(privileged);
            let reader = other.try_clone().unwrap();
            thread::scope(|scope| {
                // The server reads as much as it takes and goes.
                scope.spawn(move || other.write_all(&vec![b' '; longest]));
                client.converse(&Silent, PATIENCE).unwrap();
            });
            assert_eq!(answer(reader), format!("a message here has at most {longest} bytes"));
        }
    }

    #[test]
    fn a_change_needs_privilege() {
        for (privileged, word) in [(false, "needs root"), (true, "Tunnels")] {
            let (client, mut other) = pair(privileged);
            codec::emit(&mut other, &Request::Stop { remove: true }).unwrap();
            other.shutdown(std::net::Shutdown::Write).unwrap();
            client.converse(&Silent, PATIENCE).unwrap();
            assert!(answer(other).contains(word));
        }
    }
}
