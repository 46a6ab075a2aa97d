#!/bin/sh
# The guest's first process. The kernel command line gives dir= (a directory of the host, seen through hostfs)
# and modules= (names with commas between) as environment variables.
#
# Commands come as numbers on the first serial line; the script of number N is dir/N.sh. Its output goes back
# on the same line, then a line "@@greway N STATUS". The console carries the kernel's messages and ours.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs run /run
mkdir -p /run/modules/lib
ln -s /usr/lib/uml/modules /run/modules/lib/modules
for module in ipv6 $(echo "$modules" | tr , ' '); do
	modprobe -d /run/modules "$module" || echo "greway: no module $module"
done

# Nothing may be on the wire that no test asked for, and every ICMP error must be sent.
for pair in ipv6/conf/default/addr_gen_mode=1 ipv6/conf/all/addr_gen_mode=1 ipv6/conf/vec0/addr_gen_mode=1 \
	ipv6/conf/default/router_solicitations=0 ipv6/conf/all/router_solicitations=0 \
	ipv6/conf/default/accept_dad=0 ipv6/conf/all/accept_dad=0 ipv6/conf/vec0/accept_dad=0 \
	ipv4/icmp_ratelimit=0 ipv4/icmp_msgs_per_sec=1000000 ipv4/icmp_msgs_burst=1000000; do
	echo "${pair#*=}" > "/proc/sys/net/${pair%%=*}"
done
echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
ip link set lo up
ip link set vec0 up

exec 3<>/dev/ttyS0
stty -F /dev/ttyS0 raw -echo
echo "@@greway 0 0" >&3
while read -r number <&3; do
	# An empty line only wakes us: see wait_for_command.
	[ -n "$number" ] || continue
	[ "$number" = off ] && break
	sh -e "$dir/$number.sh" >&3 2>&1 </dev/null
	printf '\n@@greway %s %s\n' "$number" "$?" >&3
done
echo o > /proc/sysrq-trigger
while :; do sleep 1; done
