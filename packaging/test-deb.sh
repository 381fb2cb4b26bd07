#!/usr/bin/env bash
# The life of the Debian package on a bare Debian 12: install, configure, provision, upgrade, remove,
# purge. As root.
#
#   packaging/test-deb.sh PACKAGE.deb [BARE_ROOT]
#
# BARE_ROOT is a directory that `debootstrap --variant=minbase --include=systemd-sysv,udev bookworm`
# has filled; without it one is made, which takes minutes. It is copied, and not changed. Where
# user-mode Linux is installed, the root is booted with its own systemd, and the way of docs/install.md
# is gone to a provisioned logical volume.
set -euo pipefail

name=libvirt-volume-provisioner
package=$(realpath -- "$1")
here=$(dirname -- "$(realpath -- "$0")")
work=$(mktemp -d "${TMPDIR:-/tmp}/lvp-deb.XXXXXX")
root=$work/root
cleanup() {
    umount "$root/proc" 2>/dev/null || true
    rm -rf --one-file-system -- "$work"
}
trap cleanup EXIT

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}
inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }
# is WHAT EXPECTED COMMAND...: its output has to be just that.
is() {
    local what=$1 expected=$2 found
    shift 2
    found=$(inside "$@" 2>&1) || true
    [ "$found" = "$expected" ] || fail "$what: '$found' instead of '$expected'"
    printf 'ok  %s: %s\n' "$what" "$expected"
}
gone() {
    local path
    for path; do
        [ ! -e "$root$path" ] || fail "$path is left"
    done
    printf 'ok  gone: %s\n' "$*"
}
kept() {
    local path
    for path; do
        [ -e "$root$path" ] || fail "$path is gone"
    done
    printf 'ok  kept: %s\n' "$*"
}
install_package() {
    cp "$1" "$root/tmp/package.deb"
    inside apt-get -qq -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold install -y \
        --no-install-recommends /tmp/package.deb >"$work/apt.log" 2>&1 ||
        { cat "$work/apt.log" >&2; fail apt-get; }
    sed -n "/^Setting up $name/,\$ p" "$work/apt.log"
}

if [ -n "${2:-}" ]; then
    cp -a --reflink=auto -- "$2" "$root"
else
    say "Making a bare Debian 12"
    command -v debootstrap >/dev/null || fail "debootstrap is needed: apt install debootstrap"
    debootstrap --variant=minbase --include=systemd-sysv,udev bookworm "$root" >"$work/debootstrap.log" ||
        { tail -n 20 "$work/debootstrap.log" >&2; fail debootstrap; }
fi
mount -t proc proc "$root/proc"
cp /etc/resolv.conf "$root/etc/resolv.conf"
# No service is started in a root that is not booted.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
inside apt-get -qq update

say "Install"
install_package "$package"
is "the user" "$name:/usr/sbin/nologin" \
    sh -c "getent passwd $name | cut -d: -f1,7"
is "configuration's directory" "750 root $name" stat -c '%a %U %G' /etc/$name
is "configuration" "640 root $name" stat -c '%a %U %G' /etc/$name/config.yaml
is "environment" "600 root root" stat -c '%a %U %G' /etc/default/$name
is "state" "700 root root" stat -c '%a %U %G' /var/lib/$name
is "log" "2750 root $name" stat -c '%a %U %G' /var/log/$name
is "the service" enabled systemctl is-enabled $name.service
is "the backup, by choice" disabled systemctl is-enabled $name-backup.timer
is "the socket, by choice" disabled systemctl is-enabled $name.socket
is "without configuration" "error: minio.endpoint is not set: give the URL of the S3 server" \
    $name config check
inside lvpctl --version

say "What the programs were built from"
for program in $name lvpctl; do
    objcopy --dump-section .dep-v0="$work/list" "$root/usr/bin/$program" /dev/null ||
        fail "$program has no list of its crates (.dep-v0)"
    python3 - "$work/list" "$program" <<'PYTHON'
import json, sys, zlib
packages = json.loads(zlib.decompress(open(sys.argv[1], "rb").read()))["packages"]
names = {package["name"] for package in packages}
assert {sys.argv[2], "tokio", "clap"} <= names, names
print(f"ok  {sys.argv[2]} lists {len(packages)} crates")
PYTHON
done

