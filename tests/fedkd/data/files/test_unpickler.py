"""Arrays and plain values come out of a pickle; a hostile one does nothing."""

import datetime
import io
import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest

from fedkd.data.files.unpickler import load

ARRAYS = {
    "bytes": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "turned": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "big": np.arange(3, dtype=">i2"),
    "real": np.array([0.5, -1.0], np.float32),
    "empty": np.zeros((0, 4), np.uint8),
}
PLAIN = {"list": [1, -2, 2**40, 0.5, True, None, "text", b"bytes", (1, 2)], "deep": {"a": [{}]}}


def write(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_and_plain_values_come_out_as_they_went_in(protocol, tmp_path):
    found = load(write(tmp_path / "p", ARRAYS | PLAIN, protocol))
    for name, value in ARRAYS.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    for name, value in PLAIN.items():
        assert found[name] == value


def test_text_of_python_2_is_read():
    """As its cPickle wrote CIFAR: names and arrays are byte strings of protocol 2."""
    content = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x06K\x09eU\x04dataq\x04cnumpy.core.multiarray\n"
        b"_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02K\x02\x86"
        b"cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff"
        b"\xff\xffK\x00tb\x89U\x04\x00\x7f\x80\xfftbu."
    )
    path = io.BytesIO(content)
    path.read_bytes = path.read
    found = load(path)
    assert found["labels"] == [6, 9]
    assert found["data"].tolist() == [[0, 127], [128, 255]]


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *given):
        self.call = function, given

    def __reduce__(self):
        return self.call


class Own:
    pass


HOSTILE = {
    "a command": lambda mark: Runs(os.system, f"touch {mark}"),
    "evaluated code": lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"),
    "a file": lambda mark: Runs(open, str(mark), "w"),
    "an attribute": lambda mark: Runs(getattr, "text", "join"),
    "bytes of a number": lambda mark: Runs(bytes, 2**40),
    "an import": lambda mark: Runs(__import__, "os"),
    "an object": lambda mark: Own(),
    "a class": lambda mark: OrderedDict(a=1),
    "a date": lambda mark: datetime.date(2020, 1, 1),
    "a set": lambda mark: {1, 2},
    "objects in an array": lambda mark: np.array([{}, None], object),
    "fields in an array": lambda mark: np.zeros(2, [("a", "u1")]),
    "dates in an array": lambda mark: np.zeros(2, "M8[s]"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_else_is_named_is_refused_and_not_run(name, protocol, tmp_path):
    mark = tmp_path / "mark"
    path = write(tmp_path / "p", {"data": HOSTILE[name](mark)}, protocol)
    with pytest.raises(ValueError, match="is damaged or is not what it should be") as error:
        load(path)
    assert "\n" not in str(error.value)
    assert not mark.exists()


STREAMS = {
    "nothing": b"",
    "half": pickle.dumps(ARRAYS, protocol=2)[:-40],
    "text": b"hello",
    "a list": pickle.dumps([1], protocol=2),
    "numbers as names": pickle.dumps({1: 2}, protocol=2),
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent name": b"\x80\x02Pname\n.",
    "memory by its memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "memory by its length": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "state for a class": b"\x80\x02cnumpy\nndarray\n}b.",
    "a class with attributes": b"\x80\x02cnumpy\nndarray\n)R}X\x01\x00\x00\x00aK\x01sb.",
    "a class of a class": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "an instance": b"(S'touch mark'\nios\nsystem\n.",
    "nested": b"]" * 5000 + b"a" * 4999 + b".",
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_that_are_none_are_refused(name, tmp_path):
    path = tmp_path / "p"
    path.write_bytes(STREAMS[name])
    with pytest.raises(ValueError, match=str(path)):
        load(path)


@pytest.mark.parametrize("seed", range(300))
def test_a_changed_byte_gives_values_or_is_refused(seed, tmp_path):
    content = bytearray(pickle.dumps(ARRAYS | PLAIN, protocol=(0, 2, 4)[seed % 3]))
    draw = np.random.default_rng(seed)
    for place in draw.integers(0, len(content), 3):
        content[place] = draw.integers(256)
    (tmp_path / "p").write_bytes(bytes(content))
    try:
        found = load(tmp_path / "p")
    except ValueError:
        return
    assert all(
        isinstance(one, np.ndarray | dict | list | str | bytes | int) for one in found.values()
    )
