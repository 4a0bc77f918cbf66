"""Networks as graphs: what they say is what the method says."""

import pytest
import torch

from wsolfast import backbones, methods
from wsolfast.engine.run.errors import RunError
from wsolfast.export.graph import export_program, output_names, write_onnx, write_program

DANET_LEVELS = "danet, three levels"
SIZE = (48, 64)
CLASSES = 5
# Logits and maps are sums in another order; a value of SCG's coarse map that meets a threshold to the last digit may
# fall on its other side, which these weights do not show.
ATOL = 1e-4


def method_of(name):
    """A method, and what it is asked for behind a comma: how it pools, or DANet's levels."""
    torch.manual_seed(1)
    kind, _, how = name.partition(", ")
    options = {"level_sizes": (3, 2)} if name == DANET_LEVELS else {"pool": how} if how else {}
    method = methods.get_stage(kind)(backbones.build("small", layout="stride8"), CLASSES, **options)
    if name == DANET_LEVELS:
        method.set_parents(torch.tensor([[0, 0, 1, 2, 2], [0, 0, 0, 1, 1]]))
    for module in method.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
    return method.eval()


def images(count):
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8)


def wanted(method, image, topk):
    with torch.no_grad():
        found = method.localize(image, topk=topk)
    return [getattr(found, name) for name in output_names(method)]


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), other, rtol=1e-4, atol=ATOL)


@pytest.mark.parametrize(
    "name",
    [
        *("cam", "cam, tap", "adl, tap", "eil", "i2c", "bas", "danet", DANET_LEVELS),
        *("spa", "csoa", "nl_ccam", "ci_cam", "spol.cam", "spol.seg"),
    ],
)
def test_programs_and_onnx_models_say_what_the_method_says(name, tmp_path):
    method = method_of(name)
    program = export_program(method, SIZE, topk=CLASSES)
    write_program(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2")
    assert not [node for node in again.graph.nodes if "wsolfast" in str(node.target)]
    for count in (1, 3):
        image = images(count)
        with torch.no_grad():
            assert_same(again.module()(image), wanted(method, image, CLASSES))
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra 'export'")
    pytest.importorskip("onnxscript", reason="needs onnxscript, of the extra 'export'")
    write_onnx(program, tmp_path / "model.onnx", output_names(method), class_names=["a"])
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == output_names(method)
    assert session.get_modelmeta().custom_metadata_map["class_names"] == '["a"]'
    for count in (1, 3):
        image = images(count)
        assert_same(session.run(None, {"image": image.numpy()}), wanted(method, image, CLASSES))


def test_a_graph_of_fixed_batch_takes_no_other():
    method = method_of("cam")
    program = export_program(method, SIZE, batch=2).module()
    assert_same(program(images(2) * 0), wanted(method, images(2) * 0, 1))
    with pytest.raises((AssertionError, RuntimeError), match="image"):
        program(images(3))


def test_a_method_that_reads_values_is_one_line():
    class Reads(type(method_of("cam"))):
        def localize(self, image, label=None, topk=1, *, ranking=None):
            if image.float().mean() > 3:
                return super().localize(image, label, topk)
            return super().localize(255 - image, label, topk)

    with pytest.raises(RunError, match=r"torch\.export: Reads cannot be written as a graph: [^\n]+$"):
        export_program(Reads(backbones.build("small", layout="stride8"), CLASSES), SIZE)
