"""Data sets that are one packed archive of many small files."""

import tarfile
from collections.abc import Iterator
from pathlib import Path


def located(root: Path, folder: str, archive: str, parts: str, source: str) -> Path:
    """The path of an archive under the folder of data sets.

    Args:
        root: the folder of data sets.
        folder: that of this one, which is also its name.
        archive: the file in it.
        parts: what is to be packed into it, in words.
        source: where that is from.

    Raises:
        FileNotFoundError: there is no archive; the message says how to get it.
    """
    path = root / folder / archive
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no {archive} in {path.parent}; pack {parts} of {source} into it, or name "
            f"the folder above {folder} with --data-root or KDSIM_DATA; `digits` needs no files"
        )
    return path


def members(path: Path, suffix: str) -> Iterator[tuple[Path, bytes]]:
    """Name and content of each file in a .tar.xz that ends in the suffix, in the archive's order.

    A damaged archive raises what `tarfile` and `lzma` raise.
    """
    with tarfile.open(path, "r:xz") as archive:
        for member in archive:
            if member.name.endswith(suffix):
                file = archive.extractfile(member)
                assert file is not None
                yield Path(member.name), file.read()
