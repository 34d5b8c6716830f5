"""Every data set that is read from files is looked for in the same folder, and ~ is the home."""

from pathlib import Path

import pytest

from fedkd.data import datasets
from graphkd.data import registry
from simulations.survey import datasets as survey_datasets

WITHOUT_FILES = {"digits", "digits-knn", "sbm-170k", "coloured-trees", "diabetes", "none"}
LOADERS = {
    **{f"fed {name}": (datasets.load, name) for name in datasets.names()},
    **{f"graph {name}": (registry.load, name) for name in registry.names()},
    **{f"recipe {name}": (survey_datasets.load, name) for name in survey_datasets.LOADERS},
}


@pytest.mark.parametrize(
    ("load", "name"),
    [pytest.param(*both, id=i) for i, both in LOADERS.items() if both[1] not in WITHOUT_FILES],
)
@pytest.mark.parametrize("named", ["argument", "text", "environment"])
def test_a_tilde_is_the_home(load, name, named, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KDSIM_DATA", "~/data" if named == "environment" else "elsewhere")
    root = {"argument": [Path("~/data")], "text": ["~/data"], "environment": []}[named]
    with pytest.raises(FileNotFoundError) as error:
        load(name, *root)
    assert str(tmp_path / "data") in str(error.value)
    assert "~/" not in str(error.value)
