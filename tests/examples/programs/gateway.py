"""An event loop that leaves the heavy part to processes by `run_in_executor`, and threads with pools of their own."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor


def digest(text: str, *, rounds: int = 1) -> str:
    data = text.encode()
    for _ in range(rounds):
        data = hashlib.sha256(data).digest()
    return data.hex()[:8]


def fail(text: str) -> str:
    raise PermissionError(text)


def home() -> int:
    return os.getpid()


async def serve(executor: ProcessPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    print(await asyncio.gather(*(loop.run_in_executor(executor, digest, f"page {n}") for n in range(6))))
    print(await loop.run_in_executor(executor, functools.partial(digest, "deep", rounds=50)))
    outcomes = await asyncio.gather(
        *(loop.run_in_executor(executor, each, "x") for each in (digest, fail)), return_exceptions=True
    )
    print([repr(outcome) for outcome in outcomes])
    try:
        await asyncio.wait_for(loop.run_in_executor(executor, time.sleep, 0.8), timeout=0.2)
    except TimeoutError:
        print("gave up")
    print(await asyncio.to_thread(in_a_thread, 7))
    print(await asyncio.wrap_future(executor.submit(home)) != os.getpid())


def in_a_thread(number: int) -> tuple[str, bool]:
    with ProcessPoolExecutor(1) as executor:
        return executor.submit(digest, str(number)).result(), threading.current_thread() is threading.main_thread()


def main() -> None:
    with ProcessPoolExecutor(max_workers=1) as executor:
        asyncio.run(serve(executor))


if __name__ == "__main__":
    main()
