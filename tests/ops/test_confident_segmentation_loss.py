"""``confidence_mask`` and ``confident_segmentation_loss`` against numbers worked by hand and loops in float64."""

import math

import pytest
import torch

from wsolfast import ops
from wsolfast.reference.confident_segmentation_loss import confident_segmentation_loss as reference
from wsolfast.testing import assert_close, seeded

F64 = {"dtype": torch.float64}


def mask_by_loop(one):
    """The equations as printed, of one map."""
    values = one.flatten().tolist()
    centre = sum(values) / len(values)
    spread = sum(abs(x - centre) for x in values) / len(values)
    return [[float(abs(x - centre) > spread) for x in row] for row in one.tolist()]


def loss_by_loop(late, early, reduction):
    total = 0.0
    for teacher, pupil in zip(late, early, strict=True):
        rows = zip(mask_by_loop(teacher), teacher.tolist(), pupil.tolist(), strict=True)
        one = sum(m * abs(b - a) for masks, x, y in rows for m, a, b in zip(masks, x, y, strict=True))
        total += one / teacher.numel() if reduction == "mean" else one
    return total / len(late)


class TestMask:
    def test_golden(self):
        late = torch.tensor([[[0.0, 1.0], [2.0, 5.0]]], **F64)
        assert ops.confidence_mask(late).tolist() == [[[1, 0], [0, 1]]]

    def test_every_map_has_its_own_statistics(self):
        maps = seeded((4, 5, 7), **F64)
        for mask, one in zip(ops.confidence_mask(maps), maps, strict=True):
            assert mask.tolist() == mask_by_loop(one)

    @pytest.mark.parametrize(("scale", "shift"), [(4.0, 0.0), (-0.5, 0.0), (2.0, 3.0)])
    def test_mask_survives_an_affine_map(self, scale, shift):
        maps = seeded((3, 6, 4), **F64)
        assert torch.equal(ops.confidence_mask(maps), ops.confidence_mask(scale * maps + shift))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("value", [0.7, 1e-30, 3e30])
    def test_no_constant_map_is_confident(self, value, dtype):
        assert ops.confidence_mask(torch.full((2, 7, 9), value, dtype=dtype)).sum() == 0

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_equal_deviations_are_equal(self, dtype):
        """Of two values of float32 in equal numbers none deviates more than values do on average."""
        maps = torch.tensor([0.1, 0.3]).to(dtype).repeat(14, 7)[None]
        assert ops.confidence_mask(maps).sum() == 0
        maps[0, 3, 5] = 0.9
        assert ops.confidence_mask(maps).nonzero().tolist() == [[0, 3, 5]]

    def test_share_of_normal_noise(self):
        """P(|x| > E|x|), E|x| = sqrt(2/pi)."""
        share = ops.confidence_mask(seeded((40, 28, 28))).mean().item()
        assert share == pytest.approx(math.erfc(1 / math.sqrt(math.pi)), abs=0.01)

    def test_a_mask_has_no_gradient_and_is_at_least_float32(self):
        for dtype, wide in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64,) * 2):
            mask = ops.confidence_mask(seeded((2, 3, 4)).to(dtype).requires_grad_())
            assert mask.dtype == wide
            assert not mask.requires_grad

    @pytest.mark.parametrize("maps", [torch.zeros(3), torch.zeros(2, 0, 3), torch.zeros(2, 3, 3, dtype=torch.int64)])
    def test_bad_input_is_named(self, maps):
        with pytest.raises(ValueError, match=r"confidence_mask: expected floating-point maps of shape \[..., h, w\]"):
            ops.confidence_mask(maps)


