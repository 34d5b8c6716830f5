"""What every federated algorithm promises, whichever it is: a new one is tested from its first day.

The algorithms are found by looking into their package. All runs are on clients of very different
sizes, one of them with a single example, and of three architectures.
"""

import ast
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from fedkd import algorithms
from fedkd.communication.channel import Channel
from fedkd.core import Failure
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.messages import Received, Transform, Upload, weigh
from fedkd.rounds.client_sampling import available, everyone, uniform
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.round import deployed, private_of, public_of
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator as stream
from kdcore.training.loop import Examples, TrainingConfig, fit

every_algorithm = pytest.mark.parametrize("name", algorithms.names())
PREDICTIONS = [n for n in algorithms.names() if "prediction" in algorithms.get(n).properties.up]


def small(name, **settings):
    """An algorithm, all of whose training is short."""
    training = TrainingConfig("momentum", 0.05, epochs=1, batch_size=4)
    kind = algorithms.get(name)
    short = {f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)}
    return kind(**short | settings)


def run(algorithm, federation, rounds=2, **settings):
    return list(simulate(algorithm, federation.task, federation.clients, rounds=rounds, **settings))


def copy(tree):
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, tree)


def equal(one, other):
    """Bit for bit, and the same keys."""
    first, second = tree_leaves(one), tree_leaves(other)
    return str(tree_map(type, one)) == str(tree_map(type, other)) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(first, second, strict=True)
    )


def params_of(current):
    return {client.id: client.params for client in current.clients}


def recorder(log):
    """A transform that changes nothing and notes every message."""
    return Transform(lambda message, generator: log.append(message) or message)


def only(*numbers):
    return lambda clients, generator: list(numbers)


# The docstring and the file


@every_algorithm
def test_the_docstring_cites_a_paper_and_says_what_goes_up_and_down(name):
    text = inspect.getdoc(algorithms.get(name))
    authors, title, rest = re.search(r'([^"]*)\s"([^"]{10,})"(.*)', text, re.DOTALL).groups()
    assert re.search(r"[A-Z]\w+(?: [A-Z]?\w+)* [A-Z]\w+[,.]", authors), "authors before the title"
    assert re.match(r"[A-Z]", title)
    assert re.search(r"https?://\S+\.\S+", rest), "a link after the title"
    assert re.search(r"\b(19|20)\d\d\b", rest), "a year after the title"
    assert re.search(r"\bUp( and down)?:", text)
    assert re.search(r"\b(D|Up and d)own:", text)


@every_algorithm
def test_the_file_is_short_enough_to_read_at_one_sitting(name):
    assert (
        code_lines(Path(inspect.getfile(algorithms.get(name))).read_text()) <= 130
    )  # with a line or two for each setting


def code_lines(source):
    """Lines that hold code: no blank ones, comments or docstrings."""
    strings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in quiet | {tokenize.ENDMARKER}:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - strings)


def test_code_lines_are_counted():
    assert code_lines('"""Two\nlines."""\n\n# one\nx = (\n    1,\n)  # three\n') == 3


@every_algorithm
def test_it_is_a_frozen_dataclass_all_of_whose_fields_have_defaults(name):
    algorithm = algorithms.get(name)()
    assert algorithms.get(name)() == algorithm
    with pytest.raises(FrozenInstanceError):
        algorithm.local = TrainingConfig()


# What it declares, and what crosses the channel


@every_algorithm
def test_public_data_is_needed_if_and_only_if_declared(name, tiny):
    federation = tiny(public=0)
    assert federation.task.public is None
    if small(name).properties.public == "none":
        assert run(small(name), federation)[-1].rejected == {}
        assert small(name).public_training is None
    else:
        with pytest.raises(ValueError, match="needs public examples"):
            run(small(name), federation)


@every_algorithm
def test_messages_are_as_declared(name, tiny):
    algorithm, federation = small(name), tiny()
    up, down = [], []
    last = run(algorithm, federation, channel=Channel((recorder(up),), (recorder(down),)))[-1]
    groups = [client.group for client in federation.clients] * 2
    assert len(up) == len(groups)
    for place, (message, group) in enumerate(zip(up, groups, strict=True)):
        payload_spec = algorithm.payload_spec(federation.task, group)
        first = place < len(federation.clients)
        assert set(message) == {key for key, spec in payload_spec.items() if first or not spec.once}
        for key in message:
            spec = payload_spec[key]
            rows = message[key].shape[0] if spec.rows else spec.shape[0]
            assert message[key].shape == (rows, *spec.shape[1:])
    assert (algorithm.properties.up == "nothing") == (not any(up))
    assert (algorithm.properties.down == "nothing") == (not any(down))
    assert bool(last.ledger.bytes_down) == any(down)
    for value in tree_leaves([up, down]):
        assert value.dtype == torch.float32 if value.is_floating_point() else torch.int32
        assert value.isfinite().all()


