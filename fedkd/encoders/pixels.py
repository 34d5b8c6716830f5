"""No encoder: inputs as they are."""

from fedkd.components.features import embedding
from fedkd.encoders.encoder import Encoder
from kdcore.training.loop import Network, Predict


class Pixels(Encoder):
    """Inputs as they are: the control, in which nothing is learnt."""

    def shown(self, predict: Predict) -> Network:
        """The inputs, as numbers (N, D)."""
        return embedding(predict)
