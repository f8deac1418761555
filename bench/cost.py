"""What a mount costs: ratios of the mount, with recording on, to the bare host file system, measured side by side.

On each fresh file system there are two directories, one of them a mounted fileset, and everything is done in both by turns.
Calls and work are told in times of native, so that less is better; data in parts of native, so that more is better.
Pinned: everything on one CPU, where waking another process costs least; on an idle machine with several, a wake-up of
another CPU is most of what a call through FUSE costs.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path

from harness import CACHE, FileSystem, LOGS, Programs, TARGET, end_with, print_table, require_isolation, run, say

# What was asked for, in times of native.
GOALS = {
    "create+close": 3.7, "chmod": 7, "rename": 2.9, "unlink": 4.2, "mkdir": 3.3, "stat of a missing name": 3.4,
    "untar": 2.2, "rm -rf": 1.4, "build": 1.10,
}
DATA_GOAL = 0.95

SQLITE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("create table if not exists t (id integer primary key, v text)")
for i in range(200):
    with db:
        db.execute("insert into t (v) values (?)", ("x" * 100,))
"""


class Pair:
    """A plain directory and a mounted fileset on the same fresh file system."""

    def __init__(self, programs, transport, kind, pinned, attic=True):
        self.programs = programs
        self.log = LOGS / "cost.log"
        self.prefix = ["taskset", "-c", "0"] if pinned else []
        self.host = FileSystem(kind, 16)
        self.native = self.host.path / "native"
        self.mount = self.host.path / "mount"
        self.native.mkdir()
        self.mount.mkdir()
        run([programs.mezzo, "init", self.mount], log=self.log)
        if not attic:
            config = self.mount / ".mezzo/fileset.toml"
            config.write_text(config.read_text().replace("\non = true\n", "\non = false\n"))
        # The daemon's ring threads stay on the CPUs whose requests they take.
        on = self.prefix if transport == "device" else []
        self.run(*on, programs.mezzo, "mount", "--transport", transport, self.mount)

    def run(self, *argv, **options):
        return run(argv, log=self.log, **options)

    def bench(self, what, rounds, count):
        output = self.run(*self.prefix, TARGET / "release/mezzo-bench", what, "--json",
                          "--rounds", str(rounds), "--count", str(count), self.native, self.mount).output
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def by_turns(self, rounds, works):
        """`works` are names and functions of a directory, done one after the other; each is told as a row."""
        times = {name: ([], []) for name, _ in works}
        for number in range(rounds):
            sides = [(self.native, 0), (self.mount, 1)]
            for directory, side in sides if number % 2 == 0 else reversed(sides):
                for name, work in works:
                    self.run("sync")
                    started = time.monotonic()
                    work(directory)
                    times[name][side].append(time.monotonic() - started)
        for name, (native, mount) in times.items():
            ratios = [m / n for n, m in zip(native, mount)]
            native, mount = statistics.median(native), statistics.median(mount)
            if not name.startswith("("):
                yield {"kind": name, "native_us": native * 1e6, "mount_us": mount * 1e6, "ratio": mount / native,
                       "low": min(ratios), "high": max(ratios)}

    def close(self):
        log = self.mount / ".mezzo/kml"
        self.run(self.programs.mezzo, "unmount", self.mount, timeout=300)
        output = self.run(self.programs.mezzo, "log", self.mount, "-n", "1", "--json").output
        records = json.loads(output.splitlines()[-1])["recno"]
        size = sum(file.stat().st_size for file in log.iterdir())
        self.run("umount", self.host.path)
        return records, size