@every_algorithm
def test_a_clients_own_parameters_go_up_if_and_only_if_declared(name, tiny):
    algorithm, federation = small(name), tiny()
    up = []
    gone = []
    for current in simulate(
        algorithm, federation.task, federation.clients, rounds=2, channel=Channel((recorder(up),))
    ):
        for client, message in zip(current.clients, up, strict=True):
            gone.append([occurs(value, message.values()) for value in client.params.values()])
        up.clear()
    shared = algorithm.properties.architectures == "shared within a group"
    assert len(gone) == 10
    assert all(all(each) if shared else not any(each) for each in gone)


def occurs(value, others):
    return any(value.shape == other.shape and torch.equal(value, other) for other in others)


def test_predictions_are_what_most_algorithms_exchange():
    assert {"fd", "fedmd", "dsfl"} <= set(PREDICTIONS)
    assert all(algorithms.get(n).properties.architectures == "any" for n in PREDICTIONS)


def received(algorithm, federation, weights):
    """What the server reads of the clients' first uploads, with other weights."""
    server = algorithm.init(federation.task, stream(0))
    for client, weight in zip(federation.clients, weights, strict=True):
        _, upload = update(algorithm, federation, client, server)
        yield Received(client.id, client.group, upload.payload, weight, upload.rows)


def update(algorithm, federation, client, server):
    """A client's half of a round."""
    predict = federation.task.models[client.group].predict
    told = algorithm.broadcast(server, client.id, client.group)
    private = private_of(algorithm, client, 0, 1)
    public = public_of(algorithm, federation.task, 0, 1)
    return algorithm.client_update(predict, client.params, told, private, public)


LONG = TrainingConfig("momentum", 0.1, epochs=12, batch_size=4)
LEARNED = {  # votes say nothing of clients who have learnt nothing
    "fedkt": {"local": LONG, "distill": LONG, "students": 1, "subsets": 1},
}


@every_algorithm
def test_the_server_needs_the_sum_that_is_declared_and_no_other(name, tiny, double):
    # Three clients with different examples of the same labels, who count for 1, 2 and 5. When each
    # sends the mean of what the three would have sent, all sums of payloads stay what they are;
    # when it sends their weighted mean, all sums of weight x payload do.
    algorithm = small(name, **LEARNED.get(name, {}))
    federation = tiny(["mlp-8"], sizes=(10, 10, 10))
    task, public = federation.task, public_of(algorithm, federation.task, 0, 1)
    uploads = list(received(algorithm, federation, (1.0, 2.0, 5.0)))
    server = algorithm.init(task, stream(0))
    apart = tree_leaves(algorithm.server_update(task, server, uploads, public))
    suffice = set()
    for summand, shares in (("payload", (1, 1, 1)), ("weighted payload", (1, 2, 5))):
        blend = {
            key: sum(s * u.payload[key] for s, u in zip(shares, uploads, strict=True)) / sum(shares)
            for key in uploads[0].payload
        }
        blended = [upload._replace(payload=blend) for upload in uploads]
        together = tree_leaves(algorithm.server_update(task, server, blended, public))
        if all(torch.allclose(a, b, 1e-12, 1e-12) for a, b in zip(apart, together, strict=True)):
            suffice.add(summand)
    declared = {algorithm.properties.summand} - {"none"}
    if algorithm.properties.up == "nothing":
        assert declared < suffice  # of nothing, any sum
    else:
        assert suffice == declared


