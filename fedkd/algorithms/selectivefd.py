"""Selective-FD: clients keep silent about what is unlike their own data, the server about doubt."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from fedkd.algorithms.fedavg import of_group
from fedkd.components.density_ratio import density_ratio, masked_quantile
from fedkd.components.features import embedding
from fedkd.components.public_consensus import (
    digest,
    predictions_spec,
    rows_asked,
    student_steps,
    trained_and_asked,
)
from fedkd.core import Algorithm, Properties, Public, Server, Task, as_sent
from fedkd.messages import ROWS, Message, PayloadSpec, Upload
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, predict_logits

NEWS = "news"  # what the server broadcasts, the same to all
HELD_OUT = 5  # every so manieth of a client's examples sets the threshold


@dataclass(frozen=True)
class SelectiveFD(Algorithm):
    """Selective knowledge sharing for federated distillation.

    Jiawei Shao, Fangzhao Wu, Jun Zhang. "Selective Knowledge Sharing for Privacy-Preserving
    Federated Distillation without a Good Teacher". Nature Communications 2024.
    https://arxiv.org/abs/2304.01731

    Client: CE(y, f(private)); of the round's public examples x, upload the predictions of those for
    which r_k(x) is no less than the quantile of r_k over own examples that were held out, r_k the
    ratio of the client's density to an even one (`fedkd.components.density_ratio`). Server: q = the
    mean over those who sent x, told where |q - one-hot(argmax q)|_1 <= t, t = `ambiguity`.
    Client: CE(q, f(public)) where q was told.
    Up: 4 C bytes for each example sent. Down: 4 C + 4 for each told, and 4 P_r of row numbers when
    a round asks about a part only.

    Conventions: the paper itself was not at hand; equations are read off the authors' demo of MNIST
    (shaojiawei07/Selective-FD, not copied). Densities are of inputs as they are, so `width` is in
    their units; of a graph's nodes, and of whole graphs, of the numbers by which networks know them
    (`Network.embedding`), which is ours. The demo has 1.5 of an image's range (5, of pixels divided
    by .31), a quantile of a quarter and no selector at the server, and so are the defaults: t = 2
    lets everything pass. Its code multiplies by the matrix that is to be inverted; here it is
    inverted. Every fifth example is held out, there 19 of 20; who has fewer than five sends
    everything. Who is exactly at the quantile sends, there not. A round there is one mini-batch of
    private examples, 64, and ten steps on one of public examples, 512, by SGD at 0.1, falling, with
    dropout; here passes. The model in use has just digested the newest consensus, as there.
    """

    distill: TrainingConfig = TrainingConfig(learning_rate=0.2, epochs=3)
    public_size: Annotated[int | None, Setting("public examples of a round; none: all", ge=1)] = (
        None
    )
    width: Annotated[float, Setting("of the kernel, in units of the inputs", gt=0)] = 1.5
    quantile: Annotated[float, Setting("of own ratios, below which to be silent", ge=0, le=1)] = (
        0.25
    )
    ambiguity: Annotated[float, Setting("t, most that q may miss being certain", ge=0, le=2)] = 2.0

    properties = Properties(
        public="unlabelled",
        up="predictions for those public examples of the round that are like the client's own",
        down="the mean prediction for those of which it is clear",
        architectures="any",
        summand="payload",
        server_learns="the client's predictions, and which public examples are like its own",
        beyond_training=("rows",),
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

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The newest consensus, the same for all."""
        return of_group(server, NEWS)

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Distil, train, and say what is like the own examples."""
        assert public is not None
        params = self.deploy(predict, params, received, public)
        params, said = trained_and_asked(predict, params, private, public, self.local, self.target)
        return params, said._replace(rows=self.familiar(predict, params, private, public))

    def familiar(
        self, predict: Predict, params: Params, private: Batches, public: Public
    ) -> Tensor:
        """Which of the round's public examples are like the client's own, (P_r,) of 0 and 1."""
        index, once = private.records
        if not len(index):
            return as_sent(torch.ones_like(public.rows))
        nobody = len(private.y)
        mine = torch.where(once, index, nobody).sort().values  # whatever the shuffle
        there, places = mine < nobody, torch.arange(len(mine), device=mine.device)
        out = there & (places % HELD_OUT == HELD_OUT - 1)
        seen = embedding(predict)
        own = predict_logits(seen, params, private.x, torch.where(there, mine, -1))
        asked, everywhere = (seen(params, x).logits for x in (public.asked, public.x))
        known = as_sent(there & ~out)
        bounds = everywhere.min(), everywhere.max()
        both = torch.cat([own, asked])
        ratios = density_ratio(own, known, both, *bounds, self.width)
        least = masked_quantile(ratios[: len(own)], as_sent(out), self.quantile)
        return as_sent(ratios[len(own) :] >= least)

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """Public ones once there is a consensus, and private ones."""
        return student_steps(received, public) + private.steps

    def deployment(self, server: Server, client: int, group: str) -> Message:
        """The newest consensus."""
        return self.broadcast(server, client, group)

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """The student of what was told; of all else it learns nothing."""
        if not received or public is None:
            return params
        clear, said = received["clear"].long(), received["consensus"]
        table = said.new_zeros(public.total, said.shape[1]).index_copy(0, clear, said)
        about = received.get("rows", public.rows).long()
        message = {"consensus": table[about], "rows": about}
        return digest(predict, params, message, public, self.distill, self.target)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """A distribution for each public example of the round that is sent."""
        return predictions_spec(task, self.public_size, rows=True)

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """The means of those who sent an example, where they are clear."""
        assert public is not None
        sent = total[ROWS]
        means = total[task.target.sent] / sent.clamp(min=1).unsqueeze(1)
        certain = torch.nn.functional.one_hot(means.argmax(dim=1), means.shape[1])
        clear = (sent > 0) & ((means - certain).abs().sum(dim=1) <= self.ambiguity + 1e-9)
        news = {"consensus": as_sent(means[clear]), "clear": public.rows[clear].int()}
        news |= rows_asked(public)
        return {f"{NEWS}/{key}": value for key, value in news.items()}
