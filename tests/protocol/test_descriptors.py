"""A forked child finds nothing behind the descriptors of its parent's connections."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In processes of their own: this one has threads, and Python warns of forking then.

WORKER = """
import os, socket, sys, threading
from poise._protocol.descriptors import keep_from_children
from poise._worker.connections import PlainConnection

caller, worker = socket.socketpair()
keep_from_children(worker)
connection = PlainConnection(worker)
end, child_has_tried = os.pipe()
pid = os.fork()
if not pid:
    caller.close()
    try:
        connection.send([memoryview(b"words of the child's")])
    except OSError:
        os.write(child_has_tried, b"refused")
    connection.close()
    connection.send  # still there, and of no use
    os.write(child_has_tried, b".")
    threading.Event().wait()
said = b""
while not said.endswith(b"."):
    said += os.read(end, 100)
assert said == b"refused.", said
connection.send([memoryview(b"words of its own")])
assert caller.recv(100) == b"words of its own"
worker.close()
assert caller.recv(100) == b""
os.kill(pid, 9)
os.waitpid(pid, 0)
"""

CALLER = """
import asyncio, os, socket, sys, threading
from poise._lanes.caller_link import CallerLink

class Owner:
    def hear(self, frames): ...
    def flush(self): ...
    def unlink(self, link, error): ...

def open_link():
    async def connect():
        await loop.create_unix_connection(lambda: link, sock=mine)
    link = CallerLink(Owner())
    loop.run_until_complete(connect())
    return link

if sys.argv[1] == "uvloop":
    import uvloop
    loop = uvloop.new_event_loop()
else:
    loop = asyncio.new_event_loop()
worker, mine = socket.socketpair()
mine.setblocking(False)
link = open_link()
pid = os.fork()
if not pid:
    worker.close()
    threading.Event().wait()
async def close():
    link.transport.abort()
    await asyncio.sleep(0.01)
loop.run_until_complete(close())
assert worker.recv(100) == b""
os.kill(pid, 9)
os.waitpid(pid, 0)
loop.close()
"""


def test_the_child_of_a_worker_cannot_speak_to_the_caller_nor_keep_the_connection_open() -> None:
    subprocess.run([sys.executable, "-c", WORKER], check=True, timeout=60)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_child_of_a_caller_does_not_keep_its_connections_open(loop: str) -> None:
    subprocess.run([sys.executable, "-c", CALLER, loop], check=True, timeout=60)
