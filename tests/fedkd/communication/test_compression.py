"""Transforms: what they lose, what they cost to the byte, and what an enemy can do to them."""

import itertools
import math
import struct
import zlib
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.communication import compression
from fedkd.communication.channel import Channel
from fedkd.communication.compression import (
    argmax,
    deflate,
    delta,
    float16,
    quantise,
    root8,
    simplex,
    top,
    top_shaped,
)
from fedkd.communication.compression.bit_packing import MOST, put, shape_of, take
from fedkd.messages import ANY, PayloadSpec, Transform, Upload, weigh
from simulations.config import experiments

LOSSY = {
    "float16": float16(),
    "quantise": quantise(8),
    "dither": quantise(8, dither=True),
    "three bits": quantise(3),
    "root8": root8(),
    "simplex 8": simplex(8),
    "simplex 4": simplex(4),
    "simplex 1": simplex(1),
    "argmax": argmax(),
    "top 3": top(3),
    "top 3 shaped": top_shaped(3),
}
CODED = {name: stage for name, stage in LOSSY.items() if name != "float16"}
DISTRIBUTIONS = [name for name in LOSSY if name.split()[0] in ("root8", "simplex", "argmax", "top")]
each_coded = pytest.mark.parametrize("name", CODED)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def distributions(*shape, sharpness=3.0, seed=0):
    return (sharpness * torch.randn(*shape, generator=stream(seed))).softmax(-1)


def through(stage, value, seed=0):
    return stage.decode(stage.encode({"p": value}, stream(seed)))["p"]


def sent(stage, value):
    return stage.encode({"p": value}, stream())["p"]


# What is lost


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("shape", [(7, 10), (1, 4), (0, 5), (2, 3, 5)], ids=str)
def test_shapes_and_types_come_back(name, shape):
    value = distributions(*shape)
    read = through(LOSSY[name], value)
    assert (read.shape, read.dtype) == (value.shape, torch.float32)
    assert LOSSY[name].encode({}, stream()) == LOSSY[name].decode({}) == {}


def test_what_is_read_is_in_the_type_of_the_run(double):
    for stage in LOSSY.values():
        assert through(stage, distributions(3, 5)).dtype == torch.float64


@pytest.mark.parametrize("name", LOSSY)
@given(st.integers(0, 10**6), st.integers(4, 40), st.sampled_from([0.1, 1.0, 5.0, 50.0]))
@settings(max_examples=30, deadline=None)
def test_rows_are_distributions_again_within_what_a_transform_says(name, seed, classes, sharpness):
    stage = LOSSY[name]
    read = through(stage, distributions(6, classes, sharpness=sharpness, seed=seed), seed).double()
    slack = stage.error + 1e-6
    assert read.min() >= -slack
    assert (read.sum(-1) - 1).abs().max() <= slack * classes
    if name in DISTRIBUTIONS:
        assert stage.error == 0


def test_even_levels_by_hand():
    # From -1 to 2 in three steps of one: 0.4 is nearest to 0, 0.6 to 1.
    value = torch.tensor([-1.0, 0.4, 0.6, 2.0])
    assert through(quantise(2), value).tolist() == [-1.0, 0.0, 1.0, 2.0]
    # A tensor of one value has no range, and needs none.
    assert through(quantise(2), torch.full((3,), 0.7)).tolist() == pytest.approx([0.7] * 3)


