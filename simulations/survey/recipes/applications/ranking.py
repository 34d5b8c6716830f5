"""Ranking: a student that saw a fifth of what users liked learns the order of one that saw all."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from kdcore.losses.ranking import listwise_softmax, ranking_distillation, relaxed_ranking
from kdcore.losses.response import soft_cross_entropy
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.stages import LossTerm, Stage, TermLoss, run
from kdcore.settings import WIDEST, Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import Params, TrainingConfig
from simulations.survey.datasets import Ratings
from simulations.survey.recipes import Metrics, StudentTraining, TeacherTraining


@dataclass(frozen=True)
class Ranking:
    """Ranking distillation between matrix factorisations.

    Jiaxi Tang, Ke Wang. "Ranking Distillation: Learning Compact Ranking Models With High
    Performance for Recommender System". KDD 2018. https://arxiv.org/abs/1809.07428 (`_rd`)

    SeongKu Kang, Junyoung Hwang, Wonbin Kweon, Hwanjo Yu. "DE-RRD: A Knowledge Distillation
    Framework for Recommender System". CIKM 2020. https://arxiv.org/abs/2012.04357 (`_rrd`)

    Zhe Cao, Tao Qin, Tie-Yan Liu, Ming-Feng Tsai, Hang Li. "Learning to Rank: From Pairwise
    Approach to Listwise Approach". ICML 2007. https://doi.org/10.1145/1273496.1273513 (no suffix:
    the teacher's list as a distribution)

    A rating of any height is an interaction. Of each user's, a share is for the test, the teacher
    trains on all others and the student on a share of them. Both learn from interactions by a
    softmax over all items, on top of which each arm has one term of what the teacher says.
    Controls: the same student without the teacher, for as many epochs as serve it best; the
    listwise term of a teacher that speaks of somebody else's taste (`_stranger`); the items that
    are the most popular in what the student sees, for everyone (`_popular`).

    The score is NDCG@10 of the full ranking: no sampled negatives, and what was to train on, for
    whomever, is no candidate.
    """

    data: ClassVar[str] = "movielens"

    ratings: Annotated[int, Setting("of an item, at the least; others are left out", ge=1)] = 5
    test: Annotated[float, Setting("share of a user's items that is for the test", gt=0, lt=1)] = (
        0.2
    )
    seen: Annotated[float, Setting("share of the others that the student sees", gt=0, le=1)] = 0.2
    teacher: Annotated[int, Setting("numbers that a user and an item have", ge=1, le=WIDEST)] = 64
    student: Annotated[int, Setting("numbers that a user and an item have", ge=1, le=WIDEST)] = 16
    top: Annotated[
        int, Setting("items, the teacher's first, that ranking losses are about", ge=1)
    ] = 40
    position: Annotated[float, Setting("scale of the weights of positions", gt=0)] = 10.0
    weight: Annotated[float, Setting("of the ranking loss", ge=0)] = 1.0
    temperature: Annotated[float, Setting("T of the listwise distributions", gt=0)] = 1.0
    teacher_training: TeacherTraining = TrainingConfig(
        "adam", 0.01, weight_decay=1e-4, epochs=24, batch_size=64
    )
    student_training: StudentTraining = TrainingConfig(
        "adam", 0.02, weight_decay=1e-3, epochs=30, batch_size=64
    )

    def measure(self, data: Ratings, seed: int) -> Metrics:
        """NDCG@10 of each student, of the teacher, and of the most popular items for all."""
        liked = matrix(data, self.ratings)
        test = some(liked, self.test, generator(seed, "test"))
        known = liked & ~test
        count, items = liked.shape
        seen = some(known, self.seen, generator(seed, "seen"))
        start = {
            who: factors(count, items, width, generator(seed, "init", who))
            for who, width in (("teacher", self.teacher), ("student", self.student))
        }
        stage = Stage(
            {"teacher": (LossTerm(interactions),)}, histories(known), self.teacher_training
        )
        taught = run([stage], start, generator(seed, "teach"))
        strangers = torch.randperm(len(liked), generator=generator(seed, "strangers"))
        mixed = taught["teacher"].params | {"users": taught["teacher"].params["users"][strangers]}
        taught["stranger"] = Learner(scores, mixed)
        arms = {
            "": (LossTerm(self.listwise, ("teacher",), self.weight),),
            "_stranger": (LossTerm(self.listwise, ("stranger",), self.weight),),
            "_rd": (LossTerm(self.first_ones, ("teacher",), self.weight),),
            "_rrd": (LossTerm(self.relaxed(seed), ("teacher",), self.weight / self.top),),
            "_baseline": (),
        }
        users = torch.arange(len(liked))
        metrics = {}
        for arm, terms in arms.items():
            study = Stage(
                {"student": (LossTerm(interactions), *terms)},
                histories(seen),
                self.student_training,
            )
            student = run([study], taught, generator(seed, "learn"))["student"]
            metrics[f"ndcg{arm}"] = ndcg(student(users).logits, test, known)
        popular = seen.double().sum(0).expand(len(liked), -1)
        return metrics | {
            "ndcg_teacher": ndcg(taught["teacher"](users).logits, test, known),
            "ndcg_popular": ndcg(popular, test, known),
        }

    def listwise(self, student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
        """The teacher's distribution over the items that the student has not seen."""
        return listwise_softmax(student.logits, teacher.logits, y == 0, self.temperature)

    def first_ones(self, student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
        """Ranking distillation, weighted by position alone."""
        best = unseen(teacher.logits, y).topk(self.top).indices
        return ranking_distillation(student.logits, best, position=self.position)

    def relaxed(self, seed: int) -> TermLoss:
        """Relaxed ranking distillation; the uninteresting items are drawn anew for each batch."""
        source = generator(seed, "uninteresting")

        def loss(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
            order = unseen(teacher.logits, y).argsort(-1, descending=True)
            drawn = torch.randint(self.top, order.shape[1] // 2, (self.top,), generator=source)
            return relaxed_ranking(student.logits, order[:, : self.top], order[:, drawn])

        return loss


# ---------------------------------------------------------------- interactions


def matrix(data: Ratings, least: int) -> Tensor:
    """Who rated what, of the items with so many ratings at least: (U, I), true or false."""
    kept = torch.bincount(data.items)[data.items] >= least
    items, place = data.items[kept].unique(return_inverse=True)
    liked = torch.zeros(int(data.users.max()) + 1, len(items), dtype=torch.bool)
    liked[data.users[kept], place] = True
    return liked


def some(marked: Tensor, share: float, source: torch.Generator) -> Tensor:
    """A random share of what is marked in each row, rounded up: (U, I), true or false."""
    draw = torch.rand(marked.shape, generator=source).masked_fill(~marked, 2.0)
    place = draw.argsort(-1).argsort(-1)
    return place < (share * marked.sum(-1, keepdim=True)).ceil()


def histories(seen: Tensor) -> Examples:
    """A user an example, whose target marks the items seen."""
    users = torch.arange(len(seen))
    return Examples(users, seen.float(), users)


def unseen(scores: Tensor, seen: Tensor) -> Tensor:
    """Scores of -inf for what was seen."""
    return scores.masked_fill(seen > 0, -math.inf)


def ndcg(scores: Tensor, relevant: Tensor, seen: Tensor, cut: int = 10) -> float:
    r"""Normalised discounted cumulative gain of the first `cut` items, the mean over users.

    Kalervo Järvelin, Jaana Kekäläinen. "Cumulated Gain-Based Evaluation of IR Techniques". ACM
    TOIS 2002. https://doi.org/10.1145/582415.582418

        \sum_{r <= cut} relevant_r / \log_2(r + 1),   over its value for the best order

    Convention: items that were seen are no candidates, users without a relevant item do not count.

    Shapes:
        scores: (U, I); relevant, seen: (U, I), true or false.
    """
    asked = relevant.any(-1)
    best = unseen(scores[asked], seen[asked]).topk(cut).indices
    relevant = relevant[asked]
    worth = 1 / torch.arange(2, cut + 2, dtype=torch.float64).log2()
    gain = (relevant.gather(1, best) * worth).sum(-1)
    ideal = worth.cumsum(0)[relevant.sum(-1).clamp(max=cut) - 1]
    return float((gain / ideal).mean())


# ---------------------------------------------------------------- matrix factorisation


def factors(users: int, items: int, width: int, source: torch.Generator) -> Learner:
    """Scores are inner products of a user's and an item's vector, and the item's own part."""
    params = {
        "users": 0.1 * torch.randn(users, width, generator=source),
        "items": 0.1 * torch.randn(items, width, generator=source),
        "bias": torch.zeros(items),
    }
    return Learner(scores, params)


def scores(params: Params, users: Tensor) -> Outputs:
    """(B,) users -> (B, I) scores."""
    return Outputs(params["users"][users] @ params["items"].T + params["bias"])


def interactions(student: Outputs, y: Tensor) -> Tensor:
    """The loss of interactions: cross-entropy with the user's items as a distribution."""
    return soft_cross_entropy(student.logits, y / y.sum(-1, keepdim=True))
