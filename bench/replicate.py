"""How long a change takes from one machine to another, and what it costs to have nothing to do.

All machines are this one, on loopback: mezzo has a server and two clients, each with a tree of its own; a change goes from one client
by the server to the other. Next to it, on the same host file system and in the same run, what Debian has of programs that keep two
trees alike: rsync and unison, started anew for each change, as they do not watch; lsyncd, which watches and starts rsync;
syncthing, of which two instances run. Times are medians. A change counts as arrived when its bytes can be read at the other side.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from harness import FileSystem, LOGS, Programs, Failure, end_with, print_table, require_isolation, run, say

PATIENCE = 120


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_until(is_so, what, patience=PATIENCE):
    until = time.monotonic() + patience
    while not is_so():
        if time.monotonic() > until:
            raise Failure(f"it took more than {patience} s until {what}")
        time.sleep(0.0002)


def holds(path, size, mark):
    """Whether a file has come as a whole: it ends with the mark."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                return False
            file.seek(size - len(mark))
            return file.read() == mark
    except OSError:
        return False


class Mezzo:
    """A server, and clients of it."""

    name = "mezzo"

    def __init__(self, programs, work, log):
        self.programs, self.work, self.log = programs, work, log
        self.clients = []
        self.server = work / "server"
        self.server.mkdir()

    def mezzo(self, *argv, **options):
        return run([self.programs.mezzo, *argv], log=self.log, timeout=600, **options)

    def start(self):
        if not (self.server / ".mezzo").exists():
            self.mezzo("init", self.server)
        self.mezzo("serve", self.server, "--listen", "127.0.0.1:0", "--state", self.work / "state")

    def clone(self, name):
        path = self.work / name
        link = self.mezzo("invite", self.server).output.strip()
        self.mezzo("clone", link, path)
        self.clients.append(path)
        return path

    def sync(self):
        for client in self.clients:
            self.mezzo("sync", client)

    def stop(self):
        for client in self.clients:
            self.mezzo("unmount", client)
        self.mezzo("serve", "--stop", self.server)


class Rsync:
    name = "rsync"

    def __init__(self, a, b, log):
        self.a, self.b, self.log = a, b, log

    def push(self):
        run(["rsync", "-a", "--delete", f"{self.a}/", f"{self.b}/"], log=self.log)

    def stop(self):
        pass


class Unison(Rsync):
    name = "unison"

    def push(self):
        run(["unison", "-batch", "-silent", "-times", self.a, self.b], log=self.log, may_fail=True, env={"HOME": str(self.a.parent)})


