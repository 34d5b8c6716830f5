"""Small networks that read tokens and say at each place what comes next."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

EMBEDDED = 32  # numbers for a token that a recurrent network reads
PAST = 8  # tokens that an n-gram network looks at


class Recurrent(nn.Module):
    """A gated recurrent network on embedded tokens, (N, T) -> logits (N, T, C).

    Kyunghyun Cho and others. "Learning Phrase Representations using RNN Encoder-Decoder". EMNLP
    2014. https://arxiv.org/abs/1406.1078; Sepp Hochreiter, Juergen Schmidhuber. "Long Short-Term
    Memory". 1997. https://doi.org/10.1162/neco.1997.9.8.1735
    """

    def __init__(self, cell: type[nn.GRU] | type[nn.LSTM], classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, EMBEDDED)
        self.cell = cell(EMBEDDED, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits at each place."""
        found: Tensor = self.head(self.cell(self.embedding(tokens))[0])
        return found


class Block(nn.Module):
    """Attention to what came before, then two layers on each place, both beside a short cut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        parts = self.inputs(self.first(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(seen.transpose(1, 2).flatten(2))
        found: Tensor = x + self.layers(self.second(x))
        return found


class Transformer(nn.Module):
    """A causal transformer of two blocks and four heads, (N, T) -> logits (N, T, C).

    Ashish Vaswani and others. "Attention Is All You Need". NeurIPS 2017.
    https://arxiv.org/abs/1706.03762; the norm comes before each part, as in GPT-2.

    Raises:
        ValueError: a width that four heads cannot share.
    """

    def __init__(self, classes: int, width: int, places: int, blocks: int = 2) -> None:
        heads = 4
        if width % heads:
            raise ValueError(f"a transformer's width is shared by {heads} heads, got {width}")
        super().__init__()
        self.embedding, self.place = nn.Embedding(classes, width), nn.Embedding(places, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits at each place."""
        x = self.embedding(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        found: Tensor = self.head(self.norm(self.blocks(x)))
        return found


class NGram(nn.Module):
    """One hidden layer on the last eight tokens, (N, T) -> logits (N, T, C).

    Yoshua Bengio, Rejean Ducharme, Pascal Vincent, Christian Jauvin. "A Neural Probabilistic
    Language Model". JMLR 2003. https://www.jmlr.org/papers/v3/bengio03a.html. Before the first
    token there is one of its own.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.nothing = classes
        self.embedding = nn.Embedding(classes + 1, EMBEDDED // 2)
        self.layer = nn.Linear(PAST * EMBEDDED // 2, width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits at each place."""
        past = F.pad(tokens, (PAST - 1, 0), value=self.nothing).unfold(1, PAST, 1)
        found: Tensor = self.head(self.layer(self.embedding(past).flatten(2)).relu())
        return found


def gru(shape: tuple[int, ...], classes: int, width: int = 64) -> nn.Module:
    """A gated recurrent unit that reads tokens."""
    return Recurrent(nn.GRU, classes, width)


def lstm(shape: tuple[int, ...], classes: int, width: int = 64) -> nn.Module:
    """A long short-term memory that reads tokens."""
    return Recurrent(nn.LSTM, classes, width)


def transformer(shape: tuple[int, ...], classes: int, width: int = 64) -> nn.Module:
    """A causal transformer of two blocks that reads tokens."""
    return Transformer(classes, width, shape[0])


def ngram(shape: tuple[int, ...], classes: int, width: int = 128) -> nn.Module:
    """One hidden layer on the last eight tokens."""
    return NGram(classes, width)
