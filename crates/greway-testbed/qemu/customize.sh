#!/bin/sh
# mmdebstrap's last step, with the new root as $1: a kernel, the agent, and nothing that only costs time at boot.
# AGENT and KERNEL_PACKAGE come from the environment.
set -eu
root=$1

# The kernel is unpacked and not installed: its scripts would want an initramfs, and nothing here needs one (NVMe and
# ext4 are built into Debian's cloud kernel).
chroot "$root" sh -eu -c '
	cd /tmp
	package=$(apt-cache depends "$0" | sed -n "s/.*Depends: \(linux-image-.*\)/\1/p" | head -n 1)
	apt-get download -qq "$package"
	dpkg -x "$package"_*.deb kernel
	cp -a kernel/lib/modules /usr/lib/
	mv kernel/boot/vmlinuz-* /boot/vmlinuz
	rm -r kernel "$package"_*.deb
	# GRE in the kernel is for machines that ask for it: it is in a module tree beside.
	version=$(ls /usr/lib/modules)
	beside=/usr/lib/testbed/modules/lib/modules
	mkdir -p "$beside"
	cp -al "/usr/lib/modules/$version" "$beside/"
	depmod -b /usr/lib/testbed/modules "$version"
	find "/usr/lib/modules/$version" \( -name gre.ko -o -name ip_gre.ko -o -name ip6_gre.ko \) -delete
	depmod "$version"
' "$KERNEL_PACKAGE"

install -D -m 755 "$AGENT" "$root/usr/lib/testbed/agent"
units=$root/etc/systemd/system
mkdir -p "$units/multi-user.target.wants" "$units/sysinit.target.wants"
cat >"$units/testbed-agent.service" <<'END'
[Unit]
Description=Runs what the test says
Before=shutdown.target
Conflicts=shutdown.target
DefaultDependencies=no
After=multi-user.target

[Service]
ExecStart=/usr/lib/testbed/agent /dev/virtio-ports/testbed
Environment=HOME=/root LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
OOMScoreAdjust=-1000
# What a test leaves in the background is no part of the agent.
KillMode=process
END
ln -s ../testbed-agent.service "$units/multi-user.target.wants/"
cat >"$units/testbed-modules.service" <<'END'
[Unit]
Description=The kernel modules that the test asks for
DefaultDependencies=no
Before=sysinit.target
ConditionKernelCommandLine=testbed.modules

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'modprobe -d /usr/lib/testbed/modules -a $(sed "s/.*testbed.modules=\\([^ ]*\\).*/\\1/; s/,/ /g" /proc/cmdline)'
END
ln -s ../testbed-modules.service "$units/sysinit.target.wants/"

# Emulated, each of these costs 0.3 to 3 s of every boot, and none has a part in what is tested.
for unit in \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
	man-db.timer systemd-tmpfiles-clean.timer \
	getty.target systemd-logind.service systemd-user-sessions.service systemd-update-utmp.service \
	systemd-update-utmp-runlevel.service systemd-ask-password-console.path systemd-ask-password-wall.path \
	dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount \
	sys-kernel-debug.mount sys-kernel-tracing.mount \
	modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service \
	modprobe@fuse.service modprobe@loop.service \
	systemd-binfmt.service systemd-machine-id-commit.service systemd-pstore.service systemd-random-seed.service \
	systemd-sysusers.service; do
	ln -s /dev/null "$units/$unit"
done
ln -s /usr/lib/systemd/system/multi-user.target "$units/default.target"

# Both machines of a pair come from this image and differ in their command lines only.
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
echo '/dev/nvme0n1 / ext4 noatime 0 0' >"$root/etc/fstab"
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
rm -f "$root/etc/hostname"