@every_algorithm
def test_the_server_learns_from_the_sum_of_summands_what_it_learns_from_uploads(name, tiny, double):
    federation, algorithm = tiny(sizes=(9, 4, 6)), small(name)
    task, public = federation.task, public_of(algorithm, federation.task, 0, 1)
    uploads, server = (
        list(received(algorithm, federation, (1.0, 2.0, 5.0))),
        algorithm.init(task, stream(0)),
    )
    if algorithm.properties.summand == "none":
        with pytest.raises(ValueError, match="needs each upload on its own"):
            algorithm.summand(uploads[0])
        return
    total = {}
    for upload in reversed(uploads):
        factor = upload.weight if algorithm.properties.summand == "weighted payload" else 1.0
        term = algorithm.summand(upload)
        for key, value in upload.payload.items():
            (said,) = (v for k, v in term.items() if k in (key, f"{upload.group}/{key}"))
            assert torch.equal(said, factor * value)
        assert all(value.dtype == torch.float64 for value in term.values())
        total = {key: total.get(key, 0) + term.get(key, 0) for key in {**term, **total}}
    told = algorithm.server_from_sum(task, server, total, 3, public)
    expected = algorithm.server_update(task, server, iter(uploads), public)
    assert told.keys() == expected.keys()
    assert all(torch.allclose(told[key], expected[key], 1e-12, 1e-12) for key in told)


@every_algorithm
def test_a_weight_is_sent_and_weighed_where_the_server_uses_it(name, tiny, double):
    federation, algorithm = tiny(["mlp-8"], sizes=(9, 4, 6)), small(name)
    task, public = federation.task, public_of(algorithm, federation.task, 0, 1)
    server = algorithm.init(task, stream(0))
    one, other = (
        algorithm.server_update(task, server, received(algorithm, federation, weights), public)
        for weights in ((1.0, 1.0, 1.0), (1.0, 2.0, 5.0))
    )
    used = not equal(one, other)
    assert used == ("weight" in algorithm.properties.beyond_training)
    (current,) = run(algorithm, federation, rounds=1)
    sent = [int(upload.weight) for upload in current.uploads.values()]
    assert sent == ([9, 4, 6] if used else [1, 1, 1])
    tensors = sum(sum(weigh(upload.payload).values()) for upload in current.uploads.values())
    assert current.ledger.bytes_up == tensors + 3 * 8 * used


def neighbours(client, classes):
    """The client with one record exchanged, with other labels, with one record less."""
    x, y, rows = client.private.x.clone(), client.private.y.clone(), client.private.rows
    x[rows[0]] = 1 - x[rows[0]]
    yield Examples(x, y, rows)
    lacking = sorted(set(range(classes)) - set(y[rows].tolist()))
    y = client.private.y.clone()
    y[rows[0]] = lacking[0]
    yield Examples(client.private.x, y, rows)
    yield Examples(client.private.x, client.private.y, rows[1:])


def parts_that_differ(one, other):
    """Keys of the payload, "rows", "weight": whatever is not the same in two uploads."""
    before, after = ({**u.payload, "rows": u.rows, "weight": u.weight} for u in (one, other))
    assert before.keys() == after.keys()
    return {key for key in before if not equal(before[key], after[key])}


@every_algorithm
def test_private_examples_reach_an_upload_by_training_or_as_declared(name, tiny, monkeypatch):
    # Training is replaced by something that moves parameters and sees no data: what of an upload
    # still depends on private examples is what is declared, all of it and no more.
    federation, algorithm = tiny(sizes=(7, 3, 5), held=4), small(name)
    start = algorithm.init(federation.task, stream(0))
    later = run(algorithm, federation, rounds=1)[0].server  # it has something to say
    monkeypatch.setattr("kdcore.training.loop._fit_one", untaught)
    found = set()
    for client in federation.clients[:2]:
        *others, fewer = neighbours(client, federation.task.num_classes)
        for server, changed in ((start, [*others, fewer]), (later, others)):
            _, expected = update(algorithm, federation, client, server)
            for private in changed:
                other = replace(client, private=private)
                _, upload = update(algorithm, federation, other, server)
                found |= parts_that_differ(upload, expected)
    assert found == set(algorithm.properties.beyond_training)


def untaught(spec, params, batches, context):
    return tuple(0.99 * value.detach() for value in params.values())


@every_algorithm
def test_uploads_are_gone_through_once(name, tiny):
    algorithm, federation = small(name), tiny()

    class Once(type(algorithm)):
        def server_update(self, task, server, uploads, public):
            return super().server_update(task, server, iter(uploads), public)

    once = Once(**{f.name: getattr(algorithm, f.name) for f in fields(algorithm)})
    first, second = run(algorithm, federation), run(once, federation)
    assert equal([r.server for r in first], [r.server for r in second])


