"""Tensors of torch travel as arrays do; those that are more than their numbers go torch's own way."""

from __future__ import annotations

import copyreg
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from poise._protocol.codec import pack, pack_arguments, unpack, unpack_arguments
from poise._protocol.payloads import Payload, detach, nbytes
from poise._protocol.pickling import pack_in_band

if TYPE_CHECKING:
    from collections.abc import Callable

torch: Any = pytest.importorskip("torch")


def copied(value: Any, *, writable: bool = False) -> Any:
    """The value as it arrives over a socket."""
    packed = pack(value)
    if isinstance(packed, Payload):
        packed = packed._replace(buffers=[bytearray(pickle.PickleBuffer(each).raw()) for each in packed.buffers])
    return unpack(packed, writable=writable)


def is_same(one: Any, other: Any) -> bool:
    return bool(
        type(one) is type(other) and one.dtype is other.dtype and one.shape == other.shape and torch.equal(one, other)
    )


DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int8", "uint8", "bool", "complex64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (200, 300), (0,), (0, 3), (2, 1, 3)])
def test_a_tensor_travels_outside_the_pickle(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape).to(getattr(torch, dtype))
    packed = pack({"t": tensor})
    assert isinstance(packed, Payload)
    assert len(packed.data) < 300
    assert nbytes(packed) < tensor.numel() * tensor.element_size() + 300
    arrived = copied(tensor)
    assert is_same(arrived, tensor)
    assert arrived.stride() == tensor.stride()


def test_a_number_alone_is_one_too() -> None:
    assert is_same(copied(torch.tensor(3.5)), torch.tensor(3.5))


@pytest.mark.parametrize("length", [10, 1_000_000])
@pytest.mark.parametrize("writable", [False, True])
def test_it_arrives_writable_and_shares_nothing(length: int, writable: bool) -> None:
    tensor = torch.ones(length)
    for arrived in (copied(tensor, writable=writable), unpack(pack(tensor), writable=writable)):
        arrived[0] = 2
        assert float(arrived.sum()) == length + 1
        assert float(tensor[0]) == 1


def test_what_was_received_from_a_socket_is_not_copied_again() -> None:
    packed = pack(torch.ones(100_000))
    assert isinstance(packed, Payload)
    received = bytearray(packed.buffers[0])
    arrived = unpack(packed._replace(buffers=[received]))
    arrived[0] = 0
    assert received[:4] == bytes(4)


def test_a_part_of_a_large_tensor_travels_as_that_part() -> None:
    whole = torch.arange(1_000_000.0).reshape(1000, 1000)
    for part in (whole[3:5], whole[3, 4:8], whole[:, 7], whole[::2, ::3][:5], whole[0:0]):
        assert nbytes(pack(part)) < part.numel() * 4 + 300
        assert is_same(copied(part), part)


def test_the_order_of_dimensions_stays() -> None:
    turned = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)
    assert copied(turned).stride() == turned.stride()
    assert is_same(copied(turned), turned)


def test_an_expanded_tensor_does_not_grow_on_its_way() -> None:
    wide = torch.ones(1).expand(10_000_000)
    assert nbytes(pack(wide)) < 10_000
    assert copied(wide).stride() == (0,)


def test_the_same_tensor_twice_arrives_as_one() -> None:
    tensor = torch.ones(100_000)
    one, two = copied([tensor, {"again": tensor}])
    assert one is two["again"]
    (first, second), kwargs = unpack_arguments(pack_arguments((tensor, [tensor]), {"same": tensor}))
    assert first is second[0] is kwargs["same"]


def test_a_model_and_its_gradients_arrive() -> None:
    model = torch.nn.Linear(300, 300)
    model.tied = model.weight
    packed = pack(model)
    assert isinstance(packed, Payload)
    assert len(packed.data) < 10_000
    arrived = copied(model)
    assert is_same(arrived.weight.data, model.weight.data)
    assert arrived.weight is arrived.tied
    assert type(arrived.weight) is torch.nn.Parameter
    assert arrived.weight.requires_grad
    torch.optim.SGD(arrived.parameters(), lr=0.1).zero_grad()
    arrived(torch.ones(300)).sum().backward()
    leaf = torch.ones(3, requires_grad=True)
    assert copied(leaf).requires_grad


def with_a_name() -> Any:
    tensor = torch.ones(3)
    tensor.label = "mine"
    return tensor


ODD: dict[str, Callable[[], Any]] = {
    "conjugated": lambda: torch.ones(3, dtype=torch.complex64).conj(),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.ones(3, device="meta"),
    "with a gradient": lambda: torch.ones(3, requires_grad=True),
    "with a name": with_a_name,
    "expanded": lambda: torch.ones(1, 3).expand(4, 3),
}


@pytest.mark.parametrize("name", ODD)
def test_one_that_is_more_than_its_numbers_goes_as_torch_does(name: str) -> None:
    tensor = ODD[name]()
    arrived, expected = copied(tensor), pickle.loads(pickle.dumps(tensor))
    assert repr(arrived) == repr(expected)
    assert vars(arrived) == vars(expected)
    assert arrived.is_conj() == expected.is_conj()


def test_a_pickler_that_the_program_has_registered_is_asked() -> None:
    copyreg.pickle(torch.Tensor, lambda tensor: (str, (f"a tensor of {tensor.numel()}",)))
    try:
        assert copied(torch.ones(3)) == "a tensor of 3"
    finally:
        del copyreg.dispatch_table[torch.Tensor]


def test_it_travels_inside_the_pickle_where_nothing_may_lie_beside_it() -> None:
    packed = pack_in_band(torch.arange(100_000))
    assert type(packed) is bytes
    assert is_same(unpack(packed), torch.arange(100_000))


def test_a_detached_tensor_does_not_change_with_the_sender() -> None:
    tensor = torch.zeros(100_000)
    packed = detach(pack(tensor))
    tensor += 1
    assert float(unpack(packed).sum()) == 0


def test_a_program_without_torch_imports_none() -> None:
    code = (
        "import sys; import numpy; from poise._protocol.codec import pack, unpack;"
        "unpack(pack({'a': numpy.ones(10)})); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
