"""No stranger gets a byte into a worker (G11)."""

import contextlib
import logging
import os
import queue
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from poise._protocol.certificates import Authority
from poise._protocol.peer import CALLER, peer_uid
from poise._protocol.tls import tls_context
from poise._worker import entrance
from poise._worker.connections import Connection
from poise._worker.entrance import open_tls, open_unix

TIMEOUT = 30.0


class Hall:
    """Where those who were let in arrive."""

    def __init__(self) -> None:
        self.arrived: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self.let_in: list[Connection] = []

    def welcome(self, connection: Connection) -> None:
        self.arrived.put(connection)

    def next(self) -> Connection:
        connection = self.arrived.get(timeout=TIMEOUT)
        self.let_in.append(connection)
        return connection


@pytest.fixture
def hall() -> Iterator[Hall]:
    hall = Hall()
    yield hall
    for connection in hall.let_in:
        connection.close()
    for thread in threading.enumerate():
        if thread.name in ("poise-express", "poise-entrance"):
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def read(connection: Connection) -> bytes:
    buffer = bytearray(100)
    return bytes(buffer[: connection.receive_into(memoryview(buffer))])


def test_on_one_node_the_caller_is_let_in_and_heard(hall: Hall, tmp_path: Path) -> None:
    path = str(tmp_path / "worker")
    open_unix(path, hall.welcome)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)
        connection = hall.next()
        assert peer_uid(caller) == os.geteuid()
        caller.sendall(b"hello")
        assert read(connection) == b"hello"
        connection.send([memoryview(b"good"), memoryview(b""), memoryview(b" day")])
        assert caller.recv(8, socket.MSG_WAITALL) == b"good day"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_is_turned_away_by_the_kernels_word(hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory(prefix="poise-") as directory:
        _keep_out_another_user(Path(directory), hall, caplog)


def _keep_out_another_user(directory: Path, hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    path = str(directory / "worker")
    open_unix(path, hall.welcome)
    assert directory.stat().st_mode & 0o777 == 0o700
    knock = f"""
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as stranger:
    try:
        stranger.connect({path!r})
    except PermissionError:
        sys.exit(13)
    stranger.sendall(b"let me in")
    sys.exit(0 if stranger.recv(1) == b"" else 1)
"""
    assert subprocess.run([sys.executable, "-c", knock], timeout=TIMEOUT, check=False).returncode == 13
    directory.chmod(0o711)  # as if the directory did not protect it
    os.chmod(path, 0o777)
    with caplog.at_level(logging.WARNING, "poise"):
        outcome = subprocess.run([sys.executable, "-c", knock], timeout=TIMEOUT, check=False, capture_output=True)
        assert outcome.returncode == 0 or re.search(rb"ConnectionReset|BrokenPipe", outcome.stderr)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(path)
            caller.sendall(b"mine")
            assert read(hall.next()) == b"mine"
    assert "user 65534 tried to connect" in caplog.text


@pytest.fixture
def authority() -> Authority:
    return Authority()


def listen(authority: Authority, hall: Hall) -> int:
    return open_tls("127.0.0.1", tls_context(authority.issue("worker.test"), is_server=True), 5.0, hall.welcome)


def connect(authority: Authority, port: int, name: str = "worker.test", *, own_name: str = CALLER) -> ssl.SSLSocket:
    context = tls_context(authority.issue(own_name), is_server=False)
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), TIMEOUT), server_hostname=name)


def test_between_nodes_a_caller_of_the_same_pool_is_let_in_with_tls_1_3(authority: Authority, hall: Hall) -> None:
    with connect(authority, listen(authority, hall)) as caller:
        connection = hall.next()
        assert caller.version() == "TLSv1.3"
        caller.sendall(b"hello")
        assert read(connection) == b"hello"
        data = os.urandom(3_000_000)
        sender = threading.Thread(target=connection.send, args=([memoryview(data), memoryview(b"end")],))
        sender.start()
        received = b""
        while len(received) < len(data) + 3:
            received += caller.recv(100_000)
        sender.join(TIMEOUT)
        assert received == data + b"end"


def _without_a_certificate(port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), TIMEOUT)) as stranger:
        stranger.sendall(b"payload")
        stranger.recv(100)


