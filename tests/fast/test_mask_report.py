"""The report of an output of `predict`: what it shows, in Chromium. Its numbers are compared with pandas'."""

import json
import re
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from pages import Checker, check, contrast, luminances, opened, pixels_of
from PIL import Image
from reference import decode, picture

from ray_segformer.jobs import EncodeMasks, report
from ray_segformer.outputs import MaskOutput, OutputError, OutputFolder, WriteShards, schema_of
from ray_segformer.viz import class_palette

NASTY = "<img src=x onerror=alert(1)>\"'&amp;<script>alert(2)<script>.png"
LABELS = {0: "Sky", 1: "ground", 2: NASTY, 3: "never", 4: "speck"}
HEIGHT, WIDTH = 40, 60
STAGES = {"decode": {"seconds": 1.5, "rows": 40}, "network": {"seconds": 6.0, "rows": 36}}


def write_output(folder, rows, *, mask_format="parquet", finished=True, **options):
    """Rows have a path, and a mask with its confidence, or an error."""
    options = {"input": "in", "format": mask_format, "confidence": True, "max_pixels": 10_000, **options}
    encode, failed = EncodeMasks(None), np.zeros((1, 1))
    with OutputFolder(str(folder), options=options) as output:
        output.begin(LABELS)
        write = WriteShards(output.storage, mask_format, confidence=True)
        for first in range(0, len(rows), 10):
            part = rows[first : first + 10]
            columns = {
                "path": [row["path"] for row in part],
                "index": range(first, first + len(part)),
                "name": [f"mask-{first + place}" for place in range(len(part))],
                "key": [row["path"] for row in part],
                "segmentation": [row.get("mask", failed) for row in part],
                "confidence": [row.get("confidence", failed) for row in part],
                "error": [row.get("error", "") for row in part],
            }
            write(encode(columns))
        if finished:
            summary = {"images": len(rows), "resumed": 0, "seconds": 10.0, "images_per_second": 4.0, "stages": STAGES}
            guess = {"code": "a-guess", "message": f"guessed {NASTY}", "rows": 1}
            output.finish({**summary, "protocol": "resized", "warnings": [guess]}, LABELS)
    return folder


def masked(path, seed):
    """A row whose mask has all classes but one, in shares that differ from row to row."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, int(generator.integers(5, 55)) :] = 1
    mask[: int(generator.integers(1, 30)), : int(generator.integers(3, 60))] = 2
    mask[0, : seed % 4] = 4
    return {"path": str(path), "mask": mask, "confidence": np.full(mask.shape, generator.random(), np.float32)}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """40 images, of which four have no mask."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "in").mkdir()
    rows = [masked(folder / "in" / (NASTY if seed == 7 else f"{seed}.png"), seed) for seed in range(36)]
    for seed, row in enumerate(rows):
        Image.fromarray(picture(HEIGHT, WIDTH, seed)).save(row["path"])
    failures = [("not an image", f"not an image in a known format {NASTY}")] * 3 + [("too large", "too large: 9 x 9")]
    for place, (_, error) in enumerate(failures):
        rows.insert(9 * place, {"path": f"/gone/{place}.png", "error": f"row 3 of the batch (/gone): {error}"})
    return write_output(folder / "out", rows)


@pytest.fixture(scope="module")
def page_file(output):
    shown = report(str(output), progress=False)
    assert shown == str(output / "report.html")
    return output / "report.html"


@pytest.fixture(scope="module")
def rows(output):
    return pd.read_parquet(output / "masks").sort_values("index")


@pytest.fixture(scope="module")
def shares(rows):
    """The share of each class in each image with a mask, by the pixels of the masks."""
    masks = {row.path: np.asarray(decode(row.segmentation)) for row in rows.itertuples() if pd.isna(row.error)}
    return pd.DataFrame({i: {path: (mask == i).mean() for path, mask in masks.items()} for i in LABELS})


def shown_paths(page, group):
    page.select_option("#show", group)
    return page.locator("figure .path").all_inner_texts()


def test_page_is_well_formed_and_names_no_address(page_file):
    text = page_file.read_text("utf-8")
    assert check(text) == []
    checker = Checker()
    checker.feed(text)
    assert {re.match("data:image/(jpeg|png);base64,|#", address)[0] for address in checker.addresses} == {
        *("data:image/jpeg;base64,", "data:image/png;base64,", "#")
    }


