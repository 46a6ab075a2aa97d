//! Waiting for a future on the calling thread. The D-Bus library reads and writes on threads of its own, so
//! nothing more than waking up is needed here.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        // A wake-up that came meanwhile is kept: the next park returns at once.
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_future_that_is_woken_from_another_thread_ends() {
        let (ask, asked) = mpsc::channel::<Waker>();
        let waker = thread::spawn(move || asked.recv().unwrap().wake());
        let mut polled = 0;
        let output = block_on(std::future::poll_fn(|context| {
            polled += 1;
            if polled == 1 {
                ask.send(context.waker().clone()).unwrap();
                return Poll::Pending;
            }
            Poll::Ready(polled)
        }));
        assert!(output >= 2);
        waker.join().unwrap();
    }
}