@given(st.integers(0, 10**6), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_even_levels_err_by_half_a_step_and_dithered_ones_by_a_whole(seed, bits):
    value = 5 * torch.randn(40, generator=stream(seed))
    step = float(value.max() - value.min()) / (2**bits - 1)
    assert (through(quantise(bits), value) - value).abs().max() <= step / 2 + 1e-5
    assert (through(quantise(bits, dither=True), value, seed) - value).abs().max() <= step + 1e-5


def test_dither_is_right_on_average_where_rounding_is_not():
    value = torch.tensor([0.0, *[0.3] * 20_000, 1.0])
    plain = through(quantise(1), value)[1:-1]
    dithered = through(quantise(1, dither=True), value)[1:-1]
    assert plain.mean() == 0.0
    # The standard error of 20,000 draws of probability 0.3 is 0.0032.
    assert float(dithered.mean()) == pytest.approx(0.3, abs=4 * 0.0033)
    assert set(dithered.tolist()) == {0.0, 1.0}


def test_dither_is_drawn_from_the_generator_and_from_nothing_else():
    value, before = distributions(9, 5), torch.get_rng_state()
    stage = quantise(4, dither=True)
    assert torch.equal(through(stage, value, 1), through(stage, value, 1))
    assert not torch.equal(through(stage, value, 1), through(stage, value, 2))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="dithering needs a generator"):
        stage.encode({"p": value}, None)


def test_the_root_code_by_hand():
    # Roots 0.8, 0.6 and 0 are 204, 153 and 0 of 255, without loss.
    value = torch.tensor([[0.64, 0.36, 0.0]])
    data = sent(root8(), value)
    assert data.tolist() == [2, 1, 0, 0, 0, 3, 0, 0, 0, 204, 153, 0]
    torch.testing.assert_close(through(root8(), value), value)


def test_the_root_code_errs_less_where_probabilities_are_small():
    for p in (0.0, 1e-5, 1e-3, 0.1, 0.5, 0.999):
        value = torch.tensor([[p, 1 - p]], dtype=torch.float64)
        code = sent(root8(), value)[9:].double()
        errors = ((code / 255).square() - value[0]).abs()
        assert (errors <= (2 * value[0].sqrt() + 1 / 510) / 510).all()
        assert (errors < 0.004).all()


def test_a_row_of_zeros_which_is_no_teacher_stays_one():
    value = torch.cat([torch.zeros(1, 4), distributions(1, 4)])
    assert through(root8(), value)[0].tolist() == [0.0] * 4
    for stage in (simplex(4), argmax(), top(2)):
        with pytest.raises(ValueError, match="p has rows that are no distributions"):
            stage.encode({"p": value}, stream())


