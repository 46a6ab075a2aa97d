//! What outlives whom: pinned links the process, held links nothing, and removal leaves nothing.
//!
//! The bpffs of these tests is mounted nowhere: it lives as long as the test's descriptor of it.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod support;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use greway_fastpath::{
    Ability, Fastpath, FastpathError, Hook, HookChoice, LAYOUT, Options, PinPolicy, Pinning, Point, probe,
    remove_all, remove_deserted,
};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{CapabilitySet, CapabilitySets, UnshareFlags, capabilities, set_capabilities},
};
use support::{bpffs::Bpffs, *};

const POINT: Point = Point::Underlay;

/// Names the bpffs to the process that will be killed, and the way to attach.
const CHILD_BPFFS: &str = "GREWAY_TEST_CHILD_BPFFS";
const CHILD_HOOK: &str = "GREWAY_TEST_CHILD_HOOK";

#[test]
fn pinned_links_count_on_and_are_adopted() {
    let name = "pinned_links_count_on_and_are_adopted";
    in_namespace(name, |wire| {
        let Some(bpffs) = Bpffs::new(name) else { return };
        let options = bpffs.options(HookChoice::Tcx);
        let (first, attachment) = attached(&options, POINT);
        assert_eq!((attachment.hook, attachment.adopted), (Hook::Tcx, false));
        assert!(matches!(first.pinning(), Pinning::Lasting(folder) if folder.starts_with(&bpffs.path)));
        send_and_count(wire, &first, 5);
        let chain = tcx_chain(FAR);
        assert_eq!(chain.len(), 1, "{chain:?}");

        drop(first);
        assert_eq!(tcx_chain(FAR), chain, "the pin holds the program");
        wire.send(IPPROTO_GRE, 0..5);

        let mut second = Fastpath::load_with(&options).unwrap();
        until("it counted while nobody was there", || seen(&second, POINT) == 10);
        let adopted = second.adopt();
        assert!(adopted.errors.is_empty() && adopted.gone.is_empty(), "{adopted:?}");
        let [attachment] = &adopted.attachments[..] else { panic!("{adopted:?}") };
        assert_eq!((attachment.device.as_str(), attachment.point, attachment.adopted), (FAR, POINT, true));
        let replaced = tcx_chain(FAR);
        assert_eq!(replaced.len(), 1, "one program in the place of the other: {replaced:?}");
        assert_ne!(replaced, chain, "the new process runs its own program");
        send_and_count(wire, &second, 15);
        assert!(second.adopt().attachments.is_empty(), "once is enough");

        second.remove_all().unwrap();
        assert_eq!(tcx_chain(FAR), []);
        assert!(!bpffs.has_pins());
    });
}

/// The packaged service has CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and CAP_SYS_ADMIN is not among them: without it a
/// process may not make descriptors from the numbers of programs.
#[test]
fn t9_adopting_needs_no_cap_sys_admin() {
    let name = "t9_adopting_needs_no_cap_sys_admin";
    in_namespace(name, |wire| {
        let Some(bpffs) = Bpffs::new(name) else { return };
        for hook in [HookChoice::Tcx, HookChoice::Clsact] {
            have_only(CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::NET_ADMIN);
            let options = bpffs.options(hook);
            let (first, _attachment) = attached(&options, POINT);
            drop(first);
            let mut second = Fastpath::load_with(&options).unwrap();
            assert!(second.is_attached(FAR, POINT));
            let adopted = second.adopt();
            assert!(adopted.errors.is_empty() && adopted.gone.is_empty(), "{adopted:?}");
            let [attachment] = &adopted.attachments[..] else { panic!("{adopted:?}") };
            assert!(attachment.adopted, "{attachment:?}");
            let before = seen(&second, POINT);
            send_and_count(wire, &second, before + 5);
            second.detach(attachment).unwrap();
            let attachment = second.attach(FAR, POINT).unwrap();
            assert!(!attachment.adopted, "{attachment:?}");
            second.remove_all().unwrap();
            assert!(!bpffs.has_pins());
            have_only(CapabilitySet::all());
            assert_eq!(tcx_chain(FAR), []);
        }
    });
}

