"""Ends things at random moments while programs work on a mount, and looks at what is left.

A kill: `kill -9` of the daemon, at work, while it recovers from the kill before, and while it unmounts. A cut: the host file
system is shut down (EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN), so that nothing that was not synced survives, and is then mounted
again; what follows a cut may be killed too. After each, the fileset is mounted again, and
- every file that was fsynced through the mount is there with its bytes and mode;
- tree and log agree, and the log replayed onto an empty directory gives an equal tree. After a cut, files whose bytes were
  lost, which the log tells of, are told by verify as lost, and none of them may have been fsynced.
"""

import argparse
import fcntl
import hashlib
import json
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness import Failure, LOGS, Programs, ROOT, WORK, end_with, require_isolation, run, say

SHUTDOWN = 0x8004587D
# Without flushing the journal; after flushing it.
SHUTDOWN_FLAGS = [2, 1]
SETTLE_SECONDS = 120
# What of a file is told to differ when its bytes were lost.
LOST_MARK = "xattr trusted.mezzo.lost"
LOST_FIELDS = {"size", "mtime", "content", LOST_MARK}
# A fileset has so many ends; then there is a new one, as a log that only grows takes ever longer to be replayed.
ENDS = 50


class Host:
    """A file system on a loop device that can lose its power."""

    def __init__(self, kind, gib=4, name=None):
        self.kind = kind
        self.log = LOGS / "crash.log"
        name = name or kind
        image = WORK / f"{name}.img"
        with open(image, "wb") as file:
            file.truncate(gib << 30)
        make = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q"]}[kind]
        run([*make, image], log=self.log)
        self.device = run(["losetup", "--find", "--show", image], log=self.log).output.strip()
        image.unlink()
        self.path = WORK / name
        self.path.mkdir()
        self.mount()

    def mount(self):
        run(["mount", self.device, self.path], log=self.log)

    def cut_power(self, flag):
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", flag))
        finally:
            os.close(directory)

    def close(self):
        run(["umount", self.path], log=self.log)
        run(["losetup", "--detach", self.device], log=self.log)
        self.path.rmdir()


class Promises:
    """What programs were told to be durable, by path."""

    def __init__(self):
        self.by_path = {}

    def take(self, text):
        # A line without its end was not told.
        for line in text.split("\n")[:-1]:
            word, path, *what = line.split(" ")
            if word == "may":
                self.by_path.pop(path, None)
            else:
                self.by_path[path] = what

    def forget_below(self, directory):
        self.by_path = {path: what for path, what in self.by_path.items() if not path.startswith(f"{directory}/")}

    def check(self, where):
        for path, (mode, size, digest) in self.by_path.items():
            try:
                stat = os.stat(path)
                with open(path, "rb") as file:
                    data = file.read()
            except OSError as error:
                raise Failure(f"{path} was fsynced, and can't be read {where}: {error}") from None
            if (len(data), hashlib.sha1(data).hexdigest()) != (int(size), digest):
                raise Failure(f"{path} was fsynced with {size} bytes, and has {len(data)} others {where}")
            if stat.st_mode & 0o7777 != int(mode, 8):
                raise Failure(f"{path} was fsynced with mode {mode}, and has {stat.st_mode & 0o7777:o} {where}")


