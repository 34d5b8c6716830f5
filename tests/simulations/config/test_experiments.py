import dataclasses
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedgraphkd.shares import GraphShares, NodeShares
from fedkd import algorithms
from fedkd.algorithms.dsfl import DSFL
from fedkd.algorithms.feddf import FedDF
from fedkd.privacy.votes import NoisyVotes
from fedkd.rounds.clock import Clock
from kdcore.settings import WIDEST
from simulations.config import files, grid, identity
from simulations.config.experiments import KINDS, FedExperiment, build
from simulations.config.schema import leaves, unsaid, updated, values
from simulations.execution import scheduler


def expand(text):
    return grid.expand(tomllib.loads(text), "experiment.toml").experiments


def test_a_list_is_an_axis_and_seeds_a_number_of_them():
    found = expand("""
        [fed]
        algorithm = ["local", "dsfl"]
        alpha = [0.1, 1]
        seeds = 3
        models = ["mlp-8", "mlp-9"]
        local.epochs = 2
        [algorithm.dsfl]
        temperature = [0.1, 0.2]
    """)
    assert len(found) == 2 * 3 + 2 * 2 * 3
    assert {e.models for e in found} == {("mlp-8", "mlp-9")}
    assert {e.seed for e in found} == {0, 1, 2}
    assert {e.alpha for e in found} == {0.1, 1.0}
    assert {e.algorithm.local.epochs for e in found} == {2}
    assert {e.algorithm.temperature for e in found if e.name == "dsfl"} == {0.1, 0.2}
    assert len({identity.digest(e) for e in found}) == len(found)


def test_a_list_of_lists_is_an_axis_of_lists():
    found = expand('[fed]\nalgorithm = "local"\nmodels = [["mlp-8"], ["mlp-9", "cnn"]]')
    assert [e.models for e in found] == [("mlp-8",), ("mlp-9", "cnn")]


def test_a_part_of_a_training_keeps_the_rest_of_its_default():
    (found,) = expand('[fed]\nalgorithm = "feddf"\ndistill.epochs = 2')
    assert found.algorithm.distill == dataclasses.replace(FedDF().distill, epochs=2)


def test_data_without_classes_have_defaults_of_their_own():
    houses = build("fed", "fedmd", {"data": "california"})
    assert (houses.partition, houses.private, houses.clients) == ("bands", 1000, 5)
    assert houses.models == ("mlp-64", "mlp-32-32")
    said = build("fed", "fedmd", {"data": "california", "partition": "iid", "private": 0})
    assert (said.partition, said.private, said.models) == ("iid", 0, houses.models)
    plays = build("fed", "local", {"data": "shakespeare"})
    assert (plays.partition, plays.clients) == ("natural", 10)
    assert build("fed", "local", {"data": "digits"}) == build("fed", "local", {})