@every_algorithm
def test_a_server_that_counts_rounds_counts_each(name, tiny):
    # It draws by this number: one that stands still would draw the same in every round.
    found = [current.server.get("round") for current in run(small(name), tiny(), rounds=3)]
    assert found in ([None] * 3, [1, 2, 3])


@every_algorithm
def test_what_the_server_learns_is_said(name):
    assert algorithms.get(name).properties.server_learns


COUNTED = [*((name, {}) for name in algorithms.names()), ("fedmd", {"pretrain": 2})]


@pytest.mark.parametrize(("name", "settings"), COUNTED, ids=str)
def test_mini_batches_are_those_that_are_trained_on(name, settings, tiny, monkeypatch):
    federation, seen = tiny(), []

    def counting(predict, params, batches, *more, **named):
        seen.append(batches.steps)
        return fit(predict, params, batches, *more, **named)

    for module in [m for key, m in sys.modules.items() if key.startswith("fedkd.")]:
        if getattr(module, "fit", None) is fit:
            monkeypatch.setattr(module, "fit", counting)
    algorithm = small(name, **settings)

    def engine(function, task, clients, inputs):
        results = []
        for client, given in zip(clients, inputs, strict=True):
            seen.clear()
            results += sequential(function, task, [client], [given])
            assert algorithm.mini_batches(*given) == sum(seen)
            counts.append(sum(seen))
        return results

    counts = []
    run(algorithm, federation, rounds=3, engine=engine)
    assert len(counts) == 15
    assert any(counts) == (name != "pooled")


# Purity


@every_algorithm
def test_the_same_seed_gives_the_same_rounds_and_another_seed_others(name, tiny):
    federation = tiny()
    first, again = run(small(name), federation, seed=3), run(small(name), federation, seed=3)
    other = run(small(name), federation, seed=4)
    for a, b in zip(first, again, strict=True):
        assert equal(params_of(a), params_of(b))
        assert equal(a.server, b.server)
        assert (a.cohort, a.rejected, a.ledger) == (b.cohort, b.rejected, b.ledger)
    assert not equal(params_of(first[-1]), params_of(other[-1]))


@every_algorithm
def test_the_order_in_which_clients_are_named_does_not_matter(name, tiny):
    federation = tiny()
    turned = federation._replace(clients=federation.clients[::-1])
    forwards, backwards = run(small(name), federation)[-1], run(small(name), turned)[-1]
    assert equal(params_of(forwards), params_of(backwards))
    assert equal(forwards.server, backwards.server)


@every_algorithm
def test_the_order_in_which_clients_are_drawn_does_not_matter(name, tiny):
    federation = tiny()
    forwards = run(small(name), federation, sample=only(0, 2, 3, 4))[-1]
    backwards = run(small(name), federation, sample=only(3, 4, 0, 2))[-1]
    assert equal(forwards.server, backwards.server)
    assert equal(params_of(forwards), params_of(backwards))


@every_algorithm
def test_global_random_numbers_are_neither_used_nor_moved(name, tiny):
    federation = tiny()
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(run(small(name), federation)[-1])
        assert torch.equal(torch.get_rng_state(), before)
    assert equal(params_of(results[0]), params_of(results[1]))


@every_algorithm
def test_inputs_are_left_as_they_are(name, tiny):
    federation, log = tiny(), []

    def watching(function, task, clients, inputs):
        given = [(client.params, *rest) for client, rest in zip(clients, inputs, strict=True)]
        before = copy(given)
        results = sequential(function, task, clients, inputs)
        assert equal(given, before)
        log.append(len(given))
        return results

    servers = []
    for current in simulate(
        small(name), federation.task, federation.clients, rounds=3, engine=watching
    ):
        servers.append((current.server, copy(current.server)))
    assert log == [5, 5, 5]
    assert all(equal(server, before) for server, before in servers)


@every_algorithm
def test_a_deployed_model_has_the_shapes_of_the_clients_own(name, tiny):
    federation = tiny()
    last = run(small(name), federation)[-1]
    for client, before in zip(
        deployed(small(name), federation.task, last), federation.clients, strict=True
    ):
        shapes = {k: v.shape for k, v in before.params.items()}
        assert {k: v.shape for k, v in client.params.items()} == shapes


SEVEN = ["mlp-8", "mlp-9-8", "cnn-4-8", "cnn-4@8", "lenet@8", "mobile-4-8", "resnet8-2"]


