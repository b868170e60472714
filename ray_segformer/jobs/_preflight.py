"""A check of a cluster's nodes, before the first image: packages, input, output, and GPUs."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_segformer.air import installed
from ray_segformer.images import file_system_at, public_uri, without_options
from ray_segformer.inputs import is_video
from ray_segformer.jobs._cluster import ResourceError
from ray_segformer.outputs import LocalStorage, Storage

# What changes masks, or what workers send each other.
_PACKAGES = ("Python", "ray_segformer", "torch", "numpy", "pillow", "pyarrow")
_EXECUTABLE, _MISSING = "executable", "missing"
_SECONDS = 300.0  # for all nodes: the first process on a node imports much


def check_nodes(storage: Storage | None, file: str | None, *, with_gpus: bool) -> None:
    """Check in tasks on each node of the cluster that the job can run there.

    A node must have the same versions as the driver of Python, ray_segformer, torch, NumPy, Pillow and pyarrow, and of
    PyAV for videos; it must read the input, and write to the output, unless that is a local folder, which only the
    driver's node writes; and, if it has GPUs and the job uses some, torch must find one.

    Of the driver's node, only the versions are checked: its workers run the Python that started the cluster. They run
    the driver's if this process started Ray.

    Args:
        storage: the output, if tasks write it; else None.
        file: a file of the input, as an image cell, or None to look for no input. It is not looked for if the driver
            does not find it either.
        with_gpus: whether the job uses GPUs.

    Raises:
        ResourceError: a node fails. The message has a line for each failure, which names the node.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    checked = [node for node in nodes if node["Alive"] and (node["NodeID"] != here or not installed.runs_own_ray())]
    if not checked:
        return
    versions = _versions_of((*_PACKAGES, "av") if file is not None and is_video(public_uri(file)) else _PACKAGES)
    expected = versions()
    if file is not None and _problem_of_input(file) is not None:
        file = None
    remote = None if isinstance(storage, LocalStorage) else storage
    task: Any = ray.remote(num_cpus=0, max_retries=0)
    tasks: dict[str, list[Any]] = {}
    for node in checked:
        where = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)}
        tasks[node["NodeID"]] = [task(versions).options(**where).remote()]
        if node["NodeID"] != here:
            has_gpus = with_gpus and node["Resources"].get("GPU", 0) > 0
            tasks[node["NodeID"]].append(task(_problems).options(**where).remote(file, remote, has_gpus))
    started = list(itertools.chain.from_iterable(tasks.values()))
    ray.wait(started, num_returns=len(started), timeout=_SECONDS)
    lines = []
    for node in checked:
        name = f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        lines += [f"{name}: {problem}" for problem in _problems_of(expected, *tasks[node["NodeID"]])]
    if lines:
        raise ResourceError("\n".join(lines))


def _problems_of(expected: dict[str, str], versions: Any, *others: Any) -> list[str]:
    """Return what is wrong on a node, from the tasks that ran there."""
    problems: list[str] = []
    try:
        there: dict[str, str] = ray.get(versions, timeout=0)
        problems += [
            f"{package} is {there[package]} there, and {version} where the job was started; install the same version "
            f"for {there[_EXECUTABLE]}"
            for package, version in expected.items()
            if package != _EXECUTABLE and there[package] != version
        ]
        if there["ray_segformer"] != _MISSING:  # the other task needs it
            problems += itertools.chain.from_iterable(ray.get(list(others), timeout=0))
    except ray.exceptions.GetTimeoutError:
        problems.append(f"no process answered within {_SECONDS:.0f} seconds")
    except ray.exceptions.RayTaskError as error:
        problems.append(f"the package cannot be used there: {str(error).splitlines()[-1]}")
    except ray.exceptions.RayError as error:
        problems.append(f"no process could be started there: {str(error).splitlines()[0]}")
    return problems


def _versions_of(packages: Sequence[str]) -> Callable[[], dict[str, str]]:
    """Return a function that returns the versions of packages, or of "Python", where it runs, and Python's path.

    Ray sends a function in a function as a whole. So this one runs where ray_segformer is missing.
    """
    executable, missing = _EXECUTABLE, _MISSING

    def versions() -> dict[str, str]:
        import importlib.metadata
        import platform
        import sys

        found = {executable: sys.executable}
        for package in packages:
            try:
                if package == "Python":
                    found[package] = ".".join(platform.python_version_tuple()[:2])
                elif package == "ray_segformer":  # It may be a folder of the job's, which is not installed.
                    found[package] = importlib.import_module(package).__version__
                else:
                    found[package] = importlib.metadata.version(package)
            except ImportError:
                found[package] = missing
        return found

    return versions


def _problems(file: str | None, storage: Storage | None, with_gpus: bool) -> list[str]:
    """Return what is wrong on the node of this process, beside versions."""
    problems = []
    problem = None if file is None else _problem_of_input(file)
    if problem is not None:
        problems.append(f"{problem}; put the input where all nodes see it, such as S3")
    if storage is not None:
        name = f".check-{uuid.uuid4().hex}"
        try:
            storage.write(name, b"")
            storage.delete([name])
        except Exception as error:
            problems.append(str(error))
    if with_gpus:
        import torch

        if not torch.cuda.is_available():
            problems.append("it has GPUs for Ray, but torch finds none; install a build of torch for its driver")
    return problems


def _problem_of_input(file: str) -> str | None:
    """Return why a file cannot be opened from here; None if it can."""
    try:
        if "://" in file:
            file_system, path = file_system_at(file)
            file_system.open_input_file(path).close()
        else:
            open(file, "rb").close()
    except Exception as error:
        return f"{public_uri(file)} cannot be read there: {without_options(str(error).replace(file, public_uri(file)))}"
    return None
