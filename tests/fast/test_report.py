"""The report's page: as text, and as Chromium shows it."""

import re

import numpy as np
import pytest
from pages import Checker, check, contrast, luminances, opened, pixels_of
from PIL import Image

from ray_segformer.architectures._timeline import Event, Timeline
from ray_segformer.comparison import GalleryImage, render_report
from ray_segformer.demo import CLASSES, make_scene
from ray_segformer.viz import class_palette

LABELS = dict(enumerate(CLASSES))
NASTY = "<img src=x onerror=alert(1)>\"'&amp;</script><script>alert(2)</script>.jpg"
START = 1_700_000_000.0


def timeline(seconds, *events):
    """Events are (kind, process, start, seconds, images)."""
    noted = tuple(
        Event(kind, "a1", process, START + start, took, images) for kind, process, start, took, images in events
    )
    return Timeline(noted, START, START + seconds)


def result(run, images_per_second, memory, different=0):
    return {
        "seconds": run.seconds,
        "images_per_second": images_per_second,
        "seconds_to_first_mask": run.seconds_to_first_mask,
        "loads": run.loads,
        "load_seconds": run.load_seconds,
        "workers": len(run.workers),
        "busy_share": run.busy_share,
        "peak_memory_mb": memory,
        "different_pixels": different,
        "pixels": 1_234_567,
        "timeline": run.to_dict(),
    }


SEQUENTIAL = timeline(
    8.0,
    ("load", 1, 0.0, 2.0, ()),
    ("preprocess", 1, 2.0, 1.0, (0, 1, 2, 3)),
    ("predict", 1, 3.0, 2.0, (0, 1, 2, 3)),
    ("preprocess", 1, 5.0, 1.0, (4,)),
    ("predict", 1, 6.0, 2.0, (4,)),
)
POOL = timeline(
    4.0,
    ("load", 1, 0.5, 1.5, ()),
    ("load", 2, 0.5, 1.0, ()),
    ("predict", 2, 1.5, 1.5, (0, 1, 4)),
    ("predict", 1, 2.0, 2.0, (2, 3)),
)


def comparison(**changes):
    return {
        "input": "photos/",
        "model": "demo",
        "images": 5,
        "workers": 2,
        "batch_size": 4,
        "uneven": False,
        "masks_equal": False,
        "machine": {
            "processor": "AMD EPYC 9R14",
            "cpus": 2,
            "gpus": 0,
            "nodes": 1,
            "ray": "2.60.0",
            "torch": "2.13.0",
            "ray_segformer": "0.1.0",
        },
        "architectures": {
            "sequential": result(SEQUENTIAL, 0.625, 812.4),
            "tasks": {"error": f"RayTaskError: {NASTY}"},
            "actor_pool": result(POOL, 1.25, 1623.5, different=4321),
        },
        **changes,
    }


@pytest.fixture(scope="module")
def gallery():
    scenes = [make_scene(3, 120, 160), make_scene(4, 300, 1000)]
    scenes[0][1][:6, :10] = 255  # no label
    scenes[1][1][0, :3] = CLASSES.index("water")  # 3 of 300 000 pixels, too few for the first list
    scenes[1][1][1:][scenes[1][1][1:] == CLASSES.index("water")] = CLASSES.index("ground")
    return [GalleryImage(name, *scene) for name, scene in zip([NASTY, "wide.jpg"], scenes, strict=True)]


@pytest.fixture(scope="module")
def text(gallery):
    return render_report(comparison(), gallery, LABELS)


