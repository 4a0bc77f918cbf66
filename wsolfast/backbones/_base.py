"""Base of every backbone: a chain of modules that reads raw images and gives the features of named stages."""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from wsolfast.backbones._constant import call_as_constant
from wsolfast.backbones._load_report import LoadReport

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Keys of what a transformer's forward pass gives besides its stages.
CLASS_TOKEN, CLASS_ATTENTION = "class_token", "class_attention"
# Key of the logits that a network with its own head gives besides its stage.
LOGITS = "logits"


class BackboneError(ValueError):
    """A backbone that cannot be built as asked; the command line exits with ``exit_code``."""

    exit_code = 2


@dataclass(frozen=True)
class StageInfo:
    """One tapped stage: ``channels`` features at every ``stride`` input pixels."""

    name: str  # ``conv2`` to ``conv5``, shallow to deep, or a transformer's ``block<i>``
    channels: int
    stride: int


@dataclass(frozen=True)
class ClassifierHead:
    """A linear classifier that came with the weights; at every position of the last stage it gives class maps.

    The logits are the mean of ``weight @ features + bias`` over all positions, after a ReLU where ``relu_maps`` is set.
    """

    weight: Tensor  # [K, C]
    bias: Tensor  # [K]
    relu_maps: bool = False
    of_class_token: bool = False  # it reads the class token, not the mean of the features: no class maps


@dataclass(frozen=True)
class Architecture:
    """A network as its package builds it, after surgery, and how a backbone reads it."""

    net: nn.Module
    # Stage name -> path of the submodule after which it is read, in the order in which they run.
    taps: Mapping[str, str]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    # Path of the layer that classifies the mean of the last stage, where the network has one.
    head: str | None = None
    relu_maps: bool = False
    # Submodule path -> its path in published checkpoints of another layout of modules.
    published_names: Mapping[str, str] = field(default_factory=dict)
    # Where the network's own weights are: a repository on the Hugging Face hub, or the address of a file.
    origin: str | None = None


