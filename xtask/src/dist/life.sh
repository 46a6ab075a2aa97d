# The life of a package on a host without systemd.
fail() { printf '%s\n' "life: $*" >&2; exit 1; }

dpkg --install /packages/first.deb >/dev/null
greway --version
[ ! -e /run/greway ] || fail "installing started something: $(ls -R /run/greway)"
[ -z "$(find /etc/systemd /etc/NetworkManager -name '*greway*' 2>/dev/null)" ] || fail "installing enabled something"
dpkg --verify greway
dpkg --listfiles greway >/run/files

# Units: with the program that they name.
systemd-analyze verify --man=no greway.socket greway.service greway@tun0.service greway-boot.service greway-nm.service

# A tunnel, a file, and a unit that somebody enabled.
wants=/etc/systemd/system/multi-user.target.wants
mkdir -p "$wants"
ln -s /usr/lib/systemd/system/greway@.service "$wants/greway@tun0.service"
greway tunnel add tun0 mode gre local 10.0.0.1 remote 10.0.0.2
printf '%s\n' '# kept' >/etc/greway/tunnels.d/kept

dpkg --install /packages/second.deb >/dev/null
[ "$(dpkg-query --show --showformat='${Version}' greway)" != "$(dpkg-deb --field /packages/first.deb Version)" ]
greway tunnel show | grep -q '^tun0: gre/ip remote 10.0.0.2' || fail "the upgrade lost the tunnel"
ip link show tun0 >/dev/null

dpkg --remove greway
[ "$(ip -o link show | grep -vc ': lo: ')" = 0 ] || fail "removal leaves devices: $(ip -o link show)"
[ -z "$(nft list tables)" ] || fail "removal leaves tables: $(nft list tables)"
[ ! -e /run/greway ] || fail "removal leaves state: $(ls -R /run/greway)"
[ ! -L "$wants/greway@tun0.service" ] || fail "removal leaves an enabled unit"
[ -e /etc/greway/tunnels.d/kept ] || fail "removal takes configuration"

dpkg --purge greway
[ ! -e /etc/greway ] || fail "purge leaves configuration"
while read -r path; do
    case $path in
        *greway*) [ ! -e "$path" ] || fail "purge leaves $path" ;;
    esac
done </run/files
for process in /proc/[0-9]*; do
    case $(readlink "$process/exe" 2>/dev/null || true) in
        *greway*) fail "purge leaves a process: $(tr '\0' ' ' <"$process/cmdline")" ;;
    esac
done
