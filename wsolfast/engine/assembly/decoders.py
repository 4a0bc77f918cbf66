"""Decoders of an evaluation's images: threads of the CPU, or its device."""

import torch

from wsolfast import data
from wsolfast._system import count_cores
from wsolfast.engine.run.distributed import find_rank
from wsolfast.engine.run.errors import BackendError
from wsolfast.recipe import Recipe, RecipeError


def count_decoders(wanted: int, device: torch.device) -> int:
    """Return the number of threads that decode for an evaluation, 0 for none besides the caller's.

    Args:
        wanted: that number; -1 asks for what the device needs.
        device: where the networks run.

    A GPU keeps all cores busy with decoding; on a CPU the network wants them, and waits for no image.
    """
    cores = count_cores() // find_rank().local_world_size
    if wanted >= 0:
        return wanted
    return max(1, min(16, cores // 2 if device.type == "cpu" else cores))


def open_decoder(recipe: Recipe, device: torch.device) -> data.DeviceDecoder | None:
    """Open the decoder of an evaluation's device, if ``data.decoder`` asks for it; None leaves decoding to the CPU.

    Args:
        recipe: of the evaluation.
        device: where the networks run.

    Raises:
        RecipeError: if decoded images are to be kept on disk, too.
        BackendError: if this machine or the device has no such decoder.
    """
    if recipe.data.decoder != data.ON_DEVICE:
        return None
    if recipe.runtime.cache_gb:
        raise RecipeError(
            "runtime.cache_gb: the cache keeps what a CPU decodes, and data.decoder is 'cuda'; leave one of them out"
        )
    try:
        return data.open_on_device(device)
    except data.DecoderError as error:
        raise BackendError(f"data.{error}") from None


def check_training_decoder(recipe: Recipe) -> None:
    """Look whether training can decode as the recipe says.

    Raises:
        RecipeError: if the device is to decode: its pixels are for evaluations alone.
    """
    if recipe.data.decoder in data.LOSSY:
        raise RecipeError(
            f"data.decoder: {recipe.data.decoder} decodes for evaluations and training needs Pillow's pixels; "
            f"leave it out and evaluate with --decoder {recipe.data.decoder}"
        )
