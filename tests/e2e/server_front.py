"""An upstream's server process, to be killed: it holds the port and passes bytes on both ways.

``server_front.py PORT UPSTREAM_PORT [MARK]``: after MARK, in an answer, nothing more goes down. Prints a line once
it listens. What answers stands behind it and remembers, so that a restart forgets nothing that the test wants to know.
"""

from __future__ import annotations

import asyncio
import sys


async def main(port: int, upstream_port: int, mark: bytes) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", upstream_port)
        await asyncio.gather(passed(reader, upstream_writer, b""), passed(upstream_reader, writer, mark))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    print("listens", flush=True)
    await server.serve_forever()


async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mark: bytes) -> None:
    seen = b""
    while data := await reader.read(65536):
        before = len(seen)
        seen += data
        at = seen.find(mark) if mark else -1
        if at >= 0:
            data = data[: at + len(mark) - before]
        writer.write(data)
        await writer.drain()
        if at >= 0:
            await asyncio.Event().wait()
    writer.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), "".join(sys.argv[3:]).encode()))