class Lsyncd(Rsync):
    name = "lsyncd"

    def __init__(self, a, b, log):
        super().__init__(a, b, log)
        config = a.parent / "lsyncd.lua"
        config.write_text(
            f'settings {{ nodaemon = true, inotifyMode = "CloseWrite or Modify" }}\n'
            f'sync {{ default.rsync, source = "{a}", target = "{b}", delay = 0 }}\n'
        )
        self.process = subprocess.Popen(["lsyncd", config], stdout=open(log, "ab"), stderr=subprocess.STDOUT)

    def push(self):
        """It does so by itself."""

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Syncthing:
    """Two instances, which know each other alone."""

    name = "syncthing"

    def __init__(self, a, b, log):
        self.log = log
        self.instances = []
        for number, path in enumerate([a, b]):
            home = a.parent / f"syncthing{number}"
            run(["syncthing", "generate", "--no-default-folder", f"--home={home}"], log=log, may_fail=True)
            config = home / "config.xml"
            text = config.read_text()
            ports = free_port(), free_port()
            text = re.sub(r"<address>127\.0\.0\.1:\d+</address>", f"<address>127.0.0.1:{ports[0]}</address>", text, 1)
            text = re.sub(r"<listenAddress>default</listenAddress>", f"<listenAddress>tcp://127.0.0.1:{ports[1]}</listenAddress>", text)
            for word in ["globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled", "crashReportingEnabled"]:
                text = re.sub(f"<{word}>true</{word}>", f"<{word}>false</{word}>", text)
            text = re.sub(r"<urAccepted>.*?</urAccepted>", "<urAccepted>-1</urAccepted>", text)
            config.write_text(text)
            key = re.search(r"<apikey>(.*?)</apikey>", text)[1]
            process = subprocess.Popen(["syncthing", "serve", "--no-browser", "--no-restart", f"--home={home}"],
                                       stdout=open(log, "ab"), stderr=subprocess.STDOUT)
            self.instances.append({"path": path, "api": f"http://127.0.0.1:{ports[0]}", "port": ports[1], "key": key, "process": process})
        for instance in self.instances:
            wait_until(lambda: self.ask(instance, "system/ping"), "syncthing answers")
            instance["id"] = self.ask(instance, "system/status")["myID"]
        for one, other in [(0, 1), (1, 0)]:
            self.connect(self.instances[one], self.instances[other])

    def ask(self, instance, path, body=None, method="GET"):
        request = urllib.request.Request(f"{instance['api']}/rest/{path}", headers={"X-API-Key": instance["key"]}, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
                return json.loads(text) if text else True
        except OSError:
            return None

    def connect(self, instance, other):
        device = {"deviceID": other["id"], "addresses": [f"tcp://127.0.0.1:{other['port']}"]}
        self.ask(instance, "config/devices", device, "POST")
        folder = {"id": "tree", "path": str(instance["path"]), "fsWatcherEnabled": True, "fsWatcherDelayS": 1,
                  "devices": [{"deviceID": i["id"]} for i in self.instances]}
        self.ask(instance, "config/folders", folder, "POST")

    def push(self):
        """It does so by itself."""

    def stop(self):
        for instance in self.instances:
            instance["process"].terminate()
        for instance in self.instances:
            instance["process"].wait(60)


def change(from_, to, size, name, push):
    """Seconds from the close of a new file to its being readable at the other side."""
    mark = os.urandom(16)
    with open(from_ / name, "wb") as file:
        file.write(os.urandom(size - len(mark)) + mark)
    closed = time.monotonic()
    push()
    wait_until(lambda: holds(to / name, size, mark), f"{name} arrived")
    return time.monotonic() - closed


def median(times):
    return statistics.median(times)


def show(seconds):
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def tree(root, files):
    for number in range(files):
        directory = root / f"d{number // 100:04}"
        if number % 100 == 0:
            directory.mkdir(parents=True)
        (directory / f"f{number:06}").write_bytes(b"%d\n" % number * (number % 60 + 1))


def bare_stream(size):
    """Seconds that a TLS 1.3 stream of openssl takes for so many bytes: the measure of what a connection can carry."""
    port = free_port()
    certificate = LOGS / "bench.pem"
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=bench", "-days", "2",
         "-keyout", certificate, "-out", f"{certificate}.crt"], log=LOGS / "replicate.log")
    import ssl
    import threading
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(f"{certificate}.crt", certificate)
    listener = socket.create_server(("127.0.0.1", port))

    def give():
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as stream:
            block = os.urandom(1 << 18)
            for _ in range(size // len(block)):
                stream.sendall(block)

    giver = threading.Thread(target=give)
    giver.start()
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with client.wrap_socket(socket.create_connection(("127.0.0.1", port))) as stream:
        started = time.monotonic()
        came = 0
        while came < size:
            came += len(stream.recv(1 << 18))
        took = time.monotonic() - started
    giver.join()
    return took


class Bench:
    def __init__(self, options):
        self.options = options
        self.programs = Programs.of(options)
        self.log = LOGS / "replicate.log"
        self.host = FileSystem("ext4", 12)
        self.rows = []

    def directory(self, name):
        path = self.host.path / name
        path.mkdir()
        return path

    def peers(self, name):
        """Pairs of trees that other programs keep alike."""
        for kind in [Rsync, Unison, Lsyncd, Syncthing]:
            program = kind.__name__.lower()
            if program not in self.options.peers or shutil.which(program) is None:
                continue
            work = self.directory(f"{name}-{program}")
            a, b = work / "a", work / "b"
            a.mkdir(), b.mkdir()
            try:
                yield kind(a, b, self.log), a, b
            except Failure as failure:
                self.rows.append((name, program, f"failed: {failure}", ""))

    def row(self, what, program, seconds, own=None):
        self.rows.append((what, program, show(seconds), f"{seconds / own:.1f}" if own else ""))
        say(f"{what}: {program} {show(seconds)}")

    def latency(self):
        mezzo = Mezzo(self.programs, self.directory("latency"), self.log)
        mezzo.start()
        a, b = mezzo.clone("a"), mezzo.clone("b")
        sizes = [("1 KiB", 1 << 10, self.options.changes), ("64 MiB", 64 << 20, 3)]
        own = {}
        for what, size, count in sizes:
            change(a, b, size, f"warm-{size}", lambda: None)
            own[what] = median([change(a, b, size, f"f{size}-{n}", lambda: None) for n in range(count)])
            self.row(what, "mezzo", own[what])
        own["replaced"] = median([change(a, b, 1 << 10, "same", lambda: None) for _ in range(self.options.changes)])
        self.row("1 KiB, the same file again", "mezzo", own["replaced"])
        stream = bare_stream(64 << 20)
        self.row("64 MiB", "a bare TLS stream, in Python", stream, own["64 MiB"])
        mezzo.stop()
        for peer, one, other in self.peers("latency"):
            try:
                for what, size, count in sizes:
                    few = min(count, 5 if peer.name == "syncthing" else 10)
                    change(one, other, size, f"warm-{size}", peer.push)
                    times = [change(one, other, size, f"f{size}-{n}", peer.push) for n in range(few)]
                    self.row(what, peer.name, median(times), own[what])
            except Failure as failure:
                self.rows.append((what, peer.name, f"failed: {failure}", ""))
            finally:
                peer.stop()

    def large_tree(self):
        files = self.options.files
        mezzo = Mezzo(self.programs, self.directory("large"), self.log)
        tree(mezzo.server, files)
        mezzo.start()
        started = time.monotonic()
        a = mezzo.clone("a")
        names = time.monotonic() - started
        self.row(f"first copy of {files:,} files: all names", "mezzo", names)
        started = time.monotonic()
        run(["sh", "-c", 'find "$1" -type f -print0 | xargs -0 cat >/dev/null', "sh", a], log=self.log)
        self.row("all their data, file by file", "mezzo", time.monotonic() - started)
        b = mezzo.clone("b")
        one = median([change(a, b, 1 << 10, f"one-{n}", lambda: None) for n in range(self.options.changes)])
        self.row(f"one change in a tree of {files:,}", "mezzo", one)
        started = time.monotonic()
        os.rename(a / "d0000", a / "renamed")
        wait_until((b / "renamed" / "f000000").exists, "the directory was renamed there")
        renamed = time.monotonic() - started
        self.row("a directory renamed", "mezzo", renamed)
        mezzo.sync()
        idle = self.idle(mezzo)
        mezzo.mezzo("offline", b)
        times = []
        for _ in range(5):
            mezzo.mezzo("online", b)
            started = time.monotonic()
            mezzo.mezzo("sync", b)
            times.append(time.monotonic() - started)
            mezzo.mezzo("offline", b)
        mezzo.mezzo("online", b)
        self.row("reconnected with nothing to do", "mezzo", median(times))
        mezzo.stop()
        for peer, source, target in self.peers("large"):
            try:
                if peer.name in ["lsyncd", "syncthing"]:
                    continue
                tree(source, files)
                started = time.monotonic()
                peer.push()
                self.row(f"first copy of {files:,} files: all names", peer.name, time.monotonic() - started, names)
                times = [change(source, target, 1 << 10, f"one-{n}", peer.push) for n in range(3)]
                self.row(f"one change in a tree of {files:,}", peer.name, median(times), one)
                started = time.monotonic()
                peer.push()
                self.row("reconnected with nothing to do", peer.name, time.monotonic() - started)
            finally:
                peer.stop()
        self.rows.extend(idle)

    def idle(self, mezzo):
        """What the processes take when nothing happens."""
        rows = []
        pids = {name: json.loads(mezzo.mezzo("status", path, "--json").output)["pid"]
                for name, path in [("server", mezzo.server), ("client", mezzo.clients[0])]}
        ticks = os.sysconf("SC_CLK_TCK")

        def used(pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / ticks

        before = {name: used(pid) for name, pid in pids.items()}
        time.sleep(10)
        for name, pid in pids.items():
            memory = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]
            cpu = (used(pid) - before[name]) / 10
            rows.append((f"idle, the {name}", "mezzo", f"{cpu * 100:.1f} % of a CPU, {int(memory) / 1024:.1f} MiB", ""))
        return rows


def main():
    require_isolation()
    parser = argparse.ArgumentParser(prog="replicate.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Programs.add_arguments(parser)
    parser.add_argument("--changes", type=int, default=50, help="small changes of which the median is told (default: 50)")
    parser.add_argument("--files", type=int, default=20_000, help="files of the larger tree (default: 20,000)")
    parser.add_argument("--peers", default="rsync,unison,lsyncd,syncthing", help="other programs, with commas between them")
    parser.add_argument("--only", choices=["latency", "large"], help="one part of it")
    options = parser.parse_args()
    (LOGS / "replicate.log").unlink(missing_ok=True)
    bench = Bench(options)
    if options.only != "large":
        bench.latency()
    if options.only != "latency":
        bench.large_tree()
    print_table([("what", "program", "time", "times mezzo's"), *bench.rows])


if __name__ == "__main__":
    end_with(main)
