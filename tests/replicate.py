"""Has a server and two clients exchange what programs do, and ends things at random moments of it.

Each of the three is on a host file system and in a network namespace of its own; the namespaces are joined by a bridge. Programs
work on one client, or on both in different directories, and somebody reads all files where nobody works. Meanwhile one of these
happens, some of them more than once: the link of a client or of the server is cut, for a moment or for longer than the other
side is waited for; its connections are reset; one of the daemons is killed; a host file system is shut down (EXT4_IOC_SHUTDOWN,
XFS_IOC_GOINGDOWN) and mounted again, or has no room for a while; a client is offline because its user wants it so.

After each round all is exchanged within a time (mezzo sync), and
- the trees of the server and the clients are equal, seen through the mounts and on the hosts, each agrees with its log, and each
  log replayed onto an empty directory gives an equal tree;
- each record is in each log once, by its origin;
- where nobody worked, nothing was recorded.
No command and no program takes longer than it is given.

With --cuts, links are cut quickly, one after the other, while programs work, and all is looked at now and then.
"""

import argparse
import collections
import json
import os
import random
import shutil
import subprocess
import sys
import time

from crash import SHUTDOWN_FLAGS, Host, forget_boot, kill_and_wait, start_work, wait_for
from harness import LOGS, Failure, Hung, Programs, WORK, end_with, require_isolation, run, say

# What is for the log alone that it stands in.
LOCAL = {"epoch", "noop", "disable", "amend", "alias"}
# Rounds of one server and its clients; then there are new ones, as logs that only grow take ever longer to be replayed.
ROUNDS = 12
# Seconds after which the other side is taken for dead.
DEAD_AFTER = 15
# How long a command may take that starts, ends or asks a daemon.
COMMAND_SECONDS = 60
# How long everything may take to be exchanged once nothing is in the way.
SYNC_SECONDS = 90
# How long somebody who reads may wait for bytes that do not come.
READ_SECONDS = 90
# Cuts after which all is looked at, with --cuts.
CUTS_AT_ONCE = 40

# Reads all files, so that their bytes are here then; where that is what is asked for, none may fail.
READER = r"""
import os, stat, sys
is_strict = len(sys.argv) > 2
for directory, names, files in os.walk(sys.argv[1]):
    for name in files:
        if not stat.S_ISREG(os.lstat(f"{directory}/{name}").st_mode): continue
        try:
            file = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if is_strict: sys.exit(f"{directory}/{name}: {error}")
            continue
        try:
            while os.read(file, 1 << 20): pass
        except OSError as error:
            if is_strict: sys.exit(f"{directory}/{name}: {error}")
        os.close(file)
"""


class Network:
    """Hosts on one bridge."""

    def __init__(self):
        self.log = LOGS / "replicate.log"
        self.hub = self.namespace("hub")
        self.hosts = 0
        self.ip(self.hub, "link", "add", "bridge", "type", "bridge")
        self.ip(self.hub, "link", "set", "bridge", "up")

    def namespace(self, name):
        """A network namespace that stays as long as the mounts of this test."""
        path = WORK / f"net-{name}"
        path.touch()
        run(["unshare", f"--net={path}", "true"], log=self.log)
        self.ip(path, "link", "set", "lo", "up")
        return path

    def ip(self, namespace, *words):
        run(["nsenter", f"--net={namespace}", "ip", *words], log=self.log)

    def close(self):
        for path in WORK.glob("net-*"):
            run(["umount", path], log=self.log)
            path.unlink()


