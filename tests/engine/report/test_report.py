import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from oracles.made_up_results import made_up_results, made_up_row
from PIL import Image

from wsolfast import data
from wsolfast.engine.evaluation.score_maps import MapBatch, ScoreMaps
from wsolfast.engine.evaluation.stopwatch import FIELDS
from wsolfast.engine.report import gallery, report
from wsolfast.engine.run import run_records
from wsolfast.engine.run.errors import MissingError, UsageError
from wsolfast.engine.run.results import Curves, ErrorShares, ImageTable, PixelMetrics, ProtocolCurves
from wsolfast.testing import published_boxes

SIZE = 96
THRESHOLDS = np.linspace(0, 0.99, 50)
RECIPE = """
name = "demo/{method}"
summary = "a run made up for the report's tests"
seed = 0
{paper}
[data]
name = "synthetic"
[data.options]
size = {size}
num_classes = 4
num_test = {images}
[[stage]]
name = "localizer"
method = "{method}"
epochs = 12
[stage.backbone]
name = "small"
[evaluate]
protocol = "wsolevaluation"
"""
PAPER = """
[paper]
title = "Unveiling the Potential of Structure Preserving for WSOL"
venue = "CVPR 2021"
table = "Tab 1"
gt_known_loc_error = 22.71
top1_loc_error = 39.73
"""


def _iou(a, b):
    return float(published_boxes.ious(np.array([a]), np.array([b]), extra=0)[0, 0])


def _blob_box(score_map, threshold, size):
    """Half-open box around the positions of a map that reach the threshold, in pixels of the image."""
    ys, xs = np.nonzero(score_map >= threshold)
    if not len(xs):
        return [0, 0, 0, 0]
    scale = size / len(score_map)
    return [float(v * scale) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]


def _error(box, truth, right_class):
    if not right_class:
        return "misclassified"
    if _iou(box, truth) >= 0.5:
        return "correct"
    shared = max(0, min(box[2], truth[2]) - max(box[0], truth[0])) * max(
        0, min(box[3], truth[3]) - max(box[1], truth[1])
    )
    if shared > 0.5 * (box[2] - box[0]) * (box[3] - box[1]):
        return "part"
    return "more" if shared >= 0.7 * (truth[2] - truth[0]) * (truth[3] - truth[1]) else "other"


