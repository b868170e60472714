"""What needs a Ray of its own: several nodes, memory shared by actors, and clusters that are full.

Every cluster runs in a Python of its own and prints its findings as JSON, so that no other test's Ray is disturbed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from ray_segformer.air import installed

pytestmark = pytest.mark.skipif(installed.BatchPredictor is not None, reason="Ray's own BatchPredictor is not tested")

PHOTOS = ["photos/sklearn-flower.jpg", "photos/skimage-rocket.jpg", "photos/mmseg-color.jpg"]

PRELUDE = """
import json, logging, os, shutil, sys, time
import numpy as np
import ray

logging.getLogger("ray.data").setLevel(logging.ERROR)
ray.data.DataContext.get_current().enable_progress_bars = False

def report(**findings):
    print(json.dumps(findings), flush=True)
"""


def run(script, *arguments, timeout=240):
    """The findings that a script reports, run with `arguments` in `sys.argv[1:]`."""
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, arguments)],
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))


# A second node, and a checkpoint that is gone or changed when it is scored with


SCORE_ON_THE_SECOND_NODE = """
    from ray.cluster_utils import Cluster
    from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor
    from ray_segformer.air import Checkpoint

    model, work, *photos = sys.argv[1:]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=1, resources={"worker": 1})
    ray.init(cluster.address, log_to_driver=False)

    class Witness(SegformerPredictor):
        def _predict_numpy(self, data):
            here = ray.get_runtime_context().get_node_id()
            rows = len(data["path"])
            predictions = super()._predict_numpy({name: data[name] for name in data if name != "path"})
            return predictions | {
                "node": np.array([here] * rows),
                "preprocessed": np.array(["pixel_values" in data] * rows),
            }

    def lose(folder):
        shutil.rmtree(folder)

    def overwrite(folder):
        with open(os.path.join(folder, "model.safetensors"), "wb") as file:
            file.write(b"garbage")

    findings = {"driver": ray.get_runtime_context().get_node_id()}
    for name, make, spoil in (
        ("own", SegformerCheckpoint.from_pretrained, lose),
        ("plain", Checkpoint.from_directory, lose),
        ("overwritten", SegformerCheckpoint.from_pretrained, overwrite),
    ):
        folder = os.path.join(work, name)
        shutil.copytree(model, folder)
        predictor = BatchPredictor.from_checkpoint(make(folder), Witness)
        spoil(folder)
        dataset = predictor.predict(
            ray.data.from_items([{"image": photo, "path": photo} for photo in photos]),
            batch_size=2,
            max_scoring_workers=1,
            keep_columns=["path"],
            ray_remote_args={"resources": {"worker": 0.1}},
        ).materialize()
        rows = sorted(dataset.take_all(), key=lambda row: photos.index(row["path"]))
        np.savez(os.path.join(work, name + ".npz"), *[row["segmentation"] for row in rows])
        findings[name] = {
            "nodes": sorted({row["node"] for row in rows}),
            "preprocessed": all(row["preprocessed"] for row in rows),
            "stages": [line.split(":")[0] for line in dataset.stats().splitlines() if line.startswith("Operator")],
        }
    report(**findings)
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.fixture(scope="module")
def photos(shared):
    return [shared / "data" / photo for photo in PHOTOS]


@pytest.fixture(scope="module")
def scored(shared, photos, tmp_path_factory):
    """Masks and findings of three ways to score on a second node, by name."""
    work = tmp_path_factory.mktemp("cluster")
    findings = run(SCORE_ON_THE_SECOND_NODE, shared / "models/segformer-b0-camvid", work, *photos)
    for name in "own", "plain", "overwritten":
        with np.load(work / f"{name}.npz") as masks:
            findings[name]["masks"] = [masks[key] for key in masks.files]
    return findings


@pytest.mark.parametrize("name", ["own", "plain", "overwritten"])
def test_a_second_node_scores_without_the_drivers_folder(scored, trained, photos, name):
    assert len(scored[name]["nodes"]) == 1
    assert scored[name]["nodes"] != [scored["driver"]]
    for photo, mask in zip(photos, scored[name]["masks"], strict=True):
        expected = trained.mask(Image.open(photo).convert("RGB"))
        assert mask.shape == expected.shape
        assert (mask == expected).mean() >= 0.9999


@pytest.mark.parametrize("name", ["own", "plain"])
def test_preprocessing_is_a_stage_of_its_own(scored, name):
    assert scored[name]["preprocessed"]
    stages = {
        stage: [line for line in scored[name]["stages"] if stage in line]
        for stage in ("SegformerPreprocessor", "ScoringWorker")
    }
    assert stages["SegformerPreprocessor"]
    assert stages["ScoringWorker"]
    assert not any("SegformerPreprocessor" in line for line in stages["ScoringWorker"])


# Memory