/// For the calling thread alone: these of its capabilities are in force.
fn have_only(wanted: CapabilitySet) {
    let sets = capabilities(None).unwrap();
    let effective = sets.permitted & wanted;
    set_capabilities(None, CapabilitySets { effective, ..sets }).unwrap();
}

/// A version of greway with other maps left its programs: they carry until ours are there, and go then.
#[test]
fn what_another_layout_left_goes_once_ours_is_there() {
    let name = "what_another_layout_left_goes_once_ours_is_there";
    in_namespace(name, |wire| {
        let Some(bpffs) = Bpffs::new(name) else { return };
        let options = bpffs.options(HookChoice::Tcx);
        let (first, _attachment) = attached(&options, POINT);
        drop(first);
        let layout = |number: u32| bpffs.path.join(format!("greway/v{number}"));
        std::fs::rename(layout(LAYOUT), layout(LAYOUT + 1)).unwrap();

        let (mut second, attachment) = attached(&options, POINT);
        assert!(!attachment.adopted);
        assert_eq!(tcx_chain(FAR).len(), 2, "both are there for a while");
        send_and_count(wire, &second, 5);
        second.remove_other_layouts().unwrap();
        assert_eq!(tcx_chain(FAR).len(), 1);
        assert!(!layout(LAYOUT + 1).exists() && layout(LAYOUT).exists());
        send_and_count(wire, &second, 10);
        second.detach(&attachment).unwrap();
        drop(second);

        // And an uninstaller finds them too.
        let (third, _attachment) = attached(&options, POINT);
        drop(third);
        std::fs::rename(layout(LAYOUT), layout(LAYOUT + 1)).unwrap();
        remove_all(&PinPolicy::At(bpffs.path.clone())).unwrap();
        assert_nothing_left(&bpffs, "another layout");
    });
}

#[test]
fn a_killed_process_leaves_its_programs_counting() {
    let name = "a_killed_process_leaves_its_programs_counting";
    if let Some(path) = std::env::var_os(CHILD_BPFFS) {
        return be_killed(Path::new(&path));
    }
    in_namespace(name, |wire| {
        let Some(bpffs) = Bpffs::new(name) else { return };
        for (hook, word) in [(HookChoice::Tcx, "tcx"), (HookChoice::Clsact, "clsact")] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture", "--test-threads=1"])
                .env(CHILD_BPFFS, &bpffs.path)
                .env(CHILD_HOOK, word)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let attached = lines.map_while(Result::ok).any(|line| line.ends_with("attached"));
            assert!(attached, "the child attaches by {word}");
            child.kill().unwrap();
            child.wait().unwrap();

            let mut fastpath = Fastpath::load_with(&bpffs.options(hook)).unwrap();
            send_and_count(wire, &fastpath, 5);
            let adopted = fastpath.adopt();
            assert!(adopted.errors.is_empty(), "{adopted:?}");
            assert_eq!(adopted.attachments.len(), 1, "{word}: {adopted:?}");
            send_and_count(wire, &fastpath, 10);
            drop(fastpath);

            // And without loading anything: what `greway daemon --stop` and an uninstaller do.
            remove_all(&PinPolicy::At(bpffs.path.clone())).unwrap();
            assert_nothing_left(&bpffs, word);
        }
    });
}

