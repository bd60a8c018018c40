"""A long, mixed load against the release binary, whose memory, threads and descriptors must stay where they were.

    python3 tests/load/soak.py BINARY [SECONDS]

Requests small and large, streams, refreshes, sign-ins and what an attacker or a bad line would send, all at once and
at a moderate rate. The last line counts what was checked.
"""

import asyncio
import contextlib
import json
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time

from harness import OAuthClient, Process, free_port

PASSWORD = "a password for the soak"
LARGE = 64 << 10
MIB = 1 << 20
# Workers that have nothing to do go after ten seconds, idle upstream connections after thirty.
COOL_DOWN = 35


class Upstream:
    """An MCP server's outside: answers as small or large as the path says, streams, and an end in the middle."""

    def __init__(self):
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve(ready)), daemon=True).start()
        ready.wait()

    async def serve(self, ready):
        server = await asyncio.start_server(self.connection, "127.0.0.1", 0, limit=1 << 20, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await server.serve_forever()

    async def connection(self, reader, writer):
        with contextlib.suppress(Exception):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"content-length: (\d+)", head)
                body = await reader.readexactly(int(length.group(1))) if length else b""
                path = head.split(" ")[1]
                if path == "/stream":
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                    while True:
                        writer.write(b"9\r\ndata: 1\n\n\r\n")
                        await writer.drain()
                        await asyncio.sleep(0.05)
                elif path == "/broken":
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
                    break
                elif path == "/slow":
                    await asyncio.sleep(random.uniform(0.01, 0.5))
                answer = body if path == "/echo" else b'{"jsonrpc":"2.0","id":1,"result":{}}'
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
                await writer.drain()
        writer.close()


