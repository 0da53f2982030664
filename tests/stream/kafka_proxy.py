"""A bad network on one machine: a TCP proxy that delays, stops forwarding, and resets connections."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_CHUNK = 1 << 16  # bytes
_WINDOW = 512  # chunks on their way in one direction of a connection


class Proxy:
    """Forwards connections at `address` to `upstream`; every byte arrives `delay` seconds late, in both directions."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.upstream = ""
        """host:port, to be set before the first connection."""
        self.connections = 0
        """Made so far."""
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._sockets: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._await(asyncio.start_server(self._serve, sock=self._listener))

    @property
    def address(self) -> str:
        """host:port at which it listens."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def block(self) -> None:
        """Let nothing through any more, as a cut cable: connections stay, and so do the bytes on their way."""
        self._call(self._open.clear)

    def unblock(self) -> None:
        """Let everything go on where it stopped."""
        self._call(self._open.set)

    def reset(self) -> None:
        """End all connections with a TCP reset; the bytes on their way are lost."""
        self._call(self._reset)

    def close(self) -> None:
        """End everything."""
        self._await(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    def _call(self, function: Callable[[], object]) -> None:
        async def called() -> None:
            function()

        self._await(called())

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _close(self) -> None:
        self._server.close()
        self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reset(self) -> None:
        for writer in self._sockets:
            raw = writer.get_extra_info("socket")
            if raw is not None:
                with suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        with suppress(OSError, asyncio.CancelledError), self._kept(writer):
            await self._pass()
            host, port = self.upstream.rsplit(":", 1)
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            with self._kept(far_writer):
                await _first_of(self._carry(reader, far_writer), self._carry(far_reader, writer))
        self._tasks.discard(task)

    @contextmanager
    def _kept(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._sockets.add(writer)
        try:
            yield
        finally:
            self._sockets.discard(writer)
            writer.transport.abort()

    async def _pass(self) -> None:
        """Wait for what one way through takes."""
        await self._open.wait()
        await asyncio.sleep(self.delay)
        await self._open.wait()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes one way until the end of the stream, each chunk `delay` after it came."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WINDOW)

        async def collect() -> None:
            while chunk := await reader.read(_CHUNK):
                await line.put((self._loop.time() + self.delay, chunk))
            await line.join()

        async def deliver() -> None:
            while True:
                due, chunk = await line.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await self._open.wait()
                writer.write(chunk)
                await writer.drain()
                line.task_done()

        await _first_of(collect(), deliver())


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Wait until one ends, well or not, and end the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
