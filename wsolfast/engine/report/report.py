"""A page about runs, made from their folders alone: table, pictures, curves, worst cases."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader

from wsolfast import __version__, data
from wsolfast.engine.report import pictures
from wsolfast.engine.report.charts import Chart, Series, line_chart, thin_out
from wsolfast.engine.report.gallery import ERRORS, collect_shots, draw_sheet, worst_shots
from wsolfast.engine.report.training_charts import training_charts
from wsolfast.engine.run.outputs import Outputs
from wsolfast.engine.run.run_records import RunRecord, read_runs
from wsolfast.engine.run.words import count

METRICS = {
    "top1_cls": ("Top-1 Cls", "images whose predicted class is right"),
    "top1_loc": ("Top-1 Loc", "images whose predicted class is right and whose box overlaps by half"),
    "gt_known_loc": ("GT-known Loc", "images whose box overlaps by half when the true class is given"),
    "max_box_acc": ("MaxBoxAcc", "boxes by wsolevaluation's rule that overlap by half"),
    "max_box_acc_v2": ("MaxBoxAccV2", "the same, averaged over overlaps of 0.3, 0.5 and 0.7"),
}
MASK_METRICS = {
    "top1_cls": METRICS["top1_cls"],
    "px_ap": ("PxAP", "average precision over all pixels of the split, at every threshold"),
    "p_iou": ("pIoU", "overlap of object and high scores over all pixels, at the oracle threshold"),
    "peak_iou": ("Peak-IoU", "the same, of scores in 256 steps at the masks' own size"),
    "peak_iou_per_image": ("Peak-IoU, per image", "the same, as the mean of the images' overlaps"),
}
THRESHOLD_SOURCES = {
    "transferred": "the transferred threshold, the best one on train_fullsup",
    "oracle": "the oracle threshold, the best one on this split",
}
OVERLAPS = {"iou30": 0.3, "iou50": 0.5, "iou70": 0.7}
REASONS = {"sample": "sample", "worst": "worst boxes", "gain": "largest gains", "loss": "largest losses"}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _cell(key: str, value: float | None) -> str:
    # A level from 0 to 255, and no percentage.
    return str(value) if key == "peak_threshold" and value is not None else _percent(value)


def _paper(run: RunRecord, metric: str) -> float | None:
    numbers = run.recipe.get("paper", {})
    if metric in numbers:
        return float(numbers[metric])
    return 100 - float(numbers[f"{metric}_error"]) if f"{metric}_error" in numbers else None


def _baseline(runs: Sequence[RunRecord]) -> dict[str, float]:
    """Return the centre box's numbers; they depend on the data only, so the first run that has them speaks for all."""
    results = (run.results for run in runs if run.results is not None)
    return next((found for one in results if (found := one.baselines.get("center_box"))), {})


def _boxed(runs: Sequence[RunRecord]) -> bool:
    """True if boxes are reported; pixels are, where no run that was evaluated has boxes."""
    return any("gt_known_loc" in run.measured for run in runs) or not any("px_ap" in run.measured for run in runs)


def _summary(runs: Sequence[RunRecord]) -> str:
    """Return the report in one sentence."""
    metric = "gt_known_loc" if _boxed(runs) else "px_ap"
    ranked = sorted((run for run in runs if metric in run.measured), key=lambda run: -run.measured[metric])
    if not ranked:
        return "None of these runs has been evaluated yet, so there are no boxes to show."
    best, score = ranked[0], ranked[0].measured[metric]
    assert best.results is not None  # it has a number
    images = count(best.results.num_images, f"{best.results.split} image")
    words = f"{best.label} finds the object in {score:.1f}\u00a0% of {images} when the class is given"
    if metric == "px_ap":
        words = f"{best.label} finds the pixels of the object in {images} with a PxAP of {score:.1f}\u00a0%"
    if len(ranked) > 1:
        gap = score - ranked[1].measured[metric]
        words += f", {gap:.1f} points ahead of {ranked[1].label}" if gap >= 0.05 else f", level with {ranked[1].label}"
    center = _baseline(ranked).get(metric, _baseline(ranked).get("max_box_acc"))
    return words + (f"; a box in the centre of every image reaches {center:.1f}\u00a0%." if center is not None else ".")


