"""work.py ROOT SEED: works below ROOT until the file system is taken away, in every way that programs change a tree.

Every step is chosen by the seed, so that a run can be had again as far as timing allows. What it may rely on it tells on
stdout, a line each: `has PATH MODE SIZE DIGEST` when it has been fsynced, and `may PATH` before it is changed or removed.
With BLOCK_LOG, a log of block writes, each line begins with how many entries that has.
Several may work on one ROOT at once; nobody but its maker changes what was promised.
"""

import ctypes
import errno
import hashlib
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
BLOCK_LOG = os.environ.get("BLOCK_LOG")
FALLOCATE = {"keep size": 1, "punch": 3, "zero": 0x10, "allocate": 0}

# What an ACL of one more user looks like, by its permissions.
def acl(user, permissions):
    entries = [(1, 7, -1), (2, permissions, user), (4, 5, -1), (16, 7, -1), (32, 4, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def open_now(path, mode):
    """Whatever it is: of a fifo, others wait for somebody at its other end."""
    return open(path, mode, buffering=0, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))


class Work:
    HELD = 6

    def __init__(self, root, seed):
        self.root = root
        self.seed = seed
        self.random = random.Random(seed)
        self.promises = []
        self.promised = 0
        # Files that stay open over many steps, some of them mapped, also when the daemon has gone.
        self.held = []
        self.steps = [
            (8, self.create), (3, self.append), (3, self.overwrite), (3, self.keep_time), (3, self.replace),
            (2, self.mapped), (2, self.exchange), (14, self.promise), (3, self.promise_again), (3, self.promise_moved),
            (6, self.rename), (3, self.rename_directory), (4, self.link), (5, self.unlink), (3, self.chmod),
            (3, self.truncate), (2, self.symlink), (4, self.mkdir), (2, self.rmdir), (3, self.xattr), (2, self.acl),
            (2, self.special), (2, self.unnamed), (2, self.removed_open), (2, self.rename_over_open), (2, self.holes),
            (1, self.big), (3, self.hold), (6, self.write_held), (2, self.let_go), (1, self.chown), (1, self.utime),
            (1, self.chmod_while_writing), (1, self.sync_something), (0.1, self.remove_tree),
        ]

    def run(self):
        self.clear()
        weights = [weight for weight, _ in self.steps]
        while True:
            step = self.random.choices(self.steps, weights)[0][1]
            try:
                step()
            except (ValueError, shutil.Error):
                pass
            except OSError as error:
                # The daemon, or its host, is gone.
                if error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.EROFS, errno.ESHUTDOWN):
                    return self.go_on_without()

    def clear(self):
        """What an earlier run left goes, but for those who came first."""
        os.makedirs(self.root, exist_ok=True)
        # Listed before, as others begin as soon as the directory of this round is there.
        left = [entry for entry in os.scandir(self.root) if entry.name.startswith(("d", "p"))]
        try:
            os.mkdir(f"{self.root}/{os.environ.get('ROUND', 'round')}")
        except FileExistsError:
            return
        for entry in left:
            self.tolerate(shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.unlink, entry.path)

    def go_on_without(self):
        """Data of files that are open goes past the daemon, and on without it."""
        for _ in range(self.random.randrange(8)):
            self.tolerate(self.write_held)

    def tolerate(self, act, *arguments):
        try:
            act(*arguments)
        except (OSError, ValueError, shutil.Error):
            pass

    def directory(self, deepest=5):
        depth = self.random.choice([0, 0, 1, 1, 2, 3, deepest])
        return "/".join([self.root] + [f"d{self.random.randrange(3)}" for _ in range(depth)])

    def path(self):
        return f"{self.directory()}/n{self.random.randrange(12)}"

    def new_path(self):
        path = self.path()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def bytes(self, most=5000):
        return self.random.randbytes(self.random.randrange(most))

    # Files.

    def create(self):
        with open_now(self.new_path(), "wb") as file:
            file.write(self.random.randbytes(self.random.choice([0, 10, 4096, 5000, 70000])))

    def append(self):
        with open_now(self.path(), "ab") as file:
            file.write(self.bytes())

    def overwrite(self):
        with open_now(self.path(), "r+b") as file:
            file.seek(self.random.randrange(9000))
            file.write(self.bytes(300))

    def keep_time(self):
        """A write that hides behind the times it sets back."""
        path = self.path()
        before = os.stat(path)
        with open_now(path, "r+b") as file:
            file.write(self.bytes(50))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def replace(self):
        path = self.new_path()
        with open_now(f"{path}.{self.seed}", "wb") as file:
            file.write(self.bytes())
        os.rename(f"{path}.{self.seed}", path)

    def big(self):
        with open_now(self.new_path(), "w+b") as file:
            size = self.random.choice([1, 3, 6]) << 20
            file.write(self.random.randbytes(size))
            for _ in range(self.random.randrange(6)):
                os.pwrite(file.fileno(), self.bytes(100000), self.random.randrange(size))

    def holes(self):
        with open_now(self.path(), "r+b") as file:
            mode = self.random.choice(list(FALLOCATE.values()))
            offset, length = self.random.randrange(20000), self.random.randrange(1, 40000)
            self.call(libc.fallocate, file.fileno(), mode, ctypes.c_long(offset), ctypes.c_long(length))

    def truncate(self):
        os.truncate(self.path(), self.random.randrange(90000))

    def mapped(self):
        with open_now(self.path(), "r+b") as file:
            file.truncate(8192)
            with mmap.mmap(file.fileno(), 8192) as memory:
                memory[100:110] = self.random.randbytes(10)

    def unnamed(self):
        file = os.open(self.directory(), os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            os.write(file, self.bytes())
            self.call(libc.linkat, AT_FDCWD, f"/proc/self/fd/{file}".encode(), AT_FDCWD, self.path().encode(),
                      AT_SYMLINK_FOLLOW)
            os.write(file, self.bytes(100))
        finally:
            os.close(file)

    def removed_open(self):
        path = self.path()
        with open_now(path, "r+b") as file:
            os.unlink(path)
            file.write(self.bytes())
            file.truncate(self.random.randrange(9000))

    def rename_over_open(self):
        path, other = self.path(), self.path()
        with open_now(path, "r+b") as file, open_now(other, "r+b") as moved:
            moved.write(self.bytes(100))
            os.rename(other, path)
            file.write(self.bytes(100))
            moved.write(self.bytes(100))

    def chmod_while_writing(self):
        path = self.path()
        with open_now(path, "r+b") as file:
            for _ in range(self.random.randrange(1, 5)):
                file.write(self.bytes(200))
                os.fchmod(file.fileno(), self.random.randrange(0o1000))
                file.write(self.bytes(200))
                os.utime(file.fileno(), ns=(0, self.random.randrange(1 << 60)))

    # Files that stay open.

    def hold(self):
        if len(self.held) >= self.HELD:
            self.let_go()
        file = os.open(self.path(), os.O_RDWR | os.O_NONBLOCK)
        memory = None
        if self.random.random() < 0.4:
            os.ftruncate(file, 8192)
            memory = mmap.mmap(file, 8192)
            if self.random.random() < 0.3:
                # Nothing but the mapping remains.
                os.close(file)
                file = None
        self.held.append((file, memory))

    def write_held(self):
        if not self.held:
            return
        file, memory = self.random.choice(self.held)
        # Somebody may have cut the file, and stores beyond its end are the end of the program: of a child, then.
        if memory is not None and (file is None or self.random.random() < 0.5):
            self.store(memory)
        else:
            os.pwrite(file, self.bytes(300), self.random.randrange(20000))
            what = self.random.random()
            if what < 0.1:
                os.ftruncate(file, self.random.randrange(20000))
            elif what < 0.2:
                os.fchmod(file, self.random.randrange(0o1000))

    def store(self, memory):
        child = os.fork()
        if child == 0:
            at = self.random.randrange(8000)
            memory[at:at + 8] = os.urandom(8)
            os._exit(0)
        os.waitpid(child, 0)

    def let_go(self):
        if self.held:
            file, memory = self.held.pop(self.random.randrange(len(self.held)))
            if memory is not None:
                memory.close()
            if file is not None:
                os.close(file)

    def sync_something(self):
        what = self.random.randrange(3)
        if what == 0 and self.held and self.held[0][0] is not None:
            os.fsync(self.held[0][0])
        elif what == 1:
            directory = os.open(self.directory(), os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        elif self.held and self.held[0][1] is not None:
            self.held[0][1].flush()

    # Names.

    def rename(self):
        flags = self.random.choice([0, 0, RENAME_NOREPLACE])
        self.call(libc.renameat2, AT_FDCWD, self.path().encode(), AT_FDCWD, self.path().encode(), flags)

    def exchange(self):
        kind = self.random.choice([self.path, self.directory])
        self.call(libc.renameat2, AT_FDCWD, kind().encode(), AT_FDCWD, kind().encode(), RENAME_EXCHANGE)

    def rename_directory(self):
        """With all that is below, open files included."""
        os.rename(self.directory(), f"{self.directory()}/d{self.random.randrange(3)}")

    def link(self):
        os.link(self.path(), self.path(), follow_symlinks=False)

    def unlink(self):
        os.unlink(self.path())

    def symlink(self):
        os.symlink("target" * self.random.randrange(1, 30), self.path())

    def mkdir(self):
        os.makedirs(self.directory(), exist_ok=True)

    def rmdir(self):
        os.rmdir(self.directory())

    def special(self):
        if self.random.random() < 0.5:
            os.mkfifo(self.path(), 0o640)
            return
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.path.relpath(self.path(), "/"))

    def remove_tree(self):
        for _, names, files, directory in os.fwalk(f"{self.root}/d{self.random.randrange(3)}", topdown=False):
            for name in files:
                os.unlink(name, dir_fd=directory)
            for name in names:
                self.tolerate(lambda: os.rmdir(name, dir_fd=directory))

    # Attributes.

    def any_path(self):
        return self.random.choice([self.path, self.directory])()

    def chmod(self):
        os.chmod(self.any_path(), self.random.randrange(0o10000) | 0o700)

    def chown(self):
        os.chown(self.any_path(), self.random.randrange(3), self.random.randrange(3), follow_symlinks=False)

    def utime(self):
        os.utime(self.any_path(), ns=(1, self.random.randrange(1 << 60)), follow_symlinks=False)

    def xattr(self):
        path, name = self.any_path(), f"user.{self.random.randrange(3)}"
        if self.random.random() < 0.3:
            os.removexattr(path, name)
        else:
            os.setxattr(path, name, self.bytes(200))

    def acl(self):
        if self.random.random() < 0.5:
            os.setxattr(self.path(), "system.posix_acl_access", acl(self.random.randrange(9), self.random.randrange(8)))
        else:
            os.setxattr(self.directory(), "system.posix_acl_default", acl(self.random.randrange(9), 7))

    # Promises.

    def promise(self):
        path = f"{self.root}/p{self.seed}-{self.promised}"
        self.promised += 1
        with open_now(path, "xb") as file:
            self.fill(file)
            if self.random.random() < 0.3:
                os.fchmod(file.fileno(), self.random.randrange(0o1000))
            self.tell_synced(path, file)
        self.promises.append(path)

    def promise_again(self):
        path = self.random.choice(self.promises or [None])
        if path is None:
            return
        tell(f"may {path}")
        with open_now(path, "r+b") as file:
            if self.random.random() < 0.3:
                file.truncate(self.random.randrange(9000))
            file.seek(self.random.randrange(9000))
            self.fill(file)
            self.tell_synced(path, file)

    def promise_moved(self):
        """The fsync of anything makes all changes before it durable."""
        if len(self.promises) < 2:
            return
        old, other = self.random.sample(self.promises, 2)
        new = f"{self.root}/p{self.seed}-{self.promised}"
        self.promised += 1
        tell(f"may {old}")
        tell(f"may {other}")
        os.rename(old, new)
        self.promises[self.promises.index(old)] = new
        if self.random.random() < 0.5:
            os.chmod(new, self.random.randrange(0o1000))
        told = describe(new)
        with open_now(other, "r+b") as file:
            self.fill(file)
            self.tell_synced(other, file)
        tell(told)

    def fill(self, file):
        if self.random.random() < 0.2:
            size = self.random.randrange(1, 90000)
            file.truncate(max(size, os.fstat(file.fileno()).st_size))
            with mmap.mmap(file.fileno(), size) as memory:
                memory[size // 2:] = self.random.randbytes(size - size // 2)
                memory.flush()
        else:
            file.write(self.random.randbytes(self.random.randrange(1, 20000)))

    def tell_synced(self, path, file):
        self.random.choice([os.fsync, os.fdatasync])(file.fileno())
        tell(describe(path))

    def call(self, function, *arguments):
        if function(*arguments) < 0:
            raise OSError(ctypes.get_errno(), "failed")


def describe(path):
    stat = os.stat(path)
    with open(path, "rb") as file:
        digest = hashlib.sha1(file.read()).hexdigest()
    return f"has {path} {stat.st_mode & 0o7777:o} {stat.st_size} {digest}"


def tell(line):
    os.write(1, f"{position()}{line}\n".encode())


def position():
    """How far the log of block writes has come, as its head tells: that is brought up to date by each flush."""
    if BLOCK_LOG is None:
        return ""
    with open(BLOCK_LOG, "rb") as log:
        return f"{struct.unpack_from('<Q', log.read(24), 16)[0]} "


if __name__ == "__main__":
    # A program that outlives the test by mistake is in nobody's way for long.
    signal.alarm(600)
    Work(sys.argv[1], int(sys.argv[2])).run()