@every_algorithm
def test_seven_architectures_take_part_in_one_federation(name, tiny):
    federation = tiny(SEVEN, sizes=(5, 4, 3, 5, 6, 4, 5))
    assert len(federation.task.models) == len({c.group for c in federation.clients}) == 7
    for current in run(small(name), federation):
        assert current.rejected == current.failed == {}
        assert all(value.isfinite().all() for value in tree_leaves(params_of(current)))


# Who takes part


@every_algorithm
def test_a_part_of_the_clients_may_take_part(name, tiny):
    federation = tiny()
    before = {client.id: client.params for client in federation.clients}
    seen = set()
    for current in run(small(name), federation, rounds=5, sample=uniform(0.4), seed=1):
        assert len(current.cohort) == 2
        assert current.rejected == {}
        after = params_of(current)
        for number in before:
            moved = not equal(after[number], before[number])
            assert moved == (number in current.cohort)
        assert all(value.isfinite().all() for value in tree_leaves(after))
        before = after
        seen |= set(current.cohort)
    assert len(seen) > 2


@every_algorithm
def test_a_cohort_is_told_what_each_of_it_would_be_told_alone(name, tiny):
    federation, algorithm = tiny(["mlp-8"], (3, 1, 4, 2)), small(name)
    server = run(algorithm, federation, sample=only(3, 0, 1))[-1].server
    cohort = {client.id: client.group for client in federation.clients}
    for known in (algorithm.init(federation.task, stream(0)), server):
        told = algorithm.broadcasts(known, cohort)
        assert list(told) == [0, 1, 2, 3]
        for client, group in cohort.items():
            assert equal(told[client], algorithm.broadcast(known, client, group))


@every_algorithm
def test_a_client_may_join_late(name, tiny):
    federation = tiny()

    def sample(clients, generator):
        return next(cohorts)

    cohorts = iter([[0, 1, 3], [0, 1, 3], [2, 3, 4]])
    *_, last = run(small(name), federation, rounds=3, sample=sample)
    assert last.cohort == (2, 3, 4)
    assert last.rejected == {}
    assert all(value.isfinite().all() for value in tree_leaves(params_of(last)))
    models = deployed(small(name), federation.task, last)
    assert all(value.isfinite().all() for model in models for value in model.params.values())


@every_algorithm
@pytest.mark.parametrize("sizes", [(6,), (1,), (1, 1, 1), (0, 6, 4), (5, 0, 1)], ids=str)
def test_few_clients_and_few_examples(name, sizes, tiny):
    # One client alone; one example; a group of one client; a client with nothing at all.
    federation = tiny(sizes=sizes)
    for current in run(small(name), federation, rounds=3):
        assert current.rejected == {}
        assert all(
            value.isfinite().all() for value in tree_leaves([params_of(current), current.server])
        )


@every_algorithm
def test_a_federation_in_which_nobody_has_examples_stands_still(name, tiny):
    federation = tiny(sizes=(0, 0))
    first, second = run(small(name), federation)
    for value in tree_leaves([first.server, second.server, params_of(second)]):
        assert value.isfinite().all()


@every_algorithm
def test_no_local_epochs_is_no_training_and_no_crash(name, tiny):
    federation = tiny()
    algorithm = replace(small(name), local=TrainingConfig(epochs=0))
    assert run(algorithm, federation)[-1].rejected == {}


WHOLE = {"fedcache", "fedgkt", "pooled"}  # a client shows each of its examples once a round


@pytest.mark.parametrize("name", sorted(set(algorithms.names()) - WHOLE))
def test_an_epoch_of_one_batch_is_one_step_whatever_epochs_says(name, tiny):
    federation = tiny(sizes=(3, 4, 2))
    epoch = run(small(name), federation)[-1]
    step = TrainingConfig("momentum", 0.05, epochs=9, batch_size=4, steps=1)
    counted = run(small(name, local=step), federation)[-1]
    assert equal(params_of(counted), params_of(epoch))
    assert equal(counted.server, epoch.server)


@pytest.mark.parametrize("showing", sorted(WHOLE))
def test_steps_are_refused_where_all_examples_are_shown(showing):
    with pytest.raises(ValueError, match=f"{showing} takes whole epochs, and steps is 3"):
        small(showing, local=TrainingConfig(steps=3))


