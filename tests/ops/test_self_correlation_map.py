import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from wsolfast import ops
from wsolfast.ops import CorrelationRule
from wsolfast.reference import self_correlation_map as reference
from wsolfast.testing import OP_CASES, assert_close, seeded
from wsolfast.testing.cases.self_correlation_map import coarse_cam, layer

needs_kernel = pytest.mark.skipif(ops.extension_status() is not None, reason="the reference keeps whole matrices")

PRINTED = {"rtol": 0, "atol": 1.1e-6}  # the specification prints six decimals

# The specification's two examples, one row per position.
STAR = torch.tensor([[1.0, 0], [1, 1], [0, 1], [1, -1]], dtype=torch.float64)
SKEW = torch.tensor([[1, 0, 0.2], [0.8, 0.3, 0.1], [0.1, 1, 0.3], [0.2, 0.7, 1]], dtype=torch.float64)
CAM = torch.tensor([1, 0.5, 0.05, 0], dtype=torch.float64).view(1, 1, 2, 2)


def as_features(rows):
    return rows.T.reshape(1, -1, 2, 2).contiguous()


def columns(*values):
    return torch.tensor(values, dtype=torch.float64).T


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_values_of_the_specification_head():
    kept = reference.cut_below(reference.similarity(as_features(STAR)).relu(), 0.1)
    first, second = reference.first_order_head(kept), reference.second_order_head(kept, 0.5)
    torch.testing.assert_close(
        first[0],
        columns(
            (0.414212, 0.292892, 0, 0.292892),
            (0.292892, 0.414212, 0.292892, 0),
            (0, 0.414211, 0.585783, 0),
            (0.414211, 0, 0, 0.585783),
        ),
        **PRINTED,
    )
    torch.testing.assert_close(
        second[0],
        columns((0.749999, 0, 0.250001, 0), (0, 0.749999, 0, 0.250001), (0.5, 0, 0.5, 0), (0, 0.5, 0, 0.5)),
        **PRINTED,
    )
    both = reference.layer_correlation(
        reference.similarity(as_features(STAR)), "head", False, 0.1, 0.5, 2.0, "max", 0.0
    )
    torch.testing.assert_close(
        both[0],
        columns(
            (0.580094, 0.113270, 0.193366, 0.113270),
            (0.113270, 0.580094, 0.113270, 0.193366),
            (0.414214, 0.171572, 0.414214, 0),
            (0.171572, 0.414214, 0, 0.414214),
        ),
        **PRINTED,
    )
    skew = reference.cut_below(reference.similarity(as_features(SKEW)).relu(), 0.1)
    torch.testing.assert_close(
        reference.second_order_head(skew, 0.5)[0],
        rows(
            (0.398443, 0, 0.282945, 0.200709),
            (0, 0.490622, 0.233444, 0.303225),
            (0.280696, 0.177267, 0.380404, 0),
            (0.221282, 0.255890, 0, 0.403199),
        ),
        **PRINTED,
    )


def test_values_of_the_specification_v0():
    kept = reference.cut_below(reference.similarity(as_features(STAR)).relu(), 0.1)
    expected = torch.eye(4, dtype=torch.float64)
    expected[0, 2] = expected[1, 3] = 1
    torch.testing.assert_close(reference.second_order_v0(kept, 0.5)[0], expected, **PRINTED)
    first = reference.layer_correlation(
        reference.similarity(as_features(STAR)), "v0", False, 0.1, 0.5, 2.0, "first", 0.0
    )
    near = math.sqrt(0.5)
    torch.testing.assert_close(
        first[0], rows((1, near, 0, near), (near, 1, near, 0), (0, near, 1, 0), (near, 0, 0, 1)), **PRINTED
    )
    skew = reference.cut_below(reference.similarity(as_features(SKEW)).relu(), 0.1)
    expected = torch.eye(4, dtype=torch.float64)
    expected[0, 2], expected[1, 3], expected[2, 0] = 0.711170, 0.609205, 0.590985
    torch.testing.assert_close(reference.second_order_v0(skew, 0.5)[0], expected, **PRINTED)