def _data_name(run: RunRecord) -> str:
    """Name the data: by its title, by the folder where a data set is a layout that many share, else by its name."""
    name, root = (run.recipe.get("data", {}).get(key) for key in ("name", "root"))
    title = data.get_spec(name).title if name in data.NAMES else ""
    return title or (Path(root).name if root else str(name or "unnamed data"))


def _settings(run: RunRecord) -> str:
    stages = run.recipe.get("stage") or [{}]
    backbones = (stage.get("backbone", {}) for stage in stages)
    layouts = dict.fromkeys(
        f"{backbone.get('name', '')} {backbone.get('layout', '')}".strip() for backbone in backbones
    )
    epochs = [stage["epochs"] for stage in stages if stage.get("epochs") is not None]
    said = f"{' + '.join(map(str, epochs))} {'epoch' if epochs == [1] else 'epochs'}" if epochs else None
    return " · ".join(filter(None, [*layouts, said]))


def _table(runs: Sequence[RunRecord], metrics: Mapping[str, tuple[str, str]]) -> list[dict]:
    """Return the rows of the table of results, the centre box last."""
    columns = [metric for metric in metrics if any(run.measured.get(metric) is not None for run in runs)]
    best = {metric: max(run.measured.get(metric) or 0 for run in runs) for metric in columns}
    several = sum(run.results is not None for run in runs) > 1
    rows = []
    for run in runs:
        values = {metric: run.measured.get(metric) for metric in metrics}
        shares = {} if run.results is None or run.results.error_split is None else vars(run.results.error_split)
        rows.append(
            {
                "label": run.label,
                "settings": _settings(run),
                "evaluated": run.results is not None,
                "cells": [
                    (_percent(value), _paper(run, metric), several and value is not None and value == best[metric])
                    for metric, value in values.items()
                ],
                "speed": run.results and run.results.images_per_second,
                "errors": [(kind, shares[kind]) for kind in ERRORS if shares.get(kind)],
            }
        )
    center = _baseline(runs)
    if center:
        # It has no classes of its own; with the network's, its Top-1 numbers would be the network's too.
        cells = [
            (_percent(None if metric.startswith("top") else center.get(metric)), None, False) for metric in metrics
        ]
        settings = "the middle of every image, no network"
        rows.append({"label": "Centre box", "settings": settings, "evaluated": True, "cells": cells, "errors": []})
    return rows


