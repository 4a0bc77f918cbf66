"""Writer of what the README and the documents say of the code: tables between marks.

``python docs/generate.py`` writes them; ``tests/docs/test_generated.py`` fails when one of them is out of date.
"""

import functools
import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable
from itertools import compress
from pathlib import Path
from types import ModuleType

from wsolfast.bench import cams
from wsolfast.methods import get_stage, method_of
from wsolfast.metrics import PROTOCOLS
from wsolfast.metrics.protocols import Protocol
from wsolfast.ops import CorrelationRule
from wsolfast.recipe import list_recipes, load_recipe
from wsolfast.refinements import get_refinement

DOCS = Path(__file__).parent
_MARK = re.compile(r"(<!-- generated: (\w+)(?: ([^>]*?))? -->\n).*?(<!-- end -->)", re.DOTALL)
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example):$", re.MULTILINE)


def outdated() -> dict[Path, str]:
    """The files that the code no longer agrees with, and what should stand in them."""
    pages = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]
    wanted = {page: _MARK.sub(_fill, page.read_text(encoding="utf-8")) for page in pages}
    return {page: text for page, text in wanted.items() if page.read_text(encoding="utf-8") != text}


def sections(docstring: str) -> dict[str, str]:
    """A docstring's text (under ``""``) and its sections, unindented."""
    parts = _SECTION.split(docstring)
    found = {"": parts[0].strip()}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        inside, _, after = re.sub(r"\n(?=\S)", "\0", body, count=1).partition("\0")
        found[title] = inspect.cleandoc(f"\n{inside}")
        found[""] += f"\n\n{after.strip()}" if after.strip() else ""
    return found


def entries(section: str) -> dict[str, tuple[str, str]]:
    """Name -> (type, meaning) of the entries of a section; ``a, b: text`` gives both the text."""
    found = {}
    for entry in re.split(r"\n(?=\S)", section):
        match = re.match(r"([\w*, \n]+?)(?: \((.+?)\))?:\s+(.*)", entry, re.DOTALL)
        if match:
            kind, text = match[2] or "", " ".join(match[3].split())
            found |= {name.strip("* "): (kind, text) for name in match[1].replace("\n", " ").split(",")}
    return found


def _fill(match: re.Match) -> str:
    table = _TABLES[match[2]](*(match[3] or "").split())
    return f"{match[1]}{table}\n{match[4]}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _options(name: str) -> str:
    """The options of a stage's constructor: name, default and what its docstring, or that of its parent, says."""
    cls = get_stage(name)
    rows = []
    for option in inspect.signature(cls).parameters.values():
        if option.name not in ("backbone", "num_classes"):
            meaning = markdown(_meaning(cls, option.name)).replace("see `CamHead`", "see [heads](cam.md#options)")
            rows.append([f"`{option.name}`", f"`{_default(option.default)}`", meaning])
    return _table(["option", "default", "meaning"], rows)


def _refinement_options(name: str) -> str:
    """The table of ``[evaluate.<name>]``; SCG's is that of SPA's ``[stage.model.scg]``, too."""
    cls = get_refinement(name)
    rows = [
        [f"`{option.name}`", f"`{_default(option.default)}`", markdown(_meaning(of, option.name))]
        for of in ((CorrelationRule, cls) if cls.more_options() else (cls,))
        for option in inspect.signature(of).parameters.values()
        if option.default is not option.empty
    ]
    return _table(["option", "default", "meaning"], rows) if rows else "No options."


def _meaning(cls: type, option: str) -> str:
    said = sections(inspect.getdoc(cls))
    text = entries(said.get("Args", said.get("Attributes", ""))).get(option, ("", ""))[1]
    elsewhere = re.match(r"as :class:`~(.+)\.(\w+)`", text)
    if elsewhere or not text:
        parent = getattr(importlib.import_module(elsewhere[1]), elsewhere[2]) if elsewhere else cls.__mro__[1]
        return _meaning(parent, option)
    return text


def _default(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_default, value))}]"
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _recipes(*prefixes: str) -> str:
    """The recipes with a stage of these methods, by folder."""
    folders: dict[str, list[str]] = {}
    for name, methods in _methods_of_recipes().items():
        if methods & set(prefixes):
            folders.setdefault(name.rpartition("/")[0], []).append(f"`{name}`")
    order = sorted(folders, key=lambda folder: (list(_FOLDERS).index(folder) if folder in _FOLDERS else 99, folder))
    return _table(["for", "recipes"], [[_FOLDERS.get(key, f"`{key}`"), ", ".join(folders[key])] for key in order])


@functools.cache
def _methods_of_recipes() -> dict[str, set[str]]:
    return {name: {method_of(stage.method) for stage in load_recipe(name).stage} for name in list_recipes()}


_FOLDERS = {
    "": "the papers' tables",
    "ablation": "rows of their ablations",
    "wsolevaluation": "the benchmark of Choe et al.",
    "cub50": "50 CUB classes on a CPU",
    "imagenet": "torchvision's networks as they are",
    "ilsvrc400": "400 ImageNet images, networks as they are",
    "pets3": "three breeds of pets, with masks",
    "demo": "the demo",
    "demo_baselines": "the demo, `--baselines`",
}


