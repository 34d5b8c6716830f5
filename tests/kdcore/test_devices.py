import pytest
import torch

from kdcore.devices import device_of


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
