"""A tree of a million files: how long init, mount and a walk take, and what the daemon holds meanwhile.

The tree is made on a fresh ext4 on a loop device, before mezzo knows of it. The daemon may have 20,000 descriptors. Times
are told next to those of the same walk on the bare host file system, as machines differ and are shared.
"""

import argparse
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

from harness import FileSystem, LOGS, Programs, Failure, end_with, print_table, require_isolation, run, say, seconds

DESCRIPTORS = 20_000
PER_DIRECTORY = 100


def make_tree(root, files):
    """`files` files of 0 to 99 bytes, in directories of 100, which are in directories of 100."""
    for number in range(0, files, PER_DIRECTORY):
        directory = root / f"d{number // PER_DIRECTORY // 100:03}" / f"d{number // PER_DIRECTORY % 100:02}"
        directory.mkdir(parents=True)
        for index in range(min(PER_DIRECTORY, files - number)):
            with open(directory / f"file-{number + index:07}", "wb", buffering=0) as file:
                file.write(b"x" * (index % 100))


class Large:
    def __init__(self, programs, files):
        self.programs = programs
        self.host = FileSystem("ext4", 16)
        self.path = self.host.path / "tree"
        self.path.mkdir()
        self.log = LOGS / "large.log"
        self.log.unlink(missing_ok=True)
        self.rows = [("step", "time", "daemon's memory", "its descriptors")]
        self.timed("make the tree on the host", lambda: make_tree(self.path, files))

    def run(self, *argv, **options):
        return run(argv, log=self.log, **options)

    def status(self):
        return json.loads(self.run(self.programs.mezzo, "status", self.path, "--json").output)

    def timed(self, what, work, daemon=False):
        started = time.monotonic()
        work()
        took = time.monotonic() - started
        memory = descriptors = ""
        if daemon:
            pid = self.status()["pid"]
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            anonymous = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            memory = f"{anonymous / 1024:.1f} MiB"
            descriptors = f"{len(os.listdir(f'/proc/{pid}/fd'))}"
        self.rows.append((what, f"{took:.2f} s", memory, descriptors))
        say("  ".join(self.rows[-1]))
        return took

    def mount(self):
        limit = f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"
        self.run("prlimit", limit, self.programs.mezzo, "mount", self.path)

    def compared(self):
        deadline = time.monotonic() + 900
        while not self.status()["scan"].startswith("done"):
            if time.monotonic() > deadline or self.status()["scan"].startswith("failed"):
                raise Failure(f"the comparison: {self.status()['scan']}")
            time.sleep(0.05)

    def walk(self):
        self.run("find", self.path, "-name", ".mezzo", "-prune", "-o", "-size", "+1000", "-print")

    def kill(self):
        daemon = os.pidfd_open(self.status()["pid"])
        signal.pidfd_send_signal(daemon, signal.SIGKILL)
        select.select([daemon], [], [])
        os.close(daemon)

    def lose_power(self):
        self.kill()
        self.run("umount", "--lazy", self.path)
        # The machine was not really restarted, so that the boot that the LML tells of has to be made another one.
        with open(self.path / ".mezzo/lml", "r+b") as lml:
            lml.seek(8)
            lml.write(bytes(16))

    def drop_caches(self):
        self.run("sync")
        Path("/proc/sys/vm/drop_caches").write_text("2")


def main():
    require_isolation()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--files", type=int, default=1_000_000)
    arguments = parser.parse_args()
    large = Large(Programs.of(arguments), arguments.files)
    large.drop_caches()
    large.timed("walk the host's tree, cold", large.walk)
    large.timed("walk it again", large.walk)
    large.timed("init", lambda: large.run(large.programs.mezzo, "init", large.path))
    large.timed("mount", large.mount, daemon=True)
    large.timed("until tree and log are compared", large.compared, daemon=True)
    large.timed("walk the mount", large.walk, daemon=True)
    large.timed("walk it again", large.walk, daemon=True)
    large.drop_caches()
    large.timed("walk it, cold", large.walk, daemon=True)
    large.timed("chmod -R", lambda: large.run("chmod", "-R", "go-w", large.path / "d000"), daemon=True)
    large.timed("unmount", lambda: large.run(large.programs.mezzo, "unmount", large.path))
    large.timed("mount after that", large.mount, daemon=True)
    large.timed("until tree and log are compared", large.compared, daemon=True)
    large.kill()
    large.timed("mount after a kill", large.mount, daemon=True)
    large.timed("until tree and log are compared", large.compared, daemon=True)
    large.lose_power()
    large.timed("mount after a loss of power", large.mount, daemon=True)
    large.timed("until tree and log are compared", large.compared, daemon=True)
    large.timed("unmount", lambda: large.run(large.programs.mezzo, "unmount", large.path))
    large.timed("verify", lambda: large.run(large.programs.mezzo, "verify", "--quick", large.path))
    used = large.run("du", "-s", "-BM", "--apparent-size", large.path / ".mezzo").output.split()[0]
    say()
    print_table(large.rows)
    say(f"log and index of {arguments.files:,} files: {used}iB")


if __name__ == "__main__":
    end_with(main)
