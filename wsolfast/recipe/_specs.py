"""The tables of a recipe: every key with its type and default."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from wsolfast.recipe._tables import OTHER_TABLES


@dataclass(frozen=True)
class Paper:
    """The published row that a recipe or a variant stands for. Percent; ``*_error`` is 100 minus the accuracy."""

    title: str
    venue: str
    table: str = ""
    note: str = ""
    top1_cls: float | None = None
    top5_cls: float | None = None
    top1_loc: float | None = None
    top5_loc: float | None = None
    gt_known_loc: float | None = None
    top1_cls_error: float | None = None
    top5_cls_error: float | None = None
    top1_loc_error: float | None = None
    top5_loc_error: float | None = None
    gt_known_loc_error: float | None = None
    max_box_acc: float | None = None
    max_box_acc_v2: float | None = None
    px_ap: float | None = None
    peak_iou: float | None = None
    peak_threshold: float | None = None  # of 0..255, not percent

    def numbers(self) -> dict[str, float]:
        """Return the published values that are given, as accuracies in percent."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.default is None}
        return {
            name.removesuffix("_error"): round(100 - value, 4) if name.endswith("_error") else value
            for name, value in given.items()
            if value is not None
        }


@dataclass(frozen=True)
class DataSpec:
    """``[data]``: the arguments of :func:`wsolfast.data.open_dataset`."""

    name: str
    root: str | None = None  # given on the command line: data.root=DIR
    resize: int | tuple[int, int] | None = (
        None  # one side or [height, width] that images are warped to; their own size if absent
    )
    keep_aspect: bool = False  # in training, the shorter side becomes resize, and images are not warped
    crop: int | None = None  # side of the random training crop
    crop_area: tuple[float, float] | None = None  # smallest and largest share of the image in a training crop
    rand_augment: tuple[int, int] | None = None  # in training: number and magnitude (0 to 30) of distortions
    skip_bad: bool = False
    # What decodes JPEG: "auto" if absent. "cuda" uses the GPU, only in evaluations, with other pixels: docs/data.md.
    decoder: Literal["auto", "pil", "simplejpeg", "cuda"] | None = None
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class BackboneSpec:
    """``[stage.backbone]``: the arguments of :func:`wsolfast.backbones.build`."""

    name: str
    layout: str | None = None
    weights: str = "none"  # a file, an enum of torchvision, "pretrained" for timm, "stage.NAME" of this recipe
    freeze_bn: bool = False
    freeze: str | None = None  # this stage and all before it are not trained
    drop_path: float | None = None  # stochastic depth: rate of the last residual block, rising from 0 at the first

    @property
    def from_stage(self) -> str | None:
        """Name of the earlier stage of the recipe whose backbone this one starts from, if ``weights`` says so."""
        return self.weights.removeprefix("stage.") if self.weights.startswith("stage.") else None


