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
