"""What the tests of this folder share: running programs, file systems of our own, and filesets on them.

It runs inside `isolated`, which gives it the work folder and ends and unmounts whatever is left over, so nothing
here has to be undone after a failure.

A call on a mount whose daemon hangs cannot be interrupted, only killed. So nothing in this process touches a mount: it
lets programs do it, which may be killed.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ["CACHE"])
TARGET = Path(os.environ["TARGET"])
WORK = Path(os.environ["WORK"])
# What programs print goes here, for whoever has to find out why one failed.
LOGS = TARGET / "test-logs"

# No step of a test takes as long on two cores; what does has hung.
STEP_SECONDS = 900


# From the kernel's headers.
MNT_FORCE = 1
MNT_DETACH = 2


class Failure(Exception):
    """A test failed; the text says what, for people."""


class Hung(Failure):
    """Something did not end in time; what else is asked of the same mount will not either."""


def say(text=""):
    print(text, flush=True)


@dataclass
class Ended:
    """A program that ended by itself."""

    status: int
    output: str
    seconds: float


def run(argv, *, log, timeout=STEP_SECONDS, may_fail=False, cwd=None, env=None, user=None):
    """Runs a program and waits for it. Its output is returned, and appended to the file `log`.

    A program that takes too long is killed with what it started.
    """
    argv = [os.fspath(word) for word in argv]
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with open(log, "ab") as out:
        shown = b"$ " + " ".join(map(str, argv)).encode(errors="surrogateescape") + b"\n"
        os.write(out.fileno(), shown)
        begin = os.fstat(out.fileno()).st_size
        # A group of its own, so that what it started can be ended with it.
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, user=user, group=user,
            extra_groups=None if user is None else [],
            env={**os.environ, **(env or {})}, start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Hung(f"{argv[0]} had not ended after {timeout} s, see {log}") from None
    output = log.read_bytes()[begin:].decode(errors="replace")
    ended = Ended(status, output, time.monotonic() - started)
    if status != 0 and not may_fail:
        last = "\n".join("    " + line for line in output.splitlines()[-8:])
        raise Failure(f"{' '.join(argv)} ended with {status}, see {log}\n{last}")
    return ended


def is_mounted(path):
    """Whether something is mounted at exactly this path; the path is not looked at."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(mount.split()[4] == os.fspath(path) for mount in mounts)


class FileSystem:
    """A fresh file system in a sparse file, mounted at `path`.

    The path is short, as suites bind sockets by paths that may have 108 bytes at most.
    """

    made = 0

    def __init__(self, kind="ext4", gib=4):
        FileSystem.made += 1
        self.path = WORK / f"f{FileSystem.made}"
        self.path.mkdir()
        image = WORK / f"f{FileSystem.made}.img"
        log = LOGS / "file-systems.log"
        with open(image, "wb") as file:
            file.truncate(gib << 30)
        make = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q"]}[kind]
        run([*make, image], log=log)
        # The loop device is detached when this is unmounted, or when the namespace ends.
        run(["mount", "-o", "loop", image, self.path], log=log)
        # The loop device holds it; so no image stays behind, whatever happens.
        image.unlink()

    def unmount(self):
        run(["umount", self.path], log=LOGS / "file-systems.log")
        self.path.rmdir()


# All of a tree but its directories' sizes, and what an undo changes, which are ctimes.
LISTING = r"""
cd "$1" && find . -path ./.mezzo -prune -o -type d -printf '%P %y %m %U %G %T@\n' -o -printf '%P %y %m %U %G %T@ %s %n %l\n' |
    LC_ALL=C sort && find . -path ./.mezzo -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum &&
    getfattr -h -R -d -m user . | LC_ALL=C sort
"""


@dataclass
class Checked:
    """What the checks after the work on a fileset found."""

    records: int = 0
    seconds: dict = field(default_factory=dict)
    compared: str = ""
    problems: list = field(default_factory=list)


