"""A cluster of two nodes of which one does not see the driver's folder, as on two machines.

The driver is on a head node without CPUs for tasks, as KubeRay recommends.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from clusters import be_quiet
from dying import quick_demo, wait_until
from ray.cluster_utils import Cluster

from ray_segformer.cli import main
from ray_segformer.jobs import ResourceError, export
from ray_segformer.outputs import OutputError
from ray_segformer.predict import predict

_STARTS = 5  # of a node: Ray waits half a minute for its own processes, which is too short on a busy machine


@contextlib.contextmanager
def node(cluster: Any, folder: str, environment: dict[str, str]) -> Iterator[str]:
    """Start a node that sees an empty folder in place of `folder`, and give its id."""
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={cluster.address}"]
    hidden = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hidden, folder, *start, "--num-cpus=2"]
    environment = {**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0", **environment}  # else it ends after 30 s
    for _ in range(_STARTS):
        raylet = subprocess.Popen(command, env=environment, start_new_session=True)
        wait_until(lambda: others() or raylet.poll() is not None)  # noqa: B023  it is called here alone
        if raylet.poll() is None:
            break
        wait_until(lambda: not others())
    try:
        (there,) = others()
        yield there
    finally:
        raylet.terminate()
        raylet.wait()
        wait_until(lambda: not others())


def others() -> list[str]:
    """Return the ids of the living nodes but the driver's."""
    here = ray.get_runtime_context().get_node_id()
    return [each["NodeID"] for each in ray.nodes() if each["Alive"] and each["NodeID"] != here]


def jobs(folder: str, images: str, packages: str, stores: dict[str, str]) -> dict[str, Any]:
    """Run jobs on such a cluster.

    Args:
        folder: what the second node does not see.
        images: a folder of images in it.
        packages: a folder for PYTHONPATH, with another version of a package.
        stores: URIs of the `images` in a store; of a folder to write to (`out`); and of one to which nothing can be
            written (`denied`).

    Returns:
        The messages of jobs that are refused: with the `local` images and other packages (its exit code is `code`), and
        where the output is `denied`; the summaries of jobs from the store to a local folder (`here`) and to the store
        (`there`), and of an export of the first (`exported`); and the ids of the second `nodes`.
    """
    os.environ.pop("RAY_ADDRESS", None)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(cluster.address, log_to_driver=False)
    be_quiet()
    options: dict[str, Any] = {"checkpoint": quick_demo(), "progress": False, "rows_per_shard": 4}
    options |= {"batch_size": 2, "workers": 3, "mask_format": "png"}
    findings: dict[str, Any] = {"nodes": []}
    with node(cluster, folder, {"PYTHONPATH": packages}) as there:
        findings["nodes"].append(there)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            findings["code"] = main(["predict", images, str(Path(folder, "refused"))])
        findings["local"] = said.getvalue()
    with node(cluster, folder, {}) as there:
        findings["nodes"].append(there)
        try:
            predict(stores["images"], stores["denied"], **options)
        except (OutputError, ResourceError) as error:
            findings["denied"] = str(error)
        findings["here"] = predict(stores["images"], str(Path(folder, "out")), **options)
        exported = str(Path(folder, "exported"))
        findings["exported"] = export(str(Path(folder, "out")), exported, "png", progress=False)
        findings["there"] = predict(stores["images"], stores["out"], **options)
    ray.shutdown()
    cluster.shutdown()
    return findings
