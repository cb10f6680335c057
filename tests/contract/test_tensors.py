"""Tensors of torch, where that is installed: they arrive as they were, and writable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.conftest import SharePool

torch: Any = pytest.importorskip("torch")

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Bench:
    def echo(self, value: Any) -> Any:
        return value

    def add(self, tensor: Any) -> Any:
        tensor += 1
        return tensor

    def twice(self, tensor: Any) -> Iterator[Any]:
        yield tensor
        tensor += 1
        yield tensor


@pytest.mark.parametrize("length", [3, 100_000, 6_000_000])
@pytest.mark.parametrize("writable", [False, True])
async def test_a_tensor_arrives_as_it_was_and_writable(share_pool: SharePool, length: int, writable: bool) -> None:
    async with share_pool(Bench, size=1, writable=writable) as pool:
        for dtype in (torch.float32, torch.bfloat16, torch.bool):
            sent = torch.ones(length, dtype=dtype)
            came = await pool.run(Bench.echo, {"tensor": sent})
            assert came["tensor"].dtype is dtype
            assert torch.equal(came["tensor"], sent)
        sent = torch.ones(length)
        came = await pool.run(Bench.add, sent)
        came += 1
        assert float(came.sum()) == 3 * length
        assert float(sent.sum()) == length
        assert [float(item[0]) async for item in pool.stream(Bench.twice, sent)] == [1, 2]


async def test_a_part_of_a_large_tensor_arrives_alone(share_pool: SharePool) -> None:
    async with share_pool(Bench, size=1) as pool:
        whole = torch.arange(6_000_000).reshape(1000, 6000)
        for part in (whole[7], whole[:, 7], whole[3:5, ::2], whole.T[:5]):
            came = await pool.run(Bench.echo, part)
            assert torch.equal(came, part)
            assert came.untyped_storage().nbytes() == part.numel() * 8
