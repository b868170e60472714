"""Write masks: by the tasks that make them, or by the driver. What does that cost, and what does the driver take?"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.measure import Table, progress
from benchmarks.process import Child
from benchmarks.settings import Settings
from benchmarks.streaming import start_ray

_SIDE = 64
_STORE = 2**30
_ROWS_PER_SHARD = 1024
_BY_HAND, _BY_RAY, _LOCAL, _REMOTE = (
    "by hand: rows through the driver",
    "Ray Data's write_parquet",
    "ours, local folder",
    "ours, S3",
)


def run(settings: Settings) -> list[Table]:
    """Return a table of writing alone, and one of runs on real photos."""
    with (
        tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder,
        Child(server_of_objects, threads=1) as server,
    ):
        tables = [_writing(settings, folder, server()), _photos(settings, folder, server())]
    progress("")
    return tables


def _writing(settings: Settings, folder: str, options: str) -> Table:
    count = 2000 if settings.quick else 30_000
    rows = []
    with Child(_write, settings.threads, folder, options, threads=1) as write:
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in (_BY_HAND, _BY_RAY, _LOCAL, _REMOTE)}
        for round_ in range(settings.rounds(3)):
            for name in samples:
                progress(f"storage: {name}, round {round_ + 1}")
                samples[name].append(write(name, count))
    for name, runs in samples.items():
        row = {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        rows.append({"name": name, "samples": runs, **row})
    for row in rows:
        row["ratio"] = row["images_per_second"] / rows[0]["images_per_second"]
    columns = {
        "name": "",
        "images_per_second": "images/s",
        "ratio": "times by hand",
        "driver": "driver's CPU, % of a core",
        "driver_at_500": "at 500 images/s",
        "memory": "driver grows by, MB",
    }
    notes = [
        f"{count:,} masks of {_SIDE} x {_SIDE} pixels that cost nothing, encoded as PNG and written in files of "
        f"{_ROWS_PER_SHARD} rows, on {settings.threads} CPUs. S3 is a server on this machine, in a process of its own."
    ]
    return Table("Writing masks, without a network", columns, rows, notes)


def _photos(settings: Settings, folder: str, options: str) -> Table:
    count = 24 if settings.quick else 200
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ("masks are dropped", _LOCAL, _REMOTE)}
    with Child(_predict, settings.model, settings.photos, settings.threads, folder, options, threads=1) as predict:
        for round_ in range(settings.rounds(3)):
            for name in samples:
                progress(f"storage: photos, {name}, round {round_ + 1}")
                samples[name].append(predict(name, count))
    medians = {name: [statistics.median(each) for each in zip(*runs, strict=True)] for name, runs in samples.items()}
    _, without = medians["masks are dropped"]
    rows = [
        {"name": name, "seconds": seconds, "work": work, "share": 100 * (work / without - 1), "samples": samples[name]}
        for name, (seconds, work) in medians.items()
    ]
    columns = {
        "name": "",
        "seconds": "seconds",
        "work": "seconds of the processors' work",
        "share": "% more work than without writing",
    }
    notes = [
        "The processors' work is that of the whole machine, also of the server of objects. It varies less from run to "
        "run than the seconds do."
    ]
    return Table(f"{count} photos, B0, with writing and without", columns, rows, notes)


def server_of_objects() -> Callable[[], str]:
    """Start a server of objects with a bucket, and return what a URI needs to reach it."""
    import pyarrow.fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "{}:{}".format(*server.get_host_and_port())
    store = pyarrow.fs.S3FileSystem(
        access_key="someone", secret_key="secret", endpoint_override=address, scheme="http", allow_bucket_creation=True
    )
    store.create_dir("masks")
    return lambda: f"?endpoint_override={address}&scheme=http"


def _output(name: str, folder: str, options: str) -> str:
    place = f"{time.monotonic_ns()}"
    return f"s3://someone:secret@masks/{place}{options}" if name == _REMOTE else str(Path(folder, place))


def _write(cpus: int, folder: str, options: str) -> Callable[[str, int], dict[str, float]]:
    start_ray(cpus, _STORE, folder + "/spilled")
    import pyarrow as pa
    import pyarrow.parquet

    from ray_segformer.inputs import small_blocks
    from ray_segformer.jobs import EncodeMasks
    from ray_segformer.outputs import Shards, WriteShards, storage_at

    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    mask[_SIDE // 3 :, _SIDE // 4 :] = 7

    def predicted(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "segmentation": np.broadcast_to(mask, (len(batch["key"]), *mask.shape))}

    def write(name: str, count: int) -> dict[str, float]:
        keys = [f"/photos/{number:08d}.jpg" for number in range(count)]
        rows = small_blocks(pa.table({"path": keys, "index": np.arange(count), "name": keys, "key": keys}))
        rows.context.execution_options.preserve_order = True
        encoded = rows.map_batches(predicted).map_batches(EncodeMasks(None), batch_size=8, num_cpus=0.25)
        output = _output(name, folder, options)
        process = psutil.Process()
        memory, cpu, started = process.memory_info().rss, sum(process.cpu_times()[:2]), time.perf_counter()
        if name == _BY_HAND:
            Path(output).mkdir()
            shard: list[dict[str, Any]] = []
            for number, row in enumerate(encoded.iter_rows(), 1):
                shard.append(row)
                if len(shard) == _ROWS_PER_SHARD or number == count:
                    pa.parquet.write_table(pa.Table.from_pylist(shard), f"{output}/{number}.parquet")
                    shard = []
        elif name == _BY_RAY:
            encoded.write_parquet(output)
        else:
            storage = storage_at(output)
            shards = Shards(storage, "parquet")
            written = encoded.map_batches(
                WriteShards(storage, "parquet"), batch_format="pyarrow", batch_size=_ROWS_PER_SHARD, num_cpus=0
            )
            for row in written.iter_rows():
                shards.add(json.loads(row["shard"]))
            assert shards.rows == count
        seconds = time.perf_counter() - started
        busy = 100 * (sum(process.cpu_times()[:2]) - cpu) / seconds
        return {
            "images_per_second": count / seconds,
            "driver": busy,
            "driver_at_500": busy * 500 * seconds / count,
            "memory": (process.memory_info().rss - memory) / 2**20,
        }

    return write


def _predict(
    model: str, photos: list[str], cpus: int, folder: str, options: str
) -> Callable[[str, int], tuple[float, float]]:
    start_ray(cpus, _STORE, folder + "/spilled")
    from ray_segformer import SegformerCheckpoint
    from ray_segformer.inputs import find_images
    from ray_segformer.jobs import encoded_masks, predict, resources_for

    checkpoint = SegformerCheckpoint.from_pretrained(model)

    def run(name: str, count: int) -> tuple[float, float]:
        """Predict photos. Return the seconds that it took, and those that all processors worked meanwhile."""
        source = Path(folder, "photos.txt")
        source.write_text("\n".join((photos * (count // len(photos) + 1))[:count]))
        started, worked = time.perf_counter(), _work()
        if name in (_LOCAL, _REMOTE):
            predict(str(source), _output(name, folder, options), checkpoint, progress=False, rows_per_shard=64)
        else:
            resources = resources_for(count, 8)
            dataset = find_images(str(source)).dataset()
            dataset.context.execution_options.preserve_order = True
            for _ in encoded_masks(dataset, checkpoint, {"on_error": "raise"}, None, resources).iter_batches():
                pass
        return time.perf_counter() - started, _work() - worked

    return run


def _work() -> float:
    """Return the seconds that the processors of this machine have worked since it started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "steal", 0.0)
