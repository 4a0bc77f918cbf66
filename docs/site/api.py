"""The pages of the API: their names, and the full names of what each of them shows."""

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass

from wsolfast.refinements import get_refinement, list_refinements

# Page -> modules whose ``__all__`` it shows, or the names of a module that has none.
PAGES: dict[str, list[str | tuple[str, str]]] = {
    "python": ["wsolfast.api"],
    "ops": ["wsolfast.ops"],
    "metrics": [
        "wsolfast.metrics",
        ("wsolfast.metrics.functional", "box_hits best_overlaps predicted_boxes error_kinds given_box_hits px_ap"),
    ],
    "data": ["wsolfast.data"],
    "backbones": ["wsolfast.backbones"],
    "methods": ["wsolfast.methods", ("wsolfast.types", "Batch TrainState Localization ParamGroup")],
    "refinements": [
        "wsolfast.refinements",
        *((f"wsolfast.refinements.{name}", get_refinement(name).__name__) for name in list_refinements()),
        ("wsolfast.refinements.ccam", "Combination"),
    ],
    "export": ["wsolfast.export", "wsolfast.interop"],
    "convert": ["wsolfast.convert"],
    "compat": ["wsolfast.compat.wsolevaluation"],
    "testing": ["wsolfast.testing"],
    "engine": [
        ("wsolfast.recipe", "list_recipes load_recipe parse_recipe dump_recipe RecipeError"),
        ("wsolfast.engine.run.run_folder", "RunFolder"),
        ("wsolfast.engine.run.observers", "Observer EpochEnd"),
        ("wsolfast.engine.training.train", "train"),
        ("wsolfast.engine.evaluation.evaluate", "evaluate evaluate_shard"),
        ("wsolfast.engine.evaluation.eval_split", "EvalShard"),
        ("wsolfast.engine.evaluation.evaluate_maps", "evaluate_maps"),
        ("wsolfast.engine.localize", "localize"),
        (
            "wsolfast.engine.run.results",
            "EvalResults PixelMetrics ErrorShares Throughput ThresholdSweep Curves ProtocolCurves ImageTable ImageRow "
            "MapResults Comparison LocalizeResults LocalizedImage LocalizedClass UnreadableImage Reproduction "
            "ReproducedRecipe ReproducedRun",
        ),
        ("wsolfast.engine.report.report", "write_report"),
        ("wsolfast.engine.reproduce", "plan reproduce summarize to_markdown"),
        ("wsolfast.engine.demo", "demo"),
        ("wsolfast.engine.assembly.build", "build_method choose_device"),
        ("wsolfast.engine.assembly.optimizer", "build_optimizer rate_at"),
        ("wsolfast.engine.report.pictures", "colorize overlay draw_boxes contact_sheet"),
        (
            "wsolfast.engine.run.errors",
            "RunError UsageError InUseError MissingError BackendError CheckError Interrupted",
        ),
    ],
}


def public(page: str) -> Iterator[tuple[str, type]]:
    """Yield full name and object of everything that a page shows: functions and classes, no plain values."""
    for part in PAGES[page]:
        module_name, names = part if isinstance(part, tuple) else (part, None)
        module = importlib.import_module(module_name)
        for name in names.split() if names else module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield f"{module_name}.{name}", thing


def comments(thing: type) -> dict[str, str]:
    """Return the comments behind the fields of a dataclass and of those that it builds on, by field."""
    sources = [inspect.getsource(cls) for cls in reversed(thing.__mro__) if is_dataclass(cls)]
    lines = [re.findall(r"^    ([a-z]\w*): [^#\n]+?  # (.+)$", source, re.MULTILINE) for source in sources]
    return {name: comment for found in lines for name, comment in found}
