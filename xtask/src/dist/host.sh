# A host to live on: sh -euc THIS host FOLDER CGROUPS PROGRAM…, as PID 1 of namespaces of its own.
#
# Its files are this machine's under an overlay in FOLDER, which is a tmpfs with the packages in /packages. CGROUPS is
# one of `none`, `unified`, `hybrid`: the cgroup file systems that systemd wants to find.
folder=$1
cgroups=$2
shift 2
host=$folder/host
mount --make-rprivate /
mount -t overlay life -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$host"
mount -t proc proc "$host/proc"
mount -t sysfs sys "$host/sys"
mount -t tmpfs dev "$host/dev"
for node in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "$host/dev/${node%:*}" c 1 "${node#*:}"
done
ln -s /proc/self/fd "$host/dev/fd"
mount -t tmpfs run "$host/run"
case $cgroups in
    unified)
        mount -t cgroup2 cgroup2 "$host/sys/fs/cgroup"
        ;;
    hybrid)
        mount -t tmpfs cgroup "$host/sys/fs/cgroup"
        mkdir "$host/sys/fs/cgroup/systemd" "$host/sys/fs/cgroup/unified"
        mount -t cgroup -o none,name=systemd cgroup "$host/sys/fs/cgroup/systemd"
        mount -t cgroup2 cgroup2 "$host/sys/fs/cgroup/unified"
        ;;
esac
mkdir "$host/packages" "$host/old"
mount --bind "$folder/packages" "$host/packages"
# What starts with systemd elsewhere would set this machine's clock, sysctls and devices; here nothing does.
rm -rf "$host"/usr/lib/systemd/system/*.wants "$host"/etc/systemd/system/*.wants \
    "$host"/usr/lib/systemd/system-generators "$host/etc/fstab"
# A policy of this machine's that services are not started (containers have one) is not what is tested.
rm -f "$host/usr/sbin/policy-rc.d"
# Without a number it would be its first boot, and everything enabled that is installed.
printf '%032d\n' 1 >"$host/etc/machine-id"
ip link set lo up
ip address add 10.0.0.1/32 dev lo
cd "$host"
pivot_root . old
umount -l /old
exec env -i container=greway PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
