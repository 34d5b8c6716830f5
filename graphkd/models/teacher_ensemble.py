"""Several teachers as one: their probabilities mixed with learned weights."""

import torch
from torch import Tensor, nn

from graphkd.graph import Graph
from kdcore import ensemble
from kdcore.outputs import Outputs

STEPS = 100  # of expectation maximisation; it gains little after ten


class TeacherEnsemble(nn.Module):
    """Teachers that speak as one network: the linear opinion pool of their probabilities.

    Its logits are the logarithms of the pool; it shows no hidden states, since those of different
    networks cannot be averaged.

    Shapes:
        weights: (M,), one for each teacher, of sum 1.
    """

    def __init__(self, teachers: list[nn.Module], weights: Tensor):
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        self.weights = weights

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        said = torch.stack([teacher(graph, nodes).logits.softmax(-1) for teacher in self.teachers])
        pool = ensemble.weighted(said, self.weights.to(said))
        return Outputs(pool.clamp(min=torch.finfo(pool.dtype).tiny).log(), ())


def learn_weights(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""The weights of a mixture that make these labels most likely, by expectation maximisation.

    Dempster, Laird and Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm",
    JRSS B 1977, https://doi.org/10.1111/j.2517-6161.1977.tb01600.x, from equal weights:

        w_m <- 1/N \sum_i w_m p_m(y_i) / \sum_l w_l p_l(y_i)

    The likelihood is concave in w, so this is the best mixture, or close to it.

    Shapes:
        probabilities: (M, N, C); labels: (N,); gives (M,), of sum 1.
    """
    said = probabilities[:, torch.arange(len(labels)), labels].double().clamp(min=1e-12)
    weights = torch.full((len(said), 1), 1 / len(said), dtype=torch.float64, device=said.device)
    for _ in range(STEPS):
        share = weights * said
        weights = (share / share.sum(0)).mean(1, keepdim=True)
    return weights[:, 0]
