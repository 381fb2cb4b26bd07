"""Warm: a local image, in the page cache, to a file and to a block device."""

import os

import measure
from measure import Contender, alternate, best_setting, progress, run
from targets import File, LoopDevice, check

# What `qemu-img convert` can be told. The first of each is where the search begins.
QEMU_SETTINGS = {
    "caches": [("none", "none"), ("none", "writeback"), ("writeback", "writeback")],
    "coroutines": ["8", "16", "4"],
    "out of order": [True, False],
    "target is zero": [False, True],
}


def qemu_img(image, file_format, target, expected):
    """Builds contenders for qemu-img's settings. What is left in the page cache is flushed within
    the measured time, as ours ends on stable storage."""

    def build(setting):
        target_cache, source_cache = setting["caches"]
        options = ["-t", target_cache, "-T", source_cache, "-m", setting["coroutines"]]
        if setting["out of order"]:
            options.append("-W")
        zero = setting["target is zero"]
        if zero:
            options += ["-n", "--target-is-zero"]
        elif target.kind == "device":
            options.append("-n")
        command = ["qemu-img", "convert", *options, "-f", file_format, "-O", "raw", image,
                   target.path]
        size = os.path.getsize(expected)
        return Contender(
            "qemu-img",
            lambda: run(command, ["sync", "-d", target.path]),
            before=(lambda: target.prepare_zero(size)) if zero else target.prepare,
            after=lambda: check(expected, target),
            note=" ".join(options),
        )

    return build


def ours(program, image, image_type, target, expected, *options):
    """`image convert`. A device is written in one pass, as the daemon does it."""
    one_pass = ["--one-pass"] if target.kind == "device" else []
    command = [program, "image", "convert", "--image-type", image_type, *one_pass, *options,
               image, target.path]
    return Contender("ours", lambda: run(command), before=target.prepare,
                     after=lambda: check(expected, target), note=" ".join(one_pass))


def nbdcopy(image, image_format, target, expected):
    """nbdcopy; qcow2 through qemu-nbd, as its manual says."""
    source = [image] if image_format == "raw" else [
        "[", "qemu-nbd", "-r", "-f", "qcow2", "--cache=writeback", image, "]"]
    size = os.path.getsize(expected)
    flags = ["--flush"]
    if target.kind == "file":
        flags.append("--destination-is-zero")
    return Contender(
        "nbdcopy",
        lambda: run(["nbdcopy", *flags, "--", *source, target.path], ["sync", "-d", target.path]),
        before=(lambda: target.prepare_zero(size)) if target.kind == "file" else target.prepare,
        after=lambda: check(expected, target), note=" ".join(flags))


def dd(dense, target):
    """dd with direct writes of the same data without its holes: what the target can take."""
    command = ["dd", f"if={dense}", f"of={target.path}", "bs=4M", "oflag=direct", "conv=fsync",
               "status=none"]
    if target.kind == "device":
        command[4] = "conv=fsync,nocreat"
    return Contender("dd", lambda: run(command), before=target.prepare, note=" ".join(command[3:6]))


