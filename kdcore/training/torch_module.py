"""A function of parameters as a torch module: the way back, for what is trained."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdcore.training.stacked import Predict


class FunctionModule(nn.Module):
    """Parameters and what predicts with them; it answers inputs (N, ...), or several, with logits.

    A parameter keeps its name, `head.weight`: what is in front of a dot becomes a part.
    """

    def __init__(self, predict: Predict, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._predict = predict
        for name, value in params.items():
            part: nn.Module = self
            *path, last = name.split(".")
            for step in path:
                if step not in part._modules:
                    part.add_module(step, nn.Module())
                part = part.get_submodule(step)
            part.register_parameter(last, nn.Parameter(value.detach().clone()))

    def forward(self, *x: Any) -> Tensor:
        """The logits, (N, C)."""
        return self._predict(dict(self.named_parameters()), x if len(x) > 1 else x[0]).logits
