"""CUDA graphs of evaluations: what is recorded, what is replayed, and what runs without.

On a CPU a stand-in records: it runs the step again into the memory of the first results, as a graph does.
"""

import pytest
import torch

from wsolfast.engine.assembly.build import build_method, open_eval_data, refine
from wsolfast.engine.assembly.cuda_graph import GraphedStep, HostWaits, choose_cuda_graphs
from wsolfast.engine.assembly.predictor import Predictor
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.evaluation.pipeline import stream
from wsolfast.engine.evaluation.stopwatch import Stopwatch
from wsolfast.engine.localize import localize
from wsolfast.engine.run.errors import BackendError
from wsolfast.recipe import RecipeError, dump_recipe, parse_recipe

CPU = torch.device("cpu")
BATCHES = [[7, 0, 3], [9, 1, 5], [8]]


class Recorder:
    """Records as ``cuda_graph.record`` does, and counts."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, run, device):
        self.recorded += 1
        # What a graph holds until it is replayed.
        outputs = tuple(torch.full_like(one, -1) for one in run())

        def replay():
            self.replayed += 1
            for mine, found in zip(outputs, run(), strict=True):
                mine.copy_(found)

        return outputs, replay


def double(image, wide, label):
    return 2 * image + (0 if wide is None else wide), label + 1


def test_batches_of_one_shape_are_replayed_from_memory_that_stays():
    recorder, seen = Recorder(), []

    def step(*given):
        seen.append([None if one is None else one.data_ptr() for one in given])
        return double(*given)

    graph = GraphedStep(step, CPU, capture=recorder)
    for value in range(4):
        image, label = torch.full((2, 3), float(value)), torch.tensor([value, 7])
        for mine, expected in zip(graph(image, None, label), double(image, None, label), strict=True):
            assert torch.equal(mine, expected)
    assert (recorder.recorded, recorder.replayed) == (1, 4)
    assert len({str(places) for places in seen}) == 1


def test_results_are_those_of_the_last_call():
    graph = GraphedStep(double, CPU, capture=Recorder())
    first, _ = graph(torch.ones(2), None, torch.zeros(2))
    second, _ = graph(torch.full((2,), 5.0), None, torch.zeros(2))
    assert first.data_ptr() == second.data_ptr()
    assert first.tolist() == [10, 10]


def test_other_shapes_run_as_they_are():
    recorder = Recorder()
    graph = GraphedStep(double, CPU, capture=recorder)
    label = torch.zeros(2)
    graph(torch.ones(2, 4), None, label)
    for image, wide in ((torch.ones(1, 4), None), (torch.ones(2, 5), None), (torch.ones(2, 4), torch.ones(2, 4))):
        found, _ = graph(image, wide, label)
        assert torch.equal(found, double(image, wide, label)[0])
    assert (recorder.recorded, recorder.replayed) == (1, 1)


def test_a_second_view_is_copied_too():
    graph = GraphedStep(double, CPU, capture=Recorder())
    for value in (1.0, 2.0):
        found, _ = graph(torch.zeros(2), torch.full((2,), value), torch.zeros(2))
        assert found.tolist() == [value, value]


def waiting(image, wide, label):
    return (image * float(image.sum()), label)


@pytest.mark.parametrize("required", [False, True])
def test_a_step_that_waits_is_never_recorded(required):
    recorder, lines = Recorder(), []
    graph = GraphedStep(waiting, CPU, required=required, log=lines.append, capture=recorder)
    reason = r"the step waits for the device \(_local_scalar_dense\), which no graph can"
    if required:
        with pytest.raises(BackendError, match=rf"runtime\.cuda_graphs: {reason}; use auto or off"):
            graph(torch.ones(2), None, torch.zeros(2))
    else:
        for value in (2.0, 3.0):
            assert graph(torch.full((2,), value), None, torch.zeros(2))[0].tolist() == [2 * value**2] * 2
        assert lines == [
            "without a CUDA graph: the step waits for the device (_local_scalar_dense), which no graph can"
        ]
    assert recorder.recorded == 0


@pytest.mark.parametrize("required", [False, True])
def test_a_recording_that_fails_ends_the_evaluation(required):
    """It leaves torch's allocator in the middle of one, so that nothing may follow."""

    def broken(run, device):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")

    graph = GraphedStep(double, CPU, required=required, capture=broken)
    with pytest.raises(BackendError, match=r"cannot be recorded \(CUDA error: operation not .* capturing\); use off"):
        graph(torch.ones(2), None, torch.zeros(2))


