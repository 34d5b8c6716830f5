"""What all tests share: one thread, tiny federations, and where the real data sets lie."""

import functools
import math
import os
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

from fedkd import algorithms
from fedkd.data.datasets import Dataset
from fedkd.data.federated_data import FederatedData, Pools, federate
from simulations.execution import scheduler

REPOSITORY = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)  # one thread and two give different bits

# The same examples in every run, however slow the machine is; HYPOTHESIS_PROFILE=default draws new
# ones.
hypothesis.settings.register_profile(
    "same",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# By these a pipe is taken for a terminal, or for a narrow one; some services set them for all.
for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
    os.environ.pop(name, None)


def data_root():
    """The folder of real data sets: KDSIM_DATA, or shared/data beside the repository, or None."""
    given = os.environ.get("KDSIM_DATA")
    root = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    return root if root.is_dir() else None


# Of algorithms that came later the quick tests take a few contracts alone, and their worked rounds;
# all contracts are for all of them where slow tests run.
FIRST = {"local", "pooled", "fedavg", "fedprox", "fedmd", "dsfl", "cfd", "feddf"}
FIRST |= {"fd", "fml", "fedkd", "fedproto", "fedtgp", "fedgen", "fedgkt"}
LATER = set(algorithms.names()) - FIRST
FEW = {
    "test_the_docstring_cites_a_paper_and_says_what_goes_up_and_down",
    "test_the_file_is_short_enough_to_read_at_one_sitting",
    "test_messages_are_as_declared",
    "test_the_server_needs_the_sum_that_is_declared_and_no_other",
    "test_private_examples_reach_an_upload_by_training_or_as_declared",
    "test_batched_is_sequential_to_nine_digits",
}


def later(item):
    """Whether a test is of an algorithm that came later, and no contract of the few."""
    given = item.callspec.params if hasattr(item, "callspec") else {}
    if LATER.isdisjoint(value for value in given.values() if isinstance(value, str)):
        return False
    simplest = given.get("family", "mlp-8") == "mlp-8" and given.get("optimizer", "sgd") == "sgd"
    return item.originalname not in FEW or not simplest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Skip what this machine cannot run, and say why; bear with Ray; leave some to slow tests."""
    strange = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if strange:  # two processes would not know it by the same name
        raise pytest.UsageError(f"a test is named by an address in memory, give ids: {strange[0]}")
    for item in items:
        for marker, reason in lacking().items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("ray"):  # Ray leaves the files that its processes write to open
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))
        if later(item):
            item.add_marker(pytest.mark.slow)


@functools.cache
def lacking():
    """Markers of what this machine cannot run -> why."""
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "no CUDA device"
    if data_root() is None:
        reasons["data"] = (
            "no data sets: KDSIM_DATA names no folder, and ../shared/data is not there"
        )
    return reasons


@pytest.fixture(autouse=True)
def _real_data(request, monkeypatch):
    """Tests marked `data` find the data sets where `kdsim` looks for them."""
    if request.node.get_closest_marker("data"):
        monkeypatch.setenv("KDSIM_DATA", str(data_root()))


@pytest.fixture(autouse=True)
def _here(request, monkeypatch):
    """A grid that takes long starts Ray, and how long that is depends on the machine; not so here.

    Only tests marked `ray` start it.
    """
    if not request.node.get_closest_marker("ray"):
        monkeypatch.setattr(scheduler, "PATIENCE", math.inf)


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """A working folder for code of a user's; what is imported there is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture
def double():
    """Everything in float64, for comparisons to many digits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def tiny_federation(
    models=("mlp-8", "mlp-7-8", "cnn-4-8"),
    sizes=(7, 1, 12, 3, 5),
    *,
    classes=5,
    held=5,
    public=11,
    test=20,
    shape=(1, 6, 6),
    seed=0,
    same_start=False,
    tokens=False,
) -> FederatedData:
    """Clients of very different sizes on noisy patterns, in the default type of torch.

    Labels run over the first `held` of the classes. No model has a parameter of the shape of a
    payload of predictions, (classes, classes) or (public, classes). With `tokens` there are two
    inputs, four numbers from 0 to 6 beside the pattern.
    """
    total = sum(sizes) + public + test
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(total) % held
    patterns = torch.rand(classes, *shape, generator=generator)
    x = 0.7 * patterns[y] + 0.3 * torch.rand(total, *shape, generator=generator)
    if tokens:
        x = x, torch.randint(7, (total, 4), generator=generator)
    rows = torch.arange(total).split([sum(sizes), public, 0, test])
    parts = torch.arange(sum(sizes)).split(list(sizes))
    data, pools = Dataset(x, y, classes), Pools(*rows)
    return federate(data, pools, list(parts), models, seed, same_start=same_start)


@pytest.fixture
def tiny():
    """`tiny_federation`, which see."""
    return tiny_federation
