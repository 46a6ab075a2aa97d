//! Framing: JSON objects ended by a NUL byte, read and written blocking.

use std::io::{self, BufRead, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Reply;

/// No reply is longer. 64 MiB holds the status of some 10,000 tunnels.
pub const LONGEST_REPLY: usize = 64 << 20;

/// No request of root's is longer: a tunnel with thousands of routes comes near it.
pub const LONGEST_REQUEST: usize = 1 << 20;

/// No request of a user without privilege is longer: any of them may ask, many at a time, and all they
/// may ask for is to read.
pub const LONGEST_PLAIN_REQUEST: usize = 64 << 10;

/// What travels back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The request was refused or failed.
    Error {
        /// `io.greway.Refused`.
        error: String,
        /// Why.
        parameters: ErrorParameters,
    },
    /// It succeeded.
    Reply {
        /// The reply.
        parameters: Reply,
    },
}

/// Why a request failed.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorParameters {
    /// A sentence for people.
    pub message: String,
}

/// Writes one message.
///
/// # Errors
/// As the writer.
pub fn emit<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
    bytes.push(0);
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads one message of at most `longest` bytes, which are all that is buffered; `None` at a clean
/// end of the stream.
///
/// # Errors
/// `InvalidData` for what is no message of this API, `UnexpectedEof` for half a message,
/// `FileTooLarge` for one that is too long, of which the rest was not read.
pub fn parse<T: DeserializeOwned>(from: &mut impl BufRead, longest: usize) -> io::Result<Option<T>> {
    let mut bytes = Vec::new();
    io::Read::take(&mut *from, longest as u64).read_until(0, &mut bytes)?;
    let length = bytes.len();
    match bytes.pop() {
        None => Ok(None),
        Some(0) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Some(_) if length == longest => {
            let text = format!("a message here has at most {longest} bytes");
            Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
        }
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;

    #[test]
    fn a_message_survives_the_way() {
        let mut wire = Vec::new();
        let sent = Request::Status { name: Some("tun0".parse().unwrap()), probe: true };
        emit(&mut wire, &sent).unwrap();
        emit(&mut wire, &Request::Hello).unwrap();
        let mut reader = wire.as_slice();
        assert_eq!(parse::<Request>(&mut reader, LONGEST_REQUEST).unwrap(), Some(sent));
        assert_eq!(parse::<Request>(&mut reader, LONGEST_REQUEST).unwrap(), Some(Request::Hello));
        assert_eq!(parse::<Request>(&mut reader, LONGEST_REQUEST).unwrap(), None);
    }

    #[test]
    fn an_error_is_not_taken_for_a_reply() {
        let mut wire = Vec::new();
        let parameters = ErrorParameters { message: "no".into() };
        emit(&mut wire, &Answer::Error { error: "io.greway.Refused".into(), parameters }).unwrap();
        let answer = parse::<Answer>(&mut wire.as_slice(), LONGEST_REPLY).unwrap().unwrap();
        assert!(matches!(answer, Answer::Error { parameters, .. } if parameters.message == "no"));
    }

    #[test]
    fn half_a_message_and_noise_are_errors() {
        let half = b"{\"method\":".as_slice();
        assert_eq!(
            parse::<Request>(&mut &*half, LONGEST_REQUEST).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        let noise = b"\xff\xfe\0".as_slice();
        assert_eq!(
            parse::<Request>(&mut &*noise, LONGEST_REQUEST).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn a_message_too_long_is_not_read_to_its_end() {
        let long = vec![b'x'; 200];
        let mut reader = long.as_slice();
        let error = parse::<Request>(&mut reader, 64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(reader.len(), 200 - 64);
    }
}
