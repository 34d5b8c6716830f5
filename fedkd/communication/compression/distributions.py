"""Transforms for distributions over classes: what is read is a distribution again, row by row.

The last axis is the classes. Rows are checked on sending, so that nothing else is taken for a
distribution in silence; whatever bytes arrive, what is made of them is one, or is turned away.
(`krr` is the exception: what it makes are distributions on average.)
"""

import math

import numpy as np
import torch
from torch import Tensor

from fedkd.communication.channel import ROUNDING
from fedkd.communication.compression.bit_packing import each, each_coded, put, shape_of, take
from fedkd.communication.compression.quantization import check_finite, levels
from fedkd.messages import Message, Transform
from fedkd.privacy.events import RandomizedResponse
from fedkd.privacy.mechanisms import randomized_response, unbiased


def root8() -> Transform:
    """One byte for the square root of a probability: fine steps where probabilities are small.

        code = round(255 sqrt(p)),  q = (code / 255)^2,  read as q / sum q

    The root is the variance-stabilising one: Francis Anscombe, "The Transformation of Poisson,
    Binomial and Negative-Binomial Data", Biometrika 1948, https://doi.org/10.1093/biomet/35.3-4.246.

    One byte a class. |q - p| <= (2 sqrt(p) + 1/510) / 510, which is below 0.004 everywhere and
    4e-6 at p = 0. A row of zeros, which is no teacher, stays one.

    Raises:
        ValueError: on sending, rows that are neither distributions nor zeros.
    """

    def encode(message: Message, generator: torch.Generator) -> Message:
        def code(key: str, value: Tensor) -> Tensor:
            rows = _distributions(key, value, zeros=True)
            return put((255 * rows.sqrt()).round().long(), 8, value.shape)

        return each(message, code)

    def decode(sent: Message) -> Message:
        def read(key: str, value: Tensor) -> Tensor:
            shape, data = _rows_of(value)
            squares = take(data, 8, torch.Size(shape).numel()).reshape(shape).double().square()
            return _read(squares / squares.sum(dim=-1, keepdim=True).clamp(min=1))

        return each_coded(sent, read)

    return Transform(encode, decode)


def simplex(bits: int = 8) -> Transform:
    r"""The nearest distribution whose entries are multiples of 1 / (2^bits - 1).

    Felix Sattler, Arturo Marban, Roman Rischke, Wojciech Samek. "CFD: Communication-Efficient
    Federated Distillation via Soft-Label Quantization and Delta Coding". IEEE Transactions on
    Network Science and Engineering 2022. https://arxiv.org/abs/2012.00632

        argmin_q ||q - p||_2,  q_c in {0, 1, ..., s} / s,  sum_c q_c = 1,  s = 2^bits - 1

    Found by the method of largest remainders: floor(s p), and one more for the entries that lost
    most, the first of equals. With one bit that is all for the likeliest class; `argmax` says the
    same in fewer bytes. `bits` a class; an entry errs by less than 1 / s.

    Raises:
        ValueError: bits outside 1 .. 8; on sending, rows that are no distributions.
    """
    steps = levels(bits)

    def encode(message: Message, generator: torch.Generator) -> Message:
        def code(key: str, value: Tensor) -> Tensor:
            scaled = steps * _distributions(key, value)
            # What is a whole number but for rounding is one: else 0.6 * 15 would lose to 0.4 * 15.
            whole = (scaled + 1e-6).floor()
            missing = steps - whole.sum(dim=-1, keepdim=True)
            order = (scaled - whole).argsort(dim=-1, descending=True, stable=True)
            rank = order.argsort(dim=-1)
            return put((whole + (rank < missing)).long(), bits, value.shape)

        return each(message, code)

    def decode(sent: Message) -> Message:
        def read(key: str, value: Tensor) -> Tensor:
            shape, data = _rows_of(value)
            codes = take(data, bits, torch.Size(shape).numel()).reshape(shape)
            if bool((codes.sum(dim=-1) != steps).any()):
                raise ValueError(f"{key} has rows whose codes do not add up to {steps}")
            return _read(codes.double() / steps)

        return each_coded(sent, read)

    return Transform(encode, decode)


