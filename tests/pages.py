"""What the tests of HTML pages share: a page in Chromium, what it complains about, and what is wrong with its HTML."""

from __future__ import annotations

import base64
import io
import re
from contextlib import contextmanager
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
from PIL import Image


@contextmanager
def opened(browser, path, **options):
    """The page, and what it asked for and complained about."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page, seen = context.new_page(), SimpleNamespace(complaints=[], requests=[])
    page.on("console", lambda m: seen.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (seen.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("load")
    try:
        yield page, seen
    finally:
        context.close()


def pixels_of(image):
    """The pixels of an `<img>` as the browser decodes them: uint8 (height, width, 4), RGBA."""
    png = image.evaluate(
        """async image => {
            await image.decode();
            const canvas = document.createElement("canvas");
            canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png").split(",")[1];
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


class Checker(HTMLParser):
    """Keeps what is wrong with a page."""

    void = frozenset({"meta", "img", "input", "br", "link", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.labels, self.inputs, self.headings = [], [], [], [], []
        self.addresses, self.wrong = [], []

    def handle_starttag(self, tag, attributes):
        fields = dict(attributes)
        if len(fields) != len(attributes):
            self.wrong.append(f"an attribute of <{tag}> twice")
        if tag not in self.void:
            self.open.append(tag)
        self.addresses += [fields[name] for name in ("src", "href", "action", "srcset") if name in fields]
        if "id" in fields:
            self.ids.append(fields["id"])
        if tag == "img" and not fields.get("alt"):
            self.wrong.append("an image without alt")
        if tag == "label":
            self.labels.append(fields["for"])
        if tag == "input":
            self.inputs.append(fields.get("id"))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes another element")


def check(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    wrong = checker.wrong + [f"<{tag}> left open" for tag in checker.open]
    wrong += [f"id {name} twice" for name in set(checker.ids) if checker.ids.count(name) > 1]
    wrong += [f"input {name} without label" for name in checker.inputs if name not in checker.labels]
    if any(after > before + 1 for before, after in zip([0, *checker.headings], checker.headings, strict=False)):
        wrong.append("a heading level left out")
    return wrong


def luminances(page, selectors):
    """WCAG's relative luminances of the text of elements, and of what is behind them."""
    colours = page.evaluate(
        """selectors => selectors.map(selector => {
            let ground = document.querySelector(selector);
            const text = getComputedStyle(ground).color;
            while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
            return [text, getComputedStyle(ground).backgroundColor];
        })""",
        selectors,
    )
    return np.array([[_luminance(colour) for colour in pair] for pair in colours]).T


def contrast(texts, grounds):
    """WCAG's contrast of luminances."""
    return (np.maximum(texts, grounds) + 0.05) / (np.minimum(texts, grounds) + 0.05)


def _luminance(colour):  # "rgb(r, g, b)"
    values = np.array([int(value) for value in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
