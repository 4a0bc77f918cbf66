"""bfloat16 is for devices that multiply it fast; what was used is what results say and score maps depend on."""

import json

import pytest
import torch

from wsolfast.engine import doctor
from wsolfast.engine.assembly import precision
from wsolfast.engine.assembly.precision import choose_amp, why_bf16_is_slow
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run import environment
from wsolfast.engine.run.progress import Progress
from wsolfast.recipe import dump_recipe, parse_recipe

CPU = torch.device("cpu")
X86 = "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f avx512bw avx512vl avx512dq {}\n"


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """Makes the machine one with this /proc/cpuinfo; without any if None."""

    def made_of(text):
        file = tmp_path / "cpuinfo"
        if text is not None:
            file.write_text(text)
        monkeypatch.setattr(environment, "_CPU_INFO", file)

    return made_of


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        (X86.format("avx512_bf16"), True),
        (X86.format("amx_tile amx_bf16"), True),
        # torch calls bfloat16 supported there, and emulates it.
        (X86.format(""), False),
        ("flags\t: fpu sse2 avx2\n", False),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("Features\t: fp asimd\n", False),
    ],
)
def test_a_cpu_is_fast_if_it_has_the_instructions(cpu, text, fast):
    cpu(text)
    assert (why_bf16_is_slow(CPU) is None) == fast
    assert choose_amp("auto", CPU) == ("bf16" if fast else "none")
    said = []
    assert choose_amp("bf16", CPU, said.append) == "bf16"
    assert len(said) == (not fast)
    assert choose_amp("none", CPU, said.append) == "none"
    assert len(said) == (not fast)


@pytest.mark.parametrize("supported", [True, False])
def test_without_a_list_of_instructions_torch_is_asked(cpu, monkeypatch, supported):
    cpu(None)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: supported, raising=False)
    assert (why_bf16_is_slow(CPU) is None) == supported


def test_a_torch_without_onednn_is_slow(cpu, monkeypatch):
    cpu(X86.format("avx512_bf16"))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert "oneDNN" in why_bf16_is_slow(CPU)


@pytest.mark.parametrize(("capability", "amp"), [((7, 5), "none"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_gpu_is_fast_from_ampere_on(monkeypatch, capability, amp):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert choose_amp("auto", torch.device("cuda:0")) == amp


def test_one_slow_process_of_several_is_slow_for_all(cpu, monkeypatch):
    cpu(X86.format("avx512_bf16"))
    monkeypatch.setattr(precision, "from_all", lambda value: [value, True])
    assert choose_amp("auto", CPU) == "none"


@pytest.mark.parametrize(("flag", "used"), [("avx512_bf16", "bf16"), ("", "none")])
def test_training_and_results_say_what_was_used(tiny, tiny_file, tmp_path, coarse_sweep, wsolfast, cpu, flag, used):
    cpu(X86.format(flag))
    code, _, err = wsolfast("train", tiny_file, "--amp", "auto", "--name", "run")
    assert code == 0, err
    assert (", bf16" in err) == (used == "bf16")
    assert "warning" not in err
    assert json.loads((tmp_path / "runs/run/env.json").read_text())["amp"] == used
    code, out, err = wsolfast("eval", "runs/run", "--json")
    assert code == 0, err
    assert json.loads(out)["amp"] == used
    assert 'amp = "auto"' in (tmp_path / "runs/run/recipe.toml").read_text()


def test_bf16_on_a_slow_cpu_is_one_warning(tiny_file, tmp_path, coarse_sweep, wsolfast, cpu):
    cpu(X86.format(""))
    code, _, err = wsolfast("train", tiny_file, "--amp", "bf16", "--name", "run", "stage.epochs=1")
    assert code == 0
    assert (
        err.count("warning: runtime.amp = bf16 is many times slower than float32 here: this CPU has no bfloat16") == 1
    )
    code, _, err = wsolfast("eval", "runs/run")
    assert code == 0
    assert err.count("warning") == 1


def test_maps_of_one_precision_are_not_taken_for_the_other(trained, cpu, monkeypatch):
    auto = parse_recipe(dump_recipe(trained.recipe), "tiny", ["runtime.amp=auto"])
    said = []
    monkeypatch.setattr(Progress, "log", lambda self, text: said.append(text))
    cpu(X86.format("avx512_bf16"))
    evaluate(trained, auto)
    cpu(X86.format(""))
    said.clear()
    assert evaluate(trained, auto).amp == "none"
    assert not any("up to date" in text for text in said)
    # Resolved, it is the same as asked for.
    said.clear()
    evaluate(trained)
    assert any("test: score maps are up to date" in text for text in said)


def test_the_doctor_shows_it(cpu, wsolfast):
    cpu(X86.format(""))
    assert doctor.examine()["bf16"][0] == "cpu: slow, this CPU has no bfloat16 instructions (avx512_bf16 or amx_bf16)"
    assert "bf16             cpu: slow" in wsolfast("doctor")[1]
    cpu(X86.format("avx512_bf16"))
    assert doctor.examine()["bf16"][0] == "cpu: fast"
