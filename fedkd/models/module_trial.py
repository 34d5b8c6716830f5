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
from torch.utils._pytree import tree_leaves, tree_map

from fedkd.models.dropout import counted
from fedkd.models.module_forms import Parts, RefusedError, outputs_of, seeded, streams
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
    except (Exception, SystemExit) as reason:
        tables = x if isinstance(x, tuple) else (x,)
        shown = " and ".join(f"{tuple(t.shape)} {str(t.dtype)[6:]}" for t in tables)
        raise RefusedError(f"it cannot {what} with examples {shown}: {_line(reason)}") from reason


def _line(reason: BaseException) -> str:
    """What was raised, in a line."""
    lines = str(reason).strip().splitlines() or [""]
    return f"{type(reason).__name__}: {lines[0][:200]}"


def materialised(module: Any, x: Any) -> nn.Module:
    """The module, with lazy parts in the shapes that the examples give them.

    Without what torch.compile or DataParallel put around it, and with dense gradients: a client's
    step is compiled and laid out as the engine does it.
    """
    while isinstance(module, nn.DataParallel) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, nn.DataParallel) else module._orig_mod
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
    for part in module.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            part.sparse = False
    return module


def looked_at(module: nn.Module, x: Any) -> Parts:
    """What of the module is whose, found out by running it."""
    named = [*module.named_parameters(), *module.named_buffers()]
    odd = [n for n, _ in named if STATE in n]
    if odd:
        raise RefusedError(f"the name {odd[0]!r} has a {STATE} in it, which marks state; rename it")
    trained = _trained(module)
    kinds = {n: v.dtype for n, v in named if v.is_floating_point()}
    kinds = {n: kind for n, kind in kinds.items() if kind != torch.get_default_dtype()}
    with answering("be copied", x):
        judge, untouched = _twin(module).eval(), _twin(module)
    parts = Parts(module, judge, trained, kinds=kinds, untouched=untouched)
    if not any(t.is_floating_point() for t in (x if isinstance(x, tuple) else (x,))):
        parts = _reading(parts, x)
    parts = replace(parts, writes=_writes(parts, x))
    moving, random, counts = _chances(parts, x)
    return replace(parts, moving=moving, random=random, counts=counts)


def _trained(module: nn.Module) -> tuple[str, ...]:
    """The names of what training moves."""
    found = {n: p for n, p in module.named_parameters() if p.requires_grad}
    if not found:
        raise RefusedError(
            "none of its parameters has requires_grad, so there is nothing to train; leave at "
            "least a head to train"
        )
    odd = [f"{name} is {_kind(p)}" for name, p in found.items() if not p.is_floating_point()]
    if odd:
        raise RefusedError(f"{odd[0]}, and what is trained and averaged are real numbers")
    return tuple(found)


def _twin(module: nn.Module) -> nn.Module:
    """Another module with the very same tensors."""
    shared = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(t): t for t in shared})


def _writes(parts: Parts, x: Any) -> bool:
    """Whether it writes into its inputs. What it makes of its own weights is looked at, too."""
    module, given = parts.learner, tree_map(torch.clone, x)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    with torch.no_grad(), seeded(1, torch.device("cpu")), answering("be trained", x):
        outputs_of(module(*parts.args(given)))
    after = dict(module.named_parameters())
    if new := [name for name in after if name not in before]:
        raise RefusedError(
            f"its forward makes {new[0]} when it first runs, which nobody would train; make it in "
            "__init__, or take a lazy layer, such as nn.LazyLinear"
        )
    if moved := [name for name, value in before.items() if not _same(value, after[name])]:
        raise RefusedError(
            f"its forward changes its own weights ({moved[0]}); change what it computes with them, "
            "as torch.nn.utils.parametrize does"
        )
    for name, value in module.named_buffers():
        if name in buffers:
            value.copy_(buffers[name])
    pairs = zip(tree_leaves(given), tree_leaves(x), strict=True)
    return not all(_same(one, other) for one, other in pairs)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers are the same; what is no number is the same as itself."""
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


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
            start = streams()
            if key is None:
                said = outputs_of(module(*parts.args(x))).logits
            else:
                with counted(key):
                    said = outputs_of(module(*parts.args(x))).logits
            drew = start != streams()
        after = {name: value.clone() for name, value in module.named_buffers()}
        for name, value in module.named_buffers():
            value.copy_(before[name])
        return said.clone(), after, drew

    said, after, random = run(None)
    again, *_ = run(None)
    if said.shape != again.shape or not _same(said, again):
        raise RefusedError(
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
        _passes(parts.learn, parts.trained, two[0], x)
    least = _least(parts, two[0], x)
    why = _in_turn(parts, least) or _neighbours(parts, two[0], x, whole, alone)
    why = why or _not_stacked(parts, two, x)
    notes = (f"clients run in turn: {why}",) if why else ()

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
    return Network(one, stacked, learn=learn, alone=why, least=least), notes


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
        if not outputs.logits.requires_grad:
            raise RefusedError(
                "its logits have no gradient: something is detached, rounded or under no_grad on "
                "their way from the weights"
            )
        total = outputs.logits.square().sum()
    slopes = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    return [outputs.logits.detach(), *slopes, *fresh.values()]


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    finite = expected[expected.isfinite()]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return bool(torch.allclose(found, expected, rtol=CLOSE, atol=CLOSE * size, equal_nan=True))