def works_of(pair, build):
    archive = next((CACHE / "sources").glob("uClibc-ng-*.tar.xz"))

    def tree(directory):
        return next(path for path in directory.iterdir() if path.name.startswith("uClibc"))

    def shell(text):
        return lambda directory: pair.run(*pair.prefix, "sh", "-c", text, cwd=tree(directory))

    headers = "mkdir -p headers && ln -sf /usr/include/linux /usr/include/asm-generic /usr/include/$(gcc -print-multiarch)/asm headers/"
    git = "git -c safe.directory='*' -c user.name=n -c user.email=e@e -c gc.auto=0 -c core.fsync=none"
    works = [
        ("untar", lambda directory: pair.run(*pair.prefix, "tar", "-xf", archive, "-C", directory)),
        ("git add and commit", shell(f"{git} init -q . && {git} add -A . && {git} commit -qm all")),
        ("git status", shell(f"{git} status --short && {git} status --short && {git} status --short")),
        ("sqlite, 200 transactions", lambda directory: pair.run(*pair.prefix, "python3", "-c", SQLITE, directory / "db")),
        ("find and du", shell("find . -size +100000 && du -s . && find . -newer Makefile > /dev/null")),
        ("read all", shell("tar -cf - . | cat > /dev/null")),
    ]
    if build:
        works += [
            ("(prepare)", shell(f"{headers}; make -s ARCH=$(uname -m) defconfig")),
            ("build", shell("make -s -j2 KERNEL_HEADERS=$PWD/headers")),
        ]
    return works + [("rm -rf", lambda directory: pair.run(*pair.prefix, "rm", "-rf", tree(directory), directory / "db"))]


def table(title, measured, data=False):
    say()
    say(title)
    rows = [("", "native", "mount", "ratio", "range", "goal")]
    for m in measured:
        goal = DATA_GOAL if data else GOALS.get(m["kind"])
        met = goal is not None and (m["ratio"] >= goal if data else m["ratio"] <= goal)
        rows.append((m["kind"], duration(m["native_us"]), duration(m["mount_us"]), f"{m['ratio']:.2f}",
                     f"{m['low']:.2f} to {m['high']:.2f}",
                     "" if goal is None else f"{goal} {'met' if met else 'not met'}"))
    print_table(rows)


def duration(microseconds):
    return f"{microseconds / 1e6:.2f} s" if microseconds > 1e5 else f"{microseconds:.1f} us"


def main():
    require_isolation()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--transport", choices=["io-uring", "device"], action="append")
    parser.add_argument("--only", choices=["calls", "work", "data"], action="append")
    parser.add_argument("--pinning", choices=["free", "pinned"], action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-build", action="store_true", help="leave the build out, which takes longest")
    arguments = parser.parse_args()
    programs = Programs.of(arguments)
    (LOGS / "cost.log").unlink(missing_ok=True)
    parts = arguments.only or ["calls", "work", "data"]
    enabled = Path("/sys/module/fuse/parameters/enable_uring")
    before = enabled.read_text() if enabled.exists() else None
    for transport in arguments.transport or ["io-uring", "device"]:
        for pinning in arguments.pinning or ["free", "pinned"]:
            title = f"requests by {transport}, {'all on one CPU' if pinning == 'pinned' else 'on two CPUs'}"
            if "calls" in parts:
                pair = Pair(programs, transport, "ext4", pinning == "pinned")
                table(f"Calls on ext4: {title}", pair.bench("calls", arguments.rounds, 2000))
                records, size = pair.close()
                say(f"{records:,} records of {size / records:.0f} bytes")
            if "work" in parts:
                pair = Pair(programs, transport, "ext4", pinning == "pinned")
                works = works_of(pair, build=not arguments.no_build)
                table(f"Work on ext4: {title}", pair.by_turns(3, works))
                pair.close()
        if "data" in parts:
            for kind, attic in [("xfs", True), ("ext4", False), ("ext4", True)]:
                pair = Pair(programs, transport, kind, False, attic)
                says = f"{kind}{', with reflinks' if kind == 'xfs' else ''}, attic {'on' if attic else 'off'}"
                table(f"Data on {says}: requests by {transport}", pair.bench("data", 3, 512), data=True)
                pair.close()
    if before is not None and enabled.read_text() != before:
        say(f"io_uring was switched on by {enabled}, which says {enabled.read_text().strip()} now")


if __name__ == "__main__":
    end_with(main)
