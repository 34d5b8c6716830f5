"""Examples that come one by one: the items of a torch `Dataset`, and pictures in folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PICTURES = ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"


def stacked(items: Any) -> tuple[Any, list[Any]]:
    """Examples as one table, and their labels, of items (features, label, ...).

    Features are a tensor, an array, a number, a picture, or a tuple of them.

    Args:
        items: what has a length and items by number, such as a torch `Dataset`.

    Raises:
        ValueError: items of another form, or features of different shapes.
    """
    named = type(items).__name__
    pairs = [items[place] for place in range(len(items))]
    if not pairs:
        raise ValueError(f"{named} is empty; there are no examples")
    for place, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) < 2:
            raise ValueError(
                f"item {place} of {named} is a {type(pair).__name__}; expected (features, label)"
            )
    first = pairs[0][0]
    labels = [_plain(pair[1]) for pair in pairs]
    if isinstance(first, tuple | list) and first and isinstance(first[0], Tensor):
        inputs = zip(*(pair[0] for pair in pairs), strict=True)
        return tuple(together(one) for one in inputs), labels
    return together([pair[0] for pair in pairs]), labels


def _plain(label: Any) -> Any:
    if not isinstance(label, Tensor):
        return label
    return label.numpy(force=True) if label.ndim else label.item()


def together(values: Sequence[Any]) -> Tensor:
    """Examples of one shape as a tensor (N, ...).

    Raises:
        ValueError: they differ in shape, or one is no table of numbers.
    """
    found = [_tensor(value, place) for place, value in enumerate(values)]
    shapes: dict[tuple[int, ...], int] = {}
    for place, one in enumerate(found):
        shapes.setdefault(tuple(one.shape), place)
    if len(shapes) > 1:
        (shape, place), (other, second) = list(shapes.items())[:2]
        raise ValueError(
            f"examples differ in shape: {shape} (row {place}) and {other} (row {second}); bring "
            "them to one, for example by a transform"
        )
    return torch.stack(found)


def in_folders(folder: Path) -> tuple[Tensor, list[str]]:
    """Pictures (N, channels, height, width), bytes, in a folder for each class, and its names.

    Where one picture has colours all are read in colours; transparency is dropped.

    Raises:
        ValueError: no folders with pictures, pictures of different sizes, or a damaged one.
    """
    kinds = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    files = [
        (file, kind.name)
        for kind in kinds
        for file in sorted(kind.iterdir())
        if file.suffix.lower() in PICTURES
    ]
    if not files:
        raise ValueError(
            f"{folder}: no pictures ({', '.join(PICTURES)}) in a folder for each class; expected "
            f"{folder}/CLASS/PICTURE"
        )
    pictures = [_opened(file) for file, _ in files]
    if any(one.ndim == 3 for one in pictures):
        pictures = [one if one.ndim == 3 else np.stack([one] * 3, axis=-1) for one in pictures]
    sizes = {one.shape: file for one, (file, _) in zip(pictures, files, strict=True)}
    if len(sizes) > 1:
        (size, file), (other, second) = list(sizes.items())[:2]
        raise ValueError(
            f"{folder}: pictures differ in size: {file.name} {size[:2]} and {second.name} "
            f"{other[:2]}; resize them first"
        )
    pixels = torch.from_numpy(np.stack(pictures))
    pixels = pixels.permute(0, 3, 1, 2).contiguous() if pixels.ndim == 4 else pixels.unsqueeze(1)
    return pixels, [kind for _, kind in files]


def _opened(file: Path) -> "np.ndarray[Any, Any]":
    """The bytes of a picture, (height, width) or (height, width, 3)."""
    from PIL import Image, UnidentifiedImageError  # comes with matplotlib

    try:
        with Image.open(file) as picture:
            grey = picture.mode in ("1", "L")
            return np.array(picture.convert("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as reason:
        raise ValueError(f"{file} is no picture that can be read ({reason})") from reason


def _tensor(value: Any, place: int) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "getbands"):  # a picture of PIL
        mode = value.mode if value.mode in ("L", "RGB") else "RGB"
        pixels = torch.from_numpy(np.array(value.convert(mode)))
        return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.unsqueeze(0)
    try:
        found = np.array(value)
    except ValueError:  # rows of different lengths
        found = np.array(None)
    if found.dtype.kind not in "biuf":
        raise ValueError(
            f"the features of item {place} are a {type(value).__name__}; expected numbers of one "
            "shape: add a transform that gives tensors"
        )
    return torch.from_numpy(found)