def test_numbers_are_those_of_the_rows(browser, page_file, shares):
    with opened(browser, page_file) as (page, seen):
        assert page.locator("header p").first.inner_text().startswith("40 images: 36 masks, 4 failures.")
        total = shares.mean().sort_values(ascending=False)
        found = page.locator("#classes li").evaluate_all(
            """items => items.map(item => [
                item.querySelector(".name").textContent, item.lastElementChild.textContent,
                item.querySelector(".bar span").getBoundingClientRect().width
                    / item.querySelector(".bar").getBoundingClientRect().width,
                getComputedStyle(item.querySelector(".bar span")).backgroundColor])"""
        )
        palette = class_palette(LABELS)
        assert [name for name, *_ in found] == [LABELS[i] for i in total.index if total[i] > 0]
        for (_, text, width, colour), (class_id, share) in zip(found, total.items(), strict=False):
            percent, count = re.fullmatch(r"([\d.]+)%, (\d+) images", text).groups()
            assert float(percent) == pytest.approx(100 * share, abs=0.00051 if share < 0.001 else 0.05)
            assert int(count) == (shares[class_id] > 0).sum()
            assert width == pytest.approx(share / total.max(), abs=0.01)
            assert colour == "rgb({}, {}, {})".format(*palette[class_id])
        assert page.locator("#classes .quiet").inner_text() == "1 other class of the model is in no image."
        causes = page.locator("#failures summary").all_inner_texts()
        assert causes == ["not an image: 3 images (7.5%)", "too large: 1 image (2.5%)"]
        assert page.locator("#failures dt").all_inner_texts() == [f"/gone/{place}.png" for place in range(4)]
        assert page.locator("#failures dd").first.inner_text().endswith(f"not an image in a known format {NASTY}")
        times = page.locator("#time li").evaluate_all(
            "items => items.map(item => [item.firstElementChild.textContent, item.lastElementChild.textContent])"
        )
        assert times == [["decode", "1.50 s, 40 rows"], ["network", "6.00 s, 36 rows"]]
        assert "40 images in 10.0 s: 4.00 images a second." in page.locator("#time p").inner_text()
        page.get_by_text("1 warning", exact=True).click()
        assert page.locator("header li").inner_text() == f"guessed {NASTY}"
        assert seen.complaints == []


def test_groups_are_those_of_the_rows(browser, page_file, rows, shares):
    with opened(browser, page_file) as (page, _):
        sample = page.locator("figure .path").all_inner_texts()  # what the page begins with
        assert len(set(sample)) == 12 and {*sample} < {*shares.index}
        for class_id in (0, 1, 2, 4):
            best = [shares.loc[path, class_id] for path in shown_paths(page, str(class_id))]
            assert best == sorted(shares[class_id], reverse=True)[:3]
        assert page.locator("#show option").all_inner_texts()[3:] == [
            f"{NASTY} (3)",
            *("ground (3)", "Sky (3)", "speck (3)"),
        ]
        confidence = {
            row.path: np.asarray(decode(row.confidence)).mean() / 255 for row in rows.itertuples() if pd.isna(row.error)
        }
        least = shown_paths(page, "least")
        assert least == sorted(confidence, key=confidence.get)[:12]
        said = page.locator("figure").first.inner_text()
        assert f"mean confidence {confidence[least[0]]:.1%}" in said and "among the least confident" in said
        every = shown_paths(page, "")
        assert every == [path for path in shares.index if path in every] and {*sample, *least} <= {*every}
        assert (
            f"{len(every)} images of 40. The least confident are those of 36 that"
            in page.locator("#gallery > p").inner_text()
        )


def test_picture_is_the_image_and_its_mask(browser, page_file, rows, shares):
    palette = class_palette(LABELS)
    with opened(browser, page_file) as (page, _):
        page.select_option("#show", "")
        figures = page.locator("figure").all()
        for figure in figures[::5]:
            path = figure.locator(".path").inner_text()
            mask = np.asarray(decode(rows.set_index("path").loc[path, "segmentation"]))
            shown = pixels_of(figure.locator(".mask"))
            np.testing.assert_array_equal(shown, np.insert(palette, 3, 255, axis=1)[mask])
            photo = pixels_of(figure.locator("img").first)[..., :3].astype(int)
            assert np.abs(photo - np.asarray(Image.open(path)).astype(int)).mean() < 12  # as JPEG keeps noise
            legend = figure.locator("button").evaluate_all(
                "items => items.map(e => [e.querySelector('.name').textContent, e.querySelector('.area').textContent])"
            )
            found = shares.loc[path].sort_values(ascending=False, kind="stable")
            assert [name for name, _ in legend] == [LABELS[i] for i in found.index if found[i] > 0]
            assert [float(area.rstrip("%")) for _, area in legend] == pytest.approx(
                [100 * share for share in found if share > 0], abs=0.051
            )


