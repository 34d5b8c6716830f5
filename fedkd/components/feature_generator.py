"""A generator of features for a label, trained by the heads of many models.

Zhuangdi Zhu, Junyuan Hong, Jiayu Zhou. "Data-Free Knowledge Distillation for Heterogeneous
Federated Learning". ICML 2021. https://arxiv.org/abs/2105.10056
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fedkd.core import Model
from fedkd.models.architectures import mlp
from kdcore.outputs import Outputs
from kdcore.training.loop import Batches, Examples, TrainingConfig, draw


def maker(noise: int, classes: int, width: int, hidden: int) -> Model:
    """The generator: noise and the place of a label, (N, noise + C), to features, (N, width)."""
    return mlp((noise + classes,), width, (hidden,))


def seeds(y: Tensor, noise: int, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normal noise, (N, noise), and the generator's inputs for labels (N,): noise comes first."""
    drawn = torch.randn(len(y), noise, generator=generator).to(y.device)
    return drawn, torch.cat([drawn, F.one_hot(y, classes).to(drawn.dtype)], dim=1)


def label_batches(
    shares: Tensor, count: int, noise: int, training: TrainingConfig, generator: torch.Generator
) -> Batches:
    """Mini-batches of inputs, labels drawn by their shares (C,), with targets (label, noise)."""
    y = torch.multinomial(shares.cpu(), count, replacement=True, generator=generator).to(
        shares.device
    )
    drawn, x = seeds(y, noise, len(shares), generator)
    batches = draw(Examples(x, y, torch.arange(count)), training, generator)
    return batches._replace(y=(y, drawn))


def generator_loss(
    outputs: Outputs,
    y: tuple[Tensor, Tensor],
    weights: Tensor,
    biases: Tensor,
    shares: Tensor,
    diversity: Tensor,
) -> Tensor:
    r"""What the generator minimises, for generated features g_i of labels l_i from noise e_i.

        \sum_k a_k(l_i) CE(l_i, softmax(W_k g_i + b_k)) + diversity exp(-mean_{jk} d_jk),
        d_jk = mean (e_j - e_k)^2 mean |g_j - g_k|

    The second term, the same for all, asks for unlike features from unlike noise; the distances are
    those of the authors' code.

    Shapes:
        outputs: logits (N, D), the features; y: labels (N,), noise (N, noise).
        weights: (K, C, D); biases: (K, C); shares: (K, C), a_k, adding up to 1 over K.
        Gives (N,).
    """
    (labels, noise), made = y, outputs.logits
    logits = torch.einsum("nd,kcd->knc", made, weights) + biases.unsqueeze(1)
    places = torch.arange(len(labels), device=labels.device)
    right = logits.log_softmax(dim=-1)[:, places, labels]  # (K, N)
    far = (noise.unsqueeze(0) - noise.unsqueeze(1)).square().mean(dim=-1)
    unlike = (made.unsqueeze(0) - made.unsqueeze(1)).abs().mean(dim=-1)
    return diversity * torch.exp(-(far * unlike).mean()) - (shares[:, labels] * right).sum(dim=0)
