"""`kdsim doctor`: what is here, what would not work, and how to mend it."""

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from simulations import machine as system
from simulations.results.run_folder import PACKAGES

# What kdsim depends on, beside what is told apart in every run's record.
MORE: tuple[str, ...] = (
    "dp-accounting",
    "filelock",
    "matplotlib",
    "networkx",
    "pandas",
    "psutil",
    "pydantic",
)
MORE += ("rich", "safetensors", "scipy", "tomli-w", "typer")
GIB = 2**30


class Finding(NamedTuple):
    """One line: what was looked at, what was found, and what to do where something is amiss."""

    what: str
    found: str
    mend: str = ""


def show(root: Path | None, switches: Mapping[str, str]) -> None:
    """Print all findings, and then what to mend."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    findings = [*packages(), *machine(), *environment(switches), *data(root), *folders()]
    table = Table("what", "found", show_header=False)
    for finding in findings:
        found = Text(finding.found)  # no markup: brackets are somebody's
        table.add_row(finding.what, found, style="yellow" if finding.mend else None)
    console.print(table)
    amiss = [finding for finding in findings if finding.mend]
    for finding in amiss:
        console.print(Text(f"{finding.what}: {finding.mend}"), soft_wrap=True)
    if not amiss:
        console.print("all is well")


def packages() -> Iterator[Finding]:
    """Versions of Python and of all packages that are used."""
    yield Finding("python", platform.python_version())
    yield Finding("kdsim", _version("kdsim") or "not installed, run from its folder")
    for name in (*PACKAGES[1:], *MORE):
        version = _version(name)
        yield Finding(name, version or "missing", "" if version else f"pip install {name}")


def machine() -> Iterator[Finding]:
    """Cores, memory and GPUs."""
    import torch

    usable, cores = system.cores(), os.cpu_count()
    yield Finding(
        "cores", f"{usable} usable of {cores}; torch would take {torch.get_num_threads()}"
    )
    memory = system.memory() / GIB
    few = "below 2 GiB: take --workers 1" if memory < 2 else ""
    yield Finding("memory", f"{memory:.1f} GiB", few)
    if Path("/dev/shm").is_dir():  # of Linux
        shared = shutil.disk_usage("/dev/shm").free / GIB
        little = "Ray keeps objects there; give it 1 GiB, or take --workers 1"
        yield Finding("/dev/shm", f"{shared:.1f} GiB free", "" if shared > 0.3 else little)
    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    yield Finding("GPUs", names or "none that PyTorch can use; everything runs on the CPU")


def environment(switches: Mapping[str, str]) -> Iterator[Finding]:
    """The switches that keep runs to themselves, and variables that kdsim reads."""
    for name, wanted in switches.items():
        value = os.environ.get(name, "")
        mend = "" if value == wanted else f"is {value!r}; unset it, and kdsim sets {wanted!r}"
        yield Finding(name, value, mend)
    for name in ("KDSIM_DATA", "OMP_NUM_THREADS", "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"):
        yield Finding(name, os.environ.get(name, "not set"))


def data(root: Path | None) -> Iterator[Finding]:
    """Each data set: read, or why not."""
    from fedkd.data import datasets as images
    from graphkd.data import registry as graphs

    yield Finding("data root", str(images.data_root(root)))
    for names, load in ((images.names(), images.load), (graphs.names(), graphs.load)):
        for name in names:
            try:
                load(name, root)
                yield Finding(name, "there")
            except (OSError, ValueError) as error:
                yield Finding(name, "not there", str(error))


def folders() -> Iterator[Finding]:
    """Whether runs can be written, and how much room there is."""
    here = Path.cwd()
    writable = os.access(here, os.W_OK)
    mend = "" if writable else "cannot be written to; go elsewhere, or name a folder with --out"
    yield Finding(
        "runs go to", f"{here / 'runs'}, {shutil.disk_usage(here).free / GIB:.0f} GiB free", mend
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
