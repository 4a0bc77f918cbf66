"""Tables of what ``bench/results`` has measured: the zoo and the leaderboard. ``docs/generate.py`` writes them."""

import dataclasses
import fnmatch
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from wsolfast import refinements
from wsolfast.engine.assembly.stage_refs import localizer_of
from wsolfast.methods import display_name, method_of
from wsolfast.recipe import Recipe, as_measured, list_recipes, load_recipe

RESULTS = Path(__file__).parents[1] / "bench" / "results"
Table = list[list[str]]

_ZOO = {"top1_loc": "Top-1 Loc", "gt_known_loc": "GT-known"}
_SETS = {
    "cub": "CUB",
    "ilsvrc": "ILSVRC",
    "openimages": "OpenImages30k",
    "cub50": "CUB-50",
    "ilsvrc400": "ILSVRC-400",
    "pets3": "Pets-3",
    "synthetic": "rendered",
}
_LEADERBOARD = {
    "gt_known_loc": "GT-known",
    "gt_known_transferred": "transferred",
    "max_box_acc_v2": "MaxBoxAccV2",
    "px_ap": "PxAP",
    "p_iou": "pIoU",
    "top1_loc": "Top-1 Loc",
    "top1_cls": "Top-1 Cls",
    "part": "Part",
    "more": "More",
}


@dataclass(frozen=True)
class Row:
    """A recipe's numbers, seed by seed.

    Attributes:
        title: of the recipe and its variant, ``"cub50/cam (scg)"``, or of a baseline, ``"centre box"``.
        seeds: seed -> metric -> percent; a baseline has one "seed".
        trained: whether the numbers are of a training, so that those of another seed could differ.
    """

    title: str
    seeds: dict[int, dict[str, float]]
    trained: bool = True

    def values(self, metric: str) -> list[float]:
        """The numbers of all seeds; none unless every seed has one."""
        found = [numbers.get(metric) for numbers in self.seeds.values()]
        return [value for value in found if value is not None] if None not in found else []

    def cell(self, metric: str) -> str:
        """The mean over seeds and, of several, the lowest and the highest."""
        values = self.values(metric)
        if not values:
            return ""
        return f"{fmean(values):.1f}" + (f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else "")


def leaderboard(data: str) -> Table:
    """Titles of columns, and the rows of everything of the data set ``data``, the best GT-known first.

    A place counts the rows that are better whatever the seed, and those that are not worse whatever the seed. A row of
    one seed is taken to be as wide as the widest one of several seeds; without such a row there are no places.
    """
    found = [row for row in _collect()[data].values() if row.values("gt_known_loc")]
    found.sort(key=lambda row: -fmean(row.values("gt_known_loc")))
    spread = widest_spread(found)
    rows = []
    for row, place in zip(found, places(found, spread) if spread else [""] * len(found), strict=True):
        numbers = [row.cell(metric) for metric in _LEADERBOARD]
        name, _, variant = row.title.partition(" (")
        seeds = ", ".join(map(str, sorted(row.seeds))) if row.trained else ""
        recipe = f"`{name}`" + f", {variant[:-1]}" * bool(variant) if "/" in name else ""
        rows.append([_method(name, variant[:-1]), place, *numbers, seeds, recipe])
    return [["method", "place", *_LEADERBOARD.values(), "seeds", "recipe"], *rows]


def widest_spread(rows: list[Row]) -> float:
    """The largest difference in GT-known between two seeds of a row; 0 if no row has two."""
    several = [row.values("gt_known_loc") for row in rows if len(row.seeds) > 1]
    return max((max(values) - min(values) for values in several), default=0.0)


def places(rows: list[Row], spread: float) -> list[str]:
    """The best and the worst place of every row by GT-known: ``"3"`` or ``"2–5"``."""
    ranges = []
    for row in rows:
        values = row.values("gt_known_loc")
        half = spread / 2 if row.trained and len(values) == 1 else 0.0
        ranges.append((min(values) - half, max(values) + half))
    found = []
    for low, high in ranges:
        best = 1 + sum(other > high for other, _ in ranges)
        worst = len(ranges) - sum(other < low for _, other in ranges)
        found.append(str(best) if best == worst else f"{best}–{worst}")
    return found