@pytest.mark.parametrize("inference", [False, True])
def test_what_makes_a_host_wait(inference):
    mask, values, places = torch.tensor([True, False, True]), torch.arange(3.0), torch.tensor([0, 2])
    waits = {
        "index": lambda: values[mask],
        "index_put_": lambda: values.clone().index_put_((mask,), values[0]),
        "lift_fresh": lambda: values * values.new_tensor([1.0, 2.0, 3.0]),
        "nonzero": values.nonzero,
        "masked_select": lambda: values.masked_select(mask),
        "equal": lambda: torch.equal(values, values),
        "_unique2": values.unique,
        "allclose": lambda: torch.allclose(values, values),
        "bincount": lambda: torch.bincount(values.long()),
        "_local_scalar_dense": values[0].item,
        "_to_copy": lambda: values.to("meta"),
    }
    for name, call in waits.items():
        with torch.inference_mode(inference), HostWaits() as found:
            call()
        assert name in found.found, name
    with torch.inference_mode(inference), HostWaits() as found:
        values[places] + torch.where(mask, values, 0).to(torch.float64).topk(2).values.sum()
        values.clone().masked_fill_(mask, 0)
        values.clone().copy_(values)
    assert found.found == []


def test_which_devices_have_them():
    assert [choose_cuda_graphs(wanted, torch.device("cuda")) for wanted in ("off", "auto", "on")] == [
        "off",
        "auto",
        "on",
    ]
    assert [choose_cuda_graphs(wanted, CPU) for wanted in ("off", "auto")] == ["off", "off"]
    with pytest.raises(
        BackendError, match=r"runtime\.cuda_graphs: needs a CUDA device, and the device is cpu; use auto"
    ):
        choose_cuda_graphs("on", CPU)


def prediction(recipe, **options):
    method = build_method(recipe, recipe.stage[0], 2, pretrained=False)
    return Predictor(method, device=options.pop("device", CPU), topk=2, **options)


@pytest.mark.parametrize("options", [{}, {"singly": True}, {"channels_last": True}, {"amp": "bf16"}])
def test_an_evaluation_from_a_graph_has_the_bits_of_one_without(tiny, options):
    recipe, found = tiny("evaluate.ten_crop=true"), []
    dataset, recorder = open_eval_data(recipe, "test"), Recorder()
    for graphs in ("off", "on"):
        torch.manual_seed(1)
        predictor = prediction(recipe, crop=32, graphs=graphs, capture=recorder, **options)
        assert predictor.wants_one_size == (graphs == "on")
        stopwatch = Stopwatch()
        given = {"device": CPU, "backbones": predictor.backbones, "pad": 3, "stopwatch": stopwatch}
        batches = stream(dataset, BATCHES, predictor, **given)
        # Each is looked at before the next one comes.
        found.append([tuple(one.clone() for one in batch) for batch in batches])
        seconds = stopwatch.take()
        assert seconds["network"] > 0
    for plain, replayed in zip(*found, strict=True):
        for one, other in zip(plain, replayed, strict=True):
            assert torch.equal(one, other)
    assert [len(batch[0]) for batch in found[1]] == [3, 3, 1]
    assert (recorder.recorded, recorder.replayed) == (1, 3)


def test_refined_maps_are_asked_for_a_number_and_do_without(tiny):
    recipe, recorder, lines = tiny("evaluate.post=scg"), Recorder(), []
    dataset, found = open_eval_data(recipe, "test"), []
    for graphs in ("off", "auto", "on"):
        torch.manual_seed(1)
        method = refine(build_method(recipe, recipe.stage[0], 2, pretrained=False), recipe.evaluate)
        predictor = Predictor(method, device=CPU, topk=2, graphs=graphs, log=lines.append, capture=recorder)
        batches = stream(dataset, BATCHES, predictor, device=CPU, pad=3)
        if graphs == "on":
            with pytest.raises(BackendError, match=r"waits for the device \(_local_scalar_dense\)"):
                list(batches)
        else:
            found.append(list(batches))
    assert recorder.recorded == 0
    assert len(lines) == 1
    for plain, other in zip(*found, strict=True):
        assert all(torch.equal(one, mine) for one, mine in zip(plain, other, strict=True))


def test_a_question_that_is_asked_once_hinders_nothing():
    recorder, known = Recorder(), []

    def step(image, wide, label):
        if not known:
            known.append(float(image.sum()))
        return double(image, wide, label)

    graph = GraphedStep(step, CPU, required=True, capture=recorder)
    assert graph(torch.ones(2), None, torch.zeros(2))[0].tolist() == [2, 2]
    assert (recorder.recorded, recorder.replayed) == (1, 1)


