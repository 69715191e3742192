"""HTTP/1.1 by hand over plain sockets: what arrives is shown byte for byte, and answers have every shape that there is."""
import base64
import hashlib
import json
import socketserver
import time

BLOCK = 65536


class Connection(socketserver.StreamRequestHandler):
    wbufsize = 0

    def say(self, text):
        self.wfile.write(text if isinstance(text, bytes) else text.encode())

    def body(self, headers, sink):
        """Reads the body piece by piece; returns its trailers."""
        if "chunked" in headers.get("transfer-encoding", ""):
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                if size == 0:
                    break
                left = size
                while left:
                    piece = self.rfile.read(min(left, BLOCK))
                    if not piece:
                        raise ConnectionError("cut")
                    left -= len(piece)
                    sink(piece)
                self.rfile.readline()
            trailers = []
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                trailers.append(line.decode().strip())
            return trailers
        left = int(headers.get("content-length", 0))
        while left:
            piece = self.rfile.read(min(left, BLOCK))
            if not piece:
                raise ConnectionError("cut")
            left -= len(piece)
            sink(piece)
        return []

    def handle(self):
        try:
            while self.exchange():
                pass
        except (ConnectionError, OSError, ValueError):
            pass

    def exchange(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return False
            head += line
        lines = head.decode("latin-1").split("\r\n")
        method, target, version = lines[0].split(" ")
        headers = {}
        for line in lines[1:]:
            if line:
                name, _, value = line.partition(":")
                headers.setdefault(name.lower(), value.strip())
        path = target.split("?")[0]
        query = dict(pair.partition("=")[::2] for pair in target.partition("?")[2].split("&") if pair)
        if path == "/ws":
            key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.say(f"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n")
            # From here on bytes are echoed as they come, until the other side ends.
            while piece := self.connection.recv(BLOCK):
                self.connection.sendall(piece)
            return False
        if path == "/early":
            # Says no before the body, and does not read it.
            self.say("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n")
            return False
        if path == "/cut":
            self.say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly this")
            return False
        if path == "/hints":
            self.say("HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")
        if "100-continue" in headers.get("expect", ""):
            if path == "/refuse":
                self.say("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                return False
            time.sleep(0.2)
            self.say("HTTP/1.1 100 Continue\r\n\r\n")
        if path == "/echo-chunks":
            # Answers while it reads: each piece comes back before the next is sent.
            self.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n")
            digest = hashlib.sha256()

            def back(piece):
                digest.update(piece)
                self.say(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")

            trailers = self.body(headers, back)
            self.say(f"0\r\nx-sum: {digest.hexdigest()}\r\nx-got: {' '.join(trailers)}\r\n\r\n")
            return True
        digest, count = hashlib.sha256(), 0

        def take(piece):
            nonlocal count
            digest.update(piece)
            count += len(piece)

        trailers = self.body(headers, take)
        if path == "/bytes":
            number = int(query["n"])
            self.say(f"HTTP/1.1 200 OK\r\ncontent-length: {number}\r\n\r\n")
            block = bytes(range(256)) * 256
            while number and method != "HEAD":
                piece = block[:number]
                self.say(piece)
                number -= len(piece)
            return True
        if path == "/until-close":
            self.say("HTTP/1.1 200 OK\r\n\r\n")
            for number in range(10):
                self.say(f"line {number}\n")
            return False
        if path == "/no-content":
            self.say("HTTP/1.1 204 No Content\r\n\r\n")
            return True
        if path == "/not-modified":
            self.say('HTTP/1.1 304 Not Modified\r\netag: "x"\r\ncontent-length: 500\r\n\r\n')
            return True
        if path == "/large-head":
            self.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + "".join(f"x-large-{number}: {'v' * 1000}\r\n" for number in range(30)) + "\r\n")
            return True
        if path == "/slow":
            self.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(4):
                self.say(f"7\r\nevent {number}\r\n")
                time.sleep(0.5)
            self.say("0\r\n\r\n")
            return True
        text = json.dumps({
            "method": method, "target": target, "version": version, "head": lines[1:], "trailers": trailers,
            "bytes": count, "sha256": digest.hexdigest(),
        })
        self.say(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\n")
        if method != "HEAD":
            self.say(text)
        return headers.get("connection", "").lower() != "close"


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


Server(("0.0.0.0", 8080), Connection).serve_forever()
