"""Crops of a random area and RandAugment: torchvision's and the ported operations, drawn by (seed, epoch, index)."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast._compat import import_torchvision
from wsolfast.data import View, open_dataset
from wsolfast.data.images._rand_augment import DRAWS, OPERATIONS, distort, rand_augment
from wsolfast.data.images.random_draws import raw_draws
from wsolfast.data.images.transforms import random_area
from wsolfast.engine.assembly.build import open_training_data
from wsolfast.recipe import RecipeError, load_recipe, parse_recipe

FULL = 2**64
STAGE = '[[stage]]\nname = "{0}"\nmethod = "cam"\nepochs = 1\n{1}[stage.backbone]\nname = "small"\n'


def photo(height=60, width=80):
    """A smooth image with some edges."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).copy()
    pixels[10:20, 30:50] = (200, 20, 90)
    return pixels


@pytest.fixture(scope="module")
def functional():
    import_torchvision()
    from torchvision.transforms import functional

    return functional


def test_an_area_is_drawn_as_torchvision_draws_it():
    """Share 0.5 between 0.2 and 1 is 0.6; ratio at 3/4 of the log scale; then a place among those that are left."""
    draws = [FULL // 2, FULL * 3 // 4, 7 + 1000 * (100 - 68 + 1), 3]
    ratio = math.exp(0.5 * math.log(4 / 3))
    w, h = round(math.sqrt(0.6 * 6400 * ratio)), round(math.sqrt(0.6 * 6400 / ratio))
    x, y, *size = random_area(100, 64, (0.2, 1.0), draws)
    assert size == [w, h]
    assert (x, y) == (draws[2] % (100 - w + 1), 3)


def test_areas_and_ratios_stay_between_their_ends_and_fill_them():
    shares, ratios = [], []
    for k in range(400):
        x, y, w, h = random_area(90, 70, (0.2, 0.5), raw_draws(0, 0, (0, k), 40))
        assert 0 <= x <= x + w <= 90
        assert 0 <= y <= y + h <= 70
        shares.append(w * h / 6300)
        ratios.append(w / h)
    assert 0.18 < min(shares) < 0.22
    assert 0.47 < max(shares) < 0.52
    assert 0.72 < min(ratios) < 0.78
    assert 1.28 < max(ratios) < 1.38


def test_an_image_too_slim_for_any_attempt_gives_its_centre():
    draws = [FULL - 1, FULL // 2, 0, 0] * 10
    assert random_area(100, 10, (1.0, 1.0), draws) == (43, 0, 13, 10)
    assert random_area(10, 100, (1.0, 1.0), draws) == (0, 43, 10, 13)


@pytest.mark.parametrize("flip", [0, 1])
def test_the_view_is_torchvisions_resized_crop(functional, flip):
    view = View(crop=32, train=True, crop_area=(0.2, 1.0))
    draws = raw_draws(3, 0, (1, 2), view.draws)
    draws[2] = flip
    pixels = photo()
    image, placement = view(pixels, draws, "photo")
    x, y, w, h = random_area(80, 60, (0.2, 1.0), draws[3:])
    whole = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = functional.resized_crop(whole, y, x, h, w, [32, 32], antialias=True)
    # Its uint8 kernel rounds apart where two levels are as near.
    assert (image.int() - (expected.flip(-1) if flip else expected).int()).abs().max() <= 1
    found = placement.boxes_to_view(torch.tensor([[x, y, x + w, y + h]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 32, 32]], dtype=torch.float64))
    torch.testing.assert_close(placement.boxes_to_image(found).round().long(), torch.tensor([[x, y, x + w, y + h]]))


def test_a_map_follows_a_random_area_to_a_pixel():
    view = View(crop=32, train=True, crop_area=(0.2, 1.0))
    ramp = np.arange(80, dtype=np.uint8)[None, :, None].repeat(60, 0).repeat(3, 2) * 3
    for k in range(20):
        image, placement = view(ramp, raw_draws(0, 0, (0, k), view.draws), "ramp")
        width, height = placement.resized_size
        whole = View((height, width)).warp(ramp).float()
        cut = placement.cut(whole)
        assert cut.shape == image.shape
        # Three levels a pixel of the image; half a pixel of the view for the start, half a pixel for the size.
        slack = 3 / placement.scale[0] + 2
        assert (cut[:, :, 2:-2] - image[:, :, 2:-2].float()).abs().max() <= slack


@pytest.mark.parametrize("magnitude", [0, 10, 21, 30])
@pytest.mark.parametrize("name", ["autocontrast", "equalize", "invert", "posterize", "solarize"])
def test_tables_of_levels_are_torchvisions(functional, name, magnitude):
    pixels = photo()
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = {
        "autocontrast": lambda: functional.autocontrast(image),
        "equalize": lambda: functional.equalize(image),
        "invert": lambda: functional.invert(image),
        "posterize": lambda: functional.posterize(image, max(1, int(4 * magnitude / 30))),
        "solarize": lambda: image if magnitude == 30 else functional.solarize(image, 256 * magnitude / 30),
    }[name]()
    found = np.asarray(distort(Image.fromarray(pixels), name, magnitude))
    # A table of whole levels and a product of floats round apart.
    assert np.abs(found.astype(int) - expected.permute(1, 2, 0).numpy()).max() <= (1 if name == "autocontrast" else 0)


@pytest.mark.parametrize("magnitude", [0, 10, 15, 30])
@pytest.mark.parametrize(
    ("name", "adjust"),
    [("color", "saturation"), ("contrast", "contrast"), ("brightness", "brightness"), ("sharpness", "sharpness")],
)
def test_blends_are_torchvisions_within_two_levels(functional, name, adjust, magnitude):
    pixels = photo()
    factor = 0.1 + 1.8 * magnitude / 30
    expected = getattr(functional, f"adjust_{adjust}")(torch.from_numpy(pixels).permute(2, 0, 1), factor)
    found = np.asarray(distort(Image.fromarray(pixels), name, magnitude)).astype(int)
    assert np.abs(found - expected.permute(1, 2, 0).numpy()).max() <= 2


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("name", "affine"),
    [
        ("rotate", lambda v: {"angle": -v, "translate": [0, 0], "shear": [0.0, 0.0]}),
        ("shear_x", lambda v: {"angle": 0, "translate": [0, 0], "shear": [math.degrees(math.atan(v)), 0.0]}),
        ("shear_y", lambda v: {"angle": 0, "translate": [0, 0], "shear": [0.0, math.degrees(math.atan(v))]}),
        ("translate_x", lambda v: {"angle": 0, "translate": [-round(v), 0], "shear": [0.0, 0.0]}),
        ("translate_y", lambda v: {"angle": 0, "translate": [0, -round(v)], "shear": [0.0, 0.0]}),
    ],
)
def test_movements_are_torchvisions_but_for_pixels_on_an_edge(functional, name, affine, sign):
    pixels = photo()
    value = sign * OPERATIONS[name][1] * 6 / 30
    center = [0, 0] if name.startswith("shear") else None
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = functional.affine(image, scale=1.0, center=center, **affine(value)).permute(1, 2, 0).numpy()
    found = np.asarray(distort(Image.fromarray(pixels), name, 6, sign))
    # Both take the nearest pixel; where two are as near, the one or the other.
    assert (found == expected).all(-1).mean() > 0.97
    assert not np.array_equal(found, pixels)


