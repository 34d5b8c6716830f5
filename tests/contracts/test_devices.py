"""The contract of devices (`tests/devices/contract.py`) holds, in a process of its own.

torch takes in a second device before it has computed any gradient, and a process that has one
cannot be forked any more: no other test should be in it.
"""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

HANGS = 1800  # seconds; it takes half a minute


def python(*arguments):
    """A process of Python in the repository: its status, and what it says."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        timeout=HANGS,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return ended.returncode, ended.stdout


@pytest.mark.parametrize(
    "which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)], ids=["quick", "slow"]
)
def test_devices_compute_what_the_cpu_computes(which):
    status, said = python("-m", "tests.devices.pretend")
    if status:
        pytest.skip(said.strip())
    status, said = python("-m", "pytest", "-q", "-m", which, "tests/devices/contract.py")
    assert status == 0, said[-20_000:]
    assert " passed" in said
