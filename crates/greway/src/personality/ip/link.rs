//! `ip link`: devices of a GRE kind, and the deletion of tunnels that are greway's by name.

use greway_control::api::Request;
use greway_dialects::iproute2::abort::{Abort, Errno, Wording};
use greway_dialects::iproute2::args::Concern;
use greway_dialects::iproute2::link::{self, LinkCommand, LinkRequest};
use greway_spec::{DeviceName, Mode};

use super::ours::{self, Ours};
use super::{Call, Outcome, TOOL, abort, abort_because, in_installed_words, show, tunnel};
use crate::output as screen;

/// Serves `ip link WORDS`.
pub(super) fn serve(call: &Call<'_>, words: &[String]) -> Outcome {
    if let Some(listing) = show::Listing::of(words) {
        return show::link(call, &listing);
    }
    if let Some(name) = deleted(words) {
        return delete(call, name);
    }
    let concern = link::concern(words);
    if matches!(concern, Concern::None | Concern::List) || !call.enter() {
        return Outcome::Real;
    }
    let ours = Ours::read();
    match &concern {
        Concern::Gre => match tunnel::is_kernels(words_mode(words)) {
            Err(done) => return done,
            // A name that is ours is ours with any backend.
            Ok(true) if !makes_ours(words, &ours) => return Outcome::Real,
            Ok(_) => {}
        },
        Concern::Named(name) if ours.find(name).is_none() => return Outcome::Real,
        _ => {}
    }
    let command = match in_installed_words(|wording| link::parse(words, wording, &ours)) {
        Ok(command) => command,
        Err(wrong) => return abort(&wrong),
    };
    let refused = |errno: Errno| command.refused(errno);
    match &command {
        // Read above, since it needs no kind.
        LinkCommand::NotOurs | LinkCommand::Delete { .. } => Outcome::Real,
        LinkCommand::Add(request) => add(call, request, &ours, &refused),
        LinkCommand::Replace(request) => match ours.find(request.name.as_str()) {
            Some(_) => set(call, request, &ours, &refused),
            None => add(call, request, &ours, &refused),
        },
        LinkCommand::Set(request) => set(call, request, &ours, &refused),
    }
}

/// `ip link delete [dev] NAME [type KIND]`: the name.
pub(super) fn deleted(words: &[String]) -> Option<&str> {
    let words = words.iter().map(String::as_str).collect::<Vec<_>>();
    let (verb, rest) = words.split_first()?;
    if !show::is_delete(verb) {
        return None;
    }
    match rest {
        ["dev", name] | ["dev", name, "type", _] | [name] | [name, "type", _] => Some(name),
        _ => None,
    }
}

fn delete(call: &Call<'_>, name: &str) -> Outcome {
    if !call.enter() {
        return Outcome::Real;
    }
    match Ours::read().find(name) {
        Some(spec) => tunnel::remove(spec, &|errno| Abort::line(2, format!("RTNETLINK answers: {errno}"))),
        None => Outcome::Real,
    }
}

fn makes_ours(words: &[String], ours: &Ours) -> bool {
    match link::parse(words, Wording::default(), ours) {
        Ok(LinkCommand::Add(request) | LinkCommand::Replace(request)) => {
            ours.find(request.name.as_str()).is_some()
        }
        _ => false,
    }
}

fn words_mode(words: &[String]) -> Mode {
    let kind = words.windows(2).find(|pair| pair[0] == "type").map(|pair| pair[1].as_str());
    if kind.is_some_and(|kind| kind.starts_with("ip6")) { Mode::Ip6Gre } else { Mode::Gre }
}

fn add(call: &Call<'_>, request: &LinkRequest, ours: &Ours, refused: &dyn Fn(Errno) -> Abort) -> Outcome {
    if let Some(done) = refuse_unsupported(request, refused) {
        return done;
    }
    let spec = match tunnel::make(&request.draft, ours, refused) {
        Ok(spec) => spec,
        Err(done) => return done,
    };
    let failed = match finish(call, request) {
        Outcome::Done(0) if request.up.is_none() => return tunnel::leave_as_configured(&spec),
        Outcome::Done(0) => return Outcome::Done(0),
        failed => failed,
    };
    // The words say one thing, and half of it is nothing.
    if let Err(done) = tunnel::ask(&Request::Delete { name: spec.name, dry_run: false }, refused) {
        return done;
    }
    failed
}

fn set(call: &Call<'_>, request: &LinkRequest, ours: &Ours, refused: &dyn Fn(Errno) -> Abort) -> Outcome {
    if let Some(done) = refuse_unsupported(request, refused) {
        return done;
    }
    let Some(present) = ours.find(request.name.as_str()) else {
        let errno =
            if ours::has_device(request.name.as_str()) { Errno::NotSupported } else { Errno::NoSuchDevice };
        return abort(&refused(errno));
    };
    match tunnel::change(&request.draft, present, refused) {
        Outcome::Done(0) => finish(call, request),
        failed => failed,
    }
}

/// What the words ask beside the tunnel: up or down here, the rest by the real tool, as for any device.
fn finish(call: &Call<'_>, request: &LinkRequest) -> Outcome {
    if let Some(up) = request.up
        && let Err(reason) = ours::set_up(&request.name, up)
    {
        screen::tool_error(
            TOOL,
            &format!("cannot set {} {}: {reason}", request.name, if up { "up" } else { "down" }),
        );
        return Outcome::Done(2);
    }
    if request.afterwards.is_empty() {
        return Outcome::Done(0);
    }
    afterwards(call, &request.name, &request.afterwards)
}

fn afterwards(call: &Call<'_>, name: &DeviceName, words: &[String]) -> Outcome {
    let before = ["link", "set", "dev", name.as_str()];
    let words = before.into_iter().chain(words.iter().map(String::as_str)).collect::<Vec<_>>();
    call.carry_out(&words)
}

fn refuse_unsupported(request: &LinkRequest, refused: &dyn Fn(Errno) -> Abort) -> Option<Outcome> {
    let reasons = request.unsupported.iter().map(ToString::to_string).collect::<Vec<_>>();
    if reasons.is_empty() {
        return None;
    }
    Some(abort_because(&refused(Errno::NotSupported), &reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_deletion() {
        let name = |text: &str| {
            let words = text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            deleted(&words).map(str::to_owned)
        };
        for text in ["del tun0", "d tun0", "delete dev tun0", "del tun0 type gre", "del dev tun0 type veth"] {
            assert_eq!(name(text).as_deref(), Some("tun0"), "{text}");
        }
        for text in ["del", "del group 5", "del tun0 tun1", "add tun0", "show tun0", ""] {
            assert_eq!(name(text), None, "{text}");
        }
    }
}