def test_values_of_the_specification_paper():
    star, skew = reference.similarity(as_features(STAR)), reference.similarity(as_features(SKEW))
    torch.testing.assert_close(
        reference.second_order_paper(skew, False, 0.0)[0],
        rows(
            (1, 0, 0.590985, 0.408889),
            (0, 1, 0.261481, 0.417561),
            (0.711170, 0.398984, 1, 0),
            (0.424118, 0.609205, 0, 1),
        ),
        **PRINTED,
    )
    identity = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(reference.second_order_paper(star, False, 0.0)[0], identity, **PRINTED)
    cut_first = identity.clone()
    cut_first[0, 2] = cut_first[1, 3] = 0.5
    cut_first[2, 0] = cut_first[3, 1] = 1
    torch.testing.assert_close(reference.second_order_paper(star, True, 0.0)[0], cut_first, **PRINTED)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("head", (0.607883, 0.473331, 0, 0.023086)), ("v0", (0.646447, 0.646447, 0, 0))],
)
def test_maps_of_the_specification(variant, expected):
    """In float64 only: the symmetric example makes both sums equal but for the epsilons of the column sums."""
    actual = ops.self_correlation_map(as_features(STAR), CAM, CorrelationRule(variant))
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected, dtype=torch.float64), **PRINTED)


def similarity_by_loop(features):
    """[P][P] cosines of one image's features [C, h, w]."""
    vectors = features.flatten(1).T.tolist()
    unit = []
    for vector in vectors:
        norm = math.sqrt(sum(x * x for x in vector)) + 1e-10
        unit.append([x / norm for x in vector])
    return [[sum(a * b for a, b in zip(x, y, strict=True)) for y in unit] for x in unit]


def correlation_by_loop(features, variant, relu_first, fo_th, so_th, so_weight, mode, eps):
    s = similarity_by_loop(features)
    size = range(len(s))

    def scaled_columns(matrix, epsilon, shift=False):
        out = [[0.0] * len(s) for _ in size]
        for j in size:
            column = [matrix[i][j] for i in size]
            low = min(column) if shift else 0.0
            total = max(column) - low if shift else sum(column)
            for i in size:
                out[i][j] = (matrix[i][j] - low) / (total + epsilon)
        return out

    def product(left, right):
        return [[sum(left[i][k] * right[k][j] for k in size) for j in size] for i in size]

    if variant == "paper":
        base = [[max(x, 0) for x in row] for row in s] if relu_first else s
        first = [[max(x, 0) for x in row] for row in s]
        second = []
        for i in size:
            row = [sum(base[i][k] * base[k][j] for k in size if k not in (i, j)) / len(s) for j in size]
            span = max(row) - min(row) + eps
            second.append([(x - min(row)) / span if span else 0.0 for x in row])
        so_weight = 1.0
    else:
        kept = [[x if x >= fo_th and x > 0 else 0.0 for x in row] for row in s]
        hollow = [[0.0 if i == j else kept[i][j] for j in size] for i in size]
        if variant == "head":
            first = scaled_columns(kept, 1e-5)
            step = scaled_columns(hollow, 1e-5)
            second = scaled_columns(product(step, step), 1e-10)
            smallest = so_th / len(s)
        else:
            first = kept
            second = scaled_columns(product(hollow, hollow), 1e-10, shift=True)
            smallest = so_th
        second = [[x if x >= smallest else 0.0 for x in row] for row in second]
    if mode != "max":
        return first if mode == "first" else second
    both = [[max(first[i][j], so_weight * second[i][j]) for j in size] for i in size]
    return both if variant == "paper" else scaled_columns(both, 1e-10)


