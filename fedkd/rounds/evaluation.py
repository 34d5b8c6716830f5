"""How good the clients' models are: on the whole test set, and on what each client itself meets."""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedkd.core import Client, Engine, Model, Server, Task
from fedkd.engines.sequential import sequential
from fedkd.targets import CLASSES, Target
from kdcore.training.loop import Examples, Params, Predict, predict_logits


class Scores(dict[str, Tensor]):
    """What each of K clients reaches on N test examples: `scores.accuracy`, `scores["rmse"]`.

    The first is what models are compared by: of classes accuracy, of real numbers rmse, of labels
    f1_macro, of sequences perplexity; see `fedkd.targets`. All are (K,).

    - `accuracy_local` (`rmse_local`, ...) is the same on a client's own test examples; where it has
      none, on all, labels weighted as in its own data;
    - the other metrics of the target follow, and of targets that are no classes, where some test
      examples are of kinds that no client holds, `rmse_unseen` (`perplexity_unseen`, ...) on these;
    - of classes `agreement`, the share of examples on which it says what most clients say, and
      `calibration_error`, the expected calibration error in 15 bins.
    """

    def __getattr__(self, name: str) -> Tensor:
        if name not in self:
            raise AttributeError(f"no score {name!r}; there are {', '.join(self)}")
        return self[name]

    @property
    def first(self) -> str:
        """The name of what models are compared by."""
        return next(iter(self))


def evaluate(
    task: Task,
    clients: Sequence[Client],
    test: Examples,
    label_counts: Tensor,
    engine: Engine = sequential,
    kinds: Tensor | None = None,
    tests: Sequence[Examples] = (),
) -> Scores:
    """Score every client on the same test examples.

    A client's accuracy on its own distribution is sum_l q_l a_l, with q_l the share of label l in
    its private examples and a_l its accuracy on the test examples of that label: no test example
    is spent on one client alone, and clients with few examples are measured as finely as others.
    Of other targets test examples of a kind weigh as much together as the client's own of that
    kind do, and metrics are those of the weighted examples.

    Args:
        task: the models and the target.
        clients: whose parameters are scored.
        test: N labelled examples that nobody trained on.
        label_counts: (K, C) private examples by label; with `kinds`, by kind.
        engine: who runs the predictions.
        kinds: (N,) what a client's own distribution is over, where that is not the label alone: the
            label and the domain (`fedkd.data.federated_data.FederatedData`). Of targets that are no
            classes all examples are of one kind by default.
        tests: of each client, test examples of its own, on which `accuracy_local` is measured; a
            client without any is weighted as said above, and so are all where there are none.

    Raises:
        ValueError: there are no test examples.
    """
    if not len(test):
        raise ValueError("there are no test examples to score the clients on")
    score = _of_classes if task.target.name == CLASSES.name else _of_tallies
    return score(task, clients, test, label_counts, engine, kinds, tests)


def first_metric(task: Task, model: Model, params: Params, test: Examples) -> Tensor:
    """What a model that is no client's reaches on test examples, the target's first metric, ()."""
    tallies = _tally(task.target, task.units, model.predict, params, test.x, test.rows, test.y)
    return next(iter(task.target.metrics(tallies.sum(dim=0)).values()))


def consensus_accuracy(task: Task, server: Server) -> float | None:
    """How often the server's newest consensus on public examples is right.

    Nobody in the federation knows these labels: it says whether what clients are about to learn
    is true, and so whose fault a weak student is. None where there is no such consensus, or there
    are no such labels.
    """
    said, labels, about = server.get("consensus"), task.labels, server.get("rows")
    if said is None or labels is None or task.target != CLASSES:
        return None
    true = labels if about is None else labels[about.long()]
    if len(said) != len(true) or not 0 <= int(true.min()) <= int(true.max()) < task.num_classes:
        return None  # about rows that only its algorithm knows, or labels of something else
    return float((said.argmax(dim=-1) == true).double().mean())


