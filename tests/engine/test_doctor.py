"""An installation says what it lacks."""

import sys

import pytest

from wsolfast.engine import doctor


def test_an_absent_package_comes_with_what_it_is_for(monkeypatch):
    monkeypatch.setattr(doctor, "package_version", lambda name: None)
    found = doctor.examine()["optional"]
    assert {"torchvision", "timm", "triton"} <= found.keys()
    assert all(text.startswith("absent (") for text in found.values())
    assert found["pyarrow"] == "absent (parquet data: pip install 'wsolfast[parquet]')"


def test_a_package_that_does_not_import_says_why(monkeypatch):
    monkeypatch.setattr(doctor, "package_version", lambda name: "9.9")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert doctor.examine()["optional"]["pyarrow"].startswith("9.9, but does not import: import of pyarrow halted")


def test_a_box_engine_that_was_not_built_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wsolfast._numpy", None)
    assert doctor.examine()["box_engine"].startswith("not built (")


@pytest.mark.parametrize("built_for", [None, "13.0"])
def test_a_machine_without_a_gpu_says_why(monkeypatch, built_for):
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.torch.version, "cuda", built_for)
    wanted = "torch is a CPU build" if built_for is None else "torch finds no CUDA device"
    assert doctor.examine()["devices"] == [f"cpu ({wanted})"]


def test_gpus_are_listed(monkeypatch):
    cuda = doctor.torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    monkeypatch.setattr(cuda, "get_device_capability", lambda device: ((7, 5), (9, 0))[device.index])
    monkeypatch.setattr(cuda, "get_device_name", lambda index: f"card {index}")
    assert doctor.examine()["devices"] == ["cpu", "cuda:0 card 0", "cuda:1 card 1"]