def map_by_loop(layers, cam, variant, relu_first, fo_th, so_th, so_weight, mode, delta_h, delta_l, post, eps):
    """One image's maps: layers of [C, h, w], cam [K, h, w]."""

    def stretched(values):
        low, high = min(values), max(values)
        return [(x - low) / (high - low + 1e-10) for x in values]

    matrices = [correlation_by_loop(f, variant, relu_first, fo_th, so_th, so_weight, mode, eps) for f in layers]
    size = range(cam[0].numel())
    summed = [[sum(matrix[i][j] for matrix in matrices) for j in size] for i in size]
    own_map = summed if variant == "paper" else [[summed[i][j] for i in size] for j in size]
    out = torch.zeros_like(cam)
    for k, scores in enumerate(cam.flatten(1).tolist()):
        sides = []
        for above in (True, False):
            if post == "paper":
                chosen = [j for j in size if (scores[j] > delta_h if above else scores[j] < delta_l)]
                sides.append([sum(own_map[j][i] for j in chosen) / max(len(chosen), 1) for i in size])
            else:
                chosen = [j for j in size if (scores[j] >= delta_h if above else scores[j] <= delta_l)]
                sides.append(stretched([sum(stretched(own_map[j])[i] for j in chosen) for i in size]))
        difference = [max(inside - outside, 0.0) for inside, outside in zip(*sides, strict=True)]
        values = difference if post == "paper" else stretched(difference)
        out[k] = torch.tensor(values, dtype=cam.dtype).view_as(out[k])
    return out


LOOPED = [
    case
    for case in OP_CASES["self_correlation_map"]
    if not any(word in case.name for word in ("not_a_number", "empty_batch", "no_class"))
]


@pytest.mark.parametrize("case", LOOPED, ids=lambda case: case.name)
def test_reference_agrees_with_loops(case):
    features, cam, *options = case.make_inputs("cpu", torch.float64)
    actual = reference.self_correlation_map(features, cam, *options)
    for n in range(cam.shape[0]):
        expected = map_by_loop([f[n] for f in features], cam[n], *options[:-1])
        assert_close(actual[n], expected)


def test_cases_do_not_all_lead_to_nothing():
    """A case whose map is zero proves little: all but the degenerate ones must show something."""
    degenerate = ("all_zero", "constant", "one_by_one", "one_channel", "empty_batch", "no_class", "not_a_number")
    for case in OP_CASES["self_correlation_map"]:
        if not any(word in case.name for word in degenerate):
            features, cam, *options = case.make_inputs("cpu", torch.float64)
            assert (reference.self_correlation_map(features, cam, *options) > 0.01).any(), case.name


def test_one_layer_may_be_given_as_a_tensor():
    features, cam = layer((2, 5, 4, 3), "cpu", torch.float32), coarse_cam((2, 2, 4, 3), "cpu", torch.float32)
    assert torch.equal(ops.self_correlation_map(features, cam), ops.self_correlation_map([features], cam))


def test_images_and_classes_do_not_mix():
    features, cam = layer((3, 5, 4, 3), "cpu", torch.float64), coarse_cam((3, 2, 4, 3), "cpu", torch.float64)
    rule = CorrelationRule(delta_h=0.5, delta_l=0.3)
    together = ops.self_correlation_map(features, cam, rule)
    for n in range(3):
        for k in range(2):
            alone = ops.self_correlation_map(features[n : n + 1], cam[n : n + 1, k : k + 1], rule)
            assert_close(together[n, k], alone[0, 0])


@pytest.mark.parametrize("variant", ["head", "v0", "paper"])
def test_scale_of_the_features_does_not_matter(variant):
    features, cam = layer((1, 8, 5, 5), "cpu", torch.float64), coarse_cam((1, 1, 5, 5), "cpu", torch.float64)
    scales = 1 + seeded((1, 1, 5, 5), dtype=torch.float64).abs()
    small = ops.self_correlation_map(features, cam, CorrelationRule(variant))
    # In float64; norms have an epsilon, which the scale moves against them.
    assert_close(ops.self_correlation_map(features * scales, cam, CorrelationRule(variant)), small, tolerance=1e-7)


@pytest.mark.parametrize("variant", ["head", "v0", "paper"])
@pytest.mark.parametrize("post", ["released", "paper"])
def test_empty_sets_give_zero(variant, post):
    features = layer((1, 5, 4, 3), "cpu", torch.float32)
    nothing = torch.full((1, 1, 4, 3), 0.3)
    rule = CorrelationRule(variant, post=post, delta_h=0.5, delta_l=0.1)
    refined = ops.self_correlation_map(features, nothing, rule)
    assert torch.equal(refined, torch.zeros_like(nothing))


