"""Uploads of some rows: a cohort's at once are what each client's are alone."""

import torch

from fedkd.communication.rows import only_held, with_zeros
from fedkd.messages import Upload

STREAM = torch.Generator().manual_seed(0)


def upload(*held, width=3):
    rows = torch.tensor(held, dtype=torch.float32)
    tables = {"a": torch.rand(len(held), width, generator=STREAM), "b": torch.arange(len(held))}
    return Upload(tables, torch.tensor(1), rows)


ALL = [
    upload(1, 0, 1),
    Upload({"a": torch.rand(2, 2)}),
    upload(0, 0, 0),
    upload(1, 1, 1, 0, width=2),
]


def test_rows_go_and_come_back_with_zeros():
    sent = only_held(ALL)
    assert sent[1] is ALL[1]
    for one, whole in zip(sent, ALL, strict=True):
        assert one.rows is whole.rows
        held = slice(None) if whole.rows is None else whole.rows.bool()
        assert all(
            torch.equal(one.payload[key], value[held]) for key, value in whole.payload.items()
        )
    for one, whole in zip(with_zeros(sent), ALL, strict=True):
        for key, value in whole.payload.items():
            zeros = value.clone()
            if whole.rows is not None:
                zeros[~whole.rows.bool()] = 0
            assert torch.equal(one.payload[key], zeros)


def test_a_list_that_does_not_fit_is_its_senders_alone():
    odd = ALL[0]._replace(rows=torch.ones(2))
    first, second = only_held([odd, ALL[3]])
    assert str(first).startswith("it cannot be sent: The shape of the mask [2]")
    assert len(second.payload["a"]) == 3
