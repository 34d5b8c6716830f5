"""Local training alone: the lower bound that every federation has to beat."""

from dataclasses import dataclass

from fedkd.core import Algorithm, Properties, Public
from fedkd.messages import Message, Upload
from fedkd.targets import ALL
from kdcore.training.loop import Batches, Params, Predict, fit


@dataclass(frozen=True)
class Local(Algorithm):
    """Each client trains on its own examples and tells nobody anything.

    The baseline of all federated learning, named so in: Brendan McMahan, Eider Moore, Daniel
    Ramage, Seth Hampson, Blaise Aguera y Arcas. "Communication-Efficient Learning of Deep Networks
    from Decentralized Data". AISTATS 2017. https://arxiv.org/abs/1602.05629

    Client: params <- argmin sum CE(y, f(x)). Up: nothing. Down: nothing.
    """

    properties = Properties(
        public="none",
        up="nothing",
        down="nothing",
        architectures="any",
        summand="payload",
        server_learns="who takes part",
        targets=ALL,
    )

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train, and send nothing."""
        return fit(predict, params, private, self.local, self.target.loss), Upload({})
