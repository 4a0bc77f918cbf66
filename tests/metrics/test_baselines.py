import numpy as np
import pytest
import torch

from wsolfast import ops
from wsolfast.metrics import BoxAccuracy, box_iou, center_box, center_gaussian, frames, get_protocol


def test_center_box_spans_the_fraction_of_each_side():
    assert center_box(torch.tensor([[100, 50]]), 0.8).tolist() == [pytest.approx([10, 5, 90, 45])]
    assert center_box(torch.tensor([[3, 7]]), 1.0).tolist() == [[0, 0, 3, 7]]
    with pytest.raises(ValueError, match="fraction must be in"):
        center_box(torch.tensor([[3, 7]]), 1.5)


def test_center_gaussian_is_one_at_the_centre_and_falls_the_same_in_all_directions():
    score_map = center_gaussian((7, 9))
    assert score_map[3, 4] == score_map.max() == 1
    assert torch.equal(score_map, score_map.flip(0).flip(1))
    assert score_map[3 + 2, 4] == score_map[3, 4 + 2]
    with pytest.raises(ValueError, match="must be positive"):
        center_gaussian((7, 9), sigma=0)


def benchmark(folder, name):
    """Image ids, sizes and boxes of a test split, as they stand in the benchmark's files."""
    root = folder / "wsol_metadata" / "metadata" / name / "test"
    sizes = {}
    for line in (root / "image_sizes.txt").read_text().split():
        image, width, height = line.split(",")
        sizes[image] = (int(width), int(height))
    boxes = {}
    for line in (root / "localization.txt").read_text().split():
        image, *corners = line.split(",")
        boxes.setdefault(image, []).append([float(corner) for corner in corners])
    truths = [torch.tensor(boxes[image], dtype=torch.float64) for image in boxes]
    return list(boxes), torch.tensor([sizes[image] for image in boxes]), truths


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "images", "published"), [("CUB", 5794, 59.7), ("ILSVRC", 50000, 52.5)])
def test_center_gaussian_row_of_the_benchmark_comes_out(real_data, name, images, published):
    """An outside truth. The row is MaxBoxAcc (IoU 0.5) with one true box per image, as in the CVPR 2020 edition."""
    _, sizes, truths = benchmark(real_data, name)
    assert len(truths) == images
    protocol = get_protocol("wsolevaluation")
    score_map = ops.normalize_score_map(center_gaussian((224, 224))[None], None, protocol.rule)
    thresholds = frames.as_float64(protocol.thresholds)
    boxes = ops.score_map_boxes(score_map, thresholds, protocol.rule).boxes[0].unique(dim=0).double()
    first = torch.cat(frames.gt_in_frame([boxes[:1] for boxes in truths], sizes.tolist(), protocol))
    accuracy = 100 * (box_iou(boxes, first, plus_one=True) >= 0.5).double().mean(1).max().item()
    assert round(accuracy, 1) == published


@pytest.mark.realdata
def test_center_gaussian_through_the_accumulator_is_the_same(real_data):
    _, sizes, truths = benchmark(real_data, "CUB")
    keep = range(0, len(truths), 500)
    protocol = get_protocol("wsolevaluation")
    grid = [k * 0.05 for k in range(20)]
    metric = BoxAccuracy(protocol, thresholds=grid, max_box=False)
    maps = center_gaussian((224, 224)).expand(len(keep), -1, -1)
    metric.update(maps, sizes[list(keep)], [truths[n] for n in keep])
    levels = ops.normalize_score_map(maps[:1], None, protocol.rule)
    boxes = ops.score_map_boxes(levels, frames.as_float64(grid), protocol.rule).boxes[0].double()
    hits = np.zeros(len(grid))
    for n in keep:
        truth = frames.gt_in_frame([truths[n]], [sizes[n].tolist()], protocol)[0]
        hits += (box_iou(boxes, truth, plus_one=True) >= 0.5).any(1).numpy()
    assert metric.compute()["gt_known_loc"] == 100 * hits.max() / len(keep)


@pytest.mark.realdata
def test_official_cub_boxes_become_the_benchmarks(real_data):
    """x, y, w, h of the official release, half-open, against the benchmark's own files: all 5,794 boxes."""
    ids, sizes, truths = benchmark(real_data, "CUB")
    root = real_data / "cub200_annotations"
    names = dict(line.split() for line in (root / "images.txt").read_text().splitlines())
    official = {}
    for line in (root / "bounding_boxes.txt").read_text().splitlines():
        number, x, y, width, height = line.split()
        official[names[number]] = [float(x), float(y), float(x) + float(width), float(y) + float(height)]
    boxes = [torch.tensor([official[name]], dtype=torch.float64) for name in ids]
    protocol = get_protocol("wsolevaluation")
    found, expected = (frames.gt_in_frame(b, sizes.tolist(), protocol) for b in (boxes, truths))
    assert torch.equal(torch.cat(found), torch.cat(expected))
