"""The JSON schema of experiment files, held to files that are right and to some that are not."""

import json
import tomllib

import pytest

from simulations.config import editors, library

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(json.dumps(editors.schema(), allow_nan=False))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_the_files_that_come_with_kdsim_are_right(validator):
    paths = sorted(library.FOLDER.rglob("*.toml"))
    assert len(paths) > 40
    for path in paths:
        found = [
            error.message[:200] for error in validator.iter_errors(tomllib.loads(path.read_text()))
        ]
        assert found == [], path.name


@pytest.mark.parametrize(
    "text",
    [
        "[fed]\nalgorithm = 'fedmd'\nalpha = [0.1, 1]\nlocal.epochs = [1, 2]\nseeds = 3",
        "[fed]\nalgorithm = ['fedmd', 'mine:Own']\nmystery = 1\n[algorithm.'mine:Own']\nx = 1",
        "[fed]\nalgorithm = 'dsfl'\nepsilon = ['none', 8.0]",
        "[fed]\nalgorithm = 'dsfl'\nmodels = [['cnn'], ['mlp-8', 'cnn']]\nseeds = [3, 5]",
        "[graph]\nmethod = 'glnn'\n[method.glnn]\ntemperature = 2.0\n[resources]\ncpus = 2",
    ],
)
def test_right_files_pass(validator, text):
    assert validator.is_valid(tomllib.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "[fed]\nalgorithm = 'fedmd'\naplha = 1",
        "[fed]\nalgorithm = 'fedmb'",
        "[fed]\nalgorithm = 'fedmd'\nrounds = 0",
        "[fed]\nalgorithm = 'fedmd'\nrounds = [3, 0]",
        "[fed]\nalgorithm = 'fedmd'\nrounds = 'ten'",
        "[fed]\nalgorithm = 'fedmd'\nrounds = [3, 'none']",
        "[fed]\nalgorithm = 'fedmd'\nlocal.epoch = 1",
        "[fed]\nalgorithm = 'fedmd'\nlocal.learning_rate = 0.0",
        "[fed]\nalgorithm = 'fedmd'\ntopology = 'star'",
        "[fed]\nalgorithm = 'fedmd'\nseeds = 0",
        "[fed]\nrounds = 3",
        "[graph]\nmethod = 'glnn'\n[method.glnn]\nrounds = 2",
        "[graph]\nmethod = 'glnn'\n[resources]\ncpus = [1, 2]",
        "[resources]\ncpus = 1",
        "[fedd]\nalgorithm = 'fedmd'",
    ],
)
def test_wrong_files_are_refused(validator, text):
    assert not validator.is_valid(tomllib.loads(text))


def test_help_range_and_default_are_those_of_the_field(validator):
    alpha = validator.schema["properties"]["fed"]["properties"]["alpha"]
    assert alpha["anyOf"][0] == {"exclusiveMinimum": 0, "type": "number"}
    assert alpha["default"] == 0.3
    assert alpha["description"].startswith("concentration of dirichlet")
    own = validator.schema["properties"]["algorithm"]["properties"]["feddf"]["properties"]
    assert own["distill"]["properties"]["batch_size"]["default"] == 128


def test_the_command_prints_it_or_writes_it(kdsim, tmp_path):
    status, out, _ = kdsim("schema")
    assert (status, json.loads(out)["title"]) == (0, "kdsim experiment")
    assert kdsim("schema", "--out", tmp_path / "schema.json")[:2] == (
        0,
        f"{tmp_path}/schema.json\n",
    )
    assert (tmp_path / "schema.json").read_text() == out
