//! `greway purge`: what greway made goes, wherever it is, and nothing else does.
//!
//! It is about a whole host, so each test has one of its own: namespaces for network, processes and mounts, with
//! overlays where a host has its state and configuration.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::process::Command;

use greway_testbed::{Host, privilege, require};
use support::{GREWAY, Node, Output};

/// What a host has of its own: /run is empty, and what is written below /etc and /var/lib goes into memory.
const HOST: &str = r#"
    fail() { echo "$*" >&2; exit 1; }
    overlay() {
        mkdir "$HERE/$2"
        mount -t tmpfs "$2" "$HERE/$2"
        mkdir "$HERE/$2/upper" "$HERE/$2/work"
        mount -t overlay "$2" -o "lowerdir=$1,upperdir=$HERE/$2/upper,workdir=$HERE/$2/work" "$1"
    }
    mount -t tmpfs run /run
    overlay /etc etc
    overlay /var/lib var
    overlay /usr/local local
    ip link set lo up
    ip address add 10.0.0.1/32 dev lo
"#;

/// Runs a script on such a host.
fn on_a_host(node: &Node, script: &str) -> Output {
    let mut command = Command::new("unshare");
    let script = format!("{HOST}{script}");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", &script]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("GREWAY", GREWAY);
    command.env("HERE", node.folder()).env("LC_ALL", "C");
    node.execute(command)
}

#[test]
fn everything_of_ours_goes_and_nothing_of_anybody_elses() {
    require!(privilege::check());
    let host = Host::new("alone").unwrap();
    let node = Node::by_namespace(&host);
    let output = on_a_host(
        &node,
        r#"
        # Somebody else's, by names like ours.
        ip link add tun9 type veth peer name gw-tun9
        nft add table ip greway-mine
        mkdir -p /etc/greway/tunnels.d /etc/systemd/system/multi-user.target.wants
        wants=/etc/systemd/system/multi-user.target.wants
        ln -s /usr/lib/systemd/system/other.service "$wants/other.service"
        ls "$wants" > "$HERE/wants"
        ip link show > "$HERE/before"

        # A daemon that is to die.
        "$GREWAY" daemon 2> "$HERE/daemon" &
        daemon=$!
        tries=0
        until "$GREWAY" tunnel show > "$HERE/show" && [ -S /run/greway/net-*/control.sock ]; do
            tries=$((tries + 1))
            [ "$tries" -lt 800 ]
            sleep 0.01
        done
        # A daemon that runs, in a namespace with a name.
        ip netns add blue
        ip netns exec blue ip link set lo up
        ip netns exec blue ip address add 10.0.0.1/32 dev lo
        ip netns exec blue "$GREWAY" tunnel add tun1 mode gre local 10.0.0.1 remote 10.0.0.3 2> "$HERE/started"
        printf '%s\n' 'name = "tun0"' '[outer]' > /etc/greway/tunnels.d/tun0.toml
        "$GREWAY" tunnel add tun0 mode gre local 10.0.0.1 remote 10.0.0.2
        "$GREWAY" tunnel add tun2 mode gre local 10.0.0.1 remote 10.0.0.4
        # One of its devices is told of by no state file any more.
        kill -9 "$daemon"
        wait "$daemon" || true
        rm /run/greway/net-*/tunnels/tun2.*
        # A namespace that is gone, and a unit that was enabled.
        mkdir -p /run/greway/net-99999999/tunnels
        touch /run/greway/net-99999999/tunnels/tun7.json
        ln -s /usr/lib/systemd/system/greway@.service "$wants/greway@tun0.service"
        mkdir -p /var/lib/greway

        "$GREWAY" purge --dry-run > "$HERE/dry"
        [ -L "$wants/greway@tun0.service" ]
        for dev in tun0 gw-tun0 tun2; do ip link show "$dev" > "$HERE/show"; done
        ip netns exec blue ip link show tun1 > "$HERE/show"
        grep -v '^would ' "$HERE/dry" && fail "a dry run says what was done"

        "$GREWAY" purge
        echo "--"
        cat "$HERE/dry"
        ip link show > "$HERE/after"
        diff "$HERE/before" "$HERE/after" || fail "links"
        [ "$(nft list tables)" = "table ip greway-mine" ] || fail "tables: $(nft list tables)"
        [ -z "$(ip netns exec blue nft list tables)" ] || fail "tables in blue"
        [ "$(ip netns exec blue ip -o link show | grep -vc ': lo: ')" = 0 ] || fail "links in blue"
        [ ! -e /run/greway ] || fail "state: $(ls -R /run/greway)"
        [ ! -e /var/lib/greway ] || fail "kept state"
        ls "$wants" | diff "$HERE/wants" - || fail "units"
        [ -e /etc/greway/tunnels.d/tun0.toml ] || fail "configuration"
        # Who looked after a daemon sees its end a moment later.
        tries=0
        while :; do
            left=
            for process in /proc/[0-9]*; do
                case $(readlink "$process/exe" || true) in
                    */greway) left="$left $process" ;;
                esac
            done
            [ -n "$left" ] || break
            tries=$((tries + 1))
            [ "$tries" -lt 400 ] || fail "processes:$left"
            sleep 0.01
        done

        echo "-- again"
        "$GREWAY" purge --keep-config
        echo "-- with configuration"
        "$GREWAY" purge --config --dry-run
        [ -e /etc/greway/tunnels.d/tun0.toml ] || fail "a dry run removes configuration"
        "$GREWAY" purge --config
        [ ! -e /etc/greway ] || fail "configuration is left"
        "#,
    );
    let output = output.ok().remarks(&["/etc/greway stays; `greway purge --config` removes it too"]);
    let (done, rest) = output.stdout.split_once("--\n").unwrap();
    for line in [
        "disable /etc/systemd/system/multi-user.target.wants/greway@tun0.service\n",
        "remove the device tun2 in this network namespace\n",
        "end the daemon in the network namespace blue\n",
        "end the daemon in this network namespace\n",
        "forget the tunnels of a network namespace that is gone: /run/greway/net-99999999\n",
    ] {
        assert!(done.contains(line), "{line}: {output}");
    }
    let (dry, rest) = rest.split_once("-- again\n").unwrap();
    for line in [
        "would remove tunnel tun0 in this network namespace\n",
        "would remove the device tun2 in this network namespace\n",
        "would remove tunnel tun1 in the network namespace blue\n",
    ] {
        assert!(dry.contains(line), "{line}: {output}");
    }
    assert_eq!(
        rest,
        "nothing of greway's is on this host\n-- with configuration\nwould remove /etc/greway\nremove /etc/greway\n",
        "{output}"
    );
}

