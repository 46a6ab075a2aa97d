//! Many tunnels asked for at once, for `up` and `restart`: in portions, each told before the next is begun.
//!
//! A portion is what is half done at any moment, and no more: of thousands of tunnels that are restarted the others
//! are up. What the daemon refuses of one leaves the others of its portion as they are.

use std::collections::{HashMap, HashSet};

use anyhow::anyhow;
use greway_control::api::client::Client;
use greway_control::api::{self, Request};
use greway_control::location::Location;
use greway_spec::{DeviceName, TunnelSpec};

use super::batch::{Batch, Outcome, State};
use super::up::{Answer, Asked, answered, bring_up, told};
use super::{restart, several};
use crate::sources::{Definition, File};

/// Tunnels that the daemon is asked for at once, and beside them, in their order, what needs no daemon.
#[derive(Default)]
pub(super) struct Together {
    waiting: Vec<Waiting>,
    names: HashSet<String>,
    bytes: usize,
    /// Some were asked for whose devices nobody has waited for yet.
    unawaited: bool,
}

enum Waiting {
    Settled(Outcome),
    Defined(Box<Definition>, Before),
}

/// What is there of a tunnel that goes before it comes.
type Before = Option<Box<TunnelSpec>>;

/// A tunnel that is to be asked for.
struct Wanted<'w> {
    file: &'w File,
    before: Option<&'w TunnelSpec>,
}

/// What became of each tunnel, in their order.
type Answers = Vec<anyhow::Result<Answer>>;

impl Together {
    /// Tunnels asked for at once. Between two such requests the daemon does what else it is there for, and whoever
    /// waits is told how far it is; Ctrl-C is felt there.
    const MOST: usize = 256;
    /// Bytes of them. The daemon takes requests of twice that.
    const MOST_BYTES: usize = 512 << 10;

    pub(super) fn settled(&mut self, outcome: Outcome) {
        self.waiting.push(Waiting::Settled(outcome));
    }

    /// A tunnel that is to be as its file says. `before`: it is up as this says, and taken down first.
    pub(super) fn push(&mut self, definition: Box<Definition>, before: Before) {
        self.names.insert(definition.name.clone());
        if let Ok(file) = &definition.result {
            self.bytes += serde_json::to_vec(&file.spec).map_or(0, |bytes| bytes.len());
        }
        self.waiting.push(Waiting::Defined(definition, before));
    }

    pub(super) fn is_full(&self) -> bool {
        self.names.len() >= Self::MOST || self.bytes >= Self::MOST_BYTES
    }

    /// Whether a tunnel of this name is asked for already.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Asks for them and tells what became of each; `more` are asked for next.
    pub(super) fn carry_out(
        &mut self,
        more: bool,
        batch: &mut Batch,
        client: &mut Option<Client>,
        location: &Location,
    ) {
        let Self { waiting, unawaited, .. } = std::mem::take(self);
        self.unawaited = more;
        let wanted = waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Defined(definition, before) => {
                let file = definition.result.as_ref().ok()?;
                batch.begin(&definition.name);
                Some(Wanted { file, before: before.as_deref() })
            }
            Waiting::Settled(_) => None,
        });
        let wanted = wanted.collect::<Vec<_>>();
        // One by itself is asked for as ever; so are all of a daemon that knows no other way.
        let answers = match wanted.len() > 1 || unawaited {
            true => all(&wanted, more, client, location),
            false => Ok(None),
        };
        let all_failed = answers.as_ref().err().map(crate::sentence);
        let mut answers = answers.ok().flatten().map(Vec::into_iter);
        for waiting in waiting {
            batch.end(match (waiting, &all_failed, &mut answers) {
                (Waiting::Settled(outcome), ..) => outcome,
                (Waiting::Defined(definition, _), Some(why), _) => {
                    Outcome::of(&definition.name, Some(&definition.path), State::Failed(why.clone()))
                }
                (Waiting::Defined(definition, Some(before)), None, None) => {
                    restart::restart(&definition, &before, client, location)
                }
                (Waiting::Defined(definition, None), None, None) => {
                    bring_up(&definition, Asked::ByName, false, client, location)
                }
                (Waiting::Defined(definition, _), None, Some(answers)) => match &definition.result {
                    Ok(file) => {
                        let answer = answers.next();
                        let answer = answer.unwrap_or_else(|| Err(anyhow!("the daemon said nothing of it")));
                        told(&definition, file, answer)
                    }
                    Err(why) => Outcome::of(&definition.name, None, State::Failed(why.0.clone())),
                },
            });
        }
    }
}