def test_position_on_a_threshold_belongs_to_the_released_set_only():
    features = layer((1, 5, 4, 3), "cpu", torch.float64)
    cam = torch.full((1, 1, 4, 3), 0.25, dtype=torch.float64)
    cam[0, 0, 0, 0] = 0.75
    rule = CorrelationRule(delta_h=0.75, delta_l=0.1)
    assert ops.self_correlation_map(features, cam, rule).any()
    assert not ops.self_correlation_map(features, cam, replace(rule, post="paper")).any()


def test_not_finite_feature_spoils_its_image_and_not_finite_cam_its_map():
    features, cam = layer((3, 5, 4, 3), "cpu", torch.float32), coarse_cam((3, 2, 4, 3), "cpu", torch.float32)
    features[0, 2, 1, 1] = torch.inf
    cam[1, 0, 2, 2] = torch.nan
    refined = ops.self_correlation_map(features, cam)
    assert refined[0].isnan().all()
    assert refined[1, 0].isnan().all()
    assert refined[1, 1].isfinite().all()
    assert refined[2].isfinite().all()


def test_backward_says_why_it_cannot():
    features = layer((1, 5, 4, 3), "cpu", torch.float32).requires_grad_()
    refined = ops.self_correlation_map(features, coarse_cam((1, 1, 4, 3), "cpu", torch.float32))
    with pytest.raises(RuntimeError, match="self_correlation_map is not differentiable"):
        refined.sum().backward()


def test_fullgraph_compile_sees_the_op():
    features, cam = layer((1, 5, 4, 3), "cpu", torch.float32), coarse_cam((1, 1, 4, 3), "cpu", torch.float32)
    compiled = torch.compile(
        lambda features, cam: ops.self_correlation_map([features, 2 * features], cam).amax(),
        fullgraph=True,
        backend="aot_eager",
    )
    assert torch.equal(compiled(features, cam), ops.self_correlation_map([features, 2 * features], cam).amax())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    features = layer((2, 5, 4, 3), "cpu", torch.float32).to(dtype)
    cam = coarse_cam((2, 2, 4, 3), "cpu", torch.float32).to(dtype)
    expected = ops.self_correlation_map(features.float(), cam.float()).to(dtype)
    assert torch.equal(ops.self_correlation_map(features, cam), expected)


def test_mixed_precisions_meet_in_the_wider_one():
    features, cam = layer((1, 5, 4, 3), "cpu", torch.float32), coarse_cam((1, 1, 4, 3), "cpu", torch.float64)
    refined = ops.self_correlation_map(features.bfloat16(), cam)
    assert torch.equal(refined, ops.self_correlation_map(features.bfloat16().double(), cam))


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.zeros(1, 2, 3), {}, r"features of shape \[N, C, h, w\] with C > 0, got torch.float32 \[1, 2, 3\]"),
        (torch.zeros(1, 0, 4, 3), {}, "with C > 0"),
        (torch.zeros(1, 2, 4, 3).int(), {}, "floating-point features"),
        (torch.zeros(1, 2, 8, 6), {}, r"\[1, 2, 8, 6\] and cam \[1, 1, 4, 3\] differ in N or h x w"),
        ([], {}, "at least one layer"),
        (torch.zeros(1, 2, 4, 3), {"precision": "half"}, "precision in"),
    ],
)
def test_bad_input_is_named(features, options, message):
    with pytest.raises(ValueError, match=message):
        ops.self_correlation_map(features, torch.zeros(1, 1, 4, 3), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "tail"}, "variant must be one of 'head', 'v0', 'paper', got 'tail'"),
        ({"mode": "third"}, "mode must be one of 'max', 'first', 'second'"),
        ({"post": "none"}, "post must be one of"),
        ({"relu_first": "no"}, "relu_first must be one of True, False"),
        ({"fo_th": math.nan}, "fo_th must be a finite number, got nan"),
        ({"so_weight": "2"}, "so_weight must be a finite number, got '2'"),
        ({"delta_h": True}, "delta_h must be a finite number, got True"),
    ],
)
def test_bad_rule_is_named(options, message):
    with pytest.raises(ValueError, match=f"CorrelationRule: {message}"):
        CorrelationRule(**options)


def test_bad_cam_is_named():
    with pytest.raises(ValueError, match=r"floating-point cam of shape \[N, K, h, w\], got torch.int64 \[1, 4, 3\]"):
        ops.self_correlation_map(torch.zeros(1, 2, 4, 3), torch.zeros(1, 4, 3).long())


