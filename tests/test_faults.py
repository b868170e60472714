"""What goes wrong in a job: workers that are killed, nodes that are lost, models that do not load, little memory.

Real SIGKILL and real nodes; masks are compared with transformers', or with those of a run that nothing disturbed.
"""

from __future__ import annotations

import dataclasses
import os
import threading

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest
import ray
import torch
from PIL import Image
from reference import agreement, picture
from safetensors.numpy import load_file, save_file
from test_cluster import run

from ray_segformer import BatchPredictor, Predictor, SegformerCheckpoint, SegformerPredictor
from ray_segformer.air import installed
from ray_segformer.checkpoint_directory import CheckpointError, SegformerContent
from ray_segformer.demo import write_scenes
from ray_segformer.network import pieces
from ray_segformer.predict import predict

pytestmark = pytest.mark.skipif(installed.BatchPredictor is not None, reason="Ray's own BatchPredictor is not tested")


# Workers that are killed


class Killer(threading.Thread):
    """Kills a process below this one that is scoring, each time that `progress()` has grown by `step`.

    Attributes:
        killed: ids of the processes.
    """

    def __init__(self, progress, step, times):
        super().__init__(daemon=True)
        self._progress, self._step, self._times = progress, step, times
        self._ended = threading.Event()
        self.killed = []

    def run(self):
        while len(self.killed) < self._times and not self._ended.wait(0.005):
            if self._progress() >= self._step * (len(self.killed) + 1):
                self._kill_one()

    def _kill_one(self):
        for process in psutil.Process().children(recursive=True):
            try:
                title = "".join(process.cmdline()[:1])
            except psutil.Error:
                continue
            if title.startswith("ray::MapWorker") and "ScoringWorker" in title and title.endswith(".submit"):
                process.kill()
                self.killed.append(process.pid)
                return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join()


def noting(note):
    """A predictor that writes a byte to `note` for each batch that it begins."""

    class Noting(SegformerPredictor):
        def _predict_numpy(self, data):
            with open(note, "a") as file:
                file.write("b")
            return super()._predict_numpy(data)

    return Noting


def test_workers_that_are_killed_in_mid_batch_cost_no_row_and_no_mask(ray_session, small, small_dir, tmp_path):
    pictures = [picture(40 + number % 3, 60, number) for number in range(120)]
    note = tmp_path / "batches"
    note.touch()
    predictor = BatchPredictor.from_checkpoint(SegformerCheckpoint.from_pretrained(small_dir), noting(str(note)))
    items = [{"number": number, "image": image} for number, image in enumerate(pictures)]
    dataset = ray.data.from_items(items, override_num_blocks=20)
    with Killer(lambda: note.stat().st_size, step=8, times=3) as killer:
        rows = predictor.predict(dataset, batch_size=2, max_scoring_workers=2, keep_columns=["number"]).take_all()
    assert len(set(killer.killed)) == 3 and not any(map(psutil.pid_exists, killer.killed))
    assert note.stat().st_size > 60  # some were begun twice
    assert sorted(row["number"] for row in rows) == list(range(120))
    expected = [small.mask(Image.fromarray(pictures[row["number"]])) for row in rows]
    assert agreement([row["segmentation"] for row in rows], expected) >= 0.9999


def written(output):
    """The rows of an output in parquet, sorted by path."""
    rows = [row for part in sorted((output / "masks").iterdir()) for row in pa.parquet.read_table(part).to_pylist()]
    return sorted((row["path"], row["segmentation"], row["error"]) for row in rows)


def test_a_job_whose_workers_are_killed_writes_what_it_would_have_written(ray_session, tmp_path):
    write_scenes(tmp_path / "scenes", 60, height=96, width=128, vary_size=True)
    source = str(tmp_path / "scenes" / "images")
    options = {"batch_size": 2, "workers": 2, "rows_per_shard": 4, "progress": False}
    predict(source, str(tmp_path / "clean"), SegformerCheckpoint.demo(), **options)
    journal = tmp_path / "out.unfinished" / "journal"
    with Killer(lambda: len(list(journal.glob("part-*"))), step=2, times=2) as killer:
        summary = predict(source, str(tmp_path / "out"), SegformerCheckpoint.demo(), **options)
    assert killer.killed
    assert (summary["images"], summary["failures"]) == (60, 0)
    assert written(tmp_path / "out") == written(tmp_path / "clean")
    assert len({path for path, _, _ in written(tmp_path / "out")}) == len(written(tmp_path / "out")) == 60