class Examined:
    """A fileset that is looked at after something has happened to it."""

    def __init__(self, programs, path, log):
        self.programs = programs
        self.path = path
        self.log = log
        self.promises = Promises()

    def mezzo(self, command, *arguments, **options):
        return run([self.programs.mezzo, command, *arguments], log=self.log, timeout=300, **options)

    def status(self):
        return json.loads(self.mezzo("status", self.path, "--json").output)

    def mount(self):
        return self.mezzo("mount", self.path).output

    def amid_recovery(self):
        """Where more may happen."""

    def check(self, replay):
        """What must hold after each end. Returns how many files lost bytes."""
        self.mount()
        self.amid_recovery()
        wait_for(lambda: self.status()["scan"].startswith(("done", "failed")), "the comparison goes on and on")
        if (scan := self.status()["scan"]).startswith("failed"):
            raise Failure(scan)
        self.promises.check("through the mount")
        self.mezzo("unmount", self.path)
        self.promises.check("on the host")
        verified = self.mezzo("verify", self.path, "--json", may_fail=True)
        differences = [json.loads(line) for line in verified.output.splitlines() if line.startswith("{")]
        lost = {d["path"] for d in differences if d.get("lost")}
        wrong = [d for d in differences if not d.get("lost")]
        if wrong or (verified.status != 0 and not differences):
            raise Failure(f"tree and log differ: {wrong[:5] or verified.output}\n{self.history(wrong)}")
        for path in lost:
            if str(self.path / path) in self.promises.by_path:
                raise Failure(f"{path} was fsynced, and is lost")
        if replay:
            self.replay()
        return len(lost)

    def history(self, wrong):
        if not wrong:
            return ""
        path = self.path / wrong[0]["path"]
        return self.mezzo("log", self.path, path, "-n", "20", may_fail=True).output

    def replay(self):
        # On the same host, as it has the same limits, and is a fresh one.
        onto = self.path.parent / "onto"
        onto.mkdir()
        replayed = self.mezzo("replay", self.path, "--onto", onto, may_fail=True)
        compared = run([self.programs.compare, "--at-least", "0", "--limit", "1000000", self.path, onto],
                       log=self.log, may_fail=True)
        differences = [line.split("\t") for line in compared.output.splitlines()
                       if line.count("\t") == 3 and not line.startswith("note: ")]
        # Bytes that were lost can't be brought; all else is equal.
        lost = {os.lstat(self.path / path).st_ino for path, field, *_ in differences if field == LOST_MARK}
        for path, field, *values in differences:
            if field not in LOST_FIELDS or os.lstat(self.path / path).st_ino not in lost:
                raise Failure(f"the replayed log differs: {path} {field} {values}\n{self.history([{'path': path}])}")
        if not lost and max(replayed.status, compared.status) != 0:
            raise Failure(f"the log can't be replayed: {replayed.output}{compared.output}")
        shutil.rmtree(onto)

    def keep_evidence(self, name):
        """What to look at after a failure, as all that is mounted here ends with the test."""
        kept = LOGS / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        run(["umount", "--lazy", self.path], log=self.log, may_fail=True)
        run(["cp", "-a", "--sparse=always", self.path, kept], log=self.log, may_fail=True)


class Crash(Examined):
    """A fileset that things happen to."""

    WORKERS = 3
    # Each works in one of so many directories, which its next user begins by emptying.
    DIRECTORIES = 4

    def __init__(self, programs, kind, seed):
        self.random = random.Random(seed)
        self.host = Host(kind)
        super().__init__(programs, self.host.path / "tree", LOGS / "crash.log")
        self.round = 0
        self.mezzo("init", self.path)

    def work(self, end):
        """Has programs work for a random time, then ends what is to be ended, and waits for them."""
        self.mount()
        daemon = self.status()["pid"]
        self.round += 1
        roots = [self.path / f"r{(self.round + min(1, worker)) % self.DIRECTORIES}" for worker in range(self.WORKERS)]
        for root in roots:
            self.promises.forget_below(root)
        workers = start_work(roots, f"round{self.round}", self.random)
        # The moment is what is random here.
        time.sleep(self.random.uniform(0.03, 0.7))
        end(daemon)
        for worker in workers:
            try:
                worker.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                raise Failure("a program hung after the end of the daemon") from None
            self.promises.take(worker.told.read_text())

    def kill(self):
        self.work(kill_and_wait)
        while self.random.random() < 0.35:
            self.kill_at_start()

    def kill_at_start(self):
        """Kills what recovers, before or after it serves."""
        argv = [self.programs.mezzo, "mount", "--foreground", self.path]
        with open(self.log, "ab") as log:
            daemon = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/")
        time.sleep(self.random.uniform(0, 0.12))
        daemon.kill()
        daemon.wait()

    def amid_recovery(self):
        if self.random.random() < 0.15:
            self.kill_at_unmount()
            self.mount()

    def kill_at_unmount(self):
        daemon = self.status()["pid"]
        with open(self.log, "ab") as log:
            unmount = subprocess.Popen([self.programs.mezzo, "unmount", self.path], stdout=log, stderr=log, cwd="/")
        time.sleep(self.random.uniform(0, 0.05))
        kill_and_wait(daemon)
        try:
            unmount.wait(timeout=60)
        except subprocess.TimeoutExpired:
            unmount.kill()
            raise Failure("unmount hung after the end of the daemon") from None

    def cut(self):
        flag = self.random.choice(SHUTDOWN_FLAGS)

        def end(daemon):
            self.host.cut_power(flag)
            kill_and_wait(daemon)
        self.work(end)
        run(["umount", "--lazy", self.path], log=self.log)
        wait_for(lambda: run(["umount", self.host.path], log=self.log, may_fail=True).status == 0, "the host is busy")
        self.host.mount()
        forget_boot(self.path)
        while self.random.random() < 0.35:
            self.kill_at_start()


