"""Real work on a real tree in a mounted fileset: what was recorded must build an equal tree.

A source tree that Debian delivers is unpacked, put under git, built by its own build system, and mixed with
everything that a source tree does not have. Parts of it are removed, moved, and unpacked again. Then the log is
replayed onto an empty directory on another file system, and the trees are compared.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness import (CACHE, LOGS, ROOT, WORK, Checked, Failure, FileSystem, Fileset, Hung, Plain, Programs, end_with, print_table, run,
                     say, seconds)


@dataclass
class Tree:
    """A source tree, and what can be done with it."""

    name: str
    archive: str
    # Commands of its own build system, chosen for how long they take.
    build: list
    # Something that they make.
    built: str
    # Directories in it, for what their names say.
    removed: str
    moved: str
    unpacked_over: str
    # What a smaller tree would prove less with.
    at_least: int
    # Room for the tree, its history, what is built, and what is kept of it.
    gib: int


SMALL = Tree(
    name="uClibc-ng",
    archive="uClibc-ng-*.tar.xz",
    # It wants the kernel's headers in one place, and Debian has them in two.
    build=[
        ["sh", "-c", "mkdir headers && ln -s /usr/include/linux /usr/include/asm-generic /usr/include/$(gcc -print-multiarch)/asm headers/"],
        ["sh", "-c", "make ARCH=$(uname -m) defconfig"],
        ["sh", "-c", "make -j2 KERNEL_HEADERS=$PWD/headers"],
    ],
    built="lib/libc.a",
    removed="libc/sysdeps/linux/mips",
    moved="docs",
    unpacked_over="libc/string",
    at_least=9_000,
    gib=4,
)

WHOLE = Tree(
    name="Linux",
    archive="linux-source-6.1.tar.xz",
    build=[["make", "tinyconfig"], ["make", "-j2", "lib/", "kernel/sched/", "fs/"]],
    built="fs/built-in.a",
    removed="drivers/gpu",
    moved="Documentation",
    unpacked_over="include",
    at_least=80_000,
    gib=16,
)


@dataclass
class Worker:
    """Somebody who works in a directory, step by step."""

    tree: Tree
    directory: Path
    log: Path
    durations: list = field(default_factory=list)

    @property
    def archive(self):
        return next((CACHE / "sources").glob(self.tree.archive))

    @property
    def source(self):
        """Where the tree is unpacked: the name of its top directory is the archive's."""
        return self.directory / self.archive.name.removesuffix(".tar.xz")

    def work(self):
        self.run(["git", "--version"])
        for step in [
            self.unpack, self.commit, self.build, self.make_special_things, self.use_a_database, self.remove, self.move,
            self.unpack_over, self.restore_by_git,
        ]:
            started = time.monotonic()
            step()
            duration = time.monotonic() - started
            self.durations.append((step.__name__.replace("_", " "), duration))
            say(f"  {self.durations[-1][0]}: {seconds(duration)}")

    def run(self, argv, **options):
        # Nobody's own settings; nor does git ask whose directory it is, or tidy up behind our back.
        env = {
            "HOME": str(WORK), "LC_ALL": "C", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "A Test", "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "A Test", "GIT_COMMITTER_EMAIL": "test@localhost",
            "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "gc.autoDetach", "GIT_CONFIG_VALUE_1": "false",
        }
        return run(argv, log=self.log, env=env, **options)

    def unpack(self):
        self.run(["tar", "-xf", self.archive, "-C", self.directory])

    def commit(self):
        self.run(["git", "init", "-q"], cwd=self.source)
        # Debian's Linux tells git to ignore everything.
        self.run(["git", "add", "-A", "--force"], cwd=self.source)
        self.run(["git", "commit", "-q", "-m", "as it came"], cwd=self.source)

    def build(self):
        for command in self.tree.build:
            self.run(command, cwd=self.source)
        self.run(["test", "-s", self.source / self.tree.built])

    def make_special_things(self):
        self.run([sys.executable, ROOT / "tests/special.py", self.directory / "special", LOGS / "special.log"])

    def use_a_database(self):
        for journal in ["delete", "wal", "memory"]:
            statements = (
                f"pragma journal_mode={journal}; pragma mmap_size=10000000;"
                "create table t(n integer primary key, s text);"
                "with recursive c(n) as (select 1 union all select n+1 from c where n<20000)"
                " insert into t select n, hex(randomblob(50)) from c;"
                "delete from t where n%3=0; update t set s=upper(s)||n where n%5=0; vacuum; pragma integrity_check;"
            )
            ended = self.run(["sqlite3", self.directory / f"{journal}.db", statements])
            if ended.output.splitlines()[-1] != "ok":
                raise Failure(f"sqlite3 found its database damaged: {ended.output}")

    def remove(self):
        self.run(["rm", "-rf", self.source / self.tree.removed])

    def move(self):
        self.run(["mv", self.source / self.tree.moved, self.source / f"{self.tree.moved} moved"])
        # To a place from which each of its files is another one's neighbour.
        self.run(["mv", self.source / f"{self.tree.moved} moved", self.directory / "moved"])

    def unpack_over(self):
        top = self.source.name
        again = [f"{top}/{self.tree.moved}", f"{top}/{self.tree.unpacked_over}"]
        self.run(["tar", "-xf", self.archive, "-C", self.directory, *again])

    def restore_by_git(self):
        self.run(["git", "checkout", "-q", "-b", "side"], cwd=self.source)
        self.run(["git", "add", "-A"], cwd=self.source)
        self.run(["git", "commit", "-q", "-m", "without what was removed"], cwd=self.source)
        self.run(["git", "checkout", "-q", "-"], cwd=self.source)
        left = self.run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=self.source).output
        if left:
            raise Failure(f"git finds changes after a checkout: {left[:500]}")
        self.run(["git", "fsck", "--no-progress"], cwd=self.source)


