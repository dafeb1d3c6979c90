"""A server on this machine that answers downloads well and badly."""

import hashlib
import re
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from latentflow_experiments.data.factors import PublicFile

CONTENT = np.random.default_rng(0).bytes(1_000_003)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)
HALF = 500_000


@dataclass(frozen=True)
class Reply:
    """How the server answers one request."""

    content: bytes = CONTENT
    status: int | None = None  # instead of the content
    stop: int | None = None  # break off before this byte
    then: str = "close"  # what happens there: close, stall, or interrupt this process
    ranges: bool = True
    length: bool = True
    etag: str | None = '"1"'
    modified: str | None = None
    shift: int = 0  # answer with a part that begins so much earlier than asked


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        replies = self.server.replies[self.path]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        request = {"path": self.path, "range": self.headers.get("Range"), "if": self.headers.get("If-Range"), "sent": 0}
        self.server.requests.append(request)
        if reply.status is not None:
            self.send_error(reply.status)
            return
        start, size = self._start(reply), len(reply.content)
        if start is not None and start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200 if start is None else 206)
        first = 0 if start is None else start - reply.shift
        if start is not None:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        for name, value in (("ETag", reply.etag), ("Last-Modified", reply.modified)):
            if value is not None:
                self.send_header(name, value)
        if reply.length:
            self.send_header("Content-Length", str(size - first))
        self.end_headers()
        body = reply.content[first : reply.stop]
        request["sent"] = len(body)
        self.wfile.write(body)
        if reply.stop is not None and reply.then != "close":
            self.wfile.flush()
            if reply.then == "interrupt":
                wait_until(lambda: self.server.part.exists() and self.server.part.stat().st_size > HALF - 2**16)
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            self.server.released.wait(10)

    def _start(self, reply):
        """The first byte that is asked for, None if all are."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if (
            not reply.ranges
            or asked is None
            or self.headers.get("If-Range", reply.etag)
            not in (
                reply.etag,
                reply.modified,
            )
        ):
            return None
        return int(asked.group(1))

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.requests, self.released = {}, [], threading.Event()
        self.part = None

    def file(self, *replies, size=SIZE):
        """A file with one address for each list of replies."""
        paths = [f"/{'abc'[i]}/file.bin" for i in range(len(replies))]
        self.replies.update(zip(paths, (list(several) for several in replies), strict=True))
        addresses = tuple(f"http://127.0.0.1:{self.server_port}{path}" for path in paths)
        return PublicFile("file.bin", addresses, SHA256, size)

    def handle_error(self, *_):
        """A client that went away is no fault."""


@contextmanager
def serving():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
