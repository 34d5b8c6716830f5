"""FedGen: the server learns to generate features, and clients train on them besides their own."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fedkd.algorithms.fedavg import FedAvg, average_by_group, of_group
from fedkd.components.feature_generator import generator_loss, label_batches, maker, seeds
from fedkd.components.features import feature_width, head_names, label_counts
from fedkd.core import Model, Properties, Public, Server, Task
from fedkd.messages import Message, PayloadSpec, Received, Upload
from kdcore.outputs import Outputs
from kdcore.rng import generator as stream
from kdcore.settings import WIDEST, Setting
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit


@dataclass(frozen=True)
class FedGen(FedAvg):
    """Data-free knowledge distillation for heterogeneous federated learning.

    Zhuangdi Zhu, Junyuan Hong, Jiayu Zhou. "Data-Free Knowledge Distillation for Heterogeneous
    Federated Learning". ICML 2021. https://arxiv.org/abs/2105.10056

    A generator G(e, l) in R^D, e normal, makes features of label l; g_k is the head of client k.
    Client: CE(y, f(x)) + b r KL(q[y] || f(x)) + a r sum_l p_l mean_e CE(l, g(G(e, l))), with
    q[l] = mean_e softmax(g_server(G(e, l))), p the labels' shares, a = `generated_weight`,
    b = `answer_weight` and r = decay^round.
    Server: averages parameters by group, and trains G on
        mean_{e, l ~ p} sum_k n_kl / n_l CE(l, g_k(G(e, l))) + diversity exp(-mean_ij d_ij),
        d_ij = mean (e_i - e_j)^2 mean |G_i - G_j|.
    Up: all parameters, 4 W bytes, label counts, 4 C, and n_k. Down: 4 W, features 4 C M D, and p.

    Conventions: the server sends M = `samples` features for each label, drawn anew in each round,
    in place of G; clients need no generator. q is of the averaged head that came with them, and
    stays as it is while the client trains. Only the head sees generated features, so that groups of
    different architectures learn from one G. Heads are linear; G normalises no batches. The authors
    take a = b = 10 with a learning rate of 0.01; here 1, with 0.1.
    """

    generated_weight: Annotated[float, Setting("a, of generated features", ge=0)] = 1.0
    answer_weight: Annotated[float, Setting("b, of the averaged head", ge=0)] = 1.0
    decay: Annotated[float, Setting("of both weights, in a round", ge=0)] = 0.98
    diversity: Annotated[float, Setting("weight of unlike features", ge=0)] = 1.0
    noise: Annotated[int, Setting("width of e", ge=1, le=WIDEST)] = 32
    hidden: Annotated[int, Setting("width of G", ge=1, le=WIDEST)] = 256
    samples: Annotated[int, Setting("M, features sent for a label", ge=1)] = 16
    steps: Annotated[int, Setting("mini-batches of G, in a round", ge=1)] = 40
    generator: TrainingConfig = TrainingConfig(
        "adam", learning_rate=3e-4, weight_decay=1e-2, batch_size=32
    )

    properties = Properties(
        public="none",
        up="all parameters, and how many examples of each label there are",
        down="all parameters of the group's average, and generated features",
        architectures="shared within a group",
        summand="none",
        server_learns="the client's parameters and its number of examples of each label",
        beyond_training=("label_counts", "weight"),
        distils=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.generator.batch_size:
            raise ValueError("generator.batch_size is 0, and what it learns of is drawn; take 1 up")

    def check(self, task: Task) -> None:
        """All models have linear heads on features of one width, and send their heads."""
        feature_width(task)
        for group, model in task.models.items():
            head = head_names(model.init(torch.Generator()))
            if model.local & {*head}:
                raise ValueError(
                    f"FedGen learns from the heads of all clients, and the head of {group} is "
                    "local; leave it out of `local`, or take FedAvg"
                )

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """Initial parameters for each group and for the generator."""
        averages = super().init(task, generator)
        made = self._maker(task).init(generator)
        return averages | {
            **{f"generator/{name}": value for name, value in made.items()},
            "seed": torch.randint(2**31, (1,), generator=generator),
            "round": torch.tensor([0]),
        }

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The average of the client's group, and what the generator makes."""
        return of_group(server, group) | of_group(server, "made")

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train from the average, on the own examples and on generated features."""
        weight, bias = head_names(params)
        averaged = {name: value for name, value in received.items() if name in params}
        start = params | averaged
        made = {name: value for name, value in received.items() if name not in params}
        if made:
            logits = F.linear(made["features"], start[weight], start[bias])  # (C, M, C)
            made["answers"] = logits.softmax(dim=-1).mean(dim=1)

        def loss(outputs: Outputs, y: Tensor, made: Message) -> Tensor:
            hard = self.target.loss(outputs, y)
            if not made:
                return hard
            soft = self.target.towards(outputs, made["answers"][y])
            return hard + self.answer_weight * made["strength"] * (made["shares"][y] > 0) * soft

        def on_generated(params: Params, y: Tensor, made: Message) -> Tensor:
            logits = F.linear(made["features"], params[weight], params[bias])
            right = logits.log_softmax(dim=-1).diagonal(dim1=0, dim2=2)  # (M, C)
            each = self.generated_weight * made["strength"] * made["shares"]  # (C,)
            return -(each * right.mean(dim=0)).sum()

        extra = on_generated if made else None
        trained = fit(predict, start, private, self.local, loss, made, penalty=extra)
        counts = label_counts(private, len(start[bias]))
        sent = {name: trained[name] for name in averaged}
        return trained, Upload(sent | {"label_counts": counts}, private.size)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Every parameter, in its shape, and a number for each label."""
        counts = PayloadSpec((task.num_classes,), most=task.private, tells_size=True)
        return super().payload_spec(task, group) | {"label_counts": counts}

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Average by group, and train the generator with the heads of all clients."""
        names = {g: head_names(m.init(torch.Generator())) for g, m in task.models.items()}
        heads: list[list[Tensor]] = []

        def noted() -> Iterator[Received]:
            for upload in uploads:
                payload = dict(upload.payload)
                counts = payload.pop("label_counts").clamp(min=0)
                heads.append([*(payload[name] for name in names[upload.group]), counts])
                yield upload._replace(payload=payload)

        server = server | average_by_group(noted()) | {"round": server["round"] + 1}
        weights, biases, counts = (torch.stack(column) for column in zip(*heads, strict=True))
        total = counts.sum(dim=0)  # (C,)
        if not total.any():
            return server
        model, shares = self._maker(task), total / total.sum()
        dice = stream(int(server["seed"]), "generator", int(server["round"]))
        count = self.steps * self.generator.batch_size
        batches = label_batches(shares, count, self.noise, self.generator, dice)
        context = weights, biases, counts / total.clamp(min=1), weights.new_tensor(self.diversity)
        before = of_group(server, "generator")
        after = fit(model.predict, before, batches, self.generator, generator_loss, *context)
        every = torch.arange(task.num_classes, device=task.device).repeat_interleave(self.samples)
        _, x = seeds(every, self.noise, task.num_classes, dice)
        features = model.predict(after, x).logits
        return server | {
            **{f"generator/{name}": value for name, value in after.items()},
            "made/features": features.reshape(task.num_classes, self.samples, -1),
            "made/shares": shares,
            "made/strength": torch.tensor([self.decay ** float(server["round"])]),
        }

    def _maker(self, task: Task) -> Model:
        return maker(self.noise, task.num_classes, feature_width(task), self.hidden)
