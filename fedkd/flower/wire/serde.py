"""What crosses the network, as Flower's records.

A request holds two records: "order" (the round, the seed, the last round in which this client gave
an answer, and the terms) and "broadcast" (the server's tensors). A reply holds "payload" (the
client's tensors), "report" (its weight), "terms", and "rows" where only some rows of each tensor
are sent.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app import Message as FlowerMessage
from torch import Tensor
from torch.utils._pytree import tree_map

from fedkd.communication.channel import Channel
from fedkd.core import Algorithm, Task
from fedkd.flower.wire.arrays import to_array, to_numpy
from fedkd.flower.wire.copying import copy_message
from fedkd.messages import Message, Stage, Transform, Upload
from fedkd.targets import CLASSES

WHO = "query.who"
DISTIL = "train.distil"
SCORE = "evaluate.score"

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)


def pack(message: Message) -> ArrayRecord:
    """Tensors as Flower sends them: in numpy's own file format, so that every bit is kept.

    Raises:
        TypeError: a type that numpy lacks, such as bfloat16.
    """
    record = ArrayRecord()
    for key, value in message.items():
        record[key] = to_array(value.detach().cpu().contiguous().numpy())
    return record


def unpack(record: ArrayRecord) -> Message:
    """The tensors of a record."""
    return {key: torch.from_numpy(to_numpy(array)) for key, array in record.items()}


def terms(algorithm: Algorithm, task: Task, channel: Channel) -> dict[str, str]:
    """What server and client must agree on, in words; each says it, and checks the other's.

    A privacy mechanism that one side forgot, or runs with another strength, is a difference here.
    """
    public: Any = None
    if task.public is not None:
        public = tree_map(lambda one: (tuple(one.shape), str(one.dtype)), task.public)
    return {
        "algorithm": repr(algorithm) + _asked(task),
        "public": repr(public),
        "uplink": ", ".join(map(_stage, channel.uplink)) or "nothing",
        "downlink": ", ".join(map(_stage, channel.downlink)) or "nothing",
        "private size": repr(channel.with_algorithm(algorithm).private_size),
    }


def _asked(task: Task) -> str:
    """What is learnt, in words; nothing of classes, which is what most learn."""
    return "" if task.target.name == CLASSES.name else f" for {task.target.words}"


def check_terms(said: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Raise ValueError, naming the first difference, unless all terms are as expected."""
    for key, value in expected.items():
        if said.get(key) != value:
            raise ValueError(f"{key}: the other side has {said.get(key)}, this one {value}")


def pack_order(index: int, seed: int, agreed: Mapping[str, str]) -> ConfigRecord:
    """What a request says beside its tensors."""
    return ConfigRecord({"round": index, "seed": seed, "last": 0, **agreed})


def pack_upload(upload: Upload, agreed: ConfigRecord) -> RecordDict:
    """An upload, as it leaves the channel, with a copy of the terms under which it was made."""
    content = RecordDict(
        {
            "payload": pack(upload.payload),
            "report": MetricRecord({"weight": float(upload.weight)}),
            "terms": agreed.copy(),
        }
    )
    if upload.rows is not None:
        content["rows"] = pack({"rows": upload.rows})
    return content


def unpack_upload(content: RecordDict, expected: Mapping[str, str]) -> Upload:
    """An upload as it came, before the channel reads it.

    Raises:
        ValueError: it cannot be read, or was made under other terms; the message says which.
    """
    try:
        check_terms(typed(content, "terms", ConfigRecord), expected)
        named = "rows" in content
        rows = unpack(typed(content, "rows", ArrayRecord))["rows"] if named else None
        weight = typed(content, "report", MetricRecord)["weight"]
        if isinstance(weight, list):
            raise TypeError(f"the weight is {weight}; expected a number")
        payload = unpack(typed(content, "payload", ArrayRecord))
        return Upload(payload, torch.tensor(float(weight), dtype=torch.float64), rows)
    except ValueError:
        raise
    except Exception as reason:  # a reply may hold anything, and the round goes on without it
        raise ValueError(f"an unreadable reply ({type(reason).__name__}: {reason})") from reason


def typed(content: RecordDict, name: str, kind: type[Record]) -> Record:
    """A record of a message or of a node's state.

    Raises:
        KeyError: there is none of this name.
        TypeError: it is of another kind.
    """
    found = content[name]
    if not isinstance(found, kind):
        raise TypeError(f"{name} is of type {type(found).__name__}; expected {kind.__name__}")
    return found


def integer(record: ConfigRecord, name: str) -> int:
    """A whole number in a record. Raise TypeError for anything else under its name."""
    value = record[name]
    if not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; expected a whole number")
    return value


def brief(reason: str | None) -> str:
    """The last line of an error that may be pages of coloured traceback."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", reason or "")
    lines = [line.strip() for line in plain.splitlines() if line.strip(" '>")]
    last = (lines or ["no reason given"])[-1].removesuffix("'>")
    last = re.sub(r"^<class '(?:\w+\.)*(\w+)'>:<'", r"\1: ", last)  # as SuperNodes say it
    return last.removeprefix("Exception ClientAppException occurred. Message: ")[:500]


def serialised(message: FlowerMessage) -> int:
    """Bytes of a message and all its parts as Flower serialises them.

    Flower stores a message as a tree of objects, each with a header that names its children by
    their hashes. This is the sum over the tree; what HTTP and TLS add is not in it.
    """
    return _weigh(copy_message(message))  # weighing leaves caches behind that cannot be pickled


def _weigh(part: Any) -> int:
    return len(part.deflate()) + sum(map(_weigh, (part.children or {}).values()))


def _stage(stage: Stage) -> str:
    if not isinstance(stage, Transform):
        return _words(stage)
    return f"{_words(stage.encode)} / {_words(stage.decode)} +- {stage.error:g}"


def _words(value: object) -> str:
    """A function by its name and what it was made with; other values as they are written."""
    if isinstance(value, partial):
        return f"{_words(value.func)}{_words([*value.args, *value.keywords.items()])}"
    if inspect.isfunction(value):
        name = value.__qualname__.replace("<locals>.", "")
        return f"{value.__module__}.{name}({_made_with(value)})"
    if isinstance(value, Tensor):
        return repr(value.tolist())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_words, value))}]"
    if type(value).__repr__ is object.__repr__:  # would name a place in memory
        inside = ", ".join(f"{k}={_words(v)}" for k, v in vars(value).items())
        return f"{type(value).__qualname__}({inside})"
    return repr(value)


def _made_with(function: Callable[..., Any]) -> str:
    closed = inspect.getclosurevars(function).nonlocals
    return ", ".join(f"{name}={_words(closed[name])}" for name in sorted(closed))
