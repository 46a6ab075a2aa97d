//! What programs that carry beside this data plane need of it: word of their witness packets, and moments at which it
//! has no packet of a tunnel in its hands, so that they overtake none.
//!
//! It knows no witness by sight and decides nothing with one: whoever asks recognises them.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use greway_linux::event::Waker;
use greway_spec::DeviceName;

use crate::command::Command;
use crate::handle::DatapathError;
use crate::underlay::Receive;

/// Looks at what arrived, from its GRE header on, and by which socket; each worker asks. True for what is no tunnel's
/// packet and goes nowhere.
pub type Recogniser = Arc<dyn Fn(&[u8], Receive) -> bool + Send + Sync>;

/// Done by the lead, with a function that carries all that waits.
pub(crate) type Attempt = Box<dyn FnMut(&mut dyn FnMut()) + Send>;

/// One of the two ways through the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// From the underlay into the tunnel device.
    Inwards,
    /// From the tunnel device to the underlay.
    Outwards,
}

/// An end of the data plane for another thread.
#[derive(Clone, Debug)]
pub struct Passages {
    pub(crate) commands: Sender<Command>,
    pub(crate) wake: Arc<Waker>,
}

impl Passages {
    /// Has the data plane run `attempt` between two packets, with a function that carries all of a tunnel's that waits
    /// that way, whichever worker's it is. Returns when it has run.
    ///
    /// # Errors
    /// [`DatapathError::Unknown`], [`DatapathError::Stopped`].
    pub fn between_packets(
        &self,
        name: &DeviceName,
        through: Through,
        attempt: impl FnMut(&mut dyn FnMut()) + Send + 'static,
    ) -> Result<(), DatapathError> {
        let (done, answer) = mpsc::sync_channel(1);
        let command =
            Command::BetweenPackets { name: name.clone(), through, attempt: Box::new(attempt), done };
        self.commands.send(command).map_err(|_gone| DatapathError::Stopped)?;
        self.wake.wake();
        answer.recv().map_err(|_gone| DatapathError::Stopped)?
    }
}
