"""One small Ray for the tests of the AIR classes, which run unchanged on every supported Ray."""

import gc
import logging

import pytest
from sessions import end_ray, start_ray

from ray_segformer.air import Checkpoint


@pytest.fixture(scope="package", autouse=True)
def small_ray():
    """Four CPUs, a GPU that only exists for the scheduler, and a custom resource."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    end_ray()  # another folder's, which has fewer resources
    with pytest.MonkeyPatch.context() as patch:
        # Serve of Ray 2.6.3 reads these when it is imported. Its usual router samples from a set, which Python 3.11
        # refuses, and then waits for ever.
        for flag in ("RAY_SERVE_ENABLE_NEW_ROUTING", "RAY_SERVE_ENABLE_EXPERIMENTAL_STREAMING"):
            patch.setenv(flag, "0")
        start_ray(num_cpus=4, num_gpus=1, resources={"lab": 1})
        yield
        end_ray()


@pytest.fixture
def make_checkpoint(tmp_path):
    """Makes a directory checkpoint of some class, from the texts of its files by path."""

    def make(files=None, checkpoint_class=Checkpoint):
        directory = tmp_path / "model"
        for path, text in (files or {"about.txt": "a toy"}).items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(text)
        return checkpoint_class.from_directory(str(directory))

    return make


@pytest.fixture
def checkpoint(make_checkpoint):
    """A plain directory checkpoint, of no interest."""
    return make_checkpoint()


@pytest.fixture
def rows_of():
    """Consumes a dataset and returns its rows sorted by a column: Ray keeps no order."""

    def rows(dataset, by="id"):
        return sorted(dataset.take_all(), key=lambda row: row[by])

    return rows


@pytest.fixture
def failure_of():
    """Consumes a dataset that must fail and returns the whole text of the error, causes included."""

    def text(dataset):
        texts = []
        try:
            dataset.take_all()
        except Exception as failure:  # Ray wraps the error in one of its own
            error = failure
            while error is not None:
                texts.append(f"{type(error).__name__}: {error}")
                error = error.__cause__
        else:
            pytest.fail("the dataset was consumed without an error")
        gc.collect()  # a failed dataset's actors hold their resources until Python frees its executor
        return "\n".join(texts)

    return text
