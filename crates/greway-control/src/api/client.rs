//! The client's side: one connection, one question at a time.

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use greway_linux::{process, unix};

use super::codec::{self, Answer};
use super::{Hello, Reply, Request};

/// How long an answer may take. A probe waits a second, set-up of a tunnel some milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
}

/// Why a question got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no greway daemon answers at {}", socket.display())]
    NoDaemon {
        /// Where it was looked for.
        socket: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Somebody may listen, but not to this user.
    #[error("there is a greway daemon, but you may not reach its socket {}: try sudo", socket.display())]
    Forbidden {
        /// Where it listens.
        socket: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Somebody listens who is neither root nor this user. Nothing was said to it.
    #[error(
        "what listens at {} belongs to uid {uid}, which is neither root nor you, and is not asked",
        socket.display()
    )]
    Stranger {
        /// Where it listens.
        socket: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// The connection broke before a word of an answer came: it was to a daemon at its end.
    #[error("the greway daemon at {} ended before it answered", socket.display())]
    Unheard {
        /// Where it listened.
        socket: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the greway daemon at {} did not answer", socket.display())]
    Broken {
        /// Where it listens.
        socket: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
    /// An answer to another question.
    #[error("the greway daemon at {} speaks another version of the API: restart it", socket.display())]
    Unexpected {
        /// Where it listens.
        socket: PathBuf,
    },
}

impl Client {
    /// Connects to a daemon of root's or of this user's.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`], [`ClientError::Forbidden`], [`ClientError::Stranger`], or
    /// [`ClientError::Broken`] for one that has no time.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        Self::connect_within(socket, PATIENCE)
    }

    /// The same, waiting at most `patience` for one that has no time.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_within(socket: &Path, patience: Duration) -> Result<Self, ClientError> {
        let named = || socket.to_owned();
        // The system takes no time at all for no limit.
        let patience = patience.max(Duration::from_millis(1));
        let stream = unix::connect(socket, patience).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Forbidden { socket: named(), source },
            io::ErrorKind::WouldBlock => ClientError::Broken { socket: named(), source: too_late() },
            _ => ClientError::NoDaemon { socket: named(), source },
        })?;
        let broken = |source| ClientError::Broken { socket: named(), source };
        let uid = process::peer_credentials(&stream).map_err(broken)?.uid;
        if uid != 0 && uid != process::effective_uid() {
            return Err(ClientError::Stranger { socket: named(), uid });
        }
        stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
        Ok(Self { stream: BufReader::new(stream), socket: named() })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The daemon's refusal, or a broken connection.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let socket = || self.socket.clone();
        let sent = codec::emit(self.stream.get_mut(), request);
        // A daemon that takes no more clients says so and goes, before it reads a word.
        match codec::parse::<Answer>(&mut self.stream, codec::LONGEST_REPLY) {
            Ok(Some(Answer::Reply { parameters })) => Ok(parameters),
            Ok(Some(Answer::Error { parameters, .. })) => Err(ClientError::Refused(parameters.message)),
            Ok(None) => {
                let source = sent.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                Err(ClientError::Unheard { socket: socket(), source })
            }
            Err(source) if source.kind() == io::ErrorKind::ConnectionReset => {
                Err(ClientError::Unheard { socket: socket(), source })
            }
            Err(source) if source.kind() == io::ErrorKind::WouldBlock => {
                Err(ClientError::Broken { socket: socket(), source: too_late() })
            }
            Err(source) => Err(ClientError::Broken { socket: socket(), source }),
        }
    }

    /// Asks who is there, and takes no answer within `patience` for none: whoever has no time for a greeting has
    /// none for anything else.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn greet(&mut self, patience: Duration) -> Result<Hello, ClientError> {
        match self.ask_within(&Request::Hello, patience)? {
            Reply::Hello(hello) => Ok(hello),
            _ => Err(self.unexpected()),
        }
    }

    /// As [`Client::ask`], and takes no answer within `patience` for none.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_within(&mut self, request: &Request, patience: Duration) -> Result<Reply, ClientError> {
        // The system takes no time at all for no limit.
        let patience = patience.max(Duration::from_millis(1));
        self.wait_at_most(patience)?;
        let reply = self.ask(request)?;
        self.wait_at_most(PATIENCE)?;
        Ok(reply)
    }

    fn wait_at_most(&self, patience: Duration) -> Result<(), ClientError> {
        let broken = |source| ClientError::Broken { socket: self.socket.clone(), source };
        self.stream.get_ref().set_read_timeout(Some(patience)).map_err(broken)
    }

    /// Asks who is there.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn hello(&mut self) -> Result<Hello, ClientError> {
        match self.ask(&Request::Hello)? {
            Reply::Hello(hello) => Ok(hello),
            _ => Err(self.unexpected()),
        }
    }

    /// The error for an answer that does not fit its question.
    pub fn unexpected(&self) -> ClientError {
        ClientError::Unexpected { socket: self.socket.clone() }
    }
}

/// What the system calls "resource temporarily unavailable".
fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, "nothing came in time; it may hang")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("greway-client-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn a_connection_that_breaks_before_a_word_is_told_from_one_that_breaks_after() {
        let folder = folder("unheard");
        let listener = UnixListener::bind(folder.join("sock")).unwrap();
        // With and without the question read, as a daemon at its end leaves it.
        for reads in [false, true] {
            let mut client = Client::connect(&folder.join("sock")).unwrap();
            let (other, _) = listener.accept().unwrap();
            thread::scope(|scope| {
                scope.spawn(move || {
                    if reads {
                        let mut other = BufReader::new(other);
                        codec::parse::<Request>(&mut other, codec::LONGEST_REQUEST).unwrap();
                    }
                });
                let error = client.ask(&Request::Hello).unwrap_err();
                assert!(matches!(error, ClientError::Unheard { .. }), "{error:?}");
            });
        }
        let mut client = Client::connect(&folder.join("sock")).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        io::Write::write_all(&mut other, b"{\"para").unwrap();
        drop(other);
        let error = client.ask(&Request::Hello).unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
        // One that says nothing at all has no time, which is told in those words.
        let mut client = Client::connect(&folder.join("sock")).unwrap();
        let (_silent, _) = listener.accept().unwrap();
        match client.ask_within(&Request::Hello, Duration::from_millis(1)).unwrap_err() {
            ClientError::Broken { source, .. } => {
                assert_eq!(source.kind(), io::ErrorKind::WouldBlock);
                assert!(source.to_string().contains("in time"), "{source}");
            }
            error => panic!("{error:?}"),
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn no_daemon_and_no_permission_are_not_the_same() {
        let none = Client::connect(Path::new("/nowhere/greway.sock")).unwrap_err();
        assert!(matches!(none, ClientError::NoDaemon { .. }), "{none:?}");
        let folder = folder("none");
        drop(UnixListener::bind(folder.join("sock")).unwrap());
        let dead = Client::connect(&folder.join("sock")).unwrap_err();
        assert!(matches!(dead, ClientError::NoDaemon { .. }), "{dead:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