def write_run(
    folder,
    method="spa",
    *,
    images=24,
    reach=0.9,
    seed=0,
    evaluated=True,
    masks=True,
    transferred=True,
    names=None,
    paper=False,
):
    """A run folder as an evaluation leaves it: blobs around the objects of rendered images, ``reach`` sizes them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    text = RECIPE.format(method=method, images=images, size=SIZE, paper=PAPER if paper else "")
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    env = {
        "command": f"wsolfast train demo/{method}",
        "wsolfast": "0.1.0",
        "commit": "0123abc",
        "python": "3.11.2",
        "torch": "2.13.0+cpu",
        "cpu": "a processor",
        "threads": 2,
        "started": f"2026-01-0{seed % 8 + 1}T10:00:00+00:00",
    }
    (folder / "env.json").write_text(json.dumps(env), encoding="utf-8")
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as stream:
        for step in range(120):
            total = float(np.exp(-step / 40) + rng.normal(0, 0.03))
            row = {"stage": "localizer", "epoch": step // 10, "step": step, "loss": total + 0.5, "loss_class": total}
            stream.write(json.dumps(row) + "\n")
        stream.write('{"stage": "localizer", "epoch": 12, "lo')
    if not evaluated:
        return folder
    dataset = data.open_dataset("synthetic", None, "test", size=SIZE, num_classes=4, num_test=images)
    names = names or list(dataset.class_names)
    maps, rows, curves = [], [], {key: np.zeros(len(THRESHOLDS)) for key in report.OVERLAPS}
    y, x = np.mgrid[:14, :14] + 0.5
    for i in range(images):
        truth = dataset.annotations(i).boxes[0].tolist()
        cx, cy = (truth[0] + truth[2]) / 2, (truth[1] + truth[3]) / 2
        cx += (1 - reach) * 0.7 * (truth[2] - cx) + rng.normal(0, 2)
        rx, ry = (reach * rng.uniform(0.7, 1.2) * (truth[k + 2] - truth[k]) for k in (0, 1))
        scale = 14 / SIZE
        score = np.exp(-1.6 * (((x / scale - cx) / (rx / 2)) ** 2 + ((y / scale - cy) / (ry / 2)) ** 2))
        score = (score - score.min()) / (score.max() - score.min())
        maps.append(score)
        box = _blob_box(score, 0.2, SIZE)
        label = int(dataset.labels[i])
        predicted = label if rng.random() < 0.8 else (label + 1) % 4
        row = {"image_id": dataset.image_ids[i], "label": label, "predicted": predicted, "size": [SIZE, SIZE]}
        row |= {"score": float(rng.random()), "gt_boxes": [truth], "box": box, "iou": _iou(box, truth)}
        rows.append(made_up_row(i, **row, error=_error(box, truth, predicted == label)))
        for key, overlap in report.OVERLAPS.items():
            curves[key] += [_iou(_blob_box(score, t, SIZE), truth) >= overlap for t in THRESHOLDS]
    curves = {key: (100 * hits / images).tolist() for key, hits in curves.items()}
    right = 100 * np.mean([row.label == row.predicted for row in rows])
    found = 100 * np.mean([row.iou >= 0.5 for row in rows])
    both = 100 * np.mean([row.iou >= 0.5 and row.label == row.predicted for row in rows])
    center = {
        "max_box_acc": 41.7,
        "max_box_acc_v2": 43.1,
        "gt_known_loc": 41.7,
        "iou30": 83.3,
        "iou50": 41.7,
        "iou70": 4.2,
    }
    peaks = {key: max(values) for key, values in curves.items()}
    metrics = {
        "top1_cls": right,
        "top1_loc": both,
        "gt_known_loc": found,
        "max_box_acc": peaks["iou50"],
        "max_box_acc_v2": sum(peaks.values()) / 3,
    }
    results = made_up_results(
        method=method,
        num_images=images,
        metrics=metrics | peaks,
        baselines={"center_box": center},
        error_split=ErrorShares(
            **{kind: 100 * np.mean([row.error == kind for row in rows]) for kind in gallery.ERRORS}
        ),
        cam_threshold=0.2,
        cam_threshold_source="transferred" if transferred else "oracle",
        images_per_second=151.3,
        environment={"command": f"wsolfast eval runs/{method}"},
    )
    if masks:
        results = replace(results, pixel=PixelMetrics(61.2, 44.0, 51.3, 50.1, images, 0.4, 86, 80))
    if transferred:
        results = replace(
            results,
            transferred_threshold=0.31,
            transferred_thresholds={"iou30": 0.25, "iou50": 0.31, "iou70": 0.37},
            transferred={"gt_known_loc": found - 1.5, "max_box_acc": peaks["iou50"] - 2},
        )
    split = folder / "eval" / "test"
    split.mkdir(parents=True)
    write_maps(split, maps)
    of_protocol = ProtocolCurves(THRESHOLDS.tolist(), curves["iou50"], curves["iou50"], curves["iou50"])
    for name, value in (
        ("results", results),
        ("curves", Curves(THRESHOLDS.tolist(), **curves, max_box_acc=curves["iou50"], protocol=of_protocol)),
        ("per_image", ImageTable(names, rows)),
    ):
        (split / f"{name}.json").write_text(json.dumps(value.to_json()), encoding="utf-8")
    return folder


def write_maps(split, maps):
    """As an evaluation leaves them, in two batches."""
    maps = torch.tensor(np.asarray(maps, np.float32))
    for part in (slice(0, 5), slice(5, None)):
        few = maps[part]
        nothing = {name: 0.0 for name in FIELDS}
        classes = torch.zeros(len(few), 1, dtype=torch.int64)
        ScoreMaps(split / "maps").save(MapBatch(part.start, few, classes, classes.float(), nothing))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """CAM and SPA, reported together: folder of the report, the page, its parsed form."""
    root = tmp_path_factory.mktemp("runs")
    cam = write_run(root / "cam", "cam", reach=0.7, seed=1)
    spa = write_run(root / "spa", "spa", seed=2, paper=True)
    written = report.write_report([cam, spa], root / "report" / "index.html", images=18)
    assert written == root / "report" / "index.html"
    return root, written.read_text(encoding="utf-8"), Page.of(written)


class Page(HTMLParser):
    """A page that must be well formed: elements by tag, all attributes, visible text."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], []

    @classmethod
    def of(cls, path):
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        assert page.open == [], f"left open: {page.open}"
        return page

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(text)

    def all(self, tag, **wanted):
        wanted = {key.replace("_", "-").rstrip("-"): value for key, value in wanted.items()}
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.mark.parametrize(
    ("method", "post", "label"),
    [
        ("csoa", "none", "CSoA"),
        ("ci_cam", "none", "CI-CAM"),
        ("has", "scg", "HaS + SCG"),
        ("spol.seg", "none", "SPOL"),
        ("one_of_my_own", "none", "one_of_my_own"),
        ("package.module:OfMyOwn", "none", "OfMyOwn"),
    ],
)
def test_a_run_is_called_as_the_paper_spells_its_method(tmp_path, method, post, label):
    run = write_run(tmp_path / "run", method)
    file = run / "eval" / "test" / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"method": method, "post": post}))
    assert run_records.read_runs([run])[0].label == label


