"""What is written to: files and block devices, on a disk or in memory."""

import os
import pathlib
import subprocess

from measure import Failed, output


class File:
    """A new file for every run."""

    kind = "file"

    def __init__(self, directory):
        self.path = pathlib.Path(directory) / "target.raw"

    def prepare(self):
        """Removes what the last run made."""
        self.path.unlink(missing_ok=True)

    def prepare_zero(self, size):
        """A file of that size that reads as zero."""
        self.prepare()
        with open(self.path, "wb") as file:
            file.truncate(size)

    def close(self):
        """Removes it."""
        self.path.unlink(missing_ok=True)


class LoopDevice:
    """A block device over a file. Every run finds old data on it."""

    kind = "device"

    def __init__(self, directory, size):
        self.file = pathlib.Path(directory) / "device.raw"
        self.size = size
        with open(self.file, "wb") as file:
            file.truncate(size)
        try:
            self.path = pathlib.Path(
                output("losetup", "-f", "--show", "--direct-io=on", self.file).strip()
            )
        except Failed:
            # tmpfs of older kernels has no direct I/O.
            self.path = pathlib.Path(output("losetup", "-f", "--show", self.file).strip())

    def prepare(self):
        """What the last run wrote stays: a volume that is used again. The comparison has left it in
        the page cache, where a volume's old data is not: direct writes would have to throw it out."""
        output("blockdev", "--flushbufs", self.path)

    def prepare_zero(self, size):
        """The device reads as zero."""
        del size
        self.prepare()
        output("blkdiscard", "-z", "-f", self.path)

    def close(self):
        """Detaches it."""
        subprocess.run(["losetup", "-d", str(self.path)], check=False)
        self.file.unlink(missing_ok=True)


def check(expected, target):
    """Compares a raw disk with what was written: byte for byte, by qemu-img."""
    found = subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "raw", str(expected), str(target.path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )
    if found.returncode != 0:
        raise Failed(f"{target.path} is not {expected}: {found.stdout.strip()}")
    if target.kind == "file" and os.path.getsize(expected) != os.path.getsize(target.path):
        raise Failed(f"{target.path} has another size than {expected}")