@every_algorithm
def test_classes_that_nobody_holds_are_no_trouble(name, tiny):
    federation = tiny(classes=5, held=2)
    last = run(small(name), federation, rounds=3)[-1]
    assert last.rejected == {}
    assert all(value.isfinite().all() for value in tree_leaves([params_of(last), last.server]))


@every_algorithm
def test_a_round_in_which_nobody_takes_part_changes_nothing(name, tiny):
    federation = tiny()

    def sample(clients, generator):
        return next(cohorts)

    cohorts = iter([everyone(range(5), None), available(1e-9)(range(5), stream(0)), [0, 2]])
    first, empty, third = run(small(name), federation, rounds=3, sample=sample)
    assert empty.cohort == ()
    assert equal(empty.server, first.server)
    assert equal(params_of(empty), params_of(first))
    assert (empty.ledger.bytes_up, empty.ledger.bytes_down) == (0, 0)
    assert third.cohort == (0, 2)


@every_algorithm
def test_a_run_that_goes_on_from_a_round_is_as_if_it_had_never_stopped(name, tiny):
    federation = tiny()
    first, *rest = run(small(name), federation, rounds=4, sample=uniform(0.6))
    resumed = run(small(name), federation, rounds=4, sample=uniform(0.6), after=first)
    assert [current.index for current in resumed] == [2, 3, 4]
    for one, other in zip(resumed, rest, strict=True):
        assert equal([one.server, params_of(one)], [other.server, params_of(other)])
        assert (one.cohort, one.ledger) == (other.cohort, other.ledger)


# The type of the inputs

OTHERWISE = {  # settings that take another way
    "dsfl": {"public_size": 5},
    "feddf": {"patience": 1},
    "fedmd": {"exchange": "logits", "pretrain": 1},
}


def typed(federation, kind):
    """The federation on whole numbers from 0 to 3, in a type; one architecture is a user's own."""
    task, clients = federation.task, federation.clients
    whole = [(3 * x).round().to(kind) for x in (clients[0].private.x, task.public)]
    people = [replace(c, private=replace(c.private, x=whole[0])) for c in clients]
    own = task.models["mlp-8"]

    def predict(params, x):
        return own.predict(params, x.to(params["layer0.weight"].dtype))

    return federation._replace(
        clients=people,
        test=replace(federation.test, x=whole[0]),
        task=replace(
            task,
            models=task.models | {"mlp-8": own._replace(predict=predict)},
            public=whole[1],
            labels=torch.arange(len(whole[1])) % task.num_classes,
            validation=replace(federation.test, x=whole[0]),
        ),
    )


def outcome(algorithm, federation, engine):
    """All numbers that come of a run."""
    *_, last = run(algorithm, federation, engine=engine)
    assert last.rejected == last.failed == {}
    models = deployed(algorithm, federation.task, last, engine=engine)
    scores = evaluate(federation.task, models, federation.test, federation.label_counts, engine)
    own = [dict(client.params) for client in (*last.clients, *models)]
    return last.server, last.broadcasts, last.uploads, own, dict(scores)


@every_algorithm
def test_the_type_of_the_inputs_decides_nothing(name, tiny):
    # A network that takes numbers of any type sees the same ones, so all that follows is the same.
    given = tiny(["mlp-8", "cnn-4-8"], sizes=(6, 1, 3))
    for settings in ({}, *([OTHERWISE[name]] if name in OTHERWISE else [])):
        algorithm = small(name, **settings)
        for engine, more in ((sequential, []), (batched(50), [torch.uint8, torch.float64])):
            expected = outcome(algorithm, typed(given, torch.float32), engine)
            for kind in (torch.int64, *more):
                found = outcome(algorithm, typed(given, kind), engine)
                assert types(found) == types(expected), kind
                assert equal(found, expected), kind


@every_algorithm
def test_models_of_many_digits_keep_them_whatever_the_inputs(name, tiny, double):
    given = tiny(["mlp-8", "cnn-4-8"], sizes=(6, 1, 3))
    expected = outcome(small(name), typed(given, torch.float64), batched(50))
    assert not {torch.float32, torch.float16} & set(types(expected))
    assert equal(outcome(small(name), typed(given, torch.float32), batched(50)), expected)


