"""FedAUX: networks begin pretrained, and clients teach where their own examples are likely."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from fedkd import encoders
from fedkd.algorithms.fedavg import apart, full_params, of_group
from fedkd.algorithms.feddf import FedDF
from fedkd.components.sample_exchange import width_of
from fedkd.core import Properties, Public, Server, Task
from fedkd.encoders.certainty import LEAST, Certainty, noisy
from fedkd.messages import Message, PayloadSpec, Received, Stage, Upload, on
from fedkd.privacy.accounting import noise_multiplier
from kdcore.settings import Setting
from kdcore.training.batches import leading
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig

ENCODER, SCORES = "encoder", "scores"  # of a group, and of a client
CERTAINTY, NOISE = "certainty", "noise"


@dataclass(frozen=True)
class FedAUX(FedDF):
    """Leveraging unlabelled auxiliary data in federated learning.

    Felix Sattler, Tim Korjakow, Roman Rischke, Wojciech Samek. "FedAUX: Leveraging Unlabeled
    Auxiliary Data in Federated Learning". IEEE Transactions on Neural Networks and Learning Systems
    2021. https://arxiv.org/abs/2102.02514

    Before the first round, the server trains the features h of each architecture on public examples
    without labels. Client: as in FedAvg, from there; and once w_k, of a logistic regression that
    tells its own examples from public ones set apart (`negatives`) by their h. Server: averages by
    group, and for each architecture, from its average, minimises KL(softmax(z) || softmax(f)) on
    the other public examples,
        z(x) = sum_k s_k(x) z_k(x) / sum_k s_k(x),   s_k(x) = sigmoid(w_k h(x)),
    z_k the logits of client k's model.
    Up: 4 W bytes and n_k; once, 4 (D + 1) for w_k. Down: 4 W; once, 4 W for h.

    Conventions: equations are read off the authors' code (fedl-repo/fedaux, not copied); the paper
    itself was not at hand. There features are pretrained by contrast of augmented images, here by
    `encoder`; the server averages clients alike, here by examples unless `averaging` says so, and
    its optimiser goes on, here it starts afresh; it takes one pass of Adam at 0.00005, and keeps
    the clients' models in training while they teach. All else at the server is as in FedDF; with
    `patience`, `ensemble_validation` is of the plain mean. There clients send the scores of public
    examples, here w, which is shorter and says the same of them. Which examples are set apart is
    common knowledge: the last ones.
    With `certainty_epsilon` w is (epsilon, delta)-private of each private example, by Gaussian
    noise, and nothing else of an upload is; a client whose upload was lost draws noise anew, and
    both count. In three points the authors' code does not give what it
    says: it divides features by the longest of a client's own, which is not noised, here all are
    cut to the longest public one; scikit-learn's C = 1 / lambda weighs the *sum* of losses, so that
    w moves by 2 / lambda and not by the 2 / (n lambda) that its noise is for, and its intercept is
    not shrunk at all; and sigma^2 = 2 log(1.25 / delta) S^2 / epsilon^2 holds below epsilon = 1
    alone. Here lambda is of the mean, n the number of examples set apart, which everybody has at
    the least, and sigma is calibrated (`fedkd.privacy.accounting`).
    """

    encoder: Annotated[
        str, Setting("how features begin; `kdsim list encoders`", names="fedkd.encoders")
    ] = "autoencoder"
    pretraining: TrainingConfig = TrainingConfig("adam", learning_rate=1e-3, epochs=50)
    negatives: Annotated[float, Setting("share of public examples set apart", gt=0, lt=1)] = 0.2
    regularisation: Annotated[float, Setting("lambda, of the regression", gt=0)] = 0.01
    certainty_epsilon: Annotated[
        float | None, Setting("privacy of each example in w_k; none: no noise", gt=0)
    ] = None
    certainty_delta: Annotated[float, Setting("delta beside it", gt=0, lt=1)] = 1e-5

    properties = Properties(
        public="unlabelled",
        up="all parameters, and once what tells own examples from public ones",
        down="all parameters of the group's distilled model, and once the pretrained ones",
        architectures="shared within a group",
        summand="none",
        server_learns="the client's parameters, the number of its examples, and which public "
        "examples are like its own",
        beyond_training=(CERTAINTY, "weight"),
        targets=("class", "real", "labels"),
        distils=True,
    )

    @property
    def uplink(self) -> tuple[Stage, ...]:
        """Noise on w, where it is to be private."""
        return () if self.certainty_epsilon is None else (noisy(CERTAINTY, NOISE),)

    def check(self, task: Task) -> None:
        """Models go up whole, and have features; public examples can be set apart."""
        super().check(task)
        for group in task.models:
            width_of(task, group)
        if task.public is not None and len(leading(task.public)) < 2:
            raise ValueError(
                "FedAUX sets public examples apart and asks about the others, and there is one "
                "alone; give 2 or more"
            )

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """Pretrained parameters for each group, and what clients are asked with."""
        server, encoder = super().init(task, generator), self._certainty.encoder
        for group, model in sorted(task.models.items() if encoder.network else ()):
            params = full_params(server, group, of_group(server, group))
            args = on(params, task.device), task.public, self.pretraining, generator
            server |= apart(task, group, encoder.pretrained(model, *args))
            begun = of_group(server, group)
            server |= {f"{ENCODER}/{group}/{name}": value for name, value in begun.items()}
        epsilon, delta = self.certainty_epsilon, self.certainty_delta
        multiplier = 0.0 if epsilon is None else noise_multiplier(epsilon, delta)
        return server | {NOISE: torch.tensor([self._certainty.deviation(task.public, multiplier)])}

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The average of the client's group; to who has not said it yet, what w is asked with."""
        average = of_group(server, group)
        if f"{SCORES}/{client}" in server:
            return average
        begun = of_group(server, f"{ENCODER}/{group}")
        asked = {f"{ENCODER}/{name}": value for name, value in begun.items()}
        return average | asked | {NOISE: server[NOISE]}

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train from the average; once, say what tells the own examples from others."""
        assert public is not None
        averaged = {name: value for name, value in received.items() if name in params}
        trained, upload = super().client_update(predict, params, averaged, private, public)
        if NOISE not in received:
            return trained, upload
        begun = params | of_group(received, ENCODER)
        w = self._certainty.regression(predict, begun, private, public.x)
        return trained, upload._replace(payload=upload.payload | {CERTAINTY: w})

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Every parameter, in its shape, and once a number for each feature and one more."""
        wide = encoders.width(self._certainty.encoder, task.models[group], task) + 1
        said = PayloadSpec((wide,), tells_size=True, once=True)  # the intercept, against the others
        return super().payload_spec(task, group) | {CERTAINTY: said}

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Take note of certainties, average within groups, and distil the ensemble into each."""
        assert public is not None
        received, known = list(uploads), dict(server)
        for one in received:
            known |= self._scores(task, server, one, public)
        models = [one._replace(payload=_model(one.payload)) for one in received]
        rows = self._certainty.asked(public.x)
        mask = public.mask & (public.order < len(rows))
        asked = public._replace(rows=rows, order=public.order.where(mask, 0), mask=mask)
        return super().server_update(task, known, models, asked)

    def _share(self, server: Server, upload: Received) -> Tensor | float:
        """The client's scores; of one who has told nothing, the least that there are."""
        return server.get(f"{SCORES}/{upload.client}", LEAST)

    @property
    def _certainty(self) -> Certainty:
        encoder = encoders.REGISTRY.get(self.encoder)()
        return Certainty(encoder, self.negatives, self.regularisation)

    def _scores(self, task: Task, server: Server, upload: Received, public: Public) -> Server:
        """s_k of the public examples that are asked about, when w comes for the first time."""
        key, group = f"{SCORES}/{upload.client}", upload.group
        if key in server or CERTAINTY not in upload.payload:
            return {}
        begun = of_group(server, f"{ENCODER}/{group}") or of_group(server, group)
        params, w = full_params(server, group, begun), upload.payload[CERTAINTY]
        return {key: self._certainty.scores(task.models[group].predict, params, public.x, w)}


def _model(payload: Message) -> Params:
    return {name: value for name, value in payload.items() if name != CERTAINTY}
