"""Trained networks as plain PyTorch: a module without anything of ours, and a file of its weights.

student = graphkd.plain(result)             # nn.Sequential, or the user's own module
graphkd.save(result, "student.safetensors")

# elsewhere, without kdsim
student.load_state_dict(safetensors.torch.load_file("student.safetensors"))
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from graphkd.core import Result
from graphkd.models import networks
from graphkd.models.adapters import Adapter

ABOUT = "graphkd"  # where a file says what it holds


def plain(network: nn.Module | Result, who: str = "student") -> nn.Module:
    """A network without anything of ours, in evaluation mode; it shares its weights.

    An MLP is a `torch.nn.Sequential` of linear maps, ReLU and dropout; a module of the user's is
    itself, called as it always was. Graph networks of `graphkd.models.networks` have no such form:
    they answer to (x, edge_index), and are saved and loaded.

    Args:
        network: a network, or the result of a run.
        who: of a result: "student", "baseline" or "teacher".

    Raises:
        ValueError: it is a graph network of ours, or needs more than features.
    """
    network = _of(network, who)
    if isinstance(network, Adapter):
        return network.module.eval()
    if isinstance(network, networks.MLP):
        return _sequential([*network.layers], network.dropout).eval()
    raise ValueError(
        f"{type(network).__name__} has no form in plain PyTorch; call it with (x, edge_index), and "
        "keep its weights with graphkd.save"
    )


def save(network: nn.Module | Result, path: str | Path, who: str = "student") -> Path:
    """Write the weights of a network as safetensors: the state dict of its plain form, if any.

    Args:
        network: a network, or the result of a run.
        path: of the file, such as student.safetensors; it appears as a whole or not at all.
        who: of a result: "student", "baseline" or "teacher".

    Raises:
        OSError: it cannot be written.
    """
    network, path = _of(network, who), Path(path)
    about: dict[str, object] = {"network": type(network).__name__.lower()}
    if isinstance(network, networks.MLP):
        widths = [network.layers[0].in_features, *(one.out_features for one in network.layers)]
        about |= {"sizes": widths, "dropout": network.dropout}
    if isinstance(network, Adapter):
        about = {"network": type(network.module).__name__}
    bare = plain(network) if isinstance(network, Adapter | networks.MLP) else network
    state = {k: v.detach().cpu().contiguous().clone() for k, v in bare.state_dict().items()}
    draft = path.with_name(f".draft-{path.name}-{os.getpid()}")
    try:
        save_file(state, draft, {ABOUT: json.dumps(about)})
        draft.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from None
    finally:
        draft.unlink(missing_ok=True)
    return path


def load(path: str | Path, into: nn.Module | None = None) -> nn.Module:
    """The network of a file that `save` has written, in evaluation mode.

    Args:
        path: of the file.
        into: the module that gets the weights; not needed for an MLP, which is a
            `torch.nn.Sequential` then.

    Raises:
        ValueError: the file is damaged, or not of this module.
        FileNotFoundError: it is not there.
    """
    state, about = _read(Path(path))
    network = into
    if network is None:
        sizes = about.get("sizes")
        if not isinstance(sizes, list):
            raise ValueError(
                f"{path} holds the weights of {about.get('network')}; give the module that gets "
                f"them, as in load({str(path)!r}, into=MyNet())"
            )
        maps = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
        dropout = about["dropout"]
        network = _sequential(maps, float(dropout))  # type: ignore[arg-type]  # written by `save`
    target = network.module if isinstance(network, Adapter) else network
    if isinstance(target, networks.MLP):
        target = plain(target)  # which shares its weights
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} holds the weights of another module: {said}") from None
    return network.eval()


def _of(network: nn.Module | Result, who: str) -> nn.Module:
    if isinstance(network, nn.Module):
        return network
    found = {"student": network.trained["baseline"], **network.trained}
    if who not in found:
        raise ValueError(f"a run of {network.method} has no {who}; choose {', '.join(found)}")
    return found[who].network


def _sequential(maps: list[nn.Linear], dropout: float) -> nn.Sequential:
    between = [nn.ReLU(), nn.Dropout(dropout)] if dropout else [nn.ReLU()]
    parts = [part for one in maps[:-1] for part in (one, *between)]
    return nn.Sequential(*parts, maps[-1])


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, object]]:
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no file of weights, or is damaged ({error})") from None