class Fileset:
    """A fileset on a fresh file system. Used under `path`, where it is mounted over itself."""

    def __init__(self, programs, name, kind="ext4", gib=4):
        self.programs = programs
        self.name = name
        self.kind = kind
        self.gib = gib
        self.log = LOGS / f"{name}.log"
        self.log.unlink(missing_ok=True)
        self.host = FileSystem(kind, gib)
        self.path = self.host.path / "fileset"
        self.path.mkdir(mode=0o755)
        self.mezzo("init", self.path)
        # The same directory without the mount: a bind made before does not see what is mounted later.
        self.bare = WORK / f"{name}-bare"
        self.bare.mkdir()
        run(["mount", "--bind", "--make-private", self.host.path, self.bare], log=self.log)
        self.mount()

    def mezzo(self, command, *arguments, **options):
        return run([self.programs.mezzo, command, *arguments], log=self.log, **options)

    def mount(self):
        self.mezzo("mount", self.path, timeout=60)
        if not is_mounted(self.path):
            raise Failure(f"mezzo mount {self.path} said that it was done, and nothing is mounted")

    def unmount(self):
        self.mezzo("unmount", self.path, timeout=120)
        if is_mounted(self.path):
            raise Failure(f"mezzo unmount {self.path} said that it was done, and it is still mounted")

    def abandon(self):
        """Lets go of a mount that hangs or fails, by cutting the kernel's connection to the daemon."""
        # umount(8) looks at the path first, and would hang on it.
        ctypes.CDLL(None).umount2(os.fsencode(self.path), MNT_FORCE | MNT_DETACH)
        daemon_log = self.bare / "fileset/.mezzo/daemon.log"
        if daemon_log.exists():
            text = daemon_log.read_text(errors="replace")[-4000:]
            with open(self.log, "a") as log:
                log.write(f"--- the end of daemon.log:\n{text}\n")

    def check(self, at_least):
        """Checks that what was seen is what the host has, and that the log tells it; unmounts.

        At least so many names must be in the tree, as an empty tree proves nothing.
        """
        checked = Checked()
        steps = {
            "view": lambda: self.compare(checked, "the mount and the host's directory", self.path, self.bare / "fileset", at_least),
            "unmount": self.unmount,
            "replay": lambda: self.replay(checked, at_least),
            "verify": lambda: self.mezzo("verify", self.path),
        }
        for step, take in steps.items():
            started = time.monotonic()
            try:
                take()
            except Failure as failure:
                checked.problems.append(f"{step}: {failure}")
                if step == "unmount" or isinstance(failure, Hung):
                    self.abandon()
                    break
            checked.seconds[step] = time.monotonic() - started
        return checked

    def replay(self, checked, at_least):
        checked.records = self.last_recno()
        target = FileSystem(self.kind, self.gib)
        replayed = target.path / "tree"
        replayed.mkdir(mode=0o755)
        self.mezzo("replay", self.path, "--onto", replayed)
        self.compare(checked, "the tree and the replayed log", self.path, replayed, at_least)
        target.unmount()

    def last_recno(self):
        output = self.mezzo("log", self.path, "-n", "1", "--json").output
        found = re.search(r'"recno": *(\d+)', output)
        if not found:
            raise Failure(f"mezzo log showed no record: {output.strip()!r}")
        return int(found[1])

    def listing(self):
        """All that is in it, to be compared with what is there at another time."""
        return run(["sh", "-c", LISTING, "listing", self.path], log=self.log).output

    def compare(self, checked, what, a, b, at_least):
        ended = run([self.programs.compare, "--at-least", str(at_least), a, b], log=self.log, may_fail=True)
        lines = ended.output.splitlines() or ["(nothing)"]
        checked.compared = lines[-1]
        if ended.status != 0:
            shown = "\n".join("    " + line for line in lines[:20])
            raise Failure(f"{what} are not equal: {lines[-1]}, see {self.log}\n{shown}")

    def close(self):
        run(["umount", self.bare], log=self.log)
        self.host.unmount()


class Plain:
    """A directory on a fresh file system, with nothing between: what the same work does without mezzo."""

    def __init__(self, kind="ext4", gib=4):
        self.host = FileSystem(kind, gib)
        self.path = self.host.path / "fileset"
        self.path.mkdir(mode=0o755)

    def close(self):
        self.host.unmount()


@dataclass
class Programs:
    """The programs under test."""

    mezzo: Path
    compare: Path

    @staticmethod
    def add_arguments(parser):
        parser.add_argument("--mezzo", type=Path, default=TARGET / "release/mezzo", help="the program under test")
        parser.add_argument("--compare", type=Path, default=TARGET / "release/mezzo-compare", help="its comparer")

    @staticmethod
    def of(arguments):
        programs = Programs(arguments.mezzo.absolute(), arguments.compare.absolute())
        for path in [programs.mezzo, programs.compare]:
            if not os.access(path, os.X_OK):
                sys.exit(f"{path} is not there: build it, or say where it is")
        return programs


def require_isolation():
    if "MEZZO_TESTS_ISOLATED" not in os.environ:
        sys.exit("this is to be run by the shell script of the same name")


def end_with(main):
    """Runs a script's main function; a failure ends it with what failed, and no trace of our own calls."""
    require_isolation()
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"FAILED: {failure}")


def seconds(duration):
    return f"{duration:.1f} s" if duration < 100 else f"{duration:.0f} s"


def print_table(rows):
    """Prints rows of texts, the first of which is the head, in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for index, row in enumerate(rows):
        say("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
        if index == 0:
            say("  ".join("-" * width for width in widths))
