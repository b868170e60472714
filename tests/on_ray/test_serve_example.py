"""The example of Ray Serve, in a process of its own, asked over HTTP."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference import decode, encode, objects, picture
from sessions import server_port

from ray_segformer import SegformerCheckpoint, SegformerPredictor

EXAMPLE = Path(__file__).parents[2] / "examples/08_serve.py"

# A shell that starts the tests in the background has them ignore Ctrl-C.
RUNNER = """
import runpy, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def ask(address, body):
    """The status of the answer, its content, and its headers. Without a body, the method is GET."""
    try:
        with urllib.request.urlopen(address, body, timeout=600) as answer:  # of one that hangs
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


@pytest.fixture(scope="module")
def address(ray_address, small_dir, tmp_path_factory):
    """The address of the example. Ctrl-C ends it."""
    port = server_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    environment = {**os.environ, "RAY_ADDRESS": ray_address, "PORT": str(port)}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(EXAMPLE), str(small_dir)], stdout=file, stderr=file, env=environment
        )
    status = None
    while status != 400:  # to no image
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
        try:
            status, *_ = ask(f"http://127.0.0.1:{port}/", b"")
        except urllib.error.URLError as error:
            assert isinstance(error.reason, ConnectionRefusedError)
    yield f"http://127.0.0.1:{port}/"
    process.send_signal(signal.SIGINT)
    assert process.wait(600) == 0, log.read_text()
    with pytest.raises(urllib.error.URLError):
        ask(f"http://127.0.0.1:{port}/", b"")


def test_requests_share_batches_and_a_bad_image_fails_alone(address, small_dir):
    images = [encode(picture(30 + number, 50, number), "PNG" if number % 2 else "JPEG") for number in range(10)]
    masks = SegformerPredictor(SegformerCheckpoint.from_pretrained(small_dir)).predict({"image": objects(*images)})
    assert len(np.unique(np.concatenate([mask.ravel() for mask in masks["segmentation"]]))) > 2
    bad = {
        b"hello": b"not an image in a known format",
        images[0][:300]: b"cannot decode the image: ",
        encode(Image.new("1", (5001, 5000))): b"too large: 5001 x 5000 pixels",
    }
    bodies = [*images[:5], *bad, *images[5:]]
    sizes = Counter()
    while max(sizes, default=1) == 1:
        with ThreadPoolExecutor(len(bodies)) as pool:
            answers = dict(zip(bodies, pool.map(lambda body: ask(address, body), bodies), strict=True))
        for image, mask in zip(images, masks["segmentation"], strict=True):
            status, content, headers = answers[image]
            assert (status, headers["content-type"]) == (200, "image/png")
            np.testing.assert_array_equal(np.asarray(decode(content)), mask)
            sizes[int(headers["batch-size"])] += 1
        for body, sentence in bad.items():
            status, content, _ = answers[body]
            assert status == 400 and content.startswith(sentence)


def test_an_image_is_sent_by_post(address):
    status, content, headers = ask(address, None)
    assert (status, content, headers["allow"]) == (405, b"send an image by POST\n", "POST")


def test_a_request_of_too_many_bytes(address):
    most = runpy.run_path(str(EXAMPLE))["MAX_BYTES"]
    status, content, _ = ask(address, bytes(most + 1))
    assert status == 413 and content == b"too large: more than 52428800 bytes\n"
