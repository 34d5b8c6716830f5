import pytest
import torch

from kdcore.devices import Made, device_of, joined, moved, stacked, together
from kdcore.rng import generator


def test_auto_is_a_gpu_for_who_has_a_share_of_one(monkeypatch):
    assert device_of() == torch.device("cpu")
    assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of() == torch.device("cpu")  # a share of 0 is the CPU, whatever there is
    assert device_of("auto", 0.5) == torch.device("cuda")
    assert device_of("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("name", "share", "said"),
    [
        ("gpu", 0, "device 'gpu' is none; take auto, cpu, cuda, cuda:N or mps"),
        ("cuda:2", 0, "finds 2 such devices here"),
        ("mps", 0, "finds no such devices here"),
        ("cuda:1", 0.5, "leave one of them out"),
        ("cpu", 0.5, "leave one of them out"),
        ("xpu", 0, "finds no such devices"),
    ],
)
def test_what_is_not_there_is_said(name, share, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=said):
        device_of(name, share)


VALUES = [
    torch.arange(6.0).view(2, 3),
    torch.tensor(7),
    torch.tensor(2.5),
    torch.zeros(0, 4),
    torch.arange(6).view(3, 2).T,
    torch.tensor([True, False]),
    torch.rand(2**18, 2),  # 2 MB
]


def test_tensors_that_are_joined_come_apart_again():
    groups = together([*VALUES, VALUES[0]])
    assert sorted(map(tuple, groups)) == [(0, 2, 3), (1, 4), (5,), (6,)]
    for places in groups:
        for place, value in zip(places, joined([VALUES[p] for p in places]).apart(), strict=True):
            assert value.dtype == VALUES[place].dtype
            assert torch.equal(value, VALUES[place])


def test_what_is_where_it_should_be_is_not_moved():
    for one, other in zip(moved(VALUES, "cpu"), VALUES, strict=True):
        assert one is other


def test_rows_of_one_tensor_are_stacked_without_a_copy():
    table = torch.rand(4, 3, 2)
    assert stacked(table.unbind()).data_ptr() == table.data_ptr()
    assert torch.equal(stacked(table[1:3].unbind()), table[1:3])
    for rows in ([table[0], table[2]], [table[1], table[0]], [table[0].clone(), table[1]]):
        assert torch.equal(stacked(rows), torch.stack(rows))


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool, torch.complex128])
def test_tensors_that_travel_as_one_begin_where_torch_would_begin_them(kind):
    values = [torch.ones(size).to(kind) for size in ((3,), (), (0, 2), (5, 7), (16,), (1, 1))]
    apart = joined(values).apart()
    for one, value in zip(apart, values, strict=True):
        assert torch.equal(one, value)
        assert one.dtype == kind
        assert one.data_ptr() % 64 == 0


def randoms(source):
    """Draws: of a new tensor, from chances, into one, and where one was asked for by name."""
    into = torch.empty(4, dtype=torch.long, device="cpu")
    torch.randperm(4, generator=source, out=into)
    return (
        torch.randn(2, 3, generator=source),
        torch.multinomial(torch.tensor([0.5, 0.25, 0.25], device="cpu"), 2, generator=source),
        into,
        torch.rand(2, generator=source, device="cpu"),
    )


def test_what_is_made_is_on_the_device_and_what_is_random_is_drawn_on_the_cpu():
    here, there = generator(1, "here"), generator(1, "here")
    expected = randoms(here)
    with Made("meta"):  # a device of shapes alone
        found = randoms(there)
        made = [
            torch.zeros(2),
            torch.tensor([1.0]),
            torch.arange(3),
            torch.eye(2),
            torch.full((), 1),
        ]
        assert torch.zeros(2, device="cpu").device.type == "cpu"
    assert torch.rand(9, generator=there).equal(torch.rand(9, generator=here))  # both went as far
    assert {one.device.type for one in made} == {"meta"}
    assert [one.device.type for one in found] == ["meta", "meta", "cpu", "cpu"]
    assert torch.equal(found[2], expected[2])
    assert torch.equal(found[3], expected[3])
    assert torch.zeros(1).device.type == "cpu"


def test_random_numbers_are_the_same_wherever_they_are_made():
    with Made("cpu"):
        found = randoms(generator(1, "here"))
    for one, other in zip(found, randoms(generator(1, "here")), strict=True):
        assert torch.equal(one, other)