@pytest.fixture(scope="module")
def report(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def test_page_is_well_formed(text):
    assert check(text) == []
    assert text.startswith("<!DOCTYPE html>") and '<html lang="en">' in text


@pytest.mark.parametrize(
    "broken",
    ["<p><b></p></b>", "<p>", "<i id=a></i><i id=a></i>", "<img src=a>", "<input id=a>", "<h1></h1><h3></h3>"],
)
def test_check_finds_what_is_wrong(broken):
    assert check(broken)


def test_page_names_no_address(text):
    checker = Checker()
    checker.feed(text)
    assert {re.match("data:image/(jpeg|png);base64,|#", address)[0] for address in checker.addresses} == {
        "data:image/jpeg;base64,",
        "data:image/png;base64,",
        "#",
    }
    assert "url(" not in text and "@import" not in text and "http:" not in text and "https:" not in text


def test_summary():
    page = render_report(comparison(uneven=True, masks_equal=True, images=1), [], LABELS)
    assert "1 image of photos/, segmented by the model demo with 2 workers and batches of 4" in page
    assert "AMD EPYC 9R14 (2 CPUs, no GPU, 1 node; Ray 2.60.0, torch 2.13.0, ray_segformer 0.1.0)" in page
    assert "very different sizes, and one worker of each run on Ray is slow" in page and "All masks are equal" in page
    even = render_report(comparison(), [], LABELS)
    assert "very different sizes" not in even and "Not all masks are equal" in even


def test_nothing_finished_and_no_images():
    page = render_report(comparison(architectures={"tasks": {"error": "out of memory"}}), [], LABELS)
    assert check(page) == []
    assert "Failed: out of memory" in page and "No run has finished." in page and "No images." in page


def test_name_that_is_not_utf8(gallery):
    odd = GalleryImage("caf\udce9.jpg", gallery[0].image, gallery[0].segmentation)
    page = render_report(comparison(), [odd], LABELS)
    assert b"<h3>caf?.jpg</h3>" in page.encode("utf-8")


def test_images_and_masks_that_cannot_be_shown():
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match=r"odd\.jpg is \(4, 6\) but its mask is \(4, 5\)"):
        render_report(comparison(), [GalleryImage("odd.jpg", image, np.zeros((4, 5), np.uint8))], LABELS)
    many = GalleryImage("many.jpg", np.zeros((20, 20, 3), np.uint8), np.arange(400).reshape(20, 20))
    with pytest.raises(ValueError, match=r"many\.jpg has 400 different ids"):
        render_report(comparison(), [many], LABELS)


def test_no_complaints_and_no_requests(browser, report):
    with opened(browser, report) as (page, seen):
        page.locator("input[type=range]").first.press("ArrowRight")
        assert page.locator("img").evaluate_all("images => images.map(i => i.complete && i.naturalWidth)") == [
            *(160, 160),
            *(800, 800),
        ]
        assert seen.complaints == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [report.as_uri()]


def test_complaints_are_heard(browser, report, tmp_path):
    loud = tmp_path / "loud.html"
    loud.write_text("<script>console.error('heard'); null.thrown</script><img src='absent.png' alt=''>")
    with opened(browser, loud) as (_, seen):
        assert "heard" in seen.complaints and any("null" in complaint for complaint in seen.complaints)
        assert any(url.endswith("absent.png") for url in seen.requests)


def test_policy_stops_other_scripts_and_images(browser, report, tmp_path):
    Image.new("RGB", (7, 7)).save(tmp_path / "other.png")
    extra = "<script>window.ran = 1</script><img id=other src=other.png onload='window.ran = 2' alt=''></main>"
    intruded, open_to_all = tmp_path / "intruded.html", tmp_path / "open.html"
    text = report.read_text("utf-8").replace("</main>", extra)
    intruded.write_text(text, "utf-8")
    open_to_all.write_text(text.replace("Content-Security-Policy", "nothing"), "utf-8")
    found = "[window.ran ?? 0, document.getElementById('other').naturalWidth]"
    with opened(browser, intruded) as (page, seen):
        assert page.evaluate(found) == [0, 0]
        assert sum("Content Security Policy" in complaint for complaint in seen.complaints) >= 2
    with opened(browser, open_to_all) as (page, _):
        assert page.evaluate(found) == [2, 7]  # it is the policy that stops them


def test_table_shows_the_numbers(browser, report):
    with opened(browser, report) as (page, _):
        assert [cell.strip() for cell in page.locator("#table thead th").all_inner_texts()] == [
            "Architecture",
            "Images per second",
            "Time to first mask",
            "Model loads",
            "Load time, all workers",
            "Workers busy",
            "Peak memory, all processes",
            "Masks",
        ]
        rows = [
            [re.sub(r"\s+", " ", cell).strip() for cell in row.locator("th, td").all_inner_texts()]
            for row in page.locator("#table tbody tr").all()
        ]
        best = "★ best: "
        assert rows[0] == [
            "sequential 1 worker",
            "0.6",
            "5.00 s",
            f"{best}1",
            f"{best}2.00 s",
            f"{best}75%",
            f"{best}812 MB",
            "equal",
        ]
        assert rows[1] == ["tasks", f"Failed: RayTaskError: {NASTY}"]
        assert rows[2] == [
            "actor_pool 2 workers",
            f"{best}1.2",
            f"{best}3.00 s",
            "2",
            "2.50 s",
            "44%",
            "1,624 MB",
            "4,321 of 1,234,567 pixels differ",
        ]
        assert page.locator("#table td.number").first.evaluate("cell => getComputedStyle(cell).textAlign") == "right"
        assert "Not all masks are equal" in page.locator("caption").inner_text()


