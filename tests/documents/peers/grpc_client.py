"""Calls everything of `grpc_server.py` at the given target; prints `ok`, or what was wrong."""
import sys
import threading
import time

import grpc

target = sys.argv[1]
channel = grpc.insecure_channel(
    target,
    options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20), ("grpc.enable_http_proxy", 0)],
)
grpc.channel_ready_future(channel).result(timeout=10)
path = "/peers.v1.All/"
unary = channel.unary_unary(path + "Unary")
answer, call = unary.with_call(b"hello", timeout=10, metadata=(("x-sent", "value"),))
first, second, caller = answer.split(b"|")
assert (first, second) == (b"hello", b"value"), answer
assert b"spiffe://cluster.local/ns/peers/sa/client" in caller, answer
assert dict(call.initial_metadata())["x-initial"] == "yes", call.initial_metadata()
trailing = dict(call.trailing_metadata())
assert trailing["x-trailing"] == "yes" and trailing["x-bytes-bin"] == b"\0\xff", trailing
assert call.code() == grpc.StatusCode.OK

got = [int(message) for message in channel.unary_stream(path + "Many")(b"1000", timeout=10)]
assert got == list(range(1000)), got

assert channel.stream_unary(path + "Collect")(iter([b"x" * 1000] * 500), timeout=10) == b"500000"

# Both ways, one after the other: an answer comes before the next message is sent.
turn = threading.Semaphore(1)

def messages():
    for number in range(50):
        assert turn.acquire(timeout=5), "no answer"
        yield f"message {number}".encode()

heard = []
for message in channel.stream_stream(path + "Talk")(messages(), timeout=20):
    heard.append(message)
    turn.release()
assert heard == [f"MESSAGE {number}".encode() for number in range(50)], heard

for code in grpc.StatusCode:
    if code in (grpc.StatusCode.OK,):
        continue
    try:
        channel.unary_unary(path + "Fail")(f"{code.name} because: 100% ünicode".encode(), timeout=10)
        raise SystemExit(f"{code} did not fail")
    except grpc.RpcError as error:
        assert error.code() == code, (code, error)
        assert error.details() == "because: 100% ünicode", error
        assert dict(error.trailing_metadata())["x-why"] == "asked", error

try:
    channel.unary_unary(path + "NoSuchMethod")(b"", timeout=10)
    raise SystemExit("no such method did not fail")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error

started = time.monotonic()
try:
    channel.unary_unary(path + "Wait")(b"", timeout=0.5)
    raise SystemExit("the deadline did not pass")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
assert time.monotonic() - started < 3
assert channel.unary_unary(path + "WasCancelled")(b"", timeout=10) == b"yes"

call = channel.unary_unary(path + "Wait").future(b"", timeout=20)
time.sleep(0.3)
call.cancel()
assert channel.unary_unary(path + "WasCancelled")(b"", timeout=10) == b"yes"

message = bytes(range(256)) * 65536  # 16 MiB
assert channel.unary_unary(path + "Big")(message, timeout=60) == message[::-1]

# Many at once.
calls = [unary.future(str(number).encode(), timeout=20) for number in range(200)]
for number, call in enumerate(calls):
    assert call.result().startswith(str(number).encode() + b"|")
print("ok")
