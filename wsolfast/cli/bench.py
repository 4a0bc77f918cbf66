"""The ``wsolfast bench`` commands. What they run is imported inside them, so that help is instant."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help=(
        "Time this library against other code, after its results are found right.\n\n"
        "Every table gives machine, versions, commit and command. If a result is wrong, its name and the size of the "
        "difference are printed, no time is shown, and the exit code is 5."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the rows to this file, for bench compare.")
]
Md = Annotated[Path | None, typer.Option("--md", metavar="FILE", help="Write the table to this file, as Markdown.")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw the ratios to the fastest peer into this .png or .svg file."),
]
Device = Annotated[str, typer.Option(help="Run on this device: cpu or cuda.")]
Threads = Annotated[int, typer.Option(min=1, help="Use this many threads on a CPU.")]
Minutes = Annotated[
    float,
    typer.Option(min=0, help="Start no measurement after this many minutes. If some are missing, the exit code is 1."),
]


def _choice(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    from wsolfast.engine.run.errors import UsageError

    if value is not None and value not in allowed:
        raise UsageError(f"{option}: expected {' or '.join(allowed)}, got {value!r}")


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast bench ops --json ops.json --md ops.md --plot ops.png\n\n"
    "  wsolfast bench ops --op self_correlation_map --op class_head_pool\n\n"
    "  wsolfast bench ops --device cuda --json gpu.json --minutes 9",
)
def ops(
    op: Annotated[
        list[str] | None, typer.Option("--op", metavar="NAME", help="Time only this op. The option may be repeated.")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            "--peer", metavar="NAME", help="Time only peers whose names start with this. The option may be repeated."
        ),
    ] = None,
    device: Device = "cpu",
    cases: Annotated[
        str | None, typer.Option(help="Take these cases: cpu, cuda or tiny. The default is those of the device.")
    ] = None,
    threads: Threads = 1,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Measure for this many seconds, and twice. The default is the bench's.")
    ] = None,
    minutes: Minutes = float("inf"),
    ceilings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read from this file what python -m wsolfast.bench.ceilings measured."),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Measure nothing, and show the rows in the file of --json.")
    ] = False,
    targets: Annotated[bool, typer.Option("--targets", help="Take only the cases that have targets.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Compare results and time nothing.")] = False,
    json: Json = None,
    md: Md = None,
    plot: Plot = None,
) -> None:
    """Time ops at the sizes of real layers against their PyTorch references, compiled code and libraries.

    On a CPU, times are the thread's CPU time, which other programs change little. On a GPU, they are measured by
    events, with cold caches. Rows of the same code and machine that are already in the file of --json are kept.
    """
    _choice("--device", device, ("cpu", "cuda"))
    _choice("--cases", cases, ("cpu", "cuda", "tiny"))
    from wsolfast.bench import ops as bench
    from wsolfast.bench.tables import Output

    bench.run(
        Output(json, md, plot),
        device=device,
        cases=cases,
        op=op or (),
        peers=peer or (),
        threads=threads,
        seconds=seconds,
        minutes=minutes,
        ceilings=ceilings,
        summary=summary,
        targets=targets,
        check_only=check,
    )


@app.command(
    name="eval",
    epilog="Examples:\n\n"
    "  wsolfast bench eval --quick\n\n"
    "  wsolfast bench eval --what boxes --json boxes.json --plot boxes.svg\n\n"
    "  wsolfast bench eval --what labels --what stream",
)
def evaluate(
    what: Annotated[
        list[str] | None,
        typer.Option(
            "--what",
            help="Time boxes, labels (SPOL's pseudo labels) or stream (50,000 maps). The default is all.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Take fewer kinds of maps, fewer maps and a short stream.")
    ] = False,
    json: Json = None,
    md: Md = None,
    plot: Plot = None,
) -> None:
    """Time boxes of score maps at every threshold against the published OpenCV loop and a faster form of it."""
    from wsolfast.bench.measure import need_module

    need_module("cv2", "pip install 'wsolfast[fast]'")
    need_module("wsolfast._numpy", "install wsolfast with a C++ compiler, without WSOLFAST_EXT=0 and WSOLFAST_NUMPY=0")
    from wsolfast.bench import eval as bench
    from wsolfast.bench.tables import Output

    bench.run(Output(json, md, plot), what=what or bench.WHAT, quick=quick)


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast bench loader\n\n"
    "  wsolfast bench loader --root /data/ILSVRC/val --images 2000 --threads 8 --md loader.md\n\n"
    "  wsolfast bench loader --decoder pil --decoder simplejpeg --cache-gb 0",
)
def loader(
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read the JPEG files of this folder. The default is rendered images."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Read this many of the files, evenly spread.")] = 256,
    side: Annotated[int, typer.Option(min=1, help="Warp images to squares of this many pixels a side.")] = 256,
    decoder: Annotated[
        list[str] | None,
        typer.Option(
            "--decoder", metavar="NAME", help="Decode by pil or simplejpeg. The default is all that are installed."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Also use this many threads, besides one. The default is the number of cores."),
    ] = None,
    cache_gb: Annotated[
        float, typer.Option(min=0, help="Give the cache of decoded images this many GB. 0 leaves it out.")
    ] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Read every image this many times.")] = 3,
    json: Json = None,
    md: Md = None,
    plot: Plot = None,
) -> None:
    """Measure images per second of decoding and resizing, by decoder, threads and cache, against Pillow alone.

    A cold cache is being filled, and a warm cache holds every image. Before anything is timed, the pixels are compared
    with Pillow's. They must be equal.
    """
    from wsolfast.bench import loader as bench
    from wsolfast.bench.tables import Output

    bench.run(
        Output(json, md, plot),
        root=root,
        images=images,
        side=side,
        decoder=decoder or (),
        threads=threads,
        cache_gb=cache_gb,
        rounds=rounds,
    )


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast bench e2e --quick\n\n"
    "  wsolfast bench e2e --case SPA --work train --json e2e.json\n\n"
    "  wsolfast bench e2e --device cuda --case 'CAM VGG16' --minutes 9",
)
def e2e(
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case", metavar="NAME", help="Time only cases whose names start with this. The option may be repeated."
        ),
    ] = None,
    work: Annotated[str | None, typer.Option(help="Time this work: train or evaluate. The default is both.")] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Take images from memory, jpeg, cache or cuda. The default is all that a case has."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Take a small network, to test that the command works.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Let the programs take turns this many times.")] = 7,
    device: Device = "cpu",
    threads: Threads = 1,
    minutes: Minutes = float("inf"),
    json: Json = None,
    md: Md = None,
    plot: Plot = None,
) -> None:
    """Time training steps and evaluation from image to result against the network alone and the published way."""
    _choice("--device", device, ("cpu", "cuda"))
    _choice("--work", work, ("train", "evaluate"))
    _choice("--source", source, ("memory", "jpeg", "cache", "cuda"))
    from wsolfast.bench import end_to_end as bench
    from wsolfast.bench.measure import need_module
    from wsolfast.bench.tables import Output

    if device == "cpu":
        need_module("cv2", "pip install 'wsolfast[fast]'")
        need_module("scipy", "pip install 'wsolfast[dev]'")
    bench.run(
        Output(json, md, plot),
        device=device,
        case=case or (),
        work=work,
        source=source,
        quick=quick,
        rounds=rounds,
        threads=threads,
        minutes=minutes,
    )


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast bench cams --quick\n\n"
    "  wsolfast bench cams --case layer_cam --rounds 3 --json cams.json\n\n"
    "  wsolfast bench cams --device cuda --minutes 9",
)
def cams(
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case", metavar="NAME", help="Time only cases whose names start with this. The option may be repeated."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Take a small network, to test that the command works.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Let the programs take turns this many times.")] = 7,
    device: Device = "cpu",
    threads: Threads = 1,
    minutes: Minutes = float("inf"),
    json: Json = None,
    md: Md = None,
    plot: Plot = None,
) -> None:
    """Time gradient maps of torchvision's networks against the forward pass, torch-cam and pytorch-grad-cam.

    Maps are compared first. Packages that are not installed are left out: pip install 'wsolfast[interop]'.
    """
    _choice("--device", device, ("cpu", "cuda"))
    from wsolfast.bench import cams as bench
    from wsolfast.bench.tables import Output

    bench.run(
        Output(json, md, plot),
        device=device,
        case=case or (),
        quick=quick,
        rounds=rounds,
        threads=threads,
        minutes=minutes,
    )


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast bench compare old.json new.json\n\n"
    "  wsolfast bench compare bench/results/eval-epyc-zen4-1thread.json new.json --fail-below 0.9",
)
def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Read this older file of --json.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Read this newer file of --json.")],
    fail_below: Annotated[
        float | None, typer.Option(min=0, help="Exit with 5 if any ratio old / new of wsolfast is smaller.")
    ] = None,
    md: Md = None,
) -> None:
    """Compare two results files, with the slowest case first. --fail-below makes it a test against slower code.

    Cases are matched by everything in their names. A warning names different machines, versions or threads, because
    times of one machine say nothing about another one. One line has the ratios of the peers. They show if the machine
    itself became slower or faster.
    """
    from wsolfast.bench import compare as bench

    bench.run(old, new, fail_below=fail_below, md=md)
