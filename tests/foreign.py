"""Runs test suites from elsewhere on a mounted fileset, and on the plain file system for comparison.

No test may fail on the mount that passes on the plain file system. After each suite the mount must show what the
host's directory has, the log replayed onto an empty directory must give an equal tree, and `mezzo verify` must agree.
"""

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness import (
    CACHE, LOGS, WORK, Checked, Failure, Fileset, Hung, Plain, Programs, ROOT, end_with, print_table, run, say, seconds,
)


@dataclass
class Results:
    """How the tests of a suite ended, by name."""

    passed: set = field(default_factory=set)
    # name -> why
    failed: dict = field(default_factory=dict)
    skipped: set = field(default_factory=set)
    seconds: float = 0.0

    def text(self):
        parts = [f"{len(self.passed)} pass"]
        parts += [f"{len(self.failed)} FAIL"] if self.failed else []
        parts += [f"{len(self.skipped)} skip"] if self.skipped else []
        return ", ".join(parts)


@dataclass
class Place:
    """Where a suite runs: a directory for each root that it needs, and a log."""

    name: str
    directories: list
    log: Path


# --- the suites ---


# What Linux has. `naptime` is above a tick of the kernel's clock, which times in inodes are taken from; `allow_remount`
# stays off, as remounting is refused while anything is being written in the background, also on plain ext4.
PJDFSTEST_CONFIGURATION = """\
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = false

[dummy_auth]
entries = [["tests", "tests"], ["pjdfstest", "pjdfstest"]]
"""

# The crate has 398 tests. Far fewer results mean that the runner broke, not that all is well.
PJDFSTEST_AT_LEAST = 390


def pjdfstest(place, options):
    """System calls and what POSIX says of them."""
    configuration = WORK / "pjdfstest.toml"
    configuration.write_text(PJDFSTEST_CONFIGURATION)
    # For what must fail between file systems.
    secondary = WORK / f"{place.name}-secondary"
    secondary.mkdir()
    run(["mount", "-t", "tmpfs", "secondary", secondary], log=place.log)
    program = CACHE / "pjdfstest-0.2.2/bin/pjdfstest"
    argv = [program, "-c", configuration, "-p", place.directories[0], "-s", secondary]
    ended = run(argv, log=place.log, may_fail=True, timeout=300)
    run(["umount", secondary], log=place.log)

    results = Results()
    lines = ended.output.splitlines()
    for line, next_line in zip(lines, lines[1:]):
        test = re.match(r"(\S+::\S+)\s+(ok|FAILED|skipped)$", line)
        if test and test[2] == "ok":
            results.passed.add(test[1])
        elif test and test[2] == "skipped":
            results.skipped.add(test[1])
        elif test:
            results.failed[test[1]] = next_line.strip()
    told = len(results.passed) + len(results.skipped) + len(results.failed)
    if told < PJDFSTEST_AT_LEAST:
        raise Failure(f"pjdfstest told of {told} tests, not {PJDFSTEST_AT_LEAST}, see {place.log}")
    return results


# The default has reads, writes, truncation, and shared mappings. This adds the rest of what Linux has.
FSX_ALL_OPERATIONS = """\
[weights]
close_open = 1.0
invalidate = 1.0
mapread = 2.0
mapwrite = 2.0
read = 2.0
write = 2.0
truncate = 2.0
fsync = 0.1
fdatasync = 0.1
posix_fallocate = 1.0
punch_hole = 1.0
sendfile = 1.0
posix_fadvise = 0.5
copy_file_range = 1.0
"""


