"""Results as a picture: how many times ours the strongest peer takes, case by case."""

from pathlib import Path

from wsolfast.bench.measure import need_module
from wsolfast.bench.rows import KEYS, Key, Results, strongest
from wsolfast.engine.run.errors import UsageError
from wsolfast.engine.run.outputs import Outputs

SUFFIXES = (".png", ".svg")
FASTER, SLOWER = "#2a6f97", "#c1502e"
INCHES_PER_BAR = 0.27


def check_plot(path: Path) -> None:
    """That :func:`draw` will be able to write there.

    Raises:
        UsageError: for another suffix.
        BackendError: without matplotlib.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--plot: expected a name that ends with .png or .svg, got {path}")
    need_module("matplotlib", "pip install 'wsolfast[viz]'")


def draw(results: Results, path: Path) -> None:
    """Horizontal bars from the line at 1x: to its right ours is faster, to its left slower.

    Raises:
        UsageError: if no case has a peer.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    names = KEYS[results.bench]
    bars = [(_label(names, key), *found) for key, rows in results.cases.items() if (found := strongest(rows))]
    if not bars:
        raise UsageError("--plot: no case has anything to compare ours with; measure with peers")
    figure = Figure(figsize=(13, 1.7 + INCHES_PER_BAR * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    found = [ratio for _, _, ratio in bars]
    colours = [FASTER if ratio >= 1 else SLOWER for ratio in found]
    axes.barh(range(len(bars)), [ratio - 1 for ratio in found], left=1, color=colours, height=0.7)
    for place, (_, peer, ratio) in enumerate(bars):
        at = (max(ratio, 1), place)
        axes.annotate(f"{ratio:.3g}x {peer}", at, (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xscale("log")
    # Room for the words at the longest bar's end.
    low, high = min(*found, 1.0), max(*found, 1.0)
    axes.set_xlim(low / 1.15, high * max(2.0, (high / low) ** 0.35))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color="#d8d8d8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("time of the strongest peer over ours (right of 1x: ours is faster)")
    facts = results.environment
    told = (facts["device"], *(f"{name} {facts[name]}" for name in ("torch", "commit") if facts.get(name)))
    where = ", ".join((*told, facts["date"]) if facts.get("date") else told)
    figure.suptitle(f"wsolfast bench {results.bench}", fontsize=11, fontweight="bold")
    axes.set_title(where, fontsize=8, loc="left")
    Outputs(path.parent).write(path, lambda stream: figure.savefig(stream, format=path.suffix[1:], dpi=130))


def _label(names: tuple[str, ...], key: Key) -> str:
    """A number says nothing without its name."""
    return ", ".join(f"{name} {value}" if value.isdecimal() else value for name, value in zip(names, key, strict=True))
