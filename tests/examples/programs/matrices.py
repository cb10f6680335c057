"""Arrays go to the processes in blocks, are changed in place there, and the results are changed in place here."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def normalised(block: Array) -> Array:
    block -= block.mean(axis=0)
    block /= block.std(axis=0)
    return block


def product(left: Array, right: Array) -> Array:
    return left @ right


def spectrum(seed: int) -> tuple[float, Array]:
    matrix = np.random.default_rng(seed).normal(size=(20, 20))
    values: Array = np.linalg.eigvalsh(matrix + matrix.T).astype(np.float64)
    return float(values.max()), values


def main() -> None:
    data = np.random.default_rng(0).normal(3, 2, size=(40_000, 8))
    before = data.copy()
    with ProcessPoolExecutor(2) as executor:
        blocks = list(executor.map(normalised, np.array_split(data, 4)))
        print([block.shape for block in blocks], bool((data == before).all()))
        for block in blocks:
            np.multiply(block, 2, out=block)
            block.sort(axis=0)
        print(f"{abs(np.concatenate(blocks).mean()):.6f} {np.concatenate(blocks).std():.4f}")
        small = list(executor.map(product, [np.eye(3)] * 2, [np.ones((3, 3)), np.full((3, 3), 2.0)]))
        small[0][0, 0] = 7
        print(small[0].sum(), small[1].sum())
        for largest, values in executor.map(spectrum, range(3)):
            values[0] = 0
            print(f"{largest:.6f} {values[1:].sum():.6f}")


if __name__ == "__main__":
    main()
