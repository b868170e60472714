"""`SegformerCheckpoint`: a Ray checkpoint whose directory is the Hugging Face one."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from ray_segformer.air import Checkpoint, installed
from ray_segformer.preprocessor import CONFIG_NAME as PREPROCESSOR_NAME
from ray_segformer.preprocessor import SegformerPreprocessor

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PICKLE_NAME = "pytorch_model.bin"
_SUBFOLDER = "checkpoint"  # where Ray Train's callback for transformers puts the directory
_PROCESSOR_KEYS = ("preprocessor", "image_processor", "feature_extractor")


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
    """

    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    preprocessor: dict[str, Any]
    source: str

    @classmethod
    def read(cls, directory: str | os.PathLike) -> SegformerContent:
        """Read a Hugging Face directory, or the one in its `checkpoint/` folder. Unpickles nothing.

        Raises:
            CheckpointError: a file is missing, unreadable, or not a SegFormer's.
        """
        directory = _find(os.fspath(directory))
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
            SegformerPreprocessor.from_config(preprocessor)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{preprocessor_path}: {error}") from error
        # The weights come as float32, whatever they were saved as.
        config = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
        return cls(config, _read_weights(directory), preprocessor, directory)

    def write(self, directory: str | os.PathLike) -> None:
        """Write the files into `directory`, the configuration last: without it there is no checkpoint."""
        from safetensors.numpy import save_file

        os.makedirs(directory, exist_ok=True)
        weights = {name: np.asarray(array, order="C") for name, array in self.weights.items()}
        save_file(weights, os.path.join(directory, WEIGHTS_NAME), metadata={"format": "pt"})
        for name, config in ((PREPROCESSOR_NAME, self.preprocessor), (CONFIG_NAME, self.config)):
            if config:
                with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                    json.dump(config, file, indent=2, sort_keys=True)

    def build_model(self) -> Any:
        """A transformers `SegformerForSemanticSegmentation` in eval mode, whose parameters are views of `weights`.

        Raises:
            CheckpointError: tensors are missing or have wrong shapes.
        """
        import torch
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        with warnings.catch_warnings(), _quiet_transformers():
            warnings.filterwarnings("ignore", message=".*not writable.*")  # views of the object store are not
            state_dict = {name: torch.from_numpy(array) for name, array in self.weights.items()}
            try:
                load: Any = SegformerForSemanticSegmentation.from_pretrained
                model, info = load(
                    None,
                    config=SegformerConfig.from_dict(self.config),
                    state_dict=state_dict,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # reported below, with the file's name
                )
            except Exception as error:
                raise CheckpointError(
                    f"{self.source}/{CONFIG_NAME} describes no SegFormer that can be built: {error}"
                ) from error
        problems = [f"{name} is missing" for name in sorted(info["missing_keys"])] + [
            f"{name} has the shape {tuple(found)}, expected {tuple(expected)}"
            for name, found, expected in sorted(info["mismatched_keys"])
        ]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise CheckpointError(f"{self.source}: the weights do not fit {CONFIG_NAME}: {shown}")
        return model.eval().requires_grad_(False)