@given(st.lists(st.integers(0, 20), min_size=3, max_size=3).filter(any), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_the_grid_of_cfd_gives_the_nearest_distribution_there_is(parts, bits):
    steps = 2**bits - 1
    value = torch.tensor([parts], dtype=torch.float64) / sum(parts)
    grid = [p for p in itertools.product(range(steps + 1), repeat=3) if sum(p) == steps]
    distances = [math.dist([c / steps for c in p], value[0].tolist()) for p in grid]
    read = through(simplex(bits), value)[0].double()
    assert float((read - value[0]).norm()) == pytest.approx(min(distances), abs=1e-6)
    assert (read - value[0]).abs().max() < 1 / steps + 1e-6


def test_the_grid_by_hand():
    # 3 p = (1.5, 0.9, 0.6): one is sure, two are missing, and 0.9 and 0.6 lost the most.
    value = torch.tensor([[0.5, 0.3, 0.2]])
    read = through(simplex(2), value)
    torch.testing.assert_close(read, torch.tensor([[1.0, 1.0, 1.0]]) / 3)
    # What lies on the grid stays, although 0.6 * 15 is 9.0000004 in float32.
    value = torch.tensor([[0.6, 0.4, 0.0]])
    torch.testing.assert_close(through(simplex(4), value), value)


def test_one_bit_is_the_likeliest_class_and_the_first_of_equals():
    value = torch.cat([distributions(50, 10), torch.tensor([[0.1] * 10, [0.0] * 8 + [0.5] * 2])])
    expected = torch.eye(10)[value.argmax(-1)]
    assert torch.equal(through(simplex(1), value), expected)
    assert torch.equal(through(argmax(), value), expected)
    assert through(argmax(), value)[-2:].argmax(-1).tolist() == [0, 8]
    assert torch.equal(through(argmax(), torch.ones(2, 1)), torch.ones(2, 1))  # of one class


def test_the_rest_of_the_probability_is_shared_by_the_classes_that_were_dropped():
    value = torch.tensor([[0.5, 0.125, 0.25, 0.0625, 0.0625]])
    expected = torch.tensor([[0.5, 0.25 / 3, 0.25, 0.25 / 3, 0.25 / 3]])
    torch.testing.assert_close(through(top(2), value), expected)


def test_the_rest_is_shared_as_all_rows_share_it():
    # Kept are the two likeliest. What is left of both rows is 2/16, 2/16, 3/16 and 1/16 of classes
    # 1 to 4, so a quarter is shared as 2 to 3 to 1 by those three that a row did not keep.
    value = torch.tensor([[0.5, 0.125, 0.25, 0.0625, 0.0625], [0.5, 0.25, 0.125, 0.125, 0]])
    expected = [[1 / 2, 1 / 12, 1 / 4, 1 / 8, 1 / 24], [1 / 2, 1 / 4, 1 / 12, 1 / 8, 1 / 24]]
    read = through(top_shaped(2), value)
    torch.testing.assert_close(read, torch.tensor(expected), atol=1e-4, rtol=0)
    # Where nothing is left in any row there are no shares, and none are needed.
    certain = torch.eye(5)[:3]
    assert torch.equal(through(top_shaped(2), certain), certain)


def test_shared_frequencies_are_nearer_than_even_shares():
    usual = torch.randn(40, generator=stream(5)) * 2  # some classes are rare in all rows
    value = (usual + torch.randn(300, 40, generator=stream(6))).softmax(dim=-1).double()

    def lost(stage):
        return float((value * (value / through(stage, value).double()).log()).sum(dim=-1).mean())

    assert lost(top_shaped(4)) < lost(top(4)) / 2


def test_the_shares_cost_two_bytes_a_class():
    value = distributions(100, 10)
    assert sent(top_shaped(3), value).nbytes == sent(top(3), value).nbytes + 2 * 10


def test_shares_that_are_none_are_refused():
    code = sent(top_shaped(2), distributions(4, 5))
    for wrong in (np.nan, -1.0, 2.0):
        share = torch.from_numpy(np.frombuffer(np.array([wrong], "<f2").tobytes(), np.uint8).copy())
        with pytest.raises(ValueError, match="shares of the rest that are none"):
            top_shaped(2).decode({"p": torch.cat([code[:-2], share])})
    with pytest.raises(ValueError, match="bytes came where"):
        top_shaped(2).decode({"p": code[:12]})


# What it costs


@pytest.mark.parametrize(
    ("stage", "bits"),
    [(quantise(8), 80), (quantise(3), 30), (root8(), 80), (simplex(4), 40), (argmax(), 4)]
    + [(top(3), 3 * (4 + 16))],
)
def test_bytes_to_the_last_one(stage, bits):
    # 1001 rows of ten classes; a header of nine bytes, or 17 with the range of even levels.
    data = sent(stage, distributions(1001, 10))
    header = 17 if stage.encode.__qualname__.startswith("quantise") else 9
    body = math.ceil(1001 * 4 * 3 / 8) + 2 * 3003 if bits == 60 else math.ceil(1001 * bits / 8)
    assert weigh({"p": data}) == {"p": header + body}
    assert data.dtype == torch.uint8


def test_the_example_of_the_paper_in_one_bit():
    # C = 10, 1000 public examples: ceil(log2 10) = 4 bits each, 500 bytes and the header.
    assert sent(argmax(), distributions(1000, 10)).nbytes == 500 + 9


@pytest.mark.parametrize("classes", [2, 3, 16, 17, 256, 257])
def test_a_class_number_takes_as_many_bits_as_it_needs(classes):
    value = torch.eye(classes)
    bits = math.ceil(math.log2(classes))
    assert sent(argmax(), value).nbytes == 9 + math.ceil(classes * bits / 8)
    assert torch.equal(through(argmax(), value), value)


def test_whole_numbers_pass_what_is_for_other_numbers():
    rows = torch.tensor([3, 59_999], dtype=torch.int32)
    for stage in CODED.values():
        message = {"p": distributions(2, 5), "rows": rows}
        assert stage.decode(stage.encode(message, stream()))["rows"] is rows


# Predictions of clients who agree by and large; the numbers here are of these very predictions.
SIZES = [(2000, 10), (2000, 100), (5000, 1000)]
BYTES = {  # at most so many in all, without entropy coding
    "float16": [40_000, 400_000, 10_000_000],
    "quantise": [20_020, 200_020, 5_000_020],
    "root8": [20_020, 200_020, 5_000_020],
    "simplex 4": [10_020, 100_020, 2_500_020],
    "top 3": [18_000, 18_000, 60_000],
    "argmax": [2_000, 2_000, 10_000],
}
ERROR = {  # of any entry of the mean label of ten clients, at most
    "float16": 2e-4,
    "quantise": 2e-3,
    "root8": 2e-3,
    "simplex 4": 5e-2,
}


def client_distributions(rows, classes, clients=10, seed=0):
    draw = stream(seed)
    shared = 2.5 * torch.randn(rows, classes, generator=draw)
    return (
        (shared + torch.randn(rows, classes, generator=draw)).softmax(-1) for _ in range(clients)
    )


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("size", range(2))
def test_the_table_of_sizes_and_errors_of_the_mean_label(name, size):
    rows, classes = SIZES[size]
    stage, exact, read = LOSSY[name], 0.0, 0.0
    for value in client_distributions(rows, classes):
        exact, read = exact + value.double() / 10, read + through(stage, value).double() / 10
        assert sent(stage, value).nbytes <= BYTES[name][size]
    agree = float((exact.argmax(-1) == read.argmax(-1)).double().mean())
    least = {"float16": 0.999, "quantise": 0.96, "root8": 0.99, "simplex 4": 0.85}
    assert agree >= least.get(name, 0.0)
    assert float((exact - read).abs().max()) <= ERROR.get(name, 1.0)


def test_the_codes_are_ordered_as_in_the_table():
    # Error of the mean label: the root code is some times better than even levels of the same size.
    errors = {}
    for name in BYTES:
        exact, read = 0.0, 0.0
        for value in client_distributions(500, 100):
            exact, read = exact + value.double(), read + through(LOSSY[name], value).double()
        errors[name] = float((exact - read).abs().mean()) / 10
    order = ["float16", "root8", "quantise", "simplex 4", "top 3", "argmax"]
    assert sorted(errors, key=errors.get) == order
    assert errors["quantise"] > 2 * errors["root8"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["root8", "argmax"])
def test_the_largest_tables_fit(name):
    rows, classes = SIZES[2]
    value = next(iter(client_distributions(rows, classes)))
    assert sent(LOSSY[name], value).nbytes <= BYTES[name][2]


# Lossless codes


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 4), (0, 5), (7,), ()], ids=str)
def test_entropy_coding_loses_nothing(dtype, shape):
    value = (100 * torch.rand(shape, generator=stream())).to(getattr(torch, dtype))
    read = through(deflate(), value)
    assert read.dtype == value.dtype
    assert torch.equal(read, value)


