"""torchvision and what imports it must import on any torch, in a fresh interpreter."""

import subprocess
import sys

import pytest

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
