"""Answers slowly: GET /slow/N sends N lines, one each 50 ms; N = 0 never ends. Told to end, it finishes what is open.
GET /healthz says that it is not ready while /tmp/unready exists."""

import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            self.send_response(503 if os.path.exists("/tmp/unready") else 200)
            self.send_header("content-length", "3")
            self.end_headers()
            self.wfile.write(b"ok\n")
            return
        lines = int(self.path.rsplit("/", 1)[1])
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        sent = 0
        while lines == 0 or sent < lines:
            self.wfile.write(b"5\r\nline\n\r\n")
            self.wfile.flush()
            sent += 1
            time.sleep(0.05)
        self.wfile.write(b"0\r\n\r\n")

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = False


server = Server(("0.0.0.0", 8080), Slow)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
