"""The notebook runs from top to bottom in a kernel of its own, with no network, and is saved with its outputs."""

import base64
import io
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import ray
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError
from PIL import Image
from sessions import end_ray

from ray_segformer.architectures import ARCHITECTURES

NOTEBOOK = Path(__file__).parents[2] / "examples" / "scaling_inference.ipynb"
FIGURES = {"scenes", "prediction", "six-timelines", "slow-timelines"}
PATTERNS = {
    "sequential": r"predictor\(batch\) for batch in batches",
    "tasks": r"@ray\.remote\ndef predict\(.*ray\.put\(checkpoint\).*predict\.remote\(.*ray\.wait\(",
    "actors": r"ray\.remote\(SegformerPredictor\).*\.__call__\.remote\(batch\)",
    "actor_pool": r"ActorPool\(workers\).*\.map_unordered\(",
    "dataset": r"\.map_batches\(\s*SegformerPredictor,.*ActorPoolStrategy\(min_size=1, max_size=2\)",
    "batch_predictor": r"BatchPredictor\.from_checkpoint\(checkpoint, SegformerPredictor\).*\.predict\(dataset",
}


@pytest.fixture(scope="module")
def saved():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def own_ray():
    """Ends the Ray of other files, so that the next one is new: the notebook's workers want three of its four CPUs."""
    end_ray()


@pytest.fixture(scope="module")
def executed(own_ray, ray_address, tmp_path_factory):
    """The notebook, executed now, with a sixth of the images to measure; a cell that raises fails here."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    fewer = 0
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
        fewer += cell.source.count("] * 6)")
        cell.source = cell.source.replace("] * 6)", "] * 1)")
    assert fewer == 2  # the images, and the masks that they are to have
    directory = tmp_path_factory.mktemp("notebook")
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(directory)}}
    )
    try:
        client.execute(env={**os.environ, "HF_HUB_OFFLINE": "1", "RAY_ADDRESS": ray_address})
    except CellTimeoutError:
        print("what the cell waits for:", ray.available_resources(), ray._private.state.actors())
        raise
    assert not list(directory.iterdir())  # it leaves no files behind
    return notebook


@pytest.fixture(scope="module", params=["saved", "executed"])
def notebook(request):
    return request.getfixturevalue(request.param)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def batches_of(notebook):
    """How many batches of eight each run has: the 32 images are repeated."""
    (repeats,) = {int(number) for cell in code_cells(notebook) for number in re.findall(r"\] \* (\d+)\)", cell.source)}
    return repeats * 32 // 8


def output(notebook, cell_id):
    """What a cell shows, by MIME type; it is one thing."""
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    (shown,) = cell.outputs
    return shown["data"]


def table(notebook, cell_id):
    """The body of a DataFrame's HTML, as texts: rows by their names."""
    body = output(notebook, cell_id)["text/html"].split("<tbody>")[1]
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in body.split("</tr>")]
    return {name: values for name, *values in filter(None, rows)}


def texts(notebook):
    for cell in code_cells(notebook):
        for shown in cell.outputs:
            yield shown.get("text", "")
            yield from (text for kind, text in shown.get("data", {}).items() if not kind.startswith("image/"))


def test_patterns_are_written_out_and_their_masks_compared(saved):
    cells = [cell.source for cell in code_cells(saved)]
    for name, pattern in PATTERNS.items():
        (source,) = [source for source in cells if re.search(pattern, source, re.S)]
        assert len(source.splitlines()) <= 15
        if name != "sequential":
            assert re.search(r"^assert np\.array_equal\(in_order\(.*, expected\)$", source, re.M), name
    assert PATTERNS.keys() == ARCHITECTURES.keys()
    (measured,) = [source for source in cells if "in ARCHITECTURES.items()" in source]
    assert "assert np.array_equal(masks, " in measured