/// The child: attaches, says so, and waits for its end.
fn be_killed(bpffs: &Path) {
    let hook = match std::env::var(CHILD_HOOK).as_deref() {
        Ok("tcx") => HookChoice::Tcx,
        _ => HookChoice::Clsact,
    };
    let options = Options { pins: PinPolicy::At(bpffs.to_owned()), hook, ..options() };
    let (_fastpath, _attachment) = attached(&options, POINT);
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\nattached").unwrap();
    stdout.flush().unwrap();
    // Ends when the parent does, should that forget to kill.
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn without_a_bpffs_programs_end_with_their_holder() {
    in_namespace("without_a_bpffs_programs_end_with_their_holder", |wire| {
        for hook in [HookChoice::Tcx, HookChoice::Clsact] {
            let (fastpath, _attachment) = attached(&Options { hook, ..options() }, POINT);
            assert!(matches!(fastpath.pinning(), Pinning::Process(_)), "{:?}", fastpath.pinning());
            send_and_count(wire, &fastpath, 5);
            drop(fastpath);
            until("the kernel lets go of the link", || tcx_chain(FAR).is_empty());
            if let Some(lists) = tc_lists() {
                assert_eq!(lists, "", "{hook:?}");
            }
        }
    });
}

#[test]
fn a_clsact_of_somebody_else_stays() {
    let name = "a_clsact_of_somebody_else_stays";
    in_namespace(name, |_wire| {
        if tc_lists().is_none() {
            return not_run(name, "no tc to make somebody else's clsact with");
        }
        let tc = |words: &[&str]| {
            let status = Command::new("tc").args(words).status().unwrap();
            assert!(status.success(), "tc {words:?}: {status}");
        };
        tc(&["qdisc", "add", "dev", FAR, "clsact"]);
        // A classic BPF program of one instruction, "no match": small kernels have no other classifier.
        tc(&["filter", "add", "dev", FAR, "ingress", "bpf", "bytecode", "1,6 0 0 0", "flowid", "1:1"]);
        let theirs = tc_lists().unwrap();
        let (mut fastpath, attachment) = attached(&Options { hook: HookChoice::Clsact, ..options() }, POINT);
        let with_ours = tc_lists().unwrap();
        let place = |word: &str| with_ours.find(word).unwrap_or_else(|| panic!("no {word} in {with_ours}"));
        assert!(place("bytecode") < place("greway_underlay"), "ours is behind: {with_ours}");
        fastpath.detach(&attachment).unwrap();
        assert_eq!(tc_lists().unwrap(), theirs);

        tc(&["filter", "del", "dev", FAR, "ingress"]);
        let (fastpath, _attachment) = attached(&Options { hook: HookChoice::Clsact, ..options() }, POINT);
        drop(fastpath);
        assert!(tc_lists().unwrap().contains("clsact"), "empty, but not ours");
    });
}

#[test]
fn the_pin_of_a_device_that_is_gone_is_removed() {
    let name = "the_pin_of_a_device_that_is_gone_is_removed";
    in_namespace(name, |wire| {
        let Some(bpffs) = Bpffs::new(name) else { return };
        let options = bpffs.options(HookChoice::Tcx);
        let (first, attachment) = attached(&options, POINT);
        drop(first);
        wire.delete();

        let mut second = Fastpath::load_with(&options).unwrap();
        let adopted = second.adopt();
        assert!(adopted.attachments.is_empty() && adopted.errors.is_empty(), "{adopted:?}");
        assert_eq!(adopted.gone.len(), 1, "{adopted:?}");
        let error = second.detach(&attachment).unwrap_err();
        assert!(matches!(error, FastpathError::NotAttached { .. }), "{error}");
        second.remove_all().unwrap();
        assert!(!bpffs.has_pins());
    });
}

/// A deleted network namespace cannot tidy up after itself: the next daemon anywhere does, and touches nobody else's.
#[test]
fn what_a_deleted_namespace_left_is_removed_by_any_daemon() {
    let name = "what_a_deleted_namespace_left_is_removed_by_any_daemon";
    let Some(bpffs) = Bpffs::new(name) else { return };
    let options = bpffs.options(HookChoice::Tcx);
    let folders = || {
        let layout = bpffs.path.join(format!("greway/v{LAYOUT}"));
        let entries = std::fs::read_dir(layout).map(|entries| entries.map(|entry| entry.unwrap().path()));
        entries.map_or_else(|_| Vec::new(), |entries| entries.collect::<Vec<_>>())
    };
    // It ends with its thread, and the devices in it a moment later.
    in_namespace(name, |_wire| drop(attached(&options, POINT)));
    let [deserted] = &folders()[..] else { return not_run(name, "no network namespaces") };
    in_namespace(name, |wire| {
        let (first, _attachment) = attached(&options, POINT);
        assert_eq!(folders().len(), 2, "no namespace takes over another's: {:?}", folders());
        send_and_count(wire, &first, 5);
        let at = PinPolicy::At(bpffs.path.clone());
        let tidy = |lives: bool| remove_deserted(&at, |_| lives).unwrap();
        let link = deserted.join(format!("{}-{}", POINT.name(), wire.pair.peer_index));
        let gone = || matches!(greway_linux::bpf::device_of_pinned_link(&link), Ok(0));
        until("its devices are gone", || !link.exists() || gone());
        assert!(tidy(true).is_empty(), "a daemon is there");
        assert_eq!(tidy(false), std::slice::from_ref(deserted));
        assert_eq!(folders().len(), 1);
        assert!(tidy(false).is_empty());
        send_and_count(wire, &first, 10);
        first.remove_all().unwrap();
        assert!(!bpffs.has_pins());
    });
}

#[test]
fn a_device_that_goes_away_is_detached_quietly() {
    let name = "a_device_that_goes_away_is_detached_quietly";
    in_namespace(name, |wire| {
        let Some(bpffs) = Bpffs::new(name) else { return };
        let (mut fastpath, attachment) = attached(&bpffs.options(HookChoice::Auto), POINT);
        wire.delete();
        fastpath.detach(&attachment).unwrap();
        fastpath.remove_all().unwrap();
        assert!(!bpffs.has_pins());
    });
}

#[test]
fn refusals_name_the_device_and_the_kernels_words() {
    in_namespace("refusals_name_the_device_and_the_kernels_words", |_wire| {
        let (mut fastpath, attachment) = attached(&options(), POINT);
        let error = fastpath.attach("nosuch0", POINT).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no device nosuch0 in this network namespace: No such device (os error 19)"
        );
        let error = fastpath.attach(FAR, POINT).unwrap_err();
        assert_eq!(error.to_string(), "the underlay program is on far0 already");
        fastpath.detach(&attachment).unwrap();
        let error = fastpath.detach(&attachment).unwrap_err();
        assert_eq!(error.to_string(), "the underlay program is not on far0");

        let broken = Options { object: Some(b"not an object".as_slice().into()), ..options() };
        let error = Fastpath::load_with(&broken).unwrap_err();
        assert!(error.to_string().starts_with("cannot load the BPF programs: "), "{error}");
    });
}