def test_page_is_well_formed_and_ids_are_unique(pair):
    ids = [attrs["id"] for _, attrs in pair[2].elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for tag, attrs in pair[2].elements if tag in ("a", "use")}
    assert targets <= set(ids), f"links that lead nowhere: {targets - set(ids)}"


def test_page_loads_nothing(pair):
    _, text, page = pair
    for tag, attrs in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
    outside_data = "".join(part.split('"', 1)[-1] for part in text.split("data:image/"))
    assert not any(word in outside_data for word in ("http:", "https:", "url(", "@import", "fetch(", "//cdn"))


def test_pictures_and_charts_are_described(pair):
    _, _, page = pair
    pictures_ = page.all("svg", role="img")
    assert len(pictures_) > 18 * 3
    assert all(svg["aria-label"].strip() for svg in pictures_)
    assert page.all("html", lang="en")
    row = {one["image_id"]: one for one in _per_image(pair[0] / "spa")}
    for button in page.all("button", class_="row"):
        image_id, _, spa = button["aria-label"].split(", ", 1)[1].split("; ")
        assert spa.startswith(f"SPA IoU {row[image_id]['iou']:.2f}, ")
    # Every control says what it is: by its text, or by a label around it.
    assert all(attrs.get("type") == "button" for attrs in page.all("button"))


def _natural_photo(rng, size=(500, 375)):
    """Noise whose amplitude falls with the frequency, as in photographs, so that it is as large as one in a file."""
    height, width = size[::-1]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    layers = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency, (height, width))
    layers = layers[:1] + 0.3 * layers[1:].sum(0) * np.array([1, 0, -1])[:, None, None]
    return Image.fromarray(np.clip(128 + 55 * layers / layers.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0))


