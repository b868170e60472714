"""Names of models: a local directory, or a model of the Hugging Face Hub, which is downloaded."""

from __future__ import annotations

import os

from ray_segformer.images import public_uri
from ray_segformer.pretrained._config_file import CONFIG_NAME
from ray_segformer.pretrained._directory import PROCESSOR_NAME, TRAINING_NAME
from ray_segformer.pretrained._image_settings import CONFIG_NAME as PREPROCESSOR_NAME
from ray_segformer.pretrained._weights import INDEX_SUFFIX, PICKLE_NAME, WEIGHTS_NAME, CheckpointError, shards_in


def local_directory(name_or_dir: str | os.PathLike[str]) -> str:
    """Return the local directory of a model, given that directory or a name on the Hub (downloaded and cached).

    Raises:
        CheckpointError: the name is empty or a URI, or the Hub has no such model, or cannot be reached.
    """
    if not os.fspath(name_or_dir):
        raise CheckpointError("the name of the model is empty; name a directory, or a model of the Hugging Face Hub")
    directory = os.path.expanduser(os.fspath(name_or_dir))
    if "://" in directory:
        shown = public_uri(directory)
        raise CheckpointError(f"{shown}: a model is a local directory or a name on the Hub; copy it to a disk first")
    return directory if os.path.isdir(directory) or _is_path(directory) else _download(directory)


def _is_path(name: str) -> bool:
    """Return whether a name cannot be a Hub name, which is `name` or `organization/name`."""
    return (
        name.startswith((".", "/")) or name.endswith("/") or name.count("/") > 1 or (os.sep != "/" and os.sep in name)
    )


def _download(repository: str) -> str:
    """Download a model of the Hub, and return its local directory."""
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import LocalEntryNotFoundError
    from transformers.utils.hub import cached_file

    def fetch(file: str, required: bool) -> str | None:
        path: str | None = cached_file(repository, file, _raise_exceptions_for_missing_entries=required)
        return path

    try:
        config = fetch(CONFIG_NAME, required=True)
        settings = [fetch(name, required=False) for name in (PROCESSOR_NAME, PREPROCESSOR_NAME)]
        if not any(settings):
            try:
                fetch(PREPROCESSOR_NAME, required=True)
            except OSError as error:  # a failed request does not mean that the file is missing
                if isinstance(error.__cause__, LocalEntryNotFoundError) and not HF_HUB_OFFLINE:
                    raise
        fetch(TRAINING_NAME, required=False)
        for name in (WEIGHTS_NAME, WEIGHTS_NAME + INDEX_SUFFIX, PICKLE_NAME, PICKLE_NAME + INDEX_SUFFIX):
            weights = fetch(name, required=False)
            if weights is not None:
                for shard in shards_in(weights) if name.endswith(INDEX_SUFFIX) else ():
                    fetch(shard, required=True)
                break
        else:
            fetch(WEIGHTS_NAME, required=True)
    except Exception as error:  # a lost connection raises errors of the Hub's HTTP client, which its versions differ in
        raise CheckpointError(
            f"{repository!r} is not a local directory, and loading it from the Hugging Face Hub failed: {error}"
        ) from error
    return os.path.dirname(str(config))
