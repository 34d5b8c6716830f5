"""FedKT: in one round, teachers of parts of a client's data, students of these, and one model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fedkd.algorithms.fedavg import FedAvg, apart, check_sent_whole, full_params, of_group, unsent
from fedkd.components.public_consensus import ballots, elected
from fedkd.core import Properties, Public, Server, Task, leaving
from fedkd.messages import Message, PayloadSpec, Received, Upload
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit, logits_of


@dataclass(frozen=True)
class FedKT(FedAvg):
    """Practical one-shot federated learning for cross-silo setting.

    Qinbin Li, Bingsheng He, Dawn Song. "Practical One-Shot Federated Learning for Cross-Silo
    Setting". IJCAI 2021. https://arxiv.org/abs/2010.01017

    Client: s = `students` times, cut the private examples into t = `subsets` parts, train a teacher
    on each, CE(y, f(x)), and a student on the label that most of these t give each public example.
    Server: the students of a client vote, all s or none, for a label on which they all agree,
        v_m(x) = s |{k: all students of client k give x the label m}|,
    and the model is trained on argmax_m v_m.
    Up: the parameters of s students, 4 s W bytes. Down: 4 W, once, when the round is over.

    One round is all there is to it: take `rounds` 1. In a further one clients begin from the model,
    which then goes down before, too. Each architecture has a model of its own, by the votes of all.

    Conventions: the paper itself was not at hand. In the authors' code votes count as well where
    the students of a client disagree, but for its private variant; here they do not, as the paper
    has it, and public examples for which nobody votes are left out. Of several labels with as many
    votes the first is taken. All models there take 100 passes of Adam, with a decay of 0.00001, and
    public examples are half of the test set. All models of a client begin with the same parameters,
    where the authors draw each anew; the parts are of one shuffle, cut in s ways such that two
    parts of different ways share as few examples as can be. A part without examples has no vote.
    The client keeps its first student. Of the paper's privacy there is nothing here.
    """

    distill: TrainingConfig = TrainingConfig("adam", learning_rate=1e-3, epochs=20, batch_size=32)
    students: Annotated[int, Setting("s, of each client", ge=1)] = 2
    subsets: Annotated[int, Setting("t, teachers of each student", ge=1)] = 5

    properties = Properties(
        public="unlabelled",
        up="all parameters of some models, trained on votes about public examples",
        down="all parameters of the group's model, trained on clients' votes",
        architectures="shared within a group",
        summand="none",
        server_learns="the parameters of the client's students",
        one_round=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.students > self.subsets:
            raise ValueError(
                f"students is {self.students}, each with a cut of its own into subsets, of which "
                f"{self.subsets} allows {self.subsets}; take fewer, or more subsets"
            )
        if self.local.privacy is not None:
            raise ValueError(
                "local.privacy: FedKT trains many models on each example, which nobody here "
                "accounts for; leave out privacy, or take fedmd or dsfl"
            )

    @property
    def public_training(self) -> TrainingConfig:
        """How students, and the server's model, learn."""
        return self.distill

    def check(self, task: Task) -> None:
        """Models go up whole: the server has to predict with them."""
        check_sent_whole(self, task)

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """The models that the server will train."""
        return unsent(task, generator)

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Teachers, and students of their votes."""
        assert public is not None
        start, students = params | received, []
        for cut in range(self.students):
            votes: Tensor | float = 0.0
            for part in range(self.subsets):
                own, there = subset(private, cut, part, self.subsets)
                teacher = fit(predict, start, own, self.local, self.target.loss)
                votes = votes + there * ballots(predict, teacher, public)
            assert isinstance(votes, Tensor)
            labelled = elected(votes, public)
            students.append(fit(predict, start, labelled, self.distill, self.target.loss))
        sent = {f"{k}/{n}": v for k, one in enumerate(students) for n, v in leaving(one).items()}
        return students[0], Upload(sent)

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """Those of all teachers and all students."""
        assert public is not None
        each = _steps(private, self.subsets)
        return self.students * (self.subsets * each + len(public.order))

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Every parameter of each student, in its shape."""
        spec = super().payload_spec(task, group).items()
        plain = [(name, one._replace(trained="no")) for name, one in spec]
        return {f"{k}/{name}": one for k in range(self.students) for name, one in plain}

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Train a model of each architecture on what clients agree on."""
        assert public is not None
        labelled = elected(self._votes(task, uploads, public), public)
        after: Server = {}
        for group, model in sorted(task.models.items()):
            start = full_params(server, group, of_group(server, group))
            taught = fit(model.predict, start, labelled, self.distill, task.target.loss)
            after |= apart(task, group, taught)
        return server | after

    def _votes(self, task: Task, uploads: Iterable[Received], public: Public) -> Tensor:
        """v, (P_r, C), of students who agree with all others of their client."""
        votes = torch.zeros(len(public.rows), task.num_classes, device=task.device)
        for one in uploads:
            predict = task.models[one.group].predict
            models = [of_group(one.payload, str(k)) for k in range(self.students)]
            said = torch.stack(
                [logits_of(predict, m, public.x, public.rows).argmax(dim=-1) for m in models]
            )
            agreed = (said == said[0]).all(dim=0).unsqueeze(1)
            votes += self.students * agreed * F.one_hot(said[0], task.num_classes)
        return votes


def subset(private: Batches, cut: int, part: int, parts: int) -> tuple[Batches, Tensor]:
    """The mini-batches of one part of the examples, and whether it has any, () of 0 or 1.

    Example r parts + c of the first shuffle is in part (c + cut r) modulo parts. The part's
    examples come in the order of all shuffles, one after another.
    """
    index, once = private.records
    place = once.cumsum(dim=0) - 1
    whose = (place + cut * (place // parts)) % parts
    nobody = len(private.y)  # a row more, for padding
    table = torch.full((nobody + 1,), -1, device=index.device)
    table = table.scatter(0, index.where(once, nobody), whose.where(once, -1))
    order, mask = private.order.flatten(), private.mask.flatten().bool()
    mine = mask & (table[order] == part)
    first = (~mine).to(torch.uint8).argsort(stable=True)
    steps, size = _steps(private, parts), ((whose == part) & once).sum()
    shape = private.order.shape
    own = private._replace(
        order=order[first].reshape(shape)[:steps],
        mask=mine[first].reshape(shape)[:steps],
        size=size,
    )
    return own, (size > 0).to(torch.get_default_dtype())


def _steps(private: Batches, parts: int) -> int:
    """In how many mini-batches a part surely fits: of E shuffles of n examples, E ceil(n / t)."""
    steps, width = private.order.shape
    return min(steps, -(-steps // parts) + -(-steps // width))
