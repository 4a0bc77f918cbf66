"""Loader of weights from files and enums. Names are matched under any prefix; other networks are refused."""

import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch
from torch import Tensor

from wsolfast._compat import import_timm, import_torchvision
from wsolfast.backbones._base import Backbone, BackboneError
from wsolfast.backbones._load_report import LoadReport, shorten

_PICKLED = (".pth", ".pt", ".tar", ".ckpt", ".bin")
_ENUM = re.compile(r"(?:tv:)?(\w+_Weights\.\w+)")
# Where published checkpoints nest their state dict.
_NESTS = ("state_dict", "model_state_dict", "model", "net")
# What training programs put beside the tensors: read as something empty, so that no code of theirs is needed or run.
_BESIDE = ("argparse.Namespace", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
# How long to wait for a server before the machine counts as offline.
_PROBE_SECONDS = 5.0


class _Ignored:
    """Stand-in for a value that is not wanted."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


AnyBackbone = TypeVar("AnyBackbone", bound=Backbone)


class WeightsError(RuntimeError):
    """Weights that are absent, unreadable or of another network; the command line exits with ``exit_code``."""

    exit_code = 3


def load_weights(backbone: AnyBackbone, weights: str) -> AnyBackbone:
    """Load ``weights`` as :func:`wsolfast.backbones.build` names them; set ``load_report`` and ``classifier``."""
    if weights == "none":
        return backbone
    path = find_weights(weights) if weights != "pretrained" or not backbone.origin else _published(backbone.origin)
    load_state(backbone, backbone.adapt(read_state(path)), source=weights)
    return backbone


def find_weights(weights: str) -> Path:
    """Return the file of a path or of a torchvision enum, whose weights are downloaded if they are missing."""
    enum = _ENUM.fullmatch(weights)
    if enum:
        return _torchvision_file(enum[1])
    if weights.endswith((*_PICKLED, ".safetensors")):
        return Path(weights).expanduser()
    none_of_its_own = "this network has none that are published; " if weights == "pretrained" else ""
    raise BackboneError(
        f"weights {weights!r}: {none_of_its_own}expected none, a .pth, .pt or .safetensors file, or a torchvision enum "
        "such as VGG16_Weights.IMAGENET1K_V1"
    )


def class_names_of(weights: str, network: str = "") -> tuple[str, ...]:
    """Return the class names of pretrained weights, in the order of the classifier.

    Args:
        weights: as for :func:`wsolfast.backbones.build`.
        network: name of the backbone that they are for.

    Returns:
        The names that torchvision keeps with its enums, or timm with ImageNet's; empty for anything else.

    Raises:
        BackboneError: if torchvision has no such enum.
    """
    enum = _ENUM.fullmatch(weights)
    if enum:
        return tuple(_torchvision_weights(enum[1]).meta["categories"])
    if weights != "pretrained" or not network.startswith("timm:"):
        return ()
    timm = import_timm()
    subset = timm.data.infer_imagenet_subset(timm.get_pretrained_cfg(network.removeprefix("timm:")).to_dict())
    if subset is None:
        return ()
    info = timm.data.ImageNetInfo(subset)
    return tuple(info.index_to_description(index).partition(",")[0] for index in range(info.num_classes()))


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, at the top or nested as in published ones; never run code from the file.

    Args:
        path: a ``.safetensors`` file or what ``torch.save`` wrote.

    Returns:
        ``{name: Tensor}``, on the CPU.

    Raises:
        WeightsError: if the file is missing, damaged, holds no tensors, or more than tensors and plain values.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; give the path of an existing file")
    found: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            with torch.serialization.safe_globals([(_Ignored, name) for name in _BESIDE]):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise WeightsError(
            f"{path} holds {'pickled code' if culprit is None else culprit[1]}, which is not loaded because it could "
            "run anything; save its state_dict alone, or as .safetensors"
        ) from None
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{path} cannot be read as weights: {reason}") from error
    while isinstance(found, Mapping) and (nest := _nest(found)) is not None:
        found = found[nest]
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path} holds a {type(found).__name__}, expected a state_dict of named tensors")
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors under {shorten(tuple(map(str, found)))}; save a state_dict")
    return tensors


def _nest(found: Mapping) -> str | None:
    return next((key for key in _NESTS if isinstance(found.get(key), Mapping)), None)


def load_state(backbone: Backbone, found: Mapping[str, Tensor], source: str) -> None:
    """Copy ``found`` into ``backbone`` if it covers every parameter and statistic, else refuse and change nothing."""
    wanted = backbone.state_dict()
    prefix, names = _best_naming(wanted, found, backbone.published_names)
    sources = {key: prefix + name for key, name in names.items() if prefix + name in found}
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = tuple(key for key in wanted if key not in sources and key not in optional)
    if missing:
        raise WeightsError(
            f"{source} does not fit this backbone: it lacks {len(missing)} of {len(wanted) - len(optional)} tensors "
            f"({shorten(missing)}); it has {shorten(tuple(found))}"
        )
    misfits = tuple(
        f"{key} {list(found[name].shape)} instead of {list(wanted[key].shape)}"
        for key, name in sources.items()
        if found[name].shape != wanted[key].shape
    )
    if misfits:
        raise WeightsError(f"{source} does not fit this backbone: {shorten(misfits)} in shape")
    backbone.load_state_dict({key: found[name] for key, name in sources.items()}, strict=False)
    used = set(sources.values())
    if backbone.head is not None:
        keys = (f"{prefix}{backbone.head}.weight", f"{prefix}{backbone.head}.bias")
        if all(key in found for key in keys) and found[keys[0]].flatten(1).shape[1] == backbone.stages[-1].channels:
            weight, bias = (found[key].detach().float().clone() for key in keys)
            backbone.classifier = backbone.make_classifier(weight.flatten(1), bias)
            used.update(keys)
    backbone.load_report = LoadReport(
        source=source,
        prefix=prefix,
        matched=tuple(sources),
        left_in_file=tuple(name for name in found if name not in used),
        left_in_backbone=tuple(key for key in wanted if key not in sources),
        classes=None if backbone.classifier is None else len(backbone.classifier.bias),
        folded_bn=_is_folded(backbone.state_dict()),
    )


def _best_naming(
    wanted: Iterable[str], found: Iterable[str], published_names: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Return the prefix and, for every wanted key, the name in the file under which most keys match."""
    wanted = list(wanted)
    namings = [{key: key for key in wanted}]
    if published_names:
        namings.append({key: _rename(key, published_names) for key in wanted})
    root = wanted[0].partition(".")[0] + "."
    if all(key.startswith(root) for key in wanted):
        namings.append({key: key.removeprefix(root) for key in wanted})
    # Every tail of a found name that starts at a dot could be a wanted name behind a prefix.
    prefixes: dict[str, list[str]] = {}
    for name in found:
        cuts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        for cut in cuts:
            prefixes.setdefault(name[cut:], []).append(name[:cut])
    best: tuple[int, str, dict[str, str]] = (0, "", namings[0])
    for naming in namings:
        counts = Counter(prefix for name in naming.values() for prefix in prefixes.get(name, ()))
        for prefix, count in counts.items():
            if (count, -len(prefix)) > (best[0], -len(best[1])):
                best = (count, prefix, naming)
    return best[1], best[2]


def _rename(key: str, names: Mapping[str, str]) -> str:
    module, _, leaf = key.rpartition(".")
    return f"{names.get(module, module)}.{leaf}".removeprefix(".")


def _is_folded(state: Mapping[str, Tensor]) -> bool:
    means = [value for key, value in state.items() if key.endswith("running_mean")]
    scales = [state[key.replace("running_mean", "weight")] for key in state if key.endswith("running_mean")]
    return bool(means) and not any(mean.any() for mean in means) and all((scale == 1).all() for scale in scales)


def _torchvision_weights(enum: str) -> Any:
    try:
        return import_torchvision().models.get_weight(enum)
    except (ValueError, KeyError, AttributeError):
        raise BackboneError(f"torchvision has no weights {enum!r}; write them as VGG16_Weights.IMAGENET1K_V1") from None


def _torchvision_file(enum: str) -> Path:
    return _file_at(_torchvision_weights(enum).url, enum)


def _published(origin: str) -> Path:
    return _file_at(origin, origin) if "://" in origin else _hub_file(origin)


def _file_at(url: str, what: str) -> Path:
    """Return the file of that address, from torch's cache or, the first time, from its server."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.is_file():
        require_online(url, f"{what} are not in {path.parent}")
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
        try:
            torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"{what} could not be downloaded from {url}: {error}") from error
    return path


def _hub_file(hub_id: str) -> Path:
    """Return the weights in a repository, from the Hugging Face cache or, the first time, from its server."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(hub_id, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached)
    url = f"https://huggingface.co/{hub_id}/resolve/main/model.safetensors"
    require_online(url, f"{hub_id} is not cached")
    try:
        return Path(hf_hub_download(hub_id, "model.safetensors"))
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{hub_id} could not be downloaded: {error}") from error


def require_online(url: str, absent: str) -> None:
    """Check once that ``url`` answers: without a network, download code would try again for a minute.

    Raises:
        WeightsError: if it does not, starting with ``absent``.
    """
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_PROBE_SECONDS):
            pass
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(f"{absent} and {url} does not answer ({reason}); give a local file") from None
