"""Every kind of gRPC call; messages are plain UTF-8, so that no code has to be generated."""
import signal
import threading
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", "yes"),))
    context.set_trailing_metadata((("x-trailing", "yes"), ("x-bytes-bin", b"\0\xff")))
    caller = metadata.get("x-forwarded-client-cert", "")
    return b"|".join([request, metadata.get("x-sent", "").encode(), caller.encode()])


def many(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def collect(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def talk(requests, context):
    for request in requests:
        yield request.upper()


def fail(request, context):
    code, _, details = request.decode().partition(" ")
    context.set_trailing_metadata((("x-why", "asked"),))
    context.abort(grpc.StatusCode[code], details)


def wait(request, context):
    cancelled.clear()
    ended = threading.Event()
    context.add_callback(lambda: (cancelled.set(), ended.set()))
    ended.wait(20)
    return b"late"


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(5) else b"no"


def big(request, context):
    return request[::-1]


server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=16),
    options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)],
)
server.add_generic_rpc_handlers((
    grpc.method_handlers_generic_handler("peers.v1.All", {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
        "Big": grpc.unary_unary_rpc_method_handler(big),
    }),
    # grpc.health.v1: SERVING.
    grpc.method_handlers_generic_handler("grpc.health.v1.Health", {
        "Check": grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01"),
    }),
))
server.add_insecure_port("0.0.0.0:50051")
server.start()
signal.signal(signal.SIGTERM, lambda *_: server.stop(grace=1))
server.wait_for_termination()
