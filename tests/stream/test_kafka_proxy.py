"""The proxy that the network tests stand on: it delays, holds, resets, and changes no byte."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.stream.kafka_proxy import Proxy

DELAY = 0.05  # s, one way


def echo(listener: socket.socket) -> None:
    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    with suppress(OSError):
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    proxy = Proxy(DELAY)
    proxy.upstream = f"127.0.0.1:{listener.getsockname()[1]}"
    yield proxy
    proxy.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    host, port = proxy.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10.0) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        yield client


def test_a_round_trip_takes_two_delays_and_changes_nothing(client: socket.socket) -> None:
    sent = bytes(range(256)) * 8000
    begin = time.monotonic()
    threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
    got = b""
    while len(got) < len(sent):
        got += client.recv(1 << 16)
    assert got == sent
    assert 2 * DELAY <= time.monotonic() - begin < 2 * DELAY + 2.0


def test_a_cut_cable_holds_everything_back(proxy: Proxy, client: socket.socket) -> None:
    proxy.block()
    client.sendall(b"held")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(100)
    proxy.unblock()
    client.settimeout(10.0)
    assert client.recv(100) == b"held"


def test_a_reset_ends_the_connections_and_new_ones_are_made(proxy: Proxy, client: socket.socket) -> None:
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    host, port = proxy.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10.0) as again:
        again.sendall(b"again")
        assert again.recv(100) == b"again"
    assert proxy.connections == 2