def test_slider_by_keyboard(browser, page_file):
    clips = "() => [...document.querySelectorAll('.mask')].slice(0, 2).map(mask => getComputedStyle(mask).clipPath)"
    with opened(browser, page_file) as (page, _):
        page.locator("#none").focus()
        page.keyboard.press("Tab")
        first = page.locator("figure input").first
        assert first.evaluate("slider => slider === document.activeElement")
        assert page.evaluate(clips) == ["inset(0px 0px 0px 50%)"] * 2
        for key, place in (("ArrowLeft", 49), ("End", 100), ("Home", 0), ("ArrowRight", 1)):
            page.keyboard.press(key)
            assert page.evaluate(clips) == [f"inset(0px 0px 0px {place}%)", "inset(0px 0px 0px 50%)"]
        stack, boundary = page.locator(".both").first.bounding_box(), page.locator(".boundary").first.bounding_box()
        assert boundary["x"] + boundary["width"] / 2 == pytest.approx(stack["x"] + 0.01 * stack["width"], abs=1)
        name = page.locator("figure h3").first.inner_text()
        assert page.get_by_label(f"Mask of {name} from").count() == 1
        for share in (0.8, 0.2):  # by the mouse, too, to where it is pressed
            page.mouse.click(stack["x"] + share * stack["width"], stack["y"] + stack["height"] / 2)
            assert int(first.input_value()) == pytest.approx(100 * share, abs=1)


def test_a_class_is_hidden_in_all_pictures_and_shown_again(browser, page_file, rows):
    masks = rows.set_index("path")["segmentation"]
    with opened(browser, page_file) as (page, seen):
        figures = page.locator("figure").all()[:3]
        expected = [np.asarray(decode(masks[figure.locator(".path").inner_text()])) for figure in figures]

        def visible(*class_ids):
            for figure, mask in zip(figures, expected, strict=True):
                alpha = pixels_of(figure.locator(".mask"))[..., 3]
                np.testing.assert_array_equal(alpha, 255 * np.isin(mask, class_ids))

        def pressed(class_id):
            values = page.locator(f"button[data-class='{class_id}']").evaluate_all(
                "buttons => buttons.map(button => button.getAttribute('aria-pressed'))"
            )
            (value,) = {*values}
            return value

        visible(*LABELS)
        page.locator("figure button").first.focus()
        assert page.evaluate("document.activeElement.tabIndex") == 0
        page.keyboard.press("ArrowRight")  # to the next class
        hidden = int(page.evaluate("document.activeElement.dataset.class"))
        assert hidden == int(page.locator("figure button").nth(1).get_attribute("data-class"))
        page.keyboard.press("Enter")
        visible(*(set(LABELS) - {hidden}))
        assert pressed(hidden) == "false"
        page.locator(f"#classes button[data-class='{hidden}']").click()
        visible(*LABELS)
        assert pressed(hidden) == "true"
        page.locator("#none").click()
        visible()
        page.locator("#classes button[data-class='2']").click()
        visible(2)
        page.locator("#all").click()
        visible(*LABELS)
        page.locator("figure").nth(1).locator("button").first.focus()
        page.keyboard.press("Tab")  # past the other classes
        assert page.evaluate("document.activeElement.localName") in ("summary", "input")
        assert seen.complaints == []


def test_nothing_is_requested_and_nasty_names_are_text(browser, page_file):
    with opened(browser, page_file) as (page, seen):
        page.select_option("#show", "")
        assert page.locator("script").count() == 1
        assert page.locator("img").evaluate_all("images => images.every(i => i.complete && i.naturalWidth === 60)")
        page.select_option("#show", "2")
        assert page.locator("figure").first.inner_text().count(NASTY) >= 1
        assert [url for url in seen.requests if not url.startswith("data:")] == [page_file.as_uri()]
        assert seen.complaints == []


