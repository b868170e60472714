"""The Ray that the commands run on."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine, or keep the one that runs; quietly.

    Datasets then keep the order of their input.
    """
    # Ray's own words are for its developers; what a user must know comes as an error or from this package.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with _nothing_on_stderr():  # where Ray says that it found the variable
        ray.init(logging_level=logging.ERROR, log_to_driver=False, ignore_reinit_error=True)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True


@contextlib.contextmanager
def _nothing_on_stderr() -> Iterator[None]:
    """Drop what the process, and libraries that are not Python's, write to stderr meanwhile."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
