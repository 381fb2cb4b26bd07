#!/bin/sh
# Makes the seeds corpus/*/qemu-*: features that the image crate's own builder does not write.
set -eu
cd "$(dirname "$0")/corpus"
make() {
    name=qemu-$1
    qemu-img create -q -f qcow2 -o "cluster_size=512,$2" "open/$name" 64k
    qemu-io -f qcow2 -c "write -P 7 1k 2k" -c "write -z 4k 1k" "open/$name" >/dev/null
}
make snapshot compat=1.1
qemu-img snapshot -c one open/qemu-snapshot
qemu-io -f qcow2 -c "write -P 8 2k 2k" open/qemu-snapshot >/dev/null
make bitmap compat=1.1
qemu-img bitmap --add -g 512 open/qemu-bitmap one
qemu-io -f qcow2 -c "write -P 8 2k 2k" open/qemu-bitmap >/dev/null
make v2 compat=0.10
make narrow refcount_bits=1
cp open/qemu-* plan_and_read/

# The other formats, as small as qemu-img makes them.
other() {
    mkdir -p "$1"
    qemu-img create -q -f "$2" -o "$3" "$1/qemu-$4" "$5"
    qemu-io -f "$2" -c "write -P 7 1k 2k" "$1/qemu-$4" >/dev/null
    # What data there is at the end only slows a fuzzer down.
    truncate -s "<$6" "$1/qemu-$4"
}
other vdi vdi static=off dynamic 1M 8K
other vhd vpc subformat=dynamic dynamic 1M 8K
other vhd vpc subformat=fixed,force_size=on fixed 8K 64K
other vmdk vmdk subformat=monolithicSparse sparse 64K 68K
mkdir -p unpack vmdk
head -c 64K /dev/zero | tr '\0' 'a' >unpack/disk.raw
qemu-img convert -f raw -O vmdk -o subformat=streamOptimized unpack/disk.raw vmdk/qemu-stream
head -c 3000 unpack/disk.raw >unpack/small.raw
for format in v7 gnu pax; do
    tar -C unpack --format="$format" -cf "unpack/tar-$format" small.raw
done
tar -C unpack -czf unpack/tar-gzip small.raw
rm unpack/disk.raw unpack/small.raw
