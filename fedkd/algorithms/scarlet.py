"""SCARLET: both ends remember a consensus for some rounds, and exchange only what is new."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from fedkd.algorithms.fedavg import of_group
from fedkd.components.client_memory import model_alone, remembered, with_memory
from fedkd.components.public_consensus import (
    digest,
    predictions,
    predictions_spec,
    rows_asked,
    student_steps,
)
from fedkd.core import Algorithm, Properties, Public, Server, Task, as_sent
from fedkd.messages import ROWS, Message, PayloadSpec, Upload
from kdcore.settings import Setting
from kdcore.training.batches import leading
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit

NEWS = "news"  # what the server tells of the last round, the same to all


@dataclass(frozen=True)
class SCARLET(Algorithm):
    """Soft-label caching and sharpening.

    Kitsuya Azuma, Takayuki Nishio, Yuichi Kitagawa, Wakako Nakano, Takahito Tanimura. "Soft-Label
    Caching and Sharpening for Communication-Efficient Federated Distillation". IEEE Transactions on
    Mobile Computing 2026. https://arxiv.org/abs/2504.19602

    As DS-FL, but the server asks about those examples alone of which there is no consensus younger
    than D = `duration` rounds, and tells of these alone; both ends take the others from memory.
    Consensus: p^b / sum_c p_c^b with p = mean_k p_k and b = `exponent`, enhanced ERA.
    Up: 4 C bytes for each example asked about. Down: 4 C + 4 bytes for each of these, the number of
    the round, 4, and 4 P_r of row numbers when a round asks about a part only; at the end, for the
    model in use, no more than that needs.

    Conventions: the paper itself was not at hand, and equations are read off the authors' code
    (kitsuyaazuma/SCARLET, not copied); what is said of the paper is from memory. A client finds out
    by itself what is asked about, by the rounds in which it was told; who was away asks itself
    about more, of which the server takes no notice, and digests only what it remembers (the paper
    sends it what it has missed, for which a server has to keep account of who knows what). The
    authors' code asks about a label of age D anew and lets clients digest the old one, and of an
    older one tells the new and keeps it not; here the new one, kept. There D is 50, of thousands of
    rounds; here 5. There b is 1 for the paper's runs and 2 in the code for reading; here 1.5. The
    model in use is the one that has just digested the newest consensus. The server keeps no model
    of its own.
    """

    distill: TrainingConfig = TrainingConfig(learning_rate=0.2, epochs=3)
    public_size: Annotated[int | None, Setting("public examples of a round; none: all", ge=1)] = (
        None
    )
    duration: Annotated[int, Setting("D, rounds for which a consensus is kept", ge=1)] = 5
    exponent: Annotated[float, Setting("b, of the sharpening; 1: none", gt=0)] = 1.5

    properties = Properties(
        public="unlabelled",
        up="predictions for those public examples of the round that have no young consensus",
        down="the sharpened mean prediction for each of these",
        architectures="any",
        summand="payload",
        server_learns="the client's predictions for public examples",
        distils=True,
    )

    @property
    def public_training(self) -> TrainingConfig:
        """How the consensus is digested."""
        return self.distill

    @property
    def asks(self) -> int | None:
        """P_r."""
        return self.public_size

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """Nothing is known of any public example."""
        assert task.public is not None
        return _nothing(len(leading(task.public)), task.num_classes) | {
            "round": torch.zeros(1).long()
        }

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """What is new since the round before, and which examples that round was about."""
        return of_group(server, NEWS)

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Take note, distil, train, and say of those examples that are due what they are."""
        assert public is not None
        known = _noted(remembered(params), received, public)
        params = self.deploy(predict, params, received, public)
        params = fit(predict, params, private, self.local, self.target.loss)
        said = predictions(predict, params, public, self.target)
        if not known:
            return params, Upload({self.target.sent: said}, rows=as_sent(said.new_ones(len(said))))
        due = self._due(known["since"][public.rows], received["round"])
        return with_memory(params, known), Upload({self.target.sent: said}, rows=as_sent(due))

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """Public ones once there is a consensus, and private ones."""
        return student_steps(received, public) + private.steps

    def deployment(self, server: Server, client: int, group: str) -> Message:
        """What is new, without what serves memory alone, and the rows where these are all."""
        news = self.broadcast(server, client, group)
        if not news:
            return news
        everything = len(news["fresh"]) == len(news.get("rows", server["since"]))
        needless = {"round", "fresh"} if everything else {"round"}
        return {key: value for key, value in news.items() if key not in needless}

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """The student of what is new and of what it remembers, about the last round's examples."""
        model = model_alone(params)
        if not received or public is None:
            return model
        about = received.get("rows", public.rows).long()
        fresh = received.get("fresh", about).long()
        labels = _labels(remembered(params), received["consensus"], fresh, public)
        message = {"consensus": labels[about], "rows": about}
        return digest(predict, model, message, public, self.distill, self.target)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """A distribution for each public example of the round that is due."""
        return predictions_spec(task, self.public_size, rows=True)

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """Sharpen the means of what was due, remember them, and tell them."""
        assert public is not None
        asked = self._due(server["since"][public.rows], server["round"]) & (total[ROWS] > 0)
        means = total[task.target.sent][asked] / total[ROWS][asked].unsqueeze(1)
        powers = means.clamp(min=0) ** self.exponent
        fresh = as_sent(powers / powers.sum(dim=-1, keepdim=True))
        rows, number = public.rows[asked], server["round"] + 1
        news = {"consensus": fresh, "fresh": rows.int(), "round": number.int()}
        news |= rows_asked(public)
        return {f"{NEWS}/{key}": value for key, value in news.items()} | {
            "labels": server["labels"].index_copy(0, rows, fresh),
            "since": server["since"].index_fill(0, rows, int(number)),
            "round": number,
        }

    def _due(self, since: Tensor, round_before: Tensor) -> Tensor:
        """Which consensus is none, or too old for the round after this one."""
        return (since == 0) | (round_before + 1 - since >= self.duration)


def _nothing(public: int, classes: int) -> Message:
    """A consensus of no public example, and since which round there is one: 0 for none."""
    return {"labels": torch.zeros(public, classes), "since": torch.zeros(public).long()}


def _labels(memory: Message, said: Tensor, fresh: Tensor, public: Public) -> Tensor:
    """The labels of all public examples that a client knows of, (P, C): what is fresh, as told."""
    known = memory.get("labels", said.new_zeros(public.total, said.shape[1]))
    return known.index_copy(0, fresh, said)


def _noted(memory: Message, received: Message, public: Public) -> Message:
    """A client's memory with the news; nothing before there are any."""
    if not received:
        return memory
    fresh, number = received["fresh"].long(), received["round"].long()
    never = torch.zeros(public.total, dtype=torch.long, device=fresh.device)
    return {
        "labels": _labels(memory, received["consensus"], fresh, public),
        "since": memory.get("since", never).index_copy(0, fresh, number.expand(len(fresh))),
    }
