"""What methods share whose clients agree on the labels of public examples."""

from collections.abc import Callable, Iterable

from torch import Tensor

from fedkd.core import Public, Server, Task
from fedkd.messages import Message, PayloadSpec, Received, Upload
from kdcore.losses.response import soft_cross_entropy
from kdcore.outputs import Outputs
from kdcore.training.batches import leading
from kdcore.training.loop import (
    Batches,
    Params,
    Predict,
    TrainingConfig,
    fit,
    predict_logits,
    supervised,
)


def soft(outputs: Outputs, y: Tensor) -> Tensor:
    """Cross-entropy towards a consensus of probabilities."""
    return soft_cross_entropy(outputs.logits, y)


def digest(
    predict: Predict,
    params: Params,
    received: Message,
    public: Public,
    training: TrainingConfig,
    loss: Callable[[Outputs, Tensor], Tensor] = soft,
) -> Params:
    """Fit a model to a consensus, (P_r, C), on the public examples it is about."""
    batches = public.batches(received["consensus"], received.get("rows"))
    return fit(predict, params, batches, training, loss)


def student(
    predict: Predict,
    params: Params,
    received: Message,
    public: Public | None,
    training: TrainingConfig,
) -> Params:
    """A model that has digested the newest consensus, or as it is where there is none."""
    if not received or public is None:
        return params
    return digest(predict, params, received, public, training)


def student_steps(received: Message, public: Public | None) -> int:
    """The mini-batches of `student`."""
    return 0 if not received or public is None else len(public.order)


def predictions(predict: Predict, params: Params, public: Public) -> Tensor:
    """A distribution for each public example of the round, (P_r, C)."""
    return predict_logits(predict, params, public.x, public.rows).softmax(dim=-1)


def trained_and_asked(
    predict: Predict, params: Params, private: Batches, public: Public, local: TrainingConfig
) -> tuple[Params, Upload]:
    """Train on private examples, then say what the public ones of the round are."""
    params = fit(predict, params, private, local, supervised)
    probabilities = predictions(predict, params, public)
    return params, Upload({"probabilities": probabilities})


def mean_of(uploads: Iterable[Received], key: str) -> Tensor:
    """The mean of a payload tensor over the clients, each counting once, in float64."""
    total, count = None, 0
    for upload in uploads:
        value = upload.payload[key].double()
        total, count = value if total is None else total + value, count + 1
    assert total is not None
    return total / count


def consensus_message(consensus: Tensor, public: Public) -> Server:
    """A consensus, with the rows it is about unless it is about all public examples."""
    if len(public.rows) == public.total:
        return {"consensus": consensus}
    return {"consensus": consensus, "rows": public.rows.int()}


def predictions_spec(task: Task, public_size: int | None) -> dict[str, PayloadSpec]:
    """A distribution over the classes for each public example of a round."""
    assert task.public is not None
    there = len(leading(task.public))
    count = min(public_size or there, there)
    return {"probabilities": PayloadSpec((count, task.num_classes), simplex=True)}
