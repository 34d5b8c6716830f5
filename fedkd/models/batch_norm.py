"""A network with batch normalisation, `fedkd.models.batch_norm:CNN`, for what needs statistics."""

from collections.abc import Sequence

from torch import Tensor, nn


class CNN(nn.Module):
    """The `cnn` of `fedkd.models` with batch normalisation in the place of group normalisation.

    Shapes: x (N, channels, height, width), both sides divisible by 4 or a little cut -> logits
    (N, C), features (N, D).
    """

    def __init__(self, shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_block(shape[0], 16), *_block(16, 32), nn.Flatten())
        self.head = nn.Linear(32 * (shape[1] // 4) * (shape[2] // 4), num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and the features before the last layer."""
        features = self.body(x)
        return self.head(features), features


def _block(fan_in: int, fan_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(fan_out), nn.MaxPool2d(2), nn.ReLU()]
