"""What a rule of consensus is."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

ROW_WEIGHTS = "/row weights"  # in a sum over clients: the weights of each row together
NEARNESS = "nearness"  # in an upload, beside predictions: what each row of them counts for
LEAST = 1e-3  # of a row's weight: a sum of them is far enough from 0 to be rounded in a secret sum


class Rule:
    r"""How the predictions q_k of K clients for the same P examples become one.

        consensus_p = \sum_k w_k v_kp q_kp / \sum_k w_k v_kp

    v_kp is how much client k counts for example p, by its own prediction alone (`rows`) or by how
    near the example lies to its own (`nearness`), and w_k how much it counts altogether, by the
    predictions of all (`clients`). Where rules leave both
    alone this is the mean. A distribution stays one: weights are never negative.

    Attributes:
        sharpened: whether entropy reduction follows (`fedkd.targets.Target.sharpened`).
        distributions: whether predictions have to be distributions along their last axis.
        each: whether the rule compares clients, and so needs each upload.
        placed: whether clients say beside their predictions how near examples lie to their own.
    """

    sharpened: ClassVar[bool] = False
    distributions: ClassVar[bool] = False
    each: ClassVar[bool] = False
    placed: ClassVar[bool] = False

    @property
    def weighs_rows(self) -> bool:
        """Whether a sum has the weights of rows in it."""
        return self.placed or type(self).rows is not Rule.rows

    def rows(self, q: Tensor) -> Tensor | None:
        """(*P, C) of one client -> (*P), v_k, over 0 and up to 1; None: all rows count alike."""
        return None

    def nearness(self, own: Tensor, mask: Tensor, public: Tensor) -> Tensor:
        """What rows count for, (P,), over 0 and up to 1, where they are `placed`.

        Args:
            own: (M, D), a client's examples.
            mask: (M,), which of these there are.
            public: (P, D), those that predictions are for.
        """
        raise NotImplementedError(f"{type(self).__name__} places no examples")

    def clients(self, q: Tensor, outlying: Tensor) -> tuple[Tensor, Tensor]:
        """How much each client counts, w (K,), the largest 1; and its outlier score from now on.

        Args:
            q: (K, ...), the predictions of all, in float64.
            outlying: (K,), their outlier scores so far: 0 for whoever is heard for the first time.
        """
        return outlying.new_ones(len(q)), outlying

    def summand(self, payload: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is added up of a client's predictions, under their own key, and of its rows."""
        terms = {key: value.double() for key, value in payload.items()}
        for key, value in payload.items():
            weights = self.rows(value.double())
            if weights is not None:
                terms = {key: weights.unsqueeze(-1) * terms[key], ROW_WEIGHTS: weights}
        return terms

    def pooled(self, total: Mapping[str, Tensor], key: str, count: float) -> Tensor:
        """The consensus, not sharpened yet, of a sum of so many clients' summands."""
        if ROW_WEIGHTS not in total:
            return total[key] / count
        return total[key] / total[ROW_WEIGHTS].unsqueeze(-1)