def fsx(place, options):
    """One file, read and written at random in every way, each byte checked."""
    configuration = WORK / "fsx.toml"
    configuration.write_text(FSX_ALL_OPERATIONS)
    results = Results()
    for seed in range(42, 42 + options.seeds):
        # All operations are slower, as each mapped write is synced among many more small ranges.
        for kind, count, extra in [("default", options.fsx_operations, []), ("all", options.fsx_operations // 4, ["-f", configuration])]:
            name = f"{kind} operations, seed {seed}"
            file = place.directories[0] / f"{kind}-{seed}"
            # What it keeps for finding out why it failed is no part of the fileset.
            argv = [CACHE / "fsx-0.3.2/bin/fsx", "-q", "-N", str(count), "-S", str(seed), "-P", LOGS, *extra, file]
            ended = run(argv, log=place.log, may_fail=True, timeout=300)
            if ended.status == 0:
                results.passed.add(name)
            else:
                results.failed[name] = last_line(ended.output)
    return results


# Of the class, these are about the machine, not about the file system that they run on, or are refused to root here;
# bind-mount hangs the machine by design; hdd is about speed.
STRESSORS_LEFT_OUT = "bind-mount binderfs dev hdd procfs quota ramfs sync-file sysfs sysinfo"


def stressors():
    # stress-ng tells the members of a class on stderr, and takes the question for an error.
    asked = subprocess.run(["stress-ng", "--class", "filesystem?"], capture_output=True, text=True, check=False)
    names = re.search(r"stressors: (.*)", asked.stdout + asked.stderr)[1].split()
    return [name for name in names if name not in STRESSORS_LEFT_OUT.split()]


def stress_ng(place, options):
    """Each kind of work on a file system, as fast as it goes. One after the other, so that each failure has a name."""
    results = Results()
    for name in stressors():
        argv = ["stress-ng", f"--{name}", "1", "-t", str(options.seconds), "--verify", "--temp-path", place.directories[0]]
        try:
            # Some look at their clock only between rounds, and clean up after it.
            ended = run(argv, log=place.log, may_fail=True, timeout=60 + 10 * options.seconds)
        except Hung as hung:
            raise Hung(f"{name}: {hung}") from None
        # stress-ng says 0 for what it could not run at all, and 3 or 4 for what it found missing later.
        if "skipping stress" in ended.output or ended.status in (3, 4):
            results.skipped.add(name)
        elif ended.status == 0:
            results.passed.add(name)
        else:
            failures = [line for line in ended.output.splitlines() if "fail:" in line]
            results.failed[name] = failures[0] if failures else last_line(ended.output)
    return results


def unison(place, options):
    """A synchronizer's own tests between two roots."""
    home = WORK / f"{place.name}-home"
    home.mkdir()
    # The name of the host becomes part of names of files in its own directory.
    env = {"HOME": str(home), "UNISON": str(home / "unison"), "UNISONLOCALHOSTNAME": "here"}
    argv = ["unison", "-ui", "text", "-selftest", "-batch", *place.directories]
    ended = run(argv, log=place.log, may_fail=True, timeout=120, env=env)
    tests = re.findall(r"^(.+)\.\.\.$", ended.output, re.MULTILINE)
    if ended.status == 0 and "Success" in ended.output and tests:
        return Results(passed=set(tests))
    return Results(passed=set(tests[:-1]), failed={(tests or ["start"])[-1]: last_line(ended.output)})


def last_line(output):
    return (output.strip().splitlines() or ["(no output)"])[-1]


@dataclass
class Suite:
    """A suite, and how many roots it needs."""

    name: str
    run: object
    roots: int = 1


SUITES = {
    suite.name: suite
    for suite in [Suite("pjdfstest", pjdfstest), Suite("fsx", fsx), Suite("stress-ng", stress_ng), Suite("unison", unison, roots=2)]
}


# Tests that a mount cannot run, however good it is. All others that pass plain must pass on it.
CANNOT_RUN_ON_FUSE = {
    "link::link_count_max": "pathconf(LINK_MAX) is the C library's, by the type of file system, and it has no number for FUSE",
    "fiemap": "the kernel passes FIEMAP on to no FUSE file system",
}


# --- running them ---


@dataclass
class Outcome:
    """What became of a suite on the plain file system and on the mount."""

    suite: Suite
    plain: Results | None = None
    mount: Results | None = None
    checks: list = field(default_factory=list)
    problems: list = field(default_factory=list)


def run_suite(suite, places, label, options):
    """Runs a suite in a directory of each place."""
    log = LOGS / f"{suite.name}-{label}.log"
    log.unlink(missing_ok=True)
    directories = []
    for place in places:
        # unison insists on "test" in the names of its roots.
        directory = place.path / "test"
        # pjdfstest acts as users who own nothing.
        run(["mkdir", "--mode=777", directory], log=log, timeout=60)
        directories.append(directory)
    started = time.monotonic()
    results = suite.run(Place(f"{suite.name}-{label}", directories, log), options)
    results.seconds = time.monotonic() - started
    return results


def run_plain(suite, options):
    places = [Plain(options.filesystem) for _ in range(suite.roots)]
    results = run_suite(suite, places, "plain", options)
    for place in places:
        place.close()
    return results


# Suites clean up after themselves. With this, the tree is never empty when it is compared.
def add_something(fileset, name):
    run(["cp", "-r", ROOT / "tests", fileset.path / name], log=fileset.log, timeout=60)


SOMETHING_AT_LEAST = 10


def run_mounted(suite, outcome, programs, options):
    filesets = [Fileset(programs, f"{suite.name}-mount-{index}", options.filesystem) for index in range(suite.roots)]
    try:
        for fileset in filesets:
            add_something(fileset, "before")
        outcome.mount = run_suite(suite, filesets, "mount", options)
        for fileset in filesets:
            add_something(fileset, "after")
    except Hung as hung:
        outcome.problems.append(str(hung))
        for fileset in filesets:
            fileset.abandon()
        return
    except Failure as failure:
        outcome.problems.append(str(failure))
    for fileset in filesets:
        checked = fileset.check(SOMETHING_AT_LEAST)
        outcome.checks.append(checked)
        outcome.problems += checked.problems
        if not checked.problems:
            fileset.close()


def run_both(suite, programs, options):
    outcome = Outcome(suite)
    try:
        # Its plain run takes as long as the mounted one and has not failed yet: with --short, what fails on the mount fails.
        if not (options.short and suite.name == "stress-ng"):
            say(f"{suite.name} on plain {options.filesystem}")
            outcome.plain = run_plain(suite, options)
        if programs:
            say(f"{suite.name} on a mount")
            run_mounted(suite, outcome, programs, options)
    except Failure as failure:
        outcome.problems.append(str(failure))
    outcome.problems += regressions(outcome)
    return outcome


def regressions(outcome):
    """What passes plain and does not on the mount, and what fails plain."""
    plain, mount = outcome.plain, outcome.mount
    # A test that fails plain says nothing of the mount any more: then this machine, or the suite, is to be looked at.
    problems = [f"{name}, also without mezzo: {why}" for name, why in (plain.failed if plain else {}).items()]
    if mount:
        must_pass = plain.passed if plain else set(mount.failed)
        problems += [
            f"{name}: {mount.failed.get(name, 'passes plain, and was not run on the mount')}"
            for name in sorted(must_pass - mount.passed - (mount.skipped & CANNOT_RUN_ON_FUSE.keys()))
        ]
    return problems


def print_outcomes(outcomes):
    rows = [("suite", "plain", "time", "mount", "time", "records", "replay", "differences")]
    for outcome in outcomes:
        plain, mount = outcome.plain, outcome.mount
        rows.append((
            outcome.suite.name,
            plain.text() if plain else "-",
            seconds(plain.seconds) if plain else "-",
            mount.text() if mount else "-",
            seconds(mount.seconds) if mount else "-",
            " + ".join(f"{checked.records:,}" for checked in outcome.checks) or "-",
            " + ".join(seconds(checked.seconds.get("replay", 0)) for checked in outcome.checks) or "-",
            "; ".join(short_comparison(checked) for checked in outcome.checks) or "-",
        ))
    say()
    print_table(rows)
    for outcome in outcomes:
        for problem in outcome.problems:
            say(f"FAILED: {outcome.suite.name}: {problem}")


def short_comparison(checked: Checked):
    if not checked.problems:
        return "none"
    return checked.compared.split(";")[0] if checked.compared.startswith("different") else "not compared"


def main():
    parser = argparse.ArgumentParser(prog="foreign.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--plain", action="store_true", help="only on the plain file system, without mezzo")
    parser.add_argument("--short", action="store_true", help="for every day: less of each, under three minutes")
    parser.add_argument("--filesystem", choices=["ext4", "xfs"], default="ext4", help="what is below (default: ext4)")
    parser.add_argument("--seconds", type=int, help="for each stressor of stress-ng (default: 3, short: 1)")
    parser.add_argument("--seeds", type=int, help="of fsx (default: 4, short: 1)")
    parser.add_argument("--fsx-operations", type=int, default=20000, help="for each seed (default: 20000)")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)} (default: all)")
    options = parser.parse_args()
    options.seconds = options.seconds or (1 if options.short else 3)
    options.seeds = options.seeds or (1 if options.short else 4)
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"there is no suite {', '.join(unknown)}")
    programs = None if options.plain else Programs.of(options)

    chosen = [SUITES[name] for name in options.suites or SUITES]
    outcomes = [run_both(suite, programs, options) for suite in chosen]
    print_outcomes(outcomes)
    return any(outcome.problems for outcome in outcomes)


if __name__ == "__main__":
    end_with(main)
