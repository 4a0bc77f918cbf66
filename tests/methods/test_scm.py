import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.methods.scm import Diffusion, diffuse, transport
from wsolfast.testing import assert_close, seeded
from wsolfast.types import Batch, TrainState


def matrix_of(tokens, similarity):
    """T [N, P, P] as it is written: the grid's Laplacian times what cosines say, all entries of it."""
    height, width = tokens.shape[2:]
    places = [(y, x) for y in range(height) for x in range(width)]
    joined = torch.tensor([[float(abs(a - c) + abs(b - d) == 1) for c, d in places] for a, b in places]).to(tokens)
    laplacian = joined.sum(1).diag() - joined
    rows = tokens.flatten(2).mT
    cosine = functional.cosine_similarity(rows[:, :, None], rows[:, None], dim=3)
    return laplacian * (similarity * cosine - 1)


def newton_schulz(matrix, steps):
    """The released steps, two products of matrices each."""
    eye = torch.eye(matrix.shape[1]).to(matrix)
    found = 0.002 * matrix.mT
    for _ in range(steps):
        found = found @ (2 * eye - matrix @ found)
    return found


def loop(tokens, attention, steps, similarity=1.0, threshold=0.5):
    """A layer image by image, with the inverse as a matrix."""
    after_tokens, after_attention = [], []
    for x, c in zip(tokens, attention, strict=True):
        inverse = newton_schulz(matrix_of(x[None], similarity), steps)[0]
        u = (inverse.T @ c.flatten()).view_as(c)
        v = u / (threshold * c.max())
        v = v - v.tanh()
        gain = (v - v.min()) / (v.max() - v.min())
        after_tokens.append(x + x * gain)
        after_attention.append(c + gain)
    return torch.stack(after_tokens), torch.stack(after_attention)


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (1, 3, 1, 1), (1, 3, 1, 5), (2, 1, 3, 2), (0, 2, 2, 2)])
@pytest.mark.parametrize("similarity", [1.0, 0.3])
def test_the_matrix_joins_neighbours_by_their_likeness(shape, similarity):
    tokens = seeded(shape, dtype=torch.float64)
    assert_close(transport(tokens, torch.tensor(similarity, dtype=torch.float64)), matrix_of(tokens, similarity))


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (1, 3, 1, 1)])
@pytest.mark.parametrize("steps", [0, 1, 4, 5, 16])
def test_diffusion_is_the_released_newton_schulz(shape, steps):
    tokens = seeded(shape, dtype=torch.float64)
    attention = seeded((shape[0], *shape[2:]), dtype=torch.float64)
    matrix = matrix_of(tokens, 0.7)
    expected = newton_schulz(matrix, steps).mT @ attention.flatten(1)[..., None]
    # 2^16 powers of a matrix whose largest eigenvalue is 1 lose up to four digits.
    torch.testing.assert_close(diffuse(matrix, attention.flatten(1)[..., None], steps), expected, rtol=1e-9, atol=1e-10)


def test_neither_four_nor_sixteen_steps_invert():
    """Of random tokens on the 14 x 14 grid, as the released constants have it."""
    tokens = seeded((1, 384, 14, 14), dtype=torch.float64)
    matrix = transport(tokens, torch.ones((), dtype=torch.float64))
    eye = torch.eye(196, dtype=torch.float64)
    four, sixteen = (diffuse(matrix, eye, steps)[0].T for steps in (4, 16))
    matrix = matrix[0]
    # Sixteen times the start, within 14 %.
    scaled = 2**4 * 0.002 * matrix.T
    assert 0.1 < (four - scaled).norm() / scaled.norm() < 0.14
    assert (matrix @ sixteen - eye).abs().max() == pytest.approx(0.12, abs=0.01)  # two digits are known


@pytest.mark.parametrize("steps", [4, 16])
def test_gradients_run_through_all_steps(steps):
    layer = Diffusion(steps).double()
    tokens = seeded((2, 4, 3, 4), dtype=torch.float64).requires_grad_()
    attention = seeded((2, 3, 4), dtype=torch.float64).sigmoid().requires_grad_()
    expected = loop(tokens, attention, steps, layer.similarity, layer.threshold)
    found = layer(tokens, attention)
    inputs = (tokens, attention, layer.similarity, layer.threshold)
    pulls = [seeded(one.shape, dtype=torch.float64) for one in found]
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, tolerance=1e-8)  # of 2^16 powers
    mine, theirs = (
        torch.autograd.grad(sum((out * pull).sum() for out, pull in zip(outs, pulls, strict=True)), inputs)
        for outs in (found, expected)
    )
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)  # of 2^16 powers


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 5, 7, 16])
@pytest.mark.parametrize("columns", [1, 3])
def test_its_own_backward_pass_is_that_of_the_squares(steps, columns):
    """Of symmetric matrices, whose gradient is symmetric."""
    half, values = seeded((2, 6, 6), dtype=torch.float64), seeded((2, 6, columns), dtype=torch.float64)
    half, values = half.requires_grad_(), values.requires_grad_()
    matrix = half + half.mT
    found = 0.002 * (matrix @ values)
    power = torch.eye(6, dtype=torch.float64) - 0.002 * (matrix @ matrix)
    for _ in range(steps):
        found, power = found + power @ found, power @ power
    pull = seeded(found.shape, dtype=torch.float64)
    own = diffuse(matrix, values, steps)
    # 2^16 powers of a matrix whose largest eigenvalue is nearly 1 lose up to four digits.
    torch.testing.assert_close(own, found, rtol=1e-9, atol=1e-10)
    gradients = (torch.autograd.grad((one * pull).sum(), (half, values), retain_graph=True) for one in (own, found))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-8)  # of 2^16 powers


def test_odd_maps_stay_finite():
    layer = Diffusion(4)
    for tokens in (torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.ones(1, 3, 1, 1), torch.zeros(0, 3, 4, 4)):
        attention = torch.linspace(0, 1, tokens[:, 0].numel()).view_as(tokens[:, 0])
        for one in layer(tokens, attention + 0.1):
            assert one.isfinite().all()


def build(name="scm"):
    torch.manual_seed(0)
    return get_stage(name)(backbones.build("small_vit", input_size=32), 4)


def test_evaluation_is_the_identity_of_the_calibration():
    net = build().eval()
    image = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        before = net.localize(image, topk=2)
        for parameter in net.calibration.parameters():
            parameter.fill_(torch.nan)
        after = net.localize(image, topk=2)
        plain = build("ts_cam").eval()
        plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("calibration")})
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.localization_map, after.localization_map)
    assert torch.equal(plain.classify(image), after.logits)


def test_losses_are_those_of_the_layers_one_after_the_other():
    net = build().double().train()
    image, label = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), torch.tensor([0, 3, 1])
    torch.manual_seed(1)
    found = net.training_step(Batch(image, label, ("a", "b", "c")), TrainState(0, 1, 0, 1))
    torch.manual_seed(1)
    features = net.features(image)
    attention = net.attention(features)
    tokens = net.head(features[net.last_stage])
    for steps in (16, 4, 4, 4):
        tokens, attention = loop(tokens, attention, steps)
    expected = functional.cross_entropy(tokens.mean((2, 3)), label)
    assert_close(found["loss"], expected, tolerance=1e-6)  # of 2^16 powers
    assert [layer.steps for layer in net.calibration] == [16, 4, 4, 4]
    assert {layer.similarity.item() for layer in net.calibration} == {1.0}
    assert {layer.threshold.item() for layer in net.calibration} == {0.5}