def test_solarize_add_brightens_then_inverts_what_is_bright():
    pixels = np.array([[[0, 100, 91], [92, 200, 250]]], np.uint8)
    found = np.asarray(distort(Image.fromarray(pixels), "solarize_add", 10))  # adds 36
    assert found.tolist() == [[[36, 255 - 136, 127], [255 - 128, 255 - 236, 0]]]


def test_cutout_greys_a_square_where_it_is_told():
    found = np.asarray(distort(Image.fromarray(photo()), "cutout", 15, place=(0.5, 0.25)))  # 20 px
    assert (found[5:26, 30:51] == (125, 123, 114)).all()
    untouched = photo()
    untouched[5:26, 30:51] = (125, 123, 114)
    assert np.array_equal(found, untouched)
    assert np.array_equal(np.asarray(distort(Image.fromarray(photo()), "cutout", 0)), photo())


def test_operations_follow_one_another_as_drawn():
    image = torch.from_numpy(photo()).permute(2, 0, 1)
    names = list(OPERATIONS)
    rotate, invert = names.index("rotate"), names.index("invert")
    turned_left = rotate + (1 << 63) - ((1 << 63) % len(names))
    draws = [turned_left, 0, 0, invert, 0, 0]
    expected = distort(distort(Image.fromarray(photo()), "rotate", 10, -1), "invert", 10)
    assert np.array_equal(rand_augment(image, 2, 10, draws).permute(1, 2, 0).numpy(), np.asarray(expected))
    assert rand_augment(image, 0, 10, []).equal(image)
    assert len(names) == 16
    assert DRAWS == 3


