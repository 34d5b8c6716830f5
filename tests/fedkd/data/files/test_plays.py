"""Text by speaker: who is a client, whose text may be public, and who is tested on alone."""

import pytest
import torch

from fedkd.data.datasets import checked, load
from fedkd.data.federated_data import federate, pools
from fedkd.data.files.plays import HELD, LENGTH, SPEAKERS, UNSEEN
from fedkd.data.partition import natural
from fedkd.rounds.evaluation import evaluate
from kdcore.rng import generator

EACH = 40  # windows of a client


def write(root, others=40, each=EACH):
    """Speaker k says the letter k only; the ten first say most, in two speeches each."""
    path = root / "text" / "tinyshakespeare" / "input.txt"
    path.parent.mkdir(parents=True)
    parts = ["A line that nobody says."]
    for k in range(SPEAKERS + others):
        length = LENGTH * (each if k < SPEAKERS else 20) + 2 - (k % 2)  # with both line ends
        half, letter = length // 2, chr(ord("A") + k)
        parts += [f"{k}:\n{letter * (half - 1)}", f"{k}:\n{letter * (length - half - 1)}"]
    path.write_text("\n\n".join(parts))


def test_speakers_are_clients_and_the_others_take_turns(tmp_path):
    write(tmp_path)
    data = checked(load("shakespeare", tmp_path))
    assert data.shape == (LENGTH,)
    assert torch.equal(data.x[:, 1:], data.y[:, :-1])  # what comes next
    assert data.official == SPEAKERS * HELD + UNSEEN
    private = data.domains[data.foreign : len(data.y) - data.official]
    assert private.bincount().tolist() == [EACH - HELD] * SPEAKERS
    tested = data.domains[len(data.y) - data.official :].bincount()
    assert tested.tolist() == [HELD] * SPEAKERS + [UNSEEN]
    letters = {  # of whom the text of each domain is
        domain: {data.label_names[token] for token in data.x[data.domains == domain].unique()}
        for domain in range(SPEAKERS + 2)
    }
    said = [one - {"\n"} for one in letters.values()]
    assert all(len(one) == 1 for one in said[:SPEAKERS])
    assert not said[SPEAKERS] & said[SPEAKERS + 1]
    assert len(set().union(*said)) == SPEAKERS + 40


def test_public_text_is_of_none_of_the_clients_nor_of_those_tested_on(tmp_path):
    write(tmp_path)
    data = load("shakespeare", tmp_path)
    chosen = pools(data, private=80, public=50, validation=0, test=0, seed=0)
    assert data.domains[chosen.public].unique().tolist() == [SPEAKERS + 1]
    parts = natural(data.domains[chosen.private], SPEAKERS, generator(0))
    federation = federate(data, chosen, parts, ["ngram-4"], 0)
    for client in federation.clients:
        assert data.domains[client.private.rows].unique().tolist() == [client.id]
    assert federation.kind_counts[:, SPEAKERS].sum() == 0  # the unseen ones
    about = federation.task, federation.clients, federation.test, federation.kind_counts
    scores = evaluate(*about, kinds=federation.kinds)
    assert {"perplexity", "perplexity_local", "perplexity_unseen"} <= set(scores)


def test_too_few_speakers_are_a_damaged_file(tmp_path):
    write(tmp_path, others=3)
    with pytest.raises(ValueError, match="is damaged: it has too few speakers"):
        load("shakespeare", tmp_path)


@pytest.mark.data
def test_the_real_plays():
    data = load("shakespeare")
    assert (len(data.y), data.num_classes, data.foreign, data.official) == (10289, 65, 5780, 600)
