#!/usr/bin/env python3
"""Writes a sample of what is right for each fuzz target into fuzz/corpus, where fuzzers begin.

Checksums are left 0 where the target makes them right itself. Layouts are those of docs/format.md.
"""

import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).parent
LOGS = sorted((ROOT.parent / "testdata/log").glob("*.kml"))
LONGEST = 4096


def put(target, name, content):
    directory = ROOT / "corpus" / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def frames(log):
    """Each frame of a segment, as far as the lengths in their heads lead."""
    at = struct.unpack_from("<I", log, 12)[0]
    while at + 72 <= len(log):
        length = struct.unpack_from("<I", log, at + 4)[0]
        if length < 72 or at + length > len(log):
            return
        yield log[at : at + length]
        at += length


def logs():
    for path in LOGS:
        log = path.read_bytes()
        if len(log) <= LONGEST:
            put("segment", path.stem, log)
            put("log", path.stem, log)
        shortest = min(frames(log), key=len, default=None)
        if shortest:
            put("frame", path.stem, shortest)
            put("shown", path.stem, shortest)


def identity(number):
    return struct.pack("<QQ", 7, number)


def counted(content):
    return bytes([len(content)]) + content


def lml():
    places = b"".join(identity(number) + counted(b"name") for number in (1, 2))
    operation = struct.pack("<QIII", 12, 1000, 1000, 77) + counted(b"mv") + counted(b"3217")
    operation += b"\1" + identity(5) + b"\2" + places
    head = b"MZLML\1\0\0" + b"\7" * 16 + struct.pack("<QBB6xQqI4x", 7, 0, 0, 9, 1790000000, 1)
    noted = (head + struct.pack("<II", len(operation), 0) + operation).ljust(4096, b"\0")
    writers = identity(3) + b"\1" + bytes(7) + identity(4) + b"\2" + bytes(7)
    put("lml", "killed", noted + writers)
    put("lml", "closed", noted[:32] + b"\1" + noted[33:80])
    put("lml", "power-lost", noted[:33] + b"\1" + noted[34:80])


def inodes():
    def entry(number, handle):
        body = identity(number) + struct.pack("<QqI", number << 33, -4, 999) + handle
        return counted(body) + bytes(4)

    put("inodes", "two", entry(1, b"\1\0\0\0" + b"\7" * 8) + entry(2, b"\2\0\0\0" + b"\7" * 12))


def number(value):
    """A varint."""
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def entry():
    def origin(recno):
        return struct.pack("<Q", 7) + number(recno)

    def short(content):
        return number(len(content)) + content

    time = number(1790000000 << 1) + number(999999999)
    head = b"\1\0" + b"".join(map(number, (0o644, 1000, 1000, 12345, 1, 0, 0))) + time * 4
    xattrs = number(1) + short(b"user.color") + short(b"blue")
    data = b"\1" + origin(9) + b"\1" + b"\xd1" * 32
    host = b"\1" + number(4711) + time + short(b"\1\0\0\0" + b"\7" * 8)
    places = number(2) + origin(1) + short(b"a") + origin(2) + short(b"b")
    put("entry", "file", head + short(b"") + xattrs + data + host + places)


def ranges():
    def head(state, against, entries):
        return b"MZRNG\1\0\0" + identity(1) + identity(2) + struct.pack(
            "<QqB7x16sQII", 16484, 1790000000, state, against, entries, 0, 0
        )

    def kept(offset, content):
        return struct.pack("<QQB7xII", offset, len(content), 1, 0, 0) + content

    zeros = struct.pack("<QQB7xII", 4096, 4096, 2, 0, 0)
    entries = kept(0, b"\1" * 100) + zeros + kept(16384, b"\3" * 100)
    put("ranges", "open", head(0, bytes(16), 0) + entries)
    put("ranges", "against", head(2, identity(3), len(entries)) + entries)
    put("ranges", "alone", head(6, bytes(16), len(entries)) + entries)