# Nodes that are lost


LOSE_A_NODE = """
    import threading
    from ray.cluster_utils import Cluster
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor

    model, work = sys.argv[1:]
    pictures = np.load(os.path.join(work, "pictures.npy"))
    note = os.path.join(work, "batches")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    node = cluster.add_node(num_cpus=2)
    ray.init(cluster.address, log_to_driver=False)

    class Witness(SegformerPredictor):
        def _predict_numpy(self, data):
            here = ray.get_runtime_context().get_node_id()
            with open(note, "a") as file:
                file.write(here + " ")
            time.sleep(0.1)
            return super()._predict_numpy(data) | {"node": np.array([here] * len(data["pixel_values"]))}

    def remove():
        while not os.path.exists(note) or open(note).read().count(node.node_id) < 5:
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)

    remover = threading.Thread(target=remove)
    remover.start()
    rows = BatchPredictor.from_checkpoint(SegformerCheckpoint.from_pretrained(model), Witness).predict(
        ray.data.from_items([{"number": number, "image": image} for number, image in enumerate(pictures)]),
        batch_size=2,
        max_scoring_workers=1,
        keep_columns=["number"],
        ray_remote_args={"scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=True)},
    ).take_all()
    remover.join()
    np.savez(os.path.join(work, "masks.npz"), *[row["segmentation"] for row in rows])
    report(
        numbers=[int(row["number"]) for row in rows],
        begun_there=open(note).read().count(node.node_id),
        ended_here=sum(row["node"] == ray.get_runtime_context().get_node_id() for row in rows),
        alive=sum(other["Alive"] for other in ray.nodes()),
    )
    ray.shutdown()
    cluster.shutdown()
"""


def test_a_node_that_is_lost_costs_no_row_and_no_mask(small, small_dir, tmp_path):
    pictures = np.stack([picture(40, 60, number) for number in range(60)])
    np.save(tmp_path / "pictures.npy", pictures)
    findings = run(LOSE_A_NODE, small_dir, tmp_path)
    assert findings["alive"] == 1 and findings["begun_there"] >= 5 and findings["ended_here"] >= 30
    assert sorted(findings["numbers"]) == list(range(60))
    with np.load(tmp_path / "masks.npz") as masks:
        found = [masks[key] for key in masks.files]
    assert agreement(found, [small.mask(Image.fromarray(pictures[number])) for number in findings["numbers"]]) >= 0.9999


# Models that load at the second attempt, or never


def score(how, note):
    """The rows of 40 ids, doubled in one actor. `note` gets a byte a start; `how` says what happens then, or later."""
    note = str(note)

    class Failing(Predictor):
        @classmethod
        def from_checkpoint(cls, checkpoint):
            with open(note, "a") as file:
                file.write("s")
            starts = os.stat(note).st_size
            if how == "dies" or (how == "dies once" and starts == 1) or (how == "dies when restarted" and starts > 1):
                os._exit(1)
            if how == "raises once" and starts == 1:
                raise OSError("the disk is busy")
            if how == "cannot read":
                raise OSError("the disk is gone")
            if how == "is broken" or (how == "is broken when restarted" and starts > 1):
                raise CheckpointError("model.safetensors: no tensor decode_head.classifier.bias")
            return cls()

        def _predict_numpy(self, data):
            if (how == "kills" or "when restarted" in how) and 15 in data["id"]:
                os._exit(1)
            return {"doubled": data["id"] * 2}

    dataset = ray.data.range(40, override_num_blocks=4)
    return BatchPredictor(None, Failing).predict(dataset, batch_size=10, max_scoring_workers=1).take_all()


@pytest.mark.parametrize("how", ["dies once", "raises once"])
def test_a_worker_whose_start_fails_once_is_started_again(ray_session, tmp_path, how):
    rows = score(how, tmp_path / "starts")
    assert sorted(row["doubled"] for row in rows) == list(range(0, 80, 2))
    assert (tmp_path / "starts").stat().st_size == 2