def zoo(*patterns: str) -> Table:
    """Titles of columns, and recipes by name, with what their papers publish and what was measured, in percent.

    A recipe of which neither is known has no row.
    """
    measured = {title: row for rows in _collect().values() for title, row in rows.items()}
    rows = []
    for name in dict.fromkeys(name for pattern in patterns for name in fnmatch.filter(list_recipes(), pattern)):
        recipe = load_recipe(name)
        paper = _published(recipe)
        networks = " and ".join(dict.fromkeys(stage.backbone.name for stage in recipe.stage))
        data = _SETS.get(name.partition("/")[0]) or _SETS.get(recipe.data.name, recipe.data.name)
        told = [title for title in paper if not paper[title].keys().isdisjoint(_ZOO)]
        told += [title for title in measured if title.partition(" ")[0] == name]
        for title in sorted(set(told), key=list(dict.fromkeys([*paper, *told])).index):
            published = paper.get(title, {})
            cells = [f"{published[key]:.2f}" if key in published else "" for key in _ZOO]
            cells += [measured[title].cell(key) if title in measured else "" for key in _ZOO]
            rows.append([_method(name) + title.removeprefix(name), networks, data, *cells, f"`{name}`"])
    columns = [f"{whose} {title}" for whose in ("paper:", "measured:") for title in _ZOO.values()]
    # By data set and network, as rows can be compared; of one network in the order of the recipes.
    sets = list(_SETS.values())
    rows.sort(key=lambda row: (sets.index(row[2]), row[1], "/" in row[-1]))
    return [["method", "network", "data", *columns, "recipe"], *rows]


@functools.cache
def _collect() -> dict[str, dict[str, Row]]:
    """Return data set -> title -> row of all results files.

    Of a seed that two files have, the numbers of the first study count, which ``reproduce.json`` holds.
    """
    found: dict[str, dict[str, Row]] = {}
    for file in sorted(RESULTS.glob("*/*.json"), key=lambda file: (file.stem != "reproduce", file)):
        told = json.loads(file.read_text(encoding="utf-8"))
        if "recipes" not in told:
            continue
        rows = found.setdefault(file.parent.name, {})
        for title, recipe in told["recipes"].items():
            trained = any(stage.epochs for stage in load_recipe(title.partition(" (")[0]).stage)
            row = rows.setdefault(title, Row(title, {}, trained))
            for run in recipe["runs"]:
                row.seeds.setdefault(run["seed"], run["numbers"])
        for title, numbers in told.get("centres", {}).items():
            name = title.partition(" (")[0]
            rows.setdefault(name, Row(name, {0: numbers}, trained=False))
    return found


def _method(name: str, variant: str = "") -> str:
    """Return the method of a recipe and what refines its maps; a variant that is no refinement by its name."""
    if "/" not in name and name not in list_recipes():
        return name
    recipe = load_recipe(name)
    method = display_name(method_of(localizer_of(recipe).stage.method))
    post = as_measured(
        dataclasses.replace(recipe, evaluate=dataclasses.replace(recipe.evaluate, variant=variant))
    ).evaluate.post
    if post != "none":
        return f"{method} + {refinements.display_name(post)}"
    return f"{method} ({variant})" if variant else method


def _published(recipe: Recipe) -> dict[str, dict[str, float]]:
    """Return published numbers of a recipe and of its variants, by the titles that ``reproduce.json`` gives them."""
    found = {}
    for variant in ("", *(variant.name for variant in recipe.variant)):
        spec = dataclasses.replace(recipe.evaluate, variant=variant)
        paper = as_measured(dataclasses.replace(recipe, evaluate=spec)).paper
        found[recipe.name + f" ({variant})" * bool(variant)] = paper.numbers() if paper else {}
    return found
