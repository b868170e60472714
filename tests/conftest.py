"""Fixtures that several test files share.

They import what they need themselves: the process that hands out tests needs none of it, and starts seconds earlier.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from pathlib import Path

import pytest

# Ray Data shares the CPUs of a cluster among datasets. It keeps the share of a driver that was killed for 180 seconds,
# in which the next job may wait. Here it is 10 seconds, and datasets that run renew theirs every second.
os.environ["RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S"] = "10"
os.environ["RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS"] = "1"
# Ray Train looks every two seconds whether workers have started, reported or ended. Trainings here are as short.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="module")
def ray_session():
    """One small local Ray for all files of this process. Only a file that had a Ray of its own makes it start again."""
    from sessions import start_ray

    start_ray(num_cpus=4)


@pytest.fixture(scope="module")
def ray_address(ray_session) -> str:
    """The address of `ray_session`: a process with it in RAY_ADDRESS joins that Ray instead of starting its own."""
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture
def run_command(capsys):
    """Runs `ray-segformer` in this process: its exit code, what it printed, and what it said on stderr."""
    from ray_segformer.cli import main

    def run(*arguments):
        code = main([*map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="session", autouse=True)
def ray_of_their_own():
    """Processes that tests start begin a Ray of their own: they would join a test cluster that runs beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        yield


@pytest.fixture(scope="session", autouse=True)
def program_cache(tmp_path_factory):
    """Compiled programs that all processes of these tests share: none from before, and none in the user's cache.

    It is a link of this process alone. A test that wants another cache turns the link, and disturbs no other process.
    """
    folder = tmp_path_factory.getbasetemp()
    directory = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "programs"
    directory.mkdir(mode=0o700, exist_ok=True)
    link = folder / "link_to_programs"
    link.symlink_to(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_SEGFORMER_CACHE", str(link))
        yield link


@pytest.fixture(scope="session")
def object_store():
    """The file system of a server of objects on this machine, and what a URI needs to reach it."""
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # else pyarrow waits for a server that is not there
        server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        address = "{}:{}".format(*server.get_host_and_port())
        yield (
            S3FileSystem(endpoint_override=address, scheme="http", allow_bucket_creation=True),
            f"?endpoint_override={address}&scheme=http",
        )
        server.stop()


@pytest.fixture(scope="module")
def one_thread():
    """On shared cores, threads that wait for one another lose more than they win."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_itemcollected(item):
    """Mark the tests that drive a browser as slow: `make test-fast` is for every save."""
    if "browser" in item.fixturenames:
        item.add_marker("slow")


def pytest_collection_modifyitems(items):
    """Let the files of `tests/kills`, which mostly wait, alternate with others: two processes take files in turn."""
    files = list(dict.fromkeys(item.path for item in items))
    waiting = [file for file in files if file.parent.name == "kills"]
    others = [file for file in files if file not in waiting]
    pairs = itertools.zip_longest(waiting, others[: len(waiting)])
    order = [file for pair in pairs for file in pair if file] + others[len(waiting) :]
    items.sort(key=lambda item: order.index(item.path))


@pytest.fixture(scope="module")
def browser():
    """Chromium. Not for the whole session: it runs an event loop in this thread, in which others cannot run theirs."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    # The first has no windows, and takes half the CPU of the others.
    programs = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, programs)), None)
    if program is None:
        pytest.skip("no Chromium on PATH: apt install chromium-headless-shell")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and a trained model."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real images and models in {SHARED.name}/ beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def real_images(shared) -> list[Path]:
    """Photos of many sizes, all of ADE20K's and ten street scenes."""
    data = shared / "data"
    return [
        *sorted((data / "photos").glob("*.jpg")),
        *sorted((data / "ade20k/images").glob("*.jpg")),
        *sorted((data / "ade20k/unlabelled").glob("*.jpg")),
        *sorted((data / "camvid/test/images").glob("*.jpg"))[::23][:10],
    ]


@pytest.fixture(scope="session")
def real_sample(real_images) -> list[Path]:
    """A few of the real images, from each of the sources."""
    return real_images[::7]


@pytest.fixture(scope="session")
def real_pairs(shared) -> list[tuple[Path, Path]]:
    """Real images with their annotations."""
    images = [
        *sorted((shared / "data/ade20k/images").glob("*.jpg")),
        *sorted((shared / "data/camvid/test/images").glob("*.jpg"))[::50],
    ]
    return [(image, image.parents[1] / "annotations" / f"{image.stem}.png") for image in images]


@pytest.fixture(scope="session")
def trained(shared):
    """The trained model, as transformers runs it: a `Reference`."""
    from reference import Reference

    return Reference(shared / "models/segformer-b0-camvid")


@pytest.fixture(scope="session")
def small_dir(tmp_path_factory) -> Path:
    """The directory of a small random model with seven classes, as transformers writes it. Not to be changed."""
    from reference import save_small

    return save_small(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def small(small_dir):
    """The small random model, as transformers runs it: a `Reference`."""
    from reference import Reference

    return Reference(small_dir)
