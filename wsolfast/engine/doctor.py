"""Report on what this installation can do, and why not more."""

import importlib
import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from wsolfast import ops
from wsolfast._compat import import_torchvision
from wsolfast.engine.assembly.precision import why_bf16_is_slow
from wsolfast.engine.run.environment import package_version

# Package, module and purpose.
_OPTIONAL = (
    ("torchvision", "torchvision", "backbones: pip install 'wsolfast[train]'"),
    ("timm", "timm", "backbones named timm:*: pip install 'wsolfast[train]'"),
    ("torchmetrics", "torchmetrics", "metric wrappers: pip install 'wsolfast[eval]'"),
    ("opencv-python-headless", "cv2", "eval --compare: pip install 'wsolfast[fast]'"),
    ("simplejpeg", "simplejpeg", "faster decoding: pip install 'wsolfast[fast]'"),
    ("pyarrow", "pyarrow", "parquet data: pip install 'wsolfast[parquet]'"),
    ("matplotlib", "matplotlib", "pictures of bench: pip install 'wsolfast[viz]'"),
    ("tensorboard", "tensorboard", "runtime.loggers: pip install 'wsolfast[tensorboard]'"),
    ("wandb", "wandb", "runtime.loggers: pip install 'wsolfast[wandb]'"),
    ("mlflow", "mlflow", "runtime.loggers: pip install 'wsolfast[mlflow]'"),
    ("triton", "triton", "GPU kernels; comes with CUDA builds of torch"),
)


def examine() -> dict[str, Any]:
    """Return the state of the installation: versions, devices, kernels, optional packages. Nothing is raised."""
    return {
        "wsolfast": version("wsolfast"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "devices": _devices(),
        "bf16": _bf16(),
        "threads": torch.get_num_threads(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "compiled_kernels": ops.extension_status() or "loaded",
        "box_engine": _box_engine(),
        "ops": ops.backends(),
        "optional": {name: _state(name, module, purpose) for name, module, purpose in _OPTIONAL},
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith("WSOLFAST_")},
    }


def _devices() -> list[str]:
    if torch.backends.mps.is_available():
        return ["cpu", "mps"]
    if not torch.cuda.is_available():
        why = "torch is a CPU build" if torch.version.cuda is None else "torch finds no CUDA device"
        return [f"cpu ({why})"]
    names = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return ["cpu", *names]


def _bf16() -> list[str]:
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    reasons = {name: why_bf16_is_slow(torch.device(name)) for name in ("cpu", *names)}
    return [f"{name}: {'fast' if reason is None else f'slow, {reason}'}" for name, reason in reasons.items()]


def _box_engine() -> str:
    try:
        info = importlib.import_module("wsolfast._numpy").build_info()
    except ImportError as error:
        return f"not built ({error})"
    return ", ".join(f"{key} {value}" for key, value in info.items())


def _state(name: str, module: str, purpose: str) -> str:
    found = package_version(name)
    if found is None:
        return f"absent ({purpose})"
    try:
        # timm and torchmetrics import torchvision, which a CPU build of torch needs help with.
        if module in ("torchvision", "timm", "torchmetrics"):
            import_torchvision()
        importlib.import_module(module)
    except Exception as error:
        return f"{found}, but does not import: {str(error).splitlines()[0]}"
    return found