class Soak:
    def __init__(self, binary, seconds):
        self.seconds = seconds
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="mcp-auth-proxy-soak-"))
        self.port = free_port()
        self.log = self.dir / "log"
        command = [binary, "--listen", f"127.0.0.1:{self.port}", "--external-url", f"http://localhost:{self.port}", "--data-path", str(self.dir / "data"),
                   "--password", PASSWORD, f"http://127.0.0.1:{Upstream().port}"]
        self.proxy = Process(command, self.port, stderr=open(self.log, "wb"))
        self.client = OAuthClient(self.port, PASSWORD)
        self.register()
        self.tokens = self.client.authorize()
        self.lock = threading.Lock()
        self.counts, self.faults = {}, []
        self.stopping = threading.Event()

    def register(self):
        assert self.client.register("soak") == 201

    # What is sent. Each returns when it has seen the right answer, and raises when it has seen another.

    def connect(self):
        s = socket.socket()
        s.settimeout(30)
        # Whoever looks for a free port meanwhile may have this one as well.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # As many addresses as a real crowd has, so that no one of them is at its bound.
        s.bind((f"127.0.{random.randrange(1, 200)}.{random.randrange(1, 250)}", 0))
        s.connect(("127.0.0.1", self.port))
        return s

    def head(self, method, path, *fields):
        token = self.tokens["access_token"]
        return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: localhost:{self.port}", f"Authorization: Bearer {token}", *fields, "", ""]).encode()

    def post(self, s, path, body):
        s.sendall(self.head("POST", path, "Content-Type: application/json", f"Content-Length: {len(body)}") + body)
        return self.answer(s)

    @staticmethod
    def answer(s):
        data = b""
        while b"\r\n\r\n" not in data:
            data += Soak.some(s)
        head, body = data.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"content-length: (\d+)", head).group(1))
        while len(body) < length:
            body += Soak.some(s)
        return int(head.split(b" ")[1]), body

    @staticmethod
    def some(s):
        data = s.recv(65536)
        if not data:
            raise EOFError("the connection ended")
        return data

    @staticmethod
    def expect(found, *wanted):
        if found not in wanted:
            raise AssertionError(f"{found} instead of {wanted}")

    def requests(self):
        with self.connect() as s:
            for _ in range(20):
                body = b'{"jsonrpc":"2.0","id":%d,"method":"ping"}' % random.randrange(1 << 30)
                self.expect(self.post(s, "/echo", body), (200, body))

    def large_requests(self):
        with self.connect() as s:
            for _ in range(3):
                body = random.randbytes(LARGE)
                self.expect(self.post(s, "/echo", body), (200, body))

    def slow_answers(self):
        with self.connect() as s:
            self.expect(self.post(s, "/slow", b"{}")[0], 200)

    def stream(self):
        with self.connect() as s:
            s.sendall(self.head("GET", "/stream", "Accept: text/event-stream"))
            data = b""
            while data.count(b"data: 1") < random.randrange(1, 20):
                data += self.some(s)
            self.expect(data.split(b" ")[1], b"200")
            if random.random() < 0.5:
                self.reset(s)

    def upstream_breaks(self):
        with self.connect() as s:
            s.sendall(self.head("GET", "/broken"))
            with contextlib.suppress(EOFError):
                self.answer(s)
                raise AssertionError("half an answer passed as a whole one")

    def leave_early(self):
        with self.connect() as s:
            s.sendall(self.head("POST", "/slow", "Content-Length: 2") + b"{}")
            time.sleep(random.uniform(0, 0.1))
            self.reset(s)

    def half_a_head(self):
        with self.connect() as s:
            s.sendall(self.head("GET", "/echo")[: random.randrange(1, 200)])
            time.sleep(random.uniform(0, 0.5))
            self.reset(s)

    def half_a_body(self):
        with self.connect() as s:
            s.sendall(self.head("POST", "/echo", f"Content-Length: {LARGE}") + random.randbytes(random.randrange(LARGE)))
            time.sleep(random.uniform(0, 0.5))
            self.reset(s)

    def refused(self):
        for sent, status in (
            (b"GET / HTTP/1.1\r\nHost: x\r\nBad Field: y\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n" + b"A: " + b"a" * 20_000 + b"\r\n\r\n", 431),
            (f"GET /mcp HTTP/1.1\r\nHost: localhost:{self.port}\r\nAuthorization: Bearer nobody\r\n\r\n".encode(), 401),
            (f"POST /.idp/token HTTP/1.1\r\nHost: localhost:{self.port}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 18\r\n\r\ngrant_type=nothing".encode(), 400),
            (f"POST /.idp/register HTTP/1.1\r\nHost: localhost:{self.port}\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n[[[[".encode(), 400),
        ):
            with self.connect() as s:
                s.sendall(sent)
                self.expect(self.answer(s)[0], status)

    def silence(self):
        with self.connect():
            time.sleep(random.uniform(0, 2))

    @staticmethod
    def reset(s):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # The kinds, and how often each comes.
    KINDS = {requests: 10, large_requests: 4, slow_answers: 4, stream: 4, upstream_breaks: 2, leave_early: 4, half_a_head: 3, half_a_body: 3, refused: 4, silence: 3}

    def mixed(self):
        while not self.stopping.is_set():
            (kind,) = random.choices(list(self.KINDS), list(self.KINDS.values()))
            self.attempt(kind.__name__, lambda: kind(self))
            time.sleep(random.uniform(0, 0.1))

    def people(self):
        """Refreshes, and now and then another sign-in that is revoked: a store and a log that are written all along."""
        while not self.stopping.wait(1):
            self.attempt("refresh", self.refresh)
            if random.random() < 0.2:
                self.attempt("sign-in", self.sign_in_and_out)

    def refresh(self):
        self.tokens = self.client.refresh(self.tokens["refresh_token"])

    def sign_in_and_out(self):
        self.register()
        tokens = self.client.authorize()
        self.expect(self.client.revoke(tokens["refresh_token"]), 200)

    def attempt(self, name, action):
        try:
            action()
            fault = None
        except Exception as error:  # noqa: BLE001: whatever it is, it is to be shown
            fault = f"{name}: {type(error).__name__}: {str(error)[:200]}"
        with self.lock:
            self.counts[name] = self.counts.get(name, 0) + 1
            if fault:
                self.faults.append(fault)

    # What is watched

    def run(self):
        crowd = [threading.Thread(target=self.mixed, daemon=True) for _ in range(16)] + [threading.Thread(target=self.people, daemon=True)]
        before = {"threads": self.proxy.threads(), "descriptors": self.proxy.descriptors()}
        for thread in crowd:
            thread.start()
        memory, begun = [], time.monotonic()
        while time.monotonic() - begun < self.seconds and self.proxy.child.poll() is None:
            time.sleep(1)
            memory.append(self.proxy.memory())
        self.stopping.set()
        for thread in crowd:
            thread.join(60)
        # The first fifth warms buffers, threads and the store's cache up.
        fifth = max(1, len(memory) // 5)
        early, late = (statistics.median(part) for part in (memory[fifth : 2 * fifth], memory[-fifth:]))
        after = {}
        for _ in range(COOL_DOWN):
            time.sleep(1)
            after = {"threads": self.proxy.threads(), "descriptors": self.proxy.descriptors()}
            if all(after[what] <= before[what] + 2 for what in before):
                break
        print(f"{sum(self.counts.values())} attempts in {len(memory)} s: {json.dumps(self.counts)}")
        tenth = max(1, len(memory) // 10)
        course = " ".join(f"{statistics.median(memory[at : at + tenth]) / MIB:.2f}" for at in range(0, len(memory), tenth))
        print(f"resident MiB by tenths: {course}")
        print(f"resident MiB: {early / MIB:.2f} early, {late / MIB:.2f} late, {max(memory) / MIB:.2f} at most, {self.proxy.memory() / MIB:.2f} in the end")
        print(f"before {before}, after {after}")
        errors = [line for line in self.log.read_text().splitlines() if '"level":"error"' in line.lower() or "panicked" in line]
        checks = {
            "every answer was the right one": not self.faults,
            "each kind of request came": len(self.counts) == len(self.KINDS) + 2,
            "memory stayed flat": late <= early + MIB,
            "threads were given back": after["threads"] <= before["threads"] + 2,
            "descriptors were given back": after["descriptors"] <= before["descriptors"] + 2,
            "nothing was logged as an error": not errors,
            "it ended in order": self.ends_in_order(),
        }
        for what in (*self.faults[:10], *errors[:10]):
            print(what)
        for what, holds in checks.items():
            if not holds:
                print(f"FAIL  {what}")
        failed = sum(not holds for holds in checks.values())
        print(f"{len(checks) - failed} passed, {failed} failed")
        return failed == 0

    def ends_in_order(self):
        self.proxy.stop()
        return self.proxy.child.returncode == 0


def main():
    binary, seconds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    soak = Soak(binary, seconds)
    try:
        sys.exit(not soak.run())
    finally:
        soak.proxy.stop()
        shutil.rmtree(soak.dir, ignore_errors=True)


main()