#[test]
fn only_root_may_and_two_wishes_at_once_are_none() {
    require!(privilege::check());
    let host = Host::new("alone").unwrap();
    let node = Node::new(&host);
    let refused = node.nobody("purge --dry-run").refused(&["needs root", "sudo"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert_eq!(node.words("purge --config --keep-config").refused(&["cannot be used with"]).code, Some(2));
}

/// Where something cannot be removed the rest is, and the exit code says that not all of it went.
#[test]
fn what_cannot_be_removed_is_told_and_the_rest_goes() {
    require!(privilege::check());
    let host = Host::new("alone").unwrap();
    let node = Node::by_namespace(&host);
    let output = on_a_host(
        &node,
        r#"
        GREWAY_SOCKET="$HERE/own.sock" "$GREWAY" tunnel add tun0 mode gre local 10.0.0.1 remote 10.0.0.2
        mkdir -p /etc/greway/tunnels.d
        touch /etc/greway/tunnels.d/tun0.toml
        code=0
        "$GREWAY" purge --config || code=$?
        echo "exit code $code"
        [ ! -e /etc/greway ]
        ip link show tun0 > "$HERE/show"
        "$GREWAY" --socket "$HERE/own.sock" purge
        if ip link show tun0 2> "$HERE/show"; then fail "the socket was named"; fi
        "#,
    );
    output.ok().says(&["remove /etc/greway\nexit code 1\n", "end the daemon\n"]).remarks(&[
        "greway: a daemon with a socket of its own still runs in this network namespace",
        "greway --socket PATH daemon --stop",
    ]);
}