def _protocols() -> str:
    rows = [
        [f"`{one.name}`", _frame(one), _map(one), _cut(one), _box(one), _overlap(one), _grid(one.thresholds)]
        for one in PROTOCOLS.values()
    ]
    header = ["protocol", "compared in", "map", "foreground", "box", "right when", "thresholds"]
    return _table(header, rows)


def _traps() -> str:
    return "\n".join(f"* **`{one.name}`**: {markdown(one.source)}" for one in PROTOCOLS.values())


def _frame(one: Protocol) -> str:
    side = one.input_size
    return {
        "input": f"the input, {side}×{side}",
        "image": "the original image",
        "scaled": f"cut at {f'{side}×{side}' if side else 'the size of the map'}, scaled to the image"
        + {"exact": "", "truncate": " and truncated", "round": " and rounded"}[one.box_scaling],
        "crop": f"the central {side} of {one.resize}×{one.resize}",
    }[one.frame]


def _map(one: Protocol) -> str:
    rule = one.rule
    resize = {"cubic": "bicubic", "linear": "bilinear", "linear_corners": "bilinear, corners aligned", "none": ""}
    scale = {"minmax": "min-max", "minmax_eps": f"min-max + {rule.eps:g}", "max": "by its maximum", "min": "minus min"}
    scale["none"] = "as it is"
    parts = [resize[rule.interpolation], scale[rule.normalization]]
    parts = parts[::-1] if rule.normalize_first else parts
    return ", ".join(filter(None, [*parts, "8 bits" if rule.quantize else ""]))


def _cut(one: Protocol) -> str:
    rule = one.rule
    whole = "max" if rule.percentile == 100 else f"{rule.percentile:g}th percentile"
    level = f"t · {whole}" if rule.relative else "t"
    return f"{rule.comparison} {level}" + (", then > mean" if rule.mean_cut else "")


def _box(one: Protocol) -> str:
    rule = one.rule
    which = {
        "contour_area": "largest contour",
        "box_area": "largest box",
        "pixel_area": "most pixels",
        "union": "around everything",
        "all": "every contour",
    }[rule.selection]
    if rule.selection in ("box_area", "pixel_area"):
        which += f", {rule.connectivity}-connected"
    end = {"clipped": "one past the last pixel, clipped", "exclusive": "one past the last", "inclusive": "last pixel"}
    return f"{which}; ends at: {end[rule.box_end]}"


def _overlap(one: Protocol) -> str:
    rule = one.rule
    whom = "" if rule.gt == "any" else " with the first true box"
    return f"IoU {rule.hit} 0.5{whom}" + (", +1 pixel" if rule.iou_plus_one else "")


def _grid(thresholds: tuple[float, ...]) -> str:
    if len(thresholds) <= 3:
        return ", ".join(f"{t:g}" for t in thresholds)
    return f"{thresholds[0]:g} to {thresholds[-1]:.3g}, {len(thresholds)}"


def _speeds(*files: str) -> str:
    """Smallest and largest speed-up of every op over the cases of results files."""
    times: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for name in files:
        file = DOCS.parent / "bench" / "results" / f"{name}.json"
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            times.setdefault((row["op"], row["mode"]), {}).setdefault(row["case"], {})[row["contender"]] = row["ms"][
                "p50"
            ]
    modes, rows = {"fwd": "forward", "fwd+bwd": "with backward"}, []
    for (op, mode), cases in times.items():
        ratios = [case["eager fp32"] / case["ours"] for case in cases.values()]
        rows.append([f"`{op}`", modes[mode], str(len(ratios)), f"{min(ratios):.2g}x to {max(ratios):.2g}x"])
    return _table(["op", "pass", "cases", "faster than the reference"], rows)


def _zoo(*patterns: str) -> str:
    header, *rows = neighbour("measured").zoo(*patterns)
    return _table(header, rows)


def _leaderboard(data: str) -> str:
    table = neighbour("measured").leaderboard(data)
    filled = [any(cells) for cells in zip(*table[1:], strict=True)]
    header, *rows = [list(compress(line, filled)) for line in table]
    return _table(header, rows)


