"""What an application tries. Reads attempts as one JSON list on its command line, prints one JSON line for each: what it got,
or `refused ERRNO`. Needs nothing but Python."""
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
PATIENCE = 2


def call(name, *arguments):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return "done"


def syscall(number, *arguments):
    return call("syscall", ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))


def own():
    """This pod's address."""
    return socket.gethostbyname(socket.gethostname())


def connect(address, port, say="GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", family="4", source=None, mptcp=False, fast=False, device=None):
    """Connects, says something, and returns the first line of the answer; `closed` when there is none."""
    kind = socket.AF_INET6 if family == "6" else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM, 262 if mptcp else 0) as stream:
        stream.settimeout(PATIENCE)
        address = own() if address == "own" else address
        if device:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if source:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stream.bind(tuple(source))
        if fast:
            stream.sendto(say.encode(), 0x20000000, (address, port))
        else:
            stream.connect((address, port))
            stream.sendall(say.encode())
        answer = stream.recv(65536)
        return answer.split(b"\r\n")[0].decode("latin-1") if answer else "closed"


def udp(address, port, source=None, family="4", protocol=0, device=None):
    with socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET, socket.SOCK_DGRAM, protocol) as datagram:
        if device:
            datagram.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if source:
            datagram.bind(tuple(source))
        datagram.sendto(b"x", (address, port))
        return "sent"


def dns(name, kind="A", server="10.66.0.53", tcp=False, port=53):
    """Asks one question; returns the answer's code and its data."""
    kinds = {"A": 1, "CNAME": 5, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "ANY": 255}
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    question = struct.pack(">HHHHHH", 4242, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kinds[kind], 1)
    if tcp:
        with socket.create_connection((server, port), PATIENCE) as stream:
            stream.sendall(struct.pack(">H", len(question)) + question)
            file = stream.makefile("rb")
            answer = file.read(struct.unpack(">H", file.read(2))[0])
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            datagram.settimeout(PATIENCE)
            datagram.connect((server, port))
            datagram.send(question)
            answer = datagram.recv(4096)
    number, flags, questions, answers = struct.unpack(">HHHH", answer[:8])
    assert number == 4242, answer
    code = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"][flags & 15]
    at = 12
    def skip(at):
        while answer[at]:
            if answer[at] >= 192:
                return at + 2
            at += answer[at] + 1
        return at + 1
    for _ in range(questions):
        at = skip(at) + 4
    data = []
    for _ in range(answers):
        at = skip(at)
        kind, _, _, length = struct.unpack(">HHIH", answer[at:at + 10])
        at += 10
        if kind == 1:
            data.append(socket.inet_ntoa(answer[at:at + 4]))
        elif kind == 28:
            data.append(socket.inet_ntop(socket.AF_INET6, answer[at:at + 16]))
        else:
            data.append(f"type {kind}")
        at += length
    return " ".join([code, *sorted(data)])


def resolve(name):
    return " ".join(sorted({entry[4][0] for entry in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)}))


def make(family, kind, protocol=0):
    socket.socket(family, kind, protocol).close()
    return "made"


def option(level, name, value, kind="i"):
    with socket.socket() as stream:
        stream.setsockopt(level, name, struct.pack("i", value) if kind == "i" else value.encode())
    return "set"


def bind(address, port, reuse=False, family="4"):
    kind = socket.AF_INET6 if family == "6" else socket.AF_INET
    with socket.socket(kind) as listener:
        if reuse:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((address, port))
        listener.listen()
    return "bound"


def loopback(address, family="4"):
    with socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET) as listener:
        listener.bind((address, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2], PATIENCE) as stream:
            stream.sendall(b"x")
            return listener.accept()[0].recv(1).decode()


def unix(path):
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(PATIENCE)
        stream.connect("\0" + path[1:] if path.startswith("@") else path)
    return "connected"


def setns(path, kind=0):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return call("setns", descriptor, kind)
    finally:
        os.close(descriptor)


def clone(flags):
    ctypes.set_errno(0)
    child = libc.syscall(ctypes.c_long(56), ctypes.c_long(flags | signal.SIGCHLD), 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone")
    os.waitpid(child, 0)
    return "made"


def ptrace(process):
    """Attaches without stopping it."""
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    call("ptrace", 0x4206, process, 0, 0)
    return "attached"


def old_call(number, argument):
    """A call by the 32-bit way into the kernel, which a filter that looks at numbers alone would misread."""
    import mmap
    code = bytes.fromhex("53b8") + struct.pack("<I", number) + b"\xbb" + struct.pack("<I", argument) + bytes.fromhex("cd805bc3")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    child = os.fork()
    if child == 0:
        result = function()
        os._exit(min(-result, 255) if result < 0 else 0)
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended):
        return "killed"
    code = os.waitstatus_to_exitcode(ended)
    if code:
        raise OSError(code, "call")
    return "done"


def memory(process):
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(8)
    here, there = Vector(ctypes.addressof(buffer), 8), Vector(1, 8)
    return call("process_vm_readv", process, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)


def kill(process, number=0):
    os.kill(process, number)
    return "sent"


def read(path):
    with open(path, "rb") as file:
        return file.read(200).decode("latin-1")


def write(path):
    with open(path, "ab") as file:
        file.write(b"x")
    return "written"


def listing(path):
    return " ".join(sorted(os.listdir(path)))


def processes():
    return " ".join(sorted(name for name in os.listdir("/proc") if name.isdigit()))


def mount(source, target, kind, flags=0):
    return call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)


def symlink_write(link, target):
    os.symlink(target, link)
    return write(link)


def interface_up():
    """Asks routing netlink for a new dummy interface."""
    name = b"dummy9\0"
    attribute = struct.pack("HH", 4 + len(name), 3) + name + b"\0"
    kind = struct.pack("HH", 4 + 6, 1) + b"dummy\0" + b"\0\0"
    info = struct.pack("HH", 4 + len(kind), 18) + kind
    body = struct.pack("BBHiII", 0, 0, 0, 0, 0, 0) + attribute + info
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(struct.pack("IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)
        answer = netlink.recv(4096)
        code = -struct.unpack("i", answer[16:20])[0]
        if code:
            raise OSError(code, "new link")
        return "made"


def descriptors():
    """What was left open, besides the three."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if int(name) > 2 and not target.endswith("/fd"):
            found.append(target)
    return " ".join(found)


def status(field):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return " ".join(line.split()[1:])
    return ""


def environment(name):
    return os.environ.get(name, "")


for attempt in json.loads(sys.argv[1]):
    name, *arguments = attempt
    keywords = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
    try:
        outcome = globals()[name](*arguments, **keywords)
    except OSError as error:
        code = errno.errorcode.get(error.errno, str(error.errno)) if error.errno else type(error).__name__
        outcome = f"refused {code if not isinstance(error, socket.gaierror) else error.strerror}"
    print(json.dumps(outcome), flush=True)