@pytest.mark.parametrize("width", [360, 1280])
def test_fits_a_phone_and_a_desk(browser, page_file, width):
    phone = {"is_mobile": True, "has_touch": True} if width < 500 else {}
    with opened(browser, page_file, viewport={"width": width, "height": 800}, **phone) as (page, _):
        page.select_option("#show", "")
        page.locator("details").evaluate_all("all => all.forEach(details => { details.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        inner = "cards => cards.map(card => card.scrollWidth - card.clientWidth)"
        assert set(page.locator(".card").evaluate_all(inner)) == {0}
        heights = page.locator("button, select").evaluate_all("all => all.map(e => e.getBoundingClientRect().height)")
        assert len(heights) > 100 and min(heights) >= 24  # WCAG 2.2's AA
        if phone:
            page.locator(".both").first.scroll_into_view_if_needed()
            stack = page.locator(".both").first.bounding_box()
            page.touchscreen.tap(stack["x"] + 0.75 * stack["width"], stack["y"] + stack["height"] / 2)
            assert int(page.locator("figure input").first.input_value()) == pytest.approx(75, abs=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser, page_file, scheme):
    selectors = ["body", ".card", ".quiet", ".error", "summary", "button", "select", ".legend .area"]
    with opened(browser, page_file, color_scheme=scheme) as (page, _):
        texts, grounds = luminances(page, selectors)
    assert (texts > grounds).all() == (scheme == "dark")
    assert (contrast(texts, grounds) >= 4.5).all()  # WCAG 2's AA


@pytest.mark.parametrize("mask_format", ["parquet", "png"])
def test_an_image_that_cannot_be_read_is_named_and_its_mask_is_shown(browser, tmp_path, mask_format):
    paths = [
        tmp_path / "gone.png",
        tmp_path / "other.png",
        tmp_path / "large.png",
        "train/1.png",
        tmp_path / "good.png",
    ]
    paths += [f"http://example.com/remote-{place}.png" for place in range(4)]
    rows = [masked(path, seed) for seed, path in enumerate(paths)]
    Image.fromarray(picture(HEIGHT + 1, WIDTH, 1)).save(paths[1])
    Image.fromarray(picture(101, 100, 1)).save(paths[2])
    Image.fromarray(picture(HEIGHT, WIDTH, 1)).save(paths[4])
    output = write_output(tmp_path / "out", rows, mask_format=mask_format, finished=False)
    if mask_format == "png":
        (output / "masks/mask-4.png").unlink()
    report(str(output), progress=False)
    with opened(browser, output / "report.html") as (page, seen):
        assert page.locator("header .note").inner_text() == "The run is not finished. These are its images so far."
        shown = {}
        for figure in page.locator("figure").all():
            problem = figure.locator(".error")
            pictures = figure.locator("img").count(), figure.locator("input").count()
            shown[figure.locator("h3").inner_text()] = (*pictures, problem.inner_text() if problem.count() else "")
        for name, said in {
            "gone.png": "cannot read the file",
            "other.png": "wrong shape: what is at this path now has 60 x 41 pixels, but its mask 60 x 40",
            "large.png": "too large: 100 x 101 pixels",
            "1.png": "cannot read the image again: the input had its bytes, and no path to them",
        }.items():
            images, sliders, problem = shown.pop(name)
            assert (images, sliders) == (1, 0) and said in problem
        good = shown.pop("good.png")
        lost = f"no mask: {output}/masks/mask-4.png: no such file, but its row is there"
        assert good == ((0, 0, lost) if mask_format == "png" else (2, 1, ""))
        problems = [problem for *_, problem in shown.values()]
        assert sum("not a URI that pyarrow's file systems know" in problem for problem in problems) == 3
        assert sum("not tried, because three others" in problem for problem in problems) == 1
        assert seen.complaints == []


def test_a_repeated_report_is_the_same_and_leaves_nothing_else(output, page_file, tmp_path):
    before = sorted(output.rglob("*"))
    shown = report(str(output), to=(tmp_path / "new/page.html").as_uri(), progress=False)
    assert shown == str(tmp_path / "new/page.html")
    assert (tmp_path / "new/page.html").read_bytes() == page_file.read_bytes()
    assert [*(tmp_path / "new").iterdir()] == [tmp_path / "new/page.html"] and sorted(output.rglob("*")) == before


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("photo.jpg", "photo.jpg: the name of a report ends in .html"),
        ("nowhere://a/b.html", "nowhere://a/b.html: not a URI that pyarrow's file systems know"),
        ("/dev/null/b.html", "/dev/null/b.html: cannot be written: "),
        ("folder.html", "folder.html: cannot be written: "),
    ],
)
def test_where_no_report_can_be_written(output, run_command, tmp_path, monkeypatch, to, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    code, _, errors = run_command("report", output, "--to", to)
    assert code == 2 and errors.splitlines()[-1].startswith(f"ray-segformer: error: {said}")
    assert [*tmp_path.rglob("*")] == [tmp_path / "folder.html"]  # and no part of a page


def test_no_image_has_a_mask(browser, tmp_path):
    output = write_output(tmp_path / "out", [{"path": "/gone/a.png", "error": "null: there is no image"}])
    report(str(output), progress=False)
    with opened(browser, output / "report.html") as (page, seen):
        assert page.locator(".gallery").inner_text() == "No image has a mask."
        assert page.locator("#failures summary").all_inner_texts() == ["null: 1 image (100.0%)"]
        assert seen.complaints == []


def test_no_output_and_no_images_and_a_broken_file_of_rows(tmp_path, run_command):
    code, _, errors = run_command("report", tmp_path)
    assert code == 2 and "no output of ray-segformer predict" in errors
    folder = write_output(tmp_path / "out", [], finished=False)
    with pytest.raises(OutputError, match="no images there yet"):
        report(str(folder))
    (folder / "masks").mkdir()
    (folder / "masks/part-1.parquet").write_bytes(b"broken")
    code, _, errors = run_command("report", folder)
    assert code == 2 and f"error: {folder}/masks/part-1.parquet: cannot be read: " in errors


def test_of_a_large_output_few_rows_are_kept(tmp_path, browser):
    """100,000 rows of 200 classes, with a column that this version does not know."""
    classes, rows = 200, 1000
    generator = np.random.default_rng(0)
    names = {str(class_id): f"class {class_id}" for class_id in range(classes)}
    (tmp_path / "masks").mkdir()
    (tmp_path / "classes.json").write_text(json.dumps(names))
    (tmp_path / "job.json").write_text(json.dumps({"format": "parquet", "confidence": True}))
    found = []
    schema = schema_of("parquet", confidence=True).append(pa.field("frame", pa.int64()))
    for first in range(0, 100 * rows, rows):
        ids = generator.permuted(np.tile(np.arange(classes, dtype=np.uint16), (rows, 1)), axis=1)[:, :4]
        counts = generator.multinomial(1200, [0.4, 0.3, 0.2, 0.1], rows)
        numbers = np.repeat(np.arange(first, first + rows), 4)
        found.append(pd.DataFrame({"id": ids.ravel(), "pixels": counts.ravel(), "row": numbers}))
        paths = [f"/in/{first + row}.png" for row in range(rows)]
        columns = {"path": paths, "index": range(first, first + rows), "height": [30] * rows, "width": [40] * rows}
        columns |= {"class_ids": list(ids), "class_pixels": list(counts), "frame": [1] * rows}
        columns |= {name: [None] * rows for name in ("segmentation", "confidence", "error")}
        pa.parquet.write_table(pa.table(columns, schema), tmp_path / f"masks/part-{first:010d}.parquet")
    found = pd.concat(found, ignore_index=True)
    largest = found.groupby("id")["pixels"].sum().sort_values(ascending=False, kind="stable").index
    best = found.loc[found.groupby("id")["pixels"].idxmax()].set_index("id")["row"]  # of equal ones the first
    tracemalloc.start()
    report(str(tmp_path), progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert (tmp_path / "report.html").stat().st_size < 500_000
    with opened(browser, tmp_path / "report.html") as (page, seen):
        assert page.locator("header p").first.inner_text() == "100,000 images: 100,000 masks, 0 failures."
        shown = page.locator("#classes li .name").evaluate_all("names => names.map(name => name.textContent)")
        assert shown == [f"class {class_id}" for class_id in largest]
        note = page.locator("#gallery > p").inner_text()
        assert note.startswith("60 images of 100,000. Of 200 classes, the 48 with the most pixels have examples.")
        assert not page.locator("#classes li").nth(20).is_visible()
        sample = [
            int(path.removesuffix(".png").rpartition("/")[2]) for path in page.locator("figure .path").all_inner_texts()
        ]
        assert (
            len(sample) == 12 and len({row // rows for row in sample}) > 6 and len({row % rows for row in sample}) > 6
        )
        page.select_option("#show", "")
        assert page.locator("figure").count() == 12 + 48
        for class_id in largest[:48:8]:
            assert shown_paths(page, str(class_id)) == [f"/in/{best[class_id]}.png"]
        assert seen.complaints == []


def test_masks_outside_of_an_output_are_not_read(tmp_path):
    output = MaskOutput(str(write_output(tmp_path / "out", [masked("a.jpg", 0)], mask_format="png")))
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "other.png")
    row = {"path": "a.jpg", "error": None, "height": HEIGHT, "width": WIDTH}
    for path in ("../other.png", str(tmp_path / "other.png")):
        with pytest.raises(OutputError, match=r"other\.png, which is not in the output"):
            output.mask({**row, "mask": path})