def test_a_shared_setting_goes_to_those_that_have_it():
    local, dsfl = expand('[fed]\nalgorithm = ["local", "dsfl"]\ntemperature = 0.5')
    assert local.algorithm == algorithms.get("local")()
    assert dsfl.algorithm.temperature == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fed]\nalgorithm='fedmd'\naplha=1", "unknown key 'aplha' in [fed]; did you mean 'alpha'"),
        ("[fed]\nalgorithm='fedmd'\nlocal.epoch=1", "'local.epoch' in [fed]; did you mean 'local."),
        ("[fed]\nalgorithm='fedmd'\nlocal=1", "unknown key 'local' in [fed]"),
        ("[fed]\nalgorithm='fedmb'", "unknown algorithm 'fedmb'; did you mean 'fedmd'?"),
        ("[fed]\nalgorithm='local'\n[algorithm.fedmd]\n", "[algorithm.fedmd] is for none of"),
        ("[fed]\nrounds=3", "[fed] needs algorithm ="),
        ("[fedd]\n", "unknown table [fedd]; did you mean 'fed'?"),
        ("[resources]\ncpus=1", "none of [fed], [graph], [survey]"),
        ("[fed]\nalgorithm='fedmd'\nrounds='ten'", "rounds is 'ten': input should be a valid int"),
        ("[fed]\nalgorithm='fedmd'\nrounds=true", "rounds is True"),
        ("[fed]\nalgorithm='fedmd'\nrounds=0", "rounds must be >= 1, got 0"),
        ("[fed]\nalgorithm='fedmd'\nalpha=inf", "alpha is inf"),
        ("[fed]\nalgorithm='fedmd'\nalpha=[]", "alpha is an empty list"),
        ("[fed]\nalgorithm='fedmd'\nengine='rai'", "unknown engine 'rai'; did you mean 'ray'?"),
        ("[fed]\nalgorithm='fedmd'\nseeds=0", "seeds must be a number >= 1 or a list"),
        ("[fed]\nalgorithm='fedmd'\nlocal.learning_rate=nan", "local.learning_rate is nan"),
        ("[fed]\nalgorithm='fedmd'\nlocal.learning_rate=-1", "learning_rate must be > 0"),
        ("fed = 3", "fed must be a table"),
        ("[fed]\nalgorithm='fedmd'\nclock.slowdown=0.5", "clock.slowdown must be from 1 to 1e+09"),
        (
            "[fed]\nalgorithm='fedmd'\nlocal.weight_decay=1e301",
            "weight_decay must be >= 0 and",
        ),
        (
            "[fed]\nalgorithm='fedmd'\ntest=10000000",
            "test is 10000000; it has to be at most",
        ),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ValueError, match="experiment.toml: ") as error:
        expand(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


LOCAL = {"algorithm": "local"}


def test_resources_are_checked_too():
    with pytest.raises(ValueError, match="e.toml: unknown key 'cpu' in .resources.; did you mean"):
        grid.expand({"fed": LOCAL, "resources": {"cpu": 1}}, "e.toml")
    with pytest.raises(ValueError, match="e.toml: cpus must be from 1 to 1024, got 0"):
        grid.expand({"fed": LOCAL, "resources": {"cpus": 0}}, "e.toml")


def test_set_puts_values_into_the_document():
    document = {"fed": {"algorithm": "fedmd", "rounds": 9}, "graph": {"method": "glnn"}}
    given = ["seeds=2", "rounds=3", "fed.local.epochs=4", "algorithm.fedmd.public_size=5"]
    changed = files.override(document, [*given, "fed.data=digits", "distill.epochs=6"])
    assert changed["fed"] == {
        "algorithm": "fedmd",
        "rounds": 3,
        "seeds": 2,
        "local": {"epochs": 4},
        "data": "digits",
        "distill": {"epochs": 6},
    }
    assert changed["graph"] == {"method": "glnn", "seeds": 2}
    assert changed["algorithm"] == {"fedmd": {"public_size": 5}}
    with pytest.raises(ValueError, match="KEY=VALUE"):
        files.override(document, ["rounds"])


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)  # no half of a surrogate pair
TIMES = st.datetimes() | st.dates() | st.times()
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS | TEXTS | TIMES,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXTS, inside, max_size=3),
    max_leaves=10,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # tables of characters
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_a_document_survives_being_written(document):
    """Whatever TOML can hold: any key, times, infinity, tables in lists, control characters."""
    assert tomllib.loads(files.dump(document)) == document


