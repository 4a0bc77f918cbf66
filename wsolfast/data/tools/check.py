"""A look through a data tree for what is missing, double or wrong."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wsolfast.data._files import IMAGE_SUFFIXES, FileSource, is_stray
from wsolfast.data._source import SPLITS, Source, boxes_outside, check_size, mask_differs
from wsolfast.data.errors import DataError, SplitMissingError
from wsolfast.data.sources import HIERARCHY, get_spec, open_files, own_options

_SHOWN = 20


@dataclass(frozen=True)
class SplitCount:
    """Numbers of what a split holds."""

    images: int
    classes: int
    boxes: int  # 0 for train_weaksup, whose boxes are not read
    masks: int


@dataclass
class CheckReport:
    """Outcome of :func:`wsolfast.data.check`; ``str()`` renders it."""

    name: str  # of the data set
    root: Path | None  # None: it is rendered
    layout: str  # what a right tree looks like
    counts: dict[str, SplitCount] = field(default_factory=dict)  # of each split that could be opened
    problems: dict[str, list[str]] = field(default_factory=dict)  # kind -> messages, each naming its file
    notes: dict[str, list[str]] = field(default_factory=dict)  # the same for what is odd and does not hinder
    unreadable: list[str] = field(default_factory=list)  # splits that are there and cannot be opened

    @property
    def ok(self) -> bool:
        """True if the tree can be used as it is."""
        return not self.problems

    def __str__(self) -> str:
        lines = [self.name if self.root is None else f"{self.name} in {self.root}"]
        for split in SPLITS:
            count = self.counts.get(split)
            if count is None:
                lines.append(f"  {split:<14} {'cannot be read' if split in self.unreadable else 'not there'}")
                continue
            extras = [f"{count.boxes} boxes"] * bool(count.boxes) + [f"{count.masks} masks"] * bool(count.masks)
            lines.append(f"  {split:<14} " + ", ".join([f"{count.images} images", f"{count.classes} classes", *extras]))
        for title, found in (("problem", self.problems), ("note", self.notes)):
            for kind, messages in found.items():
                lines.append(f"{title}: {kind} ({len(messages)})")
                lines += [f"  {message}" for message in messages[:_SHOWN]]
                if len(messages) > _SHOWN:
                    lines.append(f"  and {len(messages) - _SHOWN} more")
        if self.problems:
            lines += ["a right tree looks like this:", *(f"  {line}" for line in self.layout.splitlines())]
        lines.append("ok" if self.ok else "not ok")
        return "\n".join(lines)


def check(name: str, root: str | Path | None, *, decode: bool = False, **options: Any) -> CheckReport:
    """Look through every split of a data set for what is missing, double or wrong.

    Counts images, classes, boxes and masks; finds missing files, images without a label or box, sizes that disagree,
    boxes outside their image, and, with ``decode``, images that cannot be read.

    Args:
        name: one of ``NAMES``.
        root: the data set's folder; None for ``synthetic``.
        decode: decode every image and not only its header.
        options: the data set's own, as for :func:`wsolfast.data.open_dataset`.

    Returns:
        CheckReport: ``ok`` says whether the tree can be used; ``str()`` renders it.

    Raises:
        ValueError: for an unknown name or option.
    """
    spec = get_spec(name)
    layout = spec.layout if spec.layout_for is None else spec.layout_for(**own_options(options))
    report = CheckReport(name, None if root is None else Path(root), layout)
    sources: dict[str, Source] = {}
    refused: dict[str, DataError] = {}
    for split in SPLITS:
        try:
            sources[split] = open_files(name, root, split, **options)
        except DataError as error:
            refused[split] = error
    for split, refusal in refused.items():
        if isinstance(refusal, SplitMissingError):
            severity = report.problems if split in spec.required or not sources else report.notes
            severity.setdefault("split not available", []).append(f"{split}: {refusal}")
            continue
        report.unreadable.append(split)
        told = report.problems.setdefault("split cannot be read", [])
        # A file of several splits has its faults in each of them.
        told += [fault for fault in refusal.faults if fault not in told]
    alone = {source.class_names[0] for source in sources.values() if len(source.class_names) == 1}
    if alone:
        report.notes["one class"] = [f"{name}: nothing is learned where nothing is told apart" for name in alone]
    untrained = _untrained(sources)
    if untrained:
        report.notes["class without a training image"] = untrained
    remarks = list(dict.fromkeys(remark for source in sources.values() for remark in source.remarks))
    if remarks:
        report.notes["folder or annotation without an image"] = remarks
    outside = list(_outside_hierarchy(sources.values(), HIERARCHY in options))
    if outside:
        (report.problems if HIERARCHY in options else report.notes)["class outside the hierarchy"] = outside
    for split, source in sources.items():
        _check_source(source, split, decode, report)
    files = [source for source in sources.values() if isinstance(source, FileSource)]
    shared = list(_in_two_splits({split: one for split, one in sources.items() if isinstance(one, FileSource)}))
    if shared:
        report.notes["image in two splits"] = shared
    unlabelled = sorted(_unlabelled(files))
    if unlabelled:
        report.notes["image without a label"] = unlabelled
    return report


def _check_source(source: Source, split: str, decode: bool, report: CheckReport) -> None:
    annotated = split != "train_weaksup" and source.is_annotated
    if split != "train_weaksup" and not annotated:
        note = f"{split}: boxes cannot be measured on it, the classes of a validation can"
        report.notes.setdefault("split without boxes or masks", []).append(note)

    def look(index: int) -> _Finding:
        return _check_image(source, index, annotated, decode)

    with ThreadPoolExecutor() as pool:
        findings = list(pool.map(look, range(len(source.image_ids))))
    boxes, masks = sum(found.boxes for found in findings), sum(found.masks for found in findings)
    report.counts[split] = SplitCount(len(findings), len(set(source.labels.tolist())), boxes, masks)
    for found in findings:
        for kind, message in found.problems:
            report.problems.setdefault(kind, []).append(message)
        for kind, message in found.notes:
            report.notes.setdefault(kind, []).append(message)
    twice = [f"{image_id}: listed {n} times in {split}" for image_id, n in Counter(source.image_ids).items() if n > 1]
    if twice:
        report.problems.setdefault("image listed twice", []).extend(twice)


@dataclass
class _Finding:
    boxes: int = 0
    masks: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def _check_image(source: Source, index: int, annotated: bool, decode: bool) -> _Finding:
    found, name = _Finding(), source.describe(index)
    size = None
    try:
        if isinstance(source, FileSource) and not source.path(index).is_file():
            found.problems.append(("label without an image", f"{name}: no such file"))
        elif isinstance(source, FileSource) and not source.path(index).stat().st_size:
            found.problems.append(("unreadable image", f"{name}: the file is empty"))
        elif annotated or decode or source.told_size(index):
            size = source.header_size(index)
        if size and decode:
            pixels = source.read(index)
            size = pixels.shape[1], pixels.shape[0]
    except DataError as error:
        found.problems.append(("unreadable image", str(error)))
    if size:
        try:
            check_size(source, index, size)
        except DataError as error:
            found.problems.append(("size differs from the annotation", str(error)))
    if annotated:
        _check_annotation(source, index, name, size, found)
    return found


def _check_annotation(source: Source, index: int, name: str, size: tuple[int, int] | None, found: _Finding) -> None:
    try:
        annotation = source.annotation(index)
    except DataError as error:
        # Whoever compared the sizes met it, too.
        others = [problem for problem in found.problems if problem[1] != str(error)]
        if size is not None or not others:
            found.problems = [*others, ("unusable annotation", str(error))]
        return
    found.boxes = len(annotation.boxes)
    if len(annotation.boxes.unique(dim=0)) < found.boxes:
        found.notes.append(("box given twice", name))
    outside = list(boxes_outside(annotation))
    found.problems += [("box outside its image", f"{name}: {what}") for what in outside]
    limit = torch.tensor(annotation.size * 2, dtype=torch.float64)
    for box in annotation.boxes if not outside else ():
        if bool((box < 0).any() or (box > limit).any()):
            found.notes.append(("box overruns its image", f"{name}: {box.tolist()} in {annotation.size}"))
    _check_mask(source, index, annotation.size, name, found)
    if not found.boxes and not found.masks:
        found.problems.append((f"image without a box{' or a mask' * source.has_masks}", name))


def _check_mask(source: Source, index: int, size: tuple[int, int], name: str, found: _Finding) -> None:
    try:
        mask = source.mask(index)
    except DataError as error:
        found.problems.append(("unusable mask", str(error)))
        return
    if mask is None:
        return
    found.masks = 1
    if not (mask == 1).any():
        found.notes.append(("mask without an object", name))
    if source.masks_fit and mask.shape != size[::-1]:
        found.problems.append(("size differs from the mask", f"{name}: {mask_differs(mask, size)}"))


def _untrained(sources: dict[str, Source]) -> list[str]:
    """Return the classes that are measured and not trained: other splits have images of them alone."""
    training = sources.get("train_weaksup")
    if training is None:
        return []
    missing = set().union(*(source.labels.tolist() for source in sources.values())) - set(training.labels.tolist())
    return [training.class_names[label] for label in sorted(missing)]


def _outside_hierarchy(sources: Iterable[Source], asked: bool) -> Iterator[str]:
    """Yield the classes without a place in the hierarchy; nothing if nobody asked for it and it is of other classes."""
    names = {name: source.hierarchy for source in sources for name in source.class_names if source.hierarchy}
    for name, hierarchy in names.items():
        if asked or any(map(hierarchy.ancestors_of, names)):
            yield from hierarchy.missing([name])


def _in_two_splits(sources: dict[str, FileSource]) -> Iterator[str]:
    """Yield image files that a later split has, too."""
    seen: dict[str, str] = {}
    for split, source in sources.items():
        for path in {os.path.normpath(source.path(i)) for i in range(len(source.image_ids))}:
            first = seen.setdefault(path, split)
            if first != split:
                yield f"{path}: in {first} and in {split}"


def _unlabelled(sources: list[FileSource]) -> Iterator[str]:
    """Yield image files that lie among the labelled ones and have no label."""
    images = {os.path.normpath(source.path(i)) for source in sources for i in range(len(source.image_ids))}
    known = images | {os.path.normpath(path) for source in sources for path in source.mask_paths()}
    folders = {path.parent for path in map(Path, images)}
    for folder in folders:
        if folder.is_dir():
            for entry in os.scandir(folder):
                is_image = entry.name.lower().endswith(IMAGE_SUFFIXES) and not is_stray(entry.name)
                if is_image and os.path.normpath(entry.path) not in known:
                    yield entry.path