@pytest.mark.slow
def test_page_of_200_photographs_and_six_runs_is_below_10_mb(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    photos = [_natural_photo(rng) for _ in range(40)] * 5
    monkeypatch.setattr(gallery, "_photos", lambda *_: photos)
    runs = [write_run(tmp_path / "r0", images=200)]
    for k in range(1, 6):
        runs.append(shutil.copytree(runs[0], tmp_path / f"r{k}"))
    for run in runs:
        shutil.rmtree(run / "eval/test/maps")
        write_maps(run / "eval/test", rng.random((200, 14, 14)))
        table = run / "eval/test/per_image.json"
        content = json.loads(table.read_text(encoding="utf-8"))
        for row in content["images"]:
            row["size"] = [500, 375]
        table.write_text(json.dumps(content), encoding="utf-8")
    written = report.write_report(runs, tmp_path / "index.html", images=200)
    page = Page.of(written)
    assert len(page.all("li", class_="shot")) == 200
    assert len(page.all("image")) == 200 * 7
    pictures_ = [attrs["href"] for attrs in page.all("image") if attrs["id"].startswith("photo-")]
    assert np.mean([len(uri) for uri in pictures_]) > 12_000  # as real photographs of 256 pixels take
    assert written.stat().st_size < 10_000_000


def test_hostile_names_stay_text(tmp_path):
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    run = write_run(tmp_path / "spa", images=8, names=[evil] * 4)
    table = run / "eval" / "test" / "per_image.json"
    content = json.loads(table.read_text(encoding="utf-8"))
    for row in content["images"]:
        row["image_id"] = f'"><script>{row["index"]}</script>'
    table.write_text(json.dumps(content), encoding="utf-8")
    env = json.loads((run / "env.json").read_text(encoding="utf-8"))
    (run / "env.json").write_text(json.dumps(env | {"cpu": evil, "command": evil}), encoding="utf-8")
    page = Page.of(report.write_report([run], tmp_path / "index.html"))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert 'alert("x")' in page.words
    assert "the data set no longer holds" in page.words


def test_summary_names_the_best_run_and_the_centre_box(pair):
    _, _, page = pair
    rows = _per_image(pair[0] / "spa"), _per_image(pair[0] / "cam")
    spa, cam = (100 * np.mean([row["iou"] >= 0.5 for row in table]) for table in rows)
    assert spa > cam
    assert f"SPA finds the object in {spa:.1f}\u00a0% of 24 test images" in "".join(page.text)
    assert f"{spa - cam:.1f} points ahead of CAM" in page.words
    assert "a box in the centre of every image reaches 41.7" in page.words


def test_table_shows_measured_and_published_numbers(pair):
    words = pair[2].words
    results = json.loads((pair[0] / "spa/eval/test/results.json").read_text(encoding="utf-8"))
    for value in results["metrics"].values():
        assert f"{value:.1f}" in words
    assert "paper 77.3" in words
    assert "paper 60.3" in words
    assert "Centre box the middle of every image, no network – – 41.7 41.7 43.1" in words
    bars = pair[2].all("div", class_="bar")
    assert len(bars) == 2
    assert f"Correct {results['error_split']['correct']:.1f} %" in bars[1]["aria-label"]


def _per_image(run):
    return json.loads((run / "eval/test/per_image.json").read_text(encoding="utf-8"))["images"]


def test_worst_cases_are_the_lowest_overlaps_worst_first(pair):
    root, _, page = pair
    by_iou = sorted(_per_image(root / "spa"), key=lambda row: row["iou"])
    expected = [row["image_id"] for row in by_iou[:3]]
    strip = page.elements[page.elements.index(("div", {"class": "strip"})) :]
    opened = [
        attrs["aria-label"].rsplit(", ", 1)[1] for tag, attrs in strip if "data-open" in attrs and tag == "button"
    ]
    assert opened == expected


def test_worst_first_prefers_the_confident_of_equals():
    rows = [
        made_up_row(k, iou=iou, score=score)
        for k, (iou, score) in enumerate([(0.4, 0.9), (0, 0.2), (0, 0.7), (0, 0.7)])
    ]
    assert [row.index for row in gallery.worst_first(rows)] == [2, 3, 1, 0]


def _table(overlaps):
    return {f"i{k}": made_up_row(k, iou=iou) for k, iou in enumerate(overlaps)}


def test_chosen_images_are_the_extremes_and_a_sample_of_the_rest():
    rng = np.random.default_rng(3)
    first, last = _table(rng.random(100)), _table(rng.random(100))
    chosen = gallery.choose_images([first, last], 24)
    assert len(chosen) == 24
    assert list(chosen) == sorted(chosen, key=lambda key: int(key[1:]))
    change = {key: last[key].iou - first[key].iou for key in last}
    by_change = sorted(change, key=change.get)
    assert {key for key, why in chosen.items() if "loss" in why} == set(by_change[:4])
    assert {key for key, why in chosen.items() if "gain" in why} == set(by_change[-4:])
    assert {key for key, why in chosen.items() if "worst" in why} == set(sorted(last, key=lambda k: last[k].iou)[:4])
    sample = [int(key[1:]) for key, why in chosen.items() if why == ["sample"]]
    assert len(sample) >= 12
    assert min(sample) < 15
    assert max(sample) > 84
    assert gallery.choose_images([first, last], 24) == chosen


@pytest.mark.parametrize("count", [0, 1, 5, 7, 1000])
def test_chosen_images_are_never_more_than_asked_or_there(count):
    assert len(gallery.choose_images([_table([0.5] * 7)], count)) == min(count, 7)


@pytest.mark.parametrize("count", [18, 24, 83, 99])
def test_as_many_images_are_chosen_as_asked(count):
    rng = np.random.default_rng(0)
    chosen = gallery.choose_images([_table(rng.random(100)), _table(rng.random(100))], count)
    assert len(chosen) == count
    assert all(len(set(why)) == len(why) for why in chosen.values())


def test_only_common_images_are_compared():
    chosen = gallery.choose_images(
        [_table([0.1, 0.2, 0.3]), {k: v for k, v in _table([0.4, 0.5]).items() if k == "i1"}], 9
    )
    assert list(chosen) == ["i1"]


def test_oracle_and_transferred_thresholds_are_marked(pair):
    root, _, page = pair
    curves = json.loads((root / "spa/eval/test/curves.json").read_text(encoding="utf-8"))
    top = int(np.argmax(curves["iou50"]))
    says = next(
        svg["aria-label"] for svg in page.all("svg") if svg.get("aria-label", "").startswith("MaxBoxAccV2 at IoU ≥ 0.5")
    )
    assert f"SPA: {curves['iou50'][top]:.1f} % at the oracle threshold, {curves['thresholds'][top]:.2f}" in says
    there = np.interp(0.31, curves["thresholds"], curves["iou50"])
    assert f"SPA: {there:.1f} % at the transferred threshold, 0.31" in says
    says = next(
        svg["aria-label"] for svg in page.all("svg") if svg.get("aria-label", "").startswith("MaxBoxAccV2 at IoU ≥ 0.7")
    )
    there = np.interp(0.37, curves["thresholds"], curves["iou70"])
    assert f"SPA: {there:.1f} % at the transferred threshold, 0.37" in says
    found = json.loads((root / "spa/eval/test/results.json").read_text(encoding="utf-8"))["metrics"]
    moved = f"SPA {found['gt_known_loc'] - 1.5:.1f} {found['max_box_acc'] - 2:.1f}"
    assert moved in page.words.split("Transferred thresholds GT-known Loc MaxBoxAcc")[1]


def test_class_table_counts_boxes_and_classes(pair):
    root, _, page = pair
    rows = [row for row in _per_image(root / "cam") if row["label"] == 2]
    box = 100 * np.mean([row["iou"] >= 0.5 for row in rows])
    right = 100 * np.mean([row["predicted"] == 2 for row in rows])
    name = data.open_dataset("synthetic", None, "test", num_classes=4).class_names[2].replace("_", " ")
    classes = page.words.split("CAM box")[1]
    assert f"{name} {len(rows)} {box:.1f} {right:.1f} " in " ".join(classes.split())


def test_sheet_is_written_beside_the_page(pair):
    with Image.open(pair[0] / "report" / "report.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 3 * 192
        assert sheet.height > 6 * 192
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 1000


def test_reproduction_holds_commands_environment_and_recipe(pair):
    words = pair[2].words
    assert "wsolfast train demo/cam wsolfast eval runs/cam wsolfast train demo/spa wsolfast eval runs/spa" in words
    assert "2.13.0+cpu" in words
    assert 'protocol = "wsolevaluation"' in words
    assert "2026-01-02T10" in words
    assert "2026-01-03T10" in words


def test_peak_t_is_a_level_and_no_percentage(pair):
    root, text, _ = pair
    rows = text.split("Peak-T</th>")[1].split("</tbody>")[0].split("</tr>")[1:3]
    for name, row in zip(("cam", "spa"), rows, strict=True):
        results = json.loads((root / name / "eval" / "test" / "results.json").read_text())
        assert row.endswith(f"<td>{results['pixel']['peak_threshold']}</td>"), row


def test_one_run_without_masks_and_transferred_threshold(tmp_path):
    run = write_run(tmp_path / "spa", images=8, masks=False, transferred=False)
    page = Page.of(report.write_report([run], tmp_path / "index.html"))
    assert "no object masks" in page.words
    assert "There is no transferred threshold" in page.words
    assert "Peak-IoU Peak-T" not in page.words
    assert "Transferred thresholds" not in page.words
    assert "boxes are cut at the oracle threshold, the best one on this split" in page.words
    assert "the coloured bars, like the boxes below, at the oracle threshold, the best one on this split" in page.words
    assert "points ahead" not in page.words


def test_an_unfinished_run_says_how_to_finish_it(tmp_path):
    spa = write_run(tmp_path / "spa", images=8)
    cam = write_run(tmp_path / "cam", "cam", evaluated=False)
    page = Page.of(report.write_report([cam, spa], tmp_path / "both.html"))
    assert "CAM small · 12 epochs not evaluated yet" in page.words
    assert f"its row is filled by: wsolfast eval {cam}" in page.words
    assert len(page.all("li", class_="shot")) == 8
    alone = Page.of(report.write_report([cam], tmp_path / "cam.html"))
    assert "None of these runs has been evaluated yet" in alone.words
    assert "coloured bars" not in alone.words
    assert not alone.all("dialog")
    assert "loss from" in next(svg["aria-label"] for svg in alone.all("svg", role="img"))


def test_a_run_that_kept_little_is_still_reported(tmp_path):
    run = write_run(tmp_path / "spa", images=8)
    shutil.rmtree(run / "eval/test/maps")
    (run / "metrics.jsonl").unlink()
    (run / "env.json").unlink()
    results = json.loads((run / "eval/test/results.json").read_text(encoding="utf-8"))
    (run / "eval/test/results.json").write_text(json.dumps(results | {"environment": {}}), encoding="utf-8")
    page = Page.of(report.write_report([run], tmp_path / "index.html"))
    for sentence in ("kept no score maps", "has no training log", "do not say which commands"):
        assert sentence in page.words
    (run / "eval/test/per_image.json").unlink()
    page = Page.of(report.write_report([run], tmp_path / "index.html"))
    assert "kept no per-image table" in page.words
    assert not page.all("li", class_="shot")


def test_photographs_that_are_gone_are_replaced_by_grey(tmp_path):
    run = write_run(tmp_path / "spa", images=8)
    text = (run / "recipe.toml").read_text(encoding="utf-8")
    text = text.replace('name = "synthetic"', 'name = "folder"\nroot = "/nowhere"').split("[data.options]")
    (run / "recipe.toml").write_text(text[0] + "[[stage]]" + text[1].split("[[stage]]")[1], encoding="utf-8")
    page = Page.of(report.write_report([run], tmp_path / "index.html"))
    assert "photographs could not be read" in page.words
    assert "/nowhere" in page.words
    assert len(page.all("li", class_="shot")) == 8


def test_runs_on_other_images_are_left_out_of_the_gallery(tmp_path):
    spa, cam = write_run(tmp_path / "spa", images=8), write_run(tmp_path / "cam", "cam", images=8)
    table = cam / "eval/test/per_image.json"
    table.write_text(table.read_text(encoding="utf-8").replace("test/", "elsewhere/"), encoding="utf-8")
    page = Page.of(report.write_report([cam, spa], tmp_path / "index.html"))
    assert "CAM was evaluated on other images than SPA" in page.words
    assert "Score map of CAM" not in " ".join(svg.get("aria-label", "") for svg in page.all("svg"))


def test_an_evaluation_of_a_few_images_finds_its_photographs(tmp_path):
    run = write_run(tmp_path / "spa", images=8)
    (run / "eval/test").rename(run / "eval/test-limit-8")
    table = run / "eval/test-limit-8/per_image.json"
    content = json.loads(table.read_text(encoding="utf-8"))
    maps = ScoreMaps(table.with_name("maps")).rows(range(8))
    write_maps(table.parent, [maps[7 - row] for row in range(8)])
    for row in content["images"]:
        row["map"] = 7 - row["index"]
    table.write_text(json.dumps(content), encoding="utf-8")
    shots = gallery.collect_shots(run_records.read_runs([run]), 8, [])
    for shot in shots:
        np.testing.assert_array_equal(shot.predictions[0].score_map, maps[shot.predictions[0].row.index])
    page = Page.of(report.write_report([run], tmp_path / "index.html"))
    assert "could not be read" not in page.words
    assert "of 8 test images" in page.words
    assert len(page.all("li", class_="shot")) == 8


def test_two_runs_of_one_method_go_by_their_folders(tmp_path):
    runs = [write_run(tmp_path / name, images=8) for name in ("short", "long")]
    assert "short and long on rendered images" in Page.of(report.write_report(runs, tmp_path / "index.html")).words


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(MissingError, match=r"no recipe\.toml"):
        report.write_report([tmp_path], tmp_path / "index.html")
    with pytest.raises(UsageError, match="at least one"):
        report.write_report([], tmp_path / "index.html")
    run = write_run(tmp_path / "spa", images=4)
    (run / "eval/test/results.json").write_text("{", encoding="utf-8")
    with pytest.raises(MissingError, match=r"results\.json: cannot be read .*; evaluate again to rewrite it$"):
        report.write_report([run], tmp_path / "index.html")
    (run / "recipe.toml").write_text("[[", encoding="utf-8")
    with pytest.raises(MissingError, match=r"recipe\.toml is not valid TOML"):
        report.write_report([run], tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


def test_a_resumed_run_shows_each_step_once(tmp_path):
    run = write_run(tmp_path / "spa", evaluated=False)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("\n")
        for step in range(100, 130):
            stream.write(json.dumps({"stage": "localizer", "step": step, "loss": 9.0}) + "\n")
    history = run_records.read_runs([run])[0].history
    assert [row["step"] for row in history] == list(range(130))
    assert [row["loss"] for row in history[100:]] == [9.0] * 30
    assert max(row["loss"] for row in history[:100]) < 9
