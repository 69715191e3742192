"""An HTTP/1.1 server that says what it saw: `server.py ADDRESS PORT`."""
import http.server
import json
import pathlib
import socket
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ready = True

    def do_GET(self):
        status, body = 200, {}
        if self.path == "/ready":
            status = 200 if Handler.ready and self.headers.get("x-probe", "readiness") == "readiness" else 503
        elif self.path.startswith("/be-ready/"):
            Handler.ready = self.path.endswith("yes")
        else:
            body = {
                "host": socket.gethostname(),
                "path": self.path,
                "caller": self.client_address[0],
                "headers": {name.lower(): value for name, value in self.headers.items()},
            }
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server((sys.argv[1], int(sys.argv[2])), Handler)
pathlib.Path("/tmp/listening").touch()
print("listening", flush=True)
server.serve_forever()
