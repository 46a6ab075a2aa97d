//! The daemon's side: a listening socket, a thread a connection.
//!
//! Everyone on the host may connect and read; a request that changes something needs uid 0 or the
//! uid the daemon runs as, told by the kernel (`SO_PEERCRED`), never by the client.

use std::fs;
use std::io::{self, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use greway_linux::process;

use super::codec::{self, Answer, ErrorParameters};
use super::{Reply, Request};

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
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens at `path`. A socket file that nobody answers at is a dead daemon's and is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when a daemon answers there already; else the system's.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers for ever, each connection on a thread of its own.
    ///
    /// # Errors
    /// When a thread for the listener cannot be made.
    pub fn serve(&self, handler: Arc<dyn Handler>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        thread::Builder::new().name("api".into()).spawn(move || {
            for stream in listener.incoming() {
                let handler = Arc::clone(&handler);
                let answered = stream.and_then(|stream| {
                    thread::Builder::new().name("api-client".into()).spawn(move || {
                        if let Err(error) = converse(stream, handler.as_ref()) {
                            tracing::debug!(%error, "a client went away");
                        }
                    })
                });
                if let Err(error) = answered {
                    tracing::warn!(%error, "a client could not be served");
                }
            }
        })?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the API socket could not be removed");
        }
    }
}

fn converse(stream: UnixStream, handler: &dyn Handler) -> io::Result<()> {
    let privileged = may_change(&stream)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let request = match codec::parse::<Request>(&mut reader) {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => request,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let text = format!("this is no request that greway knows: {error}");
                codec::emit(&mut writer, &refusal(text))?;
                continue;
            }
            Err(error) => return Err(error),
        };
        if !privileged && !request.is_read_only() {
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

fn refusal(message: String) -> Answer {
    Answer::Error { error: "io.greway.Refused".to_owned(), parameters: ErrorParameters { message } }
}

fn may_change(stream: &UnixStream) -> io::Result<bool> {
    let peer = process::peer_credentials(stream)?;
    Ok(peer.uid == 0 || peer.uid == process::effective_uid())
}