class SegformerCheckpoint(Checkpoint):
    """A SegFormer as a checkpoint of the installed Ray.

    Its directory is the Hugging Face one: `config.json`, `model.safetensors`, `preprocessor_config.json`. It
    may be reported from Ray Train and Ray Tune like any other. Pickled, it carries its content, through Ray's
    object store where Ray runs: a worker needs no access to the directory, and the actors of a node share
    one copy of the weights.

        checkpoint = SegformerCheckpoint.from_pretrained("nvidia/segformer-b0-finetuned-ade-512-512")
    """

    _content: SegformerContent | None = None
    _content_ref: Any = None  # valid in the process, and the Ray, that `_content_owner` names
    _content_owner: tuple[str, str] | None = None
    _preprocessor_options: dict[str, Any] | None = None

    @classmethod
    def from_model(
        cls, model: Any, image_processor: Any = None, path: str | os.PathLike | None = None
    ) -> SegformerCheckpoint:
        """Write `model` to a directory and return its checkpoint.

        Args:
            model: a transformers `SegformerForSemanticSegmentation`.
            image_processor: a transformers image processor or a `SegformerPreprocessor`; None for
                transformers' defaults (512 x 512, ImageNet statistics).
            path: the directory to write; None for a new temporary one. It must not exist, or be empty.

        Raises:
            TypeError: `model` or `image_processor` is something else.
            FileExistsError: `path` holds something.
        """
        preprocessor = as_preprocessor(image_processor)
        if not is_segformer(model):
            raise TypeError(
                f"model: expected a transformers SegformerForSemanticSegmentation, got {type(model).__name__}"
            )
        if path is not None and os.path.isdir(path) and os.listdir(path):
            raise FileExistsError(f"{path} exists and is not empty; name a new directory")
        target = os.fspath(path) if path is not None else tempfile.mkdtemp(prefix="segformer_")
        # Written beside the target and renamed: a directory under that name is complete.
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        unfinished = tempfile.mkdtemp(dir=os.path.dirname(os.path.abspath(target)), prefix=".unfinished_")
        try:
            with _quiet_transformers():
                model.save_pretrained(unfinished)
            preprocessor.save_pretrained(unfinished)
            content = SegformerContent.read(unfinished)
            content.build_model()
            os.chmod(unfinished, 0o755)
            os.replace(unfinished, target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            if path is None:
                os.rmdir(target)
            raise
        checkpoint = installed.at_directory(cls, target)
        checkpoint._content = replace(content, source=target)
        return checkpoint

    @classmethod
    def from_pretrained(cls, name_or_dir: str | os.PathLike) -> SegformerCheckpoint:
        """The checkpoint in a local directory, or of a name on the Hugging Face Hub (downloaded and cached).

        Raises:
            CheckpointError: there is none, or it is incomplete or broken.
        """
        directory = os.path.expanduser(os.fspath(name_or_dir))
        if not os.path.isdir(directory) and not _is_path(directory):
            directory = _download(directory)
        content = SegformerContent.read(directory)
        content.build_model()  # so that weights which do not fit are reported here
        checkpoint = installed.at_directory(cls, content.source)
        checkpoint._content = content
        return checkpoint

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> SegformerCheckpoint:
        """Any checkpoint of the installed Ray that holds a SegFormer, as a `SegformerCheckpoint`.

        Takes a directory as above, one inside of `checkpoint/` (Ray Train's transformers callback), and Ray 2.6's
        `Checkpoint.from_dict({"model": ..., "feature_extractor" | "image_processor" | "preprocessor": ...})`.

        Raises:
            TypeError: `checkpoint` is no checkpoint.
            CheckpointError: it holds no SegFormer.
        """
        if isinstance(checkpoint, cls):
            return checkpoint
        if not isinstance(checkpoint, Checkpoint):
            raise TypeError(f"expected a Ray Checkpoint, got {type(checkpoint).__name__}")
        data = installed.dict_of(checkpoint)
        if data is not None:
            return cls.from_model(*model_and_processor(data))
        with checkpoint.as_directory() as directory:
            content = SegformerContent.read(directory)
        content.build_model()
        own = installed.without_directory(cls, content.source)
        own._content = content
        return own

    @classmethod
    def demo(cls) -> SegformerCheckpoint:
        """The packaged model: small, offline, and knows only the synthetic scenes of `ray_segformer.demo`."""
        return cls.from_pretrained(os.path.join(os.path.dirname(__file__), "demo", "checkpoint"))

    @property
    def content(self) -> SegformerContent:
        """Configuration and weights, read once."""
        if self._content is None:
            if self._content_ref is not None:
                self._content = ray.get(self._content_ref)
            else:
                with super().as_directory() as directory:
                    self._content = SegformerContent.read(directory)
        return self._content

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by class id."""
        labels = self.content.config.get("id2label") or {}
        return {int(class_id): str(label) for class_id, label in labels.items()}

    def get_model(self) -> Any:
        """A new transformers `SegformerForSemanticSegmentation`, float32, in eval mode, without gradients.

        Its parameters are views of this checkpoint's weights; copy it (`copy.deepcopy`) to train it.
        """
        return self.content.build_model()

    def get_preprocessor(self, **options: Any) -> SegformerPreprocessor:
        """The checkpoint's `SegformerPreprocessor`; `options` are arguments of its constructor.

        On Ray 2.6, whose `BatchPredictor` knows nothing of a predictor's `image_column` and `on_error`, give them
        here: `batch_predictor.set_preprocessor(checkpoint.get_preprocessor(image_column="photo"))`.
        """
        options = {**(self._preprocessor_options or {}), **options}
        return SegformerPreprocessor.from_config(self.content.preprocessor, **options)

    def with_preprocessor_options(self, **options: Any) -> SegformerCheckpoint:
        """The same checkpoint, whose `get_preprocessor()` has `options`."""
        twin = copy.copy(self)  # which shares the content
        twin._preprocessor_options = options
        return twin

    def to_directory(self, path: str | None = None) -> str:
        """Write the directory to `path` (a new temporary one by default) and return it."""
        path = path or tempfile.mkdtemp(prefix="segformer_")
        self.content.write(path)
        return path

    @contextlib.contextmanager
    def as_directory(self) -> Iterator[str]:
        """The directory: the checkpoint's own where this node has it, else a temporary copy."""
        own = getattr(self, "path", None)
        if own and os.path.exists(os.path.join(own, CONFIG_NAME)):
            yield own
        else:
            with tempfile.TemporaryDirectory(prefix="segformer_") as directory:
                yield self.to_directory(directory)

    def __reduce__(self) -> Any:
        # Only a driver puts the content into the object store: what a worker puts there is gone with the worker.
        process = _process_in_ray()
        if self._content_owner != process:
            on_driver = process is not None and ray.get_runtime_context().worker.mode == ray.SCRIPT_MODE
            self._content_ref = ray.put(self.content) if on_driver else None
            self._content_owner = process
        content = self.content if self._content_ref is None else None
        label = getattr(self, "path", None)
        return _restore, (type(self), content, self._content_ref, self._preprocessor_options, label)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'path', None) or self.content.source})"