def test_entropy_coding_by_hand():
    value = torch.zeros(1000, dtype=torch.uint8)
    expected = bytes([1]) + struct.pack("<I", 1000) + b"\0" + zlib.compress(bytes(1000), 9)
    assert bytes(sent(deflate(), value).tolist()) == expected
    assert len(expected) < 30


def test_entropy_coding_takes_what_the_table_says_from_even_levels():
    # Sharp labels of 100 classes: less than half is left of a byte a class, and of its root more.
    value = next(iter(client_distributions(2000, 100)))
    left = {}
    for name in ("quantise", "root8"):
        code = LOSSY[name].encode({"p": value}, stream())
        left[name] = deflate().encode(code, stream())["p"].nbytes / 200_000
    assert left["quantise"] < 0.5 < left["root8"] < 0.9


def given_broadcast(stage, **told):
    return stage(told)


ROOT_DELTA = delta(root8(), {"p": "q"})


def test_a_difference_from_nothing_is_the_code_itself():
    value = distributions(5, 4)
    assert torch.equal(sent(given_broadcast(ROOT_DELTA), value), sent(root8(), value))


def test_nothing_is_sent_as_nothing():
    assert given_broadcast(ROOT_DELTA).encode({}, stream()) == {}


def test_differences_are_zeros_where_nothing_has_changed_and_lose_nothing():
    known, value = distributions(400, 10), distributions(400, 10)
    value[:3] = distributions(3, 10, seed=1)
    stage = given_broadcast(ROOT_DELTA, q=known)
    data = sent(stage, value)
    assert (data[9 + 30 :] == 0).all()
    assert (data[:9] == 0).all()  # the header has not changed either
    assert torch.equal(through(stage, value), through(root8(), value))
    small = deflate().encode({"p": data}, stream())["p"].nbytes
    assert (
        small < 80 < 2000 < deflate().encode(root8().encode({"p": value}, None), None)["p"].nbytes
    )


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_differences_from_anything_are_read_back(seed):
    known, value = distributions(9, 7, seed=seed), distributions(9, 7, seed=seed + 1)
    for inner in (root8(), argmax(), simplex(3), quantise(5)):
        stage = given_broadcast(delta(inner, {"p": "q"}), q=known)
        assert torch.equal(through(stage, value), through(inner, value))
        assert stage.error == inner.error


