//! Without a daemon nothing is carried.

use greway_spec::Origin;

use crate::check::facts::Daemon;
use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let name = &facts.spec.name;
    let bring_up = match &facts.spec.origin {
        // A change that changes nothing starts the daemon again, and it takes over what was left.
        Origin::Command => facts.change(&format!("remote {}", facts.spec.far_end())),
        Origin::File(_) | Origin::Profile(_) => facts.bring_up(),
    };
    match &facts.daemon {
        Daemon::None { left: true } => Some(
            Finding::stops(
                "daemon-dead",
                format!("the daemon that carried {name} has died: nobody carries it"),
            )
            .seen("its state file is there, and no daemon answers")
            .cure(bring_up),
        )
        .into(),
        Daemon::None { left: false } => Some(
            Finding::stops("not-up", format!("{name} is defined and not up: no daemon runs here"))
                .seen(format!("defined by {}", facts.spec.origin))
                .cure(bring_up),
        )
        .into(),
        Daemon::Silent(why) => Some(
            Finding::stops("daemon-silent", "there is a daemon, and it does not answer")
                .seen(why.clone())
                .cure("systemctl restart greway.service")
                .cure("greway daemon"),
        )
        .into(),
        Daemon::Answers { after, .. } => {
            let Some(tunnel) = facts.tunnel() else {
                let about = format!("tunnel {name} is not carried: ");
                let remains = after.notes.iter().find_map(|note| note.strip_prefix(&about));
                return Some(match remains {
                    Some(why) => {
                        let finding = Finding::stops("not-carried", format!("{name} is not carried"))
                            .seen(why)
                            .cure(format!("greway tunnel del {}", word(name.as_str())))
                            .cure(facts.bring_up());
                        // A file says whether its link is to be up.
                        match &facts.spec.origin {
                            Origin::Command => {
                                finding.cure(format!("ip link set {} up", word(name.as_str())))
                            }
                            Origin::File(_) | Origin::Profile(_) => finding,
                        }
                    }
                    None => Finding::stops("not-up", format!("{name} is defined and not up"))
                        .seen(format!("defined by {}; the daemon does not know it", facts.spec.origin))
                        .cure(bring_up),
                })
                .into();
            };
            let moved = Finding::note(
                "device-moved",
                format!(
                    "the device of {name} is in another network namespace: what is inside cannot be seen from here"
                ),
            );
            tunnel.moved.then(|| moved.seen("the data plane's end of it is here, the device is not")).into()
        }
    }
}