HOLD_WEIGHTS_TWICE = """
    from ray_segformer import SegformerCheckpoint, SegformerPredictor, SegformerPreprocessor
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    def memory():
        kinds = {"Private": 0, "Shared": 0}
        with open("/proc/self/smaps_rollup") as file:
            for line in file:
                kind = line.partition("_")[0]
                if kind in kinds and line.split(":")[0].endswith(("_Clean", "_Dirty")):
                    kinds[kind] += int(line.split()[1]) * 1024
        return kinds

    @ray.remote(num_cpus=0)
    class Holder:
        def __init__(self, source):
            self.source = source

        def warm_up(self, small):
            SegformerPredictor(small).predict({"image": np.zeros((1, 64, 64, 3), np.uint8)})

        def load(self):
            before = memory()
            checkpoint = ray.get(self.source[0]) if isinstance(self.source, list) else self.source
            self.predictor = SegformerPredictor(checkpoint)
            loaded = memory()
            self.pages = sum(float(array.reshape(-1)[::1024].sum()) for array in checkpoint.content.weights.values())
            self.predictor.predict({"image": np.zeros((1, 64, 64, 3), np.uint8)})
            return before, loaded

        def memory(self):
            return memory()

    def checkpoint_of(**settings):
        config = SegformerConfig(**settings)
        return SegformerCheckpoint.from_model(SegformerForSemanticSegmentation(config), SegformerPreprocessor(64))

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=600 * 2**20)
    small = checkpoint_of(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 32, 64], decoder_hidden_size=16)
    large = checkpoint_of(depths=[3, 4, 6, 3], hidden_sizes=[64, 128, 320, 512], decoder_hidden_size=768)
    holders = {"argument": Holder.remote(large), "reference": Holder.remote([ray.put(large)])}
    ray.get([holder.warm_up.remote(small) for holder in holders.values()])
    measured = {way: ray.get(holder.load.remote()) for way, holder in holders.items()}
    growth = {
        way: {
            "private_by_loading": measured[way][1]["Private"] - measured[way][0]["Private"],
            "shared": ray.get(holder.memory.remote())["Shared"] - measured[way][0]["Shared"],
        }
        for way, holder in holders.items()
    }
    report(weights=sum(array.nbytes for array in large.content.weights.values()), **growth)
"""


@pytest.fixture(scope="module")
def held():
    return run(HOLD_WEIGHTS_TWICE)


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps_rollup")
@pytest.mark.parametrize("way", ["argument", "reference"])
def test_two_actors_of_a_node_hold_the_weights_once(held, way):
    assert held["weights"] > 80 * 2**20
    assert held[way]["private_by_loading"] < 0.25 * held["weights"]
    assert held[way]["shared"] > 0.8 * held["weights"]


# Memory of a Ray whose processes are known


HOLD_ARRAYS = """
    from ray_segformer.comparison import PeakMemory

    size = int(sys.argv[1])
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=600 * 2**20)

    @ray.remote(num_cpus=1)
    class Holder:
        def own(self, size):
            self.array = np.ones(size, np.uint8)

        def share(self, array):
            return int(array.sum())

    def peak():
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
    report(by_sharing=sharing - before, by_owning=peak() - sharing)
"""


def test_peak_memory_counts_rays_processes_and_what_they_share_once():
    size = 150 * 2**20
    added = run(HOLD_ARRAYS, size)
    assert added["by_sharing"] < 1.5 * size
    assert added["by_owning"] == pytest.approx(2 * size, rel=0.15)


# Full clusters


SCORE_ON_FEW_CPUS = """
    from ray_segformer import BatchMapper, BatchPredictor, Predictor

    cpus, options = int(sys.argv[1]), json.loads(sys.argv[2])
    warnings = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("ray_segformer.air.batch_predictor").addHandler(handler)

    class Witness(Predictor):
        @classmethod
        def from_checkpoint(cls, checkpoint):
            return cls()

        def _predict_numpy(self, data):
            cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
            return {"doubled": data["id"] * 2, "cpus": np.full(len(data["id"]), float(cpus))}

    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    predictor = BatchPredictor(None, Witness)
    predictor.set_preprocessor(BatchMapper(lambda batch: {"id": batch["id"] + 1}, "numpy"))
    dataset = predictor.predict(ray.data.range(24, override_num_blocks=6), batch_size=2, **options)
    rows = dataset.take_all()
    report(
        doubled=sorted(int(row["doubled"]) for row in rows),
        cpus=sorted({row["cpus"] for row in rows}),
        warnings=warnings,
    )
"""


@pytest.mark.parametrize(
    ("cpus", "options", "reserved"),
    [
        (2, {"min_scoring_workers": 2, "max_scoring_workers": 2}, 0.5),
        (1, {"max_scoring_workers": 1}, 0),
        (1, {}, 0),
        (4, {"min_scoring_workers": 3, "max_scoring_workers": 3, "num_cpus_per_worker": 2}, 1),
    ],
)
def test_workers_that_would_starve_their_input_make_room_and_say_so(cpus, options, reserved):
    findings = run(SCORE_ON_FEW_CPUS, cpus, json.dumps(options))
    assert findings["doubled"] == list(range(2, 50, 2))
    assert findings["cpus"] == [reserved]
    assert len(findings["warnings"]) == 1
    assert f"To make room, each reserves {reserved:g} CPU(s) instead" in findings["warnings"][0]


@pytest.mark.parametrize(
    ("cpus", "options"),
    [
        (4, {"min_scoring_workers": 2, "max_scoring_workers": 2}),
        (2, {}),
        (1, {"num_cpus_per_worker": 0, "max_scoring_workers": 2}),
    ],
)
def test_workers_that_leave_room_reserve_what_was_asked_for(cpus, options):
    findings = run(SCORE_ON_FEW_CPUS, cpus, json.dumps(options))
    assert findings["doubled"] == list(range(2, 50, 2))
    assert findings["cpus"] == [options.get("num_cpus_per_worker", 1)]
    assert findings["warnings"] == []