@pytest.mark.parametrize(
    ("how", "starts", "message"),
    [
        ("is broken", 1, r"CheckpointError: model.safetensors: no tensor decode_head.classifier.bias"),
        ("is broken when restarted", 2, r"CheckpointError: model.safetensors: no tensor decode_head.classifier.bias"),
        ("cannot read", 3, r"OSError: the disk is gone"),
        ("dies", 3, r"a scoring worker died 3 times in a row while it loaded the model"),
        ("dies when restarted", 4, r"a scoring worker died 3 times in a row while it loaded the model"),
    ],
)
def test_a_model_that_never_loads_ends_the_job_after_few_starts_with_its_own_message(
    ray_session, tmp_path, how, starts, message
):
    with pytest.raises(Exception, match=message):
        score(how, tmp_path / "starts")
    assert (tmp_path / "starts").stat().st_size == starts


def test_a_batch_that_kills_every_worker_ends_the_job(ray_session, tmp_path):
    with pytest.raises(Exception, match="DeadlyBatchError: a batch ended 6 processes of a scoring worker"):
        score("kills", tmp_path / "starts")
    assert (tmp_path / "starts").stat().st_size == 7


def test_weights_with_a_missing_tensor_start_no_worker_or_one(ray_session, small_dir, tmp_path):
    directory = tmp_path / "model"
    SegformerCheckpoint.from_pretrained(small_dir).to_directory(str(directory))
    weights = load_file(directory / "model.safetensors")
    del weights["decode_head.classifier.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    message = "decode_head.classifier.weight"
    with pytest.raises(CheckpointError, match=message):
        SegformerCheckpoint.from_pretrained(directory)
    with pytest.raises(CheckpointError, match=message):
        BatchPredictor.from_checkpoint(ray.train.Checkpoint.from_directory(str(directory)), SegformerPredictor)

    # Nobody looked at its weights yet: the first actor does.
    unread = SegformerCheckpoint.from_directory(str(directory))
    note = tmp_path / "starts"

    class Noting(SegformerPredictor):
        @classmethod
        def from_checkpoint(cls, checkpoint, **options):
            with open(note, "a") as file:
                file.write("s")
            return super().from_checkpoint(checkpoint, **options)

    dataset = ray.data.from_items([{"image": picture()}] * 8)
    with pytest.raises(Exception, match=message):
        BatchPredictor.from_checkpoint(unread, Noting).predict(dataset, batch_size=2).take_all()
    assert note.stat().st_size == 1


# Little memory


class LittleMemory:
    """A runtime that holds so many pixels at once; CUDA's error says so. The network is the real one."""

    def __init__(self, runtime, pixels):
        self._runtime, self._pixels = runtime, pixels
        self.rows, self.calls = 8, []

    def __call__(self, pixel_values):
        rows, _, height, width = pixel_values.shape
        self.calls.append((rows, height))
        assert rows <= self.rows
        if rows * height * width > self._pixels:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return torch.cat([self._runtime(pixel_values[row : row + 1]).clone() for row in range(rows)])


class LittleMemoryCheckpoint(SegformerCheckpoint):
    """A checkpoint whose runtimes have little memory."""

    pixels = 0
    runtimes = ()

    @property
    def content(self):
        """The content, whose runtime is noted in `runtimes`."""
        content, checkpoint = super().content, self

        class Content(SegformerContent):
            def make_runtime(self, **options):
                checkpoint.runtimes = [LittleMemory(content.make_runtime(**options), checkpoint.pixels)]
                return checkpoint.runtimes[0]

        return Content(**{field.name: getattr(content, field.name) for field in dataclasses.fields(content)})


def little_memory(directory, pixels, **options):
    checkpoint = LittleMemoryCheckpoint.from_pretrained(directory)
    checkpoint.pixels = pixels
    predictor = SegformerPredictor(checkpoint, use_gpu=False, **options)
    return predictor, checkpoint.runtimes[0]


def test_out_of_memory_on_a_gpu_halves_the_group_and_goes_on(small, small_dir):
    pictures = [picture(40, 60, seed) for seed in range(13)]
    predictor, runtime = little_memory(small_dir, 3 * 64 * 96)
    masks = predictor.predict({"image": np.stack(pictures)})["segmentation"]
    # 8 and 4 are too many for this memory; then 2 at a time is not tried again with more.
    assert runtime.calls == [(8, 64), (4, 64), *[(2, 64)] * 6, (1, 64)]
    assert agreement(masks, [small.mask(Image.fromarray(image)) for image in pictures]) >= 0.9999
    runtime.calls.clear()
    predictor.predict({"image": np.stack(pictures[:4])})
    assert runtime.calls == [(2, 64)] * 2


def test_large_images_do_not_make_small_ones_come_in_small_groups(small_dir):
    predictor, runtime = little_memory(small_dir, 2 * 128 * 128)
    large, little = np.zeros((4, 3, 128, 128), np.uint8), np.zeros((8, 3, 64, 64), np.uint8)
    predictor.predict({"pixel_values": large})
    predictor.predict({"pixel_values": little})
    assert runtime.calls == [(4, 128), (2, 128), (2, 128), (8, 64)]


def test_one_image_that_a_gpu_does_not_hold_is_named_with_its_size(small_dir):
    predictor, runtime = little_memory(small_dir, 64 * 64)
    mixed = np.empty(3, object)
    mixed[:] = [np.zeros((3, 64, 64), np.uint8), *[np.zeros((3, 128, 160), np.uint8)] * 2]
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"row 1 of the batch, 160 x 128 pixels: .*Tried to allocate"):
        predictor.predict({"pixel_values": mixed})
    assert runtime.calls == [(1, 64), (2, 128), (1, 128)]