def _end_to_end(*names: str) -> str:
    """Images per second of training and evaluation, and their time over that of the bare loops beside them."""
    cases: dict[tuple[str, str], dict[str, dict]] = {}
    for name in names:
        file = DOCS.parent / "bench" / "results" / f"{name}.json"
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            cases.setdefault((row["case"], row["work"]), {})[row["contender"]] = row
    rows = []
    for (case, work), found in cases.items():
        times = {who: 1 / row["ratio"] for who, row in found.items() if who != "ours"}
        # GC-Net has no classifier of its own: its detector and what it trains with are measured together.
        network = times.get("network", times.get("networks"))
        plain = times.get("classifier" if work == "train" else "backbone")
        published = f"{1 / times['published']:.2f}x" if "published" in times else "–"
        targets = [
            f"at most {wanted:.2f} of {who}: {'met' if times[who] <= wanted else 'missed'}"
            for who, wanted in found["ours"]["targets"].items()
        ]
        rate = f"{1e3 / found['ours']['ms']['p50']:.1f}"
        kind = {"train": "training step", "evaluate": "evaluation"}[work]
        rows.append(
            [case, kind, rate, f"{network:.2f}", f"{plain:.2f}" if plain else "–", published, ", ".join(targets) or "–"]
        )
    header = ["case", "work", "images/s", "time of network", "of classifier, backbone", "faster than published way"]
    return _table([*header, "target"], rows)


def _cams(*names: str) -> str:
    """Time of gradient maps over that of the passes beside them, packages' times over theirs, and memory."""
    cases: dict[str, dict[str, dict]] = {}
    for name in names:
        file = DOCS.parent / "bench" / "results" / f"{name}.json"
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            cases.setdefault(row["case"], {})[row["contender"]] = row
    rows = []
    for case, found in cases.items():
        packages = [who for who in ("torch-cam", "pytorch-grad-cam") if "ms" in found.get(who, {})]
        least = found["ours"]["least_ms"] / 1e3
        both = found.get("forward and backward")
        above = [f"{found[who]['bytes_above_forward'] / 2**20:,.0f}" for who in ("ours", *packages)]
        rows.append(
            [
                case,
                f"{least:.2f} s",
                f"{1 / found['forward']['ratio']:.2f}",
                f"{1 / both['ratio']:.2f}" if both else "–",
                ", ".join(f"{found[who]['ratio']:.2f}x" for who in packages) or "–",
                ", ".join(above),
                ", ".join(f"{verdict.lower()}: {numbers}" for verdict, numbers in cams.verdicts(found)),
            ]
        )
    header = ["maps", "time", "of forward", "of forward and backward", "faster than torch-cam, pytorch-grad-cam"]
    return _table([*header, "MiB above forward: ours, theirs", "at most"], rows)


def _first_picture() -> str:
    """Whole-picture and right boxes of ImageNet networks as they are, before and now, on photos that chose nothing."""
    found = json.loads((DOCS.parent / "bench" / "results" / "first_picture.json").read_text(encoding="utf-8"))
    levels, chosen = found["thresholds"], found["chosen"]
    now = {"SqueezeNet 1.1": "scg", "MobileNetV2": "none"}
    names = {"pets3_256": "Pets-3"}
    rows = []
    for network, post in now.items():
        before, after = (found["rows"][f"{network}, {one}"] for one in ("none", post))
        threshold = chosen[f"{network}, {post}"] if post != "none" else chosen["every network"]
        for name, part in after.items():
            if name in ("ILSVRC-400, even", "cub50_256"):
                continue
            cells = [
                f"{row[name][key][levels.index(level)]:.1f}"
                for key in ("whole", "right", "useful")
                for row, level in ((before, found["before"]), (after, threshold))
            ]
            how = f"{threshold:g}" + (f", {post.upper()}" if post != "none" else "")
            rows.append([network, names.get(name, name), str(part["photos"]), how, *cells])
    heads = [f"{kind}, {when}" for kind in ("whole", "right", "useful") for when in ("before", "now")]
    return _table(["network", "photos", "number", "cut now at", *heads], rows)


def _scaling(part: str) -> str:
    scaling = neighbour("scaling")
    gpus = [f"{count} GPU{'s' * (count > 1)}" for count in scaling.GPUS]
    return _table(["", *(["", "from"] if part == "sizes" else gpus)], getattr(scaling, part)())


@functools.cache
def neighbour(name: str) -> ModuleType:
    """Import a file beside this one, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_TABLES: dict[str, Callable[..., str]] = {
    "speeds": _speeds,
    "end_to_end": _end_to_end,
    "cams": _cams,
    "scaling": _scaling,
    "first_picture": _first_picture,
    "leaderboard": _leaderboard,
    "zoo": _zoo,
    "options": _options,
    "refinement": _refinement_options,
    "recipes": _recipes,
    "protocols": _protocols,
    "traps": _traps,
}


def markdown(text: str) -> str:
    """A docstring's markup as Markdown with formulas between dollars."""
    text = re.sub(r":math:`([^`]+)`", lambda match: f"${_formula(match[1])}$", text)
    text = re.sub(r":\w+:`~([^`]+)`", lambda match: f"`{match[1].rpartition('.')[2]}`", text)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", text).replace("``", "`")


def _formula(text: str) -> str:
    """TeX without the backslashes before punctuation that Markdown takes for its own."""
    for short, long in ((r"\,", r"\thinspace "), (r"\|", r"\Vert "), (r"\{", r"\lbrace "), (r"\}", r"\rbrace ")):
        text = text.replace(short, long)
    return text


def main() -> None:
    for page, text in outdated().items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