def cases(images):
    """Name, image, format, raw disk, whether nbdcopy and dd are compared, and whether it is one of
    the bars."""
    size = images.size_mib
    part = max(size // 8, 256)
    files = images.raw("files")
    rows = [
        ("zlib", images.qcow2("files", "zlib"), "qcow2", files, False),
        ("zstd", images.qcow2("files", "zstd"), "qcow2", files, False),
        ("uncompressed", images.qcow2("files"), "qcow2", files, True),
        ("raw", files, "raw", files, True),
    ]
    variants = []
    for compression, cluster in [("zlib", "4k"), ("zlib", "2M"), ("zstd", "4k"), ("zstd", "2M"),
                                 (None, "4k"), (None, "2M")]:
        image = images.qcow2("files", compression, cluster, part)
        name = f"{compression or 'uncompressed'}, clusters of {cluster}"
        variants.append((name, image, "qcow2", images.raw("files", part), False))
    for content, name in [("noise", "incompressible"), ("logs", "highly compressible")]:
        for compression in ["zlib", "zstd"]:
            image = images.qcow2(content, compression, "64k", part)
            variants.append((f"{compression}, {name}", image, "qcow2",
                             images.raw(content, part), False))
    image, raw = images.fragmented(part)
    variants.append(("uncompressed, fragmented", image, "qcow2", raw, False))
    return rows, variants


def compare(bench, name, image, image_format, raw, target, with_copies):
    """One image to one target: the best of qemu-img's settings, and who else there is."""
    progress(f"{name} to a {target.kind}")
    warm(image)
    build = qemu_img(image, image_format, target, raw)
    qemu, tried = best_setting(QEMU_SETTINGS, build)
    contenders = [ours(bench.program, image, image_format, target, raw), qemu]
    if with_copies:
        contenders.append(nbdcopy(image, image_format, target, raw))
        contenders.append(dd(bench.images.dense("files"), target))
    warm(image)
    costs = alternate(contenders, bench.runs)
    return {
        "image": name,
        "image_bytes": os.path.getsize(image) if image_format == "qcow2" else
        os.stat(image).st_blocks * 512,
        "data_bytes": os.stat(raw).st_blocks * 512,
        "target": target.kind,
        "tried": len(tried),
        "results": [bench.result(contender, costs[contender.name]) for contender in contenders],
    }


def warm(path):
    """Reads a file into the page cache."""
    run(["cat", path])


def measure_all(bench, place, directory, only_main=False):
    """All cases, to a file and to a block device in `directory`; the variants to the device only."""
    main, variants = cases(bench.images)
    rows = []
    for is_main, group in [(True, main), (False, [] if only_main else variants)]:
        for name, image, image_format, raw, with_copies in group:
            targets = [LoopDevice(directory, os.path.getsize(raw))]
            if is_main and place == "disk":
                targets.insert(0, File(directory))
            for target in targets:
                try:
                    row = compare(bench, name, image, image_format, raw, target, with_copies)
                finally:
                    target.close()
                rows.append({**row, "place": place, "main": is_main})
    return rows


def double_decode(bench, directory):
    """What it costs to decode everything before a device is touched: the default of `image
    convert`, not of the daemon, which has the digest."""
    raw = bench.images.raw("files")
    image = bench.images.qcow2("files", "zlib")
    target = LoopDevice(directory, os.path.getsize(raw))
    try:
        once = ours(bench.program, image, "qcow2", target, raw)
        command = [bench.program, "image", "convert", image, target.path]
        twice = Contender("ours, decoding twice", lambda: run(command), before=target.prepare,
                          after=lambda: check(raw, target))
        warm(image)
        costs = alternate([once, twice], bench.runs)
    finally:
        target.close()
    return [bench.result(contender, costs[contender.name]) for contender in (once, twice)]


def empty(bench, directory):
    """1 TiB without data, to a new file."""
    image = bench.images.empty("1T")
    target = File(directory)
    command = [bench.program, "image", "convert", image, target.path]
    peer = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, target.path]
    contenders = [
        Contender("ours", lambda: run(command), before=target.prepare),
        Contender("qemu-img", lambda: run(peer), before=target.prepare),
    ]
    try:
        costs = alternate(contenders, max(bench.runs, 5))
    finally:
        target.close()
    return [bench.result(contender, costs[contender.name]) for contender in contenders]


def scaling(bench, directory):
    """Cost by data and by virtual size; memory."""
    rows = []
    shapes = [(256, "10G"), (512, "10G"), (1024, "10G"), (2048, "10G"),
              (512, "100G"), (512, "1T"), (512, "8T")]
    for data_mib, virtual in shapes:
        image = bench.images.sparse(data_mib, virtual, "zlib")
        target = File(directory)
        contender = Contender(
            "ours", lambda: run([bench.program, "image", "convert", image, target.path]),
            before=target.prepare)
        try:
            warm(image)
            costs = [measure.once(contender) for _ in range(bench.runs)]
        finally:
            target.close()
        raw = bench.images.raw("files", data_mib)
        rows.append({"data_bytes": os.stat(raw).st_blocks * 512, "virtual": virtual,
                     **bench.result(contender, costs)})
        progress(f"  {data_mib} MiB in {virtual}: {measure.median(costs):.2f} s")
    return rows


def rate_limit(bench, directory):
    """How well `--limit-rate` holds."""
    rows = []
    image = bench.images.qcow2("files", "zlib", "64k", 1024)
    data = None
    for mib_per_s in (64, 128, 256):
        target = File(directory)
        command = [bench.program, "image", "convert", "--limit-rate", f"{mib_per_s}M", image,
                   target.path]
        contender = Contender("ours", lambda: run(command), before=target.prepare)
        try:
            costs = [measure.once(contender) for _ in range(3)]
            data = os.stat(target.path).st_blocks * 512
        finally:
            target.close()
        found = data / measure.median(costs) / (1 << 20)
        rows.append({"limit_mib_per_s": mib_per_s, "found_mib_per_s": found,
                     "off_percent": 100 * (found / mib_per_s - 1)})
        progress(f"  limit {mib_per_s} MiB/s: {found:.1f}")
    return rows