def _of_classes(
    task: Task,
    clients: Sequence[Client],
    test: Examples,
    label_counts: Tensor,
    engine: Engine,
    kinds: Tensor | None,
    tests: Sequence[Examples],
) -> Scores:
    y = test.y[test.rows]
    found = _asked(_predictions, task, clients, engine, test.x, test.rows)
    said, sure = map(torch.stack, zip(*found, strict=True))
    right = said == y  # (K, N)
    local = _own_accuracy(right, y if kinds is None else kinds, label_counts)
    return Scores(
        accuracy=right.double().mean(dim=1),
        accuracy_local=_on_own_tests(task, clients, tests, engine, local) if tests else local,
        agreement=(said == _plurality(said, task.num_classes)).double().mean(dim=1),
        calibration_error=_gap(sure, right),
    )


def _of_tallies(
    task: Task,
    clients: Sequence[Client],
    test: Examples,
    label_counts: Tensor,
    engine: Engine,
    kinds: Tensor | None,
    tests: Sequence[Examples],
) -> Scores:
    """Metrics of sums over examples; see `Target.tally`."""
    metrics = task.target.metrics
    given = test.x, test.rows, test.y
    tally = partial(_tally, task.target, task.units)
    tallies = torch.stack(_asked(tally, task, clients, engine, *given))  # (K, N, Q)
    everywhere = metrics(tallies.sum(dim=1))
    own = everywhere if kinds is None else metrics(_own_sums(tallies, kinds, label_counts))
    first = next(iter(everywhere))
    local = own[first].clone()
    if with_tests := [place for place, one in enumerate(tests) if len(one)]:
        inputs = [(tests[k].x, tests[k].rows, tests[k].y) for k in with_tests]
        found = engine(tally, task, [clients[k] for k in with_tests], inputs)
        local[with_tests] = torch.stack([metrics(one.sum(dim=0))[first] for one in found])
    unseen = {}
    if kinds is not None and bool((strangers := label_counts.sum(dim=0)[kinds] == 0).any()):
        unseen = {f"{first}_unseen": metrics(tallies[:, strangers].sum(dim=1))[first]}
    return Scores({first: everywhere[first], f"{first}_local": local, **everywhere, **unseen})


def _asked(
    function: Any, task: Task, clients: Sequence[Client], engine: Engine, *given: Any
) -> list[Any]:
    """What each client's model says; those who share a model, as an average, are asked once."""
    names = [_name(client) for client in clients]
    models: dict[Hashable, Client] = {}
    for name, client in zip(names, clients, strict=True):
        models.setdefault(name, client)
    asked = list(models.values())
    predictions = engine(function, task, asked, [given] * len(asked))
    found = dict(zip(models, predictions, strict=True))
    return [found[name] for name in names]


def _tally(
    target: Target,
    units: Tensor | None,
    predict: Predict,
    params: Params,
    x: Any,
    rows: Tensor,
    y: Tensor,
) -> Tensor:
    """(N, Q), of real numbers in the units of the data."""
    outputs, true = predict_logits(predict, params, x, rows), y[rows]
    if units is not None:
        outputs, true = outputs * units, true * units
    return target.tally(outputs, true)


def _own_sums(tallies: Tensor, kinds: Tensor, counts: Tensor) -> Tensor:
    """(K, N, Q), (N,), (K, kinds) -> (K, Q): sums that weigh kinds as in each client's own data."""
    tested = torch.bincount(kinds, minlength=counts.shape[1]).clamp(min=1)
    weights = (counts.double() / tested)[:, kinds]  # (K, N)
    return (weights.unsqueeze(-1) * tallies).sum(dim=1)


def _on_own_tests(
    task: Task,
    clients: Sequence[Client],
    tests: Sequence[Examples],
    engine: Engine,
    otherwise: Tensor,
) -> Tensor:
    """(K,) accuracy of each client on test examples of its own; `otherwise` where it has none."""
    own = [(client, test) for client, test in zip(clients, tests, strict=True) if len(test)]
    inputs = [(test.x, test.rows) for _, test in own]
    predictions = engine(_predictions, task, [client for client, _ in own], inputs)
    found = otherwise.clone()
    places = [place for place, test in enumerate(tests) if len(test)]
    for place, (said, _), (_, test) in zip(places, predictions, own, strict=True):
        found[place] = (said == test.y[test.rows]).double().mean()
    return found


def training_accuracy(task: Task, clients: Sequence[Client], engine: Engine = sequential) -> Tensor:
    """(K,) balanced accuracy of each client on its own private examples.

    The mean, over the C_k labels that it holds, of the share that is right: whoever says one label
    for everything reaches 1 / C_k at the most, however uneven its labels are.
    """
    inputs = [(client.private.x, client.private.rows) for client in clients]
    predictions = engine(_predictions, task, clients, inputs)
    labels = [client.private.y[client.private.rows] for client in clients]
    return _balanced([said for said, _ in predictions], labels)


