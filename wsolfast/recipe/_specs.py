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
        None  # one side or [height, width] that images are warped to; their own if absent
    )
    keep_aspect: bool = False  # in training, resize is the shorter side instead of a warp
    crop: int | None = None  # side of the random training crop
    crop_area: tuple[float, float] | None = None  # least and most share of the area that training crops are taken from
    rand_augment: tuple[int, int] | None = None  # in training: number and magnitude (0 to 30) of distortions
    skip_bad: bool = False
    # What decodes JPEG: "auto" if absent. "cuda" does on the GPU, in evaluations, and other pixels; see docs/data.md.
    decoder: Literal["auto", "pil", "simplejpeg", "cuda"] | None = None
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class BackboneSpec:
    """``[stage.backbone]``: the arguments of :func:`wsolfast.backbones.build`."""

    name: str
    layout: str | None = None
    weights: str = "none"  # a file, an enum of torchvision, "pretrained" for timm, "stage.NAME" of this recipe
    freeze_bn: bool = False
    freeze: str | None = None  # stage up to which nothing trains
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
    weight_decay: float = 0.0  # "adamw": not of vectors, scalars, and position and class tokens
    betas: tuple[float, float] = (0.9, 0.999)
    lr_factors: dict[str, float] = field(default_factory=dict)  # by ParamGroup name; 1 where absent, 0 freezes
    # Each layer of the backbone has the rate of the layer above it times this, the last one that of the head.
    layer_decay: float | None = None
    grad_clip: float | None = None  # greatest 2-norm of all gradients together; none if absent
    # Decay per step of an average of the weights, which evaluation and later stages take; none if absent.
    ema: float | None = None


@dataclass(frozen=True)
class ScheduleSpec:
    """``[stage.schedule]``: the learning rate as a function of the step alone."""

    # "exponential": times gamma at the start of every epoch. "cosine": half a wave, from the end of the warm-up on.
    # "compound_linear": times (E - e) / (E - m) at the start of every epoch e of E from the milestone m on.
    name: Literal["constant", "step", "poly", "exponential", "cosine", "compound_linear"] = "constant"
    milestones: tuple[int, ...] = ()  # "step", "poly": 0-based epochs at whose start the rate is multiplied by gamma
    gamma: float | tuple[float, ...] = 0.1  # one for all milestones, or one each
    power: float = 0.9
    by_epoch: bool = False  # "poly", "cosine": the rate changes at the start of epochs only, and they count from 0
    warmup_steps: int = 0  # linear, from 1/warmup_steps of the rate
    warmup_epochs: float | None = None  # the same in epochs, in place of warmup_steps
    min_factor: float | None = None  # "cosine": share of the rate that it ends at; 0 if absent


@dataclass(frozen=True)
class ValidateSpec:
    """``[stage.validate]``: between epochs the network classifies images that the stage is not trained on."""

    every: int = 1  # epochs from one validation to the next; the last epoch is always followed by one
    # Images: "held_out" are those of train_weaksup that the stage is then not trained on.
    split: Literal["held_out", "train_fullsup"] = "held_out"
    held_out: int | float = 0.1  # a number of images, or a share of each class; spread over the classes, by the seed
    # What the best weights are chosen by. "gt_known_loc" looks at boxes, so it needs boxes = true.
    select: Literal["accuracy", "loss", "gt_known_loc"] = "accuracy"
    boxes: bool = False  # the choice may look at boxes: the method is then no longer weakly supervised
    patience: int = 0  # validations one after another without a better value that end the stage; 0: none do
    weights: Literal["last", "best"] = "last"  # those that evaluation and later stages take


@dataclass(frozen=True)
class StageSpec:
    """``[[stage]]``: one training run; a later stage may read what an earlier one exports."""

    name: str
    method: str
    epochs: int
    backbone: BackboneSpec
    batch_size: int = 32  # images per step, of all processes together
    accumulate: int = 1  # a batch is worked through in so many parts, each with its own statistics, pairs and pool
    sync_bn: bool = False  # batch norms see the images of all processes, not of their own alone
    num_classes: int | None = None  # as many as the data set has, if absent
    resize: int | tuple[int, int] | None = None  # of this stage's images; data.resize if absent
    crop: int | None = None  # data.crop if absent
    crop_area: tuple[float, float] | None = None  # data.crop_area if absent
    uses: dict[str, str] = field(default_factory=dict)  # batch field -> the earlier stage that exports it
    networks: dict[str, str] = field(default_factory=dict)  # frozen network of the method -> the earlier stage it is of
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
    localizer: str | None = None  # stage whose maps are measured; the last that is not the classifier if absent
    classifier: str | None = None  # stage or run folder that ranks the classes; the localiser if absent and able
    split: Literal["test", "train_fullsup"] = "test"
    ten_crop: bool = False  # classes are ranked by ten crops of the image at data.resize
    center_crop: bool = False  # classes are ranked by the central crop of the image, resized as in training
    topk: int = 5
    batch_size: int = 32
    resize: int | tuple[int, int] | None = (
        None  # what the localised image is warped to; data.crop or data.resize if absent
    )
    post: str = "none"  # what refines the maps without training, one of wsolfast.refinements
    # Where localize cuts the maps of a run without an evaluation, as a share of their range; 0.25 if absent.
    threshold: float | None = None
    # Every other table of [evaluate]: the options of the refinement of its name.
    refinements: dict[str, dict[str, object]] = field(default_factory=dict, metadata=OTHER_TABLES)
    variant: str = ""  # the [[variant]] that is measured; none if empty
    ema: bool | None = None  # false: not the average of the weights that stage.optim.ema keeps, but the last ones


@dataclass(frozen=True)
class VariantSpec:
    """``[[variant]]``: a row of its own from the same training, measured otherwise."""

    name: str
    set: tuple[str, ...]  # key=value, as on the command line
    summary: str = ""
    paper: Paper | None = None


@dataclass(frozen=True)
class RuntimeSpec:
    """``[runtime]``: how the work is done; results depend on it only through rounding."""

    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:N" or "mps"
    # "auto": bfloat16 where the device multiplies it faster than float32. "fp16": float16, the loss scaled.
    amp: Literal["none", "bf16", "fp16", "auto"] = "none"
    channels_last: bool = False
    compile: bool = False  # the backbone, by torch.compile
    # Evaluations replay the networks as a CUDA graph: "on" refuses what cannot be recorded, "auto" runs it without, and
    # "off", which it is if absent, does so with all.
    cuda_graphs: Literal["off", "auto", "on"] | None = None
    fused_optimizer: bool = False  # one kernel for all parameters
    deterministic: bool = False  # the same bits every time, evaluated in batches of any size; slower on a GPU
    # So many steps whose loss or gradient is not finite are left out of each stage before the run stops; those before a
    # resume count.
    skip_nonfinite: int = 0
    timeout_minutes: float = 30.0  # how long a process waits for another one
    # Loader processes of training; -1: none on up to four cores, otherwise half the cores, at most eight. In evaluation
    # threads that decode; -1: half the cores, on a GPU all of them, at most 16.
    workers: int = -1
    cache_gb: float | None = None  # so many GB of decoded, resized images are kept on disk; none if absent
    cache_dir: str | None = None  # where; $XDG_CACHE_HOME/wsolfast if absent
    # Training images are decoded once into so many GB of the device's memory, if all of them fit.
    device_cache_gb: float | None = None
    save_every_steps: int = 0  # 0: at the end of epochs and by the clock only
    save_every_minutes: float = 10.0
    # Programs that are told of the training and of evaluations, besides metrics.jsonl; none if absent.
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