def test_differences_need_the_same_examples_the_same_shape_and_no_dither():
    value = distributions(5, 4)
    with pytest.raises(ValueError, match="leave public_size out"):
        given_broadcast(ROOT_DELTA, q=value, rows=torch.arange(5))
    with pytest.raises(ValueError, match="compared with one of shape"):
        sent(given_broadcast(ROOT_DELTA, q=value[:4]), value)
    with pytest.raises(ValueError, match="no p to compare .* of other; take a compression for any"):
        given_broadcast(ROOT_DELTA).encode({"other": value}, stream())
    with pytest.raises(ValueError, match="dithering needs a generator"):
        given_broadcast(delta(quantise(8, dither=True), {"p": "q"}), q=value)
    with pytest.raises(ValueError, match="and type torch.float16"):
        sent(given_broadcast(delta(float16(), {"p": "q"}), q=value), value)


# Never in silence


def test_a_stage_that_waits_for_a_broadcast_is_not_passed_over():
    channel = Channel((ROOT_DELTA,))
    upload = Upload({"p": distributions(2, 3)}, torch.tensor(1.0))
    with pytest.raises(RuntimeError, match="depends on the broadcast"):
        channel.send_up(upload, stream())
    with pytest.raises(ValueError, match="depends on the broadcast"):
        channel.read_up(upload, {"p": PayloadSpec((2, 3), simplex=True)})
    assert channel.given_broadcast({}).send_up(upload, stream()).payload["p"].dtype == torch.uint8
    plain = Channel((float16(),))
    assert plain.given_broadcast({}) is plain


@each_coded
def test_a_message_with_nothing_to_compress_is_an_error(name):
    for value in (torch.arange(3), sent(root8(), distributions(2, 3))):
        with pytest.raises(ValueError, match="no numbers to compress"):
            CODED[name].encode({"p": value}, stream())


@pytest.mark.parametrize("name", LOSSY)
def test_what_was_not_compressed_is_not_read(name):
    with pytest.raises(ValueError, match="came as torch.float32"):
        LOSSY[name].decode({"p": distributions(2, 3)})


@each_coded
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_none_are_not_compressed_into_some(name, bad):
    value = distributions(3, 5)
    value[1, 2] = bad
    with pytest.raises(ValueError, match="p holds 1 entries that are not finite"):
        sent(CODED[name], value)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_codes_for_distributions_take_nothing_else(name):
    for value in (
        torch.randn(3, 5, generator=stream()),
        torch.full((2, 4), 0.3),
        torch.tensor(1.0),
    ):
        with pytest.raises(ValueError, match="no distribution"):
            sent(LOSSY[name], value)
    halves = distributions(200, 30).half()  # sums are off by what half precision makes them
    assert through(LOSSY[name], halves).shape == (200, 30)