def test_cells_ran_in_order_without_errors(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [shown for cell in cells for shown in cell.outputs if shown.output_type == "error"]


def test_nothing_but_the_notebook_speaks(notebook):
    for text in texts(notebook):
        for unwanted in ("/tmp/", "/home/", "/work", "\x1b[", "WARNING", "Warning", "Traceback", "(pid="):
            assert unwanted not in text
    assert not [shown for cell in code_cells(notebook) for shown in cell.outputs if shown.get("name") == "stderr"]


def test_figures(notebook):
    drawn = {cell.id for cell in code_cells(notebook) for shown in cell.outputs if "image/png" in shown.get("data", {})}
    assert drawn == FIGURES
    for cell_id in FIGURES:
        picture = Image.open(io.BytesIO(base64.b64decode(output(notebook, cell_id)["image/png"])))
        assert picture.format == "PNG"
        assert 600 < picture.width < 1500 and 200 < picture.height < 1500
        assert np.asarray(picture.convert("L")).std() > 15  # it is not empty


def test_results_of_all_six(notebook):
    rows = table(notebook, "result-table")
    assert list(rows) == list(ARCHITECTURES)
    for images_per_second, first_mask, loads, _, busy in rows.values():
        assert float(images_per_second) > 0
        assert float(first_mask) > 0
        assert 0 < float(busy) <= 100
        assert int(loads) >= 1
    loads = {name: int(values[2]) for name, values in rows.items()}
    assert loads["sequential"] == 1
    assert loads["tasks"] == batches_of(notebook)  # a load for each batch
    assert loads["actors"] == loads["actor_pool"] == 2


def test_break_even(notebook):
    images = [values for (values,) in table(notebook, "break-even").values()]
    assert len(images) == 4
    if "never" not in images:
        dearer = [int(number.replace(",", "")) for number in images[1:]]
        assert dearer == sorted(dearer, reverse=True)
        assert dearer[-1] > 0


def test_a_slow_worker_gets_its_batches_and_no_more(notebook):
    rows = table(notebook, "slow-table")
    batches = {name: (int(values[2]), int(values[3])) for name, values in rows.items()}
    total = batches_of(notebook)
    assert {number for number, _ in batches.values()} == {total}
    assert batches["one worker"][1] == total
    # Any of the three can be the slow one. Dealt out in turn, none gets two batches more than another.
    assert batches["dealt out in turn"][1] in (total // 3, -(-total // 3))
    # The pool gives each worker a batch at once. How the others are shared depends on how fast each one starts.
    assert 1 <= batches["whoever is free"][1] <= total - 2


def test_in_the_saved_run_the_pool_gave_the_slow_worker_less_than_its_turns(saved):
    rows = table(saved, "slow-table")
    assert int(rows["whoever is free"][3]) < int(rows["dealt out in turn"][3])


def test_advice(notebook):
    lines = output(notebook, "advice")["text/markdown"].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [name for name, *_ in rows[2:]] == [f"`{name}`" for name in ARCHITECTURES]
    for _, when, in_this_run in rows[2:]:
        assert when
        assert re.search(r"\d", in_this_run)
    results = table(notebook, "result-table")
    advice = {name.strip("`"): text for name, _, text in rows[2:]}
    assert f"{float(results['tasks'][3]):.1f} s in all" in advice["tasks"]
    assert f"{float(results['dataset'][1]):.1f} s" in advice["dataset"]


def test_the_file_has_the_outputs_that_running_it_makes(saved, executed):
    for before, now in zip(code_cells(saved), code_cells(executed), strict=True):
        kinds = [
            [(shown.output_type, *sorted(set(shown.get("data", {})) - {"image/jpeg"})) for shown in cell.outputs]
            for cell in (before, now)
        ]
        assert kinds[0] == kinds[1], before.source


def test_the_file_is_small_and_says_nothing_of_the_machine(saved):
    assert NOTEBOOK.stat().st_size < 1.5e6
    assert saved.metadata.kernelspec.name == "python3"
    assert "widgets" not in saved.metadata
    assert not [cell.id for cell in saved.cells if cell.metadata]
    assert len({cell.id for cell in saved.cells}) == len(saved.cells)
