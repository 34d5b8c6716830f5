"""Where the files of a data set are looked for, and what is said where they are not."""

from pathlib import Path


def folder_of(root: Path, folder: str) -> Path:
    """The folder of a data set, in the root or in its folder `torchvision`; it may be missing."""
    inside = root / "torchvision" / folder
    return inside if inside.is_dir() and not (root / folder).is_dir() else root / folder


def needed(path: Path, name: str, how: str) -> Path:
    """The path, if there is a file.

    Args:
        path: of the file.
        name: the data set's.
        how: how to get its files, in words.

    Raises:
        FileNotFoundError: there is none; the message says which, where and how to get it.
    """
    if path.is_file():
        return path
    raise FileNotFoundError(
        f"{name}: no {path.name} in {path.parent}; {how}, or name the folder of data sets with "
        "--data-root or KDSIM_DATA; `digits` needs no files"
    )
