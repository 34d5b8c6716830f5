"""Clients that lie within the border: who they are, and an engine in which they do so."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from fedkd.attacks.lies import Lie
from fedkd.core import Client, Engine, Task
from fedkd.messages import Upload
from kdcore.rng import generator


def liars(share: float, clients: int, seed: int) -> tuple[int, ...]:
    """Which of so many clients lie: a share of them, to the nearest whole number, by lot.

    Raises:
        ValueError: that is nobody, or half of them or more.
    """
    count = int(share * clients + 0.5)
    if not 0 < count < clients / 2:
        raise ValueError(
            f"a share of {share:g} of {clients} clients is {count}; there have to be liars, and "
            "more clients that are honest"
        )
    drawn = torch.randperm(clients, generator=generator(seed, "liars"))[:count]
    return tuple(sorted(drawn.tolist()))


def lying(engine: Engine, who: Collection[int], lie: Lie, key: str, seed: int) -> Engine:
    """The engine, but for what some clients send.

    Args:
        engine: runs the clients, those who lie included; what stays with these is left alone.
        who: the numbers of those who lie.
        lie: what they say in the place of their predictions. They know what all others send who
            work at the same time (a wave of a thousand).
        key: of the predictions in an upload, distributions of one shape.
        seed: of what is random in it, the same in each round.
    """

    def with_lies(
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        results = engine(function, task, clients, inputs)
        sent = [place for place, result in enumerate(results) if _sends(result, key)]
        false = [place for place in sent if clients[place].id in who]
        if not false:
            return results
        said = {place: results[place][-1].payload[key] for place in sent}
        own = torch.stack([said[place] for place in false])
        others = [said[place] for place in sent if place not in false]
        honest = torch.stack(others) if others else own[:0]
        lies = lie.predictions(own, honest, generator(seed, "lies"))
        for place, one in zip(false, lies, strict=True):
            *kept, upload = results[place]
            payload = {**upload.payload, key: one}
            results[place] = (*kept, upload._replace(payload=payload))
        return results

    return with_lies


def _sends(result: Any, key: str) -> bool:
    """Whether it is (Params, Upload) with predictions; those of other functions are not."""
    upload = result[-1] if isinstance(result, tuple) and result else None
    return isinstance(upload, Upload) and key in upload.payload
