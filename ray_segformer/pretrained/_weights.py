"""The weights in a Hugging Face directory: one file or shards, read without running code that they bring."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer.pretrained._tensor_names import with_hub_names

WEIGHTS_NAME = "model.safetensors"
PICKLE_NAME = "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"  # beside shards: "model.safetensors.index.json"

# Of safetensors. NumPy has no bfloat16 and float8: torch reads them, whose import takes more than a second.
_NUMPY_DTYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64"}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# Files that people have in place of the weights, and what to do about them.
_SAVE_AGAIN = "load it with transformers, and save the model again"
_OTHERS = (
    (".fp16.safetensors", f"a variant of lower precision; {_SAVE_AGAIN} (variant='fp16')"),
    (".bf16.safetensors", f"a variant of lower precision; {_SAVE_AGAIN} (variant='bf16')"),
    (".fp16.bin", f"a variant of lower precision; {_SAVE_AGAIN} (variant='fp16')"),
    ("adapter_model.safetensors", "a PEFT adapter, not a whole model; merge it into its base model, and save that"),
    (".h5", f"TensorFlow's; {_SAVE_AGAIN} (transformers 4, from_tf=True)"),
    (".msgpack", f"Flax's; {_SAVE_AGAIN} (transformers 4, from_flax=True)"),
    (".onnx", "an ONNX export; take the checkpoint that it was made from"),
    (".ckpt", "a checkpoint of training; load its state_dict into the model, and call save_pretrained"),
    (".pth", "a checkpoint of training; load its state_dict into the model, and call save_pretrained"),
    (".pt", "a checkpoint of training; load its state_dict into the model, and call save_pretrained"),
    ("-of-00001.safetensors", "a shard without its index; call it model.safetensors"),
    (".safetensors", "a file of tensors of another name; if it is the model, call it model.safetensors"),
)
# Of a training, beside its weights.
_OF_TRAINING = ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth")


class CheckpointError(ValueError):
    """A directory holds no usable SegFormer. The message names the file and what was expected."""


def read_weights(directory: str) -> dict[str, npt.NDArray[Any]]:
    """Read the weights of a directory, under the Hub's names.

    `model.safetensors` comes first, then `pytorch_model.bin`, each whole or in shards. See `with_hub_names` for the
    names of tensors that wrappers such as `torch.compile`, `DataParallel` and Lightning save.

    Returns:
        Arrays by name. Floats are float32, integers keep their dtype.

    Raises:
        CheckpointError: there are no weights, or they cannot be read, or hold more than tensors.
    """
    for name in (WEIGHTS_NAME, PICKLE_NAME):
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            weights = _read(path)
        elif os.path.isfile(path + INDEX_SUFFIX):
            weights = {}
            for shard in shards_in(path + INDEX_SUFFIX):
                weights.update(_read(os.path.join(directory, shard)))
        else:
            continue
        try:
            return with_hub_names(weights)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    raise CheckpointError(f"{directory}: no {WEIGHTS_NAME} (and no {PICKLE_NAME}){_what_is_there(directory)}")


def shards_in(index: str) -> list[str]:
    """Return the file names of the shards that an index names. They lie beside it.

    Raises:
        CheckpointError: the index is not readable, or names a file elsewhere.
    """
    try:
        with open(index, encoding="utf-8") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: expected JSON with a weight_map of file names by tensor: {error!r}") from error
    for name in names:
        if not isinstance(name, str) or os.path.basename(name) != name or name in ("", ".", ".."):
            raise CheckpointError(f"{index}: names the shard {name!r}; a shard lies beside its index")
    return names


def _read(path: str) -> dict[str, npt.NDArray[Any]]:
    """Read one file of tensors."""
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: this shard is missing; download it again")
    with open(path, "rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CheckpointError(f"{path}: a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    return _read_safetensors(path) if path.endswith(".safetensors") else _read_pickle(path)


def _read_safetensors(path: str) -> dict[str, npt.NDArray[Any]]:
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            names = file.keys()
            if {file.get_slice(name).get_dtype() for name in names} <= _NUMPY_DTYPES:
                return {name: _as_float32(file.get_tensor(name)) for name in names}
        from safetensors.torch import load_file

        return _arrays(load_file(path))
    except Exception as error:  # safetensors and torch raise many types of errors for a broken file.
        raise _not_readable(path, error) from error


def _as_float32(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return floats as float32, and others as they are."""
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def _read_pickle(path: str) -> dict[str, npt.NDArray[Any]]:
    import torch

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because it holds more than tensors and loading it would run code; "
            f"if you trust it, convert it to {WEIGHTS_NAME}"
        ) from error
    except Exception as error:  # torch raises many types of errors for a broken file.
        raise _not_readable(path, error) from error
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"{path}: expected tensors by name, not {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            advice = "; save that one alone" if isinstance(tensor, Mapping) else ""
            raise CheckpointError(f"{path}: expected tensors by name, but {name!r} is {type(tensor).__name__}{advice}")
    # A pickled tensor may repeat one stored number any number of times, and so take more memory than there is.
    try:
        size, stored = sum(tensor.nbytes for tensor in tensors.values()), os.path.getsize(path)
        if size > 2 * stored:
            raise CheckpointError(f"{path}: refused: its tensors would take {size} bytes, but it stores {stored}")
        return _arrays(tensors)
    except (TypeError, RuntimeError) as error:  # for example sparse, quantized or complex tensors
        raise CheckpointError(f"{path}: expected plain tensors of numbers: {error}") from error


def _arrays(tensors: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Convert torch's tensors."""
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).detach().contiguous().numpy()
        for name, tensor in tensors.items()
    }


def _not_readable(path: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: not readable: {error or type(error).__name__}")


def _what_is_there(directory: str) -> str:
    for name in sorted({*os.listdir(directory)} - {*_OF_TRAINING}):
        for suffix, what in _OTHERS:
            if name.endswith(suffix):
                return f"; {name} is {what}"
    return ""
