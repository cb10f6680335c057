"""TLS 1.3 with certificates on both sides, for whoever was given an identity: it takes Python's own `ssl` alone."""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from poise._protocol.descriptors import keep_from_children

if TYPE_CHECKING:
    from collections.abc import Generator


class Identity(NamedTuple):
    """What one side needs to show who it is and to know the other, in PEM."""

    authority: bytes
    certificate: bytes
    key: bytes


def tls_context(identity: Identity, *, is_server: bool) -> ssl.SSLContext:
    """A context that speaks TLS 1.3 only, shows this identity, and requires one of the same pool's from the peer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=identity.authority.decode())
    if is_server:
        context.num_tickets = 0  # connections are made once: no tickets to resume them with
    with _secret_file(identity.certificate + identity.key) as path:
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def _secret_file(content: bytes) -> Generator[str]:
    """The path of a file for the ssl module, which reads keys from files only."""
    if hasattr(os, "memfd_create"):  # in memory alone: a process that is killed just now leaves no key behind
        with open(os.memfd_create("poise"), "wb") as file:
            keep_from_children(file)
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.TemporaryDirectory(prefix="poise-") as directory:  # which nobody else can enter
        path = os.path.join(directory, "identity.pem")
        with open(path, "wb", opener=_private) as file:
            file.write(content)
        yield path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
