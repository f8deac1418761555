"""What taking in another replica's records costs, in one run on one fresh file system: each kind of record alone, all of them
together, and an unpacked source tree, onto a replica that is not mounted.

Against a bare loop of the calls that the records tell of, with the file system synced as often as reintegration does it, and
without; the tree against tar and rsync, each synced once; and taking back what was taken in against taking it in. Everything is
told in records or calls a second of the whole command, with its start and its end, where everything is durable; ratios of
medians over the rounds. Parts of native: more is better.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

from harness import CACHE, FileSystem, Failure, LOGS, Programs, TARGET, end_with, print_table, require_isolation, run, say

KINDS = ["create", "setattr", "rename", "unlink"]
# Of the bare loop with syncs, and of reintegration.
GOAL, UNDO_GOAL = 0.6, 1.0
# Records of a batch of reintegration, and records of each call: with data, a file is made and closed.
BATCH = 2048
RECORDS = {"create": 2}


class Bench:
    def __init__(self, programs, count):
        self.programs = programs
        self.count = count
        self.log = LOGS / "reintegrate-bench.log"
        self.host = FileSystem("ext4", 8)
        self.a, self.b = self.host.path / "a", self.host.path / "b"
        self.mezzo("init", self.a)
        self.mezzo("init", self.b, "--replica-of", self.a)

    def mezzo(self, *arguments):
        return run([self.programs.mezzo, *arguments], log=self.log)

    def timed(self, argv):
        """Seconds, and the peak of memory in MiB; everything before is on disk."""
        os.sync()
        started = time.monotonic()
        with open(self.log, "ab") as log:
            process = subprocess.Popen([os.fspath(word) for word in argv], stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise Failure(f"{argv} ended with {status}, see {self.log}")
        return time.monotonic() - started, usage.ru_maxrss / 1024

    def reintegrate(self, onto):
        return self.timed([self.programs.mezzo, "reintegrate", self.a, "--onto", onto])

    def undo(self, replica, recno):
        return self.timed([self.programs.mezzo, "undo", replica, "--to", recno])

    def last(self, replica):
        line = self.mezzo("log", replica, "-n", "1", "--json").output.splitlines()
        return str(json.loads(line[-1])["recno"]) if line else "0"

    def bare(self, kind, directory, batch, passes=1):
        argv = [TARGET / "release/mezzo-bench", "bare", kind, directory, "--count", str(self.count), "--batch", str(batch),
                "--passes", str(passes)]
        return float(run(argv, log=self.log).output)

    def on_mount(self, work):
        self.mezzo("mount", self.a)
        work()
        self.mezzo("unmount", self.a)

    def kinds(self):
        """Of each kind: seconds of reintegration, of the bare loop with syncs and without, and of undo."""
        found, ends = {}, []
        batched, plain = self.host.path / "batched", self.host.path / "plain"
        batched.mkdir()
        plain.mkdir()
        self.on_mount(lambda: (self.a / "d").mkdir())
        self.reintegrate(self.b)
        for kind in KINDS:
            self.on_mount(lambda: self.bare(kind, self.a / "d", 0))
            ends.append(self.last(self.b))
            taken, _ = self.reintegrate(self.b)
            os.sync()
            with_syncs = self.bare(kind, batched, BATCH // RECORDS.get(kind, 1))
            os.sync()
            found[kind] = [taken, with_syncs, self.bare(kind, plain, 0)]
        for kind, recno in reversed(list(zip(KINDS, ends))):
            undone, _ = self.undo(self.b, recno)
            found[kind].append(undone)
        together = self.host.path / "together"
        self.mezzo("init", together, "--replica-of", self.a)
        taken, _ = self.reintegrate(together)
        undone, _ = self.undo(together, "1")
        found["all together"] = [taken, sum(found[kind][1] for kind in KINDS), sum(found[kind][2] for kind in KINDS), undone]
        return found

    def tree(self):
        """Seconds of reintegration, of tar, of rsync and of undo, with a sync at the end."""
        packed = next((CACHE / "sources").glob("uClibc-ng-*.tar.xz"))
        archive = self.host.path / "tree.tar"
        run(["sh", "-c", f"xz -dc {packed} > {archive}"], log=self.log)
        self.on_mount(lambda: run(["tar", "-xf", archive, "-C", self.a], log=self.log))
        before = self.last(self.b)
        taken, _ = self.reintegrate(self.b)
        targets = [self.host.path / "tar", self.host.path / "rsync"]
        for target in targets:
            target.mkdir()
        unpacked, _ = self.timed(["sh", "-c", f"tar -xf {archive} -C {targets[0]} && sync -f {targets[0]}"])
        copied, _ = self.timed(["sh", "-c", f"rsync -a --exclude /.mezzo {self.a}/ {targets[1]}/ && sync -f {targets[1]}"])
        undone, _ = self.undo(self.b, before)
        return [taken, unpacked, copied, undone]

    def memory(self, passes):
        """The peak of memory, of so many passes over the same files."""
        self.on_mount(lambda: (self.bare("create", self.a, 0), self.bare("setattr", self.a, 0, passes)))
        return self.reintegrate(self.b)[1], int(self.last(self.b))

    def close(self):
        self.host.unmount()


def medians(rounds):
    return {kind: [statistics.median(column) for column in zip(*(found[kind] for found in rounds))] for kind in rounds[0]}


def goal(ratio, wanted):
    return f"{ratio:.2f}{'' if ratio >= wanted else ', not met'}"


def main():
    require_isolation()
    parser = argparse.ArgumentParser(prog="reintegrate.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--count", type=int, default=20_000, help="calls of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    programs = Programs.of(options)
    (LOGS / "reintegrate-bench.log").unlink(missing_ok=True)
    say(f"load {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} CPUs; {options.rounds} rounds")
    rounds, trees = [], []
    for _ in range(options.rounds):
        bench = Bench(programs, options.count)
        rounds.append(bench.kinds())
        bench.close()
        bench = Bench(programs, options.count)
        trees.append({"tree": bench.tree()})
        bench.close()
    rows = [("", "reintegrated", "bare, synced", "bare", f"of synced, goal {GOAL}", "of bare", "undone", f"of reintegrated, goal {UNDO_GOAL:.0f}")]
    for kind, (taken, batched, plain, undone) in medians(rounds).items():
        calls = options.count * (len(KINDS) if kind == "all together" else 1)
        rows.append((kind, *(f"{calls / seconds:,.0f}/s" for seconds in [taken, batched, plain]), goal(batched / taken, GOAL),
                     f"{plain / taken:.2f}", f"{calls / undone:,.0f}/s", goal(taken / undone, UNDO_GOAL)))
    say(f"\n{options.count:,} calls of each kind on ext4")
    print_table(rows)
    taken, unpacked, copied, undone = medians(trees)["tree"]
    say("\nAn unpacked source tree on ext4")
    print_table([("reintegrated", "tar x", "rsync -a", "of tar", "of rsync", "undone", "of reintegrated"),
                 (*(f"{seconds:.2f} s" for seconds in [taken, unpacked, copied]), f"{unpacked / taken:.2f}", f"{copied / taken:.2f}",
                  f"{undone:.2f} s", goal(taken / undone, UNDO_GOAL))])
    say("\nThe peak of memory, by the length of the log, over the same files")
    rows = [("records", "MiB")]
    for passes in [2, 40]:
        bench = Bench(programs, options.count // 10)
        memory, records = bench.memory(passes)
        rows.append((f"{records:,}", f"{memory:.0f}"))
        bench.close()
    print_table(rows)


if __name__ == "__main__":
    end_with(main)
