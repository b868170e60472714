"""`SegformerCheckpoint`: a Ray checkpoint of a Hugging Face directory."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray

from ray_segformer._guesses import say
from ray_segformer.air import Checkpoint, installed
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.pretrained import (
    CONFIG_NAME,
    TRAINING_NAME,
    CheckpointError,
    SegformerContent,
    check_modules,
    local_directory,
    quiet_transformers,
)

# The last key is that of `Checkpoint.set_preprocessor` of Ray 2.6.
_PROCESSOR_KEYS = ("preprocessor", "image_processor", "feature_extractor", "_preprocessor")


class SegformerCheckpoint(Checkpoint):  # type: ignore[misc] # The base class depends on the version of Ray.
    """A SegFormer as a checkpoint of the installed Ray.

    Its directory is a Hugging Face one: `config.json`, `model.safetensors`, `preprocessor_config.json`. Training on
    Ray Train or Ray Tune can report it like any other checkpoint. When it is pickled, it carries its content, through
    Ray's object store if Ray runs. A worker needs no access to the directory, and the actors of a node share one copy
    of the weights.

        checkpoint = SegformerCheckpoint.from_pretrained("nvidia/segformer-b0-finetuned-ade-512-512")
    """

    _content: SegformerContent | None = None
    _content_ref: Any = None  # valid only in the process and cluster of `_content_owner`
    _content_owner: tuple[str, str] | None = None
    _preprocessor_options: dict[str, Any] | None = None

    @classmethod
    def from_model(
        cls,
        model: Any,
        image_processor: Any = None,
        path: str | os.PathLike[str] | None = None,
        *,
        training: Mapping[str, Any] | None = None,
    ) -> SegformerCheckpoint:
        """Write `model` to a directory and return its checkpoint.

        Args:
            model: a transformers `SegformerForSemanticSegmentation`.
            image_processor: a transformers image processor or a `SegformerPreprocessor`; None for
                transformers' defaults (512 x 512, ImageNet statistics).
            path: the directory to write. It must not exist, or be empty. None for a new temporary directory.
            training: the content of `training.json`, any JSON object: the settings of training, and the scores.

        Warns:
            SegformerWarning: the model has forward hooks, which are left out.

        Raises:
            CheckpointError: the model's modules are not those of its configuration, such as another activation.
            TypeError: `model`, `image_processor` or `training` has another type.
            ValueError: `image_processor` has `resize`, or `training` has NaN, which the files cannot store.
            FileExistsError: `path` is a file, or a directory that is not empty.
        """
        preprocessor = as_preprocessor(image_processor)
        if not is_segformer(model):
            raise TypeError(
                f"model: expected a transformers SegformerForSemanticSegmentation, got {type(model).__name__}"
            )
        check_modules(model)
        if path is not None and os.path.exists(path) and not (os.path.isdir(path) and not os.listdir(path)):
            raise FileExistsError(f"{path} exists and is not an empty directory; name a new one")
        target = os.fspath(path) if path is not None else tempfile.mkdtemp(prefix="segformer_")
        # Written beside the target and then renamed, so that the target is never incomplete.
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        unfinished = tempfile.mkdtemp(dir=os.path.dirname(os.path.abspath(target)), prefix=".unfinished_")
        try:
            with quiet_transformers():
                model.save_pretrained(unfinished)
            preprocessor.save_pretrained(unfinished)
            if training is not None:
                with open(os.path.join(unfinished, TRAINING_NAME), "w", encoding="utf-8") as file:
                    json.dump(dict(training), file, indent=2, allow_nan=False)
            content = SegformerContent.read(unfinished)
            content.check()
            os.chmod(unfinished, 0o755)
            os.replace(unfinished, target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            if path is None:
                os.rmdir(target)
            raise
        checkpoint: SegformerCheckpoint = installed.at_directory(cls, target)
        checkpoint._content = replace(content, source=target)
        return checkpoint

    @classmethod
    def from_pretrained(cls, name_or_dir: str | os.PathLike[str]) -> SegformerCheckpoint:
        """Load a local directory, or a model of the Hugging Face Hub by its name (downloaded and cached).

        Warns:
            SegformerWarning: the files miss or contradict something that changes results, such as image settings.

        Raises:
            CheckpointError: there is no such checkpoint, or it is incomplete or broken.
        """
        content = SegformerContent.read(local_directory(name_or_dir))
        content.check()
        say(content.guesses)
        checkpoint: SegformerCheckpoint = installed.at_directory(cls, content.source)
        checkpoint._content = content
        return checkpoint

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> SegformerCheckpoint:
        """Convert any checkpoint of the installed Ray that holds a SegFormer to a `SegformerCheckpoint`.

        It may hold a Hugging Face directory, itself or in its subfolder `checkpoint/` (of Ray Train's transformers
        callback), or be Ray 2.6's `Checkpoint.from_dict({"model": ..., "feature_extractor" | "image_processor" |
        "preprocessor": ...})`.

        Raises:
            TypeError: `checkpoint` is not a Ray checkpoint.
            CheckpointError: it holds no SegFormer.
        """
        if isinstance(checkpoint, cls):
            return checkpoint
        if not isinstance(checkpoint, Checkpoint):
            raise TypeError(
                f"expected a Ray Checkpoint, got {type(checkpoint).__name__}; SegformerCheckpoint.from_pretrained "
                "makes one of a directory or of a name on the Hub"
            )
        data = installed.dict_of(checkpoint)
        if data is not None:
            return cls.from_model(*model_and_processor(data))
        with checkpoint.as_directory() as directory:
            content = SegformerContent.read(directory)
        content.check()
        say(content.guesses)
        converted: SegformerCheckpoint = installed.without_directory(cls, content.source)
        converted._content = content
        return converted

    @classmethod
    def demo(cls) -> SegformerCheckpoint:
        """Load the packaged model. It is small, works offline, and fits only the scenes of `ray_segformer.demo`."""
        return cls.from_pretrained(os.path.join(os.path.dirname(__file__), "demo", "checkpoint"))

    @property
    def content(self) -> SegformerContent:
        """The configuration and the weights. They are read on first use."""
        if self._content is None:
            if self._content_ref is not None:
                self._content = ray.get(self._content_ref)
            else:
                with super().as_directory() as directory:
                    self._content = SegformerContent.read(directory)
        return self._content

    @property
    def id2label(self) -> dict[int, str]:
        """The class names by class id."""
        labels = self.content.config.get("id2label") or {}
        labels = {int(class_id): str(label) for class_id, label in labels.items()}
        return {class_id: labels.get(class_id, f"LABEL_{class_id}") for class_id in range(self.content.num_labels)}

    def get_model(self) -> Any:
        """Return a new transformers `SegformerForSemanticSegmentation`: float32, in eval mode, without gradients.

        Its parameters are views of this checkpoint's weights. Copy it (`copy.deepcopy`) to train it.
        """
        return self.content.build_model()

    def get_preprocessor(self, **options: Any) -> SegformerPreprocessor:
        """Return the checkpoint's `SegformerPreprocessor`. `options` are arguments of its constructor.

        `BatchPredictor` of Ray 2.6 ignores the options `image_column` and `on_error` of a predictor. There, pass them
        here: `batch_predictor.set_preprocessor(checkpoint.get_preprocessor(image_column="photo"))`.
        """
        options = {**(self._preprocessor_options or {}), **options}
        return SegformerPreprocessor.from_config(self.content.preprocessor, **options)

    def with_preprocessor_options(self, **options: Any) -> SegformerCheckpoint:
        """Return a copy whose `get_preprocessor()` has `options`. It shares the content of this checkpoint."""
        # By `__reduce__`: the copy may hold only an ObjectRef, which is lost when Ray stops.
        checkpoint = copy.copy(self)
        checkpoint._content = self.content
        checkpoint._preprocessor_options = options
        return checkpoint

    def to_directory(self, path: str | None = None) -> str:
        """Write the directory to `path` and return `path`. The default is a new temporary directory."""
        path = path or tempfile.mkdtemp(prefix="segformer_")
        self.content.write(path)
        return path

    @contextlib.contextmanager
    def as_directory(self) -> Iterator[str]:
        """Yield the checkpoint's own directory if this node has it, else a temporary copy."""
        own = getattr(self, "path", None)
        if own and os.path.exists(os.path.join(own, CONFIG_NAME)):
            yield own
        else:
            with tempfile.TemporaryDirectory(prefix="segformer_") as directory:
                yield self.to_directory(directory)

    def __reduce__(self) -> Any:
        # Only a driver puts the content into the object store. An object that a worker puts is lost with the worker.
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
    """Return the model and the image processor (or None) of a Ray 2.6 dict checkpoint.

    Raises:
        CheckpointError: there is no key "model".
    """
    if "model" not in data:
        raise CheckpointError(
            f'the dict checkpoint has no key "model"; expected "model" and one of {_PROCESSOR_KEYS}, '
            f"found {sorted(map(str, data))}"
        )
    return data["model"], next((data[key] for key in _PROCESSOR_KEYS if data.get(key) is not None), None)


def is_segformer(model: Any) -> bool:
    """Return whether `model` is or wraps a transformers `SegformerForSemanticSegmentation`, by its attributes."""
    is_of_type = getattr(getattr(model, "config", None), "model_type", None) == "segformer"
    return is_of_type and hasattr(model, "decode_head") and hasattr(model, "save_pretrained")


def as_preprocessor(image_processor: Any) -> SegformerPreprocessor:
    """Convert a transformers image processor to a `SegformerPreprocessor`. None means transformers' defaults."""
    if image_processor is None:
        return SegformerPreprocessor()
    if isinstance(image_processor, SegformerPreprocessor):
        if image_processor.resize is not None:
            raise ValueError(
                f'resize="{image_processor.resize}" is no setting of a checkpoint, which would lose it; give resize= '
                "to the predictor"
            )
        return image_processor
    if hasattr(image_processor, "to_dict"):
        return SegformerPreprocessor.from_config(image_processor.to_dict())
    raise TypeError(
        "image_processor: expected a transformers image processor or a SegformerPreprocessor, got "
        f"{type(image_processor).__name__}"
    )


def _restore(
    cls: type[SegformerCheckpoint],
    content: SegformerContent | None,
    content_ref: Any,
    preprocessor_options: dict[str, Any] | None,
    label: str | None,
) -> SegformerCheckpoint:
    checkpoint: SegformerCheckpoint = installed.without_directory(cls, label or "in memory")
    checkpoint._content = content
    checkpoint._content_ref = content_ref
    checkpoint._content_owner = _process_in_ray()
    checkpoint._preprocessor_options = preprocessor_options
    return checkpoint


def _process_in_ray() -> tuple[str, str] | None:
    """Return ids that identify this process in this cluster; None if Ray does not run."""
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_worker_id()
