//! Following NetworkManager: what happened, told by the bus.
//!
//! An event says that something changed and not what it is now: between the signal and the look more may have
//! happened.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::thread;

use futures_core::Stream;
use zbus::match_rule::MatchRule;
use zbus::message::Type;
use zbus::{Message, MessageStream};

use crate::block::block_on;
use crate::bus::{ACTIVE_INTERFACE, Bus, MANAGER, NmError, PROFILE_INTERFACE, SERVICE, SETTINGS_INTERFACE};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A profile is new or was changed.
    Profile {
        /// Where it is on the bus.
        path: String,
    },
    /// A profile was deleted.
    ProfileGone,
    /// A connection came up, went down, or is on its way.
    Activity,
    /// NetworkManager started.
    Started,
    /// It ended.
    Ended,
    /// The bus is gone, and with it this connection.
    BusGone,
}

impl Bus {
    /// Tells of what happens from now on, on a thread of its own, until `tell` says that it is enough by
    /// returning `false`.
    ///
    /// # Errors
    /// [`NmError::NoBus`] when the bus takes no subscription.
    pub fn follow(&self, tell: impl Fn(Event) -> bool + Send + 'static) -> Result<(), NmError> {
        let no_bus = |error: zbus::Error| NmError::NoBus(error.to_string());
        let subscribe = |rule: MatchRule<'static>| {
            block_on(MessageStream::for_match_rule(rule, &self.connection, None)).map_err(no_bus)
        };
        let of_manager = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SERVICE)
            .path_namespace(MANAGER)
            .build()
            .map_err(no_bus)?;
        let of_bus = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender("org.freedesktop.DBus")
            .interface("org.freedesktop.DBus")
            .member("NameOwnerChanged")
            .arg(0, SERVICE)
            .build()
            .map_err(no_bus)?;
        let (mut manager, mut bus) = (subscribe(of_manager)?, subscribe(of_bus)?);
        // The streams stay subscribed only as long as their connection.
        let connection = self.connection.clone();
        let follow = move || {
            loop {
                let message = block_on(poll_fn(|context| {
                    let first = Pin::new(&mut bus).poll_next(context);
                    if first.is_ready() { first } else { Pin::new(&mut manager).poll_next(context) }
                }));
                let event = match message {
                    Some(Ok(message)) => event(&message),
                    Some(Err(_)) | None => Some(Event::BusGone),
                };
                let Some(event) = event else { continue };
                let gone = event == Event::BusGone;
                if !tell(event) || gone {
                    drop(connection);
                    return;
                }
            }
        };
        let spawned = thread::Builder::new().name("nm-events".into()).spawn(follow);
        spawned.map(drop).map_err(|error: io::Error| NmError::NoBus(error.to_string()))
    }
}

fn event(message: &Message) -> Option<Event> {
    let header = message.header();
    let path = || header.path().map(ToString::to_string);
    let body = message.body();
    match (header.interface()?.as_str(), header.member()?.as_str()) {
        (SETTINGS_INTERFACE, "NewConnection") => {
            let path: zbus::wire::OwnedObjectPath = body.deserialize().ok()?;
            Some(Event::Profile { path: path.to_string() })
        }
        (PROFILE_INTERFACE, "Updated") => Some(Event::Profile { path: path()? }),
        (SETTINGS_INTERFACE, "ConnectionRemoved") => Some(Event::ProfileGone),
        (ACTIVE_INTERFACE, "StateChanged") => Some(Event::Activity),
        // A connection that is gone says nothing any more.
        ("org.freedesktop.DBus.Properties", "PropertiesChanged") if path()? == MANAGER => {
            Some(Event::Activity)
        }
        ("org.freedesktop.DBus", "NameOwnerChanged") => {
            let (_, _, new): (String, String, String) = body.deserialize().ok()?;
            Some(if new.is_empty() { Event::Ended } else { Event::Started })
        }
        _ => None,
    }
}