def argmax() -> Transform:
    """The likeliest class alone, read as all of the probability; of equals, the first.

    ceil(log2 C) bits a row: the one-bit code of CFD, see `simplex`.

    Raises:
        ValueError: on sending, rows that are no distributions.
    """

    def encode(message: Message, generator: torch.Generator) -> Message:
        def code(key: str, value: Tensor) -> Tensor:
            rows = _distributions(key, value)
            return put(rows.argmax(dim=-1), _width(value.shape[-1]), value.shape)

        return each(message, code)

    def decode(sent: Message) -> Message:
        def read(key: str, value: Tensor) -> Tensor:
            return _read(torch.nn.functional.one_hot(*_labels(key, value)).double())

        return each_coded(sent, read)

    return Transform(encode, decode)


def krr(epsilon: float) -> Transform:
    """The likeliest class, or another one by chance: k-ary randomised response on the label.

    `fedkd.privacy.mechanisms.randomized_response`, with an epsilon of **each label**; what is read
    is `unbiased`, so that a mean of rows is right on average, and may have negative entries. It
    becomes a distribution where it is used (`onto_simplex`). ceil(log2 C) bits a row, as `argmax`.

    Raises:
        ValueError: epsilon is not positive; on sending, rows that are no distributions, or of one
            class.
    """
    RandomizedResponse(epsilon, 2)

    def encode(message: Message, generator: torch.Generator) -> Message:
        def code(key: str, value: Tensor) -> Tensor:
            labels = _distributions(key, value).argmax(dim=-1).cpu()
            said = randomized_response(labels, value.shape[-1], epsilon, generator).value
            return put(said, _width(value.shape[-1]), value.shape)

        return each(message, code)

    def decode(sent: Message) -> Message:
        def read(key: str, value: Tensor) -> Tensor:
            return _read(unbiased(*_labels(key, value), epsilon))

        return each_coded(sent, read)

    return Transform(encode, decode, error=math.inf)


def top(count: int = 3) -> Transform:
    """The likeliest classes and their probabilities in half precision.

    What is left over of the probability is shared evenly by the other classes. For each of the
    `count` classes, ceil(log2 C) bits for its number and 16 for its probability.

    Raises:
        ValueError: a count below one; on sending, rows that are no distributions, or of no more
            classes than `count`.
    """
    _check_count(count)

    def encode(message: Message, generator: torch.Generator) -> Message:
        return each(message, lambda key, value: _likeliest(key, value, count)[0])

    def decode(sent: Message) -> Message:
        def read(key: str, value: Tensor) -> Tensor:
            shape, data = _rows_of(value)
            said, sure = _read_likeliest(key, data, shape, count)
            return _with_rest(said, sure, sure.new_ones(shape[-1])).reshape(shape)

        return each_coded(sent, read)

    return Transform(encode, decode)


def top_shaped(count: int = 8) -> Transform:
    r"""As `top`, but what is left over is shared as it is on average over all rows of the message.

        q_c = p_c of the kept,  else (1 - \sum_kept p) t_c / \sum_{not kept} t,
        t_c = \sum_rows p_c where c is not kept

    For many classes whose frequencies differ, such as characters: there an even rest says of rare
    ones that they come as often as usual ones. C more numbers of 16 bits in all.

    Raises:
        ValueError: see `top`.
    """
    _check_count(count)

    def encode(message: Message, generator: torch.Generator) -> Message:
        def code(key: str, value: Tensor) -> Tensor:
            head, left = _likeliest(key, value, count)
            tail = left.flatten(0, -2).sum(dim=0)
            return torch.cat([head, _as_halves(tail / tail.max().clamp(min=1e-30))])

        return each(message, code)

    def decode(sent: Message) -> Message:
        def read(key: str, value: Tensor) -> Tensor:
            shape, data = _rows_of(value)
            end = len(data) - 2 * shape[-1]
            said, sure = _read_likeliest(key, data[: max(end, 0)], shape, count)
            tail = torch.from_numpy(np.frombuffer(data[end:], "<f2").astype(np.float64))
            if not bool(((tail >= 0) & (tail <= 1)).all()):
                raise ValueError(f"{key} has shares of the rest that are none")
            return _with_rest(said, sure, tail).reshape(shape)

        return each_coded(sent, read)

    return Transform(encode, decode)


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"the number of classes to keep must be >= 1, got {count}")


