"""What a torch module is found to be when it is run on a few real rows: how it can be used.

Clients of a module are stacked where `torch.func.vmap` gives two of them what each gives alone:
logits, gradients and state, within rounding. All other modules run in turn, just as the sequential
engine does it. What cannot be run at all is refused, in a line.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from fedkd.models.dropout import counted
from fedkd.models.module_forms import Parts, RefusedError, outputs_of, seeded
from kdcore.outputs import Outputs
from kdcore.training.batches import leading
from kdcore.training.loop import STATE, Network, Params

CLOSE = 1e-3  # of the largest number: how near a stack has to come to one client


@contextmanager
def answering(what: str, x: Any) -> Iterator[None]:
    """Turn whatever a user's module raises into one line."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as reason:
        tables = x if isinstance(x, tuple) else (x,)
        shown = " and ".join(f"{tuple(t.shape)} {str(t.dtype)[6:]}" for t in tables)
        raise RefusedError(f"it cannot {what} with examples {shown}: {_line(reason)}") from reason


def _line(reason: Exception) -> str:
    """What was raised, in a line."""
    lines = str(reason).strip().splitlines() or [""]
    return f"{type(reason).__name__}: {lines[0][:200]}"


def materialised(module: Any, x: Any) -> nn.Module:
    """The module, with lazy parts in the shapes that the examples give them."""
    if not isinstance(module, nn.Module):
        raise RefusedError(
            f"a torch.nn.Module was expected, and this made a {type(module).__name__}"
        )
    if any(is_lazy(v) for v in [*module.parameters(), *module.buffers()]):
        modes = {part: part.training for part in module.modules()}
        module.eval()
        with torch.no_grad():
            module(*(x if isinstance(x, tuple) else (x,)))
        for part, mode in modes.items():
            part.training = mode
    return module


def looked_at(module: nn.Module, x: Any) -> Parts:
    """What of the module is whose, found out by running it."""
    odd = [n for n, _ in [*module.named_parameters(), *module.named_buffers()] if STATE in n]
    if odd:
        raise ValueError(f"the name {odd[0]!r} has a {STATE} in it, which marks state; rename it")
    trained = tuple(n for n, p in module.named_parameters() if p.requires_grad)
    if not trained:
        raise ValueError(
            "none of its parameters has requires_grad, so there is nothing to train; leave at "
            "least a head to train"
        )
    shared = [*module.parameters(), *module.buffers()]
    judge = copy.deepcopy(module, {id(t): t for t in shared}).eval()
    parts = Parts(module, judge, trained)
    if not any(t.is_floating_point() for t in (x if isinstance(x, tuple) else (x,))):
        parts = _reading(parts, x)
    moving, random, counts = _chances(parts, x)
    return replace(parts, moving=moving, random=random, counts=counts)


def _reading(parts: Parts, x: Any) -> Parts:
    """Whole numbers are read as they are where the module takes them, as token ids; or as reals."""
    try:
        parts.one({}, x)
    except Exception:
        as_reals = replace(parts, reals=True)
        try:
            as_reals.one({}, x)
        except Exception:
            return parts  # the refusal is about what was given
        return as_reals
    return parts


def _chances(parts: Parts, x: Any) -> tuple[tuple[str, ...], bool, bool]:
    """Which buffers move, whether anything is drawn, and whether that is all dropout."""
    module = parts.learner
    before = {name: value.clone() for name, value in module.named_buffers()}

    def run(key: Tensor | None) -> tuple[Tensor, dict[str, Tensor], bool]:
        with torch.no_grad(), seeded(1, torch.device("cpu")), answering("be trained", x):
            start = torch.get_rng_state()
            if key is None:
                said = outputs_of(module(*parts.args(x))).logits
            else:
                with counted(key):
                    said = outputs_of(module(*parts.args(x))).logits
            drew = not torch.equal(start, torch.get_rng_state())
        after = {name: value.clone() for name, value in module.named_buffers()}
        for name, value in module.named_buffers():
            value.copy_(before[name])
        return said.clone(), after, drew

    said, after, random = run(None)
    again, *_ = run(None)
    if not torch.equal(said.nan_to_num(), again.nan_to_num()):
        raise ValueError(
            "the same examples and the same seed give it other logits the second time; keep what "
            "it remembers in buffers, and draw from torch's own stream"
        )
    counts = random and not run(torch.tensor(7))[2]
    changed = {n for n, value in after.items() if not torch.equal(value, before[n])}
    owners = {name.rpartition(".")[0] for name in changed}
    return tuple(n for n in before if n.rpartition(".")[0] in owners), random, counts


