from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from wsolfast.metrics import PROTOCOLS, frames, functional, get_protocol


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_found_by_name_and_say_where_they_come_from(name):
    assert get_protocol(name).name == name
    assert get_protocol(name).source


def test_protocols_cannot_be_changed_by_accident():
    with pytest.raises(FrozenInstanceError):
        get_protocol("spa").frame = "input"


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown protocol 'sap'; choose one of wsolevaluation, cam"):
        get_protocol("sap")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": ()}, "at least one threshold"),
        ({"iou_thresholds": (0.3,)}, "must hold 0.5"),
        ({"input_size": None}, "input_size=None"),
        ({"resize": 256}, "resize belongs to frame 'crop'"),
        ({"gt_corners": "round"}, "gt_corners must be 'exact' or, in frame 'crop', 'truncate', got 'round'"),
        ({"gt_corners": "truncate"}, "got 'truncate' in frame 'input'"),
        ({"gt_box_end": "half-open"}, "gt_box_end must be one of 'exclusive', 'clipped', 'inclusive', 'shifted', got"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(get_protocol("wsolevaluation"), **change)


BOX = torch.tensor([[60.0, 27.0, 385.0, 331.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Times 224 / 500 and 224 / 335, truncated.
        ("wsolevaluation", [26, 18, 172, 221]),
        ("spa", [60, 27, 384, 330]),
        ("danet", [60, 27, 384, 330]),
        # One is added to the width of these when they are compared, not taken from it before.
        ("cicam", [60, 27, 385, 331]),
        ("nlccam", [60, 27, 385, 331]),
        ("cam", [60, 27, 385, 331]),
        ("acol", [60, 27, 385, 331]),
        # x * 344 / 500 - 60, y * 344 / 335 - 60.
        ("kg_center_crop", [0, 0, 204.88, 224]),
        ("csoa", [60, 27, 385, 331]),
        ("psol", [60, 27, 385, 331]),
        # x * 256 / 500 - 16, y * 256 / 335 - 16, at most 224.
        ("spol", [14.72, 27 * 256 / 335 - 16, 181.12, 224]),
        ("eil", [14.72, 27 * 256 / 335 - 16, 181.12, 224]),
        ("bas", [14.72, 27 * 256 / 335 - 16, 385 * 256 / 500 - 16, 224]),
        ("gc_net", [14.72, 27 * 256 / 335 - 16, 181.12, 224]),
        ("gc_net_whole", [60, 27, 385, 331]),
        # As spol, truncated; x + w - 1 is 384, where 180.608 is.
        ("rethinking_cam", [14, 4, 180, 223]),
    ],
)
def test_true_boxes_go_to_the_frame(name, expected):
    found = frames.gt_in_frame([BOX], [(500, 335)], get_protocol(name))[0]
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-12)


def test_true_boxes_end_inside_the_image():
    boxes = torch.tensor([[0.5, 1.2, 8.0, 9.5]], dtype=torch.float64)
    protocol = replace(get_protocol("wsolevaluation"), input_size=8)
    assert frames.gt_in_frame([boxes], [(8, 8)], protocol)[0].tolist() == [[0, 1, 7, 7]]


def test_boxes_outside_the_crop_vanish_and_count_as_a_miss():
    protocol = get_protocol("spol")
    corner = torch.tensor([[0.0, 0.0, 10.0, 10.0]], dtype=torch.float64)
    assert frames.gt_in_frame([corner], [(256, 256)], protocol)[0].shape == (0, 4)
    hits = functional.box_hits(torch.ones(1, 7, 7), torch.tensor([[256, 256]]), [corner], protocol)
    assert not hits.any()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_finds_a_plain_object(name):
    """A map that is high exactly on the object is right at some threshold."""
    score_map = torch.zeros(28, 28)
    score_map[7:21, 7:21] = 1.0
    protocol = get_protocol(name)
    middle = protocol.thresholds[len(protocol.thresholds) // 2]
    protocol = replace(protocol, thresholds=(middle,))
    sizes = torch.tensor([[56, 84]])
    side = torch.tensor([56.0, 84.0, 56.0, 84.0], dtype=torch.float64)
    low, high = (7, 21) if protocol.frame != "crop" else (7 * 8 + 16, 21 * 8 + 16)
    extent = 28 if protocol.frame != "crop" else protocol.resize
    if protocol.name == "kg_center_crop":
        low, high = low - 16 + 60, high - 16 + 60
    truth = torch.tensor([[low, low, high, high]], dtype=torch.float64) / extent * side
    hits = functional.box_hits(score_map[None], sizes, [truth], protocol)
    assert hits[..., protocol.iou_thresholds.index(0.5)].any()
    drawn = functional.predicted_boxes(score_map[None], sizes, protocol, middle)[0]
    assert drawn.shape == (1, 4)
    # One step of the coarsest grid around each side.
    assert (drawn - truth).abs().max() <= 84 / 28
    mask = functional.predicted_masks(score_map[None], sizes, protocol, middle)[0]
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    around = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=torch.float64)
    if protocol.frame != "crop":
        torch.testing.assert_close(drawn, around * (side / torch.tensor([*mask.shape[::-1]] * 2)))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_true_box_ends_as_said_whatever_the_overlap_adds(name):
    """At the image's border, where every convention gives another box."""
    protocol = get_protocol(name)
    side = {"crop": protocol.resize}.get(protocol.frame, protocol.input_size) or 10
    whole = torch.tensor([[0.0, 0.0, side, side]], dtype=torch.float64)
    limit = side if protocol.frame != "crop" else protocol.input_size - (protocol.gt_corners == "truncate")
    for plus_one in (True, False):
        rule = replace(protocol.rule, iou_plus_one=plus_one)
        ends = {}
        for end in ("exclusive", "clipped", "inclusive"):
            changed = replace(protocol, rule=rule, gt_box_end=end)
            ends[end] = frames.gt_in_frame([whole], [(side, side)], changed)[0].tolist()
        less = limit if protocol.frame == "crop" else limit - 1
        assert ends == {
            "exclusive": [[0, 0, limit, limit]],
            "clipped": [[0, 0, less, less]],
            "inclusive": [[0, 0, less, less]],
        }


def scaled(edges, widths, protocol):
    """The edges of boxes cut at 224 in images of these widths: [edges, widths], as the protocol compares them."""
    boxes = torch.tensor([[edge] * 4 for edge in edges])
    found = []
    for width in widths:
        (batch,) = frames.frames(torch.zeros(1, 4, 4), torch.tensor([[width, width]]), None, protocol)
        found.append(frames.compared_boxes(boxes, batch, 0, protocol)[:, 0])
    return torch.stack(found, 1).numpy()


EDGES, WIDTHS = range(225), range(100, 601)


def test_nl_ccam_rounds_in_float64():
    found = scaled(EDGES, WIDTHS, get_protocol("nlccam"))
    published = np.array([[np.round(float(x) * (w / 224)) for w in WIDTHS] for x in EDGES])
    assert (found == published).all()
    assert found[56, WIDTHS.index(114)] == 28
    # What float32 would make of them.
    factors = np.array([w / 224 for w in WIDTHS], dtype=np.float32)
    narrow = np.round(np.arange(225, dtype=np.float32)[:, None] * factors)
    assert narrow.size == 112_725
    assert (narrow != published).sum() == 125
    assert narrow[56, WIDTHS.index(114)] == 29


def test_ci_cam_truncates_in_float32():
    found = scaled(EDGES, WIDTHS, get_protocol("cicam"))
    factors = np.array([w / 224 for w in WIDTHS], dtype=np.float32)
    published = np.minimum(np.arange(225, dtype=np.float32)[:, None] * factors, np.array(WIDTHS)).astype(int)
    assert (found == published).all()
    assert (found[224] != np.array(WIDTHS)).sum() == 16


@pytest.mark.parametrize(("name", "size"), [("cicam", (448, 448)), ("nlccam", (448, 448)), ("cicam", (500, 333))])
def test_ci_cam_adds_a_pixel_to_both_boxes_and_takes_none(name, size):
    """The box that is cut from the map is the listed one, x + w and y + h: their overlap is 1."""
    protocol = replace(get_protocol(name), thresholds=(0.5,))
    score_map = torch.zeros(1, 224, 224)
    score_map[0, 24:96, 40:120] = 1
    scale = torch.tensor([*size, *size], dtype=torch.float64) / 224
    listed = (torch.tensor([[40.0, 24.0, 120.0, 96.0]]) * scale).trunc()
    overlap = functional.best_overlaps(score_map, torch.tensor([size]), [listed], protocol)
    assert overlap.item() == 1
    narrower = listed - torch.tensor([0.0, 0.0, 1.0, 1.0])
    width, height = (listed[0, 2:] - listed[0, :2] + 1).tolist()
    overlap = functional.best_overlaps(score_map, torch.tensor([size]), [narrower], protocol)
    assert overlap.item() == (width - 1) * (height - 1) / (width * height)


def test_danet_says_that_the_whole_image_is_warped():
    assert "warp the whole image to 224 x 224" in get_protocol("danet").source


def test_ci_cam_scales_in_float32_and_truncates():
    """x * float32(468 / 224) is just below 468 at the right end."""
    protocol = replace(get_protocol("cicam"), thresholds=(0.0,))
    score_map = torch.zeros(224, 224)
    score_map[:112] = 1
    exact = replace(protocol, box_scaling="exact")
    sizes = torch.tensor([[468, 448]])
    truth = [torch.tensor([[0.0, 0.0, 467.0, 224.0]], dtype=torch.float64)]
    level = torch.tensor([1.0], dtype=torch.float64)
    assert functional.box_hits(score_map[None], sizes, truth, protocol, iou_thresholds=level).item()
    assert not functional.box_hits(score_map[None], sizes, truth, exact, iou_thresholds=level).item()


def test_csoa_falls_back_to_the_whole_image():
    boxes = functional.predicted_boxes(torch.zeros(1, 4, 4), torch.tensor([[30, 20]]), get_protocol("csoa"), 0.3)
    assert boxes[0].tolist() == [[0, 0, 30, 20]]
