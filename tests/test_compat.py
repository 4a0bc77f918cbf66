"""torchvision and what imports it must import on any torch, in a fresh interpreter."""

import subprocess
import sys

import pytest
import torch

from wsolfast import _compat


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_and_timm_import_in_a_fresh_interpreter():
    code = """
import sys
from wsolfast._compat import import_timm, import_torchvision
assert "torchvision" not in sys.modules
torchvision = import_torchvision()
assert import_torchvision() is torchvision
weights = torchvision.models.get_weight("VGG16_Weights.IMAGENET1K_V1")
assert weights.url.endswith(".pth")
assert "resnet18" in import_timm().list_models("resnet18*")
print("imported")
"""
    assert run(code) == "imported"


@pytest.mark.parametrize(("absent", "importer"), [("torchvision", "import_torchvision"), ("timm", "import_timm")])
def test_an_absent_package_names_the_extra(absent, importer, monkeypatch):
    find_spec = _compat.importlib.util.find_spec
    monkeypatch.setattr(_compat.importlib.util, "find_spec", lambda name: None if name == absent else find_spec(name))
    monkeypatch.delitem(_compat.sys.modules, absent, raising=False)
    if absent == "timm":
        monkeypatch.setattr(_compat, "import_torchvision", lambda: None)
    with pytest.raises(ImportError, match=rf"{absent} is not installed; pip install 'wsolfast\[train\]'"):
        getattr(_compat, importer)()


@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}), (torch.optim.Adam, {})]
)
def test_an_optimizer_without_the_compiler_computes_what_torchs_does(kind, options):
    def trained(first, second):
        """Values and state after two steps of ``first`` and, from its state, one of ``second``."""
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 7))
        optimizer = first([parameter], lr=0.1, weight_decay=0.01, **options)
        for step in range(3):
            if step == 2:
                state = optimizer.state_dict()
                optimizer = second([parameter], lr=1.0)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            assert parameter.grad is None
            parameter.pow(3).sum().backward()
            optimizer.step()
        return parameter.detach(), optimizer.state_dict()

    lean = _compat.without_compiler(kind)
    expected, expected_state = trained(kind, kind)
    for kinds in ((lean, lean), (kind, lean), (lean, kind)):
        values, state = trained(*kinds)
        assert torch.equal(values, expected)
        assert state["param_groups"] == expected_state["param_groups"]
        assert state["state"][0].keys() == expected_state["state"][0].keys()
        assert all(torch.equal(value, expected_state["state"][0][name]) for name, value in state["state"][0].items())
