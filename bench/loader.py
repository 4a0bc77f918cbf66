"""Images per second of decoding and resizing, for every decoder that is installed, beside Pillow alone.

Images are JPEG files: those of a folder, or rendered ones. A case is a decoder, a state of the cache of decoded images
("no cache"; "cold cache", decoded and written into it; "warm cache", read from it) and a number of threads; the peer is
what anybody would write, Pillow's decoding and Pillow's resize, on as many threads. Before anything is timed, every
decoder's pixels are compared with Pillow's: they must be equal. On one thread the clock is the thread's CPU time, on
several the wall's.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsolfast import data
from wsolfast.bench.measure import SHARES, environment
from wsolfast.bench.rows import OURS, Key, Recorder
from wsolfast.bench.tables import Output, present
from wsolfast.data._files import FileSource
from wsolfast.data.images.cache import open_cache
from wsolfast.data.images.decode import DECODERS, decode
from wsolfast.engine.run.errors import MissingError, UsageError

# Of the rendered images, about ImageNet's.
SIDE = 400
SUFFIXES = {".jpg", ".jpeg"}
CACHES = ("no cache", "cold cache", "warm cache")
# Of the resize, as wsolfast.data.resize has it, in levels of 255.
RESIZE_TOLERANCE = 1
GB = 10**9


@contextmanager
def jpegs(root: Path | None, images: int) -> Iterator[tuple[Path, list[str]]]:
    """Open a folder and list paths of JPEG files below it: evenly spread over those of ``root``, or rendered.

    Raises:
        MissingError: if there is none.
    """
    if root is not None:
        found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise MissingError(f"{root}: no JPEG file in there; without --root, images are rendered")
        count = min(images, len(found))
        yield root, [str(found[index * len(found) // count].relative_to(root)) for index in range(count)]
        return
    with tempfile.TemporaryDirectory() as folder:
        data.synth_imagenet(folder, images=images, train_images=0, classes=32, size=SIDE)
        files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
        yield Path(folder), [str(path.relative_to(folder)) for path in files]


def decoders_here(wanted: Sequence[str]) -> list[str]:
    """Return the decoders that are installed, of those wanted.

    Raises:
        UsageError: for an unknown name.
        DataError: if one that was asked for is not installed, or not exact as installed.
    """
    known = [name for name in DECODERS if name != "auto"]
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(f"--decoder: expected {', '.join(known)}, got {unknown[0]!r}")
    found = []
    for name in wanted or known:
        try:
            data.chosen_decoder(name)
        except data.DataError:
            if wanted:
                raise
            continue
        found.append(name)
    return found


def with_pillow(file: Path, side: int) -> np.ndarray:
    """Read an image as anybody would, uint8 [3, side, side]."""
    with Image.open(file) as image:
        resized = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return np.array(resized).transpose(2, 0, 1)


def check_pixels(reader: "Reader", decoder: str) -> None:
    """Compare every image with Pillow's.

    Raises:
        AssertionError: if the decoder does not give Pillow's bits, or the resize is not Pillow's; it names the image.
    """
    found = reader.open(decoder)
    for index, file in enumerate(reader.files):
        whole = np.abs(decode(file, decoder).astype(int) - decode(file, "pil"))
        if whole.any():
            raise AssertionError(f"{whole.astype(bool).sum()} values of {file.name} differ, by up to {whole.max()}")
        by_pillow = torch.from_numpy(with_pillow(file, reader.side)).int()
        resized = int((found[index].image.int() - by_pillow).abs().max())
        if resized > RESIZE_TOLERANCE:
            raise AssertionError(f"{file.name} resized differs by up to {resized}, more than {RESIZE_TOLERANCE}")


class Reader:
    """Files of a folder through a decoder, a resize and, where there is one, a cache."""

    def __init__(self, folder: Path, names: Sequence[str], side: int, cache_gb: float):
        self.folder, self.names, self.side = folder, names, side
        self.files = [folder / name for name in names]
        self.max_bytes = int(cache_gb * GB)

    def open(self, decoder: str, cache: Path | None = None) -> data.Dataset:
        source = FileSource(self.folder, self.names, [0] * len(self.names), ["any"], decoder=decoder, orient=False)

        def open_one(view: data.View):
            spec = data.CacheSpec(cache, self.max_bytes)
            return open_cache(spec, "bench", {"decoder": decoder, "size": view.size}, len(self.names))

        return data.Dataset(source, "test", data.View(self.side), cache=open_one if cache else None)

    def reader(self, decoder: str, state: str, cache: Path) -> Callable[[int], object]:
        """Return what reads one image by its number, from a cache in that state."""
        if state == "no cache":
            return self.open(decoder).__getitem__
        dataset = self.open(decoder, cache)
        if state == "warm cache":
            for index in range(len(dataset)):
                dataset[index]
        return dataset.__getitem__


def milliseconds(read: Callable[[int], object], images: int, threads: int) -> list[float]:
    """Time each image, on one thread; on several, all of them over their number."""
    if threads == 1:
        times = []
        for index in range(images):
            begin = time.thread_time()
            read(index)
            times.append(1e3 * (time.thread_time() - begin))
        return times
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: None, range(threads)))
        begin = time.perf_counter()
        list(pool.map(read, range(images)))
        return [1e3 * (time.perf_counter() - begin) / images]


def times_of(make: Callable[[], Callable[[int], object]], images: int, threads: int, rounds: int) -> dict:
    """Return percentiles over the images, or over the rounds on several threads, of readers made for each round."""
    times = sorted(ms for _ in range(rounds) for ms in milliseconds(make(), images, threads))
    return {f"p{share}": times[share * (len(times) - 1) // 100] for share in SHARES}


def measure(reader: Reader, decoder: str, threads: int, rounds: int) -> Iterator[tuple[str, dict]]:
    """Yield states of the cache, and times with them."""
    for state in CACHES if reader.max_bytes else CACHES[:1]:
        with tempfile.TemporaryDirectory() as folder:
            count = iter(range(rounds))

            def make(state=state, folder=folder, count=count):
                # A cold cache is a new one.
                return reader.reader(decoder, state, Path(folder, str(next(count)) if state == "cold cache" else "one"))

            yield state, times_of(make, len(reader.names), threads, rounds)


def notes(key: Key, rows: dict[str, dict]) -> list[str]:
    """Tell the images per second."""
    return [f"{1e3 / rows[OURS]['ms']['p50']:,.0f} images/s"]


def run(
    output: Output,
    *,
    root: Path | None = None,
    images: int = 256,
    side: int = 256,
    decoder: Sequence[str] = (),
    threads: int | None = None,
    cache_gb: float = 1.0,
    rounds: int = 3,
) -> None:
    """Compare, time and show.

    Args:
        output: where results go.
        root: folder of JPEG files, at any depth; images are rendered without.
        images: how many are taken.
        side: that they are warped to.
        decoder: only these; every one that is installed without.
        threads: besides one; as many as there are cores without.
        cache_gb: room of the cache of decoded images; 0 leaves it out.
        rounds: how often each image is read.

    Raises:
        UsageError: for an unknown decoder.
        MissingError: if there is no image.
        CheckError: if pixels are not Pillow's.
    """
    torch.set_num_threads(1)
    names = decoders_here(decoder)
    counts = sorted({1, threads or os.cpu_count() or 1})
    facts = environment("cpu", 1) | {"clock": "CPU time on one thread, wall time on several"}
    found = Recorder("loader", output.json, facts)
    shown: list[Key] = []

    def add(contender: str, row: dict) -> None:
        found.add(row | {"contender": contender})
        shown.append(found.results.key(row))

    with jpegs(root, images) as (folder, files):
        reader = Reader(folder, files, side, cache_gb)
        what = f"{len(files)} {'rendered' if root is None else f'of {root.resolve().name}'} to {side}x{side}"
        for name in names:
            try:
                check_pixels(reader, name)
            except AssertionError as error:
                case = {"images": what, "decoder": name, "cache": "no cache", "threads": 1}
                add(OURS, case | {"status": f"wrong: {error}"})
        for count in () if shown else counts:
            pillow = times_of(lambda: lambda index: with_pillow(reader.files[index], side), len(files), count, rounds)
            for name in names:
                for state, ms in measure(reader, name, count, rounds):
                    case = {"images": what, "decoder": name, "cache": state, "threads": count, "status": "ok"}
                    add(OURS, case | {"ms": ms})
                    add("pillow", case | {"ms": pillow})
    present(found.restricted(shown), notes, output)
