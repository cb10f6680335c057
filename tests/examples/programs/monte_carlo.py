"""Estimate pi by chance; an initializer leaves in globals what each process needs."""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor

generator: random.Random | None = None
table: dict[int, float] = {}
runs = 0


def prepare(scale: float, size: int) -> None:
    global generator
    generator = random.Random(1)
    table.update({number: number * scale for number in range(size)})


def estimate(seed: int, samples: int) -> float:
    global runs
    runs += 1
    assert generator is not None
    generator.seed(seed)
    inside = sum(generator.random() ** 2 + generator.random() ** 2 <= 1 for _ in range(samples))
    return 4 * inside / samples


def look_up(number: int) -> float:
    return table[number]


def count_of_runs() -> int:
    return runs


def main() -> None:
    with ProcessPoolExecutor(max_workers=1, initializer=prepare, initargs=(0.5, 10)) as executor:
        futures = [executor.submit(estimate, seed, samples=2000) for seed in range(10)]
        estimates = [future.result() for future in futures]
        print(f"pi is about {sum(estimates) / len(estimates):.4f}")
        print([executor.submit(look_up, number).result() for number in range(5)])
        print("runs:", executor.submit(count_of_runs).result(), "here:", runs, generator, table)


if __name__ == "__main__":
    main()