def test_what_was_run_is_kept_as_it_was_written(kdsim, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "run", lambda *given: iter(()))
    text = (
        '# why\n[fed]\nalgorithm = "local"\nalpha = 1e0\n[about]\n"a b" = [{when = 2026-01-01}]\n'
    )
    (tmp_path / "mine.toml").write_text(text)
    assert kdsim("run", "mine.toml", "--out", "out")[0] == 0
    assert (tmp_path / "out" / "experiment.toml").read_text() == text
    assert kdsim("run", "mine.toml", "--set", "rounds=3", "--out", "other")[0] == 0
    found = files.read(tmp_path / "other" / "experiment.toml")
    assert found == tomllib.loads(text.replace("[about]", "rounds = 3\n[about]"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = 1_000_000_000", "seeds is 1000000000, and the most runs are 10000"),
        (f"seeds = {10**30}", "and the most runs are 10000; take fewer seeds"),
        (f"alpha = {[1] * 2000}\nrounds = {[1] * 2000}\nchunk = [1, 1]", "makes 8000000 runs"),
        ("rounds = {}", "rounds is {}: input should be a valid integer"),
        ("rounds = {a = 1}", "unknown key 'rounds.a' in [fed]"),
        ("rounds = [{a = 1}]", "rounds is {'a': 1}: input should be a valid integer"),
        ("seeds = {}", "seeds must be a number >= 1 or a list of seeds, got {}"),
        ("seeds = [{a = 1}]", "seed is {'a': 1}: input should be a valid integer"),
        ("models = {}", "models is {}"),
    ],
)
def test_runs_are_counted_before_any_is_made(text, message):
    with pytest.raises(ValueError, match="experiment.toml") as error:
        expand(f"[fed]\nalgorithm = 'local'\n{text}")
    assert message in str(error.value)


@pytest.mark.parametrize("given", ["fed.rounds=5", "fed.rounds.x=5"])
def test_set_does_not_reach_into_what_is_no_table(given):
    document = {"fed": 3} if given == "fed.rounds=5" else {"fed": {"rounds": 3}}
    with pytest.raises(ValueError, match="is 3, and no table with"):
        files.override(document, [given])


def test_the_hash_depends_on_every_setting_and_on_nothing_else(tmp_path):
    one = FedExperiment(DSFL())
    assert identity.digest(one) == identity.digest(FedExperiment(DSFL(temperature=0.1)))
    others = {
        "algorithm": DSFL(temperature=0.2),
        "data": "mnist",
        "models": ("cnn",),
        "partition": "iid",
        "engine": "batched",
        "precision": "bfloat16",
        "compression": "float16",
        "corrupt": "0:nan",
        "liars": "0.2:noise",
        "fraction": 0.5,
        "topology": "ring",
        "rewiring": 0.5,
        "clock": Clock(dropout=0.1),
        "sampling": "poisson",
        "private_size": "hidden",
        "loss": "focal",
        "distillation_loss": "squared",
        "epsilon": 2.0,
        "secret_noise": True,
        "secure_sum": True,
        "votes": NoisyVotes(most=5),
    }
    of_files = {"label": "b", "target": "real", "client": "b", "by": "b"}
    of_graphs = {"nodes": NodeShares(train=0.1), "graphs": GraphShares(train=0.1)}
    of_epsilon = {"privacy_unit": "client", "clip_norm": 2.0}
    for field in dataclasses.fields(FedExperiment):
        if field.name in (*of_files, *of_graphs, *of_epsilon, "epsilon_label"):
            continue
        other = others.get(field.name, getattr(one, field.name))
        changed = dataclasses.replace(
            one, **{field.name: other if field.name in others else other + 1}
        )
        assert identity.digest(changed) != identity.digest(one), field.name
    said = [FedExperiment(DSFL(), compression="krr", epsilon_label=e) for e in (1.0, 2.0)]
    assert identity.digest(said[0]) != identity.digest(said[1])
    private = dataclasses.replace(one, epsilon=2.0)
    for name, other in of_epsilon.items():
        changed = dataclasses.replace(private, **{name: other})
        assert identity.digest(changed) != identity.digest(private), name
        assert dataclasses.replace(one, **{name: other}) == one  # without epsilon it says nothing
    for (name, other), data in zip(of_graphs.items(), ("cora", "mutag"), strict=True):
        graph = FedExperiment(DSFL(), data=data, partition="iid")
        changed = dataclasses.replace(graph, **{name: other})
        assert identity.digest(changed) != identity.digest(graph), name
    table = tmp_path / "table.csv"
    table.write_text("a,b,c\n1,2,3\n")
    one = FedExperiment(DSFL(), data=str(table), label="a")
    for name, other in of_files.items():
        changed = dataclasses.replace(one, **{name: other})
        assert identity.digest(changed) != identity.digest(one), name
    before = identity.digest(one)
    table.write_text("a,b,c\n1,2,4\n")
    assert identity.digest(one) != before


