#!/usr/bin/env python3
"""Pairs llorch-models with what a person would use instead, in one run on one machine.

Rows run in turn (A B C, A B C, ...); figures are medians, ratios are medians of the ratios within a round.
Only ratios mean anything: absolute times belong to the machine. Peers that are not installed are left out and named.

    benches/compare.py [screen] [download] [--rounds N] [--size MIB] [--binary PATH]

`screen` needs nothing else. `download` needs nginx; curl, openssl, aria2c and hf are compared when they are there.
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


def measured(command, home, cwd):
    """Runs a command; wall and CPU seconds, peak MiB of the largest process."""
    started = time.perf_counter()
    child = subprocess.Popen(command, shell=isinstance(command, str), env=environment(home), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["screen", "download", []], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=2048, help="MiB of the download")
    arguments = parser.parse_args()
    binary, plain_loop = build()
    what = arguments.what or ["screen", "download"]
    if "screen" in what:
        screen(binary, arguments.rounds)
    if "download" in what:
        download(binary, plain_loop, arguments.rounds, arguments.size)


if __name__ == "__main__":
    main()
