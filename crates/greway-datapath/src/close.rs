//! Closing the sockets of tunnels that are gone, beside the worker.
//!
//! The kernel lets go of a packet socket only when nobody can be looking at it any more (linux net/packet/af_packet.c
//! `packet_release`, v6.18: `synchronize_net`), some 15 ms each, one after the other. Many wait side by side as long as
//! one does; and a worker that waited would carry nothing meanwhile.

use std::thread::{self, JoinHandle};

use crate::overlay::Inside;

/// Waits at a time. Threads that sleep cost little more than their stacks.
const MOST: usize = 256;
const STACK: usize = 64 << 10;

/// Closes something that takes the kernel a while.
pub(crate) fn close_beside<T: Send + 'static>(what: T) {
    // As below.
    drop(thread::Builder::new().name("close".into()).stack_size(STACK).spawn(move || drop(what)));
}

/// Closes them all. Whoever wants to know when that is done joins.
pub(crate) fn close(insides: Vec<Inside>) -> Vec<JoinHandle<()>> {
    // A TUN device is to be had again when this returns, and makes nobody wait.
    let (mut insides, tuns): (Vec<_>, Vec<_>) =
        insides.into_iter().partition(|inside| matches!(inside, Inside::Link { .. }));
    drop(tuns);
    let mut closing = Vec::new();
    let share = insides.len().div_ceil(MOST).max(1);
    while !insides.is_empty() {
        let mine = insides.split_off(insides.len().saturating_sub(share));
        let thread = thread::Builder::new().name("close".into()).stack_size(STACK);
        // Without a thread they were closed right here, with what they were moved into.
        closing.extend(thread.spawn(move || drop(mine)).ok());
    }
    closing
}