def test_a_batch_of_huge_images_comes_in_pieces():
    rows = [(6000, 4000)] * 3 + [(20_000, 20_000), (0, 0)] + [(100, 100)] * 5
    batch = {"original_size": np.array(rows, np.int32), "number": np.arange(10)}
    found = [piece["number"].tolist() for piece in pieces(batch, 1)]
    assert found == [[0, 1], [2], [3], [4, 5, 6, 7, 8, 9]]
    assert [len(piece["number"]) for piece in pieces(batch, 5)] == [1, 1, 1, 1, 6]


HUGE_IMAGES = """
    import threading
    import psutil
    from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor

    photo, rows = sys.argv[1], int(sys.argv[2])
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=1500 * 2**20)

    class Peaks(threading.Thread):
        peaks = {}

        def run(self):
            while True:
                for process in psutil.Process().children(recursive=True):
                    try:
                        title = process.cmdline()[0]
                        memory = process.memory_info()
                    except (psutil.Error, IndexError):
                        continue
                    stage = next((name for name in ("ScoringWorker", "SegformerPreprocessor") if name in title), None)
                    if stage:
                        self.peaks[stage] = max(self.peaks.get(stage, 0), (memory.rss - memory.shared) / 2**20)
                time.sleep(0.02)

    Peaks(daemon=True).start()
    predictor = BatchPredictor.from_checkpoint(SegformerCheckpoint.demo(), SegformerPredictor)
    dataset = ray.data.from_items([{"image": photo}] * rows, override_num_blocks=1)
    masks = predictor.predict(dataset, batch_size=rows, max_scoring_workers=1).iter_rows()
    shapes = [row["segmentation"].shape for row in masks]
    report(shapes=shapes, **Peaks.peaks)
"""


def test_a_batch_of_sixteen_photos_of_24_megapixels_takes_no_more_memory_than_a_few(tmp_path):
    Image.fromarray(picture(400, 600)).resize((6000, 4000)).save(tmp_path / "huge.jpg", quality=75)
    findings = run(HUGE_IMAGES, tmp_path / "huge.jpg", 16)
    assert findings["shapes"] == [[4000, 6000]] * 16
    # 72 MB decoded, of which one is in work at a time; a mask is 24 MB, and its copies as a block are three.
    # Of this, 150 and 250 MB are Python with Ray and torch.
    assert findings["SegformerPreprocessor"] < 700  # 16 decoded images are 1,150
    assert findings["ScoringWorker"] < 900  # all masks at once, and their copies, took 1,400
