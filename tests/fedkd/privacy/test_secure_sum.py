"""Secure sums: exact in the ring, whoever drops out; nothing where too many do; what masks hide."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from fedkd.privacy.secure_sum import (
    PRIME,
    SecureSum,
    _at_zero,
    _joined,
    _shared,
    agree,
    masked,
    overhead,
    unmasked,
)
from kdcore.rng import generator

FORM = SecureSum()


def vectors(count, size=50, seed=0):
    drawn = torch.randn(count, size, generator=generator(seed, "vectors"), dtype=torch.float64)
    return dict(zip(range(3, 3 + count), drawn, strict=True))


def summed(clients, gone, seed=0):
    """The secure sum, the plain sum in the ring, and that of real numbers."""
    known = vectors(clients)
    there = {client: value for client, value in known.items() if client not in gone}
    ring = {client: FORM.fixed(value, clients) for client, value in there.items()}
    secrets = agree(list(known), FORM.needed(clients), generator(seed, "secrets"))
    total = sum(masked(value, client, secrets) for client, value in ring.items())
    return unmasked(total, list(there), secrets), sum(ring.values()), sum(there.values())


@pytest.mark.parametrize(("clients", "lost"), [(20, 0), (20, 6), (2, 0), (5, 2)], ids=str)
def test_it_is_the_plain_sum_of_the_ring_bit_for_bit_whoever_drops_out(clients, lost):
    gone = sorted(vectors(clients))[1::2][:lost]
    secure, plain, real = summed(clients, gone)
    assert len(gone) == lost
    assert np.array_equal(secure, plain)
    step = 2.0 ** -FORM.digits(clients)
    assert (FORM.read(secure, clients) - real).abs().max() <= (clients - lost) * step / 2


def test_too_many_who_drop_out_leave_masks_that_nobody_can_find():
    known = vectors(20)
    there = list(known)[:8]  # 60 % are gone
    secrets = agree(list(known), FORM.needed(20), generator(0, "secrets"))
    ring = {client: FORM.fixed(known[client], 20) for client in there}
    total = sum(masked(value, client, secrets) for client, value in ring.items())
    with pytest.raises(ValueError, match="8 of 20 clients answered, and a secure sum takes 11"):
        unmasked(total, there, secrets)
    # Eight shares of eleven fit any secret: with three more made up, another one comes out.
    shares = [secrets.shares[3][holder][1] for holder in there]
    made_up = [_joined([*shares, a, 5, 7], _at_zero([*there, 11, 12, 13])) for a in (1, 2)]
    assert secrets.own[3] not in made_up
    assert made_up[0] != made_up[1]


def test_any_needed_shares_make_the_secret_and_no_fewer():
    secret = 123456789
    shares = _shared(secret, range(5), 3, generator(0, "shares"))
    for holders in itertools.combinations(range(5), 3):
        assert _joined([shares[h] for h in holders], _at_zero(holders)) == secret
    for holders in itertools.combinations(range(5), 2):
        assert _joined([shares[h] for h in holders], _at_zero(holders)) != secret
    # By hand: 7 + 5 x at 1 and 2 is 12 and 17, and 2 * 12 - 17 = 7.
    assert _joined([12, 17], _at_zero([0, 1])) == 7
    assert all(0 <= share < PRIME for share in shares.values())


def test_a_masked_vector_is_even_noise_whatever_it_hides():
    secrets = agree([0, 1, 2], 2, generator(0, "secrets"))
    seen = masked(np.full(50_000, 1234, np.uint32), 1, secrets)
    bytes_of = np.bincount(seen >> 24, minlength=256)
    assert stats.chisquare(bytes_of).pvalue > 1e-4
    other = masked(np.full(50_000, 99, np.uint32), 1, secrets)
    assert np.array_equal(
        seen - other, np.full(50_000, 1135, np.uint32)
    )  # of one mask: twice is not
    again = agree([0, 1, 2], 2, generator(1, "secrets"))  # safe, so each round has seeds of its own
    assert (masked(np.full(50_000, 1234, np.uint32), 1, again) != seen).mean() > 0.99


def test_numbers_are_fixed_in_the_ring_and_sums_do_not_overflow():
    form = SecureSum(limit=2.0)
    assert form.digits(1) == 29  # 2^31 - 1 over 2, a little below 2^30
    assert form.digits(1000) == 20
    values = torch.tensor([-2.0, -0.5, 0.0, 1.25, 2.0, 9.0, -9.0], dtype=torch.float64)
    total = sum(form.fixed(values, 1000) for _ in range(1000))
    assert (form.read(total, 1000) / 1000).tolist() == [-2, -0.5, 0, 1.25, 2, 2, -2]


@pytest.mark.parametrize(
    ("threshold", "count", "needed"), [(0.5, 20, 11), (0.5, 3, 2), (0, 9, 2), (2 / 3, 9, 7)]
)
def test_how_many_have_to_answer(threshold, count, needed):
    assert SecureSum(threshold).needed(count) == needed


def test_bytes_beside_the_vectors():
    # Three clients, one of whom drops out: each sends two keys of 32 bytes, and to each of two
    # others two shares with a tag, 80 bytes; two send a share of 32 bytes for each of three.
    up, down = overhead(3, 2)
    assert up == {"mask.keys": 3 * 64, "mask.shares": 6 * 80 + 2 * 3 * 32}
    assert down == {"mask.keys": 6 * 64, "mask.shares": 6 * 80 + 2 * 2 * 4}


@pytest.mark.parametrize(
    "given", [{"threshold": 1.0}, {"threshold": -0.1}, {"limit": 0.0}], ids=str
)
def test_what_cannot_be_is_refused(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} is"):
        SecureSum(**given)
