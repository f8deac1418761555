"""Builds what a disk may hold after the power went, and looks at what is left of a fileset on it.

While programs work on a mount, every block that the host file system writes is recorded, with the order of writes and
flushes. From the record, states of the disk are built:
- prefix: everything up to some write;
- flush: everything up to a flush;
- lossy: everything up to a flush, and of what was written after it some writes, and of some of these only some sectors.
On each, the host file system and then the fileset is mounted, and
- what had been fsynced by then is there with its bytes and mode;
- tree and log agree; files whose bytes were lost are marked as such, and none of them had been fsynced;
- where nothing was lost, the log replayed gives an equal tree.
"""

import argparse
import os
import random
import struct
import subprocess
import time
from dataclasses import dataclass

from crash import Examined, forget_boot, start_work, wait_for
from harness import Failure, LOGS, Programs, WORK, end_with, require_isolation, run, say

LOG = LOGS / "blocks.log"
IMAGE_BYTES = 320 << 20
SECTOR = 512

# The format of dm-log-writes, from the kernel's documentation; qemu writes it too.
MAGIC = 0x6A736677736872
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


@dataclass
class Write:
    """One entry of the record: bytes that were written, or a flush without any."""

    at: int
    length: int
    flags: int
    # Where its bytes are in the record.
    source: int


class Record:
    """The recorded writes, in their order."""

    def __init__(self, path):
        self.file = open(path, "rb")
        magic, version, count, sector = SUPER.unpack(self.file.read(SUPER.size))
        if (magic, version) != (MAGIC, 1):
            raise Failure(f"{path} is no record of writes")
        self.writes = []
        place = sector
        for _ in range(count):
            self.file.seek(place)
            at, sectors, flags, _ = ENTRY.unpack(self.file.read(ENTRY.size))
            self.writes.append(Write(at * sector, sectors * sector, flags, place + sector))
            place += sector + (0 if flags & (DISCARD | MARK) else sectors * sector)
        self.flushes = [number for number, write in enumerate(self.writes) if write.flags & FLUSH]

    def apply(self, image, write, sectors=None):
        """Does a write again, or only these sectors of it."""
        if write.flags & DISCARD:
            os.pwrite(image, bytes(write.length), write.at)
        elif write.length and sectors is None:
            os.pwrite(image, self.bytes(write), write.at)
        elif write.length:
            data = self.bytes(write)
            for sector in sectors:
                os.pwrite(image, data[sector * SECTOR:][:SECTOR], write.at + sector * SECTOR)

    def bytes(self, write):
        return os.pread(self.file.fileno(), write.length, write.source)


class Recorder:
    """A host file system whose writes are recorded, by qemu's storage daemon below a loop device."""

    def __init__(self, kind):
        self.path = WORK / "back"
        self.path.mkdir()
        self.record = WORK / "record"
        data, export = WORK / "data.img", WORK / "export.img"
        for image, size in [(data, IMAGE_BYTES), (self.record, 16 << 30), (export, 0)]:
            with open(image, "wb") as file:
                file.truncate(size)
        argv = [
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=data,filename={data}",
            "--blockdev", f"driver=file,node-name=log,filename={self.record}",
            "--blockdev", "driver=blklogwrites,node-name=writes,file=data,log=log",
            "--export", f"type=fuse,id=export,node-name=writes,mountpoint={export},writable=on",
        ]
        with open(LOG, "ab") as log:
            self.daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: self.daemon.poll() is not None or export.stat().st_size == IMAGE_BYTES, "qemu does not export")
        if self.daemon.poll() is not None:
            raise Failure(f"qemu-storage-daemon ended, see {LOG}")
        self.device = run(["losetup", "--find", "--show", export], log=LOG).output.strip()
        # Little that is made lazily afterwards: it would be recorded as well.
        make = {
            "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            "xfs": ["mkfs.xfs", "-q"],
        }[kind]
        run([*make, self.device], log=LOG)
        run(["mount", self.device, self.path], log=LOG)

    def close(self):
        run(["umount", self.path], log=LOG)
        run(["losetup", "--detach", self.device], log=LOG)
        self.daemon.terminate()
        self.daemon.wait(60)
        return Record(self.record)


def record_work(programs, kind, chance, seconds):
    """Returns the record, how long it was when the work began, and what was told: (record's length, line)."""
    recorder = Recorder(kind)
    examined = Examined(programs, recorder.path / "tree", LOG)
    examined.mezzo("init", examined.path)
    examined.mount()
    run(["sync", "--file-system", recorder.path], log=LOG)
    with open(recorder.record, "rb") as log:
        _, _, begun, _ = SUPER.unpack(log.read(SUPER.size))
    roots = [examined.path / name for name in ["r0", "r0", "r1"]]
    workers = start_work(roots, "round", chance, env={"BLOCK_LOG": str(recorder.record)})
    time.sleep(seconds)
    for worker in workers:
        if worker.process.poll() is not None:
            raise Failure("a program ended early")
        worker.process.kill()
        worker.process.wait()
    told = []
    for worker in workers:
        for line in worker.told.read_text().split("\n")[:-1]:
            position, _, rest = line.partition(" ")
            told.append((int(position), rest))
    # Children that stored through mappings end by themselves.
    wait_for(lambda: run([programs.mezzo, "unmount", examined.path], log=LOG, may_fail=True).status == 0, "it stays mounted")
    return recorder.close(), begun, told