/// Asks for all of them; `None`: the daemon is of a version that takes one at a time.
fn all(
    wanted: &[Wanted<'_>],
    more: bool,
    client: &mut Option<Client>,
    location: &Location,
) -> anyhow::Result<Option<Answers>> {
    let client = match client {
        Some(client) => client,
        None => client.insert(super::connect(location)?),
    };
    let going = wanted.iter().filter_map(|wanted| wanted.before).map(|before| before.name.clone());
    let going = going.collect::<Vec<_>>();
    let mut gone = HashMap::new();
    if !going.is_empty() {
        // What follows is asked for at once: that of all tunnels is looked at with the last of them.
        let request = Request::DeleteAll { names: going.clone(), more: true };
        let Some(outcomes) = several(client, location, &request, &words(&going))? else { return Ok(None) };
        let mut outcomes = outcomes.into_iter();
        gone.extend(going.into_iter().map(|name| (name, answered(outcomes.next()))));
    }
    let stays = |wanted: &Wanted<'_>| gone.get(&wanted.file.spec.name).is_some_and(anyhow::Result::is_err);
    let specs = wanted.iter().filter(|wanted| !stays(wanted)).map(|wanted| wanted.file.spec.clone());
    let up = match all_up(specs.collect(), more, client, location) {
        Ok(Some(up)) => up,
        Ok(None) => return Ok(None),
        Err(error) if gone.is_empty() => return Err(error),
        Err(error) => return Err(error.context("taken down, and not brought up again")),
    };
    let mut up = up.into_iter();
    let mut answers = Vec::with_capacity(wanted.len());
    let mut back = Vec::new();
    for one in wanted {
        answers.push(match gone.remove(&one.file.spec.name) {
            Some(Err(error)) => Err(error),
            removed => {
                let answer = answered(up.next());
                if answer.is_err() && removed.is_some() {
                    back.extend(one.before.map(|before| (answers.len(), before.clone())));
                }
                let removed = removed.and_then(Result::ok).map_or(Vec::new(), |(removed, _)| removed);
                answer.map(|(actions, warnings)| ([removed, actions].concat(), warnings))
            }
        });
    }
    bring_back(back, &mut answers, more, client, location);
    Ok(Some(answers))
}

/// Brings tunnels back as they were whose files ask for what cannot be, and adds to their answers what became of it.
fn bring_back(
    back: Vec<(usize, TunnelSpec)>,
    answers: &mut Answers,
    more: bool,
    client: &mut Client,
    location: &Location,
) {
    if back.is_empty() {
        return;
    }
    let specs = back.iter().map(|(_, before)| before.clone()).collect();
    let mut outcomes =
        all_up(specs, more, client, location).map(Option::unwrap_or_default).map(Vec::into_iter);
    for (place, _) in back {
        let outcome = match &mut outcomes {
            Ok(outcomes) => answered(outcomes.next()),
            Err(error) => Err(anyhow!(crate::sentence(error))),
        };
        if let Some(answer) = answers.get_mut(place)
            && let Err(why) = answer
        {
            *answer = Err(anyhow!(restart::back_or_not(&crate::sentence(why), outcome.map(drop))));
        }
    }
}

/// Asks for several tunnels; `None`: the daemon is of a version that takes one at a time.
fn all_up(
    specs: Vec<TunnelSpec>,
    more: bool,
    client: &mut Client,
    location: &Location,
) -> anyhow::Result<Option<Vec<api::Outcome>>> {
    let names = specs.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>();
    several(client, location, &Request::UpAll { specs, more }, &words(&names))
}

fn words(names: &[DeviceName]) -> Vec<&str> {
    names.iter().map(DeviceName::as_str).collect()
}
