//! `ip -n NAME` and `ip netns exec NAME`: a tunnel is made where it is asked for.

use greway_testbed::{Host, privilege, require};

use crate::Shimmed;
use crate::support::GREWAY;

/// Named namespaces live in /run/netns, and greway finds its daemon by namespace in /run/greway: so this one has a
/// /run of its own, and a daemon in each of two namespaces.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs run /run
mkdir -p /run/netns
ip netns add blue
ip netns exec blue ip link set lo up
GREWAY daemon >/dev/null 2>&1 & here=$!
ip netns exec blue GREWAY daemon >/dev/null 2>&1 & there=$!
trap 'kill $here $there; wait; ip netns del blue' EXIT
tries=0
until [ "$(ls /run/greway/net-*/control.sock 2>/dev/null | wc -l)" = 2 ]; do
    tries=$((tries + 1)); [ $tries -lt 400 ]; sleep 0.02
done
ip -n blue tunnel add tun1 mode gre remote 1.2.3.4
ip netns exec blue ip tunnel add tun2 mode gre remote 1.2.3.5
ip tunnel add tun3 mode gre remote 1.2.3.6
echo "here: $(ip tunnel show | cut -d: -f1 | xargs)"
echo "blue: $(ip -n blue tunnel show | cut -d: -f1 | xargs)"
echo "inside: $(ip netns exec blue ip -d link show type gre | grep -c '    gre remote')"
printf 'addr add 172.16.0.1/30 dev tun1\ntunnel change tun1 ttl 9\naddr show tun1\n' > batch
ip -n blue -4 -o -b batch | cut -d' ' -f2,7
ip -netns blue tunnel show tun1
ip -n blue link del tun1
ip -n blue tunnel del tun2
ip tunnel del tun3
echo "left: $(ip -n blue tunnel show)$(ip tunnel show)"
"#;

#[test]
fn tunnels_are_made_where_they_are_asked_for() {
    require!(privilege::check());
    let host = Host::new("host").unwrap();
    let ours = Shimmed::new(&host);
    let script = SCRIPT.replace("GREWAY", GREWAY);
    let mut command = ours.shell(&format!("exec unshare -m sh -c '{}'", script.replace('\'', "'\\''")));
    command.env_remove("GREWAY_SOCKET");
    let done = ours.node.execute(command).ok();
    let lines = done.stdout.lines().collect::<Vec<_>>();
    assert_eq!(
        lines,
        [
            "here: tun3",
            "blue: tun1 tun2",
            "inside: 2",
            "tun1 172.16.0.1/30",
            "tun1: gre/ip remote 1.2.3.4 local any ttl 9",
            "left: ",
        ],
        "{done}"
    );
}
