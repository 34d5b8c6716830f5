"""Torch modules as users bring them, for images (N, 1, 6, 6), tokens (N, 9) or several inputs."""

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Net(nn.Module):
    """Batch normalisation, dropout and a lazy layer; it shows the features of its head."""

    def __init__(self, shape, classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.LazyLinear(8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        features = self.body(x)
        return self.head(features), features


class Dropped(nn.Module):
    """Dropout without statistics: clients can be stacked."""

    def __init__(self, shape, classes):
        super().__init__()
        self.first = nn.Conv2d(shape[0], 4, 3)
        self.drop = nn.Dropout2d(0.3)
        self.second = nn.LazyLinear(8)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        value = self.drop(F.relu(self.first(x))).flatten(1)
        features = F.dropout(F.relu(self.second(value)), 0.2, self.training)
        return {"logits": self.head(features), "hidden": features}


class Scaled(nn.Module):
    """Learned scales, which are not to begin at zero."""

    def __init__(self, shape, classes, width=64):
        super().__init__()
        self.inner = nn.LazyLinear(width)
        self.branch = nn.Linear(width, width)
        self.gamma = nn.Parameter(torch.ones(width))
        self.temperature = nn.Parameter(torch.tensor(10.0))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        value = F.relu(self.inner(x.flatten(1)))
        value = value + self.gamma * F.relu(self.branch(value))
        return self.head(F.normalize(value)) * self.temperature


class Block(nn.Module):
    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        self.a, self.b = normed(fan_in, fan_out, stride), normed(fan_out, fan_out)
        same = fan_in == fan_out and stride == 1
        self.skip = nn.Identity() if same else normed(fan_in, fan_out, stride)

    def forward(self, x):
        return F.relu(self.b(F.relu(self.a(x))) + self.skip(x), inplace=True)


def normed(fan_in, fan_out, stride=1):
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False), nn.BatchNorm2d(fan_out)
    )


class ResNet18(nn.Module):
    """ResNet-18's plan with batch normalisation, narrow."""

    def __init__(self, shape, classes, width=8):
        super().__init__()
        self.stem = normed(shape[0], width)
        sizes = [width * 2 ** (i // 2) for i in range(8)]
        plan = zip([width, *sizes], sizes, strict=False)
        self.blocks = nn.Sequential(*[Block(i, o, 1 if i == o else 2) for i, o in plan])
        self.fc = nn.Linear(sizes[-1], classes)

    def forward(self, x):
        return self.fc(self.blocks(F.relu(self.stem(x))).mean((-2, -1)))


class Lstm(nn.Module):
    """Rows of an image one after another."""

    def __init__(self, shape, classes, width=48):
        super().__init__()
        self.recurrent = nn.LSTM(shape[-1], width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.recurrent(x.squeeze(1))[0][:, -1])


class Gru(nn.Module):
    """Two layers, with dropout between them, which torch draws out of sight."""

    def __init__(self, shape, classes, width=32):
        super().__init__()
        self.recurrent = nn.GRU(shape[-1], width, 2, batch_first=True, dropout=0.3)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.recurrent(x.squeeze(1))[0][:, -1])


class Tokens(nn.Module):
    """A small transformer with dropout on token ids."""

    def __init__(self, shape, classes, width=32, vocabulary=17, p=0.1):
        super().__init__()
        (length,) = shape
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.register_buffer("places", torch.arange(length))
        layer = nn.TransformerEncoderLayer(width, 4, 64, p, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(length * width)
        self.head = nn.Linear(length * width, classes)

    def forward(self, x):
        value = self.encoder(self.embedding(x) + self.position[self.places])
        return {"logits": self.head(self.norm(value.flatten(1)))}


class Words(nn.Module):
    """Two inputs, pixels and token ids, with dropout; it shows the features of its head."""

    def __init__(self, shape, classes):
        super().__init__()
        pixels, (length,) = shape
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(pixels), 8), nn.Tanh())
        self.words, self.drop = nn.Embedding(7, 4), nn.Dropout(0.2)
        self.head = nn.Linear(8 + 4 * length, classes)

    def forward(self, x, tokens):
        features = torch.cat([self.inner(x), self.drop(self.words(tokens)).flatten(1)], dim=1)
        return self.head(features), features


class Said:
    def __init__(self, logits):
        self.logits = logits


class Two(nn.Module):
    """Two inputs, pixels and a mask; it answers with something that has logits."""

    def __init__(self, shape, classes, width=64):
        super().__init__()
        self.inner, self.head = nn.LazyLinear(width), nn.Linear(width, classes)

    def forward(self, x, mask):
        return Said(self.head(F.relu(self.inner(x.flatten(1) * mask.flatten(1)))))
