//! One echo to the inner peer: the only thing that tells a working tunnel from a silent one.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use greway_linux::batch::{Control, ReceiveBatch, SendStorage, Target};
use greway_linux::event::{Events, Interest, Poller};
use greway_linux::raw::RawSocket;
use greway_wire::icmp::{self, Echo};

/// An echo that is to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// Whom to ask.
    pub(super) peer: IpAddr,
    /// Through which device.
    pub(super) ifindex: u32,
}

/// How long answers are waited for, all questions together.
const PATIENCE: Duration = Duration::from_secs(1);
const ICMP: u8 = 1;
const DATA: &[u8] = b"greway status";

/// Sends all questions at once and waits for the answers: the round-trip time of each in
/// milliseconds. What cannot be asked (IPv6, no socket) has none.
pub(super) fn ask(questions: &[Question]) -> Vec<Option<f64>> {
    let mut answers = vec![None; questions.len()];
    if questions.is_empty() {
        return answers;
    }
    if let Err(error) = try_ask(questions, &mut answers) {
        tracing::warn!(%error, "no echo could be sent");
    }
    answers
}

fn try_ask(questions: &[Question], answers: &mut [Option<f64>]) -> std::io::Result<()> {
    let socket = RawSocket::open_ipv4(ICMP).map_err(std::io::Error::other)?;
    // What is refused on the way (no route, a dead peer) is an answer that does not come.
    socket.set_error_queue(false)?;
    let poller = Poller::new()?;
    poller.add(&socket, 0, Interest::Readable)?;
    let identifier = std::process::id() as u16;
    let begin = Instant::now();
    let mut storage = SendStorage::new(1);
    let mut expected = 0;
    for (sequence, question) in questions.iter().enumerate() {
        let IpAddr::V4(peer) = question.peer else { continue };
        let mut packet = [0; icmp::HEADER_LEN + DATA.len()];
        let echo = Echo { is_reply: false, identifier, sequence_number: sequence as u16 };
        let length = echo.emit(DATA, &mut packet).unwrap_or(0);
        let mut out = storage.start();
        let control = Control { ifindex: Some(question.ifindex), ..Control::NONE };
        if out.push(&[&packet[..length]], Target::Ipv4(peer), control).is_ok() {
            let outcome = out.send(&socket, |_, _| {});
            expected += outcome.sent;
        }
    }
    let mut batch = ReceiveBatch::new(16, 2048, 0);
    let mut events = Events::with_capacity(1);
    while expected > 0 {
        let left = PATIENCE.saturating_sub(begin.elapsed());
        if left.is_zero() {
            break;
        }
        poller.wait(&mut events, Some(left))?;
        for packet in 0..batch.recv(&socket)? {
            let Some((source, echo)) = reply(batch.data(packet)) else { continue };
            let position = usize::from(echo.sequence_number);
            let asked = questions.get(position).is_some_and(|question| question.peer == IpAddr::V4(source));
            if echo.identifier == identifier && asked && answers[position].is_none() {
                answers[position] = Some(begin.elapsed().as_secs_f64() * 1000.0);
                expected -= 1;
            }
        }
    }
    Ok(())
}

/// Source and echo of a reply, out of a whole IPv4 packet.
fn reply(packet: &[u8]) -> Option<(Ipv4Addr, Echo)> {
    let outer = greway_wire::ipv4::Ipv4Header::parse(packet).ok()?;
    let (echo, _data) = Echo::parse(packet.get(outer.header_len()..)?)?;
    echo.is_reply.then_some((outer.source, echo))
}
