"""True boxes that lie outside their image, and sizes that are given as (h, w)."""

import pytest
import torch
from oracles.random_images import images

from wsolfast.metrics import BoxAccuracy, ErrorSplit, frames, functional, get_protocol

MAP = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0))


def update(box, size, kind=BoxAccuracy):
    metric = kind("spa")
    classes = (torch.tensor([0]), torch.tensor([[0]]))
    metric.update(MAP, torch.tensor([size]), [torch.tensor([box])], *classes)
    return metric


@pytest.mark.parametrize("kind", [BoxAccuracy, ErrorSplit])
@pytest.mark.parametrize(
    "box", [[500.0, 10.0, 510.0, 50.0], [10.0, 375.0, 20.0, 400.0], [-9.0, 10.0, 0.0, 50.0], [10.0, -9.0, 20.0, -1.0]]
)
def test_a_box_outside_its_image_is_an_error(kind, box):
    with pytest.raises(ValueError, match=r"image 0: true box \[.*\] lies outside its image, 500 wide and 375 high"):
        update(box, (500, 375), kind)


def test_sizes_that_are_given_as_height_and_width_are_told():
    """A box of a 500 x 375 image, whose size is said to be (375, 500)."""
    with pytest.raises(ValueError, match=r"image 0: true box .* far beyond .*: expected image_sizes as \(w, h\)"):
        update([60.0, 40.0, 460.0, 300.0], (375, 500))
    with pytest.raises(ValueError, match=r"lies outside .* fit into 500 by 375: expected image_sizes as \(w, h\)"):
        update([400.0, 40.0, 460.0, 300.0], (375, 500))
    # The first image is right.
    sizes, boxes = [(500, 375), (375, 500)], [torch.tensor([[60.0, 40.0, 460.0, 300.0]]).double()] * 2
    with pytest.raises(ValueError, match="image 1: true box"):
        functional.box_hits(MAP.expand(2, -1, -1), sizes, boxes, get_protocol("wsolevaluation"))


@pytest.mark.parametrize(
    ("box", "size"),
    [
        # CUB's own, the farthest and those that fit the image on its side.
        ([92.0, 51.0, 532.0, 354.0], (500, 410)),
        ([94.0, 72.0, 463.0, 348.0], (500, 347)),
        ([58.0, 70.0, 274.0, 376.0], (500, 375)),
        ([29.0, 136.0, 358.0, 304.0], (357, 500)),
        ([-3.0, -2.0, 20.0, 30.0], (500, 375)),
        # Farther than any real one, but not inside the image on its side either.
        ([60.0, 40.0, 700.0, 300.0], (500, 375)),
        ([0.0, 0.0, 500.0, 375.0], (500, 375)),
    ],
)
def test_a_box_that_overruns_its_image_is_taken(box, size):
    assert update(box, size).compute()["images"] == 1


def test_random_images_never_are_refused_and_turned_ones_are():
    _, sizes, boxes, *_ = images(40, seed=2)
    frames.check_inside(boxes, sizes.tolist())
    wide = sizes[:, 0] != sizes[:, 1]
    beyond = torch.stack([(box[:, 2:] > size.flip(0) * 1.1).any() for box, size in zip(boxes, sizes, strict=True)])
    assert (wide & beyond).any()
    with pytest.raises(ValueError, match=rf"image {(wide & beyond).nonzero()[0].item()}: true box"):
        frames.check_inside(boxes, sizes.flip(1).tolist())


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["CUB", "ILSVRC"])
def test_the_benchmarks_boxes_are_taken_and_its_sizes_turned_are_not(real_data, name):
    root = real_data / "wsol_metadata" / "metadata" / name / "test"
    sizes, boxes = {}, {}
    for line in (root / "image_sizes.txt").read_text().split():
        image, width, height = line.split(",")
        sizes[image] = (int(width), int(height))
    for line in (root / "localization.txt").read_text().split():
        image, *corners = line.split(",")
        boxes.setdefault(image, []).append([float(corner) for corner in corners])
    truths = [torch.tensor(found).double() for found in boxes.values()]
    sizes = torch.tensor([sizes[image] for image in boxes])
    frames.check_inside(truths, sizes.tolist())
    turned = sizes.flip(1).tolist()
    for start in range(0, 960, 32):
        with pytest.raises(ValueError, match=r"expected image_sizes as \(w, h\)"):
            frames.check_inside(truths[start : start + 32], turned[start : start + 32])


@pytest.mark.realdata
def test_every_official_cub_box_is_taken(real_data):
    """Thirty of the 11,788 overrun their image, the farthest by 6 % of its width."""
    sizes = {}
    for split in ("train", "test"):
        for line in (real_data / "wsol_metadata/metadata/CUB" / split / "image_sizes.txt").read_text().split():
            image, width, height = line.split(",")
            sizes[image] = (int(width), int(height))
    root = real_data / "cub200_annotations"
    names = dict(line.split() for line in (root / "images.txt").read_text().splitlines())
    overrun = 0
    for line in (root / "bounding_boxes.txt").read_text().splitlines():
        number, x, y, width, height = line.split()
        box = torch.tensor([[float(x), float(y), float(x) + float(width), float(y) + float(height)]]).double()
        size = sizes[names[number]]
        frames.check_inside([box], [size])
        overrun += bool((box[0, 2:] > torch.tensor(size)).any())
    assert (len(names), overrun) == (11_788, 30)
