"""`predict --report`, and `report` of an output on a store of objects."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from reference import picture

from ray_segformer.predict import predict

pytestmark = pytest.mark.usefixtures("ray_session")

JPEG, PNG = 'src="data:image/jpeg;base64,', 'src="data:image/png;base64,'

USER = "someone:secret@"  # workers have no password of their own


def test_predict_writes_the_report_before_the_run_counts_as_finished(small_dir, tmp_path, run_command):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(picture(40, 60, number)).save(folder / f"{number}.png")
    command = ("predict", folder, output, "--model", small_dir, "--workers", 1)
    assert run_command(*command)[0] == 0
    options = json.loads((output / "summary.json").read_text())["options"]
    (output / "job.json").write_text(json.dumps(options))  # as an interrupted run leaves it
    (output / "summary.json").unlink()
    (output / "report.html").mkdir()  # so that no file can be written there
    code, _, errors = run_command(*command, "--resume", "--report")
    assert code == 2 and "report.html: cannot be written" in errors and not (output / "summary.json").exists()
    (output / "report.html").rmdir()
    code, printed, _ = run_command(*command, "--resume", "--report")
    assert code == 0 and str(output / "report.html") in printed.splitlines()
    page, summary = (output / "report.html").read_text("utf-8"), json.loads((output / "summary.json").read_text())
    assert "3 images: 3 masks, 0 failures." in page and "The run is not finished" not in page
    assert f"{summary['stages']['write']['seconds']:,.2f} s" in page and page.count(JPEG) == page.count(PNG) == 3
    (output / "report.html").unlink()
    assert run_command(*command, "--resume", "--report")[0] == 0  # of a finished run, too
    assert (output / "report.html").read_text("utf-8") == page
    assert run_command("report", output, "--to", tmp_path / "again.html")[0] == 0
    assert (tmp_path / "again.html").read_text("utf-8") == page


def test_images_on_a_store_are_read_with_the_options_of_the_input(small_dir, tmp_path, object_store, run_command):
    from ray_segformer import SegformerCheckpoint

    file_system, options = object_store
    file_system.create_dir("reports")
    for number in range(2):
        content = io.BytesIO()
        Image.fromarray(picture(40, 60, number)).save(content, "PNG")
        with file_system.open_output_stream(f"reports/in/a {number}.png") as stream:
            stream.write(content.getvalue())
    source, output, to = (f"s3://{USER}reports/{name}{options}" for name in ("in", "out", "b/page.html"))
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    numbers = {"workers": np.int64(1), "batch_size": np.int32(2), "rows_per_shard": np.uint16(8)}
    numbers |= {"max_pixels": np.int64(40 * 60), "confidence": np.False_}  # which JSON does not hold
    summary = predict(source, output, checkpoint, report=True, progress=False, **numbers)
    assert summary["options"]["max_pixels"] == 2400 and summary["failures"] == 0
    with file_system.open_input_stream("reports/out/report.html") as stream:
        page = stream.read().decode()
    assert page.count(JPEG) == page.count(PNG) == 2 and "s3://reports/in/a%200.png" in page
    assert options.partition("=")[2] not in page and "secret" not in page
    code, printed, _ = run_command("report", output, "--to", to, "--input", source)
    assert code == 0 and printed.strip() == "s3://reports/b/page.html"
    with file_system.open_input_stream("reports/b/page.html") as stream:
        assert stream.read().decode() == page


def test_a_run_that_adds_images_leaves_no_report_without_them(small_dir, tmp_path, run_command):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(picture(40, 60)).save(folder / "0.png")
    command = ("predict", folder, output, "--model", small_dir, "--workers", 1)
    assert run_command(*command, "--report")[0] == 0
    assert run_command(*command, "--resume")[0] == 0 and (output / "report.html").exists()  # nothing was missing
    Image.fromarray(picture(41, 60)).save(folder / "1.png")
    assert run_command(*command, "--resume")[0] == 0 and not (output / "report.html").exists()
