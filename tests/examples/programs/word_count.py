"""Count the words of files that are named from where the program has gone; its options are a global."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

TEXT = "the quick brown fox jumps over the lazy dog and the cat"

options = argparse.Namespace(shortest=1)


def count(name: str) -> Counter[str]:
    with open(name) as file:
        return Counter(word for word in file.read().split() if len(word) >= options.shortest)


def keep(name: str, total: int) -> str:
    target = Path("counts") / f"{name}.count"
    target.write_text(f"{total} for {os.environ['REPORT_FOR']}\n")
    return str(target)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shortest", type=int, default=4)
    parser.parse_args(["--shortest", "4"], namespace=options)
    os.environ["REPORT_FOR"] = "the whole house"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("counts").mkdir()
        names = [f"part-{number}.txt" for number in range(6)]
        for number, name in enumerate(names):
            Path(name).write_text(" ".join(TEXT.split()[number:] * (number + 1)))
        total: Counter[str] = Counter()
        with ProcessPoolExecutor(2) as executor:
            for each in executor.map(count, names, chunksize=2):
                total.update(each)
            print(sorted(total.items()))
            for target in executor.map(keep, names, [total["quick"]] * len(names)):
                print(target, Path(target).read_text().strip())
        os.chdir("/")


if __name__ == "__main__":
    main()
