"""What an encoder is."""

from typing import Any, ClassVar

import torch

from fedkd.core import Model, Task
from fedkd.models import made_up
from kdcore.training.batches import leading
from kdcore.training.loop import Params, Predict, TrainingConfig


class Encoder:
    """What looks at an input before any label has been learnt.

    A server asks it once, before the first round, for parameters, and sends them to whoever is to
    see. One's own, such as a module with weights from elsewhere, needs none:

        class Mine(Encoder):
            def shown(self, predict):
                return lambda params, x: Outputs(module(x))

    Attributes:
        network: whether what it sees are features of a network, with parameters of its own.
        public: whether these are learnt from public examples.
    """

    network: ClassVar[bool] = False
    public: ClassVar[bool] = False

    def pretrained(
        self,
        model: Model,
        params: Params,
        x: Any,
        training: TrainingConfig,
        generator: torch.Generator,
    ) -> Params:
        """The parameters of a network whose features have learnt of inputs x (P, ...) alone."""
        return params

    def shown(self, predict: Predict) -> Predict:
        """What it sees, as a network (params, x) -> Outputs(logits (N, D)); `predict` made it."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it shows")


def width(encoder: Encoder, model: Model, task: Task) -> int:
    """D, how many numbers an encoder shows of an input.

    Raises:
        ValueError: it cannot look at inputs of the task, or shows something else of them.
    """
    few = made_up(task.shape) if task.few is None else task.few
    params, name = model.init(torch.Generator().manual_seed(0)), type(encoder).__name__
    try:
        shown = encoder.shown(model.predict)(params, few).logits
    except Exception as reason:
        said = (str(reason).strip().splitlines() or [""])[0]
        raise ValueError(
            f"encoder {name} cannot look at inputs of shape {task.shape}: "
            f"{type(reason).__name__}: {said}"
        ) from reason
    if shown.ndim != 2 or len(shown) != len(leading(few)) or not shown.is_floating_point():
        raise ValueError(
            f"encoder {name} shows {str(shown.dtype)[6:]} {tuple(shown.shape)} of "
            f"{len(leading(few))} inputs; expected a row of real numbers for each, (N, D)"
        )
    if not shown.isfinite().all():
        raise ValueError(f"encoder {name} shows numbers that are not finite, of the first inputs")
    return shown.shape[1]
