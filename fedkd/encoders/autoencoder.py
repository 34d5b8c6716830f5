"""Features from which inputs can be drawn again."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fedkd.components.features import embedding, head_names
from fedkd.core import Model
from fedkd.encoders.untrained import Untrained
from kdcore.outputs import Outputs
from kdcore.training.batches import Examples, draw, leading
from kdcore.training.loop import Params, TrainingConfig, fit, logits_of


class Autoencoder(Untrained):
    r"""The features of a network from which a linear layer can draw the inputs again.

    Geoffrey Hinton, Ruslan Salakhutdinov. "Reducing the Dimensionality of Data with Neural
    Networks". Science 2006. https://doi.org/10.1126/science.1127647

        \min_{h, A, b} mean_x mean_d (A h(x) + b - x)_d^2

    Convention: the decoder is one linear layer, in the place of the network's head, and is left
    behind; it begins with zeros.
    """

    public = True

    def pretrained(
        self,
        model: Model,
        params: Params,
        x: Any,
        training: TrainingConfig,
        generator: torch.Generator,
    ) -> Params:
        """The network with its features trained, and its head as it was."""
        everything = torch.arange(len(leading(x)), device=leading(x).device)
        numbers = logits_of(embedding(model.predict), params, x, everything)
        weight, bias = head_names(params)
        zeros = numbers.new_zeros(numbers.shape[1], params[weight].shape[1])
        decoding = params | {weight: zeros, bias: zeros[:, :1].flatten()}
        batches = draw(Examples(x, numbers, everything), training, generator)
        trained = fit(model.predict, decoding, batches, training, _squared_error)
        return trained | {weight: params[weight], bias: params[bias]}


def _squared_error(outputs: Outputs, y: Tensor) -> Tensor:
    return F.mse_loss(outputs.logits, y, reduction="none").mean(dim=-1)
