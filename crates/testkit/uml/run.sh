#!/usr/bin/env bash
# Runs a command inside user-mode Linux: a kernel that is an ordinary program, with device-mapper,
# LVM and a volume group of its own, on top of this machine's files. Nothing of the machine's own
# LVM, devices or kernel is touched.
#
#   run.sh [options] -- COMMAND [ARG...]
#
#   --timeout SECONDS   kill it after this long (default 120)
#   --memory MIB        the kernel's memory (default 768)
#   --disk MIB          size of the volume group's disk (default 1024, sparse)
#   --keep FILE         the volume group's disk, made when absent and left behind
#   --second FILE       another disk, /dev/ubdc; exists already
#   --cut FILE SECONDS  kill it so long after the command has made FILE: a power cut
#   --env NAME=VALUE    set a variable for the command (repeatable)
#   --rw DIRECTORY      let the command write to this directory (repeatable)
#   --systemd           boot the machine's systemd, and run the command as a service of it
#   --root DIRECTORY    with --systemd: boot what is installed there, not this machine's
#
# Inside, the file system is the host's, read-only; what needs writing (/run, /dev/shm, TMPDIR) is
# in memory. /dev/ubdb is the disk, `vg0` the volume group on it. The command gets LVP_UML=1.
# Prints the command's output and ends with its exit status; 124 after the timeout, 125 when the
# kernel or the volume group did not come up, 137 after a cut. Needs no root, but with --systemd.
#
# With --systemd all of the file system can be written: what is written stays in memory. Of the
# machine's services only those run without which systemd does not come up. AppArmor is on.
set -euo pipefail

readonly modules_root=/usr/lib/uml/modules

die() {
    echo "run.sh: $*" >&2
    exit 125
}

timeout=120
memory_mib=768
disk_mib=1024
keep=
second=
cut_mark=
cut_delay=
environment=()
writable=()
systemd=
root=/
while (($#)); do
    case $1 in
        --timeout) timeout=$2; shift 2 ;;
        --memory) memory_mib=$2; shift 2 ;;
        --disk) disk_mib=$2; shift 2 ;;
        --keep) keep=$(realpath -- "$2"); shift 2 ;;
        --second) second=$(realpath -- "$2"); shift 2 ;;
        --cut) cut_mark=$2; cut_delay=$3; shift 3 ;;
        --env) environment+=("$2"); shift 2 ;;
        --root) root=$(realpath -- "$2"); shift 2 ;;
        --systemd) systemd=yes; shift ;;
        --rw) writable+=("$(realpath -- "$2")"); shift 2 ;;
        --) shift; break ;;
        *) die "unknown option $1" ;;
    esac