def test_without_labels_nothing_is_recorded(tiny):
    recorder = Recorder()
    predictor = prediction(tiny(), graphs="on", capture=recorder)
    predictor(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert recorder.recorded == 0


def test_a_step_that_calls_no_backbone_is_all_network(tiny):
    """As a replay is: hooks of the backbones are not called."""
    dataset, stopwatch = open_eval_data(tiny(), "test"), Stopwatch()
    list(stream(dataset, BATCHES, lambda image, wide, label: (label,), device=CPU, stopwatch=stopwatch))
    seconds = stopwatch.take()
    assert seconds["network"] > 0
    assert seconds["maps"] == 0


def test_a_cpu_refuses_them_before_anything_runs_and_auto_does_without(trained, wsolfast, tmp_path):
    expected = evaluate(trained)

    def asked(wanted):
        recipe = parse_recipe(dump_recipe(trained.recipe), "tiny", [f"runtime.cuda_graphs={wanted}"])
        return evaluate(trained, recipe)

    written = (trained.eval_path("test") / "results.json").stat().st_mtime_ns
    with pytest.raises(BackendError, match="needs a CUDA device"):
        asked("on")
    assert (trained.eval_path("test") / "results.json").stat().st_mtime_ns == written
    assert asked("auto").metrics == expected.metrics
    code, _, err = wsolfast("eval", trained.path, "runtime.cuda_graphs=on")
    line = "error: runtime.cuda_graphs: needs a CUDA device, and the device is cpu; use auto or off"
    assert (code, err.splitlines()[-1]) == (4, line)
    with pytest.raises(RecipeError, match=r"runtime\.cuda_graphs: expected one of off, auto, on, got 'yes'"):
        asked("yes")


def test_single_images_are_localised_without(trained, tiny, tmp_path):
    from PIL import Image

    recipe = parse_recipe(dump_recipe(trained.recipe), "tiny", ["runtime.cuda_graphs=on"])
    trained.replace_recipe(recipe)
    Image.new("RGB", (48, 40), "red").save(tmp_path / "a.png")
    assert len(localize(trained, [tmp_path / "a.png"], tmp_path / "out").images) == 1


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_backbone_within_a_recorded_step(tiny, monkeypatch, backend):
    """Traced for real; generating code from that is left to torch."""
    recipe, recorder = tiny(), Recorder()
    dataset, compile_ = open_eval_data(recipe, "test"), torch.compile
    torch._dynamo.reset()
    traced = []

    def with_backend(function, **options):
        def counted(graph, inputs):
            traced.append(graph)
            return torch._dynamo.lookup_backend(backend)(graph, inputs)

        return compile_(function, backend=counted, **options)

    monkeypatch.setattr(torch, "compile", with_backend)
    found = []
    for options in ({}, {"compiled": True}, {"compiled": True, "graphs": "on", "capture": recorder}):
        torch.manual_seed(1)
        predictor = prediction(recipe, **options)
        batches = stream(dataset, BATCHES, predictor, device=CPU, backbones=predictor.backbones, pad=3)
        found.append([tuple(one.clone() for one in batch) for batch in batches])
    assert len(traced) == 2
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    for other in found[1:]:
        for one, mine in zip(found[0], other, strict=True):
            # The same kernels of the same library; aot_eager may take convolutions apart, which rounds otherwise.
            torch.testing.assert_close(mine, one, rtol=0, atol=0 if backend == "eager" else 1e-5)
    torch._dynamo.reset()


@pytest.mark.cuda
@pytest.mark.parametrize("overrides", [(), ("evaluate.ten_crop=true",)])
@pytest.mark.parametrize("options", [{}, {"channels_last": True, "amp": "bf16"}])
def test_a_gpu_replays_the_bits_of_the_same_kernels(tiny, overrides, options):
    recipe, device, found = tiny(*overrides), torch.device("cuda"), []
    dataset = open_eval_data(recipe, "test")
    for graphs in ("off", "on"):
        torch.manual_seed(1)
        crop = 32 if recipe.evaluate.ten_crop else None
        predictor = prediction(recipe, device=device, crop=crop, graphs=graphs, **options)
        stopwatch = Stopwatch()
        given = {"device": device, "backbones": predictor.backbones, "threads": 3, "pad": 3, "stopwatch": stopwatch}
        # So many that batches are in flight while others are decoded.
        found.append(list(stream(dataset, BATCHES * 8, predictor, **given)))
        assert stopwatch.take()["network"] > 0
    for plain, replayed in zip(*found, strict=True):
        for one, other in zip(plain, replayed, strict=True):
            assert torch.equal(one, other)