@dataclass
class State:
    """A state of the disk: the first `whole` writes, and what of the `rest` got there."""

    kind: str
    number: int
    whole: int
    # How many writes had been made altogether.
    end: int
    # By the number of the write, the sectors that got there, or None for all.
    rest: dict


def choose(record, begun, chance, number):
    end = chance.randrange(begun, len(record.writes)) + 1
    kind = chance.choice(["prefix", "flush", "lossy", "lossy"])
    if kind == "prefix":
        return State(kind, number, end, end, {})
    whole = max((flush + 1 for flush in record.flushes if flush < end), default=begun)
    if kind == "flush":
        return State(kind, number, whole, whole, {})
    likely = chance.choice([0.1, 0.5, 0.9])
    torn = chance.choice([0, 0.3])
    rest = {}
    for at in range(whole, end):
        write = record.writes[at]
        if write.flags & FUA:
            rest[at] = None
        elif chance.random() < likely:
            count = write.length // SECTOR
            is_torn = count > 1 and not write.flags & DISCARD and chance.random() < torn
            rest[at] = [sector for sector in range(count) if chance.random() < 0.5] if is_torn else None
    return State(kind, number, whole, end, rest)


def believed(told, state):
    """What was promised before the state, and not changed since."""
    changes = {}
    for position, line in told:
        word, path = line.split(" ")[:2]
        if word == "may" and position <= state.end:
            changes.setdefault(path, []).append(position)
    kept = []
    for position, line in told:
        word, path = line.split(" ")[:2]
        # Told by the same program in this order, so that a change at the same position came later, or was promised again.
        changed_later = any(at >= position for at in changes.get(path, []))
        if word == "has" and position <= state.whole and not changed_later:
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def examine(programs, record, told, state, image):
    """Returns what became of the state: `unmountable`, or how many files lost bytes."""
    file = os.open(image, os.O_RDWR)
    for at, sectors in state.rest.items():
        record.apply(file, record.writes[at], sectors)
    os.close(file)
    path = WORK / "state"
    path.mkdir(exist_ok=True)
    if run(["mount", "-o", "loop", image, path], log=LOG, may_fail=True).status != 0:
        return "unmountable"
    examined = Examined(programs, path / "tree", LOG)
    recorded = str(WORK / "back")
    examined.promises.take(believed(told, state).replace(f" {recorded}/", f" {path}/"))
    try:
        forget_boot(examined.path)
        lost = examined.check(replay=True)
    except Failure as failure:
        examined.keep_evidence("blocks-evidence")
        raise Failure(f"state {state.number}, {state.kind} of {state.whole} and {len(state.rest)} of "
                      f"{state.end - state.whole} writes: {failure}") from None
    run(["umount", path], log=LOG)
    return lost, len(examined.promises.by_path)


def main():
    require_isolation()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--states", type=int, default=20, help="states that are built")
    parser.add_argument("--host", choices=["ext4", "xfs"], default="ext4")
    parser.add_argument("--seconds", type=float, default=4, help="how long programs work")
    parser.add_argument("--seed", type=int, default=None, help="states to be had again, as far as timing allows")
    parser.add_argument("--go-on", action="store_true", help="look at the other states too when one is bad")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 30)
    say(f"seed {seed}")
    programs = Programs.of(arguments)
    chance = random.Random(seed)
    # Images are copied for each state, which should cost memory and no disk.
    (WORK / "images").mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=3g", "tmpfs", WORK / "images"], log=LOG)
    record, begun, told = record_work(programs, arguments.host, chance, arguments.seconds)
    say(f"{len(record.writes)} writes, {len(record.flushes)} flushes, {len(told)} promises")
    states = sorted((choose(record, begun, chance, number) for number in range(arguments.states)), key=lambda s: s.whole)
    base, image = WORK / "images/base.img", WORK / "images/state.img"
    with open(base, "wb") as file:
        file.truncate(IMAGE_BYTES)
    whole = os.open(base, os.O_RDWR)
    started, applied = time.monotonic(), 0
    unmountable = lost = kept = bad = with_loss = 0
    for state in states:
        for write in record.writes[applied:state.whole]:
            record.apply(whole, write)
        applied = max(applied, state.whole)
        run(["cp", "--sparse=always", base, image], log=LOG)
        try:
            result = examine(programs, record, told, state, image)
        except Failure as failure:
            if not arguments.go_on:
                raise
            say(f"BAD: {failure}")
            bad += 1
            run(["umount", WORK / "state"], log=LOG, may_fail=True)
            continue
        if result == "unmountable":
            unmountable += 1
            continue
        lost += result[0]
        with_loss += result[0] > 0
        kept += result[1]
    say(f"{len(states)} states on {arguments.host}: {kept} times an fsynced file was there, {with_loss} states in which "
        f"{lost} others had lost bytes, {unmountable} that the host could not mount, {time.monotonic() - started:.0f} s")
    if bad:
        raise Failure(f"{bad} states were bad")


if __name__ == "__main__":
    end_with(main)