def test_bars_are_as_long_as_their_seconds(browser, report):
    with opened(browser, report) as (page, _):
        figures = page.locator("figure.timeline")
        assert [figure.locator("h3").inner_text() for figure in figures.all()] == ["sequential", "actor_pool"]
        for figure, run in zip(figures.all(), (SEQUENTIAL, POOL), strict=True):
            lanes = figure.locator(".lane").all()
            assert [lane.get_attribute("aria-label") for lane in lanes] == [
                f"worker {i + 1}" for i in range(len(lanes))
            ]
            for lane, worker in zip(lanes, run.workers, strict=True):
                whole = lane.bounding_box()
                scale = whole["width"] / SEQUENTIAL.seconds  # the longest run is the full width
                events = [event for event in run.events if event.worker == worker]
                for bar, event in zip(lane.locator(".bar").all(), events, strict=True):
                    box = bar.bounding_box()
                    assert box["x"] - whole["x"] == pytest.approx((event.start - START) * scale, abs=0.5)
                    assert box["width"] == pytest.approx(event.seconds * scale, abs=0.5)
                idle = lane.locator(".idle").bounding_box()
                assert idle["width"] == pytest.approx(run.seconds * scale, abs=0.5)
        titles = [bar.get_attribute("title") for bar in figures.nth(0).locator(".bar").all()]
        assert titles[0] == "load model, 2.00 s from 0.00 s"
        assert titles[2] == "predict images 0-3, 2.00 s from 3.00 s"
        assert titles[4] == "predict image 4, 2.00 s from 6.00 s"
        pool_titles = [bar.get_attribute("title") for bar in figures.nth(1).locator(".bar").all()]
        assert "predict images 0-1, 4, 1.50 s from 1.50 s" in pool_titles
        predicts = figures.nth(0).locator(".predict")
        colours = predicts.evaluate_all("bars => bars.map(bar => getComputedStyle(bar).backgroundColor)")
        assert len(set(colours)) == 2
        last = figures.nth(0).locator(".axis span").last
        assert last.inner_text() == "8 s"
        box, axis = last.bounding_box(), figures.nth(0).locator(".axis").bounding_box()
        assert box["x"] + box["width"] / 2 == pytest.approx(axis["x"] + axis["width"], abs=1)


def test_events_as_a_table(browser, report):
    with opened(browser, report) as (page, _):
        figure = page.locator("figure.timeline").nth(1)
        rows = figure.locator("details tbody tr")
        assert not rows.first.is_visible()
        figure.locator("summary").press("Enter")
        assert rows.first.is_visible()
        assert rows.nth(3).locator("td").all_inner_texts() == ["worker 1", "predict", "images 2-3", "2.00 s", "2.00 s"]


def test_slider_by_keyboard(browser, report):
    opacity = "() => [...document.querySelectorAll('.overlay')].map(image => +getComputedStyle(image).opacity)"
    with opened(browser, report) as (page, _):
        stops = []
        while "slider-0" not in stops and len(stops) < 40:
            page.keyboard.press("Tab")
            stops.append(page.evaluate("document.activeElement.id || document.activeElement.localName"))
        assert stops == ["a", "a", "a", "summary", "summary", "slider-0"]  # no bar on the way
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        assert page.evaluate(opacity) == [0.5, 0.5]
        page.keyboard.press("ArrowRight")
        assert page.evaluate(opacity) == [pytest.approx(0.51), 0.5]
        page.keyboard.press("End")
        assert page.evaluate(opacity) == [1, 0.5]
        assert page.locator("output").all_inner_texts() == ["100%", "50%"]
        assert page.get_by_label("over wide.jpg").get_attribute("id") == "slider-1"


