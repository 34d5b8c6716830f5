"""Where tensors are computed with: the CPU, or another device that PyTorch reaches."""

from typing import Any

import torch


def device_of(name: str = "auto", share: float = 0.0) -> torch.device:
    """The device of a name: "auto", "cpu", "cuda", "cuda:1", "mps", or another of PyTorch's.

    "auto" is a GPU for whoever has a share of one, and else the CPU. With a share, "cuda" is the
    GPU that the share is of: which one that is, is not chosen here.

    Raises:
        ValueError: there is no such device, or less of it than the share; or a share of a GPU for a
            run that computes elsewhere.
    """
    if name == "auto":
        name = "cuda" if share else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is none; take auto, cpu, cuda, cuda:N or mps") from None
    if share and (device.type != "cuda" or device.index is not None):
        raise ValueError(
            f"device {name}, and gpus {share:g}: a share of a GPU is for the device cuda; leave "
            "one of them out"
        )
    if device.type != "cpu":
        _check_there(device, share)
    return device


def _check_there(device: torch.device, share: float) -> None:
    module: Any = torch.backends.mps if device.type == "mps" else getattr(torch, device.type, None)
    count = 0
    if module is not None and module.is_available():
        count = 1 if device.type == "mps" else module.device_count()
    if share > count:
        raise ValueError(
            f"gpus is {share:g}, and this machine has {count} that PyTorch can use; ask for fewer, "
            "or see `kdsim doctor`"
        )
    if (device.index or 0) >= count:
        raise ValueError(
            f"device {device}: PyTorch {torch.__version__} finds {count or 'no'} such "
            f"device{'s' * (count != 1)} here; take another, or see `kdsim doctor`"
        )
