"""Takes random work back and does it again, over and over, with `kill -9` of the daemon in the middle of it.

The next mount finishes what was cut off. Then the tree must be as it was before the work, or after it: by every name, its
attributes, times, links, extended attributes and bytes; and tree and log must agree.
"""

import argparse
import difflib
import json
import os
import random
import select
import signal
import subprocess
import time
from pathlib import Path

from harness import LOGS, Failure, Fileset, Programs, end_with, require_isolation, run, say

# Steps of random work; many are refused, and change nothing.
WORK = r"""
import os, random, subprocess, sys
root, rnd = sys.argv[1], random.Random(int(sys.argv[2]))
for _ in range(400):
    directory = f"{root}/d{rnd.randrange(5)}/e{rnd.randrange(3)}"
    os.makedirs(directory, exist_ok=True)
    p, q = f"{directory}/f{rnd.randrange(12)}", f"{root}/d{rnd.randrange(5)}/g{rnd.randrange(8)}"
    def create():
        with open(p, "wb") as file: file.write(os.urandom(rnd.randrange(20000)))
    def append():
        with open(p, "ab") as file: file.write(b"more")
    steps = [create, create, create, append, lambda: os.rename(p, q), lambda: os.link(p, q), lambda: os.unlink(p),
        lambda: os.chmod(p, rnd.choice([0o600, 0o4755, 0o644])), lambda: os.setxattr(p, "user.k", os.urandom(3)),
        lambda: os.truncate(p, rnd.randrange(9000)), lambda: os.symlink("x", q),
        lambda: subprocess.run(["rm", "-rf", f"{root}/d{rnd.randrange(5)}"])]
    try: rnd.choice(steps)()
    except OSError: pass
"""


class Undoing:
    def __init__(self, programs, kind, seed):
        self.random = random.Random(seed)
        self.fileset = Fileset(programs, "undo-kills", kind)
        self.cut_off = 0

    def status(self):
        return json.loads(self.fileset.mezzo("status", self.fileset.path, "--json").output)

    def settle(self):
        """The kernel tells of the end of an open in its own time, and until then the file counts as open."""
        self.fileset.unmount()
        self.fileset.mount()

    def killed(self, *arguments):
        """Runs a command whose daemon is killed meanwhile, and mounts again."""
        daemon = os.pidfd_open(self.status()["pid"])
        command = subprocess.Popen([self.fileset.programs.mezzo, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The moment is what is random here.
        time.sleep(self.random.uniform(0, 0.12))
        signal.pidfd_send_signal(daemon, signal.SIGKILL)
        select.select([daemon], [], [])
        os.close(daemon)
        command.wait(timeout=60)
        wait_until_dead(self.fileset.path)
        said = self.fileset.mezzo("mount", self.fileset.path).output
        if "can't be finished" in said:
            raise Failure(said)
        self.cut_off += "cut off" in said

    def becomes(self, wanted, otherwise, *arguments):
        """The command is done, or was not begun: then it is done now."""
        self.killed(*arguments)
        found = self.fileset.listing()
        if found == otherwise:
            self.fileset.mezzo(*arguments)
            found = self.fileset.listing()
        if found != wanted:
            lines = difflib.unified_diff(wanted.splitlines(), found.splitlines(), "wanted", "found", lineterm="", n=0)
            raise Failure(f"after {arguments[0]} the tree is another:\n" + "\n".join(list(lines)[:20]))

    def round(self):
        path = self.fileset.path
        self.settle()
        before, last = self.fileset.listing(), self.status()["last_recno"]
        run(["python3", "-c", WORK, path, str(self.random.randrange(1 << 30))], log=self.fileset.log)
        self.settle()
        after = self.fileset.listing()
        self.becomes(before, after, "undo", path, "--to", str(last))
        self.becomes(after, before, "redo", path)
        self.fileset.unmount()
        self.fileset.mezzo("verify", path)
        self.fileset.mount()


def wait_until_dead(path):
    """The kernel takes the connection down in its own time."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if run(["stat", "-f", path], log=LOGS / "undo-dead.log", may_fail=True).status != 0:
            return
        time.sleep(0.01)
    raise Failure("a mount lives on without its daemon")


def main():
    require_isolation()
    parser = argparse.ArgumentParser(prog="undo.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--filesystem", choices=["ext4", "xfs"], default="ext4", help="what is below (default: ext4)")
    parser.add_argument("--seed", type=int, default=None, help="a run to be had again, as far as timing allows")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    say(f"seed {seed}")
    undoing = Undoing(Programs.of(options), options.filesystem, seed)
    for _ in range(options.rounds):
        undoing.round()
    checked = undoing.fileset.check(1)
    if checked.problems:
        raise Failure("; ".join(checked.problems))
    say(f"{options.rounds} rounds on {options.filesystem}, {undoing.cut_off} of {2 * options.rounds} cut off and finished; "
        f"{checked.records:,} records; {checked.compared}")


if __name__ == "__main__":
    end_with(main)
