"""Small real disks, mounted where nobody else sees them: tmpfs, or ext4 on a file.

A process of its own holds a private mount namespace; ``inside`` is how a program in it names the
disk, ``prefix`` puts a program there, ``outside`` is how we reach the same files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1024 * 1024
IMAGE = "image"  # the file of an ext4 disk
_MOUNTS = {
    "tmpfs": "mount -t tmpfs -o size={size},mode=0700 none {inside}",
    "ext4": "mount -o loop {image} {inside}",
}


class SmallDisk:
    """See the module; made by ``small_disk``."""

    def __init__(self, holder: subprocess.Popen[str], inside: Path, prefix: list[str]) -> None:
        self.inside = inside
        self.outside = Path(f"/proc/{holder.pid}/root{inside}")
        self.prefix = prefix
        self._filler = self.outside / "filler"

    def fill(self, leave: int = 0) -> None:
        """Take all the space but ``leave`` bytes."""
        free = os.statvfs(self.outside)
        size = free.f_bavail * free.f_frsize - leave
        had = self._filler.stat().st_size if self._filler.exists() else 0
        with self._filler.open("ab") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(had + size, 1))
        while not leave:  # what rounding left over
            try:
                with self._filler.open("ab", buffering=0) as file:
                    file.write(bytes(4096))
            except OSError:
                return

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink()


@contextlib.contextmanager
def small_disk(
    kind: str, size: int, folder: Path, octets: bytes | None = None
) -> Iterator[SmallDisk]:
    """A disk of ``size`` bytes; a named skip where the machine does not let us have one.

    ``octets``: what the ext4 disk held when its supply went; without them it is new.
    """
    inside, image = folder / "disk", folder / IMAGE
    inside.mkdir(exist_ok=True)
    user = ["--user", "--map-root-user"] if os.geteuid() else []
    if kind == "ext4":
        if user or shutil.which("mkfs.ext4") is None:
            pytest.skip("ext4 on a file needs root and e2fsprogs")
        image.write_bytes(bytes(size) if octets is None else octets)
        if octets is None:
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    mount = _MOUNTS[kind].format(size=size, inside=inside, image=image)
    holder = subprocess.Popen(
        ["unshare", *user, "--mount", "sh", "-c", f"{mount} && echo mounted && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        if holder.stdout.readline() != "mounted\n":
            pytest.skip(f"this machine does not let us mount {kind} in a private namespace")
        enter = ["--user", "--preserve-credentials"] if user else []
        yield SmallDisk(holder, inside, ["nsenter", f"--target={holder.pid}", *enter, "--mount"])
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()
