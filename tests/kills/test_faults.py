"""What goes wrong in a job: workers that are killed, and models that do not load. Masks are transformers'."""

from __future__ import annotations

import os

import psutil
import pytest
import ray
from dying import counted, killed, mortal
from PIL import Image
from reference import agreement, picture
from safetensors.numpy import load_file, save_file

from ray_segformer import BatchPredictor, Predictor, SegformerCheckpoint, SegformerPredictor
from ray_segformer.air import installed
from ray_segformer.pretrained import CheckpointError

pytestmark = pytest.mark.skipif(installed.BatchPredictor is not None, reason="Ray's own BatchPredictor is not tested")


# Workers that are killed


def test_workers_that_are_killed_in_mid_batch_cost_no_row_and_no_mask(ray_session, small, small_dir, tmp_path):
    pictures = [picture(40 + number % 3, 60, number) for number in range(48)]
    checkpoint = mortal(SegformerCheckpoint.from_pretrained(small_dir), tmp_path, batches=[3, 6, 12])
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor)
    items = [{"number": number, "image": image} for number, image in enumerate(pictures)]
    dataset = ray.data.from_items(items, override_num_blocks=8)
    rows = predictor.predict(dataset, batch_size=2, max_scoring_workers=2, keep_columns=["number"]).take_all()
    pids = {death["pid"] for death in killed(tmp_path)}
    assert len(pids) == 3 and not any(map(psutil.pid_exists, pids))
    assert counted(tmp_path, "batches") >= 24 + 3  # some were begun twice
    assert sorted(row["number"] for row in rows) == list(range(48))
    expected = [small.mask(Image.fromarray(pictures[row["number"]])) for row in rows]
    assert agreement([row["segmentation"] for row in rows], expected) >= 0.9999


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