def test_settings_that_make_no_code_are_errors():
    for bits in (0, 9):
        for make in (quantise, simplex):
            with pytest.raises(ValueError, match=f"bits must be from 1 to 8, got {bits}"):
                make(bits)
    with pytest.raises(ValueError, match="must be >= 1, got 0"):
        top(0)
    with pytest.raises(ValueError, match="of which the top 3 are no fewer"):
        sent(top(3), distributions(2, 3))
    with pytest.raises(ValueError, match="is too large to be compressed"):
        put(torch.zeros(1), 1, (MOST, 2))
    with pytest.raises(ValueError, match=r"type torch.bfloat16, which is not sent"):
        sent(deflate(), torch.zeros(2, dtype=torch.bfloat16))


def test_a_channel_says_beforehand_what_cannot_be_sent():
    labels = Channel((argmax(),))
    labels.check({"p": PayloadSpec((4, 3), simplex=True)})
    labels.check({"p": PayloadSpec((ANY, 3), simplex=True), "y": PayloadSpec((4,), below=3)})
    with pytest.raises(ValueError, match="w has rows that are no distributions"):
        labels.check({"w": PayloadSpec((4, 3))})
    Channel((quantise(8), deflate())).check({"w": PayloadSpec((4, 3)), "b": PayloadSpec(())})
    Channel((ROOT_DELTA,)).check({"p": PayloadSpec((4, 3), simplex=True)})


# Enemies


def survives(stage, value):
    """What is read of a payload, or None where it is refused; no other way is left."""
    payload_spec = {"p": PayloadSpec((3, 5), simplex=True)}
    try:
        payload = Upload({"p": value}, torch.tensor(1.0))
        return Channel((stage,)).read_up(payload, payload_spec).payload["p"]
    except ValueError:
        return None


@pytest.mark.parametrize("name", [*LOSSY, "deflate"])
@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_bytes_are_read_as_anything_but_distributions(name, data):
    stage = LOSSY.get(name, deflate())
    read = survives(stage, torch.from_numpy(np.frombuffer(data, np.uint8).copy()))
    if read is not None:
        assert read.shape == (3, 5)
        assert (read.double().sum(-1) - 1).abs().max() <= 5 * (stage.error + 1e-4)


@each_coded
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_no_change_of_a_true_payload_does_more_than_change_or_refuse_it(name, data):
    true = sent(CODED[name], distributions(3, 5))
    place = data.draw(st.integers(0, len(true) - 1))
    true[place] = data.draw(st.integers(0, 255))
    read = survives(CODED[name], true)
    assert read is None or read.isfinite().all()
    for cut in (true[:place], torch.cat([true, true[:1]]), true.unsqueeze(0), true[:0]):
        assert survives(CODED[name], cut) is None


def header(*shape):
    return bytes([len(shape)]) + struct.pack(f"<{len(shape)}I", *shape)


def as_tensor(data):
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


@pytest.mark.parametrize("name", ["argmax", "top 3", "root8"])
def test_a_header_that_asks_for_all_the_memory_there_is_gets_none(name):
    for shape in ((2**31, 2**31), (1, MOST + 1), (2**32 - 1,) * 4):
        with pytest.raises(ValueError, match="its header asks for"):
            LOSSY[name].decode({"p": as_tensor(header(*shape) + b"\0" * 40)})
    with pytest.raises(ValueError, match="cut off or damaged"):
        LOSSY[name].decode({"p": as_tensor(bytes([200]) + b"\0" * 900)})
    with pytest.raises(ValueError, match="names no classes"):
        LOSSY[name].decode({"p": as_tensor(header(0, 0))})


