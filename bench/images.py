"""Makes the images: from a real file tree, in several formats, compressibilities and cluster
sizes, and fragmented. What is there already is kept."""

import os
import random
import subprocess

from measure import output, progress

MIB = 1 << 20


class Images:
    """A directory of images; each is created when it is first requested."""

    def __init__(self, directory, tree, size_mib):
        self.directory = directory
        self.tree = tree
        self.size_mib = size_mib
        directory.mkdir(parents=True, exist_ok=True)

    def raw(self, content, size_mib=None):
        """A raw disk, sparse where its file system has nothing."""
        size_mib = size_mib or self.size_mib
        path = self.directory / f"{content}-{size_mib}.raw"
        return self._made(path, lambda part: getattr(self, f"_{content}")(part, size_mib))

    def qcow2(self, content, compression=None, cluster="64k", size_mib=None):
        """The same disk as qcow2: `compression` is None, zlib or zstd."""
        raw = self.raw(content, size_mib)
        path = self.directory / f"{raw.stem}-{compression or 'plain'}-{cluster}.qcow2"
        options = f"cluster_size={cluster}"
        if compression == "zstd":
            options += ",compression_type=zstd"
        flags = ["-c", "-m", "4"] if compression else []

        def make(part):
            output("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *flags,
                   "-o", options, raw, part)

        return self._made(path, make)

    def fragmented(self, size_mib):
        """Every cluster somewhere else: written in random order. The raw disk to compare with is
        what qemu-img makes of it."""
        path = self.directory / f"fragmented-{size_mib}.qcow2"

        def make(part):
            output("qemu-img", "create", "-f", "qcow2", part, f"{size_mib}M")
            clusters = list(range(size_mib * 16))
            dice = random.Random(1)
            dice.shuffle(clusters)
            commands = "".join(
                f"write -q -P {dice.randrange(1, 256)} {cluster * 65536} 65536\n"
                for cluster in clusters
            )
            subprocess.run(
                ["qemu-io", "-f", "qcow2", "-t", "unsafe", str(part)],
                input=commands, text=True, check=True, stdout=subprocess.DEVNULL,
            )

        image = self._made(path, make)
        raw = self.directory / f"fragmented-{size_mib}.raw"
        self._made(raw, lambda part: output("qemu-img", "convert", "-O", "raw", image, part))
        return image, raw

    def empty(self, size):
        """A qcow2 without data."""
        path = self.directory / f"empty-{size}.qcow2"
        return self._made(
            path, lambda part: output("qemu-img", "create", "-f", "qcow2", part, size)
        )

    def sparse(self, data_mib, virtual, compression=None):
        """`data_mib` of the file tree's disk at the beginning of a disk of `virtual` bytes."""
        raw = self.raw("files", data_mib)
        name = f"sparse-{data_mib}-{virtual}-{compression or 'plain'}.qcow2"

        def make(part):
            flags = ["-c", "-m", "4"] if compression else []
            output("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *flags, raw, part)
            output("qemu-img", "resize", "-f", "qcow2", part, virtual)

        return self._made(self.directory / name, make)

    def repeated(self, times, compression):
        """The file tree's disk several times over, in one disk."""
        raw = self.raw("files")
        path = self.directory / f"{raw.stem}-x{times}-{compression}.qcow2"

        def make(part):
            # Several inputs are concatenated to one disk.
            output("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-m", "4",
                   "-o", f"compression_type={compression}", *[raw] * times, part)

        return self._made(path, make)

    def dense(self, content):
        """The data of a sparse raw disk without its holes: what a plain copy has to write."""
        raw = self.raw(content)

        def make(part):
            with open(raw, "rb") as source, open(part, "wb") as target:
                end = 0
                size = os.fstat(source.fileno()).st_size
                while end < size:
                    try:
                        start = os.lseek(source.fileno(), end, os.SEEK_DATA)
                    except OSError:
                        break
                    end = os.lseek(source.fileno(), start, os.SEEK_HOLE)
                    source.seek(start)
                    while start < end:
                        block = source.read(min(4 * MIB, end - start))
                        target.write(block)
                        start += len(block)
                # Whole blocks, as direct writes need them.
                target.truncate((target.tell() + MIB - 1) // MIB * MIB)

        return self._made(raw.with_suffix(".dense"), make)

    def _made(self, path, make):
        if not path.exists():
            progress(f"making {path.name}")
            part = path.with_name("part-" + path.name)
            part.unlink(missing_ok=True)
            make(part)
            part.rename(path)
        return path

    def _files(self, path, size_mib):
        """ext4 with as much of the tree as fills four fifths of it."""
        staging = self.directory / "tree"
        budget = size_mib * MIB * 4 // 5
        output("rm", "-rf", staging)
        for parent, directories, names in os.walk(self.tree):
            directories.sort()
            if self.directory.is_relative_to(parent) and parent != "/":
                continue
            for name in sorted(names):
                source = os.path.join(parent, name)
                target = staging / os.path.relpath(source, self.tree)
                if os.path.islink(source) or not os.path.isfile(source):
                    continue
                size = os.path.getsize(source)
                if size > budget:
                    continue
                budget -= (size + 4095) // 4096 * 4096
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source, target)
                except OSError:
                    output("cp", source, target)
        output("mkfs.ext4", "-q", "-d", staging, path, f"{size_mib}M")
        output("rm", "-rf", staging)

    def _noise(self, path, size_mib):
        """Incompressible data, as of media or of encrypted files."""
        with open(path, "wb") as target:
            for _ in range(size_mib):
                target.write(os.urandom(MIB))

    def _logs(self, path, size_mib):
        """Highly compressible data: lines of a log."""
        dice = random.Random(2)
        words = ["GET", "POST", "/index.html", "/api/v1/jobs", "200", "404", "upstream", "timeout",
                 "client", "closed", "keepalive", "connection"]
        with open(path, "wb") as target:
            while target.tell() < size_mib * MIB:
                lines = "".join(
                    f"2026-01-{dice.randrange(1, 29):02} 12:{dice.randrange(60):02} host{dice.randrange(9)} "
                    f"web[{dice.randrange(9999)}]: {' '.join(dice.choices(words, k=6))}\n"
                    for _ in range(2000)
                ).encode()
                target.write(lines * 8)
            target.truncate(size_mib * MIB)