OWN = {
    "fed": "from fedkd.algorithms.fedmd import FedMD as Base",
    "graph": "from graphkd.methods.krd import KRD as Base",
    "survey": "from simulations.survey.recipes.objectives.compression import Compression as Base",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_an_experiment_builds_it_again_whoever_wrote_it(kind, tmp_path, monkeypatch):
    for name in KINDS[kind].names():
        assert build(kind, name, {}).name == name
    own = (
        "class Mine(Base):\n    data = Base.data\n"
        if kind == "survey"
        else "class Mine(Base): ...\n"
    )
    (tmp_path / f"somebodys_{kind}.py").write_text(f"{OWN[kind]}\n{own}")
    monkeypatch.syspath_prepend(tmp_path)
    mine = build(kind, f"somebodys_{kind}:Mine", {})
    assert mine.name == f"somebodys_{kind}:Mine"
    assert build(kind, mine.name, {}) == mine


def test_the_hash_of_several_is_of_the_set():
    one, two = FedExperiment(DSFL()), FedExperiment(DSFL(), seed=1)
    assert identity.digest_all([one, two]) == identity.digest_all([two, one])
    assert identity.digest_all([one, two]) != identity.digest_all([one])


@pytest.mark.parametrize("name", algorithms.names())
def test_no_hyperparameter_has_the_name_of_a_setting(name):
    method = algorithms.get(name)()
    assert not set(leaves(method)) & set(leaves(FedExperiment))
    flat = identity.settings(FedExperiment(method))
    known = {"kind", "algorithm", *leaves(method), *leaves(FedExperiment)}
    left_out = unsaid(FedExperiment(method))
    assert set(flat) == known - {name.removeprefix("algorithm.") for name in left_out}
    assert updated(method, values(method)) == method


def test_the_protocol_says_what_must_be_equal():
    said = FedExperiment(DSFL(), partition="shards", fraction=0.5, corrupt="1:nan").protocol
    assert said == "5 clients, shards 2, 10 rounds, 50% of clients a round, client 1 sends nan"


@pytest.mark.parametrize("name", ["demo.toml", "digits-federated.toml"])
def test_the_experiments_that_ship_are_experiments(name):
    from simulations.config import library

    document = files.read(library.FOLDER / name)
    experiments, resources = grid.expand(document, name)
    assert len(experiments) > 10
    scheduler.check(experiments, None)
    assert resources.cpus == 1


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [("recognition", "width"), ("self_supervised", "width"), ("data_free", "latent")]
    + [("generation_images", "latent")],
)
def test_the_width_of_a_recipe_is_bounded_as_that_of_a_method(recipe, setting):
    assert vars(build("survey", recipe, {setting: WIDEST}).recipe)[setting] == WIDEST
    with pytest.raises(ValueError, match=f"{setting} must be from 1 to {WIDEST}, got {WIDEST + 1}"):
        build("survey", recipe, {setting: WIDEST + 1})


def test_none_in_a_list_of_numbers_is_one_that_is_not_given():
    found = expand('[fed]\nalgorithm = "dsfl"\nepsilon = ["none", 4, 8.0]')
    assert [one.epsilon for one in found] == [None, 4.0, 8.0]
    with pytest.raises(ValueError, match="rounds"):
        expand('[fed]\nalgorithm = "dsfl"\nrounds = ["none", 3]')