@dataclass(frozen=True)
class OptimSpec:
    """``[stage.optim]``."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0  # "adamw" leaves out vectors, scalars, and position and class tokens
    betas: tuple[float, float] = (0.9, 0.999)
    lr_factors: dict[str, float] = field(default_factory=dict)  # by ParamGroup name; 1 if absent, 0 freezes
    # The rate of each layer of the backbone is this times the rate of the layer above. The head is above the last.
    layer_decay: float | None = None
    grad_clip: float | None = None  # largest 2-norm of all gradients together; no limit if absent
    # Decay per step of an average of the weights. Evaluation and later stages take the average; no average if absent.
    ema: float | None = None


@dataclass(frozen=True)
class ScheduleSpec:
    """``[stage.schedule]``: the learning rate as a function of the step alone."""

    # "exponential": times gamma at the start of every epoch. "cosine": half a wave, from the end of the warm-up on.
    # "compound_linear": times (E - e) / (E - m) at the start of every epoch e of E from the milestone m on.
    name: Literal["constant", "step", "poly", "exponential", "cosine", "compound_linear"] = "constant"
    milestones: tuple[int, ...] = ()  # "step", "poly": 0-based epochs; each multiplies the rate by gamma at its start
    gamma: float | tuple[float, ...] = 0.1  # one for all milestones, or one for each
    power: float = 0.9
    by_epoch: bool = False  # "poly", "cosine": the rate changes only at the start of epochs, counted from 0
    warmup_steps: int = 0  # the rate rises linearly, from 1/warmup_steps of it
    warmup_epochs: float | None = None  # the same in epochs, in place of warmup_steps
    min_factor: float | None = None  # "cosine": share of the rate at the end; 0 if absent


@dataclass(frozen=True)
class ValidateSpec:
    """``[stage.validate]``: between epochs the network classifies images that the stage is not trained on."""

    every: int = 1  # epochs from one validation to the next; there is always one after the last epoch
    # Images of the validation. "held_out": images of train_weaksup, which are then not used for training.
    split: Literal["held_out", "train_fullsup"] = "held_out"
    held_out: int | float = 0.1  # a number of images, or a share of each class; the seed chooses them
    # The measure that chooses the best weights. "gt_known_loc" uses boxes, so it needs boxes = true.
    select: Literal["accuracy", "loss", "gt_known_loc"] = "accuracy"
    boxes: bool = False  # boxes may choose the weights: the method is then no longer weakly supervised
    patience: int = 0  # the stage ends after this many validations in a row without a better value; 0: never
    weights: Literal["last", "best"] = "last"  # the weights that evaluation and later stages take


@dataclass(frozen=True)
class StageSpec:
    """``[[stage]]``: one training run; a later stage may read what an earlier one exports."""

    name: str
    method: str
    epochs: int
    backbone: BackboneSpec
    batch_size: int = 32  # images per step, of all processes together
    accumulate: int = 1  # number of parts of a batch, each with its own statistics, pairs and pool update
    sync_bn: bool = False  # batch norms use the images of all processes, not only of their own
    num_classes: int | None = None  # the number of classes of the data set if absent
    resize: int | tuple[int, int] | None = None  # for this stage only; data.resize if absent
    crop: int | None = None  # data.crop if absent
    crop_area: tuple[float, float] | None = None  # data.crop_area if absent
    uses: dict[str, str] = field(default_factory=dict)  # batch field -> the earlier stage that exports it
    networks: dict[str, str] = field(default_factory=dict)  # frozen network -> the earlier stage that trained it
    model: dict[str, object] = field(default_factory=dict)  # the method's own options
    optim: OptimSpec = field(default_factory=OptimSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    validate: ValidateSpec | None = None  # no validation if absent

    @property
    def takes_best(self) -> bool:
        """True if evaluation and later stages take the best weights of the stage, and not its last ones."""
        return self.validate is not None and self.validate.weights == "best"


@dataclass(frozen=True)
class EvaluateSpec:
    """``[evaluate]``."""

    protocol: str = "wsolevaluation"
    localizer: str | None = None  # stage whose maps are measured; if absent, the last one that is not the classifier
    classifier: str | None = None  # stage or run folder that ranks the classes; if absent, the localiser, if it can
    split: Literal["test", "train_fullsup"] = "test"
    ten_crop: bool = False  # ten crops of the image at data.resize rank the classes
    center_crop: bool = False  # the central crop of the image, resized as in training, ranks the classes
    topk: int = 5
    batch_size: int = 32
    resize: int | tuple[int, int] | None = (
        None  # size that the localised image is warped to; data.crop or data.resize if absent
    )
    post: str = "none"  # the refinement of the maps, one of wsolfast.refinements; it trains nothing
    # Value at which localize cuts the maps of a run without an evaluation, as a share of their range; 0.25 if absent.
    threshold: float | None = None
    # Every other table of [evaluate] has the options of the refinement of its name.
    refinements: dict[str, dict[str, object]] = field(default_factory=dict, metadata=OTHER_TABLES)
    variant: str = ""  # the [[variant]] that is measured; none if empty
    ema: bool | None = None  # false: the last weights, not the average that stage.optim.ema keeps


@dataclass(frozen=True)
class VariantSpec:
    """``[[variant]]``: another row from the same training, measured with other settings."""

    name: str
    set: tuple[str, ...]  # key=value, as on the command line
    summary: str = ""
    paper: Paper | None = None


@dataclass(frozen=True)
class RuntimeSpec:
    """``[runtime]``: how the work is done. It changes results only through rounding."""

    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:N" or "mps"
    # "auto": bfloat16 where the device multiplies it faster than float32. "fp16": float16, the loss scaled.
    amp: Literal["none", "bf16", "fp16", "auto"] = "none"
    channels_last: bool = False
    compile: bool = False  # compile the backbone by torch.compile
    # Evaluations replay the networks as a CUDA graph. "on" refuses what cannot be recorded, "auto" runs it without a
    # graph, and "off" uses none; "off" if absent.
    cuda_graphs: Literal["off", "auto", "on"] | None = None
    fused_optimizer: bool = False  # one kernel updates all parameters
    deterministic: bool = False  # the same bits in every run, and in evaluations for every batch size; slower on a GPU
    # Number of steps of each stage that may be left out because their loss or gradient is not finite. One more stops
    # the run. A resumed stage continues to count.
    skip_nonfinite: int = 0
    timeout_minutes: float = 30.0  # time that a process waits for another one
    # Processes that load images in training; -1: none on up to four cores, otherwise half the cores, at most eight. In
    # evaluation, threads that decode; -1: half the cores, or all of them with a GPU, at most 16.
    workers: int = -1
    cache_gb: float | None = None  # at most this many GB of decoded, resized images are kept on disk; none if absent
    cache_dir: str | None = None  # folder of that cache; $XDG_CACHE_HOME/wsolfast if absent
    # Training images are decoded once into at most this many GB of the device's memory, if all of them fit.
    device_cache_gb: float | None = None
    save_every_steps: int = 0  # 0: only at the end of epochs and by the clock
    save_every_minutes: float = 10.0
    # Programs that record training and evaluations, besides metrics.jsonl; none if absent.
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow", "csv"], ...] | None = None


@dataclass(frozen=True)
class Recipe:
    """A recipe with every default filled in."""

    name: str
    data: DataSpec
    stage: tuple[StageSpec, ...]
    summary: str = ""
    seed: int = 0
    paper: Paper | None = None
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    runtime: RuntimeSpec = field(default_factory=RuntimeSpec)
    variant: tuple[VariantSpec, ...] = ()

    @property
    def chosen_by_boxes(self) -> str | None:
        """In words, which stages choose weights by looking at boxes, and how; None where labels alone are looked at."""
        told = [
            f"stage {stage.name}: {stage.validate.select} of {stage.validate.split}"
            for stage in self.stage
            if stage.validate is not None and stage.validate.boxes
        ]
        return "; ".join(told) or None
