"""CFD: a round worked by hand, its bytes, and what it saves."""

import math
import struct
import zlib

import pytest
import torch

from fedkd.algorithms.cfd import CFD, largest
from fedkd.algorithms.fedmd import FedMD
from fedkd.communication.channel import Channel
from fedkd.communication.compression import root8
from fedkd.core import Client, Model, Task
from fedkd.data import datasets
from fedkd.data.federated_data import federate, pools
from fedkd.data.partition import partition
from fedkd.messages import Transform
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig

STILL = TrainingConfig(learning_rate=1e-300)  # training that moves nothing
HALF = TrainingConfig(learning_rate=0.5, batch_size=8)


def look_up(params, x):
    return Outputs(params["table"][x[:, 0].long()])


def tables(*probabilities):
    """Clients whose predictions for example i are row i; each owns example 0, others are public."""
    rows = torch.tensor(probabilities[0])
    model = Model(lambda generator: {"table": torch.zeros_like(rows)}, look_up)
    x, y = torch.arange(float(len(rows))).unsqueeze(1), torch.zeros(len(rows), dtype=torch.long)
    clients = [
        Client(i, "table", {"table": torch.tensor(p).log()}, Examples(x, y, torch.tensor([0])))
        for i, p in enumerate(probabilities)
    ]
    return Task({"table": model}, rows.shape[1], x[1:]), clients


def rounds(algorithm, federation, count=2, **more):
    return list(simulate(algorithm, *federation, rounds=count, **more))


SAY = (
    [[0.5, 0.5], [0.9, 0.1], [0.6, 0.4]],
    [[0.5, 0.5], [0.3, 0.7], [0.2, 0.8]],
    [[0.5, 0.5], [0.4, 0.6], [0.7, 0.3]],
)


def test_a_round_by_hand(double):
    # Votes for example 1: classes 0, 1, 1, a mean of (1/3, 2/3); for example 2: 0, 1, 0. The
    # server's table starts from zeros, p = 1/2; a step of 1/2 on the mean over two examples moves
    # each row by (mean - p) / 4 = (-1/24, 1/24), so that it says 1 / (1 + e^(1/12)) = 0.4792.
    first, second = rounds(CFD(STILL, HALF, HALF), tables(*SAY))
    close(first.server["model/table"], [[0, 0], [-1 / 24, 1 / 24], [1 / 24, -1 / 24]])
    sure = 1 / (1 + math.exp(1 / 12))
    assert sure == pytest.approx(0.4792, abs=1e-4)
    close(first.server["consensus"], [[sure, 1 - sure], [1 - sure, sure]])
    # What clients read is the nearest on a grid of 255 steps: 255 * 0.4792 = 122.2.
    heard = torch.tensor([122 / 255, 133 / 255])
    moved = second.clients[0].params["table"] - tables(*SAY)[1][0].params["table"]
    close(moved, torch.stack([0 * heard, heard - torch.tensor([0.9, 0.1]), heard.flip(0)
                              - torch.tensor([0.6, 0.4])]) / 4)  # fmt: skip