def work_plain(tree, options):
    place = Plain(options.filesystem, tree.gib)
    worker = Worker(tree, place.path, LOGS / "real-tree-plain.log")
    worker.log.unlink(missing_ok=True)
    say(f"{tree.name} on plain {options.filesystem}")
    worker.work()
    place.close()
    return worker.durations


def work_mounted(tree, programs, options):
    fileset = Fileset(programs, "real-tree", options.filesystem, tree.gib)
    worker = Worker(tree, fileset.path, LOGS / "real-tree-work.log")
    worker.log.unlink(missing_ok=True)
    say(f"{tree.name} on a mount")
    try:
        worker.work()
    except Hung:
        fileset.abandon()
        raise
    except Failure as failure:
        # What was recorded until then must be right nevertheless, and tells more.
        say(f"FAILED: {failure}")
        checked = fileset.check(1)
        for problem in checked.problems:
            say(f"FAILED: {problem}")
        sys.exit(1)
    checked = fileset.check(tree.at_least)
    checks = [(f"check: {step}", duration) for step, duration in checked.seconds.items()]
    for problem in checked.problems:
        say(f"FAILED: {problem}")
    if checked.problems:
        sys.exit(1)
    taken_in = take_in(fileset, tree.at_least)
    taken_back = take_back(fileset)
    fileset.close()
    return worker.durations + checks + taken_in + taken_back, checked


def take_in(fileset, at_least):
    """Takes all records into an empty replica on another file system: the tree there is equal."""
    host = FileSystem(fileset.kind, fileset.gib)
    other = host.path / "replica"
    fileset.mezzo("init", other, "--replica-of", fileset.path)
    taken = fileset.mezzo("reintegrate", fileset.path, "--onto", other)
    say(f"  reintegrate: {taken.output.strip()}, {seconds(taken.seconds)}")
    fileset.mezzo("verify", other)
    fileset.compare(Checked(), "the tree and the replica's", fileset.path, other, at_least)
    host.unmount()
    return [("reintegrate all", taken.seconds)]


def take_back(fileset):
    """Takes back everything that was ever done, and does it again: nothing may be left, and then everything is there."""
    before = fileset.listing()
    fileset.mount()
    undo = fileset.mezzo("undo", fileset.path, "--to", "0")
    say(f"  undo: {undo.output.strip()}, {seconds(undo.seconds)}")
    left = run(["find", fileset.path, "-mindepth", "1"], log=fileset.log).output
    if left:
        raise Failure(f"an undo of everything left {left[:500]}")
    redo = fileset.mezzo("redo", fileset.path)
    say(f"  redo: {redo.output.strip()}, {seconds(redo.seconds)}")
    fileset.unmount()
    if fileset.listing() != before:
        raise Failure("undone and done again, the tree is another")
    fileset.mezzo("verify", fileset.path)
    return [("undo all", undo.seconds), ("redo all", redo.seconds)]


def main():
    parser = argparse.ArgumentParser(prog="real-tree.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--small", action="store_true", help="uClibc-ng instead of Linux: under two minutes")
    parser.add_argument("--plain", action="store_true", help="only on the plain file system, without mezzo")
    parser.add_argument("--both", action="store_true", help="also on the plain file system, to compare durations")
    parser.add_argument("--filesystem", choices=["ext4", "xfs"], default="ext4", help="what is below (default: ext4)")
    options = parser.parse_args()
    tree = SMALL if options.small else WHOLE
    # Whoever calls this has a mask of his own.
    os.umask(0o022)

    plain = work_plain(tree, options) if options.plain or options.both else []
    if options.plain:
        return
    durations, checked = work_mounted(tree, Programs.of(options), options)
    plain = dict(plain)
    rows = [("step", "mount", "plain")]
    rows += [(step, seconds(duration), seconds(plain[step]) if step in plain else "-") for step, duration in durations]
    say()
    print_table(rows)
    say(f"\n{checked.records:,} records; {checked.compared}")


if __name__ == "__main__":
    end_with(main)
