"""What a message holds, as records and in words: shapes, ranges, bytes, entropy, classes."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fedkd.messages import Message

Record = dict[str, Any]
LARGEST = 3  # classes told of a row


def tensors(
    direction: str,
    sent: Message,
    read: Message,
    classes: int,
    rows: int,
    held: list[int] | None = None,
) -> Iterator[Record]:
    """A record of each tensor as it was sent, and of each that holds predictions once it is read.

    Args:
        direction: "up" or "down".
        sent: the message as it crossed.
        read: the same, decoded; empty where it cannot be.
        classes: C.
        rows: of how many rows the largest classes are told.
        held: the rows that the sender holds, where it sends no others.
    """
    for key, value in sent.items():
        yield {
            "record": "payload",
            "direction": direction,
            "key": key,
            "shape": list(value.shape),
            "type": str(value.dtype).removeprefix("torch."),
            "bytes": value.nbytes,
            **_range(value),
            **({"rows": held} if held is not None else {}),
        }
    for key, value in read.items():
        places = held if held is not None else list(range(len(value)))
        if places and _predictions(value, classes):
            yield {
                "record": "predictions",
                "direction": direction,
                "key": key,
                "rows": len(places),
                "entropy_bits": _entropy(value[places]),
                "largest": _largest(value, places[:rows]),
            }


def _range(value: Tensor) -> Record:
    """The smallest and largest entry and the mean, of those that are finite."""
    numbers = value.double()
    numbers = numbers[numbers.isfinite()]
    missing = value.numel() - numbers.numel()
    beside = {"not_finite": missing} if missing else {}
    if not numbers.numel():
        return {"min": None, "max": None, "mean": None} | beside
    low, high, mean = float(numbers.min()), float(numbers.max()), float(numbers.mean())
    return {"min": low, "max": high, "mean": mean} | beside


def _predictions(value: Tensor, classes: int) -> bool:
    """Whether the rows are distributions over the classes; rows of zeros say nothing."""
    if not value.is_floating_point() or value.ndim != 2 or value.shape[1] != classes:
        return False
    sums = value.double().sum(dim=1)
    whole = ((sums - 1).abs() < 1e-3) | (sums == 0)
    return bool(len(value) and (value >= -1e-3).all() and whole.all())


def _entropy(value: Tensor) -> dict[str, float]:
    """Entropy of the rows in bits: mean, smallest, largest, and that of a guess."""
    bits = torch.special.entr(value.double().clamp(min=0)).sum(dim=1) / math.log(2)
    found = {"mean": float(bits.mean()), "min": float(bits.min()), "max": float(bits.max())}
    return found | {"even": math.log2(value.shape[1])}


def _largest(value: Tensor, places: list[int]) -> dict[str, list[list[Any]]]:
    """The most probable classes of some rows: row -> [[class, probability], ...]."""
    shares, classes = value.double().topk(min(LARGEST, value.shape[1]), dim=1)
    return {
        str(row): [
            [label, round(share, 6)]
            for label, share in zip(classes[row].tolist(), shares[row].tolist(), strict=True)
        ]
        for row in places
    }


def lines(record: Record) -> Iterator[str]:
    """A record in words."""
    yield from WORDS[record["record"]](record)


def _of_round(record: Record) -> Iterator[str]:
    yield f"round {record['round']}, client {record['client']}"
    yield f"  down {record['bytes_down']:,} bytes, up {record['bytes_up']:,} bytes"
    if record["weight"] is not None:
        yield f"  counts as {record['weight']:g} examples"
    if "sent_to" in record:
        yield f"  one copy each to its neighbours {', '.join(map(str, record['sent_to']))}"
    for name in ("rejected", "failed", "pending", "late", "rounds_late"):
        if name in record:
            yield f"  {name.replace('_', ' ')}: {record[name]}"
    proof = record["checksum"]
    yield f"  replayed exactly, checksum {proof}" if proof else "  replayed; there is no checksum"


def _of_tensor(record: Record) -> Iterator[str]:
    shape = " x ".join(map(str, record["shape"])) or "one number"
    yield f"{record['direction']} {record['key']}: {shape} {record['type']}"
    parts = [f"{record['bytes']:,} bytes"]
    if record["min"] is not None:
        parts.append(f"from {record['min']:.4g} to {record['max']:.4g}, mean {record['mean']:.4g}")
    if "not_finite" in record:
        parts.append(f"{record['not_finite']} entries not finite")
    if "rows" in record:
        parts.append(f"rows {', '.join(map(str, record['rows'])) or 'none'}")
    yield "  " + ", ".join(parts)


def _of_predictions(record: Record) -> Iterator[str]:
    bits = record["entropy_bits"]
    yield (
        f"  as read, {record['rows']} predictions: entropy {bits['mean']:.2f} bits on average, "
        f"from {bits['min']:.2f} to {bits['max']:.2f} (a guess: {bits['even']:.2f})"
    )
    for row, largest in record["largest"].items():
        classes = ", ".join(f"class {label} {share:.3f}" for label, share in largest)
        yield f"  row {row}: {classes}"


WORDS = {"inspect": _of_round, "payload": _of_tensor, "predictions": _of_predictions}
