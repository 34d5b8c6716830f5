"""Features of a network that has learnt nothing."""

from fedkd.components.features import features
from fedkd.encoders.encoder import Encoder
from kdcore.training.loop import Network, Predict


class Untrained(Encoder):
    """The features of a network as it is drawn: the control of training it."""

    network = True

    def shown(self, predict: Predict) -> Network:
        """The last hidden activations."""
        return features(predict)
