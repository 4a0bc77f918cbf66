"""The arithmetic of scaling.md: what a number of GPUs needs, for training SPA on ImageNet and for evaluating it.

Sizes follow from the data set and the network; rates of this package on a CPU were measured, those of a GPU are
estimates and say so. ``generate.py`` writes the tables from here.
"""

from dataclasses import dataclass

# ILSVRC2012: images of train and val, and the bytes of the archives that hold them.
TRAIN_IMAGES, TRAIN_BYTES = 1_281_167, 147_897_477_120
VAL_IMAGES, VAL_BYTES = 50_000, 6_744_924_160
CLASSES, CROP, RESIZE, EPOCHS = 1000, 224, 256, 20

# Measured, images per second of one core: see data.md. Twice the bytes are taken for half the rate.
DECODE, CACHED, MEASURED_BYTES = 890, 8300, 54_000
# Measured: 50,000 maps of 14x14 to MaxBoxAcc and MaxBoxAccV2 in 21 s of one core.
BOXES = 50_000 / 21
# Estimates, images per second of one H200: no GPU has been measured.
TRAIN_RATE, EVAL_RATE, TEN_CROP = 3500, 10_000, 10
# Bytes per second, one direction; of the makers' sheets.
NVLINK, NETWORK, PCIE = 450e9, 50e9, 64e9
GPUS, PER_NODE, BATCH = (1, 8, 64), 8, 256

# VGG16 as SPA trains it: (channels, side of the map) of every 3x3 convolution, then the classifier.
CONVOLUTIONS = (
    *[(64, 224)] * 2,
    *[(128, 112)] * 2,
    *[(256, 56)] * 3,
    *[(512, 28)] * 3,
    *[(512, 14)] * 3,
    *[(1024, 14)] * 2,
)


@dataclass(frozen=True)
class Network:
    """Sizes of SPA's VGG16, per image where that applies."""

    parameters: int
    flops: float  # of a forward pass, a multiply-add counting two
    outputs: int  # values that convolutions leave for the backward pass


def network() -> Network:
    """From the table of its convolutions."""
    channels, parameters, flops, outputs = 3, 0, 0.0, 0
    for out, side in CONVOLUTIONS:
        parameters += 9 * channels * out + out
        flops += 2 * 9 * channels * out * side * side
        outputs += out * side * side
        channels = out
    side = CONVOLUTIONS[-1][1]
    parameters += channels * CLASSES + CLASSES
    flops += 2 * channels * CLASSES * side * side
    outputs += CLASSES * side * side
    return Network(parameters, flops, outputs)


def sizes() -> list[list[str]]:
    """Return the sizes of one image and of one step."""
    net = network()
    gradient = 4 * net.parameters
    held = 2 * net.outputs * BATCH
    return [
        ["a training image, JPEG", f"{TRAIN_BYTES / TRAIN_IMAGES / 1e3:.0f} kB", "archive / images"],
        ["a validation image, JPEG", f"{VAL_BYTES / VAL_IMAGES / 1e3:.0f} kB", "archive / images"],
        ["an image in the cache", f"{3 * RESIZE**2 / 1e3:.0f} kB", f"3 · {RESIZE}²"],
        ["an image on its way to the GPU", f"{3 * CROP**2 / 1e3:.0f} kB", f"3 · {CROP}², uint8; normalised there"],
        ["training set, JPEG / cache", _gigabytes(TRAIN_BYTES) + " / " + _gigabytes(3 * RESIZE**2 * TRAIN_IMAGES), ""],
        ["validation set, JPEG / cache", _gigabytes(VAL_BYTES) + " / " + _gigabytes(3 * RESIZE**2 * VAL_IMAGES), ""],
        ["parameters", f"{net.parameters / 1e6:.1f} M", "VGG16 without its dense layers, two 3×3 × 1024, classifier"],
        ["gradients, float32", f"{gradient / 1e6:.0f} MB", "4 bytes each; what all ranks add up at every step"],
        ["parameters, gradients, momentum", f"{3 * gradient / 1e9:.2f} GB", "3 · 4 bytes each"],
        [
            "forward pass",
            f"{net.flops / 1e9:.1f} GFLOP",
            f"Σ 2 · 9 · C_in · C_out · side²; training 3 times: {3 * net.flops / 1e9:.0f} GFLOP",
        ],
        [
            f"activations of {BATCH} images, bf16",
            f"{held / 1e9:.1f} GB",
            "2 bytes per output of a convolution; ReLUs in place",
        ],
        [
            "arithmetic behind the estimated rates",
            f"{3 * net.flops * TRAIN_RATE / 1e12:.0f} and {net.flops * EVAL_RATE / 1e12:.0f} TFLOP/s",
            f"{TRAIN_RATE:,} · 3 · forward and {EVAL_RATE:,} · forward; about half of what a bf16 product reaches",
        ],
    ]


