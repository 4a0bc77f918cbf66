"""runtime.device = "mps": taken where torch has it, told in one line elsewhere; no Apple GPU runs these tests."""

import pytest
import torch

from wsolfast.engine import doctor
from wsolfast.engine.assembly import build
from wsolfast.engine.assembly.build import choose_device, memory_format
from wsolfast.engine.assembly.decoders import count_decoders
from wsolfast.engine.assembly.precision import choose_amp, why_fp16_is_slow
from wsolfast.engine.evaluation import pipeline
from wsolfast.engine.run import environment
from wsolfast.engine.run.errors import BackendError
from wsolfast.recipe import RecipeError
from wsolfast.reference._widest import widest
from wsolfast.types import Batch

CPU, APPLE = torch.device("cpu"), torch.device("mps")


@pytest.fixture
def apple(monkeypatch):
    """Makes torch believe in an Apple GPU."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)


@pytest.fixture
def no_apple(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(("built", "why"), [(False, "is built without it"), (True, "finds no Apple GPU")])
def test_without_one_it_is_one_line(no_apple, monkeypatch, built, why):
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: built)
    with pytest.raises(BackendError, match=rf"^device 'mps': torch \S+ {why}[^\n]*; use --device cpu$"):
        choose_device("mps")


def test_the_command_line_ends_with_4_and_leaves_nothing(no_apple, tiny_file, tmp_path, wsolfast):
    code, _, err = wsolfast("train", tiny_file, "--device", "mps", "--name", "run")
    assert code == 4
    assert len(err.strip().splitlines()) == 1
    assert "device 'mps'" in err
    assert not (tmp_path / "runs/run").exists()


def test_with_one_it_is_taken_only_if_it_is_asked_for(apple):
    assert choose_device("mps") == APPLE
    assert choose_device("auto").type in ("cpu", "cuda")
    assert doctor.examine()["devices"] == ["cpu", "mps"]


def test_several_processes_cannot_share_one(apple, monkeypatch):
    monkeypatch.setattr(build, "world_size", lambda: 2)
    with pytest.raises(RecipeError, match="mps works for one process, 2 were started"):
        choose_device("mps")


def test_what_only_other_devices_are_good_at_is_left_out():
    assert memory_format(True, APPLE) is memory_format(False, APPLE) is torch.contiguous_format
    assert memory_format(True, CPU) is torch.channels_last
    assert widest(APPLE) is torch.float32
    assert widest(CPU) is torch.float64
    assert count_decoders(-1, APPLE) >= count_decoders(-1, CPU)


def test_float32_unless_another_precision_is_asked_for():
    said = []
    assert [choose_amp(amp, APPLE, said.append) for amp in ("auto", "none", "bf16", "fp16")] == [
        "none",
        "none",
        "bf16",
        "fp16",
    ]
    assert said == []


@pytest.mark.parametrize(("flags", "slow"), [("avx2", True), ("avx2 avx512_fp16", False)])
def test_float16_on_a_cpu_without_instructions_is_one_warning(monkeypatch, tmp_path, flags, slow):
    (tmp_path / "cpuinfo").write_text(f"flags\t: {flags}\n")
    monkeypatch.setattr(environment, "_CPU_INFO", tmp_path / "cpuinfo")
    said = []
    assert choose_amp("fp16", CPU, said.append) == "fp16"
    assert (why_fp16_is_slow(CPU) is not None) == slow == bool(said)
    assert not slow or "fp16 is slower than float32 here: this CPU has no float16" in said[0]


def copies_of(monkeypatch):
    """Notes every ``Tensor.to`` with its arguments; what goes to an Apple GPU stays on the CPU."""
    calls, move = [], torch.Tensor.to

    def to(tensor, target, **options):
        calls.append((str(target), options.get("non_blocking", False)))
        return tensor if str(target) == "mps" else move(tensor, target, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    return calls


def test_copies_to_and_from_it_are_waited_for(monkeypatch):
    calls = copies_of(monkeypatch)
    Batch(torch.zeros(1, 3, 4, 4), torch.zeros(1), ["a"], torch.zeros(1, 4, 4)).to(APPLE)
    assert calls == [("mps", False)] * 3


def test_an_evaluation_sends_its_images_there(monkeypatch):
    calls = copies_of(monkeypatch)
    launcher = pipeline._Launcher(lambda image, wide, label: (image, label), APPLE, [])
    given = torch.zeros(1, 3, 4, 4)
    sent, _ = launcher._copied(given, None, torch.zeros(1))
    assert sent[1] is None
    assert calls == [("mps", False)] * 2
