"""What public text is worth by itself: clients read it as it stands, alone or between averages.

Text is its own label: whatever clients say of public text, it says something of itself already.
From the folder of this file: `kdsim fed public_text:PublicText --data shakespeare`.
"""

from dataclasses import dataclass

from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.local import Local
from fedkd.core import Algorithm, Public
from fedkd.messages import Message, Upload
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit


@dataclass(frozen=True)
class Reading(Algorithm):
    """An algorithm whose clients read public examples, with labels, after their own."""

    reading: TrainingConfig = TrainingConfig("adam", 0.01, epochs=2, batch_size=16)

    @property
    def public_training(self) -> TrainingConfig:
        """How they read."""
        return self.reading

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """What the algorithm does, and then what is public; what goes up is of after that."""
        assert public is not None
        assert public.labels is not None
        params, upload = super().client_update(predict, params, received, private, public)
        labelled = public.batches(public.labels[public.rows], public.rows)
        params = fit(predict, params, labelled, self.reading, self.target.loss)
        return params, upload._replace(payload={name: params[name] for name in upload.payload})


@dataclass(frozen=True)
class PublicText(Reading, Local):
    """`local` that reads. Up: nothing. Down: nothing."""

    properties = Local.properties._replace(public="labelled")


@dataclass(frozen=True)
class AveragedPublicText(Reading, FedAvg):
    """`fedavg` that reads. Up and down: all parameters."""

    properties = FedAvg.properties._replace(public="labelled")