def types(tree):
    return [leaf.dtype for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


# Uploads that are not what they claim to be


def entry(value):
    """A payload with one entry of its first tensor set to a value."""

    def tamper(upload):
        key, tensor = next(iter(upload.payload.items()))
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        tensor.view(-1)[0] = value
        return upload._replace(payload=upload.payload | {key: tensor})

    return tamper


def mapped(change):
    return lambda upload: upload._replace(
        payload={key: change(value) for key, value in upload.payload.items()}
    )


def renamed(upload):
    return upload._replace(payload={f"{key}x": value for key, value in upload.payload.items()})


def extra(upload):
    return upload._replace(payload=upload.payload | {"surprise": torch.zeros(1)})


def missing(upload):
    return upload._replace(payload=dict(list(upload.payload.items())[1:]))


def weighing(value):
    return lambda upload: upload._replace(weight=torch.tensor(value))


def turned_rows(upload):
    """Named rows where none were asked for; none where some were."""
    length = len(next(iter(upload.payload.values())))
    first = torch.arange(length) < 1
    return upload._replace(rows=first.float() if upload.rows is None else None)


MALICIOUS = {
    "weight -1": (weighing(-1.0), "weight -1"),
    "weight NaN": (weighing(torch.nan), "weight nan"),
    "weight 1e15": (weighing(1e15), r"weight 1e\+15"),
    "two weights": (weighing([1.0, 1.0]), "one element"),
    "extra key": (extra, "surprise"),
}
WITH_PAYLOAD = {
    "NaN": (entry(torch.nan), "1 entries that are not finite"),
    "infinite": (entry(-torch.inf), "1 entries that are not finite"),
    "one row more": (mapped(lambda v: torch.cat([v, v[:1]])), "shape"),
    "one axis more": (mapped(lambda v: v.unsqueeze(-1)), "shape"),
    "wrong key": (renamed, "keys"),
    "no key": (missing, "keys"),
    "more digits": (mapped(lambda v: v.double()), "type torch.float64"),
    "fewer digits": (mapped(lambda v: v.bfloat16()), "type torch.bfloat16"),
    "integers": (mapped(lambda v: v.long()), "type torch.int64"),
    "rows turned": (turned_rows, "rows"),
}
WITH_DISTRIBUTIONS = {
    "twice as sure": (mapped(lambda v: 2 * v), "no distribution"),
    "logits": (mapped(lambda v: (v.clamp(min=1e-9)).log()), "no distribution"),
    "a negative share": (mapped(lambda v: v - torch.tensor([0.0] * 3 + [1.5, -1.5])), "no distri"),
    "nothing": (mapped(torch.zeros_like), "no distribution"),
}
WITH_CODE = {  # bytes of the algorithm's own coding, which have to be read before they are checked
    "cut off": (mapped(lambda v: v[:-1]), "cannot be read"),
    "one byte more": (mapped(lambda v: torch.cat([v, v[:1]])), "cannot be read"),
    "other bytes": (mapped(lambda v: v ^ 255), "cannot be read"),
    "no bytes": (mapped(lambda v: v[:0]), "cannot be read"),
    "a table of bytes": (mapped(lambda v: v.unsqueeze(0)), "cannot be read"),
    "numbers": (mapped(lambda v: v.float()), "cannot be read"),
    "wrong key": (renamed, "keys|cannot be read"),
    "no key": (missing, "keys|cannot be read"),
    "rows turned": (turned_rows, "rows"),
}
WITH_FACTORS = {  # numbers of the algorithm's own coding
    "NaN": (entry(torch.nan), "entries that are not finite"),
    "infinite": (entry(-torch.inf), "entries that are not finite"),
    "one row more": (mapped(lambda v: torch.cat([v, v[:1]])), "shape|cannot be read"),
    "wrong key": (renamed, "keys"),
    "no key": (missing, "keys|cannot be read"),
    "more digits": (mapped(lambda v: v.double()), "type torch.float64"),
    "rows turned": (turned_rows, "rows"),
}
WITH_ROWS = {
    "half a row": (lambda u: u._replace(rows=u.rows / 2), "not all 0 or 1"),
    "rows for more": (lambda u: u._replace(rows=torch.cat([u.rows, u.rows])), "rows|shape"),
    "rows not sent": (lambda u: u._replace(rows=torch.ones_like(u.rows)), "shape"),
}


ASKING = {"scarlet": {"duration": 1}}  # with which there is something to send in each round


def attacks(name, federation):
    """What can be tried on an algorithm, given what it sends."""
    algorithm, found = small(name), dict(MALICIOUS)
    due = algorithm.payload_spec(federation.task, federation.clients[2].group)
    if algorithm.uplink:
        return found | (WITH_CODE if in_bytes(algorithm, due) else WITH_FACTORS)
    payload_spec = due.values()
    if payload_spec:
        found |= WITH_PAYLOAD
    if any(spec.simplex for spec in payload_spec):
        found |= WITH_DISTRIBUTIONS
    if any(spec.rows for spec in payload_spec):
        found |= WITH_ROWS
    if name in ("scarlet", "selectivefd"):  # all rows are sent: all are due, or the client has few
        found.pop("rows not sent")
    return found


def in_bytes(algorithm, due):
    """Whether the algorithm's own coding makes bytes of its uploads."""
    wire = Channel().with_algorithm(algorithm).given_broadcast({})
    sample = {k: torch.full(spec.shape, 1 / spec.shape[-1]) for k, spec in due.items()}
    sent = wire.send_up(Upload(sample, torch.tensor(1.0)), stream(0))
    return any(value.dtype == torch.uint8 for value in sent.payload.values())


@dataclass(frozen=True)
class Tapped(Channel):
    """A channel with an attacker on the line of one client, who changes what it has sent."""

    change: Callable[[Upload], Upload] = lambda upload: upload
    number: int = 0

    def send_all(self, uploads, told, generators):
        sent = super().send_all(uploads, told, generators)
        streams = [stream(0, "up", index, self.number).initial_seed() for index in (1, 2)]
        return [
            self.change(one) if generators(place).initial_seed() in streams else one
            for place, one in enumerate(sent)
        ]


@every_algorithm
def test_a_bad_upload_is_turned_away_as_if_its_sender_had_not_been_there(name, tiny):
    federation, algorithm = tiny(), small(name, **ASKING.get(name, {}))
    bad = 3  # it holds three of the five labels, and is not the only one of its architecture
    honest = run(algorithm, federation, sample=only(0, 1, 2, 4))
    tried = attacks(name, federation)
    for attack, (change, reason) in tried.items():
        rounds = run(algorithm, federation, channel=Tapped(change=change, number=bad))
        for current, expected in zip(rounds, honest, strict=True):
            assert list(current.rejected) == [bad], attack
            assert re.search(reason, current.rejected[bad]), (attack, current.rejected)
            assert equal(current.server, expected.server), attack
            others = [0, 1, 2, 4]
            ours, theirs = params_of(current), params_of(expected)
            assert equal([ours[i] for i in others], [theirs[i] for i in others]), attack
    assert len(tried) >= len(MALICIOUS)


@every_algorithm
def test_a_client_that_fails_is_named_and_leaves_the_round_as_if_it_had_not_been_there(name, tiny):
    federation, lost = tiny(), 3

    def engine(function, task, clients, inputs):
        results = sequential(function, task, clients, inputs)
        return [
            Failure("flat battery") if c.id == lost else r
            for c, r in zip(clients, results, strict=True)
        ]

    honest = run(small(name), federation, sample=only(0, 1, 2, 4))
    for current, expected in zip(run(small(name), federation, engine=engine), honest, strict=True):
        assert current.failed == {lost: "flat battery"}
        assert current.rejected == {}
        assert lost in current.cohort
        assert equal(current.server, expected.server)
        assert equal(params_of(current), params_of(expected))
        assert current.ledger.up == expected.ledger.up  # it was told, and said nothing


@every_algorithm
def test_a_round_of_nothing_but_bad_uploads_keeps_the_server(name, tiny):
    federation = tiny()

    def engine(function, task, clients, inputs):
        results = sequential(function, task, clients, inputs)
        if next(bad):
            results = [(params, weighing(-1.0)(upload)) for params, upload in results]
        return results

    bad = iter([False, True, False])
    first, second, third = run(small(name), federation, rounds=3, engine=engine)
    assert sorted(second.rejected) == [0, 1, 2, 3, 4]
    assert equal(second.server, first.server)
    assert third.rejected == {}


@every_algorithm
def test_weights_that_add_up_to_nothing_are_no_division_by_zero(name, tiny):
    federation = tiny()

    def engine(function, task, clients, inputs):
        results = sequential(function, task, clients, inputs)
        return [(params, weighing(0.0)(upload)) for params, upload in results]

    for current in run(small(name), federation, rounds=2, engine=engine):
        assert current.rejected == {}
        assert all(value.isfinite().all() for value in tree_leaves(current.server))