def maps_of_few(features, cam, variant, fo_th, so_th, so_weight, delta_h, delta_l):
    """Released maps of one image and class, from the correlation columns of the selected positions alone."""
    scores = cam.flatten()
    chosen = ((scores >= delta_h) | (scores <= delta_l)).nonzero()[:, 0]
    kept = reference.similarity(features)[0].relu()
    if variant == "paper":
        hollow = kept.clone()
        hollow.fill_diagonal_(0)
        paths = hollow @ hollow[:, chosen] / len(kept)
        second = (paths - paths.amin(0)) / (paths.amax(0) - paths.amin(0))
        columns = torch.maximum(kept[:, chosen], second)
    else:
        kept[kept < fo_th] = 0
        first = kept[:, chosen]
        hollow = kept.clone()
        hollow.fill_diagonal_(0)
        if variant == "head":
            first = first / (kept.sum(0)[chosen] + 1e-5)
            reciprocal = 1 / (hollow.sum(0) + 1e-5)
            second = hollow @ (reciprocal[:, None] * hollow[:, chosen]) * reciprocal[chosen]
            second = second / (second.sum(0) + 1e-10)
            second[second < so_th / len(kept)] = 0
        else:
            second = hollow @ hollow[:, chosen]
            second = (second - second.amin(0)) / (second.amax(0) - second.amin(0) + 1e-10)
            second[second < so_th] = 0
        columns = torch.maximum(first, so_weight * second)
        columns = columns / (columns.sum(0) + 1e-10)
    columns = reference.stretch(columns.T)
    inside = reference.stretch(columns[scores[chosen] >= delta_h].sum(0))
    outside = reference.stretch(columns[scores[chosen] <= delta_l].sum(0))
    return reference.stretch((inside - outside).relu()).view_as(cam)


@needs_kernel
@pytest.mark.parametrize("variant", ["head", "v0", "paper"])
@pytest.mark.parametrize("signed", [False, True])
def test_map_too_large_for_one_matrix_is_the_same(variant, signed):
    """54 x 54 positions are 68 MB of float64, above what the CPU kernel keeps at once."""
    features = layer((1, 3, 54, 54), "cpu", torch.float64, signed=signed) + 0.01
    cam = torch.full((1, 1, 54, 54), 0.3, dtype=torch.float64)
    cam[0, 0, 20:22, 30:33], cam[0, 0, 50, ::9] = 0.9, 0.01
    thresholds = {"fo_th": 0.2, "so_th": 0.3, "so_weight": 1.5, "delta_h": 0.5, "delta_l": 0.1}
    actual = ops.self_correlation_map(features, cam, CorrelationRule(variant, relu_first=True, **thresholds))
    assert_close(actual, maps_of_few(features, cam, variant, **thresholds), tolerance=1e-9)


MEMORY_PROBE = """
import resource
import torch
from wsolfast import ops

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.set_num_threads(1)
torch.mm(torch.rand(64, 64), torch.rand(64, 64))
before = peak()
features = torch.rand(1, 4, 112, 112)
cam = torch.full((1, 1, 112, 112), 0.3)
cam[0, 0, 40, 40:44], cam[0, 0, 90, :4] = 1, 0
for rule in (ops.CorrelationRule("paper"), ops.CorrelationRule("head", delta_h=0.5)):
    assert ops.self_correlation_map(features, cam, rule).isfinite().all()
print(peak() - before)
"""


@needs_kernel
def test_large_map_never_needs_a_whole_matrix():
    """112 x 112 positions would be 629 MB a matrix; the paper's variant maps all of them, the other eight."""
    done = subprocess.run([sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150


@pytest.mark.parametrize("images", [1, 3])
def test_threads_do_not_change_the_maps(images):
    features = layer((images, 20, 13, 12), "cpu", torch.float64)
    cam = coarse_cam((images, 2, 13, 12), "cpu", torch.float64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = ops.self_correlation_map(features, cam)
        torch.set_num_threads(2)
        shared = ops.self_correlation_map(features, cam)
        again = ops.self_correlation_map(features, cam)
    finally:
        torch.set_num_threads(threads)
    assert_close(shared, alone)
    assert torch.equal(shared, again)