def test_an_image_depends_on_seed_epoch_and_index_alone():
    def opened(seed=0):
        options = {"num_classes": 2, "size": 48, "num_train": 6}
        return open_dataset(
            "synthetic",
            None,
            "train_weaksup",
            crop=32,
            train=True,
            seed=seed,
            crop_area=(0.2, 1),
            rand_augment=(3, 10),
            **options,
        )

    first, again, other = opened(), opened(), opened(1)
    images = [first[k].image for k in range(6)]
    assert all(image.shape == (3, 32, 32) for image in images)
    assert all(again[k].image.equal(images[k]) for k in (4, 0, 5, 2, 1, 3))
    assert sum(other[k].image.equal(images[k]) for k in range(6)) == 0
    again.set_epoch(1)
    assert sum(again[k].image.equal(images[k]) for k in range(6)) == 0
    again.set_epoch(0)
    assert again[3].image.equal(images[3])


def test_other_views_draw_what_they_drew():
    """Neither option changes a bit of a recipe without it, nor anything outside of training."""
    assert View(crop=8, train=True).draws == 3
    assert View(crop=8, crop_area=(0.2, 1), rand_augment=(3, 10)).draws == 0
    centre, _ = View(crop=32, crop_area=(0.2, 1), rand_augment=(3, 10))(photo(), [], "photo")
    assert centre.equal(View(crop=32)(photo(), [], "photo")[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_area": (0.2, 1.0)}, "crop_area: expected a crop and two shares"),
        ({"crop": 8, "crop_area": (0.0, 1.0)}, "crop_area"),
        ({"crop": 8, "crop_area": (0.5, 0.4)}, "crop_area"),
        ({"crop": 8, "crop_area": (0.5,)}, "crop_area"),
        ({"rand_augment": (3, 31)}, "rand_augment: expected how many, and a magnitude of 0 to 30"),
        ({"rand_augment": (-1, 3)}, "rand_augment"),
    ],
)
def test_options_that_cannot_be_meant_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        View(**options)


def test_recipes_train_with_them():
    text = '[data]\nname = "synthetic"\ncrop = 32\ncrop_area = [0.4, 1]\nrand_augment = [2, 10]\n'
    text += "[data.options]\nnum_classes = 2\nsize = 48\nnum_train = 4\n"
    recipe = parse_recipe(text + STAGE.format("one", ""), "two")
    view = open_training_data(recipe, recipe.stage[0]).view
    assert (view.crop_area, view.rand_augment) == ((0.4, 1.0), (2, 10))
    for name in ("cicam", "nlccam"):
        spec = load_recipe(f"{name}_cub_vgg16_kg").data
        assert (spec.resize, spec.crop_area, spec.rand_augment) == (None, (0.2, 1.0), (3, 10))
        spec = load_recipe(f"{name}_ilsvrc_vgg16_kg").data
        assert (spec.resize, spec.crop_area, spec.rand_augment) == (None, (0.4, 1.0), None)
    with pytest.raises(RecipeError, match=r"data\.rand_augment: moves pixels, which the maps of an earlier stage"):
        parse_recipe(text + STAGE.format("one", "") + STAGE.format("two", 'uses = {pseudo_mask = "one"}\n'), "two")
