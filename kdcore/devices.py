"""Devices that tensors are computed on: which there are, and how many tensors get there at once."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves, tree_map_only

ALONE = 2**20  # bytes of a tensor that moves alone: joined to others it would gain nothing
BOUNDARY = 64  # bytes: torch begins a tensor in memory at multiples of it


def device_of(name: str = "auto", share: float = 0.0) -> torch.device:
    """The device of a name: "auto", "cpu", "cuda", "cuda:1", "mps", or another of PyTorch's.

    "auto" is a GPU for whoever has a share of one, and else the CPU. With a share, "cuda" is the
    GPU that the share is of: which one that is, is not chosen here.

    Raises:
        ValueError: there is no such device, or less of it than the share; or a share of a GPU for a
            run that computes elsewhere.
    """
    if name == "auto":
        name = "cuda" if share else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is none; take auto, cpu, cuda, cuda:N or mps") from None
    if share and (device.type != "cuda" or device.index is not None):
        raise ValueError(
            f"device {name}, and gpus {share:g}: a share of a GPU is for the device cuda; leave "
            "one of them out"
        )
    if device.type != "cpu":
        _check_there(device, share)
    return device


def _check_there(device: torch.device, share: float) -> None:
    module: Any = torch.backends.mps if device.type == "mps" else getattr(torch, device.type, None)
    count = 0
    if module is not None and module.is_available():
        count = 1 if device.type == "mps" else module.device_count()
    if share > count:
        raise ValueError(
            f"gpus is {share:g}, and this machine has {count} that PyTorch can use; ask for fewer, "
            "or see `kdsim doctor`"
        )
    if (device.index or 0) >= count:
        raise ValueError(
            f"device {device}: PyTorch {torch.__version__} finds {count or 'no'} such "
            f"device{'s' * (count != 1)} here; take another, or see `kdsim doctor`"
        )


class Joined(NamedTuple):
    """Tensors of one type, one behind the other, each beginning where torch would begin one.

    At odd places in memory products of numbers are computed otherwise, and differ in their last
    bits: so results would depend on what travels with what.

    Attributes:
        flat: the numbers, and zeros between them.
        shapes: of each.
    """

    flat: Tensor
    shapes: tuple[torch.Size, ...]

    def apart(self) -> list[Tensor]:
        """The tensors, as views."""
        parts = self.flat.split([s.numel() + _gap(s.numel(), self.flat) for s in self.shapes])
        pairs = zip(parts, self.shapes, strict=True)
        return [part[: shape.numel()].view(shape) for part, shape in pairs]


def joined(values: Sequence[Tensor]) -> Joined:
    """Tensors of one type and device, copied into one."""
    none = values[0].detach().new_zeros(BOUNDARY)
    pieces = [(value.detach().reshape(-1), none[: _gap(value.numel(), none)]) for value in values]
    flat = torch.cat([piece for pair in pieces for piece in pair])
    return Joined(flat, tuple(value.shape for value in values))


def _gap(numbers: int, like: Tensor) -> int:
    """How many numbers are missing to the next place at which torch would begin a tensor."""
    return -numbers % max(1, BOUNDARY // like.element_size())


def together(values: Sequence[Tensor]) -> list[list[int]]:
    """Places of tensors that `joined` takes at once; a large one is alone. Each tensor once."""
    groups: dict[Hashable, list[int]] = {}
    seen: set[int] = set()
    for place, value in enumerate(values):
        if id(value) in seen:
            continue
        seen.add(id(value))
        kind: Hashable = id(value) if value.nbytes >= ALONE else (value.dtype, value.device)
        groups.setdefault(kind, []).append(place)
    return list(groups.values())


def moved(values: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """The tensors on a device: one copy for all small ones of a type, and each of them once.

    Those that moved together are views of one tensor. What is there already is left as it is.
    """
    device = torch.device(device)
    if device.type == "cpu":
        away = [value for value in values if not value.is_cpu]
    else:
        away = [value for value in values if not _is_on(value, device)]
    if not away:
        return list(values)
    there: dict[int, Tensor] = {}
    for places in together(away):
        if len(places) == 1:
            there[id(away[places[0]])] = away[places[0]].to(device)
            continue
        flat, shapes = joined([away[place] for place in places])
        parts = Joined(flat.to(device), shapes).apart()
        there |= {id(away[place]): part for place, part in zip(places, parts, strict=True)}
    return [there.get(id(value), value) for value in values]


def stacked(column: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as one; without a copy where they are the rows of one already."""
    first = column[0]
    memory, place, size = first.untyped_storage().data_ptr(), first.storage_offset(), first.numel()
    for row, value in enumerate(column):
        same = value.storage_offset() == place + row * size and value.is_contiguous()
        if not (same and value.untyped_storage().data_ptr() == memory):
            return torch.stack(list(column))
    return first.as_strided((len(column), *first.shape), (size, *first.stride()))


def _is_on(value: Tensor, device: torch.device) -> bool:
    """Whether a tensor is on the device; one without a number is any of its kind."""
    return value.device == device or (device.index is None and value.device.type == device.type)


class Made(TorchFunctionMode):
    """A block in which new tensors are made on a device, and random ones are drawn on the CPU.

    For code that makes its own tensors and names no device; `torch.device` as a context, which does
    the same, refuses the generators of the CPU that all draws here are made with. The result of a
    draw is moved; so a computation is that of the CPU, but for rounding.
    """

    def __init__(self, device: torch.device | str) -> None:
        super().__init__()
        self.device = torch.device(device)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function's answer, on the device where the function makes a tensor."""
        given = dict(kwargs or {})
        if given.get("generator") is not None:
            return self._drawn(func, args, given)
        if given.get("device") is None and func in _device_constructors():
            given["device"] = self.device
        return func(*args, **given)

    def _drawn(self, func: Callable[..., Any], args: Any, given: Any) -> Tensor:
        tensors = [one for one in tree_leaves((args, given)) if isinstance(one, Tensor)]
        here = {id(one): one.cpu() for one in tensors}
        args, given = tree_map_only(Tensor, lambda one: here[id(one)], (args, given))
        found: Tensor = func(*args, **given)
        for own in tensors:
            if found is here[id(own)]:  # it was drawn in place, or into `out`
                return own if found is own else own.copy_(found)
        return found.to(given.get("device", self.device))
