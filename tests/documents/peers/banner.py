"""Servers that speak first, and wait to be spoken to never: 2525 declared, 2626 not."""
import asyncio


async def serve(reader, writer):
    writer.write(b"220 banner ready\r\n")
    try:
        while line := await reader.readline():
            if line.strip() == b"QUIT":
                writer.write(b"221 bye\r\n")
                break
            writer.write(b"250 " + line.strip().upper() + b"\r\n")
            await writer.drain()
        # After the client's end: what is left to say can be said.
        writer.write(b"end\r\n")
        await writer.drain()
    finally:
        writer.close()


async def main():
    servers = [await asyncio.start_server(serve, "0.0.0.0", port) for port in (2525, 2626)]
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
