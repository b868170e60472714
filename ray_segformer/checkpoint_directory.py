"""A SegFormer in memory: what its Hugging Face directory holds, read, checked, and built into a network."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_segformer.images import MAX_PIXELS
from ray_segformer.preprocessor import CONFIG_NAME as PREPROCESSOR_NAME
from ray_segformer.preprocessor import SegformerPreprocessor

if TYPE_CHECKING:
    from ray_segformer.network import Runtime

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PICKLE_NAME = "pytorch_model.bin"
TRAINING_NAME = "training.json"
# Settings that would change the precision (weights come as float32, whatever they were saved as), or have transformers
# fetch or run code from elsewhere. So may those that begin with an underscore.
_DROPPED_SETTINGS = frozenset(
    ("dtype", "torch_dtype", "auto_map", "attn_implementation", "quantization_config", "torchscript")
)
_SUBFOLDER = "checkpoint"  # where Ray Train's callback for transformers puts the directory


class CheckpointError(ValueError):
    """A directory that holds no usable SegFormer; the message names the file and what was expected."""


@dataclass(frozen=True)
class SegformerContent:
    """What a checkpoint's directory holds, in memory.

    Attributes:
        config: `config.json`.
        weights: float32 arrays (integers as stored) by the Hub's tensor names, from `model.safetensors`.
        preprocessor: `preprocessor_config.json`, or {} for transformers' defaults.
        source: where it came from, for messages.
        training: `training.json`, what the model was trained with and what it scored; {} where there is none.
    """

    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    preprocessor: dict[str, Any]
    source: str
    training: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: str | os.PathLike) -> SegformerContent:
        """Read a Hugging Face directory, or the one in its `checkpoint/` folder. Unpickles nothing.

        Raises:
            CheckpointError: a file is missing, unreadable, or not a SegFormer's.
        """
        directory = _find(os.path.abspath(directory))
        config = _read_json(os.path.join(directory, CONFIG_NAME))
        architectures = config.get("architectures") or ["SegformerForSemanticSegmentation"]
        if config.get("model_type") != "segformer" or "SegformerForSemanticSegmentation" not in architectures:
            raise CheckpointError(
                f"{directory}/{CONFIG_NAME}: expected model_type 'segformer' and the architecture "
                f"SegformerForSemanticSegmentation, found {config.get('model_type')!r} and {architectures}"
            )
        preprocessor_path = os.path.join(directory, PREPROCESSOR_NAME)
        preprocessor = _read_json(preprocessor_path) if os.path.exists(preprocessor_path) else {}
        try:
            size = SegformerPreprocessor.from_config(preprocessor)
        except (ValueError, TypeError, OverflowError) as error:
            raise CheckpointError(f"{preprocessor_path}: {error}") from error
        if size.height * size.width > MAX_PIXELS:
            raise CheckpointError(
                f"{preprocessor_path}: size is {size.height} x {size.width}, which takes more memory than there is; "
                f"expected at most {MAX_PIXELS} pixels"
            )
        _check_labels(config, os.path.join(directory, CONFIG_NAME))
        config = {
            name: value for name, value in config.items() if name not in _DROPPED_SETTINGS and not name.startswith("_")
        }
        training_path = os.path.join(directory, TRAINING_NAME)
        training = _read_json(training_path) if os.path.exists(training_path) else {}
        return cls(config, _read_weights(directory), preprocessor, directory, training)

    @classmethod
    def from_model(cls, model: Any, preprocessor: SegformerPreprocessor) -> SegformerContent:
        """Of a transformers `SegformerForSemanticSegmentation`, whatever names its version has for tensors."""
        with tempfile.TemporaryDirectory(prefix="segformer_") as directory:
            with quiet_transformers():
                model.save_pretrained(directory)
            content = cls.read(directory)
        return replace(content, preprocessor=preprocessor.to_config(), source=type(model).__name__)

    @property
    def tensors(self) -> dict[str, Any]:
        """`weights` as torch tensors, which are views of them and not to be written into."""
        import torch

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")  # views of the object store are not
            return {name: torch.from_numpy(array) for name, array in self.weights.items()}

    @property
    def num_labels(self) -> int:
        """How many classes the network tells apart."""
        return len(self.weights["decode_head.classifier.bias"])

    def digest(self) -> str:
        """A hash of configuration, weights and preprocessing, which tells the model from every other."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.config, self.preprocessor):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        for name in sorted(self.weights):
            array = self.weights[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def check(self) -> None:
        """Whether the weights fit the configuration, found out by building the network.

        Raises:
            CheckpointError: tensors are missing or have wrong shapes, or `config` describes no SegFormer.
        """
        self.make_runtime(runtime="eager", dtype="float32", device="cpu")

    def make_runtime(self, **options: Any) -> Runtime:
        """The network, ready to run; `options` are those of `ray_segformer.network.make_runtime`.

        Raises:
            CheckpointError: as for `check`.
            ValueError, RuntimeError: as for `ray_segformer.network.make_runtime`.
        """
        from ray_segformer.network import NetworkError, make_runtime

        try:
            return make_runtime(self.config, self.tensors, **options)
        except NetworkError as error:
            raise CheckpointError(f"{self.source}: {error}") from error

    def write(self, directory: str | os.PathLike) -> None:
        """Write the files into `directory`, the configuration last: without it there is no checkpoint."""
        from safetensors.numpy import save_file

        os.makedirs(directory, exist_ok=True)
        weights = {name: np.asarray(array, order="C") for name, array in self.weights.items()}
        save_file(weights, os.path.join(directory, WEIGHTS_NAME), metadata={"format": "pt"})
        files = {TRAINING_NAME: self.training, PREPROCESSOR_NAME: self.preprocessor, CONFIG_NAME: self.config}
        for name, content in files.items():
            if content:
                with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                    json.dump(content, file, indent=2, sort_keys=True)

    def build_model(self) -> Any:
        """A transformers `SegformerForSemanticSegmentation` in eval mode, whose parameters are views of `weights`.

        Raises:
            CheckpointError: as for `check`.
        """
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        self.check()
        with quiet_transformers():
            load: Any = SegformerForSemanticSegmentation.from_pretrained
            model = load(None, config=SegformerConfig.from_dict(self.config), state_dict=self.tensors)
        return model.eval().requires_grad_(False)


def _find(directory: str) -> str:
    """The folder with `config.json`: `directory` or its `checkpoint/`."""
    for candidate in (directory, os.path.join(directory, _SUBFOLDER)):
        if os.path.isfile(os.path.join(candidate, CONFIG_NAME)):
            return candidate
    found = sorted(os.listdir(directory))[:10] if os.path.isdir(directory) else "no such directory"
    raise CheckpointError(
        f"{directory}: no {CONFIG_NAME} there or in {_SUBFOLDER}/; expected a Hugging Face directory with "
        f"{CONFIG_NAME}, {WEIGHTS_NAME} and {PREPROCESSOR_NAME}, found {found}"
    )


def _check_labels(config: Mapping[str, Any], path: str) -> None:
    """Class names go into other files, after everything else."""
    labels = config.get("id2label") or {}
    try:
        for number, label in labels.items():
            int(number), str(label).encode()
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: id2label: expected class names by class id: {error}") from error


def _read_json(path: str) -> dict[str, Any]:
    try:
        if not os.path.isfile(path):
            raise OSError("it is no file")  # but a pipe or a device, which may never end
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _read_weights(directory: str) -> dict[str, np.ndarray]:
    import torch
    from safetensors.torch import load_file

    path = os.path.join(directory, WEIGHTS_NAME)
    try:
        if os.path.isfile(path):
            tensors = load_file(path)
        else:
            path = os.path.join(directory, PICKLE_NAME)
            if not os.path.isfile(path):
                raise CheckpointError(f"{directory}: no {WEIGHTS_NAME} (and no {PICKLE_NAME})")
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because it holds more than tensors and loading it would run code; "
            f"convert it to {WEIGHTS_NAME} where you trust it"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # safetensors and torch raise many kinds for a broken file
        raise CheckpointError(f"{path}: not readable: {error}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{path}: expected tensors by name")
    # Those of a pickle may repeat one stored number as often as it says.
    try:
        size, stored = sum(tensor.nbytes for tensor in tensors.values()), os.path.getsize(path)
        if size > 2 * stored:
            raise CheckpointError(f"{path}: refused: its tensors would take {size} bytes, but it stores {stored}")
        return {
            name: (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()
            for name, tensor in tensors.items()
        }
    except (TypeError, RuntimeError) as error:  # sparse, quantized, complex and the like
        raise CheckpointError(f"{path}: expected plain tensors of numbers: {error}") from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar and no report for what takes a tenth of a second and is checked by us."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
