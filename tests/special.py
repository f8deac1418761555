"""Makes one of everything that a tree can hold, and does to it what programs do.

Source trees hold files, directories and links, with plain names and few modes. The rest is made here: each function
is a kind of thing, made by system calls or by the usual tool. They need root: special.py DIRECTORY LOG.
"""

import ctypes
import errno
import mmap
import os
import socket
import stat
import sys
from pathlib import Path

from harness import run

# From the kernel's headers.
AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

libc = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    """Calls what Python has no function for."""
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def renameat2(old, new, flags):
    call(libc.renameat2, AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def link_at(old, new, flags):
    call(libc.linkat, AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def fallocate(fd, mode, offset, length):
    call(libc.fallocate, fd, mode, ctypes.c_long(offset), ctypes.c_long(length))


def hard_links(at, log):
    (at / "one").write_text("a file of several names")
    (at / "below").mkdir()
    for name in ["two", "three", "below/four"]:
        os.link(at / "one", at / name)
    # A name that goes, the first one, and a write by another.
    os.unlink(at / "one")
    (at / "three").write_text("written by its third name")
    os.symlink("nowhere", at / "link")
    os.link(at / "link", at / "link to a link", follow_symlinks=False)


def sparse_files(at, log):
    with open(at / "sparse", "wb") as file:
        for offset in [0, 300 << 20, (1 << 30) - 5]:
            file.seek(offset)
            file.write(b"data")
        file.truncate(1 << 30)
    with open(at / "punched", "wb") as file:
        file.write(b"x" * (4 << 20))
        file.flush()
        fallocate(file.fileno(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 2 << 20)
    with open(at / "preallocated", "wb") as file:
        file.write(b"short")
        file.flush()
        fallocate(file.fileno(), FALLOC_FL_KEEP_SIZE, 0, 2 << 20)
    with open(at / "extended", "wb") as file:
        fallocate(file.fileno(), 0, 0, 100_000)


def extended_attributes(at, log):
    (at / "file").write_text("with attributes")
    (at / "directory").mkdir()
    os.symlink("file", at / "link")
    os.mkfifo(at / "fifo")
    run(["setfattr", "-n", "user.comment", "-v", "for people", at / "file"], log=log)
    run(["setfattr", "-n", "user.gone", "-v", "1", at / "file"], log=log)
    run(["setfattr", "-x", "user.gone", at / "file"], log=log)
    run(["setfattr", "-h", "-n", "trusted.of.link", "-v", "1", at / "link"], log=log)
    os.setxattr(at / "file", "user.empty", b"")
    # More does not fit into a block of ext4.
    os.setxattr(at / "file", "user.large", bytes(range(256)) * 12)
    os.setxattr(at / "file", "user.comment", b"replaced", os.XATTR_REPLACE)
    os.setxattr(at / "directory", "user.of.directory", b"\0\xff")
    os.setxattr(at / "fifo", "trusted.of.fifo", b"1")


def access_control_lists(at, log):
    (at / "file").write_text("for two users")
    (at / "directory").mkdir()
    run(["setfacl", "-m", "u:1:rw,g:2:r", at / "file"], log=log)
    run(["setfacl", "-d", "-m", "u:1:rwx,o::-", at / "directory"], log=log)
    # What is made below takes the default.
    (at / "directory/inherits").write_text("")
    (at / "directory/directory").mkdir()
    os.mkfifo(at / "directory/fifo")
    (at / "had one").write_text("")
    run(["setfacl", "-m", "u:1:rw", at / "had one"], log=log)
    run(["setfacl", "-b", at / "had one"], log=log)


def special_files(at, log):
    os.mkfifo(at / "fifo", 0o640)
    os.mknod(at / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(at / "large numbers", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    os.mknod(at / "block", stat.S_IFBLK | 0o660, os.makedev(7, 0))
    # Sockets are bound by paths that may have 108 bytes.
    here = os.getcwd()
    os.chdir(at)
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("socket")
        listener.close()
    finally:
        os.chdir(here)
    os.symlink("dangling", at / "link")
    os.symlink(b"not \xff utf-8", os.fsencode(at / "link 2"))
    # xfs takes links of 1,023 bytes.
    os.symlink("long/" * 200, at / "long link")
    os.symlink("link", at / "link to a link")


def names(at, log):
    at = os.fsencode(at)
    for name in [b"not \xff\xfe utf-8", b"new\nline", b" space ", b"-rf", b"\x01", b"tab\t", b"x" * 255, "größe".encode(),
                 b"\\x00", b"*", "\u0041\u030a".encode(), "\u00c5".encode()]:
        with open(at + b"/" + name, "wb") as file:
            file.write(name)
    os.mkdir(at + b"/directory \xe9")
    os.rename(at + b"/-rf", at + b"/directory \xe9/\xe8")


def modes_and_owners(at, log):
    for name, mode in [("setuid", 0o4755), ("setgid", 0o2755), ("both", 0o6711), ("none", 0), ("changed", 0o600)]:
        (at / name).write_text(name)
        os.chmod(at / name, mode)
    os.chmod(at / "changed", 0o4770)
    # An owner that changes takes the bits away; so does a write by somebody else than root.
    os.chown(at / "both", 1234, 4321)
    (at / "written").write_text("")
    os.chmod(at / "written", 0o4777)
    run(["sh", "-c", f"echo more >>'{at}/written'"], log=log, user=65534)
    (at / "shared").mkdir()
    os.chown(at / "shared", -1, 100)
    os.chmod(at / "shared", 0o3777)
    # What is made below has the group of the directory, and so has a directory the bit.
    (at / "shared/file").write_text("")
    (at / "shared/directory").mkdir()
    run(["sh", "-c", f"umask 027; echo mine >'{at}/shared/of nobody'; mkdir '{at}/shared/directory of nobody'"], log=log, user=65534)
    os.symlink("setuid", at / "link")
    os.lchown(at / "link", 7, 8)
    (at / "capable").write_text("")
    run(["setcap", "cap_net_raw+ep", at / "capable"], log=log)


def times(at, log):
    for name, nanoseconds in [("before 1970", -1), ("nanoseconds", 1_234_567_890_123_456_789), ("in 2100", 4_102_444_800_000_000_001)]:
        (at / name).write_text("")
        os.utime(at / name, ns=(nanoseconds, nanoseconds))
    os.symlink("nowhere", at / "link")
    os.utime(at / "link", ns=(1, 2), follow_symlinks=False)
    (at / "directory").mkdir()
    os.utime(at / "directory", ns=(3, 4))
    run(["touch", "-d", "2001-02-03 04:05:06.789", at / "touched"], log=log)


def data(at, log):
    """Ways to change a file."""
    (at / "appended").write_text("one ")
    with open(at / "appended", "a") as file:
        file.write("two")
    (at / "shorter").write_bytes(b"x" * 100_000)
    os.truncate(at / "shorter", 12_345)
    (at / "longer").write_bytes(b"x")
    os.truncate(at / "longer", 100_000)
    with open(at / "mapped", "wb+") as file:
        file.truncate(1 << 20)
        with mmap.mmap(file.fileno(), 1 << 20) as mapped:
            mapped[500_000:500_006] = b"mapped"
    with open(at / "overwritten", "wb+") as file:
        file.write(b"x" * 1_000_000)
        os.pwrite(file.fileno(), b"in the middle", 543_210)
    with open(at / "copied", "wb") as to, open(at / "overwritten", "rb") as source:
        os.copy_file_range(source.fileno(), to.fileno(), 700_000, 100_000)
    run(["dd", f"if={at}/overwritten", f"of={at}/synced", "bs=64k", "conv=fsync", "status=none"], log=log)


def open_and_gone(at, log):
    """Files that have no name for a time, and names that change under an open file."""
    with open(at / "gone", "wb") as file:
        os.unlink(at / "gone")
        file.write(b"nobody will see this")
    with open(at / "moved while open", "wb") as file:
        file.write(b"before, ")
        file.flush()
        os.rename(at / "moved while open", at / "moved")
        file.write(b"and after")
    with open(at / "replaced", "wb") as file:
        file.write(b"the first")
        file.flush()
        (at / "new").write_text("the second")
        os.rename(at / "new", at / "replaced")
        file.write(b", written on without a name")
    try:
        nameless = os.open(at, os.O_TMPFILE | os.O_RDWR, 0o644)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        return
    os.write(nameless, b"it got a name later")
    # os.link does not follow the link, whatever it is told.
    link_at(f"/proc/self/fd/{nameless}", at / "named", AT_SYMLINK_FOLLOW)
    os.close(nameless)


def renames(at, log):
    for name in ["a", "b"]:
        (at / name).mkdir()
        (at / name / "file").write_text(name)
    renameat2(at / "a", at / "b", RENAME_EXCHANGE)
    (at / "file").write_text("a file")
    renameat2(at / "file", at / "a/file", RENAME_EXCHANGE)
    renameat2(at / "a/file", at / "c", RENAME_NOREPLACE)
    # Over an empty directory; into the other; and back under a new name.
    (at / "empty").mkdir()
    os.rename(at / "a", at / "empty")
    os.rename(at / "empty", at / "b/deeper")
    os.rename(at / "b/deeper", at / "again")
    (at / "over").write_text("this goes")
    (at / "new").write_text("this stays")
    os.rename(at / "new", at / "over")
    # Two names of one file: it does nothing.
    os.link(at / "over", at / "same")
    os.rename(at / "same", at / "over")


def many(at, log):
    """A directory of many blocks, and a deep one."""
    for index in range(3000):
        (at / f"a name long enough to fill directory blocks soon {index:06}").write_text(str(index))
    for index in range(0, 3000, 3):
        os.unlink(at / f"a name long enough to fill directory blocks soon {index:06}")
    deep = at
    for level in range(100):
        deep = deep / f"level {level}"
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")


KINDS = [
    hard_links, sparse_files, extended_attributes, access_control_lists, special_files, names, modes_and_owners, times, data,
    open_and_gone, renames, many,
]


def make_all(directory: Path, log: Path):
    """Makes everything, each kind in a directory of its own."""
    directory.mkdir()
    for make in KINDS:
        at = directory / make.__name__
        at.mkdir()
        at.chmod(0o755)
        make(at, log)


if __name__ == "__main__":
    make_all(Path(sys.argv[1]), Path(sys.argv[2]))