def _with_another_pools_certificate(port: int) -> None:
    other = Authority()
    context = tls_context(other.issue(CALLER), is_server=False)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), TIMEOUT)) as stranger:
        stranger.sendall(b"payload")
        stranger.recv(100)


def _with_garbage(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as stranger:
        stranger.sendall(b"P1" + os.urandom(5000))
        while stranger.recv(1000):
            pass


def _with_an_old_tls(port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.wrap_socket(socket.create_connection(("127.0.0.1", port), TIMEOUT)).close()


@pytest.mark.parametrize(
    "stranger", [_without_a_certificate, _with_another_pools_certificate, _with_garbage, _with_an_old_tls]
)
def test_a_stranger_gets_an_error_and_a_line_in_the_log_and_the_caller_still_gets_in(
    authority: Authority, hall: Hall, caplog: pytest.LogCaptureFixture, stranger: object
) -> None:
    port = listen(authority, hall)
    assert callable(stranger)
    with caplog.at_level(logging.WARNING, "poise"):
        with contextlib.suppress(OSError):  # of which SSLError is one: what the stranger sees depends on its TLS
            stranger(port)
        with connect(authority, port) as caller:
            caller.sendall(b"mine")
            assert read(hall.next()) == b"mine"
    assert "was turned away" in caplog.text
    assert hall.arrived.empty()


def test_a_worker_of_another_pool_is_not_taken_for_ours(authority: Authority, hall: Hall) -> None:
    another = Authority()
    port = listen(another, hall)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(authority, port)
    with connect(another, port):
        hall.next()


def test_a_worker_with_another_name_is_not_taken_for_the_one_meant(authority: Authority, hall: Hall) -> None:
    port = listen(authority, hall)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(authority, port, "worker-2.test")
    with connect(authority, port):
        hall.next()


def test_a_silent_stranger_does_not_keep_the_caller_waiting(
    authority: Authority, hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "HANDSHAKE_TIMEOUT", 0.5)
    port = listen(authority, hall)
    with socket.create_connection(("127.0.0.1", port), TIMEOUT), connect(authority, port) as caller:
        caller.sendall(b"mine")
        assert read(hall.next()) == b"mine"


def test_nobody_is_let_in_after_the_caller(authority: Authority, hall: Hall) -> None:
    port = listen(authority, hall)
    with connect(authority, port):
        hall.next()
        for thread in threading.enumerate():
            if thread.name == "poise-entrance":
                thread.join(TIMEOUT)
        with pytest.raises(OSError):  # noqa: PT011 (refused or reset)
            connect(authority, port)


def test_another_worker_of_the_pool_is_not_taken_for_the_caller(
    authority: Authority, hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    port = listen(authority, hall)
    with caplog.at_level(logging.WARNING, "poise"):
        with connect(authority, port, own_name="worker-2.poise.invalid") as other:
            other.sendall(b"mine")
            with contextlib.suppress(OSError):
                assert other.recv(1) == b""
        with connect(authority, port) as caller:
            caller.sendall(b"mine too")
            assert read(hall.next()) == b"mine too"
    assert "its certificate is that of worker-2.poise.invalid" in caplog.text


def test_the_caller_gets_in_past_any_number_of_strangers_who_say_nothing(authority: Authority, hall: Hall) -> None:
    port = listen(authority, hall)
    with contextlib.ExitStack() as strangers:
        for _ in range(3 * entrance.HANDSHAKES):
            strangers.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))
        caller = strangers.enter_context(connect(authority, port))
        caller.sendall(b"mine")
        assert read(hall.next()) == b"mine"
        for thread in threading.enumerate():  # the caller is in: nobody else is listened to
            if thread.name == "poise-entrance":
                thread.join(TIMEOUT)


def test_a_stranger_who_says_a_little_now_and_then_has_no_more_time_for_it(
    authority: Authority, hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "HANDSHAKE_TIMEOUT", 1.0)
    port = listen(authority, hall)
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as stranger:
        stranger.settimeout(0.3)
        assert is_turned_away(stranger, record_of_a_client_hello())
    with connect(authority, port):
        hall.next()


def is_turned_away(stranger: socket.socket, words: bytes) -> bool:
    """Say a byte now and then, for more than a minute if it is let."""
    for byte in words:
        try:
            stranger.sendall(bytes([byte]))
            if not stranger.recv(1):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def record_of_a_client_hello() -> bytes:
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="worker.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