def training() -> list[list[str]]:
    """A row per need, a column per number of GPUs."""
    net, rows = network(), []
    rates = [gpus * TRAIN_RATE for gpus in GPUS]
    epochs = [TRAIN_IMAGES / rate for rate in rates]
    read = TRAIN_BYTES / TRAIN_IMAGES
    step = BATCH / TRAIN_RATE
    rows.append(["images/s (estimate)", *(f"{rate:,}" for rate in rates)])
    rows.append(["an epoch", *map(_seconds, epochs)])
    rows.append([f"{EPOCHS} epochs", *(_seconds(EPOCHS * epoch) for epoch in epochs)])
    rows.append(["storage, JPEG", *(_rate(rate * read) for rate in rates)])
    rows.append(["storage, cache", *(_rate(rate * 3 * RESIZE**2) for rate in rates)])
    rows.append(["cores that decode", *(f"{rate / decode_rate(read):,.0f}" for rate in rates)])
    rows.append(["cores with the cache", *(f"{rate / CACHED:,.1f}" for rate in rates)])
    rows.append(["host to GPU, each", *(_rate(TRAIN_RATE * 3 * CROP**2) for _ in rates)])
    rows.append(["all-reduce, each GPU sends per step", *(_megabytes(sent(gpus, net)) for gpus in GPUS)])
    rows.append([f"a step of {BATCH} per GPU", *(f"{1e3 * step:.0f} ms" for _ in GPUS)])
    rows.append(["all-reduce at the link's rate", *(f"{1e3 * sent(gpus, net) / link(gpus):.1f} ms" for gpus in GPUS)])
    rows.append(
        ["share of the step, if nothing overlapped", *(f"{sent(gpus, net) / link(gpus) / step:.1%}" for gpus in GPUS)]
    )
    rows.append(["images of a step", *(f"{gpus * BATCH:,}" for gpus in GPUS)])
    return rows


def evaluation() -> list[list[str]]:
    """A row per need, a column per number of GPUs: the 50,000 validation images."""
    rates = [gpus * EVAL_RATE for gpus in GPUS]
    read = VAL_BYTES / VAL_IMAGES
    return [
        ["images/s (estimate)", *(f"{rate:,}" for rate in rates)],
        ["50,000 images, one forward each", *(_seconds(VAL_IMAGES / rate) for rate in rates)],
        ["with ten crops for the classes", *(_seconds(VAL_IMAGES * (1 + TEN_CROP) / rate) for rate in rates)],
        ["storage, JPEG", *(_rate(rate * read) for rate in rates)],
        ["storage, cache", *(_rate(rate * 3 * RESIZE**2) for rate in rates)],
        ["cores that decode", *(f"{rate / decode_rate(read):,.0f}" for rate in rates)],
        ["cores with the cache", *(f"{rate / CACHED:,.1f}" for rate in rates)],
        ["cores for boxes and counters", *(f"{rate / BOXES:,.1f}" for rate in rates)],
        [
            "16 cores for each, decoding",
            *(
                _seconds(VAL_IMAGES / min(rate, 16 * gpus * decode_rate(read)))
                for gpus, rate in zip(GPUS, rates, strict=True)
            ),
        ],
        ["score maps written, 14×14 float32", *(_megabytes(4 * 14 * 14 * VAL_IMAGES) for _ in GPUS)],
    ]


def decode_rate(file_bytes: float) -> float:
    """Images per second that one core decodes and resizes, files of this size."""
    return DECODE * MEASURED_BYTES / file_bytes


def sent(gpus: int, net: Network) -> float:
    """Bytes that each GPU sends in a ring all-reduce of float32 gradients."""
    return 2 * (gpus - 1) / gpus * 4 * net.parameters


def link(gpus: int) -> float:
    """The slowest link of the ring: between nodes as soon as there are two."""
    return NVLINK if gpus <= PER_NODE else NETWORK


def _seconds(value: float) -> str:
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if value < 1e11 else f"{value / 1e9:,.0f} GB"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"


def _rate(value: float) -> str:
    return f"{value / 1e9:,.2f} GB/s"
