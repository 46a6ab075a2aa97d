//! The client's side: one connection, one question at a time.

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`].
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let open = || -> io::Result<UnixStream> {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        match open() {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), socket: socket.to_owned() }),
            Err(source) => Err(ClientError::NoDaemon { socket: socket.to_owned(), source }),
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The daemon's refusal, or a broken connection.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let broken = |socket: &Path, source| ClientError::Broken { socket: socket.to_owned(), source };
        codec::emit(self.stream.get_mut(), request).map_err(|error| broken(&self.socket, error))?;
        match codec::parse::<Answer>(&mut self.stream) {
            Ok(Some(Answer::Reply { parameters })) => Ok(parameters),
            Ok(Some(Answer::Error { parameters, .. })) => Err(ClientError::Refused(parameters.message)),
            Ok(None) => Err(broken(&self.socket, io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(broken(&self.socket, error)),
        }
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
