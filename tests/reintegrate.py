"""Has two replicas take each other's records, and ends things at random moments of it.

Programs work on one replica through its mount; then the other takes its records in, mounted or not, and one of these happens:
the command is killed, the daemon of the one that takes or of the one that gives is killed, or the host file system of the one
that takes is shut down (EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN) and mounted again. The command is run again until it is done; now and
then it is killed again meanwhile. Or nothing is ended, and users read and write on the mount while records arrive: whoever has
a file open goes on reading the bytes that it had. After each round
- the trees are equal, each agrees with its log, and each log replayed onto an empty directory gives an equal tree;
- each log has each record of the other exactly once, by its origin;
- the one that took has recorded nothing of its own, unless its users did something.

With --steps, small logs are taken in by a replica that is not mounted, and killed before the N-th system call that changes
anything, for N over the whole run: records of all kinds by an empty one, and by one that has their files, and did some of the
same itself, records that change them. Or the machine counts as restarted then, as after a power loss with all written out; and
what recovers is killed before each of its calls too.
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

from crash import SHUTDOWN_FLAGS, Host, forget_boot, kill_and_wait, start_work, wait_for
from harness import LOGS, Failure, FileSystem, Programs, WORK, end_with, require_isolation, run, say

# What is for the log alone that it stands in.
LOCAL = {"epoch", "noop", "disable", "amend", "alias"}
# Rounds of one pair of replicas; then there are new ones, as logs that only grow take ever longer to be replayed.
ROUNDS = 25

# A reader of files whose data is replaced meanwhile. All bytes of a file's version are one byte.
READER = r"""
import os, sys
directory, held = sys.argv[1], {}
def version(file):
    found = set(os.pread(file, 1 << 20, 0))
    if len(found) != 1: sys.exit(f"a file with bytes of versions {sorted(found)}")
    return found.pop()
names = sorted(os.listdir(directory))
for name in names:
    file = os.open(f"{directory}/{name}", os.O_RDONLY)
    held[file] = version(file)
print("holds", flush=True)
os.set_blocking(0, False)
while True:
    for name in names:
        file = os.open(f"{directory}/{name}", os.O_RDONLY)
        version(file)
        os.close(file)
    for file, seen in held.items():
        if version(file) != seen: sys.exit(f"an open file went from version {seen} to {version(file)}")
    try:
        if os.read(0, 1) == b"": break
    except BlockingIOError: pass
print("read", flush=True)
"""

# Gives these files another version, each in its place.
REWRITE = r"""
import os, sys
os.makedirs(sys.argv[1], exist_ok=True)
for at in range(6):
    path = f"{sys.argv[1]}/f{at}"
    with open(path, "r+b" if os.path.exists(path) else "wb") as file:
        file.write(bytes([int(sys.argv[2])]) * 60000)