def test_legend(browser, report, gallery):
    palette = class_palette(LABELS)
    with opened(browser, report) as (page, _):
        for figure, picture in zip(page.locator(".gallery figure").all(), gallery, strict=True):
            shares = {i: (picture.segmentation == i).mean() for i in LABELS if (picture.segmentation == i).any()}
            shown = figure.locator(".legend li").evaluate_all(
                """items => items.map(item => [
                    item.querySelector(".name").textContent, item.querySelector(".area").textContent,
                    getComputedStyle(item.querySelector(".swatch")).backgroundColor,
                    item.closest("details") !== null])"""
            )
            assert {name for name, *_ in shown} == {LABELS[i] for i in shares}
            areas = [float(area.rstrip("%")) for _, area, *_ in shown]
            assert areas == sorted(areas, reverse=True)
            for name, area, colour, folded in shown:
                class_id = CLASSES.index(name)
                share = 100 * shares[class_id]
                assert float(area.rstrip("%")) == pytest.approx(share, abs=0.0005 if folded else 0.05)
                assert colour == "rgb({}, {}, {})".format(*palette[class_id])
                assert folded == (share < 0.1)
        assert page.locator(".gallery details summary").last.inner_text() == "and 1 smaller"


def test_overlay_has_the_colours_of_the_classes(browser, report, gallery):
    """The pixels as the browser decodes them."""
    small = gallery[0].segmentation
    with opened(browser, report) as (page, _):
        overlays = page.locator(".overlay")
        shown, wide = pixels_of(overlays.nth(0)), pixels_of(overlays.nth(1))
        assert shown.shape == (*small.shape, 4) and wide.shape == (240, 800, 4)
        photo, overlay = (page.locator(f".stack img:nth-child({i})").first.bounding_box() for i in (1, 2))
    assert photo == overlay  # one lies exactly on the other
    known = small != 255
    assert (shown[~known] == 0).all() and (~known).sum() == 60
    assert (shown[known] == np.insert(class_palette(LABELS), 3, 255, axis=1)[small[known]]).all()
    rows, columns = (((np.arange(size) + 0.5) * 1.25).astype(int) for size in (240, 800))
    nearest = gallery[1].segmentation[rows][:, columns]
    assert (wide[..., :3] == class_palette(LABELS)[nearest]).all()  # no class between two others


def test_nasty_name_is_text(browser, report):
    with opened(browser, report) as (page, seen):
        assert page.locator(".gallery h3").first.inner_text() == NASTY
        assert page.locator(".stack img").first.get_attribute("alt") == NASTY
        assert page.locator("img").count() == 4 and page.locator("script").count() == 1
        assert seen.complaints == []


def test_all_other_texts_are_escaped(browser, tmp_path, gallery):
    nasty = comparison(input=NASTY, model=NASTY, architectures={NASTY: result(POOL, 1, 1)})
    nasty["machine"]["processor"] = NASTY
    path = tmp_path / "nasty.html"
    path.write_text(render_report(nasty, gallery[1:], dict.fromkeys(LABELS, NASTY)), "utf-8")
    assert check(path.read_text("utf-8")) == []
    with opened(browser, path) as (page, seen):
        assert page.locator("img").count() == 2 and page.locator("script").count() == 1
        assert page.locator("header p").inner_text().count(NASTY) == 3
        assert page.locator(".scroll").get_attribute("aria-label") == f"Events of {NASTY}"
        assert page.locator(".legend .name").first.inner_text() == NASTY
        assert seen.complaints == []


def test_phone(browser, report):
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with opened(browser, report, **phone) as (page, _):
        for details in page.locator("summary").all():
            details.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        sizes = page.evaluate(
            """() => [...document.querySelectorAll("body *")]
                .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.localName !== "script")
                .map(e => parseFloat(getComputedStyle(e).fontSize))"""
        )
        assert len(sizes) > 50 and min(sizes) >= 12
        for cell in page.locator("#table tbody td, #table tbody th").all():
            box = cell.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert page.get_by_role("row").filter(has_text="actor_pool").first.get_by_role("cell").count() == 7


@pytest.mark.parametrize("width", [320, 640, 900, 1280])
def test_nothing_is_wider_than_the_page_or_its_card(browser, report, width):
    with opened(browser, report, viewport={"width": width, "height": 900}) as (page, _):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        inner = "cards => cards.map(card => card.scrollWidth - card.clientWidth)"
        assert set(page.locator(".card").evaluate_all(inner)) == {0}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser, report, scheme):
    with opened(browser, report, color_scheme=scheme) as (page, _):
        texts, grounds = luminances(page, ["body", ".card", ".quiet", ".error", "summary", "caption"])
    assert (texts > grounds).all() == (scheme == "dark")
    assert (contrast(texts, grounds) >= 4.5).all()  # WCAG 2's AA
