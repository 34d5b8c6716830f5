"""An old name gives what the new one does, and says so."""

import sys
from types import ModuleType

import pytest

from kdcore._deprecate import Renamed, old_names
from kdcore.outputs import Outputs


@pytest.fixture
def module(monkeypatch):
    """A module that once had Answers, which is now Outputs in kdcore.outputs."""
    made = ModuleType("once_here")
    made.__getattr__ = old_names("once_here", {"Answers": Renamed("kdcore.outputs:Outputs", "0.3")})
    monkeypatch.setitem(sys.modules, "once_here", made)
    return made


def test_an_old_name_warns_with_both_names_and_the_version(module):
    said = "once_here.Answers is now kdcore.outputs.Outputs; kdsim 0.3 has the new name alone"
    with pytest.warns(DeprecationWarning, match=f"^{said}$") as warned:
        assert module.Answers is Outputs
    assert warned[0].filename == __file__  # where it is used, not where it is told
    with pytest.warns(DeprecationWarning, match=said):
        from once_here import Answers
    assert Answers is Outputs


def test_what_never_was_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="'once_here' has no attribute 'Anwsers'"):
        _ = module.Anwsers
    assert not hasattr(module, "__path__")
