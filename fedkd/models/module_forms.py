"""A torch module in the two forms of a network: as it predicts, and as it learns."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from fedkd.core import STREAM
from fedkd.models.dropout import counted
from kdcore.outputs import Outputs
from kdcore.training.batches import leading
from kdcore.training.loop import STATE, Params


class RefusedError(ValueError):
    """A module that cannot be used, and why, in a line."""


@dataclass(frozen=True)
class Parts:
    """A module, and what of it is whose.

    Attributes:
        learner, judge: the module as it learns, and in eval mode; they share all tensors.
        trained: names of weights that training moves; `moving`, of buffers that it does.
        random: whether it draws as it learns; `counts`, whether all of that is dropout.
        reals: whether whole numbers are to be read as real ones.
        writes: whether it writes into its inputs, which are others' too.
        kinds: the types of what is not of torch's default one: clients hold it in that, and it is
            read in its own.
        untouched: the module as it was made, before it was run.
    """

    learner: nn.Module
    judge: nn.Module
    trained: tuple[str, ...]
    moving: tuple[str, ...] = ()
    random: bool = False
    counts: bool = False
    reals: bool = False
    writes: bool = False
    kinds: Mapping[str, torch.dtype] = field(default_factory=dict)
    untouched: nn.Module | None = None

    @cached_property
    def attends(self) -> bool:
        """Whether it has layers of torch's attention."""
        return any(isinstance(part, nn.MultiheadAttention) for part in self.judge.modules())

    @cached_property
    def ties(self) -> bool:
        """Whether some weight has two names, which torch looks for at each call if it is to."""
        return any(
            len([*named(remove_duplicate=False)]) > len([*named()])
            for named in (self.learner.named_parameters, self.learner.named_buffers)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""
        kinds = [p.dtype for p in self.learner.parameters() if p.is_floating_point()]
        return kinds[0]

    def args(self, x: Any) -> tuple[Any, ...]:
        """The inputs of forward, as it reads them."""

        def read(table: Tensor) -> Tensor:
            given = table.clone() if self.writes else table
            return given.to(self.dtype) if self.reals or table.is_floating_point() else given

        return tuple(map(read, x)) if isinstance(x, tuple) else (read(x),)

    def one(self, params: Params, x: Any) -> Outputs:
        """As it predicts."""
        return self._called(self.judge, self._own(params), x)

    def learn(self, params: Params, x: Any) -> tuple[Outputs, Params]:
        """As it learns, and what becomes of its state."""
        values = self._own(params)
        values |= {name: values[name].clone() for name in self.moving}
        with self._chance(params):
            outputs = self._called(self.learner, values, x)
        fresh = {f"{STATE}{name}": _held(values[name].detach()) for name in self.moving}
        if self.random:
            fresh[STREAM] = params[STREAM] + 1
        return outputs, fresh

    def _called(self, module: nn.Module, values: Params, x: Any) -> Outputs:
        device = leading(x).device
        if next(module.parameters()).device != device:
            module.to(device)
        with _attending_plainly() if self.attends else nullcontext():
            call, given = torch.func.functional_call, self.args(x)
            found = outputs_of(call(module, values, given, tie_weights=self.ties))
        return tree_map(_held, found) if self.kinds else found

    def _own(self, params: Params) -> Params:
        """What the module is called with, by its own names and in its own types."""
        values = plain(params)
        return values | {n: values[n].to(kind) for n, kind in self.kinds.items() if n in values}

    @contextmanager
    def _chance(self, params: Params) -> Iterator[None]:
        """Have the client's stream govern what is drawn."""
        if not self.random:
            yield
        elif self.counts:
            with counted(params[STREAM]):
                yield
        else:
            with seeded(int(params[STREAM]), params[STREAM].device):
                yield

    def drawn(self, module: nn.Module, seed: int) -> Params:
        """The parameters of a client that begins with the module's values."""
        buffers, values = dict(module.named_buffers()), dict(module.named_parameters())
        own: Params = {STREAM: torch.tensor(seed)} if self.random else {}
        own |= {f"{STATE}{name}": _held(buffers[name].detach()).clone() for name in self.moving}
        return own | {name: _held(values[name].detach()).clone() for name in self.trained}


def _held(value: Tensor) -> Tensor:
    """A value as clients hold it: real numbers in torch's default type."""
    return value.to(torch.get_default_dtype()) if value.is_floating_point() else value


def plain(params: Params) -> Params:
    """Weights and buffers as the module calls them."""
    return {n.removeprefix(STATE): v for n, v in params.items() if n != STREAM}


@contextmanager
def _attending_plainly() -> Iterator[None]:
    """Attention by its formula: torch's short cuts for it cannot be stacked."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The streams of torch, Python and NumPy, put to a seed inside and as they were behind."""
    cuda = [device] if device.type == "cuda" else []
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  (what modules draw from)
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def streams() -> tuple[Any, ...]:
    """Where the streams of torch, Python and NumPy are."""
    numpys = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), numpys["pos"], numpys["key"].tolist()


def outputs_of(result: Any) -> Outputs:
    """What a forward gives, as `Outputs`."""
    if isinstance(result, Outputs):
        return result
    if isinstance(result, Tensor):
        return Outputs(result)
    if isinstance(result, Mapping) and "logits" in result:
        hidden = result.get("hidden", ())
        return Outputs(result["logits"], (hidden,) if isinstance(hidden, Tensor) else tuple(hidden))
    if isinstance(getattr(result, "logits", None), Tensor):
        return Outputs(result.logits)
    if isinstance(result, tuple | list) and result and isinstance(result[0], Tensor):
        shown = [h for h in result[1:] if isinstance(h, Tensor) and h.ndim == 2]
        return Outputs(result[0], tuple(shown))
    raise RefusedError(
        f"its forward gives a {type(result).__name__}; expected logits (N, C), or something with "
        ".logits or ['logits'], or a tuple that begins with them"
    )
