"""Tensors of torch: their memory beside the pickle, as that of an array, and writable where they arrive.

torch pickles a tensor as a file inside the pickle, which is copied several times, and with all of the storage that it
is a part of. Here a tensor travels as what it shows. Only plain ones do: on the CPU, with nothing to them but their
numbers; all others go torch's own way. torch is used where it has been imported already, and where a tensor arrives.
"""

from __future__ import annotations

import importlib
import sys
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

from poise._protocol.lifting import bytearray_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def reduce_tensor(obj: Any) -> Any:
    """How a plain tensor is pickled; `NotImplemented` for anything else."""
    torch: Any = sys.modules.get("torch")
    if torch is None or type(obj) is not getattr(torch, "Tensor", None) or not _is_plain(torch, obj):
        return NotImplemented
    tensor = obj
    if not _is_dense(tensor):
        if tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes():
            return NotImplemented  # it shows numbers more than once, as an expanded one does
        tensor = tensor.contiguous()
    try:
        memory = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()
    except (RuntimeError, TypeError):  # its memory is of no common kind, or there is no numpy
        return NotImplemented
    return tensor_of, (PickleBuffer(memory), tensor.dtype, tuple(tensor.shape), tensor.stride())


def tensor_of(buffer: Any, dtype: Any, shape: Sequence[int], stride: Sequence[int]) -> Any:
    """The tensor that was reduced: over the memory that has arrived if that is nobody else's, else over a copy."""
    torch: Any = importlib.import_module("torch")
    memory = bytearray_of(buffer)
    if not memory:  # of which torch makes nothing
        return torch.empty_strided(shape, stride, dtype=dtype)
    storage = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape, stride)


def _is_plain(torch: Any, tensor: Any) -> bool:
    return bool(
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.requires_grad or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and not tensor.__dict__
    )


def _is_dense(tensor: Any) -> bool:
    """Whether it shows each number of a piece of memory once, in whatever order of its dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return bool(tensor.numel() == 0)
            expected *= size
    return True
