//! The probe tells what is so, and leaves nothing behind.

mod support;

use greway_fastpath::{Ability, Fastpath, HookChoice, Options, Point, probe};
use support::*;

#[test]
fn the_probe_agrees_with_the_real_thing_and_leaves_nothing() {
    in_namespace("the_probe_agrees_with_the_real_thing_and_leaves_nothing", |_wire| {
        let found = probe();
        assert_eq!(found.load, Ability::Works, "{found}");
        for (hook, ability) in [(HookChoice::Tcx, &found.tcx), (HookChoice::Clsact, &found.clsact)] {
            let mut fastpath = Fastpath::load_with(&Options { hook, ..options() }).unwrap();
            let attached = fastpath.attach(FAR, Point::Overlay);
            assert_eq!(attached.is_ok(), ability.works(), "{hook:?}: {attached:?}, {ability}");
        }
        assert!(found.usable());
        assert_eq!(tcx_chain("lo"), []);
        if let Ok(output) =
            std::process::Command::new("tc").args(["qdisc", "show", "dev", "lo", "clsact"]).output()
        {
            assert_eq!(String::from_utf8_lossy(&output.stdout), "", "the clsact of the probe is gone");
        }
        assert_eq!(probe(), found, "asked twice, the answer is the same");
    });
}

/// Runs with and without privilege: either way there is an answer in words, and no panic.
#[test]
fn a_refusal_is_in_the_kernels_words() {
    let found = std::thread::spawn(|| {
        // A namespace of its own where that is possible; without privilege nothing is touched anyway.
        let alone = greway_linux::netns::unshare_net();
        (alone.is_ok() || !rustix::process::geteuid().is_root()).then(probe)
    });
    let Some(found) = found.join().unwrap() else {
        return not_run("a_refusal_is_in_the_kernels_words", "root, but no network namespace to try it in");
    };
    for ability in [found.load, found.tcx, found.clsact, found.lasting_bpffs, found.mount_bpffs] {
        if let Ability::Refused(words) = ability {
            assert!(!words.is_empty());
        }
    }
}