def close(value, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def tap(log):
    return Transform(lambda message, stream: log.append(message) or message)


def inflated(data):
    """The bytes inside a message, by the book: 1 + 4 bytes of shape, one of type, zlib."""
    data = bytes(data.tolist())
    assert data[0] == 1
    (length,) = struct.unpack("<I", data[1:5])
    inside = zlib.decompress(data[6:])
    assert (data[5], len(inside)) == (0, length)
    return inside


def test_what_crosses_is_votes_in_bits_and_then_differences_of_votes(double):
    # Client 0 votes 0, 0 and client 1 votes 1, 1: at four classes two bits each. The header says
    # two axes, 2 and 4. In round 2 votes are sent less those of the consensus, as whole bytes.
    says = [[0.25] * 4, [0.7, 0.1, 0.1, 0.1], [0.4, 0.2, 0.2, 0.2]]
    turned = [[0.25] * 4, [0.1, 0.7, 0.1, 0.1], [0.2, 0.4, 0.2, 0.2]]
    first, second = rounds(CFD(STILL, STILL, STILL), tables(says, turned, turned), witness=True)
    header = bytes([2]) + struct.pack("<II", 2, 4)
    votes = {0: b"\0", 1: bytes([0b01_01_0000]), 2: bytes([0b01_01_0000])}
    for client, vote in votes.items():
        assert inflated(first.uploads[client].payload["probabilities"]) == header + vote
    # The server's model has barely moved, and says by its last digits what the majority says, 1;
    # in eight bits that is all the same: 63 or 64 of 255, the first classes having the more.
    consensus = torch.tensor([[64, 64, 64, 63]] * 2) / 255
    close(
        CFD().downlink[0].decode(CFD().downlink[1].decode(second.broadcasts[0]))["consensus"],
        consensus,
    )
    for client, vote in votes.items():  # so the vote that is known is class 0, and its code zero
        inside = inflated(second.uploads[client].payload["probabilities"])
        assert inside == bytes(9) + vote


def test_votes_that_agree_with_the_consensus_are_nothing_but_zeros():
    says = [[0.9, 0.1]] + [[0.9, 0.1], [0.2, 0.8]] * 150
    federation = tables(says, says, says)
    distill = TrainingConfig(learning_rate=5.0, batch_size=4, epochs=3)
    first, second = rounds(CFD(STILL, distill, distill), federation, witness=True)
    inside = inflated(second.uploads[0].payload["probabilities"])
    assert len(inside) == 9 + math.ceil(300 / 8)
    assert set(inside) == {0}
    assert second.ledger.bytes_up == 3 * (6 + len(zlib.compress(inside, 9)))
    assert second.ledger.bytes_up < first.ledger.bytes_up


def test_codes_may_be_finer_up_and_coarser_down(double):
    # Two bits up: (0.9, 0.1) * 3 = (2.7, 0.3) is nearest to (3, 0), (0.6, 0.4) to (2, 1).
    (current,) = rounds(
        CFD(STILL, HALF, HALF, bits_up=2, bits_down=1), tables(SAY[0]), 1, witness=True
    )
    inside = inflated(current.uploads[0].payload["probabilities"])
    assert inside[9:] == bytes([0b11_00_10_01])
    for bits in (0, 9):
        with pytest.raises(ValueError, match="bits_up must be from 1 to 8, got"):
            CFD(bits_up=bits)


def test_the_coding_is_the_last_stage_of_whatever_channel_there_is():
    log = []
    channel = Channel((tap(log),), (tap(log),))
    rounds(CFD(STILL, HALF, HALF), tables(*SAY), channel=channel)
    assert all(value.is_floating_point() for message in log for value in message.values())
    assert CFD().uplink[1:] != () == FedMD().uplink
    # What is in bytes already holds no distributions any more, and nobody takes it for some.
    (current, _) = rounds(CFD(STILL, HALF, HALF), tables(*SAY), channel=Channel((root8(),)))
    assert sorted(current.rejected) == [0, 1, 2]
    assert "has no numbers to compress" in current.rejected[0]


def test_the_server_has_a_pace_of_its_own(double):
    # That of the round by hand, whatever the clients' is.
    (first,) = rounds(CFD(STILL, STILL, HALF), tables(*SAY), 1)
    close(first.server["model/table"], [[0, 0], [-1 / 24, 1 / 24], [1 / 24, -1 / 24]])


def test_the_servers_model_is_of_the_largest_architecture(tiny):
    # 341 parameters, 368, and 393: by hand in test_channel.py.
    federation = tiny(["mlp-8", "mlp-7-8", "cnn-4-8"])
    assert largest(federation.task) == "cnn-4-8"
    server = CFD().init(federation.task, generator(0))
    assert sum(v.numel() for k, v in server.items() if k.startswith("model/")) == 393


def test_the_server_learns_from_round_to_round_and_the_model_in_use_has_digested_the_newest():
    federation = tables(*SAY)
    first, second = rounds(CFD(STILL, HALF, HALF), federation)
    assert not torch.equal(first.server["model/table"], second.server["model/table"])
    used = deployed(CFD(STILL, HALF, HALF), federation[0], second)
    assert not torch.equal(used[0].params["table"], second.clients[0].params["table"])


def test_on_digits_it_sends_a_thirtieth_of_what_fedmd_sends_and_is_as_good():
    # The set-up of simulations/experiments/digits-federated.toml, smaller: 4 rounds, one model.
    data = datasets.load("digits")
    chosen = pools(data, 500, 578, 0, 0, 0)
    parts = partition("dirichlet", data.y[chosen.private], 10, generator(0), 1.0, 2)
    federation = federate(data, chosen, parts, ["mlp-64"], 0)
    local = TrainingConfig("momentum", 0.05, epochs=3, batch_size=16)
    distill = TrainingConfig("momentum", 0.05, epochs=3, batch_size=32)
    found = {}
    for kind in (FedMD, CFD):
        algorithm = kind(local, distill)
        all_rounds = rounds(algorithm, (federation.task, federation.clients), 4)
        used = deployed(algorithm, federation.task, all_rounds[-1])
        scores = evaluate(federation.task, used, federation.test, federation.label_counts)
        found[kind] = sum(r.ledger.bytes_up for r in all_rounds), float(scores.accuracy.mean())
    assert found[FedMD][0] == 4 * 10 * 4 * 10 * 578
    assert found[CFD][0] <= found[FedMD][0] / 30
    assert found[CFD][1] >= found[FedMD][1] - 0.02
