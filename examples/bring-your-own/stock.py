"""A gRPC service that counts items, asking PostgreSQL. Messages are plain UTF-8, so that no code has to be generated."""
import os
import signal
from concurrent import futures

import grpc
import pg8000.native


def count(request: bytes, context: grpc.ServicerContext) -> bytes:
    database = pg8000.native.Connection("postgres", host="database", password=os.environ["DATABASE_PASSWORD"])
    try:
        rows = database.run("SELECT count FROM stock WHERE item = :item", item=request.decode())
    finally:
        database.close()
    if not rows:
        context.abort(grpc.StatusCode.NOT_FOUND, f"no item {request.decode()}")
    return str(rows[0][0]).encode()


def main() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    handler = grpc.method_handlers_generic_handler("inventory.v1.Stock", {"Count": grpc.unary_unary_rpc_method_handler(count)})
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port("0.0.0.0:50051")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(grace=3))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
