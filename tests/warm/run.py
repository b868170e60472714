"""Run Python with the arguments that follow, and let each Ray that starts meanwhile fork workers from a warm process.

    python tests/warm/run.py -m pytest tests/on_ray

A new worker takes three seconds of a CPU to import torch, Ray Data and this package, and the tests start hundreds. The
warm process has imported them. A fork of it does the same work as a worker that Ray starts, in a process of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import unittest.mock
from typing import Any

VARIABLE = "TESTS_WARM_PROCESS"  # without it in the environment, a Ray starts its workers cold
_MODULES = (
    *("torch", "torch._dynamo", "torch.distributed", "pandas", "pyarrow.parquet", "pyarrow.fs", "safetensors.torch"),
    *("numba", "transformers.models.segformer.modeling_segformer", "matplotlib.figure"),
    # What Ray imports.
    *("pydantic.v1", "requests", "rich.console", "google.protobuf.json_format", "fsspec", "click", "jsonschema"),
)
# Ray's library reads RAY_* in the environment when it is imported, and they differ from driver to driver.
_MODULES_OF_RAY = (
    *("ray.data", "ray.train.torch", "ray.tune", "ray_segformer.predictor", "ray_segformer.network._runtimes"),
    *("ray_segformer.network._batching", "ray_segformer.network._tiles", "ray_segformer.network._foreground"),
    *("ray_segformer.training", "ray_segformer.inputs", "ray_segformer.jobs", "ray_segformer.architectures"),
)
_SECONDS_BETWEEN_CHECKS = 2
_SECONDS_TO_END = 20
_SERVE = "--serve"


def main(arguments: list[str]) -> int:
    """Run Python with the arguments, and return its exit code."""
    with tempfile.TemporaryDirectory(prefix="warm") as folder:
        path = os.path.join(folder, "socket")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as Ray sets it for a worker of one CPU
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(64)  # The first workers wait until the process has imported everything.
            file = listener.fileno()
            warm = subprocess.Popen([sys.executable, __file__, _SERVE, str(file)], env=environment, pass_fds=[file])
        paths = [os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH")]
        added = {VARIABLE: f"{path}|{sys.prefix}", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        try:
            return subprocess.call([sys.executable, *arguments], env={**os.environ, **added})
        finally:
            warm.terminate()


def _serve(listener: socket.socket) -> None:
    """Hand each request on to a process that has also imported Ray, one for each driver."""
    for module in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    _load_late_parts()
    _freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel forgets forks that ended.
    of_drivers: dict[Any, socket.socket] = {}
    while True:
        connection, _ = listener.accept()
        _, files, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile() as text:
            request = json.load(text)
        driver = tuple(sorted(item for item in request["environment"].items() if item[0].startswith("RAY_")))
        message = [json.dumps(request).encode()], [*files, connection.fileno()]
        try:
            socket.send_fds(of_drivers[driver], *message)
        except (KeyError, OSError):  # There is none yet, or it ended with its Ray.
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if os.fork() == 0:
                for other in (listener, connection, here, *of_drivers.values()):
                    other.close()
                for file in files:
                    os.close(file)
                _serve_driver(there, dict(driver))
                os._exit(0)  # without the clean-up of libraries, which some of them complain about
            there.close()
            of_drivers[driver] = here
            socket.send_fds(here, *message)
        connection.close()
        for file in files:
            os.close(file)


def _load_late_parts() -> None:
    """Load numba's compiled kernels and Pillow's formats, which take half a second of each worker otherwise."""
    import torch
    from PIL import Image

    from ray_segformer.network import upsampled_argmax

    Image.init()  # imports Pillow's formats
    upsampled_argmax(torch.zeros(2, 2, 2), (4, 4))


def _freeze() -> None:
    """Keep the garbage collector of forks away from what is here: it would copy all of this memory."""
    gc.set_threshold(10_000, 20, 20)  # as in `sitecustomize.py`
    gc.collect()
    gc.freeze()


def _serve_driver(requests: socket.socket, environment: dict[str, str]) -> None:
    """Fork a worker for each request, until the driver's Ray ends."""
    os.environ.update(environment)
    import ray.actor

    # Ray's library makes ids from one generator. If it is used before a fork, all forks make the same ids.
    class_id = ray.actor.ActorClassID
    from_system = types.SimpleNamespace(from_random=lambda: class_id(os.urandom(class_id.nil().size())))
    with unittest.mock.patch("ray.actor.ActorClassID", from_system):
        for module in _MODULES_OF_RAY:
            with contextlib.suppress(ImportError):  # older Rays lack some
                importlib.import_module(module)
    sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    importlib.import_module("sessions")  # changes a setting of Ray Data, for workers too
    del sys.path[1]
    _freeze()
    while True:
        if not select.select([requests], [], [], _SECONDS_BETWEEN_CHECKS)[0]:
            if not os.path.exists(f"/proc/{environment['RAY_RAYLET_PID']}"):
                return
            continue
        content, files, _, _ = socket.recv_fds(requests, 2**20, 4)
        if not content:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            threading.Thread(target=_end_after, args=(environment["RAY_RAYLET_PID"],), daemon=True).start()
            return _work(json.loads(content), files)
        for file in files:
            os.close(file)


def _end_after(raylet: str) -> None:
    """End this worker if it has not ended by itself some time after its raylet, as some of Ray 2.6.3 do not."""
    while os.path.exists(f"/proc/{raylet}"):
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    time.sleep(_SECONDS_TO_END)
    os._exit(1)


def _work(request: dict[str, Any], files: list[int]) -> None:
    """Be the worker. The last of the files is a connection, which closes when this process ends."""
    *streams, connection = files
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.set_inheritable(connection, False)
    os.setpgrp()  # Ray kills the process group of a worker.
    os.environ.clear()
    os.environ.update({**request["environment"], **request["added"]})
    os.chdir(request["folder"])
    sys.argv = request["arguments"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    # To free all that the warm process imported, each fork would copy it first. The kernel drops it at once.
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == [_SERVE]:
        _serve(socket.socket(fileno=int(sys.argv[2])))
    else:
        sys.exit(main(sys.argv[1:]))