/// `ip netns exec` gives its command such a mount namespace: pins there would die with it.
#[test]
fn a_private_mount_namespace_is_no_place_for_pins() {
    let name = "a_private_mount_namespace_is_no_place_for_pins";
    in_namespace(name, |wire| {
        if let Err(errno) = mount_private_bpffs() {
            return not_run(name, &format!("no private mount namespace with a bpffs: {errno}"));
        }
        let by_default = Options { pins: PinPolicy::Auto, ..options() };
        let (fastpath, _attachment) = attached(&by_default, POINT);
        let Pinning::Process(reason) = fastpath.pinning() else { panic!("{:?}", fastpath.pinning()) };
        assert!(reason.contains("private mount namespace"), "{reason}");
        assert!(!Path::new("/sys/fs/bpf/greway").exists());
        send_and_count(wire, &fastpath, 5);
        let Ability::Refused(words) = probe().lasting_bpffs else { panic!("it does not last") };
        assert_eq!(words, *reason);
    });
}

/// For the calling thread alone: a bpffs at the usual place, in a mount namespace of its own.
fn mount_private_bpffs() -> rustix::io::Result<()> {
    #[expect(deprecated, reason = "the unsafe successor warns of CLONE_FILES, which is not used here")]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("bpf", "/sys/fs/bpf", "bpf", MountFlags::empty(), None)
}

#[test]
fn what_is_no_bpffs_is_not_used() {
    in_namespace("what_is_no_bpffs_is_not_used", |_wire| {
        let nowhere = PathBuf::from("/proc");
        let fastpath = Fastpath::load_with(&Options { pins: PinPolicy::At(nowhere), ..options() }).unwrap();
        assert_eq!(*fastpath.pinning(), Pinning::Process("/proc is not in a bpffs".to_owned()));
    });
}

fn send_and_count(wire: &Wire, fastpath: &Fastpath, seen_then: u64) {
    wire.send(IPPROTO_GRE, 0..5);
    until("five more are counted", || seen(fastpath, POINT) == seen_then);
}

fn assert_nothing_left(bpffs: &Bpffs, way: &str) {
    assert_eq!(tcx_chain(FAR), [], "{way}");
    assert!(!bpffs.has_pins(), "{way}");
    if let Some(lists) = tc_lists() {
        assert_eq!(lists, "", "{way}");
    }
}