"""

# Records of all kinds.
ALL_KINDS = r"""
mkdir d d/e && printf one > f && printf two > d/g && printf three > d/h && ln f d/l && ln -s target s && mkfifo p
chmod 4755 f && chown 5:6 d/g && setfattr -n user.k -v v f && setfattr -n user.k -v w f && setfattr -n user.other -v v d
setfacl -m u:7:r d/h && setfacl -d -m u:7:rx d/e && printf more >> d/g && truncate -s 2 d/h && touch -d @1000000000.5 f
mv d/g d/e/g && mv d/e/g f2 && printf other > o && mv o f2 && python3 -c 'import ctypes; ctypes.CDLL(None).renameat2(-100, b"f", -100, b"d/h", 2)'
rm s p && mkdir gone && rmdir gone && mv d dd && printf again > dd/h && rm dd/l && setfattr -x user.k dd/h && mkdir dd/e/x && head -c 100000 /dev/zero > big
"""

# What both have; then what one does; and what the other does too, on its own.
SHARED = r"""
mkdir d d/e && printf one > d/f && ln d/f d/e/f && ln d/f f && printf two > d/g && printf three > d/e/h && printf four > i && printf five > d/j
mkdir d/k d/l && printf six > d/k/n && printf seven > d/k/m
"""
CHANGES = r"""
printf longer > d/f && truncate -s 0 d/f && truncate -s 0 d/g && printf more > d/g && printf again >> d/e/h && mv d/e/h i && truncate -s 3 i
rm d/k/n && mv d/k/m d/l/m && rm d/j && chmod 600 d/f && rm f
"""
# As if before, so that the times of the directories are left to the records that arrive.
SAME = r"""
rm d/k/n && mv d/k/m d/l/m && rm d/j && touch -d @1000000000.5 d d/k d/l
"""


class Side:
    """One of the two replicas, on a host that can lose its power."""

    def __init__(self, programs, kind, name, of=None):
        self.programs = programs
        self.name = name
        self.host = Host(kind, name=name)
        self.path = self.host.path / "tree"
        self.log = LOGS / "reintegrate.log"
        self.mezzo("init", self.path, *([] if of is None else ["--replica-of", of.path]))
        self.is_mounted = False

    def mezzo(self, command, *arguments, **options):
        return run([self.programs.mezzo, command, *arguments], log=self.log, timeout=300, **options)

    def mount(self):
        if not self.is_mounted:
            self.mezzo("mount", self.path)
            self.is_mounted = True

    def unmount(self):
        if self.is_mounted:
            self.mezzo("unmount", self.path)
            self.is_mounted = False

    def daemon(self):
        return json.loads(self.mezzo("status", self.path, "--json").output)["pid"]

    def records(self):
        """Its records, by the kinds of changes and in the order of the log."""
        lines = self.mezzo("log", self.path, "--json").output.split("\n")
        return [json.loads(line) for line in lines if line.startswith("{")]

    def cut_power(self, flag):
        self.host.cut_power(flag)
        if self.is_mounted:
            kill_and_wait(self.pid)

    def restore_power(self):
        if self.is_mounted:
            run(["umount", "--lazy", self.path], log=self.log)
            self.is_mounted = False
        wait_for(lambda: run(["umount", self.host.path], log=self.log, may_fail=True).status == 0, "the host is busy")
        self.host.mount()
        forget_boot(self.path)

    def close(self):
        self.unmount()
        self.host.close()


class Pair:
    """Two replicas of one fileset, and what happens to them."""

    def __init__(self, programs, kind, seed):
        self.programs = programs
        self.random = random.Random(seed)
        self.log = LOGS / "reintegrate.log"
        self.a = Side(programs, kind, "a")
        self.b = Side(programs, kind, "b", self.a)
        self.number = 0
        # An empty replica that is mounted records the root as it finds it.
        self.until_done(self.a, self.b, may_kill=False)

    def start(self, giver, taker):
        argv = [self.programs.mezzo, "reintegrate", giver.path, "--onto", taker.path]
        log = open(self.log, "ab")
        log.write(f"$ {' '.join(map(str, argv))}\n".encode())
        log.flush()
        return subprocess.Popen(argv, stdout=log, stderr=log, cwd="/")

    def work(self, side):
        """Has programs work on it for a while."""
        side.mount()
        roots = [side.path / f"r{(self.number + worker) % 3}" for worker in range(2)]
        workers = start_work(roots, f"round{self.number}", self.random)
        time.sleep(self.random.uniform(0.1, 0.6))
        for worker in workers:
            worker.process.kill()
            worker.process.wait()

    def until_done(self, giver, taker, may_kill=True):
        while may_kill and self.random.random() < 0.35:
            command = self.start(giver, taker)
            time.sleep(self.random.uniform(0, 0.15))
            command.kill()
            command.wait()
        # An undisturbed one ends well at once.
        taker.mezzo("reintegrate", giver.path, "--onto", taker.path)

    # What happens in a round.

    def kill_command(self, giver, taker):
        taker.unmount()
        self.end_amid(giver, taker, lambda command: command.kill())

    def kill_command_of_daemon(self, giver, taker):
        taker.mount()
        self.end_amid(giver, taker, lambda command: command.kill())

    def kill_daemon(self, giver, taker):
        taker.mount()
        taker.pid = taker.daemon()
        self.end_amid(giver, taker, lambda command: kill_and_wait(taker.pid))
        taker.is_mounted = False
        if self.random.random() < 0.7:
            taker.mount()
        else:
            run(["umount", "--lazy", taker.path], log=self.log)

    def kill_giver(self, giver, taker):
        self.random.choice([taker.mount, taker.unmount])()
        giver.mount()
        giver.pid = giver.daemon()
        self.end_amid(giver, taker, lambda command: kill_and_wait(giver.pid), wait_first=True)
        giver.is_mounted = False
        giver.mount()

    def cut(self, giver, taker):
        self.random.choice([taker.mount, taker.unmount])()
        flag = self.random.choice(SHUTDOWN_FLAGS)
        taker.pid = taker.daemon() if taker.is_mounted else None
        self.end_amid(giver, taker, lambda command: (taker.cut_power(flag), command.kill()))
        taker.restore_power()

    def end_amid(self, giver, taker, end, wait_first=False):
        command = self.start(giver, taker)
        # The moment is what is random here.
        time.sleep(self.random.uniform(0, 0.2))
        end(command)
        try:
            command.wait(timeout=60)
        except subprocess.TimeoutExpired:
            command.kill()
            raise Failure("mezzo reintegrate hung after the end of a daemon") from None

    def users(self, giver, taker):
        """Users read files whose data arrives, and write others."""
        read, written = "read", f"written-{taker.name}"
        self.rewrite(giver, read)
        taker.mount()
        self.until_done(giver, taker, may_kill=False)
        reader = subprocess.Popen([sys.executable, "-c", READER, taker.path / read], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True, cwd="/")
        if reader.stdout.readline() != "holds\n":
            raise Failure("the reader could not open its files")
        workers = start_work([taker.path / written], f"round{self.number}", self.random)
        for _ in range(3):
            self.rewrite(giver, read)
            self.until_done(giver, taker, may_kill=False)
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
        try:
            said, _ = reader.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            reader.kill()
            raise Failure("a reader hung while records arrived") from None
        if reader.returncode != 0 or said != "read\n":
            raise Failure(f"the reader ended with {reader.returncode}")

    def rewrite(self, side, directory):
        side.mount()
        run([sys.executable, "-c", REWRITE, side.path / directory, str(self.random.randrange(256))], log=self.log)

    WHAT = [kill_command, kill_command_of_daemon, kill_daemon, kill_giver, cut, users]

    def round(self, what):
        self.number += 1
        giver, taker = (self.a, self.b) if self.number % 2 == 1 else (self.b, self.a)
        self.work(giver)
        what(self, giver, taker)
        # What its users did last is recorded with the end of the mount at the latest.
        giver.unmount()
        self.until_done(giver, taker)
        if what == Pair.users:
            taker.unmount()
            self.until_done(taker, giver, may_kill=False)
        self.check(giver, taker, is_own_work=what == Pair.users)

    def check(self, giver, taker, is_own_work):
        giver.unmount()
        taker.unmount()
        for side in [giver, taker]:
            side.mezzo("verify", side.path)
        self.equal(giver.path, taker.path)
        given, taken = giver.records(), taker.records()
        each_once(given, taken)
        if is_own_work:
            each_once(taken, given)
        elif own := own_of(taken, given):
            raise Failure(f"{taker.name} has recorded of its own: {own[-1]}")
        self.replay(taker)

    def replay(self, side):
        onto = side.host.path / "onto"
        onto.mkdir()
        side.mezzo("replay", side.path, "--onto", onto)
        self.equal(side.path, onto)
        shutil.rmtree(onto)

    def equal(self, one, other):
        run([self.programs.compare, "--at-least", "0", one, other], log=self.log)

    def close(self):
        self.a.close()
        self.b.close()

    def keep_evidence(self):
        kept = LOGS / "reintegrate-evidence"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for side in [self.a, self.b]:
            run(["umount", "--lazy", side.path], log=self.log, may_fail=True)
            run(["cp", "-a", "--sparse=always", side.path, kept / side.name], log=self.log, may_fail=True)


def own_of(taken, given):
    """What the one that took has, and the other has not."""
    known = {record["origin"] for record in given}
    return [record for record in taken if record["origin"] not in known and record["kind"] not in LOCAL]


def each_once(given, taken, most=1):
    """Each record that concerns others is in both logs, once; in up to `most` parts, where what it did was there."""
    counts = collections.Counter(record["origin"] for record in taken)
    for record in given:
        if record["kind"] not in LOCAL and not 1 <= counts[record["origin"]] <= most:
            raise Failure(f"{counts[record['origin']]} times in the other log: {record}")


# The steps.

# System calls that change something that outlives the process. Memory that is mapped is changed without any.
CHANGING = ("write,pwrite64,writev,pwritev,openat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,mknodat,symlinkat,fchown,fchownat,"
            "fchmod,fchmodat,utimensat,setxattr,fsetxattr,lsetxattr,removexattr,fremovexattr,ftruncate,fallocate,fsync,fdatasync,syncfs,"
            "copy_file_range,sendfile,ioctl,exit_group").split(",")


class Steps:
    """A kill before each system call."""

    def __init__(self, programs, kind, scene, power, twice):
        self.programs = programs
        self.log = LOGS / "reintegrate-steps.log"
        self.log.unlink(missing_ok=True)
        self.host = FileSystem(kind)
        self.shared, self.changes, self.same = scene
        self.power = power
        self.twice = twice
        self.giver = self.host.path / "giver"
        self.mezzo("init", self.giver)
        self.work(self.giver, self.shared)
        self.giver_before = self.host.path / "before"
        run(["cp", "-a", self.giver, self.giver_before], log=self.log)
        self.work(self.giver, self.changes)
        self.records = self.log_of(self.giver)
        self.taken = 0

    def mezzo(self, command, *arguments, **options):
        return run([self.programs.mezzo, command, *arguments], log=self.log, timeout=60, **options)

    def log_of(self, path):
        return [json.loads(line) for line in self.mezzo("log", path, "--json").output.split("\n") if line.startswith("{")]

    def work(self, path, script):
        if script:
            self.mezzo("mount", path)
            run(["sh", "-ec", script], log=self.log, cwd=path)
            self.mezzo("unmount", path)

    def new_taker(self):
        taker = self.host.path / "taker"
        shutil.rmtree(taker, ignore_errors=True)
        self.mezzo("init", taker, "--replica-of", self.giver)
        if self.shared:
            self.mezzo("reintegrate", self.giver_before, "--onto", taker)
            self.work(taker, self.same)
        self.own = len(own_of(self.log_of(taker), self.records))
        return taker

    def traced(self, taker, *options):
        command = [self.programs.mezzo, "reintegrate", self.giver, "--onto", taker]
        return run(["strace", "-f", *options, *command], log=self.log, may_fail=True, timeout=60)

    def calls(self, taker):
        """How often each call is made in a whole run, by the thread that makes it most often."""
        trace = WORK / "trace"
        ended = self.traced(taker, "-o", trace, "-e", "trace=" + ",".join(f"?{call}" for call in CHANGING))
        if ended.status != 0:
            raise Failure(f"mezzo reintegrate ended with {ended.status}, see {self.log}")
        counts = collections.Counter()
        for line in trace.read_text(errors="replace").splitlines():
            if found := re.match(r"(\d+) +(\w+)\(", line):
                counts[found[1], found[2]] += 1
        most = {}
        for (_, call), count in counts.items():
            most[call] = max(most.get(call, 0), count)
        return sorted(most.items())

    def kill(self, taker, call, number):
        ended = self.traced(taker, "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        if self.power and (taker / ".mezzo/lml").exists():
            forget_boot(taker)
        return ended.status != 0

    def visit(self, step, chance):
        taker = self.new_taker()
        killed = self.kill(taker, *step)
        if self.twice:
            call, count = chance.choice(self.again)
            self.said = f", then before {call} number {(number := chance.randint(1, count))}"
            self.kill(taker, call, number)
        self.mezzo("reintegrate", self.giver, "--onto", taker)
        self.mezzo("verify", taker)
        run([self.programs.compare, self.giver, taker], log=self.log)
        taken = self.log_of(taker)
        each_once(self.records, taken, most=3 if self.same else 1)
        if own := own_of(taken, self.records)[self.own:]:
            raise Failure(f"it has recorded of its own: {own[-1]}")
        return killed

    def run(self, most, chance, one=None):
        calls = self.calls(self.new_taker())
        taker = self.new_taker()
        self.kill(taker, "unlinkat", 1)
        # Those of a run that has to recover first.
        self.again = self.calls(taker)
        points = [(call, number) for call, count in calls for number in range(1, count + 1)]
        visited = points if most is None or most >= len(points) else chance.sample(points, most)
        if one is not None:
            call, _, number = one.partition(":")
            visited = [(call, int(number))]
        killed = 0
        for call, number in visited:
            self.said = ""
            try:
                killed += self.visit((call, number), chance)
            except Failure as failure:
                raise Failure(f"killed before {call} number {number}{self.said}: {failure}") from None
        say(f"{killed} of {len(points)} system calls visited, each of {len(calls)} kinds of them once for each time that it is made; "
            f"{len(self.records)} records")
        self.host.unmount()


def all_steps(programs, options, chance):
    for what, scene in [("records of all kinds", (None, ALL_KINDS, None)), ("changes of what is there", (SHARED, CHANGES, SAME))]:
        for power in [False, True]:
            for twice in [False, True]:
                say(f"{what}, {'a power loss' if power else 'a kill'}{' and another' if twice else ''}")
                Steps(programs, options.filesystem, scene, power, twice).run(options.steps or None, chance, options.step)


def series(programs, kind, seed, count, only):
    pair = Pair(programs, kind, seed)
    happened = collections.Counter()
    for number in range(count):
        what = only or (Pair.WHAT[number] if number < len(Pair.WHAT) else pair.random.choice(Pair.WHAT))
        try:
            pair.round(what)
        except Failure as failure:
            pair.keep_evidence()
            raise Failure(f"{what.__name__}, round {number + 1} on {kind}, series seed {seed}: {failure}") from None
        happened[what.__name__] += 1
    records = len(pair.a.records())
    pair.close()
    return happened, records


def main():
    require_isolation()
    parser = argparse.ArgumentParser(prog="reintegrate.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--only", choices=[what.__name__ for what in Pair.WHAT], help="what happens in all rounds")
    parser.add_argument("--steps", nargs="?", type=int, const=0, help="kill before system calls: so many of them, or all; without rounds")
    parser.add_argument("--step", metavar="CALL:N", help="kill before this one alone")
    parser.add_argument("--filesystem", choices=["ext4", "xfs"], default="ext4", help="what is below (default: ext4)")
    parser.add_argument("--seed", type=int, default=None, help="a run to be had again, as far as timing allows")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    say(f"seed {seed}")
    programs = Programs.of(options)
    if options.steps is not None or options.step is not None:
        return all_steps(programs, options, random.Random(seed))
    (LOGS / "reintegrate.log").unlink(missing_ok=True)
    only = getattr(Pair, options.only) if options.only else None
    for at in range(0, options.rounds, ROUNDS):
        count = min(ROUNDS, options.rounds - at)
        started = time.monotonic()
        happened, records = series(programs, options.filesystem, seed + at, count, only)
        what = ", ".join(f"{name.replace('_', ' ')} {times}" for name, times in happened.items())
        say(f"{count} rounds on {options.filesystem}: {what}; {records:,} records, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    end_with(main)
