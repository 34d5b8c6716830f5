"""Files are there as a whole or not at all, and say so where they cannot be written."""

import errno
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedkd.storage import atomic_files

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "b": np.array(True),
    "c": np.zeros((0, 2), np.int32),
}


def test_what_was_there_stays_until_all_is_written(tmp_path):
    path = tmp_path / "new" / "page.html"
    atomic_files.write(path, "früher")
    assert path.read_bytes() == "früher".encode()

    def stopped():
        with atomic_files.replacing(path) as draft:
            draft.write_text("half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_bytes() == "früher".encode()
    assert list(path.parent.iterdir()) == [path]
    atomic_files.write(path, b"now")
    assert path.read_bytes() == b"now"


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    target = tmp_path / "figures"
    for names in ("ab", "c"):
        with atomic_files.replacing(target) as draft:
            draft.mkdir()
            for name in names:
                (draft / name).touch()
    assert [path.name for path in target.iterdir()] == ["c"]


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    target = tmp_path / "tables.md"
    target.mkdir()
    (target / "somebody's").write_text("own")
    with pytest.raises(OSError, match=r"tables\.md"):
        atomic_files.write(target, "a table")
    assert (target / "somebody's").read_text() == "own"
    assert list(tmp_path.iterdir()) == [target]


def test_it_is_forced_to_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    told = []
    where = "/proc/self/fd/{}"
    monkeypatch.setattr(os, "fsync", lambda handle: told.append(os.readlink(where.format(handle))))
    with atomic_files.replacing(tmp_path / "page") as draft:
        draft.touch()
    assert told == [str(tmp_path / draft.name), str(tmp_path)]


def test_errors_of_the_disk_name_the_file(tmp_path):
    path = tmp_path / "page"
    for wrong in (OSError(errno.ENOSPC, "No space left on device"), OSError("odd")):
        with pytest.raises(OSError, match=str(path)), atomic_files.naming(path):
            raise wrong

    def full():
        with atomic_files.naming(path), open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(OSError, match="No space left on device") as error:
        full()
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/page"):
        atomic_files.write(tmp_path / "file" / "page", "")


def test_arrays_and_texts_come_back(tmp_path):
    atomic_files.save(tmp_path / "kept", ARRAYS, training="[1, 2]")
    arrays, said = atomic_files.load(tmp_path / "kept")
    assert said == {"training": "[1, 2]"}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_a_single_bit_is_noticed_wherever_it_is(tmp_path):
    """Every byte of the file in turn: damaged, or the arrays are what they were."""
    path = tmp_path / "kept"
    atomic_files.save(path, ARRAYS, training="[1, 2]")
    whole, noticed = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            arrays, _ = atomic_files.load(path)
        except ValueError as error:
            noticed += str(path) in str(error)
            continue
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)
    assert noticed > len(whole) - 20  # all but the key under which the checksum is found


def test_what_has_no_checksum_is_believed(tmp_path):
    save_file(ARRAYS, tmp_path / "kept")
    assert atomic_files.load(tmp_path / "kept")[0].keys() == load_file(tmp_path / "kept").keys()


def test_traces_of_the_killed_are_swept(tmp_path):
    (tmp_path / "figures" / ".draft-a.png-1").mkdir(parents=True)
    (tmp_path / ".draft-page-1").touch()
    (tmp_path / "page").touch()
    atomic_files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["figures", "page"]
