//! Network namespaces: each thread its own, and no two alike.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::in_namespace;
use greway_linux::netns::{self, NetNamespace};

#[test]
fn cookies_and_inodes_tell_namespaces_apart() {
    let outside = (NetNamespace::current().unwrap(), netns::cookie().unwrap());
    in_namespace("cookies_and_inodes_tell_namespaces_apart", || {
        let inside = NetNamespace::current().unwrap();
        assert!(!inside.is_same(&outside.0).unwrap());
        assert_ne!(inside.inode().unwrap(), outside.0.inode().unwrap());
        let cookie = netns::cookie().unwrap();
        // Both are `None` on a kernel without cookies.
        assert_eq!(cookie.is_some(), outside.1.is_some());
        assert!(cookie.is_none() || cookie != outside.1);

        let there =
            outside.0.run_in(|| (NetNamespace::current().unwrap(), netns::cookie().unwrap())).unwrap();
        assert!(there.0.is_same(&outside.0).unwrap());
        assert_eq!(there.1, outside.1);
        // This thread has not moved.
        assert!(NetNamespace::current().unwrap().is_same(&inside).unwrap());
        assert!(NetNamespace::from_pid(std::process::id()).unwrap().is_same(&outside.0).unwrap());

        // The handle keeps a namespace alive and reachable when its thread is gone.
        let made = inside.run_in(|| {
            netns::unshare_net().unwrap();
            NetNamespace::current().unwrap()
        });
        let made = made.unwrap();
        made.try_clone().unwrap().enter().unwrap();
        assert!(NetNamespace::current().unwrap().is_same(&made).unwrap());
        let all = [&outside.0, &inside, &made].map(|namespace| namespace.inode().unwrap());
        assert_eq!(BTreeSet::from(all).len(), 3);
    });
}

#[test]
fn what_is_no_network_namespace_is_refused() {
    assert_eq!(NetNamespace::from_path(Path::new("/proc/nosuch")).unwrap_err().raw_os_error(), Some(2));
    let file = NetNamespace::from_path(Path::new("/proc/self/status")).unwrap();
    assert_eq!(file.enter().unwrap_err().raw_os_error(), Some(22));
    let mut ran = false;
    assert!(file.run_in(|| ran = true).is_err());
    assert!(!ran);
    let mount = NetNamespace::from_path(Path::new("/proc/self/ns/mnt")).unwrap();
    assert_eq!(mount.enter().unwrap_err().raw_os_error(), Some(22));
}

#[test]
fn a_panic_inside_goes_on_outside() {
    in_namespace("a_panic_inside_goes_on_outside", || {
        let inside = NetNamespace::current().unwrap();
        let caught = std::panic::catch_unwind(|| inside.run_in(|| panic!("inside")));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
    });
}
