"""An application that reads a request in every way that some framework does, and tells what it got.

GET /hold/…: lines without an end. With `Upgrade`: 101, and every line comes back. Port 7000: every line comes back.
Everything else: JSON of the target and the fields as they came, and the page that is served for it: `admin` when any of the ways to read the
target, in any order, comes to `/admin` or `/public/admin`."""

import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer


def unescape(path):
    return re.sub("%([0-9A-Fa-f]{2})", lambda match: chr(int(match.group(1), 16)), path)


def overlong(path):
    """UTF-8 of two and three bytes, read without looking whether one byte would have done."""
    two = lambda match: chr((ord(match.group(1)) & 31) << 6 | ord(match.group(2)) & 63)
    three = lambda match: chr((ord(match.group(1)) & 15) << 12 | (ord(match.group(2)) & 63) << 6 | ord(match.group(3)) & 63)
    path = re.sub("([\xe0-\xef])([\x80-\xbf])([\x80-\xbf])", three, path)
    return re.sub("([\xc0-\xdf])([\x80-\xbf])", two, path)


def dots(path):
    out = []
    for segment in path.split("/"):
        if segment == "..":
            if len(out) > 1:
                out.pop()
        elif segment != ".":
            out.append(segment)
    return "/".join(out)


WAYS = [
    unescape,
    overlong,
    dots,
    lambda path: path.replace("\\", "/"),
    lambda path: re.sub("/+", "/", path),
    lambda path: re.sub(";[^/]*", "", path),
    lambda path: re.sub("[\\x00-\\x1f]", "", path),
    lambda path: path.split("?")[0].split("#")[0],
]


def readings(target):
    """All that the target may mean."""
    target = re.sub("^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", "", target)
    found, new = set(), {target.split("?")[0]}
    while new and len(found) < 5000:
        found |= new
        new = {way(path) for path in new for way in WAYS} - found
    return found


def page(target):
    is_admin = lambda path: path.startswith("/admin") or path.startswith("/public/admin")
    return "admin" if any(is_admin(path) for path in readings(target)) else "public"


class Origin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        target = self.raw_requestline.decode("latin-1").split(" ", 1)[1].rsplit(" ", 1)[0]
        if self.headers.get("upgrade"):
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\n")
            while line := self.rfile.readline():
                self.wfile.write(line)
            self.close_connection = True
            return
        if target.startswith("/hold/"):
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            while True:
                self.wfile.write(b"5\r\nline\n\r\n")
                time.sleep(0.05)
        served = {"page": page(target), "target": target, "fields": self.headers.items()}
        body = json.dumps(served).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass

    def log_message(self, *_):
        pass


class Lines(StreamRequestHandler):
    def handle(self):
        try:
            while line := self.rfile.readline():
                self.wfile.write(line)
        except OSError:
            pass


ThreadingTCPServer.allow_reuse_address = True
ThreadingTCPServer.daemon_threads = True
lines = ThreadingTCPServer(("0.0.0.0", 7000), Lines)
threading.Thread(target=lines.serve_forever, daemon=True).start()
server = ThreadingHTTPServer(("0.0.0.0", 8080), Origin)
server.daemon_threads = True
server.serve_forever()
