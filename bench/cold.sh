#!/usr/bin/env bash
# From an S3 server on this machine to a block device: our one pass, and each part of what everybody
# else does one after the other, in turn, in the same run.
#
#   bench/cold.sh [--dir DIR] [--size MIB] [--tree DIR] [--runs N]
#
# Needs root (a loop device), qemu-img, mkfs.ext4, rclone and curl; about 4 times SIZE of disk space in DIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
PATH="$PWD/.venv/bin:$PATH"

dir=target/bench size_mib=4096 tree=/usr runs=3
while (($#)); do
    case $1 in
        --dir) dir=$2 ;;
        --size) size_mib=$2 ;;
        --tree) tree=$2 ;;
        --runs) runs=$2 ;;
        *) echo "cold.sh: unknown option $1" >&2; exit 64 ;;
    esac
    shift 2
done
access=test-access secret=test-secret-0123456789 port=19876

mkdir -p "$dir/s3/images"
dir=$(realpath "$dir")
image=$dir/s3/images/disk.qcow2
if [ ! -f "$image" ]; then
    echo "making a $size_mib MiB disk from $tree" >&2
    rm -f "$dir/disk.raw"
    # What does not fit is left out: the tree only has to be real.
    mkfs.ext4 -q -d "$tree" "$dir/disk.raw" "${size_mib}M" 2>/dev/null || {
        echo "cold.sh: $tree does not fit $size_mib MiB: choose --tree or --size" >&2
        exit 1
    }
    qemu-img convert -c -W -m 4 -f raw -O qcow2 "$dir/disk.raw" "$image"
    rm "$dir/disk.raw"
fi
(cd "$dir/s3/images" && sha256sum disk.qcow2 > disk.qcow2.sha256)

echo "building" >&2
cargo build -q --release --bench one_pass -p libvirt-volume-provisioner
one_pass=$(find target/release/deps -maxdepth 1 -name 'one_pass-*' -executable -type f -printf '%T@ %p\n' | sort -rn | head -n1 | cut -d' ' -f2-)
one_pass=$root/$one_pass

rclone serve s3 --auth-key "$access,$secret" --addr "127.0.0.1:$port" "$dir/s3" 2>"$dir/rclone.log" &
server=$!
truncate -s "${size_mib}M" "$dir/device"
device=$(losetup -f --show --direct-io=on "$dir/device" || losetup -f --show "$dir/device")
cleanup() {
    kill "$server" 2>/dev/null || true
    losetup -d "$device" 2>/dev/null || true
    rm -f "$dir/device" "$dir/download" "$dir/expected"
}
trap cleanup EXIT
for _ in $(seq 100); do
    curl -s -o /dev/null "http://127.0.0.1:$port/" && break
    read -rt 0.1 <> <(:) || true
done

forget() { sync; echo 3 > /proc/sys/vm/drop_caches 2>/dev/null || true; }
seconds() {
    local begin=$EPOCHREALTIME
    "$@" >/dev/null
    local end=$EPOCHREALTIME
    echo "scale=2; ($end - $begin) / 1" | bc
}
download() {
    curl -sSf --aws-sigv4 aws:amz:us-east-1:s3 --user "$access:$secret" \
        "http://127.0.0.1:$port/images/disk.qcow2" -o "$dir/download"
}

printf '\n%s MiB disk from %s; image %s bytes, zlib; loop device; %s cores; Linux %s; %s\n\n' \
    "$size_mib" "$tree" "$(stat -c %s "$image")" "$(nproc)" "$(uname -r)" "$(qemu-img --version | head -n1)"
printf '%-34s %-34s\n' 'one pass (daemon)' 'download + sha256sum + convert = sum'
for _ in $(seq "$runs"); do
    forget
    ours=$(cd "$dir" && "$one_pass" "http://127.0.0.1:$port" images/disk.qcow2 "$device")
    forget
    fetched=$(seconds download)
    hashed=$(seconds sha256sum "$dir/download")
    converted=$(seconds qemu-img convert -n -W -m 8 -t none -T none -f qcow2 -O raw "$dir/download" "$device")
    sum=$(echo "$fetched + $hashed + $converted" | bc)
    printf '%-34s %s + %s + %s = %s s\n' "$ours" "$fetched" "$hashed" "$converted" "$sum"
done

# The last word on the bytes is qemu-img's, on a device that our pass wrote last.
(cd "$dir" && "$one_pass" "http://127.0.0.1:$port" images/disk.qcow2 "$device" >/dev/null)
qemu-img compare -f qcow2 -F raw "$image" "$device"
