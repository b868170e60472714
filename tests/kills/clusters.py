"""What tests run on a Ray of its own, each in a process of its own, and what they find."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import ray
from dying import Gate, counted, gated, wait_until
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_segformer import BatchMapper, BatchPredictor, Predictor, SegformerCheckpoint, SegformerPredictor
from ray_segformer.air import Checkpoint
from ray_segformer.comparison import PeakMemory
from ray_segformer.jobs import resources_for
from ray_segformer.predict import predict


def start(cpus: int, **options: Any) -> None:
    """Start a Ray on this machine."""
    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, **options)
    be_quiet()


def be_quiet() -> None:
    """Turn Ray Data's messages off."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


# Nodes


def two_nodes(model: str, photos: list[str], small_model: str, pictures: np.ndarray, folder: str) -> dict[str, Any]:
    """Score on the second node of a cluster, and then on one that is lost.

    Returns:
        The findings of `score_elsewhere` and of `lose_a_node`; `driver`, the id of the driver's node; and `workers`,
        how many a job has by default after a node of 40 CPUs came: for 1000 batches, for three, and for 1000 with more
        memory.
    """
    os.environ.pop("RAY_ADDRESS", None)
    # A node that does not answer is dead after five checks. A slow answer is none of that: the timeout stays as it is.
    checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000}
    head = {"num_cpus": 2, "memory": 2 * 2**30, "include_dashboard": False, "_system_config": checks}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    node = cluster.add_node(num_cpus=2, resources={"worker": 1})
    ray.init(cluster.address, log_to_driver=False)
    be_quiet()
    findings = {"driver": ray.get_runtime_context().get_node_id()}
    findings |= score_elsewhere(model, photos, folder)
    findings["lost"] = lose_a_node(small_model, pictures, folder, cluster, node)
    cluster.add_node(num_cpus=40, memory=20 * 2**30)
    findings["workers"] = [resources_for(rows, 1)["max_scoring_workers"] for rows in (1000, 3)]
    cluster.add_node(num_cpus=0, memory=200 * 2**30)
    findings["workers"].append(resources_for(1000, 1)["max_scoring_workers"])
    ray.shutdown()
    cluster.shutdown()
    return findings


def score_elsewhere(model: str, photos: list[str], folder: str) -> dict[str, Any]:
    """Score on the node with the resource `worker`, with a checkpoint whose folder is lost or overwritten before.

    Returns:
        For each way the `masks` in the order of the photos, the ids of the `nodes`, and the `stages`.
    """

    class Witness(SegformerPredictor):
        def _predict_numpy(self, data: Any) -> Any:
            rows = len(data["path"])
            predictions = super()._predict_numpy({name: data[name] for name in data if name != "path"})
            return predictions | {
                "node": np.array([ray.get_runtime_context().get_node_id()] * rows),
                "preprocessed": np.array(["pixel_values" in data] * rows),
            }

    findings = {}
    for name, make, spoil in (
        ("own", SegformerCheckpoint.from_pretrained, shutil.rmtree),
        ("plain", Checkpoint.from_directory, shutil.rmtree),
        ("overwritten", SegformerCheckpoint.from_pretrained, _overwrite),
    ):
        own = os.path.join(folder, name)
        shutil.copytree(model, own)
        predictor = BatchPredictor.from_checkpoint(make(own), Witness)
        spoil(own)
        dataset = predictor.predict(
            ray.data.from_items([{"image": photo, "path": photo} for photo in photos]),
            batch_size=2,
            max_scoring_workers=1,
            keep_columns=["path"],
            ray_remote_args={"resources": {"worker": 0.1}},
        ).materialize()
        rows = sorted(dataset.take_all(), key=lambda row: photos.index(row["path"]))
        findings[name] = {
            "masks": [row["segmentation"] for row in rows],
            "nodes": sorted({row["node"] for row in rows}),
            "preprocessed": all(row["preprocessed"] for row in rows),
            "stages": [line.split(":")[0] for line in dataset.stats().splitlines() if line.startswith("Operator")],
        }
    return findings


def _overwrite(folder: str) -> None:
    Path(folder, "model.safetensors").write_bytes(b"garbage")


