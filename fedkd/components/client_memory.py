"""What a client remembers from round to round beside its model.

It lies among the client's parameters, under names that no network has (`fedkd.core.MEMORY`), so
that engines, stores, checkpoints and Flower carry it as they carry these. It is never shared, and
networks are not shown it: who trains or predicts takes `model_alone`.
"""

from torch import Tensor

from fedkd.core import MEMORY
from fedkd.messages import Message
from kdcore.training.loop import Params


def remembered(params: Params) -> Message:
    """A client's memory; empty before it has remembered anything."""
    return {k.removeprefix(MEMORY): v for k, v in params.items() if k.startswith(MEMORY)}


def model_alone(params: Params) -> Params:
    """A client's parameters without its memory."""
    return {name: value for name, value in params.items() if not name.startswith(MEMORY)}


def with_memory(params: Params, memory: dict[str, Tensor]) -> Params:
    """Parameters with a memory in front of them: the last names are those of a model's head."""
    return {f"{MEMORY}{name}": memory[name] for name in sorted(memory)} | model_alone(params)
