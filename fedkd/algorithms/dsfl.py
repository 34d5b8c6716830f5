"""DS-FL: a sharpened consensus on unlabelled public examples."""

from dataclasses import dataclass, field
from typing import Annotated

from fedkd.components.aggregation import Aggregating, of_consensus
from fedkd.components.public_consensus import (
    consensus_message,
    predictions_spec,
    student,
    student_steps,
    trained_and_asked,
)
from fedkd.core import Properties, Public, Server, Task, as_sent
from fedkd.messages import Message, PayloadSpec, Upload
from fedkd.targets import ALL
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig


@dataclass(frozen=True)
class DSFL(Aggregating):
    """Distillation-based semi-supervised federated learning, with entropy reduction aggregation.

    Sohei Itahara, Takayuki Nishio, Yusuke Koda, Masahiro Morikura, Koji Yamamoto.
    "Distillation-Based Semi-Supervised Federated Learning for Communication-Efficient Collaborative
    Training with Non-IID Private Data". IEEE Transactions on Mobile Computing 22(1), 2023.
    https://arxiv.org/abs/2008.06180

    Client: CE(y, f(private)); upload the predictions p_k for the round's public examples.
    Server: consensus = softmax(mean_k p_k / T). Client: CE(consensus, f(public)).
    Up: 4 C P_r bytes. Down: 4 C P_r, and 4 P_r of row numbers when a round asks about a part only.

    Conventions: the temperature divides probabilities, not logits; below 1/C or so it sharpens.
    That is the paper's ERA; with `aggregation = "sa"`, its simple aggregation, the mean stays as it
    is. Other papers' ways to a consensus are in `fedkd.consensus`.
    The consensus is digested at the start of the next round; the model in use is the one that has
    just digested the newest, as in the paper. The server keeps no model of its own.
    """

    distill: TrainingConfig = TrainingConfig(learning_rate=0.2, epochs=3)
    public_size: Annotated[int | None, Setting("public examples of a round; none: all", ge=1)] = (
        None
    )
    aggregation: str = field(default="era", kw_only=True)
    temperature: float = field(default=0.1, kw_only=True)

    properties = Properties(
        public="unlabelled",
        up="predictions for the round's public examples",
        down="the sharpened mean prediction for each of them",
        architectures="any",
        summand="payload",
        server_learns="the client's predictions for public examples",
        targets=ALL,
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
        return of_consensus(server)

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Distil the consensus, train, predict."""
        assert public is not None
        params = self.deploy(predict, params, received, public)
        params, said = trained_and_asked(predict, params, private, public, self.local, self.target)
        beside = self.beside(predict, params, private, public)
        return params, said._replace(payload=said.payload | beside)

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """Public ones once there is a consensus, and private ones."""
        return student_steps(received, public) + private.steps

    def deployment(self, server: Server, client: int, group: str) -> Message:
        """The newest consensus."""
        return self.broadcast(server, client, group)

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """The student of the newest consensus."""
        return student(predict, params, received, public, self.distill, self.target)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """A prediction for each public example of the round."""
        return self.with_nearness(predictions_spec(task, self.public_size))

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """Sharpen the mean."""
        assert public is not None
        agreed = self.pooled(total, task.target.sent, count, task.target)
        return consensus_message(as_sent(agreed), public)
