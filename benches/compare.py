#!/usr/bin/env python3
"""Pairs llorch-models with what a person would use instead, in one run on one machine.

Rows run in turn (A B C, A B C, ...); figures are medians, ratios are medians of the ratios within a round.
Only ratios mean anything: absolute times belong to the machine. Peers that are not installed are left out and named.

    benches/compare.py [screen] [scan] [verify] [download] [transfer] [--rounds N] [--size MIB] [--program PATH]

`screen` needs nothing else. `scan` compares diskus, du and `hf cache ls` when they are there (`--diskus PATH`, `--hf PATH`).
`verify` hashes one file and two at once beside sha256sum, openssl and Python, and looks at 1,000 files with --quick.
`download` needs nginx; curl, openssl, aria2c and hf are compared when they are there.
`transfer` holds each connection to 20 MiB/s (the kernel paces the server's sockets) and puts 25 ms on each way of many
small files; the same peers.
"""

import argparse
import fcntl
import hashlib
import http.server
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import socket
import socketserver
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def build():
    """Builds the program and the plain loop; gives their paths."""
    out = subprocess.run(
        ["cargo", "build", "--release", "--bins", "--bench", "plain_loop", "--message-format=json"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout
    paths = {}
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            paths[message["target"]["name"]] = message["executable"]
    return paths["llorch-models"], paths["plain_loop"]


def environment(home):
    keep = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    return keep | {"HOME": str(home), "TERM": "xterm-256color", "LANG": "C.UTF-8", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


# --- the screen -------------------------------------------------------------------------------------------------


def gguf(path, name, size=64 * 1024):
    """A small valid GGUF file: one tensor, a name."""
    def text(value):
        data = value.encode()
        return struct.pack("<Q", len(data)) + data
    keys = [("general.architecture", 8, text("llama")), ("general.name", 8, text(name)), ("general.file_type", 4, struct.pack("<I", 15))]
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys))
    for key, kind, value in keys:
        head += text(key) + struct.pack("<I", kind) + value
    elements = size // 4
    head += text("a") + struct.pack("<IQIQ", 1, elements, 0, 0)
    head += b"\0" * (-len(head) % 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(len(head) + elements * 4)


def cpu_ns(pid):
    return sum(int(pathlib.Path(task, "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir())


def run_screen(binary, arguments, home, needle, idle):
    """One start in a pty of 120x40: ms to the first byte and to `needle`, then bytes and CPU while idle."""
    started = time.perf_counter()
    pid, master = pty.fork()
    if pid == 0:
        os.execve(binary, [binary, *arguments], environment(home))
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    first = rows = None
    seen = b""
    deadline = time.perf_counter() + 5
    while time.perf_counter() < deadline and rows is None:
        if select.select([master], [], [], 0.05)[0]:
            seen += os.read(master, 65536)
            now = (time.perf_counter() - started) * 1000
            first = now if first is None else first
            if needle in seen:
                rows = now
    result = {"first_ms": first, "rows_ms": rows}
    if idle:
        settle = time.perf_counter() + 2
        while time.perf_counter() < settle:
            if select.select([master], [], [], 0.1)[0]:
                os.read(master, 65536)
        before, quiet = cpu_ns(pid), 0
        end = time.perf_counter() + idle
        while time.perf_counter() < end:
            if select.select([master], [], [], 0.1)[0]:
                quiet += len(os.read(master, 65536))
        result["idle_bytes"] = quiet
        result["idle_cpu_percent"] = (cpu_ns(pid) - before) / (idle * 1e9) * 100
        rss = [line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
        result["rss_mib"] = int(rss[0].split()[1]) / 1024
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    os.close(master)
    return result


def screen(binary, rounds):
    print("## Screen: 1,000 models, pty of 120x40\n")
    with tempfile.TemporaryDirectory() as scratch:
        base = pathlib.Path(scratch, "models")
        for i in range(1000):
            gguf(base / f"model-{i:04}" / f"model-{i:04}-Q4_K_M.gguf", f"Model {i}")
        arguments = ["--models-dir", str(base)]
        starts = [run_screen(binary, arguments, scratch, b"model-0001", 0) for _ in range(rounds)]
        for key in ("first_ms", "rows_ms"):
            print(f"{key}: {statistics.median(s[key] for s in starts):.1f} (worst {max(s[key] for s in starts):.1f})")
        still = run_screen(binary, arguments, scratch, b"model-0001", 10)
        print(f"idle 10 s: {still['idle_bytes']} bytes, {still['idle_cpu_percent']:.3f} % of a core, {still['rss_mib']:.1f} MiB peak\n")


# --- the scan ---------------------------------------------------------------------------------------------------


def hub_cache(root, repositories):
    """A cache of the hub: 60 entries a repository, three revisions of twelve links over sixteen sparse blobs."""
    for number in range(repositories):
        top = root / f"models--org{number % 50}--model-{number}"
        for folder in ("blobs", "refs"):
            (top / folder).mkdir(parents=True)
        etags = [hashlib.sha256(f"{number}/{i}".encode()).hexdigest() for i in range(16)]
        for etag in etags:
            with open(top / "blobs" / etag, "wb") as blob:
                blob.truncate(1 << 20)
        for revision in range(3):
            commit = hashlib.sha1(f"{number}.{revision}".encode()).hexdigest()
            folder = top / "snapshots" / commit
            folder.mkdir(parents=True)
            for i in range(12):
                name = f"model-{i:05}-of-00008.safetensors" if 0 < i <= 8 else f"file{i}.json"
                (folder / name).symlink_to(f"../../blobs/{etags[(i + revision * 2) % 16]}")
            (top / "refs" / "main").write_text(commit)


def scan(binary, rounds, diskus, hf):
    print("## Scan: a cache of the hub, 60 entries a repository, warm\n")
    medians = {}
    for repositories in (20, 200, 2000):
        with tempfile.TemporaryDirectory() as scratch:
            cache = pathlib.Path(scratch, "hub")
            hub_cache(cache, repositories)
            # A folder that has just been written is not remembered: it may change within a tick of the clock.
            time.sleep(4)
            rows = {"list --json": [binary, "list", "--json"], "du -s": ["du", "-s", str(cache)]}
            if diskus:
                rows["diskus -j 2"] = [diskus, "-j", "2", str(cache)]
            if hf:
                rows["hf cache ls"] = [hf, "cache", "ls"]
            variables = {"HF_HUB_CACHE": str(cache)}
            first = measured(rows["list --json"], scratch, scratch, variables)
            results = {name: [] for name in rows}
            for _ in range(rounds):
                for name, command in rows.items():
                    results[name].append(measured(command, scratch, scratch, variables))
            print(f"{repositories} repositories, {repositories * 60:,} entries; the first look at them takes {first['wall'] * 1000:.0f} ms\n")
            print("| program | wall ms | CPU ms | peak MiB | list / program |")
            print("|---|---|---|---|---|")
            for name, runs in results.items():
                median = lambda key: statistics.median(run[key] for run in runs)
                ratio = statistics.median(own["wall"] / run["wall"] for own, run in zip(results["list --json"], runs))
                print(f"| {name} | {median('wall') * 1000:.1f} | {median('cpu') * 1000:.1f} | {median('rss'):.0f} | {ratio:.2f} |")
            medians[repositories] = statistics.median(run["wall"] for run in results["list --json"])
            print()
    print(f"growth from 200 to 2,000 repositories: {medians[2000] / medians[200]:.1f}\n")
    missing = [name for name, path in (("diskus", diskus), ("hf", hf)) if not path]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}\n")


# --- verification -----------------------------------------------------------------------------------------------


HASHLIB = "import hashlib, sys\nfor path in sys.argv[1:]: print(hashlib.file_digest(open(path, 'rb'), 'sha256').hexdigest())"


def recorded(folder, files):
    """The record of a folder that was filled from the hub."""
    record = folder / ".cache" / "llorch-models" / "source.json"
    record.parent.mkdir(parents=True)
    entries = [{"path": name, "size": size, "digest": digest} for name, size, digest in sorted(files)]
    record.write_text(json.dumps({
        "version": 1, "endpoint": "https://huggingface.co", "repository": f"bench/{folder.name}", "revision": "main", "commit": "0" * 40, "files": entries,
    }))


def verify(binary, rounds, mib):
    block = os.urandom(1 << 20)
    for count in (1, 2):
        print(f"## Verify: {count} x {mib} MiB in the page cache\n")
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            folder = scratch / "models" / "m"
            folder.mkdir(parents=True)
            entries = []
            for number in range(count):
                digest = hashlib.sha256()
                name = f"part-{number}.bin"
                with open(folder / name, "wb") as file:
                    for i in range(mib):
                        piece = struct.pack("<QQ", number, i) + block[16:]
                        digest.update(piece)
                        file.write(piece)
                entries.append((name, mib << 20, digest.hexdigest()))
            recorded(folder, entries)
            os.sync()
            paths = [str(folder / name) for name, *_ in entries]
            rows = {"llorch-models verify": [binary, "--models-dir", str(scratch / "models"), "verify", "m"]}
            for name, command in (("sha256sum", ["sha256sum"]), ("openssl dgst -sha256", ["openssl", "dgst", "-sha256"])):
                if shutil.which(command[0]):
                    # As many processes as files.
                    rows[name] = " & ".join(" ".join([*command, path]) for path in paths) + " & wait"
            rows["Python hashlib, one after the other"] = [sys.executable, "-c", HASHLIB, *paths]
            table(rounds_of(rows, rounds, scratch / "out", scratch / "home"), "llorch-models verify")
    print("## Verify --quick: 1,000 files\n")
    with tempfile.TemporaryDirectory() as scratch:
        base = pathlib.Path(scratch, "models")
        for i in range(1000):
            gguf(base / f"model-{i:04}" / f"model-{i:04}-Q4_K_M.gguf", f"Model {i}")
        runs = [measured([binary, "--models-dir", str(base), "verify", "--all", "--quick"], scratch, scratch) for _ in range(rounds)]
        print(f"wall {statistics.median(run['wall'] for run in runs) * 1000:.0f} ms, CPU {statistics.median(run['cpu'] for run in runs) * 1000:.0f} ms\n")


# --- the download -----------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Hub(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Answers like the hub for one repository of one file and redirects its bytes to nginx on another port."""

    daemon_threads = True

    def __init__(self, name, size, sha256, blobs):
        self.file = {"name": name, "size": size, "sha256": sha256, "blobs": blobs}
        super().__init__(("127.0.0.1", 0), HubHandler)


class HubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    commit = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        file = self.server.file
        path = self.path.split("?")[0]
        lfs = {"oid": file["sha256"], "sha256": file["sha256"], "size": file["size"], "pointerSize": 134}
        if path.startswith("/api/models/bench/big/tree/"):
            entry = {"type": "file", "oid": "0" * 40, "size": file["size"], "lfs": lfs, "path": file["name"]}
            return self.answer(200, json.dumps([entry]).encode(), Content_Type="application/json")
        if path.startswith("/api/models/bench/big"):
            sibling = {"rfilename": file["name"], "blobId": "0" * 40, "size": file["size"], "lfs": lfs}
            info = {"_id": "1", "id": "bench/big", "modelId": "bench/big", "sha": self.commit, "private": False, "gated": False, "tags": ["gguf"], "siblings": [sibling]}
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        if path.startswith("/bench/big/resolve/"):
            return self.answer(
                302, b"", Location=file["blobs"], X_Repo_Commit=self.commit, X_Linked_Size=str(file["size"]), X_Linked_ETag=f'"{file["sha256"]}"', ETag=f'"{file["sha256"]}"',
            )
        return self.answer(404, b"not found", X_Error_Code="RepoNotFound")


def measured(command, home, cwd, variables=None):
    """Runs a command; wall and CPU seconds, peak MiB of the largest process."""
    started = time.perf_counter()
    child = subprocess.Popen(command, shell=isinstance(command, str), env=environment(home) | (variables or {}), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"failed: {command}\n{error.decode(errors='replace')}")
    return {"wall": time.perf_counter() - started, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}


def download(binary, plain_loop, rounds, mib):
    print(f"## Download: {mib} MiB, loopback, one file, no throttle\n")
    if not shutil.which("nginx"):
        sys.exit("nginx is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        name = "model-Q4_K_M.gguf"
        served = scratch / "served"
        served.mkdir()
        served.chmod(0o755)
        scratch.chmod(0o755)
        digest = hashlib.sha256()
        block = os.urandom(1 << 20)
        with open(served / name, "wb") as file:
            for i in range(mib):
                piece = struct.pack("<Q", i) + block[8:]
                digest.update(piece)
                file.write(piece)
        size, sha256 = mib << 20, digest.hexdigest()
        port = free_port()
        config = scratch / "nginx.conf"
        config.write_text(
            f"daemon off; pid {scratch}/nginx.pid; error_log stderr crit; worker_processes 1;\n"
            f"events {{}} http {{ access_log off; sendfile on; tcp_nopush on; server {{ listen 127.0.0.1:{port}; root {served}; }} }}\n"
        )
        nginx = subprocess.Popen(["nginx", "-c", str(config), "-p", str(scratch)], stderr=subprocess.DEVNULL)
        blobs = f"http://127.0.0.1:{port}/{name}"
        hub = Hub(name, size, sha256, blobs)
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
        out = scratch / "out"
        rows = {
            "plain loop (receive, hash, write, sync)": [plain_loop, blobs, str(out / "plain")],
            "llorch-models (verified, synced)": [binary, "--models-dir", str(out / "models"), "--endpoint", endpoint, "download", "bench/big"],
        }
        if shutil.which("curl"):
            rows["curl -o f && sync -d f (not verified)"] = f"curl -s -o {out}/curl {blobs} && sync -d {out}/curl"
            if shutil.which("openssl"):
                rows["curl | tee | openssl dgst, sync"] = f"curl -s {blobs} | tee {out}/tee | openssl dgst -sha256 && sync -d {out}/tee"
        if shutil.which("aria2c"):
            rows["aria2c -x8 -s8 (not verified)"] = ["aria2c", "-q", "-x8", "-s8", "--file-allocation=falloc", "-d", str(out), "-o", "aria", blobs]
        hf = os.environ.get("LLORCH_BENCH_HF") or shutil.which("hf")
        if hf:
            rows["hf download (not verified)"] = f"HF_ENDPOINT={endpoint} {hf} download bench/big --local-dir {out}/hf"
        results = {label: [] for label in rows}
        time.sleep(0.5)
        try:
            for _ in range(rounds):
                for label, command in rows.items():
                    shutil.rmtree(out, ignore_errors=True)
                    out.mkdir()
                    os.sync()
                    results[label].append(measured(command, scratch / "home", out))
        finally:
            hub.shutdown()
            nginx.terminate()
            nginx.wait()
        base = results["plain loop (receive, hash, write, sync)"]
        print("| client | wall s | CPU s | peak MiB | wall / plain loop | CPU / plain loop |\n|---|---|---|---|---|---|")
        for label, runs in results.items():
            ratio = {key: statistics.median(r[key] / b[key] for r, b in zip(runs, base)) for key in ("wall", "cpu")}
            mid = {key: statistics.median(r[key] for r in runs) for key in ("wall", "cpu", "rss")}
            print(f"| {label} | {mid['wall']:.2f} | {mid['cpu']:.2f} | {mid['rss']:.1f} | {ratio['wall']:.2f} | {ratio['cpu']:.2f} |")
        print()


# --- many connections -------------------------------------------------------------------------------------------


def connection_rate(listener, rate):
    """Every connection that is accepted from `listener` sends at most `rate` bytes per second."""
    so_max_pacing_rate = 47
    listener.setsockopt(socket.SOL_SOCKET, so_max_pacing_rate, rate)


class Paced(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves one file with ranges, each connection at a fixed rate."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, file, rate):
        self.path = file
        super().__init__(("127.0.0.1", 0), PacedHandler, bind_and_activate=False)
        connection_rate(self.socket, rate)
        self.server_bind()
        self.server_activate()


class PacedHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        size = self.server.path.stat().st_size
        first, last = 0, size - 1
        asked = self.headers.get("Range")
        if asked:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"paced"')
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.flush()
        with open(self.server.path, "rb") as file:
            try:
                while first <= last:
                    first += os.sendfile(self.connection.fileno(), file.fileno(), first, min(last + 1 - first, 1 << 20))
            except OSError:
                self.close_connection = True


class Delay(threading.Thread):
    """A relay that keeps every byte for `delay` seconds each way, and a new connection for one round trip."""

    def __init__(self, target, delay):
        super().__init__(daemon=True)
        self.target, self.delay = target, delay
        self.port = free_port()

    def run(self):
        import asyncio

        async def pump(reader, writer):
            loop, queue = asyncio.get_running_loop(), asyncio.Queue()

            async def send():
                while True:
                    due, data = await queue.get()
                    await asyncio.sleep(max(0, due - loop.time()))
                    if not data:
                        writer.close()
                        return
                    writer.write(data)

            sending = asyncio.ensure_future(send())
            try:
                while data := await reader.read(1 << 16):
                    queue.put_nowait((loop.time() + self.delay, data))
            except OSError:
                pass
            queue.put_nowait((loop.time() + self.delay, b""))
            await sending

        async def accept(reader, writer):
            await asyncio.sleep(2 * self.delay)
            there, back = await asyncio.open_connection(*self.target)
            await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

        async def serve():
            server = await asyncio.start_server(accept, "127.0.0.1", self.port, backlog=256)
            await server.serve_forever()

        asyncio.run(serve())


class SmallHub(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A hub for one repository of many small files, which it sends itself."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, files):
        self.files = files
        self.blobs = {name: hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest() for name, data in files.items()}
        super().__init__(("127.0.0.1", 0), SmallHubHandler)


class SmallHubHandler(HubHandler):
    wbufsize = -1

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self):
        self.answer_small()
        self.wfile.flush()

    def answer_small(self):
        path = self.path.split("?")[0]
        sizes = {name: len(data) for name, data in self.server.files.items()}
        if path.startswith("/api/models/bench/small/tree/"):
            rows = [{"type": "file", "oid": self.server.blobs[name], "size": size, "path": name} for name, size in sizes.items()]
            return self.answer(200, json.dumps(rows).encode(), Content_Type="application/json")
        if path.startswith("/api/models/bench/small"):
            siblings = [{"rfilename": name, "blobId": self.server.blobs[name], "size": size} for name, size in sizes.items()]
            info = {"_id": "1", "id": "bench/small", "modelId": "bench/small", "sha": self.commit, "private": False, "gated": False, "tags": [], "siblings": siblings}
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        name = path.rpartition("/")[2]
        if name in self.server.files:
            etag = f'"{self.server.blobs[name]}"'
            return self.answer(200, self.server.files[name], X_Repo_Commit=self.commit, ETag=etag, Content_Type="application/octet-stream")
        return self.answer(404, b"not found", X_Error_Code="EntryNotFound")


def rounds_of(rows, rounds, out, home):
    results = {label: [] for label in rows}
    for _ in range(rounds):
        for label, command in rows.items():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            os.sync()
            results[label].append(measured(command, home, out))
    return results


def table(results, base):
    print(f"| client | wall s | CPU s | peak MiB | wall / {base} |\n|---|---|---|---|---|")
    for label, runs in results.items():
        ratio = statistics.median(r["wall"] / b["wall"] for r, b in zip(runs, results[base]))
        mid = {key: statistics.median(r[key] for r in runs) for key in ("wall", "cpu", "rss")}
        print(f"| {label} | {mid['wall']:.2f} | {mid['cpu']:.2f} | {mid['rss']:.1f} | {ratio:.2f} |")
    print()


def transfer(binary, rounds, mib, rate):
    hf = os.environ.get("LLORCH_BENCH_HF") or shutil.which("hf")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        out, home = scratch / "out", scratch / "home"
        print(f"## Many connections: {mib} MiB, each connection held to {rate} MiB/s\n")
        name, digest = "model-Q4_K_M.gguf", hashlib.sha256()
        block = os.urandom(1 << 20)
        with open(scratch / name, "wb") as file:
            for i in range(mib):
                piece = struct.pack("<Q", i) + block[8:]
                digest.update(piece)
                file.write(piece)
        paced = Paced(scratch / name, rate << 20)
        threading.Thread(target=paced.serve_forever, daemon=True).start()
        blobs = f"http://127.0.0.1:{paced.server_address[1]}/{name}"
        hub = Hub(name, mib << 20, digest.hexdigest(), blobs)
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
        ours = [binary, "--models-dir", str(out / "models"), "--endpoint", endpoint, "download", "bench/big"]
        rows = {f"llorch-models, {count} connections (verified, synced)": [*ours, "--connections", str(count)] for count in (8, 16)}
        base = next(iter(rows))
        if shutil.which("aria2c"):
            base = "aria2c -x8 -s8 (not verified)"
            rows[base] = ["aria2c", "-q", "-x8", "-s8", "--file-allocation=falloc", "-d", str(out), "-o", "aria", blobs]
        table(rounds_of(rows, rounds, out, home), base)
        if hf or shutil.which("curl"):
            # One stream each: the rate decides, once is enough.
            single = {}
            if shutil.which("curl"):
                single["curl -o f (not verified)"] = f"curl -s -o {out}/curl {blobs}"
            if hf:
                single["hf download (not verified)"] = f"HF_ENDPOINT={endpoint} {hf} download bench/big --local-dir {out}/hf"
            table(rounds_of({base: rows[base], **single}, 1, out, home), base)
        paced.shutdown()
        hub.shutdown()
        (scratch / name).unlink()

        print("## Small files: 200 of 50 KB, 50 ms round trip\n")
        files = {f"part-{i:03}.bin": os.urandom(50_000) for i in range(200)}
        small = SmallHub(files)
        threading.Thread(target=small.serve_forever, daemon=True).start()
        relay = Delay(("127.0.0.1", small.server_address[1]), 0.025)
        relay.start()
        time.sleep(0.3)
        endpoint = f"http://127.0.0.1:{relay.port}"
        ours = [binary, "--models-dir", str(out / "models"), "--endpoint", endpoint, "download", "bench/small", "--file", "*"]
        rows = {f"llorch-models, {count} connections (verified, synced)": [*ours, "--connections", str(count)] for count in (8, 16)}
        base = next(iter(rows))
        urls = " ".join(f"-o {name} {endpoint}/bench/small/resolve/main/{name}" for name in files)
        if shutil.which("curl"):
            rows["curl -Z, 8 connections (told the addresses)"] = f"curl -s -Z --parallel-max 8 {urls}"
        if hf:
            base = "hf download (not verified)"
            rows[base] = f"HF_ENDPOINT={endpoint} {hf} download bench/small --local-dir {out}/hf"
        table(rounds_of(rows, rounds, out, home), base)
        small.shutdown()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["screen", "scan", "verify", "download", "transfer", []], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=2048, help="MiB of the download and of the files that are verified")
    parser.add_argument("--rate", type=int, default=20, help="MiB/s of each connection in `transfer`")
    parser.add_argument("--program", help="measure this program instead of building one; `download` needs a build")
    parser.add_argument("--diskus", default=shutil.which("diskus"))
    parser.add_argument("--hf", default=shutil.which("hf"))
    arguments = parser.parse_args()
    what = arguments.what or ["screen", "scan", "verify", "download", "transfer"]
    if arguments.program and "download" not in what:
        binary, plain_loop = os.path.abspath(arguments.program), None
    else:
        binary, plain_loop = build()
    if "screen" in what:
        screen(binary, arguments.rounds)
    if "scan" in what:
        scan(binary, arguments.rounds, arguments.diskus, arguments.hf)
    if "verify" in what:
        verify(binary, arguments.rounds, arguments.size)
    if "download" in what and plain_loop:
        download(binary, plain_loop, arguments.rounds, arguments.size)
    if "transfer" in what:
        transfer(binary, arguments.rounds, min(arguments.size, 1024), arguments.rate)


if __name__ == "__main__":
    main()