def lose_a_node(model: str, pictures: np.ndarray, folder: str, cluster: Any, node: Any) -> dict[str, Any]:
    """Score on a node, which is lost while its worker stands in the fifth batch.

    Returns:
        The numbers of the pictures and their masks, in the order of the rows; the number of batches that were `begun`
        on the node; the number of rows that `ended` on the driver's node; and the number of nodes `alive` then.
    """

    lost = node.node_id  # the node itself cannot be pickled

    class Witness(SegformerPredictor):
        def _predict_numpy(self, data: Any) -> Any:
            here = ray.get_runtime_context().get_node_id()
            if here == lost:
                with open(os.path.join(folder, "begun"), "a") as file:
                    file.write(".")
                if counted(folder, "begun") == 5:
                    Gate(folder).wait()  # which nobody opens
            return super()._predict_numpy(data) | {"node": np.array([here] * len(data["pixel_values"]))}

    def remove() -> None:
        wait_until(Gate(folder).reached.exists)
        cluster.remove_node(node, allow_graceful=False)

    remover = threading.Thread(target=remove, daemon=True)  # it must not outlive a failure
    remover.start()
    rows = (
        BatchPredictor.from_checkpoint(SegformerCheckpoint.from_pretrained(model), Witness)
        .predict(
            ray.data.from_items([{"number": number, "image": image} for number, image in enumerate(pictures)]),
            batch_size=2,
            max_scoring_workers=1,
            keep_columns=["number"],
            ray_remote_args={"scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=True)},
        )
        .take_all()
    )
    remover.join()
    return {
        "numbers": [int(row["number"]) for row in rows],
        "masks": [row["segmentation"] for row in rows],
        "begun": counted(folder, "begun"),
        "ended": sum(row["node"] == ray.get_runtime_context().get_node_id() for row in rows),
        "alive": sum(other["Alive"] for other in ray.nodes()),
    }


# Few CPUs


def workers_of(options: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Score on the Ray that runs, once with each of the options of `BatchPredictor.predict`.

    Returns:
        For each the `doubled` numbers, the `cpus` that workers reserved, and the `warnings`.
    """

    class Witness(Predictor):
        @classmethod
        def from_checkpoint(cls, checkpoint: Any) -> Any:
            return cls()

        def _predict_numpy(self, data: Any) -> Any:
            cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
            return {"doubled": data["id"] * 2, "cpus": np.full(len(data["id"]), float(cpus))}

    findings = []
    logger, handler = logging.getLogger("ray_segformer.air._batch_predictor"), logging.Handler()
    logger.addHandler(handler)
    try:
        for each in options:
            warnings: list[str] = []
            handler.emit = lambda record, warnings=warnings: warnings.append(record.getMessage())  # type: ignore
            predictor = BatchPredictor(None, Witness)
            predictor.set_preprocessor(BatchMapper(lambda batch: {"id": batch["id"] + 1}, "numpy"))
            rows = predictor.predict(ray.data.range(24, override_num_blocks=6), batch_size=2, **each).take_all()
            doubled, cpus = sorted(int(row["doubled"]) for row in rows), sorted({row["cpus"] for row in rows})
            findings.append({"doubled": doubled, "cpus": cpus, "warnings": warnings})
    finally:
        logger.removeHandler(handler)
    return findings


def one_cpu(options: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the findings of `workers_of` on a Ray of one CPU."""
    start(1)
    return workers_of(options)


def two_cpus(options: list[dict[str, Any]], *job: Any) -> dict[str, Any]:
    """Return the findings of `workers_of` and `gated_job` on a Ray of two CPUs."""
    start(2)
    return {"workers": workers_of(options), "job": gated_job(*job)}


def gated_job(source: str, output: str, folder: str, first: list[str]) -> dict[str, Any]:
    """Predict the images of a source. All but the `first` ones wait at `Gate(folder)`, until there are shards.

    Returns:
        The summary, and how many rows were `written` while images waited.
    """
    gate, written = Gate(folder), []

    def watch() -> None:
        shards = Path(output, "masks")
        try:
            wait_until(lambda: gate.reached.exists() and any(shards.glob("part-*.parquet")))
            written.append(sum(pa.parquet.read_metadata(shard).num_rows for shard in shards.glob("part-*.parquet")))
        finally:
            gate.open()

    watcher = threading.Thread(target=watch)
    watcher.start()
    summary = predict(source, output, gated(folder, first), batch_size=2, rows_per_shard=4, progress=False)
    watcher.join()
    return {**summary, "written": sum(written)}


# Memory


def memory_of_arrays(size: int) -> dict[str, int]:
    """Return by how many bytes the peak grows if two actors share an array, and if each then has one of its own."""
    os.environ.pop("TESTS_WARM_PROCESS", None)  # Only what the raylet started itself is found among its children.
    # Without workers that Ray starts in advance, all memory that is added is that of the arrays.
    start(2, object_store_memory=600 * 2**20, _system_config={"enable_worker_prestart": False})

    @ray.remote(num_cpus=1)
    class Holder:
        def own(self, size: int) -> None:
            self.array = np.ones(size, np.uint8)

        def share(self, array: np.ndarray) -> int:
            return int(array.sum())

    def peak() -> int:
        with PeakMemory() as memory:
            time.sleep(0.5)
        return memory.peak

    holders = [Holder.remote() for _ in range(2)]
    shared = ray.put(np.ones(size, np.uint8))
    ray.get([holder.own.remote(1) for holder in holders])
    before = peak()
    assert ray.get([holder.share.remote(shared) for holder in holders]) == [size, size]
    sharing = peak()
    ray.get([holder.own.remote(size) for holder in holders])
    return {"by_sharing": sharing - before, "by_owning": peak() - sharing}
