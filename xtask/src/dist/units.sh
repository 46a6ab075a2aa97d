# The life of a package's units under systemd, which runs this host.
fail() { printf '%s\n' "units: $*" >&2; systemctl --no-pager status 'greway*' >&2 || true; exit 1; }
until_() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 1000 ] || fail "in vain: $*"
        sleep 0.01
    done
}
main() { systemctl show --value --property MainPID greway.service; }
is() { [ "$(systemctl is-active "$1" || true)" = "$2" ] || fail "$1 is $(systemctl is-active "$1" || true), not $2"; }
shown() { greway tunnel show | grep -q "^$1: gre/ip remote"; }
renewed() { [ "$(main)" != 0 ] && [ "$(main)" != "$1" ] && shown tun0; }

dpkg --install /packages/first.deb >/dev/null
is greway.socket inactive
is greway.service inactive
[ "$(systemctl is-enabled greway.socket || true)" = disabled ] || fail "installing enabled the socket"

cat >/etc/greway/tunnels.d/tun0.toml <<'FILE'
local = "10.0.0.1"
remote = "10.0.0.2"
[inner]
address = "172.16.0.1"
peer = "172.16.0.2/30"
routes = ["10.10.2.0/24"]
forward = true
snat = "10.0.0.1"
FILE
systemctl enable --now greway@tun0
for unit in greway@tun0.service greway.service greway.socket; do is "$unit" active; done
# In the sandbox it still can what a file asks for.
[ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] || fail "no forwarding"
case $(nft list tables | sort | tr '\n' ' ') in
    'table ip greway-tun0 table netdev greway-tun0 ') ;;
    # On the fast path a program is the seal.
    'table ip greway-tun0 ') greway status --json --no-echo | grep -Eq '"point": ?"overlay"' || fail "$(nft list tables)" ;;
    *) fail "$(nft list tables)" ;;
esac
ip route show 10.10.2.0/24 | grep -q 'dev tun0' || fail "no route"
# NET_ADMIN, NET_RAW, PERFMON, BPF, and no way to more.
grep -q '^CapBnd:.*000000c000003000$' "/proc/$(main)/status" || fail "$(grep Cap "/proc/$(main)/status")"
grep -q '^NoNewPrivs:.*1$' "/proc/$(main)/status" || fail "new privileges"
grep -q '^Seccomp:.*2$' "/proc/$(main)/status" || fail "no seccomp filter"

# The same device all the time: killed, upgraded, stopped.
device=$(cat /sys/class/net/tun0/ifindex)
before=$(main)
kill -9 "$before"
until_ renewed "$before"

ip netns add blue
ip netns exec blue ip link set lo up
ip netns exec blue greway tunnel add tun5 mode gre local 127.0.0.1 remote 127.0.0.2
blue=$(systemctl list-units --plain --no-legend 'greway-net-*' | cut -d ' ' -f 1)
before=$(main)
before_blue=$(systemctl show --value --property MainPID "$blue")
dpkg --install /packages/second.deb >/dev/null
until_ renewed "$before"
case $(readlink "/proc/$(main)/exe") in
    *deleted*) fail "the old program runs on" ;;
esac
[ "$(systemctl show --value --property MainPID "$blue")" != "$before_blue" ] || fail "the old program runs on in blue"
ip netns exec blue greway tunnel show | grep -q '^tun5: ' || fail "the upgrade lost tun5"

systemctl stop greway.service 2>/dev/null
is greway.socket active
is greway@tun0.service active
# A verb that changes something wakes it.
greway tunnel change tun0 ttl 9 2>/dev/null
greway tunnel show | grep -q 'ttl 9' || fail "no change"
is greway.service active
[ "$(cat /sys/class/net/tun0/ifindex)" = "$device" ] || fail "tun0 was made again"

greway daemon --stop >/dev/null
stopped() { [ "$(systemctl show --value --property ExecMainStatus greway.service)" = 78 ]; }
until_ stopped
is greway.service inactive
[ ! -e /sys/class/net/tun0 ] || fail "daemon --stop leaves tun0"
systemctl restart greway@tun0
[ -e /sys/class/net/tun0 ] || fail "restart makes no tun0"
systemctl stop greway@tun0
[ ! -e /sys/class/net/tun0 ] || fail "stop leaves tun0"
systemctl start greway@tun0

dpkg --remove greway >/dev/null
[ "$(ip -o link show | grep -vc ': lo: ')" = 0 ] || fail "removal leaves devices: $(ip -o link show)"
[ "$(ip netns exec blue ip -o link show | grep -vc ': lo: ')" = 0 ] || fail "removal leaves devices in blue"
[ -z "$(nft list tables)" ] || fail "removal leaves tables: $(nft list tables)"
[ "$(cat /proc/sys/net/ipv4/ip_forward)" = 0 ] || fail "removal leaves forwarding on"
[ ! -e /run/greway ] || fail "removal leaves state: $(ls -R /run/greway)"
[ -z "$(systemctl list-units --all --plain --no-legend 'greway*')" ] || fail "removal leaves units"
[ -z "$(find /etc/systemd -name '*greway*')" ] || fail "removal leaves an enabled unit"
[ -e /etc/greway/tunnels.d/tun0.toml ] || fail "removal takes configuration"
dpkg --purge greway >/dev/null
[ ! -e /etc/greway ] || fail "purge leaves configuration"
