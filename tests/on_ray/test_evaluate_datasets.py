"""`ray-segformer evaluate` on datasets as people have them: layouts, other ids, colours, and what cannot be right."""

import functools
import json

import numpy as np
import pytest
from PIL import Image
from reference import Reference, encode, picture, save_small, small_model, small_processor

from ray_segformer import SegformerCheckpoint
from ray_segformer._labels import Labels
from ray_segformer.datasets import read_images
from ray_segformer.inputs import InputError
from ray_segformer.jobs import evaluate
from ray_segformer.protocol import Protocol

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def command(run_command):
    """Runs the command with the session's Ray."""
    return functools.partial(run_command, "evaluate")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def overall_accuracy(reference, pairs):
    """The share of annotated pixels that transformers' mask has right; 255 does not count."""
    right = counted = 0
    for image, annotation in pairs:
        mask = reference.mask(Image.fromarray(image))
        right += ((mask == annotation) & (annotation != 255)).sum()
        counted += (annotation != 255).sum()
    return right / counted


def test_cityscapes_counts_train_ids_whatever_the_model_says_of_its_own_numbering(command, tmp_path):
    model = save_small(tmp_path / "model", small_model(19), small_processor(do_reduce_labels=True))
    train_ids = {0: 255, 7: 0, 8: 1, 11: 2, 23: 10, 26: 13, 29: 255, 33: 18}  # some of the authors' table
    pairs = []
    for number in range(3):
        image = picture(40, 60, number)
        ids = np.random.default_rng(number).choice([*train_ids], (40, 60)).astype(np.uint8)
        ids[0, 0] = 91  # no id of the dataset
        write(tmp_path / f"data/leftImg8bit/val/ulm/ulm_{number}_leftImg8bit.png", encode(image))
        write(tmp_path / f"data/gtFine/val/ulm/ulm_{number}_gtFine_labelIds.png", encode(ids))
        pairs.append((image, np.vectorize({**train_ids, 91: 255}.get)(ids)))
    out = tmp_path / "out"
    code, _, error = command(tmp_path / "data", "--model", model, "--output", out)
    assert code == 0, error
    found = json.loads((out / "evaluation.json").read_text())
    assert found["images"] == 3 and found["protocol"]["reduce_labels"] is False
    assert found["overall_accuracy"] == pytest.approx(overall_accuracy(Reference(model), pairs), abs=1e-3)
    (said,) = found["warnings"]
    assert said["code"] == "class-never-annotated" and said["rows"] == 3
    assert said["message"].startswith("13 of 19 classes are annotated in no pixel: 3 class 3, 4 class 4,")
    assert error.count(said["message"]) == 1


def test_colours_and_other_ids(command, tmp_path):
    model = save_small(tmp_path / "model", small_model(3))
    colors = np.array([[10, 0, 0], [0, 20, 0], [0, 0, 30], [9, 9, 9]], np.uint8)
    (tmp_path / "colors.txt").write_text("name,r,g,b\nclass 0,10,0,0\nclass 1,0,20,0\n2,0,0,30\nignored,9,9,9\n")
    pairs = []
    for number in range(2):
        image, ids = picture(40, 60, number), np.random.default_rng(number).integers(0, 4, (40, 60))
        write(tmp_path / f"data/train/images/{number}.jpg", encode(image))  # a PNG, in truth
        write(tmp_path / f"data/train/labels/{number}.png", encode(colors[ids]))
        pairs.append((image, np.array([0, 2, 2, 255])[ids]))  # with 1 mapped to 2
    options = ("--model", model, "--split", "train", "--label-colors", tmp_path / "colors.txt")
    maps = ("--label-map", "1=2", "--label-map", "7=0,8=0")  # the first counts, too
    code, _, error = command(tmp_path / "data", *options, *maps, "--output", tmp_path / "out")
    assert code == 0, error
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["overall_accuracy"] == pytest.approx(overall_accuracy(Reference(model), pairs), abs=1e-3)
    assert "1 of 3 classes are annotated in no pixel: 1 class 1" in error
    assert found["options"]["label_map"] == ["1=2", "7=0,8=0"] and found["options"]["split"] == "train"
    assert found["options"]["label_colors"] == str(tmp_path / "colors.txt") and found["options"]["ignore_index"] is None


def test_what_cannot_be_right_is_refused_before_the_first_image(command, tmp_path):
    model = save_small(tmp_path / "model", small_model(3))
    for number in range(3):
        write(tmp_path / f"data/images/{number}.jpg", b"never read")
        write(tmp_path / f"data/masks/{number}.png", encode(np.tile(np.array([0, 255], np.uint8), (5, number + 1))))
    asked = (tmp_path / "data", "--model", model, "--output", tmp_path / "out")
    code, _, error = command(*asked)
    assert (
        code == 2
        and "annotations hold only 0 and 255, and 255 is ignored; if 255 is the foreground, use --label-map" in error
    )
    write(tmp_path / "data/masks/1.png", encode(np.full((5, 4), 65535, np.uint16)))
    code, _, error = command(*asked)
    assert code == 1 and "/1.jpg: wrong annotation: the class ids 65535 (in 20 of 20 pixels) are none of" in error
    code, _, error = command(*asked, "--ignore-index", 65535, "--label-map", "65535=1")
    assert code == 2 and "label_map gives the id 65535 the class 1" in error
    code, _, error = command(*asked, "--label-map", "65535")
    assert code == 2 and "expected FROM=TO" in error
    code, _, error = command(*asked, "--label-map", "255=1", "--label-map", "255=0")
    assert code == 2 and "255 is to become 1 and 0; give it once" in error
    (tmp_path / "colors.txt").write_text("class 0,10,0,0\n")
    code, _, error = command(*asked, "--label-colors", tmp_path / "colors.txt", "--labels", "reduce")
    assert code == 2 and "--labels reduce is for ids; leave one out" in error
    code, _, error = command(*asked, "--split", "test")
    assert code == 2 and "no split 'test'; it has no splits" in error
    assert not (tmp_path / "out").exists()


def test_the_counts_of_all_pixels_are_refused_too(tmp_path, small_dir):
    for number in range(2):
        write(tmp_path / f"images/{number}.png", encode(picture()))
        write(tmp_path / f"masks/{number}.png", encode((picture()[..., 0] > 90).astype(np.uint8) * 255))
    dataset = read_images(str(tmp_path / "images"), annotations=str(tmp_path / "masks"))
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    with pytest.raises(InputError, match="annotations hold only 0 and 255"):
        evaluate(dataset, checkpoint, Protocol(), workers=1, batch_size=2, labels=Labels(7))
