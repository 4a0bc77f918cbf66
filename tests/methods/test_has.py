import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.methods.has import visible

HaS = get_stage("has")


def model(**options):
    torch.manual_seed(0)
    return HaS(backbones.build("small"), 5, **options).double()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sizes", [(5,), (3, 0, 40), (1,)])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_mask_is_that_of_the_loop_over_pixels(sizes, rate):
    count, height, width = 4, 11, 17
    seen = visible(torch.Size((count, 3, height, width)), sizes, rate, generator())
    assert seen.shape == (count, 1, height, width)
    draw = generator()
    chosen = [sizes[i] for i in torch.randint(len(sizes), (count,), generator=draw)]
    for n, side in enumerate(chosen):
        if side == 0:
            assert seen[n].all()
            continue
        squares = torch.rand((height - 1) // side + 1, (width - 1) // side + 1, generator=draw)
        for y in range(height):
            for x in range(width):
                assert seen[n, 0, y, x] == (squares[y // side, x // side] >= rate)


def test_hidden_share_is_the_rate_and_images_differ():
    seen = visible(torch.Size((50, 3, 64, 64)), (8,), 0.3, generator())
    assert (~seen).double().mean() == pytest.approx(0.3, abs=0.03)
    assert not torch.equal(seen[0], seen[1])


def test_nothing_hidden_is_cam(batch, state):
    net = model(drop_rate=0.0).train()
    cam = get_stage("cam")(net.backbone, 5).double()
    cam.head = net.head
    assert torch.equal(net.training_step(batch, state)["loss"], cam.training_step(batch, state)["loss"])
    whole = model(patch_sizes=[0]).train()
    assert torch.equal(whole.training_step(batch, state)["loss"], cam.training_step(batch, state)["loss"])


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_hidden_pixels_are_the_mean_colour(batch, state, rate):
    net = model(patch_sizes=[16], drop_rate=rate).eval()
    seen = visible(batch.image.shape, [16], rate, state.generator())
    mean = net.backbone.input_mean * torch.ones(6, 3, 64, 64)
    image = torch.where(seen, batch.image.double() / 255, mean)
    expected = functional.cross_entropy(net.classify(image), batch.label)
    # Of a hidden pixel (mean - mean) / deviation is left, not exactly zero.
    torch.testing.assert_close(net.training_step(batch, state)["loss"], expected, rtol=1e-6, atol=1e-6)
    assert seen.any() == (rate < 1)
