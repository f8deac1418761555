#!/usr/bin/env python3
"""Reads segments of a log, KML 2.0, and prints them as JSON: read.py SEGMENT...

It uses what docs/format.md says and Python's standard library, and nothing of mezzo, to show that the page suffices.
Bytes are printed in hexadecimal, times as seconds and nanoseconds, ids as REPLICA-NUMBER.
"""

import json
import os
import struct
import sys

MASK = (1 << 64) - 1


class Refused(Exception):
    """Bytes that a reader must not go on with."""


def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


class Value:
    """Reads from the front of a value. Ids and times are told against the head of the record."""

    def __init__(self, data, head):
        self.data, self.head = data, head

    def take(self, count):
        if count > len(self.data):
            raise Refused("a value ends too early")
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def rest(self):
        return self.take(len(self.data))

    def fixed(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def varint(self):
        value, shift = 0, 0
        while True:
            byte = self.fixed("B")
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if value > MASK or (byte == 0 and shift > 7):
            raise Refused("a varint is too long")
        return value

    def svarint(self):
        value = self.varint()
        return -(value >> 1) - 1 if value & 1 else value >> 1

    def counted(self):
        return self.take(self.varint())

    def id(self):
        form = self.fixed("B")
        replica, number = self.head["origin"]
        if form == 0:
            return told_id(0, 0)
        if form == 1:
            return told_id(replica, number)
        if form == 2:
            return told_id(replica, self.varint())
        if form == 3:
            return told_id(self.fixed("Q"), self.varint())
        raise Refused(f"form {form} of an id")

    def place(self):
        parent, name = self.id(), self.rest()
        if not 1 <= len(name) <= 255 or name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise Refused("a name can't be")
        return {"parent": parent, "name": name}

    def time(self):
        seconds = (self.head["time"][0] + self.svarint()) & MASK
        return check_time([seconds - (1 << 64) if seconds >> 63 else seconds, self.fixed("I")])

    def difference(self, base):
        bits = self.fixed("H")
        if bits >> 12 or bits >> 8 & bits >> 10 & 1 or bits >> 9 & bits >> 11 & 1:
            raise Refused(f"bits {bits:#x} of attributes")
        to = dict(base)
        if bits & 1:
            to["kind"] = self.fixed("B")
        for bit, name in enumerate(["mode", "uid", "gid", "size", "links"], 1):
            if bits >> bit & 1:
                to[name] = self.varint()
        if bits >> 6 & 1:
            to["device"] = [self.varint(), self.varint()]
        if bits >> 7 & 1:
            to["atime"] = self.time()
        if bits >> 8 & 1:
            to["mtime"] = self.time()
        if bits >> 10 & 1:
            to["mtime"] = to["atime"]
        if bits >> 9 & 1:
            to["ctime"] = self.time()
        if bits >> 11 & 1:
            to["ctime"] = to["mtime"]
        nobody = 0xffffffff in (to["uid"], to["gid"])
        if not 1 <= to["kind"] <= 7 or to["mode"] > 0o7777 or nobody:
            raise Refused("attributes can't be")
        return to

    def attributes(self):
        numbers = {"kind": 1, "mode": 0, "uid": 0, "gid": 0, "size": 0, "links": 1, "device": [0, 0]}
        times = {name: self.head["time"] for name in ["atime", "mtime", "ctime"]}
        return self.difference(numbers | times)

    def attributes_step(self):
        before = self.attributes()
        after = self.difference(before)
        if before["kind"] != after["kind"]:
            raise Refused("an object changes its kind")
        return [before, after]

    def times_step(self):
        same = self.fixed("B")
        if same > 7:
            raise Refused(f"bits {same:#x} of times")
        times = [self.time()]
        for bit in range(3):
            times.append(times[-1] if same >> bit & 1 else self.time())
        return times

    def digest_of_data(self):
        known = self.fixed("B")
        if known > 1:
            raise Refused(f"form {known} of data")
        return self.take(32) if known else None

    def datum(self):
        return {"version": self.id(), "digest": self.digest_of_data()}

    def data_step(self):
        return [self.datum(), self.datum()]

    def who(self):
        who = {"uid": self.varint(), "gid": self.varint(), "pid": self.varint()}
        who |= {"program": self.counted(), "session": self.counted(), "groups": []}
        while self.data:
            who["groups"].append(self.varint())
        return who

    def xattrs(self):
        pairs = []
        while self.data:
            pairs.append([self.counted(), self.counted()])
        names = [name for name, _ in pairs]
        if names != sorted(set(names)):
            raise Refused("extended attributes are not sorted")
        return pairs

    def text(self):
        return self.rest().decode("utf-8")

    def nothing(self):
        return True

    def digest(self):
        return {"version": self.id(), "size": self.varint(), "digest": self.take(32)}

    def epoch(self):
        epoch, holder = self.varint(), f"{self.fixed('Q'):016x}"
        return {"epoch": epoch, "holder": holder, "cause": self.fixed("B"), "ended at": self.varint()}

    def snapshot(self):
        told = {"of": f"{self.fixed('Q'):016x}", "at": self.varint(), "records": self.varint(), "heads": []}
        while self.data:
            told["heads"].append(f"{self.fixed('Q'):016x}-{self.varint()}")
        return told

    def left(self):
        return {"links left": self.varint(), "ctime after": self.time()}

    def removed(self):
        fields = Fields(self.rest(), self.head)
        removed = {"object": fields.required(0x81), "state": state(fields)}
        removed |= fields.optional(0x97) or {"links left": 0, "ctime after": [0, 0]}
        fields.finish()
        return removed

    def exchanged(self):
        fields = Fields(self.rest(), self.head)
        exchanged = {"object": fields.required(0x81), "attributes": fields.required(0x85)}
        fields.finish()
        return exchanged

    def change(self):
        kind = self.fixed("B")
        if kind in (11, 14):
            raise Refused("changes nest once")
        return change(kind, Fields(self.rest(), self.head))


TYPES = {
    0x01: Value.who,
    0x02: Value.rest,
    0x03: Value.rest,
    0x04: Value.rest,
    0x05: Value.rest,
    0x06: Value.text,
    0x81: Value.id,
    0x82: Value.place,
    0x83: Value.place,
    0x84: Value.attributes,
    0x85: Value.attributes_step,
    0x86: Value.rest,
    0x87: Value.xattrs,
    0x88: Value.datum,
    0x89: Value.data_step,
    0x8A: Value.times_step,
    0x8B: Value.times_step,
    0x8C: Value.removed,
    0x8D: Value.exchanged,
    0x8E: Value.rest,
    0x8F: Value.rest,
    0x90: Value.rest,
    0x91: Value.nothing,
    0x92: Value.id,
    0x93: Value.change,
    0x94: Value.id,
    0x95: Value.digest,
    0x96: Value.epoch,
    0x97: Value.left,
    0x98: Value.snapshot,
}


class Fields:
    """The fields of a body: each is taken by its tag, and what is left has to be such that it may be skipped."""

    def __init__(self, data, head):
        self.head, self.fields = head, {}
        body, last = Value(data, head), 0
        while body.data:
            tag = body.fixed("B")
            if tag <= last:
                raise Refused(f"field {tag:#04x} is out of order")
            self.fields[tag] = body.counted()
            last = tag

    def optional(self, tag):
        if tag not in self.fields:
            return None
        value = Value(self.fields.pop(tag), self.head)
        read = TYPES[tag](value)
        if value.data:
            raise Refused(f"bytes of field {tag:#04x} are left over")
        return read

    def required(self, tag):
        value = self.optional(tag)
        if value is None:
            raise Refused(f"field {tag:#04x} is missing")
        return value

    def finish(self):
        for tag in self.fields:
            if tag >= 0x80:
                raise Refused(f"field {tag:#04x} has to be understood")


def told_id(replica, number):
    return f"{replica:016x}-{number}"


def check_time(time):
    if time[1] > 999_999_999:
        raise Refused("nanoseconds can't be")
    return time


def state(fields):
    read = {
        "attributes": fields.required(0x84),
        "target": fields.optional(0x86) or b"",
        "xattrs": fields.optional(0x87) or [],
        "data": fields.optional(0x88),
    }
    kind = read["attributes"]["kind"]
    if (read["target"] and kind != 3) or (read["data"] and kind != 1):
        raise Refused("a target or data of what has none")
    return read


def path_of(fields, place, whole, directory):
    """The path of what stands at a place, from one of two fields."""
    path, parent = fields.optional(whole), fields.optional(directory)
    if path is not None and parent is not None:
        raise Refused("a path is told twice")
    if parent is None:
        return path or b""
    return parent + b"/" + place["name"] if parent else place["name"]


def placed(fields):
    place = fields.required(0x82)
    return {"place": place, "path": path_of(fields, place, 0x02, 0x03)}


def make(fields):
    read = placed(fields) | {"object": fields.required(0x81), "state": state(fields)}
    return read | {"parent times": fields.required(0x8A)}


def link(fields):
    read = placed(fields) | {"object": fields.required(0x81), "attributes": fields.required(0x85)}
    return read | {"parent times": fields.required(0x8A)}


def remove(fields):
    return placed(fields) | {"parent times": fields.required(0x8A), "removed": fields.required(0x8C)}


def rename(fields):
    read = placed(fields) | {"object": fields.required(0x81), "to place": fields.required(0x83)}
    read["to path"] = path_of(fields, read["to place"], 0x04, 0x05)
    read["attributes"] = fields.required(0x85)
    read["parent times"] = fields.required(0x8A)
    read["to parent times"] = fields.optional(0x8B) or read["parent times"]
    displaced = {"removed": fields.optional(0x8C)}
    if displaced["removed"] is None:
        displaced = {"exchanged": fields.optional(0x8D)}
    read["displaced"] = displaced if any(displaced.values()) else None
    return read


def of_object(fields):
    read = {"path": fields.optional(0x02) or b"", "object": fields.required(0x81)}
    return read | {"attributes": fields.required(0x85)}


def setattr_(fields):
    return of_object(fields) | {"data": fields.optional(0x89)}


def xattr(fields):
    read = of_object(fields) | {"name": fields.required(0x8E)}
    return read | {"value": [fields.optional(0x8F), fields.optional(0x90)]}


def close(fields):
    read = of_object(fields) | {"data": fields.required(0x89)}
    return read | {"unstable": fields.optional(0x91) is not None}


def digest(fields):
    return {"object": fields.required(0x81)} | fields.required(0x95)


def noop(fields):
    return {}


def disable(fields):
    return {"reason": fields.optional(0x06) or "", "record": fields.required(0x92)}


def nesting(fields):
    return {"record": fields.required(0x92), "change": fields.required(0x93)}


def alias(fields):
    return {"object": fields.required(0x81), "stands for": fields.required(0x94)}


def epoch(fields):
    return fields.required(0x96)


def snapshot(fields):
    return fields.required(0x98)


KINDS = {
    1: ("make", make),
    2: ("link", link),
    3: ("remove", remove),
    4: ("rename", rename),
    5: ("setattr", setattr_),
    6: ("xattr", xattr),
    7: ("close", close),
    8: ("digest", digest),
    9: ("noop", noop),
    10: ("disable", disable),
    11: ("amend", nesting),
    12: ("alias", alias),
    13: ("epoch", epoch),
    14: ("undo of", nesting),
    15: ("snapshot", snapshot),
}


def change(kind, fields):
    if kind not in KINDS:
        raise Refused(f"kind {kind} of change")
    name, read = KINDS[kind]
    told = {"kind": name} | read(fields)
    fields.finish()
    return told


NOBODY = {"uid": 0, "gid": 0, "pid": 0, "program": b"", "session": b"", "groups": []}


def frame_head(data):
    """The head of the frame at the beginning of data, or None where there is no good one."""
    if len(data) < 64 or data[:4] != b"KMLr" or data[8] != 2:
        return None
    length, kind, flags, padding, in_epoch, recno, previous, replica, number, seconds, nanoseconds, checksum = (
        struct.unpack("<4xIxBBBIQQQQqII", data[:64])
    )
    if crc32c(data[:60]) != checksum or length % 8 or not 72 <= length <= 16 << 20 or padding > min(7, length - 72):
        return None
    head = {"recno": recno, "previous": previous, "epoch": in_epoch, "origin": (replica, number)}
    return head | {"time": [seconds, nanoseconds], "length": length, "kind": kind, "flags": flags, "padding": padding}


def good_frame(data):
    """The head of the frame at the beginning of data, where all of it is there and undamaged; else None."""
    head = frame_head(data)
    if head is None or head["length"] > len(data):
        return None
    frame = data[: head["length"]]
    length, checksum = struct.unpack("<II", frame[-8:])
    padding = frame[len(frame) - 8 - head["padding"] : -8]
    is_good = crc32c(frame[:-4]) == checksum and length == head["length"] and not any(padding)
    return head if is_good else None


def record(head, body):
    if head["flags"]:
        raise Refused(f"flags {head['flags']:#x} of a record")
    if head["recno"] <= head["previous"] or 0 in head["origin"]:
        raise Refused("a record's numbers can't be")
    check_time(head["time"])
    fields = Fields(body, head)
    told = {name: head[name] for name in ["recno", "previous", "epoch", "time"]}
    told["origin"] = told_id(*head["origin"])
    told["who"] = fields.optional(0x01) or NOBODY
    told["change"] = change(head["kind"], fields)
    return told


def segment_head(data):
    if data[:8] != b"KML2\r\n\x1a\n" or len(data) < 80:
        raise Refused("no segment of a log")
    major, minor, length = struct.unpack("<HHI", data[8:16])
    if major != 2:
        raise Refused(f"version {major}.{minor}")
    if length % 8 or not 80 <= length <= min(4096, len(data)):
        raise Refused("a segment's head has no such length")
    if crc32c(data[: length - 4]) != struct.unpack("<I", data[length - 4 : length])[0]:
        raise Refused("a segment's head is damaged")
    fileset, replica, in_epoch, flags, first, previous, seconds, nanoseconds = struct.unpack("<16sQIIQQqI", data[16:76])
    if flags or previous >= first:
        raise Refused("a segment's head can't be")
    told = {"minor": minor, "fileset": fileset, "replica": f"{replica:016x}", "epoch": in_epoch}
    return length, told | {"first": first, "previous": previous, "created": [seconds, nanoseconds]}


def ending(data, at, last):
    """What is at a place where no good frame begins."""
    head = frame_head(data[at:])
    start = at + (head["length"] if head else 8)
    for place in range(start, len(data), 8):
        found = good_frame(data[place:]) if data[place : place + 4] == b"KMLr" else None
        if found and found["recno"] > last:
            return {"damaged": at, "next": place}
    return {"torn": at}


def segment(data):
    at, told = segment_head(data)
    records, last, in_epoch = [], told["previous"], told["epoch"]
    while at < len(data):
        head = good_frame(data[at:])
        if head is None:
            return {"segment": told, "records": records, "ending": ending(data, at, last)}
        if head["recno"] <= last or head["previous"] != last or head["epoch"] < in_epoch:
            return {"segment": told, "records": records, "ending": {"damaged": at, "next": None}}
        end = at + head["length"]
        records.append(record(head, data[at + 64 : end - 8 - head["padding"]]))
        at, last, in_epoch = end, head["recno"], head["epoch"]
    return {"segment": told, "records": records, "ending": {"clean": at}}


def main():
    told = {}
    for path in sys.argv[1:]:
        with open(path, "rb") as file:
            told[os.path.basename(path)] = segment(file.read())
    print(json.dumps(told, default=bytes.hex, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
