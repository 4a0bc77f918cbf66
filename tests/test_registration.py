"""Properties of every op: opcheck, gradients, full-graph compilation, agreement with its reference."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from wsolfast import ops
from wsolfast.bench.gpu_check.smoke import compare
from wsolfast.ops import _registry
from wsolfast.testing import OP_CASES, assert_close, tolerance_on, with_gradients

ALL_CASES = [pytest.param(op, case, id=f"{op}-{case.name}") for op, cases in OP_CASES.items() for case in cases]


def overload(op):
    return getattr(torch.ops.wsolfast, op).default


def reference(op):
    return getattr(importlib.import_module(f"wsolfast.reference.{op}"), op)


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def wsolfast_has_cuda():
    """Return True if nvcc took part in the build: one CUDA kernel is there, so all must be."""
    return any(served["cuda"] == "csrc" for served in ops.backends().values())


def test_every_public_op_has_cases():
    public = {name for name in ops.backends() if not name.startswith("_")}
    assert public == set(OP_CASES)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("op", "case"), ALL_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_op_agrees_with_its_reference(op, case, dtype):
    inputs = case.make_inputs("cpu", dtype)
    for actual, expected in zip(as_tuple(overload(op)(*inputs)), as_tuple(reference(op)(*inputs)), strict=True):
        if actual.is_floating_point():
            assert_close(actual, expected)
        else:
            assert torch.equal(actual, expected)


@pytest.mark.cuda
@pytest.mark.parametrize(("op", "case"), ALL_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_op_on_cuda_agrees_with_its_reference(op, case, dtype):
    expected_outputs = as_tuple(reference(op)(*case.make_inputs("cpu", dtype)))
    for actual, expected in zip(
        as_tuple(overload(op)(*case.make_inputs("cuda", dtype))), expected_outputs, strict=True
    ):
        if actual.is_floating_point():
            assert_close(actual.cpu(), expected, tolerance_on("cuda", op, dtype))
        else:
            assert torch.equal(actual.cpu(), expected)


@pytest.mark.cuda
@pytest.mark.parametrize(("op", "case"), ALL_CASES)
def test_op_on_cuda_needs_no_host(op, case):
    """A captured graph, on a stream of its own, computes the same when it is replayed."""
    inputs = case.make_inputs("cuda", torch.float32)
    expected = as_tuple(overload(op)(*inputs))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = as_tuple(overload(op)(*inputs))
    for output in captured:
        output.fill_(1)
    graph.replay()
    torch.cuda.synchronize()
    for actual, wanted in zip(captured, expected, strict=True):
        assert actual.is_cuda
        assert torch.equal(actual.nan_to_num(nan=-1), wanted.nan_to_num(nan=-1))


def way_of_calling(value):
    """Arguments without their sizes and numbers."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.dim(), value.numel() == 0)
    if isinstance(value, list | tuple):
        return tuple(way_of_calling(item) for item in value)
    return value if isinstance(value, str | bool | None) else type(value)


def first_of_each_way():
    firsts = {
        (op, way_of_calling(case.make_inputs("cpu", torch.float64))): case.name
        for op, cases in OP_CASES.items()
        for case in reversed(cases)
    }
    return {(op, name) for (op, _), name in firsts.items()}


FIRSTS = first_of_each_way()


@pytest.mark.parametrize(("op", "case"), ALL_CASES)
def test_op_passes_opcheck(op, case):
    inputs = case.make_inputs("cpu", torch.float64)
    if case.differentiable:
        inputs, _ = with_gradients(inputs)
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    # Sizes are free in a graph: one of each way of calling is traced, without NaN, which the check calls unequal.
    outputs = as_tuple(overload(op)(*inputs))
    if (op, case.name) in FIRSTS and not any(x.is_floating_point() and x.isnan().any() for x in outputs):
        tests.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(overload(op), inputs, test_utils=tests)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize(("op", "case"), [parameter for parameter in ALL_CASES if parameter.values[1].differentiable])
def test_gradient_of_a_sum_is_that_of_the_reference(op, case, device):
    """The gradient that arrives is one number with strides of zero."""
    compare(op, case, device)


@pytest.mark.parametrize(("op", "case"), [parameter for parameter in ALL_CASES if parameter.values[1].differentiable])
def test_gradient_of_op_is_exact(op, case):
    inputs, leaves = with_gradients(case.make_inputs("cpu", torch.float64))
    values, tree = tree_flatten(inputs)

    def of_leaves(*changed):
        given = dict(zip(map(id, leaves), changed, strict=True))
        return overload(op)(*tree_unflatten([given.get(id(value), value) for value in values], tree))

    assert torch.autograd.gradcheck(of_leaves, leaves)


def test_backends_lists_every_op():
    table = ops.backends()
    assert "min_max_normalize" in table
    for served in table.values():
        assert served["cpu"] in ("csrc", "composite", "reference")
        assert served["cuda"] in ("csrc", "triton", "composite", "reference")


@pytest.mark.skipif(ops.extension_status() is not None, reason=f"compiled kernels: {ops.extension_status()}")
def test_compiled_kernels_serve_the_trivial_op():
    assert ops.backends()["min_max_normalize"]["cpu"] == "csrc"


# Their keys are in the binary whether or not torch knows CUDA.
ON_CUDA = sorted(
    op
    for path in (Path(__file__).parents[1] / "csrc" / "cuda").glob("*.cpp")
    for op in re.findall(r'm\.impl\("(\w+)"', path.read_text())
)


@pytest.mark.skipif(ops.extension_status() is not None, reason=f"compiled kernels: {ops.extension_status()}")
@pytest.mark.skipif(not wsolfast_has_cuda(), reason="the kernels were built without nvcc")
@pytest.mark.parametrize("op", ON_CUDA)
def test_cuda_kernels_register_on_any_torch(op):
    assert ops.backends()[op]["cuda"] == "csrc"


@pytest.mark.parametrize(("capability", "runs"), [((7, 5), False), ((8, 0), True), ((8, 9), True), ((12, 0), True)])
def test_a_device_that_is_too_old_is_named(monkeypatch, capability, runs):
    """Triton's launchers say it before they compile; those of csrc/cuda find no kernel for the device."""
    _registry.why_not_on.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old One")
    launch = _registry.lazy_launcher("an_op", "math:prod")
    values = torch.arange(1, 4)
    try:
        for given in (values, list(values)):
            if runs:
                assert launch(given) == 6
            else:
                with pytest.raises(RuntimeError, match=r"an_op: .* 8\.0 .* newer, Old One has 7\.5; .* on the CPU"):
                    launch(given)
    finally:
        _registry.why_not_on.cache_clear()


def test_fullgraph_compile_sees_the_op():
    compiled = torch.compile(lambda maps: ops.min_max_normalize(maps) * 2, fullgraph=True, backend="aot_eager")
    maps = torch.rand(2, 4, 5)
    assert_close(compiled(maps), ops.min_max_normalize(maps) * 2)
