"""The Hugging Face directory of a SegFormer: read it into memory, check it, write it, build the network from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ray_segformer._guesses import Guess
from ray_segformer.images import MAX_PIXELS
from ray_segformer.network import NetworkError, check_weights, smallest_side
from ray_segformer.pretrained._config_file import (
    CONFIG_NAME,
    check_architecture,
    check_labels,
    find_directory,
    read_json,
)
from ray_segformer.pretrained._content_guesses import guesses_of
from ray_segformer.pretrained._image_settings import CONFIG_NAME as PREPROCESSOR_NAME
from ray_segformer.pretrained._image_settings import ImageSettings, settings_in
from ray_segformer.pretrained._modules import check_modules
from ray_segformer.pretrained._weights import WEIGHTS_NAME, CheckpointError, read_weights

if TYPE_CHECKING:
    from ray_segformer.network import Runtime

PROCESSOR_NAME = "processor_config.json"
"""The file in which newer versions of transformers keep the image settings of some models."""

TRAINING_NAME = "training.json"
"""The file with the settings and scores of training."""

# Settings that are dropped when a configuration is read. Some change the precision, but weights are always converted to
# float32. Others let transformers fetch or run code from elsewhere. So may settings that begin with an underscore.
_DROPPED_SETTINGS = frozenset(
    ("dtype", "torch_dtype", "auto_map", "attn_implementation", "quantization_config", "torchscript")
)
_CLASSIFIER = "decode_head.classifier.bias"


@dataclass(frozen=True)
class SegformerContent:
    """The content of a checkpoint's directory, in memory.

    Attributes:
        config: the content of `config.json`.
        weights: the arrays of `model.safetensors` by the Hub's tensor names. Floats are converted to float32; integers
            keep their dtype.
        preprocessor: the content of `preprocessor_config.json`, or of `image_processor` in `processor_config.json`; {}
            for transformers' defaults.
        source: where the content came from, for messages.
        training: the content of `training.json`: the settings of training, and the scores; {} if there is none.
    """

    config: dict[str, Any]
    weights: dict[str, npt.NDArray[Any]]
    preprocessor: dict[str, Any]
    source: str
    training: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: str | os.PathLike[str], *, encoder_only: bool = False) -> SegformerContent:
        """Read a Hugging Face directory, or its subfolder `checkpoint/` if the files are there. Run no pickled code.

        Args:
            directory: a local directory.
            encoder_only: whether a SegFormer without a decoder will do, such as `nvidia/mit-b0`.

        Raises:
            CheckpointError: a file is missing or unreadable, or does not belong to a SegFormer.
        """
        directory = find_directory(os.path.abspath(directory))
        config = read_json(os.path.join(directory, CONFIG_NAME))
        check_architecture(config, os.path.join(directory, CONFIG_NAME), encoder_only)
        preprocessor_path, preprocessor = preprocessor_in(directory)
        try:
            size = ImageSettings(**settings_in(preprocessor))
        except (ValueError, TypeError, OverflowError) as error:
            raise CheckpointError(f"{preprocessor_path}: {error}") from error
        if size.height * size.width > MAX_PIXELS:
            raise CheckpointError(
                f"{preprocessor_path}: size is {size.height} x {size.width} pixels, which takes too much memory; "
                f"expected at most {MAX_PIXELS} pixels"
            )
        weights = read_weights(directory)
        check_labels(config, os.path.join(directory, CONFIG_NAME))
        classes = np.size(weights.get(_CLASSIFIER, ()))
        if not config.get("id2label") and config.get("num_labels") in (None, classes):  # as transformers names them
            config["id2label"] = {str(class_id): f"LABEL_{class_id}" for class_id in range(classes)}
        config = {
            name: value for name, value in config.items() if name not in _DROPPED_SETTINGS and not name.startswith("_")
        }
        training_path = os.path.join(directory, TRAINING_NAME)
        training = read_json(training_path) if os.path.exists(training_path) else {}
        return cls(config, weights, preprocessor, directory, training)

    @classmethod
    def from_model(cls, model: Any, settings: ImageSettings) -> SegformerContent:
        """Return the content of a transformers `SegformerForSemanticSegmentation`.

        The model is saved and read again, because the names of its tensors in memory depend on transformers' version.

        Raises:
            CheckpointError: its modules are not those of its configuration; see `check_modules`.
        """
        check_modules(model)
        with tempfile.TemporaryDirectory(prefix="segformer_") as directory:
            with quiet_transformers():
                model.save_pretrained(directory)
            content = cls.read(directory)
        return replace(content, preprocessor=settings.to_config(), source=type(model).__name__)

    @property
    def tensors(self) -> dict[str, Any]:
        """The weights as torch tensors. They are views of `weights`; do not write into them."""
        import torch

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")  # Arrays in the object store are read-only.
            return {name: torch.from_numpy(array) for name, array in self.weights.items()}

    @property
    def has_decoder(self) -> bool:
        """Whether the model segments; else it is an encoder alone."""
        return _CLASSIFIER in self.weights

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return len(self.weights[_CLASSIFIER])

    @property
    def smallest_side(self) -> int:
        """The fewest rows and columns, in pixels, of an image that the network takes: 29 for published models."""
        return smallest_side(self.config)

    @property
    def ignore_index(self) -> int:
        """The class id that the loss leaves out: `semantic_loss_ignore_index`, 255 by default."""
        return int(self.config.get("semantic_loss_ignore_index", 255))

    @property
    def ignored_ids(self) -> tuple[int, ...]:
        """The annotated class ids that loss, scores and training leave out. The first stands for "not annotated".

        The model's own `ignore_index` is one of them, also if it is one of the model's classes. 255 is another: null
        annotations, and 0 where labels are reduced, become 255 whatever the model says, as in transformers. It counts
        only if the model has a class 255 and another ignore index.
        """
        own = self.ignore_index
        return (own,) if self.num_labels > 255 or own == 255 else (255, own)

    @property
    def guesses(self) -> list[Guess]:
        """What the files leave open, and what is assumed."""
        classes = self.num_labels if self.has_decoder else 0
        return guesses_of(self.source, self.config, self.preprocessor, self.weights, classes)

    def digest(self) -> str:
        """Return a hash of the configuration, the preprocessing and the weights. It identifies the model."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.config, self.preprocessor):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        for name in sorted(self.weights):
            array = self.weights[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def check(self) -> None:
        """Check that the weights fit the configuration.

        Raises:
            CheckpointError: tensors are missing or have wrong shapes, or `config` describes no SegFormer.
        """
        with self._named_errors():
            check_weights(self.config, self.weights)

    def make_runtime(self, **options: Any) -> Runtime:
        """Return the network, ready to run. `options` are those of `ray_segformer.network.make_runtime`.

        Raises:
            CheckpointError: as for `check`.
            ValueError: as for `ray_segformer.network.make_runtime`.
            RuntimeError: as for `ray_segformer.network.make_runtime`.
        """
        from ray_segformer.network import make_runtime  # imports torch

        with self._named_errors():
            return make_runtime(self.config, self.tensors, **options)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except NetworkError as error:
            raise CheckpointError(f"{self.source}: {error}") from error

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write the files into `directory`. `config.json` comes last: without it, the checkpoint is not complete."""
        from safetensors.numpy import save_file

        os.makedirs(directory, exist_ok=True)
        for name in (CONFIG_NAME, PROCESSOR_NAME, PREPROCESSOR_NAME, TRAINING_NAME):  # of another model
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(directory, name))
        weights = {name: np.asarray(array, order="C") for name, array in self.weights.items()}
        save_file(weights, os.path.join(directory, WEIGHTS_NAME), metadata={"format": "pt"})
        files = {TRAINING_NAME: self.training, PREPROCESSOR_NAME: self.preprocessor, CONFIG_NAME: self.config}
        for name, content in files.items():
            if content:
                with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                    json.dump(content, file, indent=2, sort_keys=True)

    def build_model(self) -> Any:
        """Return a transformers `SegformerForSemanticSegmentation` in eval mode. Its parameters are views of `weights`.

        Raises:
            CheckpointError: as for `check`.
        """
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        self.check()
        with quiet_transformers():
            load: Any = SegformerForSemanticSegmentation.from_pretrained
            model = load(None, config=SegformerConfig.from_dict(self.config), state_dict=self.tensors)
        return model.eval().requires_grad_(False)


def preprocessor_in(directory: str) -> tuple[str, dict[str, Any]]:
    """Return the file of the image settings, and the settings; {} if there is none.

    As in transformers 5, settings in `processor_config.json` come before `preprocessor_config.json`.
    """
    path = os.path.join(directory, PROCESSOR_NAME)
    nested = read_json(path).get("image_processor") if os.path.exists(path) else None
    if isinstance(nested, dict):
        return path, nested
    path = os.path.join(directory, PREPROCESSOR_NAME)
    return path, read_json(path) if os.path.exists(path) else {}


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars and warnings. Loading takes a tenth of a second, and we check the result."""
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
