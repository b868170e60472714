"""A check of a cluster's nodes, before the first image: packages, input, output, and GPUs."""

from __future__ import annotations

import importlib.metadata
import platform
import uuid
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_segformer.images import file_system_at, public_uri, without_options
from ray_segformer.inputs import is_video
from ray_segformer.jobs._cluster import ResourceError
from ray_segformer.outputs import LocalStorage, Storage

# What changes masks, or what workers send each other.
_PACKAGES = ("Python", "ray_segformer", "torch", "numpy", "pillow", "pyarrow")
_SECONDS = 300.0  # for all nodes: the first process on a node imports much


def check_nodes(storage: Storage | None, file: str, *, with_gpus: bool) -> None:
    """Check in a task on each node of the cluster, except the driver's, that the job can run there.

    A node must have the same versions as the driver of Python, ray_segformer, torch, NumPy, Pillow and pyarrow, and of
    PyAV for videos; it must read the input, and write to the output, unless that is a local folder, which only the
    driver's node writes; and, if it has GPUs and the job uses some, torch must find one.

    Args:
        storage: the output, if tasks write it; else None.
        file: a file of the input, as an image cell. It is not looked for if the driver does not find it either.
        with_gpus: whether the job uses GPUs.

    Raises:
        ResourceError: a node fails. The message has a line for each failure, which names the node.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    others = [node for node in nodes if node["Alive"] and node["NodeID"] != here]
    if not others:
        return
    packages = (*_PACKAGES, "av") if is_video(public_uri(file)) else _PACKAGES
    expected = {package: _version(package) for package in packages}
    is_there = _problem_of_input(file) is None
    remote = None if isinstance(storage, LocalStorage) else storage
    tasks = {
        node["NodeID"]: ray.remote(num_cpus=0, max_retries=0)(_problems)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(expected, file if is_there else None, remote, with_gpus and node["Resources"].get("GPU", 0) > 0)
        for node in others
    }
    ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=_SECONDS)
    lines = []
    for node in others:
        name = f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        lines += [f"{name}: {problem}" for problem in _result(tasks[node["NodeID"]])]
    if lines:
        raise ResourceError("\n".join(lines))


def _result(task: Any) -> Sequence[str]:
    try:
        problems: list[str] = ray.get(task, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return [f"no process answered within {_SECONDS:.0f} seconds"]
    except ray.exceptions.RayTaskError as error:
        return [f"the package cannot be used there: {str(error).splitlines()[-1]}"]
    except ray.exceptions.RayError as error:
        return [f"no process could be started there: {str(error).splitlines()[0]}"]
    return problems


def _version(package: str) -> str:
    """Return the version of a package, or of "Python", in this process; "missing" if it is not installed."""
    if package == "Python":
        return ".".join(platform.python_version_tuple()[:2])
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _problems(expected: dict[str, str], file: str | None, storage: Storage | None, with_gpus: bool) -> list[str]:
    """Return what is wrong on the node of this process."""
    problems = [
        f"{package} is {_version(package)} there, and {version} where the job was started; install the same version"
        for package, version in expected.items()
        if version != _version(package)
    ]
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
