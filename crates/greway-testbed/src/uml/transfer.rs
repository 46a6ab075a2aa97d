//! TCP between a guest and a host of the lab, compared byte for byte.
//!
//! The guest's end is bash's `/dev/tcp`, `cat` and `cmp`: part of every Debian, so that a guest needs no
//! package for it. Guest and host read the expected bytes from one file, which the guest sees through hostfs.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use super::UmlGuest;
use crate::pattern::{BLOCK, Digest, Pattern};
use crate::tcp::{TransferReport, accept, listen, local_address, receive_checked, send_pattern};
use crate::{Deadline, Error, Host};

impl UmlGuest {
    /// The guest sends `bytes` bytes by TCP to `address` of `host`, where they are checked.
    ///
    /// # Errors
    /// Those of the sockets and of the guest's commands; [`Error::TimedOut`] when not everything has arrived.
    pub fn upload(
        &mut self,
        host: &Host,
        address: IpAddr,
        bytes: u64,
        within: Duration,
    ) -> Result<TransferReport, Error> {
        let deadline = Deadline::within(within);
        let (file, sent_digest) = self.stream_file(bytes)?;
        let listener = listen(host, SocketAddr::new(address, 0))?;
        let port = local_address(host, &listener)?.port();
        thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let stream = accept(host, &listener, deadline)?;
                receive_checked(host.name(), stream, deadline)
            });
            let script = format!("exec bash -c 'cat {file} >/dev/tcp/{address}/{port}'");
            let guest = self.run_for(&script, within);
            let received = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            guest?;
            let received = received?;
            if received.bytes < bytes && received.first_difference.is_none() {
                let what = format!("arrival of {bytes} bytes at {} (got {})", host.name(), received.bytes);
                return Err(deadline.missed(what));
            }
            Ok(TransferReport { sent_digest, ..received })
        })
    }

    /// `host` sends `bytes` bytes by TCP from `address` to the guest, where `cmp` checks them. The time is the host's,
    /// from the first byte given to the kernel to the guest's verdict.
    ///
    /// # Errors
    /// As [`UmlGuest::upload`]; [`Error::Guest`] with the words of `cmp` when the bytes differ.
    pub fn download(
        &mut self,
        host: &Host,
        address: IpAddr,
        bytes: u64,
        within: Duration,
    ) -> Result<TransferReport, Error> {
        let deadline = Deadline::within(within);
        let (file, digest) = self.stream_file(bytes)?;
        let listener = listen(host, SocketAddr::new(address, 0))?;
        let port = local_address(host, &listener)?.port();
        thread::scope(|scope| {
            let started = std::time::Instant::now();
            let sender = scope.spawn(|| {
                let stream = accept(host, &listener, deadline)?;
                send_pattern(host.name(), stream, bytes, deadline)
            });
            let script = format!("exec bash -c 'cmp - {file} </dev/tcp/{address}/{port}'");
            let guest = self.run_for(&script, within);
            let elapsed = started.elapsed();
            let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            guest?;
            let sent_digest = sent?;
            // cmp found no difference: what arrived is the file, and its digest is known.
            Ok(TransferReport {
                bytes,
                elapsed,
                sent_digest,
                received_digest: digest,
                first_difference: None,
            })
        })
    }

    fn run_for(&mut self, script: &str, within: Duration) -> Result<(), Error> {
        let output = self.try_run(script, within)?;
        if output.status == 0 {
            return Ok(());
        }
        let what = format!("`{script}` ended with status {}", output.status);
        Err(Error::Guest { guest: self.name.clone(), what, output: output.text })
    }

    /// A file with the first `bytes` bytes of the stream, and their digest.
    fn stream_file(&self, bytes: u64) -> Result<(String, u64), Error> {
        let path = self.directory.join(format!("stream-{bytes}"));
        let name = path.display().to_string();
        let file = std::fs::File::create(&path).map_err(Error::system(&name, "create it"))?;
        let mut file = std::io::BufWriter::new(file);
        let mut pattern = Pattern::new(1);
        let mut digest = Digest::default();
        let mut offset = 0;
        while offset < bytes {
            let length = (bytes - offset).min(BLOCK as u64);
            let block = &pattern.block(offset / BLOCK as u64)[..length as usize];
            digest.update(block);
            file.write_all(block).map_err(Error::system(&name, "write it"))?;
            offset += length;
        }
        file.flush().map_err(Error::system(&name, "write it"))?;
        Ok((name, digest.value()))
    }
}