def _more_tables(runs: Sequence[RunRecord]) -> list[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """Return smaller tables (title, columns, rows) of numbers that only some evaluations hold."""
    masks = {key: name for key, (name, _) in MASK_METRICS.items() if key != "top1_cls"}
    metrics = {key: name for key, (name, _) in METRICS.items()}
    evaluated = [(run.label, run.results) for run in runs if run.results is not None]
    transferred = [(label, one.transferred) for label, one in evaluated if one.transferred]
    pixel = [(label, vars(one.pixel)) for label, one in evaluated if one.pixel is not None]
    kinds = [("Transferred thresholds", metrics | masks, transferred)]
    if _boxed(runs):
        kinds.append(("Against object masks", masks | {"peak_threshold": "Peak-T"}, pixel))
    tables = []
    for title, columns, rows in kinds:
        known = [key for key in columns if any(found.get(key) is not None for _, found in rows)]
        if known:
            cells = [(label, [_cell(key, found.get(key)) for key in known]) for label, found in rows]
            tables.append((title, [columns[key] for key in known], cells))
    return tables


def _threshold_marks(run: RunRecord, key: str, thresholds: np.ndarray, values: np.ndarray) -> list[tuple]:
    """Return the points of the oracle and, where there is one, of the transferred threshold on a curve."""
    top = int(values.argmax())
    says = f"{run.label}: {values[top]:.1f} % at the oracle threshold, {thresholds[top]:.2f}"
    marks = [(thresholds[top], values[top], "oracle", says)]
    chosen = (run.results.transferred_thresholds or {}).get(key) if run.results is not None else None
    if chosen is not None:
        value = float(np.interp(chosen, thresholds, values))
        says = f"{run.label}: {value:.1f} % at the transferred threshold, {chosen:.2f}"
        marks.append((float(chosen), value, "transferred", says))
    return marks


def _threshold_charts(runs: Sequence[RunRecord], notes: list[str]) -> list[Chart]:
    runs = [run for run in runs if run.curves is not None]
    if not runs:
        return []
    if all(run.results is None or run.results.transferred_threshold is None for run in runs):
        notes.append(
            "There is no transferred threshold, so the curves mark the oracle threshold alone, "
            "which is picked on the very images that it is judged on."
        )
    charts = []
    for key, overlap in OVERLAPS.items():
        series, said = [], []
        for color, run in enumerate(runs):
            assert run.curves is not None
            thresholds, values = np.asarray(run.curves.thresholds), np.asarray(getattr(run.curves, key))
            dots = _threshold_marks(run, key, thresholds, values)
            said += [says for *_, says in dots]
            x, y = thin_out(thresholds.tolist(), values.tolist(), 200)
            series.append(Series(run.label, color, x, y, dots))
        center = _baseline(runs).get(key)
        charts.append(
            line_chart(
                f"MaxBoxAccV2 at IoU ≥ {overlap}",
                series,
                x_label="threshold",
                y_label=f"MaxBoxAccV2 at IoU {overlap}, %",
                x_ticks=(0, 0.25, 0.5, 0.75, 1),
                y_ticks=(0, 25, 50, 75, 100),
                levels=[(center, "centre box")] if center is not None else [],
                description="; ".join(said),
            )
        )
    return charts


def _class_table(runs: Sequence[RunRecord]) -> list[dict]:
    """Return a row per class: images, then per run the share of boxes with IoU >= 0.5, its lead, right classes.

    The lead is over the first run. Where a run saw no image of a class, its numbers are None.
    """
    runs = [run for run in runs if run.images]
    if not runs:
        return []
    sums: dict[int, np.ndarray] = {}
    for j, run in enumerate(runs):
        for row in run.images.values():
            sums.setdefault(row.label, np.zeros((len(runs), 3)))[j] += (1, row.iou >= 0.5, row.predicted == row.label)
    rows = []
    for label, counts in sorted(sums.items()):
        boxes, classes = (
            [100 * float(hits / seen) if seen else None for seen, hits in zip(counts[:, 0], column, strict=True)]
            for column in counts[:, 1:].T
        )
        gains = [None if box is None or boxes[0] is None else box - boxes[0] for box in boxes]
        shares = list(zip(boxes, gains, classes, strict=True))
        rows.append({"name": runs[0].class_name(label), "images": int(counts[:, 0].max()), "shares": shares})
    return rows


def _environment(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return facts about the machine, one value per run, or one value alone where all runs agree."""
    first = ["wsolfast", "commit", "python", "torch", "device", "cpu", "threads", "platform"]
    known = dict.fromkeys(key for run in runs for key, value in run.env.items() if not isinstance(value, dict | list))
    known.pop("command", None)
    rows = []
    for key in [key for key in first if key in known] + [key for key in known if key not in first]:
        values = [str(run.env.get(key, "–")) for run in runs]
        rows.append((key.replace("_", " "), values[:1] if len(set(values)) == 1 else values))
    return rows


def _commands(runs: Sequence[RunRecord]) -> list[str]:
    """Return the commands that trained and evaluated the runs, each once, in order."""
    given = [env.get("command") for run in runs for env in (run.env, run.results.environment if run.results else {})]
    return list(dict.fromkeys(str(command) for command in given if command))


def _cut(runs: Sequence[RunRecord]) -> str:
    """Return the threshold, in words, that boxes are shown and sorted by error at; empty if all boxes are given."""
    evaluated = [run.results for run in runs if run.results is not None]
    sources = {results.cam_threshold_source for results in evaluated if not results.gives_boxes}
    if evaluated and not sources:
        return ""
    return THRESHOLD_SOURCES.get(sources.pop() if len(sources) == 1 else "", "one threshold for the whole split")


def _missing(runs: Sequence[RunRecord]) -> list[str]:
    """Return sentences about the files that the run folders do not hold."""
    notes = []
    for run in runs:
        if run.results is None:
            notes.append(f"{run.label} has not been evaluated yet; its row is filled by: wsolfast eval {run.path}")
        elif not run.images:
            notes.append(f"{run.label} kept no per-image table, so it is missing from the gallery and the class table.")
        if not run.history and any(stage.get("epochs", 1) for stage in run.recipe.get("stage", ())):
            notes.append(f"{run.label} has no training log, so it has no training curve.")
    for run in runs:
        if run.results is not None and run.results.maps_constant:
            notes.append(
                f"{run.label} has {count(run.results.maps_constant, 'score map')} with one value everywhere; "
                "a box of such a map is rounding noise."
            )
        if run.results is not None and run.results.gives_boxes:
            notes.append(
                f"{run.label} gives boxes and no score maps, so it has no threshold, and no curve over thresholds."
            )
    for run in runs:
        if run.results is not None and run.results.chosen_by_boxes:
            notes.append(
                f"The weights of {run.label} were chosen by boxes ({run.results.chosen_by_boxes}), so it is not weakly "
                "supervised."
            )
        if run.results is not None and run.results.lossy_decoder:
            notes.append(
                f"The images of {run.label} were decoded by {run.results.lossy_decoder}, which is lossy: their pixels "
                "are not Pillow's."
            )
    evaluated = [run.results for run in runs if run.results is not None]
    if evaluated and not any(one.pixel for one in evaluated):
        notes.append("This data set has no object masks, so there are no pixel metrics (PxAP, Peak-IoU).")
    return notes


def _title(runs: Sequence[RunRecord]) -> str:
    labels = [run.label for run in runs]
    names = labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
    data_names = dict.fromkeys(_data_name(run) for run in runs)
    return f"{names} on {' and '.join(data_names)}"


def write_report(runs: Sequence[Path], output: Path, *, images: int = 48) -> Path:
    """Write one self-contained page about ``runs``, and ``report.png``, the same pictures as one sheet, beside it.

    The page needs no network and no other file. What a run folder does not hold (an unfinished run, no masks, no
    transferred threshold) is said in a sentence instead of shown.

    Args:
        runs: run folders, the baseline first; the last one is the method that the worst cases are picked from.
        output: the HTML file.
        images: at most so many images in the gallery, 20 to 40 kB each, by the number of runs.

    Returns:
        The HTML file.

    Raises:
        MissingError: if a folder holds no run, or one of its files is damaged.
        UsageError: if one of the two files is there and of another program.
    """
    output = Path(output)
    outputs, picture = Outputs(output.parent), output.parent / "report.png"
    outputs.check(output, picture)
    records = read_runs(runs)
    notes = _missing(records)
    shots = collect_shots(records, images, notes)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"jpeg_uri": pictures.encode_jpeg_data_uri, "percent": _percent}
    title, metrics = _title(records), METRICS if _boxed(records) else MASK_METRICS
    page = templates.get_template("report.html").render(
        title=title,
        summary=_summary(records),
        runs=records,
        errors=ERRORS,
        metrics=metrics,
        boxed=metrics is METRICS,
        reasons=REASONS,
        cut=_cut(records),
        table=_table(records, metrics),
        papers=[run for run in records if run.recipe.get("paper")],
        more_tables=_more_tables(records),
        shots=shots,
        worst=worst_shots(shots),
        threshold_charts=_threshold_charts(records, notes),
        training_charts=[chart for run in records for row in training_charts(run) for chart in row],
        classes=_class_table(records),
        compared=[run for run in records if run.images],
        environment=_environment(records),
        commands=_commands(records),
        notes=notes,
        version=__version__,
    )
    outputs.write_text(output, page)
    sheet = draw_sheet(shots, title)
    outputs.write(picture, lambda stream: sheet.save(stream, format="PNG"))
    return output
