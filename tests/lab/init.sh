#!/bin/sh
# PID 1 of L1: makes the root that the command sees, runs it, and tells how it ended. What differs
# from run to run comes as /etc/fstab, /lab/marker and /lab/command (lab/job.py).

die() {
    echo "lab: $*"
    reboot -f
}

# A mount point, which can become the root of the mount namespace.
mount -o bind /root /root || die "cannot bind the root"
mount -t devtmpfs devtmpfs /root/dev || die "there is no devtmpfs"
mount -t proc proc /root/proc
cp -a /devices/. /root/dev/
for module in /modules/*.ko; do
    insmod "$module" || die "cannot insert $module"
done

# The number of the device depends on the board.
find_port() {
    for port in /root/dev/vport*p1; do
        [ -e "$port" ] && return
    done
    return 1
}
tries=0
until find_port; do
    tries=$((tries + 1))
    [ $tries -lt 1000 ] || die "the port for the output is missing"
    sleep 0.01
done
# Held open to the end: nobody else can open the port then.
exec 9>"$port"

mount -a || die "cannot mount all of /etc/fstab"
hostname lab
ifconfig lo 127.0.0.1 up

# What enters a mount namespace, as tests do, finds itself at that root, and a chroot is none. This
# shell keeps its own root below.
cd /root || die "cannot enter the root"
mount -o move . / || die "cannot move the root"

mkfifo /output
cat /output >&9 &
cat=$!
chroot . /run/lab/busybox sh /run/lab/command <dev/null >/output 2>&1 9>&-
status=$?
# What the command left running would hold the pipe open.
for entry in proc/[0-9]*; do
    pid=${entry##*/}
    [ "$pid" = 1 ] || [ "$pid" = "$cat" ] || kill -9 "$pid" 2>/dev/null
done
wait "$cat"
echo "$(cat /lab/marker) $status" >&9
# The host ends L1 once it has read that.
sleep 60
reboot -f