def model_and_processor(data: Mapping[str, Any]) -> tuple[Any, Any]:
    """Model and image processor (or None) of a Ray 2.6 dict checkpoint.

    Raises:
        CheckpointError: there is no "model".
    """
    if "model" not in data:
        raise CheckpointError(
            f'a dict checkpoint holds "model" and one of {_PROCESSOR_KEYS}; this one holds {sorted(map(str, data))}'
        )
    return data["model"], next((data[key] for key in _PROCESSOR_KEYS if data.get(key) is not None), None)


def _restore(
    cls: type[SegformerCheckpoint],
    content: SegformerContent | None,
    content_ref: Any,
    preprocessor_options: dict[str, Any] | None,
    label: str | None,
) -> SegformerCheckpoint:
    checkpoint = installed.without_directory(cls, label or "in memory")
    checkpoint._content = content
    checkpoint._content_ref = content_ref
    checkpoint._content_owner = _process_in_ray()
    checkpoint._preprocessor_options = preprocessor_options
    return checkpoint


def _process_in_ray() -> tuple[str, str] | None:
    """What tells this process, in this Ray, from any other; None without Ray."""
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_worker_id()


def is_segformer(model: Any) -> bool:
    """Whether `model` is (or wraps) a transformers `SegformerForSemanticSegmentation`, told by what it has."""
    is_of_type = getattr(getattr(model, "config", None), "model_type", None) == "segformer"
    return is_of_type and hasattr(model, "decode_head") and hasattr(model, "save_pretrained")


def as_preprocessor(image_processor: Any) -> SegformerPreprocessor:
    if image_processor is None:
        return SegformerPreprocessor()
    if isinstance(image_processor, SegformerPreprocessor):
        return image_processor
    if hasattr(image_processor, "to_dict"):
        return SegformerPreprocessor.from_config(image_processor.to_dict())
    raise TypeError(
        "image_processor: expected a transformers image processor or a SegformerPreprocessor, got "
        f"{type(image_processor).__name__}"
    )


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


def _is_path(name: str) -> bool:
    """Whether a name cannot be one on the Hub, which is `name` or `organization/name`."""
    return name.startswith((".", "/")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name)


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
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
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()
        for name, tensor in tensors.items()
    }


def _download(name: str) -> str:
    """The local snapshot of a model on the Hub."""
    from transformers.utils import cached_file

    def fetch(file: str, required: bool) -> str | None:
        return cached_file(name, file, _raise_exceptions_for_missing_entries=required)

    try:
        config = fetch(CONFIG_NAME, required=True)
        fetch(PREPROCESSOR_NAME, required=False)
        if fetch(WEIGHTS_NAME, required=False) is None:
            fetch(PICKLE_NAME, required=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name!r} is no directory here, and not to be had from the Hub: {error}") from error
    return os.path.dirname(str(config))


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
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
