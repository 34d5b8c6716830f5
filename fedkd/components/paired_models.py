"""Two networks trained at once on the same examples: a client's own, and one that clients share.

Their parameters live in one dictionary, told apart by a prefix, so that one `fit` trains both. The
shared network is named by an algorithm's setting; its parameters come with the broadcast.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from fedkd.core import Model, Task
from fedkd.messages import PayloadSpec
from fedkd.models import FAMILIES, build
from kdcore.outputs import Outputs
from kdcore.training.batches import shape_of
from kdcore.training.loop import Network, Params, Predict
from kdcore.training.stacked import stack_of

OWN, SHARED = "own.", "shared."


def pair(own: Predict, shared: Predict) -> Network:
    """Both networks: Outputs(logits, (shared logits, features, shared features)).

    Features are the last hidden activations; where a network shows none, its logits.
    """

    def together(first: Predict, second: Predict) -> Predict:
        def predict(params: Params, x: Tensor) -> Outputs:
            one, other = first(part(params, OWN), x), second(part(params, SHARED), x)
            return Outputs(one.logits, (other.logits, _features(one), _features(other)))

        return predict

    one, stack = together(own, shared), together(stack_of(own), stack_of(shared))
    if not isinstance(own, Network) or own.learn is None:
        return Network(one, stack)
    learns = own.learn

    def learn(params: Params, x: Any) -> tuple[Outputs, Params]:
        mine, fresh = learns(part(params, OWN), x)
        outputs = together(lambda *_: mine, shared)(params, x)
        return outputs, {f"{OWN}{name}": value for name, value in fresh.items()}

    return Network(one, stack, learn=learn, alone=own.alone, least=own.least)


def joined(own: Params, shared: Params) -> Params:
    """The parameters of both, as `pair` takes them."""
    both = {f"{OWN}{name}": value for name, value in own.items()}
    return both | {f"{SHARED}{name}": value for name, value in shared.items()}


def part(params: Params, prefix: str) -> Params:
    """The parameters of one of them."""
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


def shared_model(task: Task, name: str) -> Model:
    """The network that clients share.

    Raises:
        ValueError: the task does not say what shape an example has, or the name is none of a model.
    """
    if not task.shape:
        raise ValueError(
            f"the shared model {name} cannot be built without the shape of an example; "
            "give Task(..., shape=...)"
        )
    if task.build is not None:
        return task.build(name)
    model = build(name, task.shape, task.num_classes, task.few)
    if model.restored is not None:
        raise ValueError(
            f"the shared model {name} is a torch module, which only a client's own model can be; "
            f"name one of the networks {', '.join(FAMILIES)}"
        )
    return model


def shared_predict(name: str, x: Any, own: Predict) -> Predict:
    """How the shared network predicts, on the client's side; its parameters know the classes.

    Beside a client's own network that knows what its inputs are numbers of, it knows that, too.
    """
    if isinstance(own, Network) and own.beside is not None:
        return own.beside(name)
    return build(name, shape_of(x), 1).predict


def shared_claims(
    task: Task, name: str, trained: Literal["parameters", "update"] = "parameters"
) -> dict[str, PayloadSpec]:
    """Every parameter of the shared network, in its shape, or what training added to it."""
    initial = shared_model(task, name).init(torch.Generator())
    return {key: PayloadSpec(tuple(v.shape), trained=trained) for key, v in initial.items()}


def _features(outputs: Outputs) -> Tensor:
    return outputs.hidden[-1] if outputs.hidden else outputs.logits