class Backbone(nn.Module):
    """Network from raw images to the features of every stage.

    The modules are those of the package that the network comes from, under their own names, so ``state_dict`` has its
    keys. Scaling and normalisation happen inside.

    Args:
        architecture: the network, as it is assembled, and how it is read.
        stages: one for each of its taps, shallow to deep.
        freeze_bn: batch norms stay in eval mode under ``.train()``.

    Attributes:
        stages: shallow to deep; the last one feeds the head.
        classifier: the classifier that the loaded weights brought along, or None.
        load_report: what the loader matched and left, or None without weights.
    """

    input_mean: Tensor
    input_std: Tensor
    # K where ``forward`` also gives ``"logits"`` [N, K], those of the network's own head.
    own_classes: int | None = None

    def __init__(self, architecture: Architecture, stages: tuple[StageInfo, ...], *, freeze_bn: bool = False):
        super().__init__()
        for name, child in architecture.net.named_children():
            self.add_module(name, child)
        self._steps = tuple(steps(architecture.net, architecture.taps))
        self._describe(architecture, stages, freeze_bn)

    def _describe(self, architecture: Architecture, stages: tuple[StageInfo, ...], freeze_bn: bool) -> None:
        self.stages = stages
        self.head = architecture.head
        self.relu_maps = architecture.relu_maps
        self.head_reads_class_token = False
        self.published_names = dict(architecture.published_names)
        self.origin = architecture.origin
        self.freeze_bn = freeze_bn
        self._inserted: tuple[str, ...] = ()
        self._frozen: tuple[str, ...] = ()
        self.classifier: ClassifierHead | None = None
        self.load_report: LoadReport | None = None
        for name, values in (("input_mean", architecture.mean), ("input_std", architecture.std)):
            self.register_buffer(name, torch.tensor(values)[None, :, None, None], persistent=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage, shallow to deep.

        Args:
            image (Tensor[N, 3, H, W]): RGB, uint8, or floating point in [0, 1].

        Returns:
            ``{stage.name: Tensor[N, stage.channels, h, w]}`` for every stage of ``stages``.

        Raises:
            ValueError: if ``image`` has another shape or dtype.
        """
        return self.extract(self.normalize(image))

    def normalize(self, image: Tensor) -> Tensor:
        """Normalise images as the network's first layer reads them: zero mean, unit deviation per channel.

        Args:
            image (Tensor[N, 3, H, W]): as for :meth:`forward`.

        Raises:
            ValueError: if ``image`` has another shape or dtype.
        """
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"backbone: expected images of shape [N, 3, H, W], got {list(image.shape)}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"backbone: expected uint8 images, or floating point in [0, 1], got {image.dtype}")
        # Scaling is folded into the statistics; at least float32, because 8 bits of mantissa would blur the pixels.
        dtype = torch.promote_types(self.input_mean.dtype, torch.float32)
        white = 255 if image.dtype == torch.uint8 else 1
        mean, std = (statistic.to(dtype) * white for statistic in (self.input_mean, self.input_std))
        return (image - mean).div_(std).to(self.input_mean.dtype)

    def extract(self, normalized: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage of ``normalized`` images [N, 3, H, W], as :meth:`normalize` gives them."""
        return self._run(normalized, self._steps)

    def extract_from(self, stage: str, features: Tensor, *, constant: bool = False) -> dict[str, Tensor]:
        """Return the features of every stage above ``stage``, of the ``features`` [N, C, h, w] that it gave.

        Args:
            stage: one of ``stages``.
            features (Tensor[N, C, h, w]): the network goes on from these.
            constant: the layers do not train on these features, see :func:`call_as_constant`.

        Raises:
            BackboneError: if there is no such stage.
        """
        return self._run(features, self._steps[self._position(stage, "to start from") + 1 :], constant=constant)

    def features_with_graph(self, image: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the features of every stage, those above ``stage`` as functions of it: a graph begins there.

        Nothing is kept of the layers below. Parameters that ask for gradients get them from the layers above.

        Args:
            image (Tensor[N, 3, H, W]): as for :meth:`forward`.
            stage: one of ``stages``, whose features become a leaf that asks for a gradient.

        Raises:
            ValueError: if ``image`` has another shape or dtype.
            BackboneError: if there is no such stage.
        """
        first = self._position(stage, "to start from") + 1
        with torch.no_grad():
            below = self._run(self.normalize(image), self._steps[:first])
        leaf = below[stage].requires_grad_()
        return below | {stage: leaf} | self._run(leaf, self._steps[first:])

    def _run(self, x: Tensor, some: Sequence[tuple[str, str | None]], *, constant: bool = False) -> dict[str, Tensor]:
        features = {}
        for path, stage in some:
            layer = self.get_submodule(path)
            x = call_as_constant(layer, x) if constant else layer(x)
            if stage is not None:
                features[stage] = x
        return features

    def insert(self, stage: str, name: str, module: nn.Module) -> None:
        """Insert ``module`` after ``stage``: the stage becomes its output, which all later layers read.

        Args:
            stage: name of one of ``stages``.
            name: what the module is called in ``state_dict``.
            module: keeps the number of channels and the resolution. ``freeze_bn`` does not reach its batch norms.

        Raises:
            BackboneError: if there is no such stage, or the name is taken.
        """
        at = self._position(stage, f"to insert {name!r} after")
        if hasattr(self, name):
            raise BackboneError(f"backbone: there is a {name!r} already; choose another name for what is inserted")
        self.add_module(name, module)
        self._inserted += (name,)
        self._steps = (*self._steps[:at], (self._steps[at][0], None), (name, stage), *self._steps[at + 1 :])

    def freeze(self, stage: str) -> None:
        """Freeze the network up to and including ``stage``: no gradient, batch norms in evaluation mode.

        Modules that are inserted later train, wherever they stand.

        Raises:
            BackboneError: if there is no such stage.
        """
        at = self._position(stage, "to freeze")
        self._frozen = tuple(path for path, _ in self._steps[: at + 1])
        for path in self._frozen:
            self.get_submodule(path).requires_grad_(False)

    def parameter_layers(self) -> dict[str, int]:
        """Return the layer of every parameter, counted from the image: here the stage that it works for.

        A recipe's ``layer_decay`` gives each layer a rate of its own. What is inserted after a stage belongs to it.
        """
        layers: dict[str, int] = {}
        layer = 0
        for path, stage in self._steps:
            layers |= {f"{path}.{name}": layer for name, _ in self.get_submodule(path).named_parameters()}
            layer += stage is not None
        return layers

    def no_weight_decay(self) -> frozenset[str]:
        """Return parameters of two or more dimensions that weight decay should leave alone, such as tokens; by name."""
        return frozenset()

    def _position(self, stage: str, purpose: str) -> int:
        taps = [tap for _, tap in self._steps]
        if stage not in taps:
            known = ", ".join(tap for tap in taps if tap)
            raise BackboneError(f"backbone: no stage {stage!r} {purpose}; there are {known or 'none'}")
        return taps.index(stage)

    def expect_classifier(self, num_classes: int) -> None:
        """Set :attr:`classifier` to zeros for ``num_classes``, as a place for the one of a checkpoint."""
        weight = torch.zeros(num_classes, self.stages[-1].channels)
        self.classifier = self.make_classifier(weight, torch.zeros(num_classes))

    def make_classifier(self, weight: Tensor, bias: Tensor) -> ClassifierHead:
        """Return the classifier of ``weight`` [K, C] and ``bias`` [K] as this network uses it."""
        return ClassifierHead(weight, bias, self.relu_maps, self.head_reads_class_token)

    def adapt(self, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the tensors of a checkpoint as this network, built for its size of images, takes them.

        Args:
            found (dict of Tensor[...]): by name, as the checkpoint has them.
        """
        return found

    @property
    def gives_class_attention(self) -> bool:
        """``forward`` also gives ``"class_attention"``, in the present mode."""
        return False

    def require_class_attention(self, when: Literal["evaluation", "always"]) -> None:
        """Let ``forward`` also give the class token's attention.

        Args:
            when: in evaluation or always.

        Raises:
            BackboneError: if the network has no class token.
        """
        raise BackboneError(
            "backbone: class attention is wanted and this network has no class token; choose a transformer with one, "
            "such as timm:deit_small_patch16_224 or small_vit"
        )

    def head_is_linear(self) -> bool:
        """Return True if a logit of the network's own head is linear in the last features, but for a constant."""
        return False

    def replace_relu(self, activation: Callable[[], nn.Module]) -> None:
        """Replace every ReLU module by ``activation()``.

        Raises:
            BackboneError: if there is none, because the network calls ReLU as a function or uses another activation.
        """
        paths = [path for path, module in self.named_modules() if isinstance(module, nn.ReLU)]
        if not paths:
            raise BackboneError("backbone: this network has no ReLU modules to replace; leave its activation as it is")
        for path in paths:
            self.set_submodule(path, activation())

    def fold_batch_norms(self) -> None:
        """Fold batch norms into the convolutions before them, which saves one pass over the features each.

        The features stay the same but for rounding. The folded network can be neither trained nor saved as this one.

        Raises:
            BackboneError: in training mode, in which batch norms depend on the batch.
        """
        if self.training:
            raise BackboneError("backbone: batch norms of a network in training cannot be folded; call .eval() first")
        for _, conv, path, norm in list(self._normed_convolutions()):
            _fold(conv, norm)
            self.set_submodule(path, nn.Identity())

    def folded_state(self) -> dict[str, Tensor]:
        """Return weights that this network loads and that give its features, with batch norms folded into convolutions.

        Of a folded batch norm the scale is one, the mean zero, and the variance such that nothing is scaled; its bias
        is what is left of it. Publishers store networks so whose inference is all that they need.

        Returns:
            dict of Tensor: under the names of ``state_dict``, detached copies.

        Raises:
            BackboneError: if no batch norm follows a convolution.
        """
        state = {name: value.detach().clone() for name, value in self.state_dict().items()}
        pairs = list(self._normed_convolutions())
        if not pairs:
            raise BackboneError("backbone: no batch norm follows a convolution, so there is nothing to fold")
        for at, conv, path, norm in pairs:
            folded = copy.deepcopy(conv)
            _fold(folded, norm)
            assert folded.bias is not None
            state[f"{at}.weight"] = folded.weight.detach()
            bias, variance = folded.bias.detach(), 1.0 - norm.eps
            if conv.bias is not None:
                state[f"{at}.bias"] = torch.zeros_like(conv.bias)
            for name, value in {"weight": 1.0, "running_mean": 0.0, "running_var": variance}.items():
                state[f"{path}.{name}"].fill_(value)
            state[f"{path}.bias"] = bias
        return state

    def _normed_convolutions(self) -> Iterator[tuple[str, nn.Conv2d, str, nn.BatchNorm2d]]:
        """Yield each convolution that a batch norm reads, and that batch norm, with their paths."""
        for path, module in self.named_modules():
            if path.split(".")[0] in self._inserted:
                continue
            # In every network of this package a batch norm that stands next after a convolution reads it, and alone.
            for (at, conv), (name, norm) in itertools.pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
                    yield f"{path}.{at}".lstrip("."), conv, f"{path}.{name}".lstrip("."), norm

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode, except for frozen stages and, with ``freeze_bn``, for the network's own batch norms."""
        super().train(mode)
        own = [name for name, _ in self.named_children() if name not in self._inserted] if self.freeze_bn else []
        for path in (*own, *self._frozen):
            for module in self.get_submodule(path).modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    bias, scale, shift = (None if one is None else one.double() for one in (conv.bias, norm.weight, norm.bias))
    mean, var = norm.running_mean.double(), norm.running_var.double()
    folded = fuse_conv_bn_weights(conv.weight.double(), bias, mean, var, norm.eps, scale, shift)
    conv.weight, conv.bias = (nn.Parameter(one.detach().to(conv.weight), requires_grad=False) for one in folded)


def steps(net: nn.Module, taps: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Yield the paths of the submodules to run, up to the last tap, each with the stage that is read after it."""
    stage_after = {path: stage for stage, path in taps.items()}

    def walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, str | None]]:
        for name, child in module.named_children():
            path = prefix + name
            if any(tap.startswith(f"{path}.") for tap in stage_after):
                yield from walk(child, f"{path}.")
            else:
                yield path, stage_after.get(path)

    missing = len(taps)
    for path, stage in walk(net, ""):
        yield path, stage
        missing -= stage is not None
        if not missing:
            return
    raise RuntimeError(f"no submodule for {missing} of the taps {dict(taps)}")