def _likeliest(key: str, value: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The code of the likeliest classes of each row, and the rows without these.

    Raises:
        ValueError: rows that are no distributions, or of no more classes than `count`.
    """
    rows = _distributions(key, value)
    classes = value.shape[-1]
    if classes <= count:
        raise ValueError(
            f"{key} has {classes} classes, of which the top {count} are no fewer; take "
            "another compression, such as root8"
        )
    order = rows.argsort(dim=-1, descending=True, stable=True)[..., :count]
    code = [put(order, _width(classes), value.shape), _as_halves(rows.gather(-1, order))]
    return torch.cat(code), rows.scatter(-1, order, 0)


def _as_halves(values: Tensor) -> Tensor:
    """Numbers in half precision, as bytes."""
    halves = values.half().cpu().numpy().astype("<f2")
    return torch.from_numpy(np.frombuffer(halves.tobytes(), np.uint8).copy())


def _read_likeliest(
    key: str, data: bytes, shape: tuple[int, ...], count: int
) -> tuple[Tensor, Tensor]:
    """The kept classes of each row, and their probabilities, (rows, count)."""
    rows, classes = torch.Size(shape[:-1]).numel(), shape[-1]
    place = -(-rows * count * _width(classes) // 8)
    said = take(data[:place], _width(classes), rows * count).reshape(rows, count)
    _check_classes(key, said, classes)
    if bool((said.sort(dim=-1).values.diff(dim=-1) == 0).any()):
        raise ValueError(f"{key} names a class twice")
    return said, _halves(key, data[place:], rows, count)


def _with_rest(said: Tensor, sure: Tensor, shares: Tensor) -> Tensor:
    """(rows, C): what was kept, and the rest by shares (C,); evenly where these are all zero."""
    rest = (1 - sure.sum(dim=-1, keepdim=True)).clamp(min=0)
    others = shares.expand(len(said), -1).scatter(1, said, 0)
    even = torch.ones_like(others).scatter(1, said, 0)
    others = others.where(others.sum(dim=-1, keepdim=True) > 0, even)
    full = rest * others / others.sum(dim=-1, keepdim=True)
    full = full.scatter(1, said, sure)
    return _read(full / full.sum(dim=-1, keepdim=True))


def _distributions(key: str, value: Tensor, *, zeros: bool = False) -> Tensor:
    """The rows in float64, none below zero, each with a sum of one (or zero, where it may be).

    Raises:
        ValueError: one is no distribution (nor zeros, where they may be).
    """
    check_finite(key, value)
    if not value.ndim:
        raise ValueError(f"{key} is a single number, and no distribution; take float16")
    rows = value.double()
    total, low = rows.sum(dim=-1, keepdim=True), float(rows.min()) if rows.numel() else 0.0
    off = (total - 1).abs().minimum(total.abs()) if zeros else (total - 1).abs()
    worst = float(off.max()) if off.numel() else 0.0
    slack = 2**-8 if value.dtype == torch.float16 else ROUNDING * value.shape[-1]
    if low < -slack or worst > slack:
        raise ValueError(
            f"{key} has rows that are no distributions (smallest entry {low:.3g}, a sum off by "
            f"{worst:.3g}); take a compression for any numbers, such as float16"
        )
    rows = rows.clamp(min=0)
    return rows / torch.where(total > 0.5, rows.sum(dim=-1, keepdim=True), 1.0)


def _rows_of(sent: Tensor) -> tuple[tuple[int, ...], bytes]:
    """As `shape_of`, for a tensor with an axis of classes."""
    shape, data = shape_of(sent)
    if not shape or shape[-1] < 1:
        raise ValueError("its header names no classes")
    return shape, data


def _width(classes: int) -> int:
    """Bits that a class number takes, at least one."""
    return max(1, (classes - 1).bit_length())


def _halves(key: str, data: bytes, rows: int, count: int) -> Tensor:
    """Probabilities in half precision, (rows, count), in sum one at the most."""
    if len(data) != 2 * rows * count:
        raise ValueError(f"{key} has {len(data)} bytes of probabilities, not {2 * rows * count}")
    sure = torch.from_numpy(np.frombuffer(data, "<f2").astype(np.float64)).reshape(rows, count)
    if not bool(((sure >= 0) & (sure.sum(dim=-1, keepdim=True) <= 1 + 1e-2)).all()):
        raise ValueError(f"{key} has rows that are no distribution")
    return sure


def _labels(key: str, value: Tensor) -> tuple[Tensor, int]:
    """The labels that were sent, one a row, and of how many classes."""
    shape, data = _rows_of(value)
    said = take(data, _width(shape[-1]), torch.Size(shape[:-1]).numel())
    _check_classes(key, said, shape[-1])
    return said.reshape(shape[:-1]), shape[-1]


def _check_classes(key: str, said: Tensor, classes: int) -> None:
    if said.numel() and int(said.max()) >= classes:
        raise ValueError(f"{key} names class {int(said.max())} of {classes}")


def _read(rows: Tensor) -> Tensor:
    return rows.to(torch.get_default_dtype())
