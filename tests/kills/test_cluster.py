"""Several nodes, one of which is lost; memory that actors share; and clusters that are full.

A Ray of its own runs in a process of its own (see `clusters`), so that no other test's Ray is disturbed.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import ray
from clusters import memory_of_arrays, one_cpu, two_cpus, two_nodes, workers_of
from drivers import findings_of
from PIL import Image
from reference import agreement, picture
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from ray_segformer import SegformerCheckpoint, SegformerPredictor, SegformerPreprocessor
from ray_segformer.air import installed
from ray_segformer.demo import write_scenes

pytestmark = pytest.mark.skipif(installed.BatchPredictor is not None, reason="Ray's own BatchPredictor is not tested")

PHOTOS = ["photos/sklearn-flower.jpg", "photos/skimage-rocket.jpg", "photos/mmseg-color.jpg"]


# A second node, and a checkpoint that is gone or changed when it is scored with


@pytest.fixture(scope="module")
def photos(shared):
    return [shared / "data" / photo for photo in PHOTOS]


@pytest.fixture(scope="module")
def pictures():
    return np.stack([picture(40, 60, number) for number in range(60)])


@pytest.fixture(scope="module")
def found(shared, photos, small_dir, pictures, tmp_path_factory):
    """What is found on a cluster of two nodes: three ways to score on the second one, and its loss."""
    model, folder = shared / "models/segformer-b0-camvid", tmp_path_factory.mktemp("cluster")
    return findings_of(two_nodes, str(model), [*map(str, photos)], str(small_dir), pictures, str(folder))


@pytest.mark.parametrize("name", ["own", "plain", "overwritten"])
def test_a_second_node_scores_without_the_drivers_folder(found, trained, photos, name):
    assert len(found[name]["nodes"]) == 1
    assert found[name]["nodes"] != [found["driver"]]
    for photo, mask in zip(photos, found[name]["masks"], strict=True):
        expected = trained.mask(Image.open(photo).convert("RGB"))
        assert mask.shape == expected.shape
        assert (mask == expected).mean() >= 0.9999


@pytest.mark.parametrize("name", ["own", "plain"])
def test_preprocessing_is_a_stage_of_its_own(found, name):
    assert found[name]["preprocessed"]
    stages = {
        stage: [line for line in found[name]["stages"] if stage in line]
        for stage in ("SegformerPreprocessor", "ScoringWorker")
    }
    assert stages["SegformerPreprocessor"]
    assert stages["ScoringWorker"]
    assert not any("SegformerPreprocessor" in line for line in stages["ScoringWorker"])


def test_a_node_that_is_lost_costs_no_row_and_no_mask(found, small, pictures):
    lost = found["lost"]
    assert lost["alive"] == 1 and lost["begun"] == 5
    assert lost["ended"] >= 60 - 4 * 2  # what the lost node ended may have arrived before
    assert sorted(lost["numbers"]) == list(range(60))
    expected = [small.mask(Image.fromarray(pictures[number])) for number in lost["numbers"]]
    assert agreement(lost["masks"], expected) >= 0.9999


def test_a_worker_by_default_has_a_cpu_and_memory_and_something_to_do(found):
    assert found["workers"] == [22 / 2, 3, 42 - 42 // 8]


# Memory


@pytest.fixture(scope="module")
def held(ray_session):
    """The size of a checkpoint's weights, and what two actors that load it add to their private and shared memory."""

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
    return {"weights": sum(array.nbytes for array in large.content.weights.values()), **growth}


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps_rollup")
@pytest.mark.parametrize("way", ["argument", "reference"])
def test_two_actors_of_a_node_hold_the_weights_once(held, way):
    assert held["weights"] > 80 * 2**20
    assert held[way]["private_by_loading"] < 0.25 * held["weights"]
    assert held[way]["shared"] > 0.8 * held["weights"]


# Full clusters: the number of CPUs, the options of `BatchPredictor.predict`, and what a worker then reserves


STARVING = [
    (2, {"min_scoring_workers": 2, "max_scoring_workers": 2}, 0.5),
    (1, {"max_scoring_workers": 1}, 0),
    (1, {}, 0),
    (4, {"min_scoring_workers": 3, "max_scoring_workers": 3, "num_cpus_per_worker": 2}, 1),
]
WITH_ROOM = [
    (4, {"min_scoring_workers": 2, "max_scoring_workers": 2}, 1),
    (2, {}, 1),
    (1, {"num_cpus_per_worker": 0, "max_scoring_workers": 2}, 0),
]
ARRAY = 150 * 2**20  # bytes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The paths of 48 images. Tasks preprocess 16 at once, and rows come when those of the next task are there."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 48, height=96, width=128)
    return [str(path) for path in sorted((folder / "images").iterdir())]


@pytest.fixture(scope="module")
def found_on(ray_session, scenes, tmp_path_factory):
    """What is found on a Ray of one, two or four CPUs; the latter is that of all tests."""
    assert ray.cluster_resources()["CPU"] == 4
    options = {
        cpus: [options for number, options, _ in [*STARVING, *WITH_ROOM] if number == cpus] for cpus in (1, 2, 4)
    }
    folder = tmp_path_factory.mktemp("gate")
    (folder / "list.txt").write_text("\n".join(scenes))
    job = str(folder / "list.txt"), str(folder / "out"), str(folder), scenes[:-8]
    findings = {2: findings_of(two_cpus, options[2], *job)}
    workers = {1: findings_of(one_cpu, options[1]), 2: findings[2].pop("workers"), 4: workers_of(options[4])}
    for cpus, found in workers.items():
        findings.setdefault(cpus, {}).update(zip(map(str, options[cpus]), found, strict=True))
    return findings


@pytest.mark.parametrize(("cpus", "options", "reserved"), STARVING)
def test_workers_that_would_starve_their_input_make_room_and_say_so(found_on, cpus, options, reserved):
    findings = found_on[cpus][str(options)]
    assert findings["doubled"] == list(range(2, 50, 2))
    assert findings["cpus"] == [reserved]
    assert len(findings["warnings"]) == 1
    assert f"To make room, each reserves {reserved:g} CPU(s) instead" in findings["warnings"][0]


@pytest.mark.parametrize(("cpus", "options", "reserved"), WITH_ROOM)
def test_workers_that_leave_room_reserve_what_was_asked_for(found_on, cpus, options, reserved):
    findings = found_on[cpus][str(options)]
    assert findings["doubled"] == list(range(2, 50, 2))
    assert findings["cpus"] == [reserved]
    assert findings["warnings"] == []


def test_shards_are_written_while_later_rows_are_preprocessed(found_on):
    """On two CPUs, where preprocessing could take all that the workers leave."""
    job = found_on[2]["job"]
    assert (job["images"], job["failures"]) == (48, 0)
    assert 0 < job["written"] <= 40


def test_peak_memory_counts_rays_processes_and_what_they_share_once():
    added = findings_of(memory_of_arrays, ARRAY)
    assert added["by_sharing"] < 1.5 * ARRAY
    assert added["by_owning"] == pytest.approx(2 * ARRAY, rel=0.15)
