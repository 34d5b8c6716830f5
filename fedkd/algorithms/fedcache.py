"""FedCache: the server keeps what clients say of every example, and passes it on to like ones."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from fedkd import encoders
from fedkd.algorithms.fedavg import of_group
from fedkd.components.knowledge_cache import held_places, members, noted, teachers, with_relatives
from fedkd.components.paired_models import shared_model, shared_predict
from fedkd.components.sample_exchange import own_examples, with_teacher
from fedkd.core import Algorithm, Model, Properties, Public, Server, Task
from fedkd.messages import ANY, Message, PayloadSpec, Received, Upload, on
from kdcore.losses.response import kl
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit, predict_logits

ENCODER = "encoder"


@dataclass(frozen=True)
class FedCache(Algorithm):
    """A knowledge cache-driven federated learning architecture.

    Zhiyuan Wu, Sheng Sun, Yuwei Wang, Min Liu, Ke Xu, Wen Wang, Xuefeng Jiang, Bo Gao, Jinda Lu.
    "FedCache: A Knowledge Cache-Driven Federated Learning Architecture for Personalized Edge
    Intelligence". IEEE Transactions on Mobile Computing 2024. https://arxiv.org/abs/2308.07816

    With e(x) the hash that an encoder makes of an example: the relatives of an example are the
    R = `related` others of its label, of whichever client, whose hashes are nearest by cosine.
    Client: CE(y, f(x)) + strength T^2 KL(softmax(z / T) || softmax(f(x) / T)), z the mean of the
    logits that the server has of the relatives of x. Server: keeps the newest logits of each.
    Up: 4 C bytes for each private example; once, 4 D + 4 more, its hash and its label. Down: 4 C
    for each; once, the encoder, 4 W bytes.

    Conventions: equations and defaults are read off the authors' code (wuzhiyuan2000/FedCache, not
    copied); the paper itself was not at hand. There the encoder is MobileNetV3 with weights of
    ImageNet, at hand everywhere and sent to nobody; here by default the server trains one on public
    examples without labels (`fedkd.encoders`), or it is one's own. T is 3: the code's
    divergence has that built in, and its `T` of 1 divides only the teacher's logits once more.
    There clients take turns within a round, each told what others have just said, the cache begins
    with zeros, an even teacher, and logits are those before each step; here all are told what stood
    after the round before, nothing where nobody has said anything, and logits are those after
    training. A round there is one pass in batches of 8, by SGD at 0.01 with momentum and a decay
    of 0.0005, never shuffled. Neighbours are exact, and not by HNSW. Means are taken at the server,
    so that C numbers go down for an example and not R C. Examples without another of their label
    have no teacher. Who is away keeps its place in the cache.
    """

    encoder: Annotated[
        str,
        Setting("what makes hashes; `kdsim list encoders`", names="fedkd.encoders"),
    ] = "autoencoder"
    network: Annotated[str, Setting("architecture that the encoder trains")] = "mlp-64"
    pretraining: TrainingConfig = TrainingConfig("adam", learning_rate=1e-3, epochs=50)
    related: Annotated[int, Setting("R, relatives of an example", ge=1)] = 16
    strength: Annotated[float, Setting("weight of what relatives say", ge=0)] = 1.5
    temperature: Annotated[float, Setting("T, of the divergence", gt=0)] = 3.0

    properties = Properties(
        public="unlabelled",
        up="logits of every private example, and once its hash and its label",
        down="the mean logits of each one's relatives, and once the encoder",
        architectures="any",
        summand="none",
        server_learns="the label of every private example, its logits, and features of it by a "
        "network that the server knows, from which inputs may be drawn again",
        beyond_training=("hashes", "labels", "logits", "rows"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.local.passes("fedcache")
        if not self._encoder.public:
            object.__setattr__(self, "properties", self.properties._replace(public="none"))

    def check(self, task: Task) -> None:
        """There is something to be seen of inputs, by all in the same way."""
        if self._encoder.network:
            shared_model(task, self.network)  # refused as a network of the task's classes would be
        for group in sorted(task.models):
            encoders.width(self._encoder, self._seeing(task, group), task)

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """The encoder, trained; nothing is known of any example."""
        if not self._encoder.network:
            return {}
        model = self._seeing(task, "")
        params = on(model.init(generator), task.device)
        args = task.public, self.pretraining, generator
        learnt = self._encoder.pretrained(model, params, *args)
        return {f"{ENCODER}/{name}": value for name, value in learnt.items()}

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The teachers' logits, in the order of `own_examples`; the encoder to who is unknown."""
        if (key := f"teachers/{client}") in server:
            return {"logits": server[key]}
        return of_group(server, ENCODER)

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train, with the relatives as teachers; say of each example what came out."""

        def loss(outputs: Outputs, y: Tensor | tuple[Tensor, Tensor]) -> Tensor:
            if isinstance(y, Tensor):
                return self.target.loss(outputs, y)
            known = (y[1] != 0).any(dim=-1).to(y[1].dtype)
            taught = known * kl(outputs.logits, y[1], self.temperature)
            return self.target.loss(outputs, y[0]) + self.strength * taught

        taught = "logits" in received
        examples, spare, held = own_examples(private, self.local.epochs)
        batches = with_teacher(private, examples, received["logits"]) if taught else private
        params = fit(predict, params, batches, self.local, loss)
        shown = torch.where(held > 0, examples, spare)
        payload = {"logits": predict_logits(predict, params, private.x, shown)}
        if not taught:
            payload |= self._introduced(predict, params, received, private, shown)
        return params, Upload(payload, rows=held)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Logits of as many examples as the client has, and once hashes and labels."""
        wide = encoders.width(self._encoder, self._seeing(task, group), task)
        logits = PayloadSpec((ANY, task.num_classes), rows=True, tells_size=True)
        return {
            "logits": logits,
            "hashes": logits._replace(shape=(ANY, wide), once=True),
            "labels": logits._replace(shape=(ANY,), below=task.num_classes, once=True),
        }

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Take note of what was said, find relatives for who is new, and ask them for all."""
        after, received = dict(server), list(uploads)
        for upload, places in zip(received, held_places(received), strict=True):
            after |= noted(after, upload, places)
        if members(after) != members(server):
            after |= with_relatives(after, self.related)
        return after | teachers(after)

    @property
    def _encoder(self) -> encoders.Encoder:
        return encoders.REGISTRY.get(self.encoder)()

    def _seeing(self, task: Task, group: str) -> Model:
        """The network by which inputs are seen: one for all, or with pixels the client's own."""
        if self._encoder.network:
            return shared_model(replace(task, num_classes=1), self.network)
        return task.models[group]

    def _introduced(
        self, predict: Predict, params: Params, received: Message, private: Batches, shown: Tensor
    ) -> Message:
        """The hash and the label of each example."""
        if self._encoder.network:
            predict, params = shared_predict(self.network, private.x, predict), received
        seen = self._encoder.shown(predict)
        hashes = predict_logits(seen, params, private.x, shown)
        return {"hashes": hashes, "labels": private.y[shown].int()}