class Link:
    """What joins one host to the others."""

    def __init__(self, network, name):
        self.network = network
        self.end = f"to-{name}"
        self.namespace = network.namespace(name)
        network.hosts += 1
        self.address = f"10.7.0.{network.hosts}"
        network.ip(network.hub, "link", "add", self.end, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        network.ip(network.hub, "link", "set", self.end, "master", "bridge", "up")
        network.ip(self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        network.ip(self.namespace, "link", "set", "eth0", "up")

    def cut(self):
        self.network.ip(self.network.hub, "link", "set", self.end, "down")

    def mend(self):
        self.network.ip(self.network.hub, "link", "set", self.end, "up")

    def reset(self):
        """Ends all connections of this host, as a router does that was restarted. Not all kernels can."""
        run(["nsenter", f"--net={self.namespace}", "ss", "--kill", "--tcp", "state", "established"], log=self.network.log)


class Member:
    """One of the three."""

    def __init__(self, programs, network, kind, name):
        self.programs = programs
        self.name = name
        self.host = Host(kind, gib=1, name=name)
        self.path = self.host.path / "tree"
        self.log = LOGS / "replicate.log"
        self.link = Link(network, name)
        self.is_running = False

    def mezzo(self, command, *arguments, timeout=COMMAND_SECONDS, **options):
        inside = ["nsenter", f"--net={self.link.namespace}"]
        return run([*inside, self.programs.mezzo, command, *arguments], log=self.log, timeout=timeout, **options)

    def status(self):
        return json.loads(self.mezzo("status", self.path, "--json").output)

    def daemon(self):
        status = self.status()
        if "pid" not in status:
            raise Failure(f"the daemon of {self.name} has ended")
        return status["pid"]

    def records(self):
        lines = self.mezzo("log", self.path, "--json").output.split("\n")
        return [json.loads(line) for line in lines if line.startswith("{")]

    def fill_up(self):
        """Leaves no room on its host."""
        self.filler = self.host.path / "filler"
        with open(self.filler, "wb") as file:
            step = 64 << 20
            size = 0
            while step >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError:
                    step //= 4

    def free(self):
        self.filler.unlink(missing_ok=True)

    def lose_power(self, flag):
        pid = self.daemon()
        self.host.cut_power(flag)
        kill_and_wait(pid)
        self.is_running = False

    def restore_power(self):
        while run(["umount", "--lazy", self.path], log=self.log, may_fail=True).status == 0:
            pass
        wait_for(lambda: run(["umount", self.host.path], log=self.log, may_fail=True).status == 0, "the host is busy")
        self.host.mount()
        forget_boot(self.path)
        self.start()

    def kill(self):
        kill_and_wait(self.daemon())
        self.is_running = False

    def replay(self):
        onto = self.host.path / "onto"
        onto.mkdir()
        self.mezzo("replay", self.path, "--onto", onto)
        equal(self.programs, self.path, onto, self.log)
        shutil.rmtree(onto)


class Server(Member):
    PORT = 7440

    def __init__(self, programs, network, kind):
        super().__init__(programs, network, kind, "server")
        self.mezzo("init", self.path)
        self.start()

    def start(self):
        if not self.is_running:
            self.mezzo("serve", self.path, "--listen", f"{self.link.address}:{self.PORT}", "--state", self.host.path / "state",
                       "--allow-set-id", "--allow-devices")
            self.is_running = True

    def stop(self):
        if self.is_running:
            self.mezzo("serve", "--stop", self.path)
            self.is_running = False

    def invite(self):
        return self.mezzo("invite", self.path).output.strip()


class Client(Member):
    def __init__(self, programs, network, kind, name, server):
        super().__init__(programs, network, kind, name)
        self.mezzo("clone", server.invite(), self.path)
        self.is_running = True
        # Seconds that the exchange took at most.
        self.slowest = 0

    def start(self):
        if not self.is_running:
            self.mezzo("mount", self.path)
            self.is_running = True

    def stop(self):
        if self.is_running:
            self.mezzo("unmount", self.path)
            self.is_running = False

    def sync(self):
        synced = self.mezzo("sync", self.path, "--within", f"{SYNC_SECONDS}s", timeout=SYNC_SECONDS + 10)
        self.slowest = max(self.slowest, synced.seconds)


class Group:
    """A server and two clients, and what happens to them."""

    def __init__(self, programs, kind, seed):
        self.programs = programs
        self.random = random.Random(seed)
        self.log = LOGS / "replicate.log"
        self.network = Network()
        self.server = Server(programs, self.network, kind)
        self.clients = [Client(programs, self.network, kind, name, self.server) for name in ["a", "b"]]
        self.members = [self.server, *self.clients]
        self.number = 0
        for member in self.members:
            member.replica = member.status()["replica"]
        self.workers = {}
        # Of which client what was made by it is known, and how many records that are.
        self.made = {}
        self.count_made([])

    # Programs.

    def start_programs(self, clients):
        self.workers = {}
        for client in clients:
            mine = f"of-{client.name}" if len(clients) > 1 else "of-one"
            roots = [client.path / f"{mine}-{(self.number + worker) % 2}" for worker in range(2)]
            self.workers[client] = start_work(roots, f"round{self.number}", self.random)
        self.idle = [client for client in self.clients if client not in clients]
        self.readers = [subprocess.Popen([sys.executable, "-c", READER, client.path], cwd="/") for client in self.idle]

    def end_programs(self, client=None):
        """Nobody may hang, whatever happened."""
        for one in [client] if client else list(self.workers):
            for worker in self.workers.pop(one, []):
                worker.process.kill()
                wait_for_end(worker.process, COMMAND_SECONDS, "a program that was killed")
        if client is None:
            for reader in self.readers:
                wait_for_end(reader, READ_SECONDS, "somebody who reads")
            self.readers = []

    def pause(self, least, most):
        # The moment is what is random here.
        time.sleep(self.random.uniform(least, most))

    def any_of(self, members):
        return self.random.choice(members)

    # What happens.

    def cut(self):
        for _ in range(self.random.randint(1, 3)):
            member = self.any_of(self.members)
            member.link.cut()
            self.pause(0.05, self.random.choice([0.2, 1, 3]))
            member.link.mend()
            self.pause(0, 0.5)

    def cut_for_long(self):
        member = self.any_of(self.members)
        member.link.cut()
        self.pause(1, 1.5)
        self.end_programs_of_all()
        self.pause(DEAD_AFTER - 1, DEAD_AFTER + 4)
        member.link.mend()

    def end_programs_of_all(self):
        for client in list(self.workers):
            self.end_programs(client)

    def reset(self):
        for _ in range(self.random.randint(1, 5)):
            self.any_of(self.members).link.reset()
            self.pause(0, 0.3)

    def kill_server(self):
        for _ in range(self.random.randint(1, 2)):
            self.server.kill()
            self.pause(0, 0.5)
            self.server.start()
            self.pause(0, 0.5)

    def kill_client(self):
        client = self.any_of(self.clients)
        client.kill()
        self.end_programs(client)
        self.pause(0, 0.3)
        client.start()

    def cut_server(self):
        self.server.lose_power(self.any_of(SHUTDOWN_FLAGS))
        self.pause(0, 0.3)
        self.server.restore_power()

    def cut_client(self):
        client = self.any_of(self.clients)
        if client in self.workers:
            # What was not synced is for crash.py: here it may have left the machine already.
            self.end_programs(client)
            run(["sync", "--file-system", client.host.path], log=self.log)
        else:
            self.end_programs_reading()
        client.lose_power(self.any_of(SHUTDOWN_FLAGS))
        client.restore_power()

    def end_programs_reading(self):
        for reader in self.readers:
            wait_for_end(reader, READ_SECONDS, "somebody who reads")
        self.readers = []

    def full(self):
        member = self.any_of(self.members)
        member.fill_up()
        self.pause(0.3, 3)
        member.free()

    def offline(self):
        client = self.any_of(self.clients)
        client.mezzo("offline", client.path)
        self.pause(0.2, 1)
        if client.status()["link"]["state"] != "offline":
            raise Failure(f"{client.name} is not offline: {client.status()['link']}")
        client.mezzo("online", client.path)

    WHAT = [cut, kill_server, kill_client, offline, full, cut_server, reset, cut_client, cut_for_long]

    def next_of(self, number):
        """Each comes once before any comes again."""
        return self.WHAT[number] if number < len(self.WHAT) else self.any_of(self.WHAT)

    def round(self, what):
        self.number += 1
        for client in self.clients:
            client.slowest = 0
        working = self.random.choice([[client] for client in self.clients] + [self.clients])
        self.start_programs(working)
        self.pause(0.1, 0.6)
        what(self)
        self.pause(0, 0.3)
        self.end_programs()
        self.settle()
        self.check(working)

    def cuts(self, count):
        """Cuts of links, one after the other."""
        self.number += 1
        self.start_programs(self.clients)
        for _ in range(count):
            member = self.any_of(self.members)
            member.link.cut()
            self.pause(0.01, self.random.choice([0.05, 0.3, 0.3, 1]))
            member.link.mend()
            self.pause(0, 0.3)
        self.end_programs()
        self.settle()
        self.check(self.clients)

    # What must hold.

    def settle(self):
        for client in self.clients:
            client.sync()
            # Digests are records, which come when there is time.
            wait_for(lambda: client.status()["digests_waiting"] == 0, f"digests of {client.name} are not made")
        # A server that was killed amid a record is without its bytes until a client brings them.
        wait_for(lambda: self.server.status()["lost_files"] == 0, "the server is without bytes of some files")
        for client in [*self.clients, self.clients[0]]:
            client.sync()

    def check(self, worked):
        a, b = self.clients
        for member in self.members:
            if (status := member.status())["replica"] != member.replica:
                raise Failure(f"{member.name} has another id: {status}")
        for client in self.clients:
            run([sys.executable, "-c", READER, client.path, "strict"], log=self.log, timeout=READ_SECONDS)
        equal(self.programs, a.path, b.path, self.log)
        logs = {member: member.records() for member in self.members}
        self.each_once(logs)
        self.count_made(worked, logs)
        # Now and then the daemons go on.
        if self.random.random() < 0.3:
            return
        for member in self.members:
            member.stop()
        for member in self.members:
            member.mezzo("verify", member.path)
        for member in [self.server, b]:
            equal(self.programs, a.path, member.path, self.log)
        self.any_of(self.members).replay()
        for member in self.members:
            member.start()

    def each_once(self, logs):
        """Each record that concerns others is in all logs, once."""
        counts = {member: collections.Counter(record["origin"] for record in records if record["kind"] not in LOCAL)
                  for member, records in logs.items()}
        for member, records in logs.items():
            for record in records:
                if record["kind"] in LOCAL:
                    continue
                for other, count in counts.items():
                    if count[record["origin"]] != 1:
                        raise Failure(f"{count[record['origin']]} times in the log of {other.name}: {record}, of {member.name}")

    def count_made(self, worked, logs=None):
        """Who did not work has made no records."""
        logs = logs or {member: member.records() for member in self.members}
        for member, records in logs.items():
            made = [record for record in records if record["kind"] not in LOCAL and record["origin"].startswith(member.replica)]
            if worked and member not in worked and len(made) > self.made[member]:
                raise Failure(f"{member.name} has recorded of its own: {made[-1]}")
            self.made[member] = len(made)

    def close(self):
        for member in self.members:
            member.stop()
            member.host.close()
        self.network.close()

    def keep_evidence(self):
        kept = LOGS / "replicate-evidence"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for member in self.members:
            member.mezzo("status", member.path, may_fail=True)
            if isinstance(member, Client):
                run(["umount", "--lazy", member.path], log=self.log, may_fail=True)
            run(["cp", "-a", "--sparse=always", member.path, kept / member.name], log=self.log, may_fail=True)


def equal(programs, one, other, log):
    run([programs.compare, "--at-least", "0", one, other], log=log, timeout=COMMAND_SECONDS)


def wait_for_end(process, seconds, who):
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Hung(f"{who} hung") from None


def series(options, programs, seed, count):
    """One server and its clients, and so many things that happen to them, one after the other."""
    started = time.monotonic()
    group = Group(programs, options.filesystem, seed)
    happened = collections.Counter()
    for number in range(count):
        if options.cuts:
            what, act = "cuts", lambda: group.cuts(min(CUTS_AT_ONCE, options.cuts))
        else:
            one = getattr(Group, options.only) if options.only else group.next_of(number)
            what, act = one.__name__, lambda: group.round(one)
        begun = time.monotonic()
        try:
            act()
        except Failure as failure:
            group.keep_evidence()
            raise Failure(f"{what}, round {number + 1} on {options.filesystem}, series seed {seed}: {failure}") from None
        happened[what] += 1
        if options.verbose:
            slowest = [f"{client.name} {client.slowest:.1f} s" for client in group.clients]
            say(f"  {what.replace('_', ' ')}: {time.monotonic() - begun:.1f} s, exchanged within {', '.join(slowest)}")
    records = len(group.server.records())
    group.close()
    what = ", ".join(f"{name.replace('_', ' ')} {times}" for name, times in happened.items())
    say(f"{count} rounds on {options.filesystem}: {what}; {records:,} records, {time.monotonic() - started:.0f} s")


def main():
    require_isolation()
    parser = argparse.ArgumentParser(prog="replicate.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--only", choices=[what.__name__ for what in Group.WHAT], help="what happens in all rounds")
    parser.add_argument("--cuts", type=int, help="so many cuts of links, quickly one after the other; without rounds")
    parser.add_argument("--filesystem", choices=["ext4", "xfs"], default="ext4", help="what is below (default: ext4)")
    parser.add_argument("--seed", type=int, default=None, help="a run to be had again, as far as timing allows")
    parser.add_argument("--verbose", action="store_true", help="tell of each round")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    say(f"seed {seed}")
    programs = Programs.of(options)
    (LOGS / "replicate.log").unlink(missing_ok=True)
    rounds = options.rounds if options.cuts is None else -(-options.cuts // CUTS_AT_ONCE)
    for at in range(0, rounds, ROUNDS):
        series(options, programs, seed + at, min(ROUNDS, rounds - at))


if __name__ == "__main__":
    end_with(main)
