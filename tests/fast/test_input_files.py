"""Which files of an input are looked at, and what is said about the others. Found on disk; no Ray is started."""

from __future__ import annotations

import os

import pytest
from PIL import Image
from reference import run_python

from ray_segformer.cli import main
from ray_segformer.inputs import InputError, ListedAhead, find_images, find_rounds


def make(root, *names):
    """Files of these names. What is no image has a few bytes."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".jpg", ".png"):
            Image.new("RGB", (8, 6)).save(path)
        else:
            path.write_bytes(b"no image")


def names_of(found):
    return [row["name"] for row in found.take(999)]


def said(found):
    return {guess.code: (guess.message, guess.rows) for guess in found.guesses}


HIDDEN = ("._dog.jpg", "sub/.ipynb_checkpoints/cat-checkpoint.jpg", "__MACOSX/dog.jpg", "sub/Thumbs.db", "desktop.ini")
OF_STORAGE = ("@eaDir/dog.jpg/SYNOPHOTO_THUMB_XL.jpg", "#recycle/old.jpg", "$Recycle.Bin/S-1-5/$R7.jpg")


def test_hidden_files_are_left_out_and_counted(tmp_path):
    make(tmp_path / ".in", "dog.jpg", "sub/cat.png", *HIDDEN)
    found = find_images(str(tmp_path / ".in"))  # the input's own name may begin with a dot
    assert names_of(found) == ["dog", "sub/cat"] and found.rows == 2
    message, rows = said(found)["hidden-files"]
    assert rows == 5 and "5 hidden files were left out" in message and "._dog.jpg" in message
    assert list(said(found)) == ["hidden-files"]


def test_thumbnails_and_deleted_photos_of_network_storage_are_hidden(tmp_path):
    make(tmp_path, "_DSC0001.jpg", *OF_STORAGE)
    found = find_images(str(tmp_path))
    assert names_of(found) == ["_DSC0001"] and said(found)["hidden-files"][1] == 3


def test_hidden_files_that_are_named_are_taken(tmp_path):
    make(tmp_path, "dog.jpg", *HIDDEN)
    (tmp_path / "list.txt").write_text("._dog.jpg\n__MACOSX/dog.jpg\n")
    assert find_images(str(tmp_path / "list.txt")).rows == 2
    assert find_images(str(tmp_path / "._dog.jpg")).rows == 1
    assert find_images(str(tmp_path / "._*.jpg")).rows == 1
    assert names_of(find_images(str(tmp_path / "__MACOSX" / "*.jpg"))) == ["dog"]


def test_globs_match_no_hidden_names(tmp_path):
    make(tmp_path, "dog.jpg", "sub/cat.jpg", *HIDDEN)
    assert names_of(find_images(str(tmp_path / "**" / "*.*"))) == ["dog", "sub/cat"]
    assert names_of(find_images(str(tmp_path / "*" / "*.jpg"))) == ["sub/cat"]


def test_a_hidden_folder_that_may_not_be_read_stops_nothing(tmp_path):
    make(tmp_path, "dog.jpg", ".trash/cat.jpg")
    os.chmod(tmp_path / ".trash", 0)
    try:
        assert names_of(find_images(str(tmp_path))) == ["dog"]
    finally:
        os.chmod(tmp_path / ".trash", 0o755)


def test_hidden_parquet_is_left_out(tmp_path):
    make(tmp_path, ".part.parquet", "_SUCCESS")
    with pytest.raises(InputError, match="neither images nor parquet there"):
        find_images(str(tmp_path))


def test_the_output_of_the_job_is_no_input(tmp_path):
    make(tmp_path / "in", "a.jpg", "out-a.jpg", "out/masks/a.png", "out/summary.json", "sub/out/b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for output in (tmp_path / "in/out", tmp_path / "link/out", f"file://{tmp_path}/in/out"):
        for source in (tmp_path / "in", tmp_path / "link", tmp_path / "in/**/*"):
            (found,) = find_rounds(str(source), output=str(output))
            assert names_of(found) == ["a", "out-a", "sub/out/b"] and said(found) == {}
    (found,) = find_rounds(str(tmp_path / "in"), output=str(tmp_path / "out"))
    assert "out/masks/a" in names_of(found)


def test_files_of_other_kinds_are_counted(tmp_path):
    make(tmp_path, "a.jpg", "b.JPG.bak", *(f"{n}.psd" for n in range(7)), "x/notes.txt", "x/README", ".hidden.psd")
    message, rows = said(find_images(str(tmp_path)))["other-files"]
    assert rows == 10
    expected = "10 files of other kinds were not looked at (.psd 7, .bak 1, .txt 1, without a suffix 1)"
    assert sorted(message.split("(")[1]) == sorted(expected.split("(")[1])
    assert message.startswith(f"{tmp_path}: 10 files of other kinds were not looked at (.psd 7, ")
    make(tmp_path / "one", "a.jpg", "a.json")
    assert said(find_images(str(tmp_path / "one"))) == {
        "other-files": (f"{tmp_path / 'one'}: 1 file of another kind was not looked at (.json 1)", 1)
    }
    (tmp_path / "one/a.tfw").touch()
    message, rows = said(find_images(str(tmp_path / "one")))["other-files"]
    assert rows == 2 and "; sidecar files of scenes (.tfw) are never read, so put what they have into" in message
    assert find_images(str(tmp_path / "one" / "*.jpg")).guesses == []


def test_what_is_said_of_names_that_are_no_utf8_is_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"in\xe9")
    names = [b"caf\xe9.jpg", b"caf\xe9_mask.jpg", b".\xe9.jpg", b"x.\xe9"]
    make(folder, "a.jpg")
    for name in names:
        os.link(folder / "a.jpg", folder / os.fsdecode(name))
    guesses = find_images(str(folder)).guesses
    assert [guess.code for guess in guesses] == ["hidden-files", "other-files", "looks-like-masks"]
    texts = [guess.message.encode().decode() for guess in guesses]  # not with halves of letters
    assert ".%E9.jpg" in texts[0] and "(.%E9 1)" in texts[1] and "caf%E9_mask.jpg of caf%E9.jpg" in texts[2]


@pytest.mark.parametrize(
    ("images", "masks", "example", "exclude"),
    [
        (["dog.jpg", "cat.jpg"], ["dog_mask.png", "cat_mask.png"], "cat_mask.png of cat.jpg", "'*_mask.png'"),
        (["x/7.jpg"], ["x/7-labels.png"], "x/7-labels.png of x/7.jpg", "'*-labels.png'"),
        (["7.jpg"], ["7_GT.png"], "7_GT.png of 7.jpg", "'*_GT.png'"),
        (["a.jpg"], ["a.jpg___fuse.png"], "a.jpg___fuse.png of a.jpg", "'*___fuse.png'"),
        (["a.v1.jpg"], ["a.v1.jpg_mask.png"], "a.v1.jpg_mask.png of a.v1.jpg", "'*_mask.png'"),
        (["u_leftImg8bit.png"], ["u_gtFine_labelIds.png"], "u_gtFine_labelIds.png of", "'*_gtFine_labelIds.png'"),
        (["images/1.jpg"], ["masks/1.png"], "masks/1.png of images/1.jpg", "'masks/*'"),
        (["1.jpg"], ["SegmentationClass/1.png"], "SegmentationClass/1.png of 1.jpg", "'SegmentationClass/*'"),
        (["t/img/1.jpg", "v/img/2.jpg"], ["t/gt/1.png", "v/gt/2.png"], "t/gt/1.png of t/img/1.jpg", "'*/gt/*'"),
        (["images/1.jpg"], ["annotations/1_mask.png"], "annotations/1_mask.png of", "'annotations/*'"),
        (["7.jpg"], ["mask_7.png"], "mask_7.png of 7.jpg", "'mask_*.png'"),
        (["x/img-7.jpg"], ["x/GT-7.png"], "x/GT-7.png of x/img-7.jpg", "'GT-*.png'"),
        (["x/img.png"], ["x/label.png"], "x/label.png of x/img.png", "label.png"),
        (["7/images/a.png"], ["7/masks/b.png", "7/masks/c.png"], "7/masks/b.png of 7/images/", "'*/masks/*'"),
        (["train/7.jpg"], ["train_masks/7_mask.png"], "train_masks/7_mask.png of train/7.jpg", "'train_masks/*'"),
        (["img_dir/val/7.jpg"], ["ann_dir/val/7.png"], "ann_dir/val/7.png of img_dir/val/7.jpg", "'ann_dir/*'"),
    ],
)
def test_images_that_look_like_masks_are_said(tmp_path, images, masks, example, exclude):
    make(tmp_path, *images, *masks)
    found = find_images(str(tmp_path))
    message, rows = said(found)["looks-like-masks"]
    assert found.rows == len(images) + len(masks) and rows == len(masks)
    assert f"({example}" in message and f"--exclude {exclude}" in message
    without = find_images(str(tmp_path), exclude=[exclude.strip("'")])
    assert sorted(row["path"] for row in without.take(9)) == sorted(str(tmp_path / image) for image in images)
    assert without.guesses == []


def test_names_that_only_sound_like_masks_are_photos(tmp_path):
    make(tmp_path, "gas_mask.png", "dog.jpg", "color.jpg", "x/dog_color_2.jpg", "labels/shop.png", "gta/dog.jpg")
    make(tmp_path, "with_mask/1.jpg", "without_mask/1.jpg", "x/mask.png", "x/mask_2.png")
    assert find_images(str(tmp_path)).guesses == []


def test_exclude_takes_paths_and_names(tmp_path):
    make(tmp_path, "a.jpg", "sub/a.jpg", "sub/b.png", "sub/deep/c.png", "sub/notes.txt")
    folder = str(tmp_path)
    assert names_of(find_images(folder, exclude=["sub/*"])) == ["a"]
    assert names_of(find_images(folder, exclude=["*.png", "*.txt"])) == ["a", "sub/a"]
    assert names_of(find_images(folder, exclude=["a.jpg"])) == ["sub/b", "sub/deep/c"]
    assert names_of(find_images(f"{folder}/**/*.png", exclude=["sub/deep/*"])) == ["sub/b"]
    (tmp_path / "list.txt").write_text("a.jpg\nsub/b.png\n")
    assert names_of(find_images(f"{folder}/list.txt", exclude=["sub/*"])) == ["a"]
    assert find_images(folder, exclude=["*.txt"]).guesses == []


def test_an_exclude_that_matches_nothing_is_an_error(tmp_path, capsys):
    make(tmp_path / "in", "a.jpg", "b_mask.jpg")
    with pytest.raises(InputError, match=r"the exclude '\*_Mask.jpg' matches no file there"):
        find_images(str(tmp_path / "in"), exclude=["b*", "*_Mask.jpg"])
    with pytest.raises(InputError, match="no images there"):
        find_images(str(tmp_path / "in" / "*.jpg"), exclude=["*"])
    arguments = [
        "compare",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--exclude",
        "*_mask.jpg",
        "--exclude",
        "*.gif",
    ]
    assert main(arguments) == 2
    assert "the exclude '*.gif' matches no file there" in capsys.readouterr().err


# Many images are found in rounds.

TREE = ("a/x.jpg", "a-b/x.jpg", "a.jpg", "a/x.png", "b/c/d.jpg", "b/c.jpg", "b/c-d.jpg", "z.jpg", "Z.jpg", "b/A.jpg")
TREE += ("q/1.jpg", "q/2.jpg", "q/2.png", "b/a.jpg", "b/a.png", "ä.jpg", "x.txt", ".h/a.jpg", "q/y.txt", "w/x.jpg")


@pytest.fixture
def small_rounds(monkeypatch):
    """Later rounds of seven images, found three at a time."""
    monkeypatch.setattr("ray_segformer.inputs._rounds.LATER_ROUNDS", 7)
    monkeypatch.setattr("ray_segformer.inputs._rounds.PART", 3)


def in_rounds(source, first=4, **options):
    rounds, found = ListedAhead(find_rounds(str(source), first=first, **options)), []
    for images in rounds:
        rounds.list_next()
        found.append(images)
    assert [images.is_last for images in found] == [False] * (len(found) - 1) + [True]
    return found, [row for images in found for row in images.take(999)]


@pytest.mark.parametrize("largest_sorted", [2**18, 3], ids=["", "large folders"])
def test_rounds_have_together_the_images_that_are_there(tmp_path, small_rounds, monkeypatch, largest_sorted):
    monkeypatch.setattr("ray_segformer.inputs._listing._LARGEST_SORTED", largest_sorted)
    make(tmp_path, *TREE)
    images = [name for name in TREE if name[-4:] in (".jpg", ".png") and not name.startswith(".")]
    found, rows = in_rounds(tmp_path, exclude=["w/*"])
    expected = sorted(str(tmp_path / name) for name in images if not name.startswith("w/"))
    assert [each.rows for each in found][:2] == [4, 9] and len(found) == 3
    paths = [row["path"] for row in rows]
    assert paths == expected if largest_sorted > 3 else sorted(paths) == expected
    assert [row["index"] for row in rows] == [*range(len(expected))]
    assert [row["key"] for row in rows] == paths
    assert [row["key"] for row in rows] == [key for each in found for key in each.keys()]  # noqa: SIM118
    codes = said(found[-1])
    assert codes["hidden-files"][1] == 1 and codes["other-files"][1] == 2


def test_names_in_rounds_differ_on_every_file_system(tmp_path, small_rounds):
    make(tmp_path, *TREE)
    _, rows = in_rounds(tmp_path, distinct_names=True)
    names = [row["name"] for row in rows]
    assert len({name.casefold() for name in names}) == len(names) == 17
    by_path = {row["path"]: row["name"] for row in rows}
    assert by_path[str(tmp_path / "q/1.jpg")] == "q/1" and by_path[str(tmp_path / "q/2.png")].startswith("q/2~")
    assert in_rounds(tmp_path, distinct_names=True)[1] == rows


def test_a_list_in_rounds_has_the_keys_that_it_has_in_one(tmp_path, small_rounds):
    make(tmp_path, "a.jpg", "b/c.jpg", "d.jpg", "#1.jpg")
    names = "#1.jpg\n#2.jpg\n" + "b/c.jpg\na.jpg\n" * 9 + "d.jpg"
    (tmp_path / "list.txt").write_text("\ufeffa.jpg\n\n# not a file\na.jpg\r\n" + names)
    _, rows = in_rounds(tmp_path / "list.txt")
    in_one = find_images(str(tmp_path / "list.txt")).take(999)
    assert [(row["key"], row["index"], row["image"]) for row in rows] == [
        (row["key"], row["index"], row["image"]) for row in in_one
    ]
    assert [row["key"] for row in rows][-2:] == [f"{tmp_path}/a.jpg#10", f"{tmp_path}/d.jpg"]
    assert [row["key"] for row in rows if "/#" in row["key"]] == [f"{tmp_path}/#1.jpg"]  # the others are comments


def test_the_lines_of_an_old_mac_s_list_end_in_carriage_returns(tmp_path):
    make(tmp_path, "a.jpg", "b\r.jpg")
    (tmp_path / "list.txt").write_bytes(b"a.jpg\ra.jpg\r")
    assert [row["path"] for row in find_images(str(tmp_path / "list.txt")).take(9)] == [str(tmp_path / "a.jpg")] * 2
    (tmp_path / "list.txt").write_bytes(b"b\r.jpg\n")
    assert [row["path"] for row in find_images(str(tmp_path / "list.txt")).take(9)] == [str(tmp_path / "b\r.jpg")]


def test_a_list_of_paths_is_what_a_list_file_of_them_is(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "sub/b.jpg", "sub/c.png")
    paths = ["sub/c.png", str(tmp_path / "a.jpg"), "s3://bucket/d%20e.jpg", "sub/b.jpg", "sub/c.png"]
    (tmp_path / "list.txt").write_text("\n".join(paths))
    monkeypatch.chdir(tmp_path)
    rows = find_images(paths, exclude=["b.*"]).take(9)
    assert rows == find_images("list.txt", exclude=["b.*"]).take(9)
    assert [row["image"] for row in rows] == [f"{tmp_path}/sub/c.png", f"{tmp_path}/a.jpg", paths[2], rows[0]["path"]]
    with pytest.raises(InputError, match=r"^a list of 0 paths: no images there"):
        find_images([])
    for folder in ("sub", "s3://me:secret@bucket/in/"):
        with pytest.raises(InputError, match=r"^(sub|s3://bucket/in/): a list is one of files, and this is a folder; "):
            find_images(["a.jpg", folder])


def test_what_is_wrong_with_later_images_is_said_when_they_are_listed(tmp_path, small_rounds):
    make(tmp_path, *TREE)
    rounds = find_rounds(str(tmp_path), first=4, exclude=["*.gif"])
    assert next(rounds).rows == 4
    with pytest.raises(InputError, match=r"the exclude '\*.gif' matches no file there"):
        list(rounds)
    (tmp_path / "list.txt").write_bytes((b"./" * 4000 + b"a.jpg\n") * 150 + b"caf\xe9.jpg\n")
    rounds = find_rounds(str(tmp_path / "list.txt"), first=4)
    assert next(rounds).rows == 4
    with pytest.raises(InputError, match="a list file must be UTF-8"):
        list(rounds)
    folder = tmp_path / "z"
    make(folder, "1.jpg")
    folder.chmod(0)
    if os.geteuid():  # root may read it
        ahead = ListedAhead(find_rounds(str(tmp_path), first=4))
        assert next(iter(ahead)).rows == 4
        with pytest.raises(InputError, match="cannot be read"):
            list(ahead)
    folder.chmod(0o755)


def test_links_in_circles_repeat_no_image_of_a_glob(tmp_path):
    make(tmp_path, "a.jpg", "b/c.jpg", "b/.d.jpg", "b-e/f.jpg")
    for link in ("loop", "b/again"):
        (tmp_path / link).symlink_to((tmp_path / link).parent, target_is_directory=True)
    assert names_of(find_images(f"{tmp_path}/**/*.jpg")) == ["a", "b-e/f", "b/c"]
    assert names_of(find_images(f"{tmp_path}/b*/**/*.jpg")) == ["b-e/f", "b/c"]


def test_the_output_of_the_job_is_no_input_by_whatever_link(tmp_path):
    make(tmp_path, "in/a.jpg", "out/masks/a.png")
    (tmp_path / "in/link").symlink_to(tmp_path / "out", target_is_directory=True)
    (found,) = find_rounds(f"{tmp_path}/in", output=f"{tmp_path}/out")
    assert names_of(found) == ["a"]
    (found,) = find_rounds(f"{tmp_path}/in/**/*.*g", output=f"{tmp_path}/out")
    assert names_of(found) == ["a"]


def test_an_exclude_may_be_one_glob(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    assert names_of(find_images(str(tmp_path), exclude="b*")) == ["a"]


def test_a_listing_that_waits_for_a_store_does_not_keep_the_process():
    script = "import time; from ray_segformer.inputs import in_background; in_background(time.sleep, 3600); print(1)"
    assert run_python(script).split() == ["1"]