done
(($#)) || die "no command; usage: run.sh [options] -- COMMAND [ARG...]"

PATH=/usr/sbin:/sbin:$PATH
for tool in linux.uml lvs dmsetup modprobe udevadm; do
    command -v "$tool" >/dev/null || die "$tool is not installed:" \
        "apt install user-mode-linux lvm2 dmsetup thin-provisioning-tools kmod udev"
done
version=$(linux.uml --version)
[[ -d $modules_root/$version ]] || die "$modules_root/$version does not exist"

work=$(mktemp -d "${TMPDIR:-/tmp}/lvp-uml.XXXXXX")
kernel=
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
    # The kernel's processes are one group of their own; all of them go, also after a timeout.
    [[ -z $kernel ]] || kill -KILL -- "-$kernel" 2>/dev/null || true
    rm -rf -- "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Modules are found under `modprobe -d`, so that /lib/modules of the host stays as it is.
mkdir -p "$work/lib/modules" "$work/out" "$work/tmp"
ln -s "$modules_root/$version" "$work/lib/modules/$version"
disk=${keep:-$work/disk}
format=1
if [[ -n $keep && -e $keep ]]; then
    format=
else
    truncate -s "${disk_mib}M" "$disk"
fi

echo $((timeout + 10)) >"$work/timeout"

# modprobe as the kernel and LVM call it: with our directory.
cat >"$work/modprobe" <<END
#!/bin/sh
exec /sbin/modprobe -d '$work' "\$@"
END

{
    [[ $root != / ]] || printf 'cd %q\n' "$PWD"
    printf 'export LVP_UML=1 TMPDIR=/run/tmp LC_ALL=C\n'
    ((${#environment[@]} == 0)) || printf 'export %q\n' "${environment[@]}"
    printf 'exec'
    printf ' %q' "$@"
    printf '\n'
} >"$work/command"

{
    printf 'format=%s\n' "$format"
    for directory in "$work/out" "${writable[@]}"; do
        # shellcheck disable=SC2016 # expanded inside
        printf 'mkdir -p "$root"%q; mount -t hostfs -o %q none "$root"%q\n' \
            "$directory" "$directory" "$directory"
    done
} >"$work/mounts"

# What both ways to come up have in common.
cat >"$work/common" <<'END'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
set -e
finish() {
    status=$?
    # The kernel may end before hostfs has written the last bytes.
    echo "$status" >"$work/out/status.new"
    sync
    mv "$work/out/status.new" "$work/out/status"
    poweroff -f -f
}
make_group() {
    mkdir -p /run/lock/lvm /run/lvm /run/tmp /run/mnt
    cat >/etc/lvm/lvmlocal.conf <<'CONF'
devices { filter = [ "a|^/dev/ubd|", "a|^/dev/loop|", "a|^/dev/mapper/lvp-disk$|", "r|.*|" ] }
activation { reserved_memory = 0 reserved_stack = 0 }
backup { backup = 0 archive = 0 }
CONF
    # Block devices only: the rest would take seconds and nobody here asks for it.
    udevadm trigger --subsystem-match=block
    udevadm settle
    if [[ -n ${format-1} ]]; then
        pvcreate --quiet /dev/ubdb
        vgcreate --quiet vg0 /dev/ubdb
    else
        vgchange --quiet -ay vg0
    fi
    touch "$work/out/booted"
}
END

cat >"$work/init" <<'END'
#!/bin/bash
work=$(dirname "$0")
. "$work/common"
mount -t proc proc /proc
# Ends the kernel also when whoever started it was killed and could not.
(sleep "$(<"$work/timeout")" && poweroff -f) &
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
root=
. "$work/mounts"
trap 'finish' EXIT
exec >"$work/out/boot" 2>&1
# LVM keeps backups of its metadata beside its configuration: a copy of that, with what takes most
# of a command's time here turned off.
cp -a /etc/lvm /run/etc-lvm
mount --bind /run/etc-lvm /etc/lvm
echo "$work/modprobe" >/proc/sys/kernel/modprobe
modprobe -d "$work" -a dm-mod dm-snapshot dm-thin-pool dm-raid dm-mirror dm-flakey dm-log-writes loop
/lib/systemd/systemd-udevd --daemon
ip link set lo up
make_group
set +e
bash "$work/command" >"$work/out/output" 2>&1 </dev/null
END

# The same under systemd: the machine's files with a layer in memory above them.
printf '%s' "$root" >"$work/root"
cat >"$work/init-systemd" <<'END'
#!/bin/bash
work=$(dirname "$0")
. "$work/common"
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
modprobe -d "$work" -a overlay autofs4 dm-mod dm-snapshot dm-thin-pool loop
mkdir /run/upper /run/overlay /run/root
root=/run/root
mount -t overlay -o lowerdir="$(<"$work/root")",upperdir=/run/upper,workdir=/run/overlay overlay $root
mount -t devtmpfs devtmpfs $root/dev
# Of this machine, where another root has none.
mkdir -p "$root$work"
mount -t hostfs -o "$work" none "$root$work"
. "$work/mounts"
echo "$work/modprobe" >/proc/sys/kernel/modprobe
cd $root
rm -f etc/fstab etc/systemd/system/*.wants/*
# What takes seconds and is of no use here.
for unit in systemd-tmpfiles-setup systemd-binfmt systemd-udev-trigger systemd-update-utmp \
    systemd-random-seed systemd-journal-flush systemd-sysusers systemd-pcrphase-sysinit; do
    ln -sf /dev/null "etc/systemd/system/$unit.service"
done
mkdir -p etc/systemd/system-generators
for generator in lib/systemd/system-generators/*; do
    ln -sf /dev/null "etc/systemd/system-generators/${generator##*/}"
done
cat >etc/systemd/system/lvp-command.service <<CONF
[Unit]
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=$work/service
CONF
exec switch_root . /lib/systemd/systemd --unit=lvp-command.service --show-status=false
END

cat >"$work/service" <<'END'
#!/bin/bash
work=$(dirname "$0")
. "$work/common"
trap 'finish' EXIT
exec >"$work/out/boot" 2>&1
(sleep "$(<"$work/timeout")" && poweroff -f -f) &
make_group
set +e
bash "$work/command" >"$work/out/output" 2>&1 </dev/null
END
chmod +x "$work/init" "$work/init-systemd" "$work/service" "$work/modprobe"

# UML maps its memory from a file in TMPDIR, which is fastest where that is memory as well.
memory_dir=$work/tmp
if (($(df --output=avail -B1M /dev/shm 2>/dev/null | tail -n 1) > memory_mib)); then
    memory_dir=/dev/shm
fi
# It runs one of its processes at a time, and goes from one to the next at every system call and page
# fault. On one processor that takes half as long: no other one has to be woken each time.
processors=()
while IFS=- read -r first last; do
    for ((processor = first; processor <= ${last:-first}; processor++)); do
        processors+=("$processor")
    done
done < <(sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status | tr , '\n')
# `setsid` makes its processes one group; the group's
# number is the process that bash starts, as it is no group leader itself.
TMPDIR=$memory_dir taskset --cpu-list "${processors[RANDOM % ${#processors[@]}]}" \
    setsid linux.uml "mem=${memory_mib}M" root=/dev/root rootfstype=hostfs rootflags=/ ro \
    "ubdb=$disk" ${second:+"ubdc=$second"} "init=$work/init${systemd:+-systemd}" \
    ${systemd:+security=apparmor} con0=fd:0,fd:1 con=null quiet \
    >"$work/console" 2>&1 </dev/null &
kernel=$!
disown "$kernel"

deadline=$((SECONDS + timeout))
while kill -0 "$kernel" 2>/dev/null && ((SECONDS < deadline)) && [[ ! -e $work/out/status ]]; do
    if [[ -n $cut_mark && -e $cut_mark ]]; then
        sleep "$cut_delay"
        [[ ! -e $work/out/status ]] || break
        kill -KILL -- "-$kernel"
        # Nobody writes to the disks any more.
        while kill -0 -- "-$kernel" 2>/dev/null; do sleep 0.02; done
        cat "$work/out/output"
        exit 137
    fi
    sleep 0.1
done

# Lets the kernel power off by itself, which is tidier than being killed.
for _ in {1..20}; do
    kill -0 "$kernel" 2>/dev/null || break
    sleep 0.1
done
[[ ! -e $work/out/output ]] || cat "$work/out/output"
if [[ ! -e $work/out/booted ]]; then
    cat "$work/console" >&2
    [[ ! -e $work/out/boot ]] || cat "$work/out/boot" >&2
    die "user-mode Linux did not come up"
fi
if [[ ! -e $work/out/status ]]; then
    if ((SECONDS < deadline)); then
        # Its last words, if it had any.
        cat "$work/console" >&2
        die "user-mode Linux ended by itself"
    fi
    echo "run.sh: killed: did not end within $timeout s" >&2
    exit 124
fi
exit "$(<"$work/out/status")"