def test_a_bomb_does_not_go_off():
    bomb = zlib.compress(bytes(50_000_000), 9)
    assert len(bomb) < 50_000
    with pytest.raises(ValueError, match="does not inflate to the 10 bytes"):
        deflate().decode({"p": as_tensor(header(10) + b"\0" + bomb)})
    with pytest.raises(ValueError, match=r"would take 536,870,912 bytes"):
        deflate().decode({"p": as_tensor(header(MOST) + b"\6" + bomb)})
    with pytest.raises(ValueError, match="of no known type"):
        deflate().decode({"p": as_tensor(header(3) + b"\7" + bomb)})


def test_bytes_behind_the_end_and_broken_streams_are_refused():
    true = header(4) + b"\0" + zlib.compress(b"abcd")
    assert deflate().decode({"p": as_tensor(true)})["p"].tolist() == [97, 98, 99, 100]
    for broken in (true + b"x", true[:-1], true[:-2] + b"\0\0", header(4) + b"\0junk"):
        with pytest.raises(ValueError, match="inflate"):
            deflate().decode({"p": as_tensor(broken)})


def test_rows_off_the_grid_and_classes_that_are_none_are_refused():
    with pytest.raises(ValueError, match="codes do not add up to 255"):
        simplex(8).decode({"p": as_tensor(header(1, 2) + bytes([255, 1]))})
    with pytest.raises(ValueError, match="names class 7 of 5"):
        argmax().decode({"p": as_tensor(header(1, 5) + bytes([0b11100000]))})
    halves = np.array([0.9, 0.9], "<f2").tobytes()
    with pytest.raises(ValueError, match="rows that are no distribution"):
        top(2).decode({"p": as_tensor(header(1, 5) + bytes([0b00000100]) + halves)})
    halves = np.array([0.4, 0.4], "<f2").tobytes()
    with pytest.raises(ValueError, match="names a class twice"):
        top(2).decode({"p": as_tensor(header(1, 5) + bytes([0b00100100]) + halves)})


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=40))
@settings(max_examples=60, deadline=None)
def test_numbers_of_few_bits_are_packed_and_unpacked(bits, numbers):
    codes = torch.tensor([n % 2**bits for n in numbers], dtype=torch.long)
    packed = put(codes, bits, codes.shape, b"note")
    shape, data = shape_of(packed)
    assert shape == (len(numbers),)
    assert data[:4] == b"note"
    assert torch.equal(take(data[4:], bits, len(numbers)), codes)
    digits = "".join(f"{code:0{bits}b}" for code in codes.tolist())  # what it is, written out
    assert "".join(f"{byte:08b}" for byte in data[4:]).startswith(digits)


# Channels by name


def test_the_command_knows_the_channels_there_are():
    assert get_args(experiments.Compression) == (*compression.CHANNELS, compression.KRR)
    with pytest.raises(ValueError, match="compression must be one of none, float16, .* got 'zip'"):
        compression.channel("zip")


@pytest.mark.parametrize("name", compression.CHANNELS)
def test_every_channel_carries_predictions_there_and_back(name):
    value, consensus = distributions(30, 10), distributions(30, 10, seed=1)
    channel = compression.channel(name)
    payload_spec = {"probabilities": PayloadSpec((30, 10), simplex=True)}
    channel.check(payload_spec)
    told = channel.read_down(channel.send_down({"consensus": consensus}, stream()))
    answer = channel.given_broadcast(told)
    upload = answer.send_up(Upload({"probabilities": value}, torch.tensor(1.0)), stream())
    read = answer.read_up(upload, payload_spec).payload["probabilities"]
    assert all(isinstance(stage, Transform) for stage in answer.uplink)
    worst = {"none": 0, "float16": 2**-12, "uint8": 2e-3, "uint8-dither": 4e-3, "4bit": 1 / 15}
    limit = worst.get(name, 0.02 if "root8" in name else 1)
    assert (read - value).abs().max() <= limit + 1e-6
    assert (told["consensus"] - consensus).abs().max() <= limit + 1e-6