def collapsed(
    task: Task, before: Sequence[Client], after: Sequence[Client], engine: Engine = sequential
) -> dict[int, float]:
    """Who forgot its own training data by what it took in: client number -> what is left.

    Those whose balanced accuracy on their own private examples was above chance before and is not
    any more. Chance is 1 / C_k, what one answer for everything reaches; a half for one label.
    """
    was = training_accuracy(task, before, engine).tolist()
    left = training_accuracy(task, after, engine).tolist()
    found = {}
    for client, high, low in zip(after, was, left, strict=True):
        labels = len(client.private.y[client.private.rows].unique())
        if low <= 1 / max(labels, 2) < high:
            found[client.id] = low
    return found


def diverged(task: Task, clients: Sequence[Client], engine: Engine = sequential) -> list[int]:
    """The numbers of those clients who have a parameter that is no finite number."""
    found = engine(_finite, task, clients, [()] * len(clients))
    return [client.id for client, finite in zip(clients, found, strict=True) if not finite]


def _finite(predict: Predict, params: Params) -> Tensor:
    return torch.stack([value.isfinite().all() for value in params.values()]).all()


def _balanced(said: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """(K,) the mean over the labels that each of K clients holds of the share that is right."""
    y = torch.cat([one.flatten() for one in labels])
    right = (torch.cat([one.flatten() for one in said]) == y).double()
    there, label = y.unique(return_inverse=True)
    sizes = torch.tensor([one.numel() for one in labels], device=y.device)
    cell = torch.arange(len(labels), device=y.device).repeat_interleave(sizes) * len(there) + label
    shape, cells = (len(labels), len(there)), len(labels) * len(there)
    held = torch.bincount(cell, minlength=cells).view(shape)
    share = torch.bincount(cell, right, minlength=cells).view(shape) / held.clamp(min=1)
    found, many = share.new_zeros(len(labels)), (held > 0).sum(dim=1)
    for several in many.unique().tolist():  # each mean is of as many numbers as there are labels
        alike = many == several
        mine = share[alike][held[alike] > 0].view(int(alike.sum()), several)
        found[alike] = mine.mean(dim=1)  # not a number, where there are no examples
    return found


def _predictions(
    predict: Predict, params: Params, x: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Each example's label, and how sure the model is of it: (N,), (N,).

    A model that has diverged to NaN says -1, which is nobody's label.
    """
    sure, said = predict_logits(predict, params, x, rows).softmax(dim=-1).max(dim=-1)
    return torch.where(sure.isnan(), -1, said), sure


def _name(client: Client) -> Hashable:
    """What is the same for clients whose parameters are the very same memory."""
    if not isinstance(client.params, dict):  # they are elsewhere, and are not fetched to compare
        return client.id
    places = ((v.data_ptr(), v.shape, v.stride()) for v in client.params.values())
    return client.group, *places


def _own_accuracy(right: Tensor, y: Tensor, label_counts: Tensor) -> Tensor:
    """(K, N), (N,), (K, C) -> (K,); labels without test examples are left out of the weights."""
    classes = label_counts.shape[1]
    member = torch.nn.functional.one_hot(y, classes).double()  # (N, C)
    per_label = right.double() @ member / member.sum(dim=0).clamp(min=1)  # (K, C)
    weights = label_counts.double() * (member.sum(dim=0) > 0)
    return (weights * per_label).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _plurality(said: Tensor, classes: int) -> Tensor:
    """The label that most clients give to each example; the smallest of those tied."""
    votes = torch.stack([(said == label).sum(dim=0) for label in range(classes)])
    return votes.argmax(dim=0)


def _gap(sure: Tensor, right: Tensor, bins: int = 15) -> Tensor:
    """Expected calibration error of answers given with a certainty. (K, N), (K, N) -> (K,)."""
    place = (sure.double() * bins).ceil().long().clamp(1, bins) - 1
    zeros = sure.new_zeros(len(sure), bins, dtype=torch.float64)
    total = zeros.scatter_add(1, place, sure.double() - right.double())
    return total.abs().sum(dim=1) / sure.shape[1]