@dataclass
class Worker:
    process: subprocess.Popen
    told: Path


def start_work(roots, name, chance, env=None):
    """Starts a program for each of `roots`, that works until it is ended."""
    workers = []
    for number, root in enumerate(roots):
        told = WORK / f"promises{number}"
        with open(told, "wb") as out:
            argv = [sys.executable, ROOT / "tests/work.py", root, str(chance.randrange(1 << 30))]
            process = subprocess.Popen(argv, stdout=out, stderr=subprocess.DEVNULL, cwd="/",
                                       env={**os.environ, **(env or {}), "ROUND": name})
            workers.append(Worker(process, told))
    return workers


def forget_boot(path):
    """The machine was not really restarted, so that the boot that the LML tells of has to be made another one."""
    with open(path / ".mezzo/lml", "r+b") as lml:
        lml.seek(8)
        lml.write(bytes(16))


def kill_and_wait(pid):
    # It is nobody's child here, so that its end can't be waited for otherwise.
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:
        # It has ended, and waits to be noticed.
        pass
    ended, _, _ = select.select([process], [], [], SETTLE_SECONDS)
    os.close(process)
    if not ended:
        raise Failure(f"process {pid} is still there")


def wait_for(done, problem):
    deadline = time.monotonic() + SETTLE_SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise Failure(problem)
        time.sleep(0.01)


def series(programs, what, kind, seed, count, replay_every):
    """So many ends of one fileset; returns how many files lost bytes, and how many promises were kept."""
    crash = Crash(programs, kind, seed)
    lost = kept = 0
    for number in range(1, count + 1):
        try:
            getattr(crash, what)()
            # Now and then the next work begins amid the comparison.
            if number == count or crash.random.random() < 0.8:
                lost += crash.check(replay=number % replay_every == 0 or number == count)
                kept += len(crash.promises.by_path)
        except Failure as failure:
            crash.keep_evidence("crash-evidence")
            raise Failure(f"{what} {number} on {kind}, series seed {seed}: {failure}") from None
    crash.host.close()
    return lost, kept


def main():
    require_isolation()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--kills", type=int, default=10, help="kills of the daemon, on ext4 and xfs in turns")
    parser.add_argument("--cuts", type=int, default=4, help="cuts of the power, on each of ext4 and xfs")
    parser.add_argument("--replay-every", type=int, default=5, help="after how many ends the log is replayed")
    parser.add_argument("--seed", type=int, default=None, help="a run to be had again")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 30)
    say(f"seed {seed}")
    programs = Programs.of(arguments)
    of_kills = [("kill", ["ext4", "xfs"][at // ENDS % 2], min(ENDS, arguments.kills - at))
                for at in range(0, arguments.kills, ENDS)]
    of_cuts = [("cut", kind, min(ENDS, arguments.cuts - at)) for kind in ["ext4", "xfs"] for at in range(0, arguments.cuts, ENDS)]
    for number, (what, kind, count) in enumerate(of_kills + of_cuts):
        started = time.monotonic()
        lost, kept = series(programs, what, kind, seed + number, count, arguments.replay_every)
        say(f"{count} {what}s on {kind}: {kept} times an fsynced file was there, "
            f"{lost} times another had lost bytes with the power, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    end_with(main)