def texts():
    wish = {"after": 0, "most": 3, "records": [7, 9], "redo": False, "along": True, "dry_run": True}
    wish["filter"] = {
        "path": list(b"src/a"),
        "user": 1000,
        "program": {"Unix": list(b"vi")},
        "session": None,
        "since": [1790000000, 5],
        "kinds": ["create"],
    }
    for request in ({"request": "status"}, {"request": "open"}, {"request": "sync"}, {"request": "undo", **wish}):
        put("request", request["request"], json.dumps(request))
    told = {"record": 7, "kind": "close", "path": list(b"src/a"), "why": "it was changed since", "by": 9}
    undone = {"records": 2, "runs": [[9, 8]], "along": [], "hindrances": 1, "told": [told]}
    status = dict.fromkeys(
        "pid last_recno log_bytes objects attic_bytes attic_files attic_by_ranges open_for_writing lost_files "
        "digests_waiting watch_records watch_missed".split(),
        1,
    )
    status |= {"passthrough": True, "io_uring": False, "watch": True, "scan": "done", "broken": None, "trouble": None}
    status |= {"behind_processes": [], "behind_mounts": [], "submounts": [], "without": ["file handles"]}
    for name, answer in {
        "status": status,
        "opened": {},
        "synced": {"recno": 7},
        "undone": undone,
        "failed": {"message": "no"},
    }.items():
        put("answer", name, json.dumps({"answer": name, **answer}))
    journal = {"began": 9, "runs": [[9, 7], [5, 5]], "gone": ["0000000000000007-3"]}
    journal |= {"files": [["0000000000000007-4", 9, 7]], "uid": 0, "gid": 0, "groups": [4], "pid": 1}
    put("journal", "two-runs", json.dumps(journal | {"program": list(b"mezzo"), "session": []}))
    put(
        "config",
        "all",
        'format = 1\nid = "abababababababababababababababab"\nname = "a \\"tree\\""\nreplica = "0000000000000012"\n\n'
        '[policy]\ndigests = "demand"\nunstable_seconds = 0\n\n[attic]\non = true\nmax_bytes = 1000\nmax_days = 7\n'
        'copy_limit = 4194304\nleave_free_percent = 5\nexclude = ["*.o", "cache"]\n',
    )
    put("body", "all", 'machine = "00ff"\nvolume = ""\ndirectory = "0100000009"\nborn = "1790000000.000000001"\n')
    put("names", "name", b"a\xff\n")
    put("names", "id", "0000000000000007-18446744073709551615")
    put("mount_line", "mount", r"42 27 0:53 /a\040b /mnt/x rw,relatime shared:1 - fuse.mezzo mezzo:0000000000000007 rw")


def event():
    def detail(kind, name):
        handle = struct.pack("=Ii", 8, 1) + b"\7" * 8
        body = (b"\7" * 8 + handle + name + b"\0").ljust(44, b"\0")
        return struct.pack("=BBH", kind, 0, 4 + len(body)) + body

    details = detail(1, b"") + detail(2, b"name") + detail(10, b"old") + detail(12, b"new")
    head = struct.pack("=IBBHQii", 24 + len(details), 3, 0, 24, 0x10000100, -1, 4711)
    put("events", "rename", (head + details) * 2)


def fuse():
    """Messages by their opcode: see include/uapi/linux/fuse.h."""

    def message(opcode, content, extensions=b""):
        head = struct.pack("=IIQQIIIHH", 40 + len(content + extensions), opcode, 8, 1, 0, 0, 7, len(extensions) // 8, 0)
        return head + content + extensions

    samples = {
        "lookup": (1, b"name\0"),
        "forget": (2, struct.pack("=Q", 3)),
        "setattr": (4, bytes(88)),
        "symlink": (6, b"name\0target\0"),
        "mknod": (8, bytes(16) + b"name\0"),
        "mkdir": (9, bytes(8) + b"name\0"),
        "rename": (12, bytes(8) + b"old\0new\0"),
        "link": (13, bytes(8) + b"name\0"),
        "open": (14, bytes(8)),
        "read": (15, bytes(40)),
        "write": (16, struct.pack("=QQIIQII", 1, 0, 4, 0, 0, 0, 0) + b"data"),
        "setxattr": (21, struct.pack("=II", 4, 0) + b"user.a\0data"),
        "getxattr": (22, bytes(8) + b"user.a\0"),
        "init": (26, struct.pack("=IIII", 7, 45, 4096, 0) + bytes(48)),
        "setlk": (32, bytes(48)),
        "create": (35, bytes(16) + b"name\0"),
        "interrupt": (36, bytes(8)),
        "ioctl": (39, bytes(32)),
        "batch-forget": (42, struct.pack("=IIQQQQ", 2, 0, 1, 2, 3, 4)),
        "fallocate": (43, bytes(32)),
        "rename2": (45, bytes(16) + b"old\0new\0"),
        "copy-file-range": (47, bytes(56)),
    }
    for name, (opcode, content) in samples.items():
        put("fuse", name, message(opcode, content))
    group = struct.pack("=IIII", 16 + 8, 32, 1, 1000)
    put("fuse", "group", message(9, bytes(8) + b"name\0", group.ljust(24, b"\0")))


def history():
    put("history", "counting", bytes(range(256)) * 4)
    put("history", "zeros", bytes(512))


for write in (logs, lml, inodes, entry, ranges, texts, event, fuse, history):
    write()
