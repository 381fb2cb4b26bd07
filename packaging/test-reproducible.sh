#!/usr/bin/env bash
# Builds the Debian packages of HEAD from two clones in directories of different names, and compares them. Needs what
# `./dev deb` needs, and takes twice as long; PROFILE=dev compares the unoptimised build, in a third of the time.
set -euo pipefail

here=$(realpath -- "$(dirname -- "$0")/..")
work=$(mktemp -d "${TMPDIR:-/tmp}/lvp-same.XXXXXX")
trap 'rm -rf -- "$work"' EXIT

for name in one another-one; do
    git clone -q "$here" "$work/$name"
    # The tools, which are not part of the packages.
    [ ! -e "$here/.venv" ] || ln -s "$here/.venv" "$work/$name/.venv"
    (cd "$work/$name" && ./dev deb) >"$work/log" 2>&1 || {
        tail -n 40 "$work/log" >&2
        exit 1
    }
    (cd "$work/$name/target/debian" && sha256sum -- *deb) | tee "$work/$name.sums"
    mv "$work/$name/target/debian" "$work/$name.packages"
    rm -rf -- "${work:?}/$name"
done
cmp "$work/one.sums" "$work/another-one.sums" || {
    echo "The packages differ" >&2
    exit 1
}
echo "The packages are the same"