def network_of(parts: Parts, two: list[Params], x: Any) -> tuple[Network, tuple[str, ...]]:
    """The network, and what is to be said about how it will be run."""
    with answering("predict", x):
        whole = parts.one(two[0], x)
    with answering("predict one example", x):
        alone = parts.one(two[0], _first(x, 1))
    with answering("be trained", x):
        parts.learn(two[0], x)
    least = _least(parts, two[0], x)
    why = _in_turn(parts, least) or _neighbours(parts, two[0], x, whole, alone)
    why = why or _not_stacked(parts, two, x)
    notes = [f"clients run in turn: {why}"] if why else []
    if least > 1:
        notes.append("a mini-batch of one example is left out: the module normalises over a batch")

    def one(params: Params, given: Any) -> Outputs:
        if len(leading(given)):
            return parts.one(params, given)
        nothing: Outputs = tree_map(lambda v: v[:0], parts.one(params, _first(x, 1)))
        return nothing

    stack = torch.func.vmap(parts.one)

    def stacked(params: Params, given: Any) -> Outputs:
        shared = len(leading(given)) == 1 and len(next(iter(params.values()))) > 1
        inner = tree_map(lambda v: v[0], given) if shared else given
        form = torch.func.vmap(parts.one, in_dims=(0, None)) if shared else stack
        found: Outputs = form(params, inner)
        return found

    learn = parts.learn if parts.moving or parts.random or _differs(parts) else None
    return Network(one, stacked, learn=learn, alone=why, least=least), tuple(notes)


def _differs(parts: Parts) -> bool:
    """Whether some part is in another mode when it learns than when it predicts."""
    return any(part.training for part in parts.learner.modules())


def _first(x: Any, count: int) -> Any:
    return tree_map(lambda v: v[:count], x)


def _least(parts: Parts, params: Params, x: Any) -> int:
    """How many examples a mini-batch needs."""
    try:
        parts.learn(params, _first(x, 1))
    except Exception:
        return 2
    return 1


def _in_turn(parts: Parts, least: int) -> str | None:
    if parts.moving:
        return f"the module keeps statistics of its mini-batches ({parts.moving[0]})"
    if parts.random and not parts.counts:
        return "the module draws random numbers that are no dropout of torch.nn.functional"
    return "the module needs more than one example to learn" if least > 1 else None


def _neighbours(parts: Parts, params: Params, x: Any, whole: Outputs, alone: Outputs) -> str | None:
    """That an example's logits depend on its neighbours, of which a stack has some for padding."""
    longer = tree_map(lambda v: torch.cat([v, v[:1]]), x)
    with torch.no_grad():
        learnt = parts.learn(params, x)[0].logits
        padded = parts.learn(params, longer)[0].logits[: len(learnt)]
    if _close(padded, learnt) and _close(alone.logits, whole.logits[:1]):
        return None
    return "an example's logits depend on the others of its mini-batch"


def _not_stacked(parts: Parts, two: list[Params], x: Any) -> str | None:
    """Why two clients at once cannot be computed, or not as each alone; None if they can."""
    both = {name: torch.stack([params[name] for params in two]) for name in two[0]}
    inputs = tree_map(lambda v: torch.stack([v, v.flip(0)]), x)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message=".*performance drop")
            found = _passes(torch.func.vmap(parts.learn), parts.trained, both, inputs)
            found.append(torch.func.vmap(parts.one)(both, inputs).logits.detach())
    except Exception as reason:
        return f"the module cannot be stacked ({_line(reason)})"
    for k, params in enumerate(two):
        mine = tree_map(lambda v: v[k], inputs)  # noqa: B023
        alone = _passes(parts.learn, parts.trained, params, mine)
        alone.append(parts.one(params, mine).logits.detach())
        if not all(_close(v[k], own) for v, own in zip(found, alone, strict=True)):
            return "the module computes something else when it is stacked"
    return None


def _passes(
    learn: Callable[..., Any], names: tuple[str, ...], params: Params, x: Any
) -> list[Tensor]:
    """Logits, gradients and state of one step."""
    leaves = {name: params[name].detach().clone().requires_grad_() for name in names}
    with torch.enable_grad():
        outputs, fresh = learn(params | leaves, x)
        total = outputs.logits.square().sum()
    slopes = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    return [outputs.logits.detach(), *slopes, *fresh.values()]


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    size = float(expected.abs().max()) if expected.numel() else 0.0
    return bool(torch.allclose(found, expected, rtol=CLOSE, atol=CLOSE * size, equal_nan=True))