class TestLoss:
    def test_golden(self):
        late = torch.tensor([[[0.0, 1.0], [2.0, 5.0]]], **F64)
        loss, mask = ops.confident_segmentation_loss(late, torch.ones_like(late))
        assert loss == 5
        assert torch.equal(mask, ops.confidence_mask(late))
        assert ops.confident_segmentation_loss(late, torch.ones_like(late), reduction="mean")[0] == 1.25

    @pytest.mark.parametrize("reduction", ["sum", "mean"])
    def test_loop(self, reduction):
        late, early = seeded((3, 5, 4), **F64), seeded((3, 5, 4), seed=1, **F64)
        loss, _ = ops.confident_segmentation_loss(late, early, reduction=reduction)
        assert loss.item() == pytest.approx(loss_by_loop(late, early, reduction), rel=1e-12)

    def test_constant_maps_and_empty_batches_cost_nothing(self):
        constant = torch.full((2, 4, 4), 0.7)
        assert ops.confident_segmentation_loss(constant, torch.zeros(2, 4, 4))[0] == 0
        empty = torch.zeros(0, 4, 4, requires_grad=True)
        for reduction in ("sum", "mean"):
            loss, mask = ops.confident_segmentation_loss(empty, empty, reduction=reduction)
            assert loss == 0
            assert mask.shape == (0, 4, 4)
        loss.backward()
        assert empty.grad.shape == (0, 4, 4)

    def test_gradients(self):
        late, early = seeded((2, 3, 4), **F64).requires_grad_(), seeded((2, 3, 4), seed=1, **F64).requires_grad_()
        loss, mask = ops.confident_segmentation_loss(late, early)
        assert not mask.requires_grad
        (3 * loss).backward()
        assert late.grad is None
        assert_close(early.grad, 3 * (early - late).detach().sign() * mask / 2)
        both = ops.confident_segmentation_loss(late, early, detach_teacher=False)[0]
        (of_teacher,) = torch.autograd.grad(both, late)
        assert_close(of_teacher, -early.grad / 3)

    def test_gradient_agrees_with_autograd_through_the_reference(self):
        mine, theirs = ([seeded((2, 4, 5), seed=seed, **F64).requires_grad_() for seed in (0, 1)] for _ in range(2))
        ops.confident_segmentation_loss(*mine, detach_teacher=False, reduction="mean")[0].backward()
        reference(*theirs, 1 / 40)[0].backward()
        for a, b in zip(mine, theirs, strict=True):
            assert_close(a.grad, b.grad)

    def test_equal_maps_do_not_pull(self):
        late = seeded((2, 3, 4))
        early = late.clone().requires_grad_()
        loss, mask = ops.confident_segmentation_loss(late, early)
        loss.backward()
        assert loss == 0
        assert mask.sum() > 0
        assert early.grad.abs().sum() == 0

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    @pytest.mark.parametrize("side", [0, 1])
    def test_what_is_not_finite_is_not_hidden_by_the_mask(self, side, value):
        maps = [seeded((2, 3, 4), seed=seed) for seed in (0, 1)]
        maps[side][1, 0, 2] = value
        early = maps[1].requires_grad_()
        loss, _ = ops.confident_segmentation_loss(maps[0], early)
        loss.backward()
        assert loss.isnan()
        assert early.grad.isnan().nonzero().tolist() == [[1, 0, 2]]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, dtype):
        late, early = seeded((2, 5, 4)).to(dtype), seeded((2, 5, 4), seed=1).to(dtype).requires_grad_()
        loss, mask = ops.confident_segmentation_loss(late, early)
        loss.backward()
        assert (loss.dtype, mask.dtype, early.grad.dtype) == (torch.float32, torch.float32, dtype)
        wide = ops.confident_segmentation_loss(late.float(), early.detach().float())
        assert all(torch.equal(a, b) for a, b in zip((loss, mask), wide, strict=True))

    def test_fullgraph_compile_sees_loss_and_gradient(self):
        def gradient(function):
            early = seeded((2, 3, 4), seed=1).requires_grad_()
            loss, mask = function(seeded((2, 3, 4)), early)
            (2 * loss + mask.sum()).backward()
            return early.grad

        compiled = torch.compile(ops.confident_segmentation_loss, fullgraph=True, backend="aot_eager")
        assert torch.equal(gradient(compiled), gradient(ops.confident_segmentation_loss))

    @pytest.mark.parametrize(
        ("arguments", "options", "message"),
        [
            (
                (torch.zeros(3, 4), torch.zeros(3, 4)),
                {},
                r"late maps of shape \[N, h, w\] with h, w > 0, got .* \[3, 4\]",
            ),
            ((torch.zeros(1, 0, 4), torch.zeros(1, 0, 4)), {}, "h, w > 0"),
            ((torch.zeros(1, 3, 4), torch.zeros(1, 4, 3)), {}, r"like the late ones, torch.float32 \[1, 3, 4\], got"),
            ((torch.zeros(1, 3, 4), torch.zeros(1, 3, 4, **F64)), {}, "got torch.float64"),
            ((torch.zeros(1, 3, 4),) * 2, {"reduction": "none"}, "expected reduction in"),
        ],
    )
    def test_bad_input_is_named(self, arguments, options, message):
        with pytest.raises(ValueError, match=message):
            ops.confident_segmentation_loss(*arguments, **options)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_on_a_gpu_as_on_a_cpu(dtype):
    late, early = (seeded((48, 28, 28), seed=seed).to(dtype) for seed in (0, 1))
    found = []
    for device in ("cuda", "cpu"):
        pupil = early.detach().to(device).requires_grad_()
        loss, mask = ops.confident_segmentation_loss(late.to(device), pupil, reduction="mean")
        loss.backward()
        found.append((loss.detach().cpu(), mask.cpu(), pupil.grad.cpu()))
    (loss, mask, gradient), (expected_loss, expected_mask, expected_gradient) = found
    assert torch.equal(mask, expected_mask)
    assert_close(loss, expected_loss)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.cuda
def test_loss_and_gradient_in_a_graph():
    """Nothing waits for the device; the graph is replayed on other maps."""
    late, early = (seeded((4, 28, 28), "cuda", seed=seed) for seed in (0, 1))
    early.requires_grad_()

    def step():
        loss, mask = ops.confident_segmentation_loss(late, early)
        return loss.detach(), mask, *torch.autograd.grad(loss, early)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        late.copy_(seeded((4, 28, 28), seed=2))
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))
