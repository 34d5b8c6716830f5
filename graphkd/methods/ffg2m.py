"""FF-G2M: what neighbours have in common, and where they differ."""

from dataclasses import dataclass

from torch import Tensor

from graphkd import losses
from graphkd.graph import Graph, Part
from graphkd.method import DistillationContext, LossTerm, Method, Share, Temperature
from graphkd.training import published
from kdcore.outputs import Outputs


@dataclass(frozen=True)
class FFG2M(Method):
    r"""A graph network teaches an MLP the low and the high frequencies of its labels.

    Wu, Lin, Huang, Fan and Li, "Extracting Low-/High-Frequency Knowledge from Graph Neural
    Networks and Injecting it into MLPs", AAAI 2023, https://arxiv.org/abs/2305.10758.

        L = \lambda mean_{train} CE + (1 - \lambda) (mean_i LFD_i + mean_i HFD_i)

    see `losses.low_frequency` and `losses.high_frequency`. Convention: as in the authors' code
    all nodes at once, 500 epochs at most, and the temperature in the high frequencies alone,
    without its square.
    """

    published_settings = published.FFG2M

    hard_weight: Share = None
    temperature: Temperature = None
    epochs: int = 500

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """Both frequencies, with the weight that the hard labels leave."""
        assert self.hard_weight is not None
        assert self.temperature is not None
        weight = 1 - self.hard_weight
        high = Differences(self.temperature)
        return LossTerm(losses.low_frequency, weight), LossTerm(high, weight / self.temperature**2)


class Differences:
    """`losses.high_frequency`, with the teacher's side worked out once for each graph.

    The two directions of an undirected edge have the same value, which is worked out once too, and
    given to one of its ends: the mean over the nodes is the same.
    """

    def __init__(self, temperature: float):
        self.temperature = temperature
        self._known: tuple[object, Tensor, Tensor, Tensor, Tensor] | None = None

    def __call__(self, student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
        """One value per node."""
        if self._known is None or self._known[0] is not graph:
            self._known = (graph, *self._taught(teacher.logits.detach(), graph))
        _, edges, times, q, certainty = self._known
        log_p = self._soft(student.logits, edges)
        value = times * self.temperature**2 * (certainty - (q * log_p).sum(0))
        total = value.new_zeros(graph.num_nodes).index_add(0, edges[1], value)
        return total * (graph.num_nodes / max(1, int(times.sum())))

    def _taught(self, logits: Tensor, graph: Graph | Part) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The undirected edges, how often each is there, and what the teacher says along them."""
        keys = graph.edge_index.sort(0).values
        edges, times = keys.unique(dim=1, return_counts=True)
        log_q = self._soft(logits, edges)
        q = log_q.exp()
        return edges, times.to(q), q, (q * log_q).sum(0)

    def _soft(self, logits: Tensor, edges: Tensor) -> Tensor:
        # (C, E): a softmax over so few numbers is 15 times slower where they lie side by side.
        source, target = edges
        by_class = logits.T.contiguous()
        gap = by_class.index_select(1, target) - by_class.index_select(1, source)
        return (gap.abs() / self.temperature).log_softmax(0)
