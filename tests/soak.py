"""Runs test suites from elsewhere on one mounted fileset, over and over, and looks at what the daemon holds.

Its memory and its descriptors must stay flat: after the first rounds, which fill the caches, neither may grow. At the end the
log replayed onto an empty directory must give an equal tree.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

from foreign import SUITES, SOMETHING_AT_LEAST, Place, add_something
from harness import LOGS, Failure, Fileset, Programs, end_with, print_table, run, say

# What a round does is short, so that there are many of them.
SHORT = SimpleNamespace(seconds=1, seeds=1, fsx_operations=5000)
# Rounds that fill caches.
WARM = 3
# How much more the second half of the rounds may hold than the first.
GROWTH = 1.2
GIB = 40


def held(fileset):
    """MiB of memory of the daemon's own, and its descriptors."""
    pid = json.loads(fileset.mezzo("status", fileset.path, "--json").output)["pid"]
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    anonymous = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return anonymous / 1024, len(os.listdir(f"/proc/{pid}/fd"))


def work(suite, fileset, number):
    directory = fileset.path / f"test-{number}"
    log = LOGS / f"soak-{suite.name}.log"
    log.unlink(missing_ok=True)
    run(["mkdir", "--mode=777", directory], log=log, timeout=60)
    results = suite.run(Place(f"soak-{suite.name}-{number}", [directory], log), SHORT)
    # A stressor that is ended between two steps leaves a file that nobody may remove.
    run(["chattr", "-R", "-f", "-ia", directory], log=log, may_fail=True)
    run(["rm", "-rf", directory], log=log)
    if results.failed:
        raise Failure(f"{suite.name}, round {number}: {results.failed}")


def main():
    parser = argparse.ArgumentParser(prog="soak.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--filesystem", choices=["ext4", "xfs"], default="ext4", help="what is below (default: ext4)")
    parser.add_argument("suites", nargs="*", metavar="SUITE", default=["pjdfstest", "fsx", "stress-ng"])
    options = parser.parse_args()
    fileset = Fileset(Programs.of(options), "soak", options.filesystem, GIB)
    add_something(fileset, "before")
    deadline = time.monotonic() + 60 * options.minutes
    rounds = []
    while time.monotonic() < deadline or len(rounds) < WARM + 2:
        for name in options.suites:
            work(SUITES[name], fileset, len(rounds))
        memory, descriptors = held(fileset)
        rounds.append((memory, descriptors, fileset.last_recno()))
        say(f"round {len(rounds)}: {memory:.1f} MiB, {descriptors} descriptors, {rounds[-1][2]:,} records")
    add_something(fileset, "after")
    checked = fileset.check(SOMETHING_AT_LEAST)
    half = WARM + (len(rounds) - WARM) // 2
    rows = [("", "first half", "second half")]
    problems = list(checked.problems)
    for column, what in enumerate(["MiB of memory", "descriptors"]):
        first, second = (statistics.median(r[column] for r in part) for part in (rounds[WARM:half], rounds[half:]))
        rows.append((what, f"{first:.1f}", f"{second:.1f}"))
        if second > GROWTH * first + 1:
            problems.append(f"{what} grew from {first:.1f} to {second:.1f}")
    say()
    print_table(rows)
    say(f"{checked.records:,} records in {len(rounds)} rounds; {checked.compared}")
    for problem in problems:
        say(f"FAILED: {problem}")
    return bool(problems)


if __name__ == "__main__":
    end_with(main)