newer=$work/newer
dpkg-deb -R "$package" "$newer"
sed -i 's/^Version: .*/&+upgrade/' "$newer/DEBIAN/control"
echo "# A newer release has one more key." >>"$newer/etc/$name/config.yaml"
dpkg-deb --root-owner-group -Znone -b "$newer" "$work/newer.deb" >/dev/null

say "Configure"
cat >"$root/etc/$name/config.yaml" <<'YAML'
# Edited by hand.
minio:
  endpoint: http://127.0.0.1:9000
  access_key: key-of-the-test
  secret_key: secret-of-the-test
lvm:
  volume_group: vg0
libvirt:
  enabled: false
cache:
  dir: /var/lib/libvirt/images/cache
  min_free_bytes: 0
YAML
is "configured" "The configuration can be used" $name config check

if command -v linux.uml >/dev/null && command -v rclone >/dev/null && command -v qemu-img >/dev/null; then
    say "Boot, provision a volume, and upgrade the daemon while it runs"
    mkdir -p "$work/share/s3/images"
    cp "$work/newer.deb" "$work/share/newer.deb"
    cp "$(command -v rclone)" "$work/share/rclone"
    head -c 8M /dev/urandom >"$work/share/disk.raw"
    qemu-img convert -f raw -O qcow2 "$work/share/disk.raw" "$work/share/s3/images/disk.qcow2"
    cat >"$work/share/first-volume" <<END
set -ex
cd $work/share
ip link set lo up || true
./rclone serve s3 --auth-key key-of-the-test,secret-of-the-test --addr 127.0.0.1:9000 s3 >rclone.log 2>&1 &
until (exec 3<>/dev/tcp/127.0.0.1/9000) 2>/dev/null; do sleep 0.2; done
mkdir -p /var/lib/libvirt/images
systemctl start $name
systemctl is-active $name
systemctl show --property=StatusText $name
lvpctl provision s3://images/disk.qcow2 web-01 --size 16M --wait
lvs -o lv_name,lv_size,lv_tags vg0
cmp --bytes=8M disk.raw /dev/vg0/web-01
rm /usr/sbin/policy-rc.d
before=\$(systemctl show --value --property=MainPID $name)
dpkg --force-confold -i newer.deb
systemctl is-active $name
[ "\$(systemctl show --value --property=MainPID $name)" != "\$before" ]
lvpctl jobs
systemctl stop $name
systemctl show --property=Result $name
END
    "$here/../crates/testkit/uml/run.sh" --systemd --root "$root" --rw "$work/share" --timeout 240 -- \
        bash "$work/share/first-volume" || fail "the way of docs/install.md"
else
    say "Not booted: user-mode-linux, rclone or qemu-utils is missing"
fi

say "Upgrade"
touch "$root/var/lib/$name/jobs.db"
inside systemctl disable $name.service 2>/dev/null
install_package "$work/newer.deb"
# shellcheck disable=SC2016 # dpkg-query's own
is "the version" "install ok installed" dpkg-query -W -f '${Status}' $name
inside dpkg-query -W "$name" | grep -q '+upgrade' || fail "the version is the old one"
is "configuration" "# Edited by hand." head -n 1 /etc/$name/config.yaml
is "its rights" "640 root $name" stat -c '%a %U %G' /etc/$name/config.yaml
kept /etc/$name/config.yaml.dpkg-dist /var/lib/$name/jobs.db
is "a service that was disabled" disabled systemctl is-enabled $name.service

say "Remove"
inside apt-get -qq -o Dpkg::Use-Pty=0 remove -y $name
gone /usr/bin/$name /usr/bin/lvpctl /usr/lib/systemd/system/$name.service
kept /etc/$name/config.yaml /var/lib/$name/jobs.db /var/log/$name

say "Install again"
install_package "$package"
is "configuration" "# Edited by hand." head -n 1 /etc/$name/config.yaml
is "the service is still not enabled" disabled systemctl is-enabled $name.service

say "Purge"
inside apt-get -qq -o Dpkg::Use-Pty=0 purge -y $name
gone /etc/$name /etc/default/$name /etc/apparmor.d/$name /etc/apparmor.d/local/$name \
    /etc/logrotate.d/$name /var/lib/$name /var/log/$name
left=$(find "$root/etc" "$root/usr/lib" "$root/var/lib/systemd" -name "*$name*" 2>/dev/null || true)
[ -z "$left" ] || fail "left: $left"
printf 'ok  nothing is left of it but its user\n'

say "All of it worked"
