"""Thresholds of networks as they are: what recipes and code say is what was measured."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast.bench import first_picture
from wsolfast.engine.localizer import DEFAULT_THRESHOLD, WHOLE_PICTURE, Located, is_localized
from wsolfast.metrics import get_protocol
from wsolfast.recipe import load_recipe

MEASURED = json.loads((Path(__file__).parents[2] / "bench/results/first_picture.json").read_text())


def test_the_default_and_the_recipe_are_what_the_photos_chose():
    chosen = first_picture.choose(MEASURED["rows"])
    assert chosen == MEASURED["chosen"]
    assert chosen["every network"] == DEFAULT_THRESHOLD == MEASURED["default_threshold"]
    assert MEASURED["whole_picture"] == WHOLE_PICTURE
    spec = load_recipe("imagenet/squeezenet").evaluate
    assert (spec.post, spec.threshold) == ("scg", chosen["SqueezeNet 1.1, scg"])
    measured = {word.removeprefix("evaluate.scg."): word.partition("=")[2] for word in first_picture.SCG[1:]}
    kept = {f"{name}={value}".lower() for name, value in spec.refinements["scg"].items()}
    assert kept == set(measured)
    assert load_recipe("imagenet/resnet50").evaluate.threshold is None


def test_the_choice_takes_the_most_useful_boxes_of_the_photos_that_choose():
    best = first_picture.choose(MEASURED["rows"])
    for name, row in MEASURED["rows"].items():
        means = np.mean([row[one]["useful"] for one in first_picture.CHOICE], axis=0)
        assert means.max() == means[MEASURED["thresholds"].index(best[name])]


@pytest.mark.parametrize(
    ("boxes", "localized"),
    [
        ([], False),
        ([[0, 0, 100, 50]], False),
        ([[0, 0, 100, 47.5]], False),
        ([[0, 0, 100, 47.4]], True),
        ([[-20, 0, 75, 50]], True),
        ([[10, 10, 20, 20], [0, 0, 99, 50]], False),
    ],
)
def test_a_box_that_covers_the_picture_is_no_place(boxes, localized):
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    assert is_localized(boxes, (100, 50)) is localized


def test_boxes_of_a_map_are_judged_at_every_threshold():
    score_map = torch.zeros(1, 10, 10)
    score_map[0, 2:6, 2:6] = 1.0
    score_map[0, :, :2] = 0.31
    one = Located("a", (10, 10), [0], [None], [1.0], [], [], score_map, 0.5, lambda: Image.new("RGB", (10, 10)))
    photo = first_picture.Photo(Path("a"), 0, [[2.0, 2.0, 6.0, 6.0]])

    class WithProtocol:
        protocol = get_protocol("spa")

    judged = first_picture.judge(one, photo, WithProtocol())
    right = [bool(row[0]) for row in judged]
    assert right == [threshold > 0.31 for threshold in first_picture.THRESHOLDS]
    assert not judged[:, 1].any()
    shares = first_picture.shares(torch.stack([judged, torch.ones_like(judged)]))
    assert shares["whole"] == [50.0] * len(first_picture.THRESHOLDS)
    assert shares["useful"] == [50.0 if one else 0.0 for one in right]


def test_photos_are_read_with_all_their_boxes(tmp_path):
    rows = [("a.jpg", 3, "test"), ("a.jpg", 3, "test"), ("b.jpg", 1, "train"), ("c.jpg", 0, "test")]
    with (tmp_path / "annotations.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "class_id", "split", "x0", "y0", "x1", "y1"])
        writer.writerows([image, label, split, k, 0, 9, 9] for k, (image, label, split) in enumerate(rows))
    found = first_picture.read_photos(tmp_path, 10)
    assert [(photo.file.name, photo.class_id, len(photo.boxes)) for photo in found] == [
        ("a.jpg", 3, 2),
        ("c.jpg", 0, 1),
    ]
    assert len(first_picture.read_photos(tmp_path, 1)) == 1
