"""`BatchPredictor` as Ray 2.6.3 had it: what it computes, where, when, and with which resources."""

import inspect
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
from ray import cloudpickle
from ray.data.preprocessors import StandardScaler

from ray_segformer import BatchMapper, BatchPredictor, Predictor
from ray_segformer.air import Checkpoint, CheckpointFiles, installed

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file


class Toy(Predictor):
    """Subclasses get all arguments of `from_checkpoint` as attributes. If one is `marker`, it makes that file."""

    def __init__(self, checkpoint, preprocessor=None, **kwargs):
        super().__init__(preprocessor)
        self.checkpoint, self.kwargs = checkpoint, kwargs
        if "marker" in kwargs:
            Path(kwargs["marker"]).touch()

    @classmethod
    def from_checkpoint(cls, checkpoint, **kwargs):
        return cls(checkpoint, **kwargs)


class Adder(Toy):
    """Sums its columns but `id`, times `factor`, plus `plus`, and tells which columns it saw."""

    def _predict_numpy(self, data, plus=0):
        total = sum(data[name] for name in data if name != "id")
        names = np.array([" ".join(data)] * len(total))
        return {"sum": total * self.kwargs.get("factor", 1) + plus, "names": names}


class PandasAdder(Toy):
    """The same, in pandas."""

    def _predict_pandas(self, data, plus=0):
        total = data.drop(columns="id", errors="ignore").sum(axis="columns")
        return pd.DataFrame({"sum": total * self.kwargs.get("factor", 1) + plus, "names": " ".join(data)})


class Witness(Toy):
    """Tells of every row where and how it was scored."""

    def _predict_pandas(self, data):
        resources = ray.get_runtime_context().get_assigned_resources()
        answer = pd.DataFrame({"id": data["id"], "rows": len(data), "pid": os.getpid()})
        for name in "CPU", "GPU", "lab":
            answer[name.lower()] = float(resources.get(name, 0))
        answer["cast"] = self._cast_tensor_columns
        answer["use_gpu"] = str(self.kwargs.get("use_gpu", "not given"))
        answer["prepared_by"] = data.get("prepared_by", 0)
        return answer


class GpuWitness(Witness):
    """A witness whose `from_checkpoint` names `use_gpu`."""

    @classmethod
    def from_checkpoint(cls, checkpoint, use_gpu="by default"):
        return cls(checkpoint, use_gpu=use_gpu)


def wait_for_files(folder, count):
    deadline = time.monotonic() + 600
    while len(list(folder.iterdir())) < count and time.monotonic() < deadline:
        time.sleep(0.05)


class Crowd(Toy):
    """Waits until `expected` predictors exist, each of which leaves a file in `folder`, and counts them."""

    def __init__(self, checkpoint, folder, expected):
        super().__init__(checkpoint)
        self.folder, self.expected = Path(folder), expected
        (self.folder / str(os.getpid())).touch()

    def _predict_pandas(self, data):
        wait_for_files(self.folder, self.expected)
        return pd.DataFrame({"id": data["id"], "predictors": len(list(self.folder.iterdir()))})


class Shift(Toy):
    """Waits until `expected` predictors have begun, as files in `folder` tell, and says when it worked itself."""

    def __init__(self, checkpoint, folder, expected):
        super().__init__(checkpoint)
        self.folder, self.expected = Path(folder), expected

    def _predict_pandas(self, data):
        begin = time.monotonic()
        (self.folder / str(os.getpid())).touch()
        wait_for_files(self.folder, self.expected)
        return pd.DataFrame({"id": data["id"], "pid": os.getpid(), "begin": begin, "end": time.monotonic()})


class FileReader(Toy):
    """Tells what it finds in its checkpoint when it predicts, and the checkpoint's label."""

    def _predict_pandas(self, data):
        with self.checkpoint.as_directory() as directory:
            texts = {
                path.relative_to(directory).as_posix(): path.read_text()
                for path in Path(directory).rglob("*.txt")
                if path.is_file()
            }
        label = f"{type(self.checkpoint).__name__}: {self.checkpoint.label()}"
        return pd.DataFrame({"id": data["id"], "texts": repr(sorted(texts.items())), "label": label})


class PathReader(Toy):
    """Keeps the path of its checkpoint's folder, not the checkpoint, and reads there when it predicts."""

    def __init__(self, checkpoint):
        super().__init__(None)
        self.folder = Path(checkpoint.path or checkpoint.to_directory())

    def _predict_pandas(self, data):
        return pd.DataFrame({"id": data["id"], "text": (self.folder / "label.txt").read_text()})


class LabelledCheckpoint(Checkpoint):
    """A checkpoint with a method, and an attribute that Ray 2.6 is told to keep."""

    _SERIALIZED_ATTRS = (*getattr(Checkpoint, "_SERIALIZED_ATTRS", ()), "colour")
    colour = "grey"

    def label(self):
        with self.as_directory() as directory:
            return f"{self.colour} {Path(directory, 'label.txt').read_text()}"


class PreparedCheckpoint(Checkpoint):
    """A checkpoint that knows its preprocessor."""

    def get_preprocessor(self):
        return BatchMapper(prepare, "pandas")


class Doubler(Toy):
    """Writes into its batch."""

    def _predict_numpy(self, data):
        data["x"] *= 2
        return data


class Reader(Toy):
    """Only reads, and tells whether it could write."""

    writes_into_batches = False

    def _predict_numpy(self, data):
        return {"writeable": np.full(len(data["x"]), data["x"].flags.writeable)}


class PandasDoubler(Toy):
    """Writes into its batch and the arrays in its cells."""

    def _predict_pandas(self, data):
        data["x"] *= 1
        for cell in data["x"]:
            cell += cell
        return data


class Echo(Toy):
    """Predicts what it is given."""

    def _predict_numpy(self, data):
        return data


def prepare(batch):
    """x times 10, and a new column z of twice the old x."""
    batch = batch.copy()
    batch["x"], batch["z"] = batch["x"] * 10, batch["x"] * 2
    return batch


def name_process(frame):
    return frame.assign(prepared_by=os.getpid())


@pytest.fixture(scope="module")
def numbers(small_ray):
    """Six rows in two blocks: id and x count from 0, y is 100 times x."""
    frame = pd.DataFrame({"id": np.arange(6), "x": np.arange(6), "y": np.arange(6) * 100})
    return ray.data.from_pandas([frame[:3], frame[3:].reset_index(drop=True)])


@pytest.fixture(scope="module")
def ten(small_ray):
    """Ten rows in one block."""
    return ray.data.from_pandas(pd.DataFrame({"id": np.arange(10)}))


ONE = {"max_scoring_workers": 1}  # or Ray starts a second process for the second block


def column(rows, name):
    return [row[name] for row in rows]


# Signatures


EITHER, KEYWORD_ONLY = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
REST, REQUIRED = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.empty


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            BatchPredictor.__init__,
            [
                ("self", EITHER, REQUIRED),
                ("checkpoint", EITHER, REQUIRED),
                ("predictor_cls", EITHER, REQUIRED),
                ("predictor_kwargs", REST, REQUIRED),
            ],
        ),
        (
            BatchPredictor.from_checkpoint,
            [("checkpoint", EITHER, REQUIRED), ("predictor_cls", EITHER, REQUIRED), ("kwargs", REST, REQUIRED)],
        ),
        (BatchPredictor.from_pandas_udf, [("pandas_udf", EITHER, REQUIRED)]),
        (BatchPredictor.get_preprocessor, [("self", EITHER, REQUIRED)]),
        (BatchPredictor.set_preprocessor, [("self", EITHER, REQUIRED), ("preprocessor", EITHER, REQUIRED)]),
        (
            BatchPredictor.predict,
            [
                ("self", EITHER, REQUIRED),
                ("data", EITHER, REQUIRED),
                ("feature_columns", KEYWORD_ONLY, None),
                ("keep_columns", KEYWORD_ONLY, None),
                ("batch_size", KEYWORD_ONLY, 4096),
                ("min_scoring_workers", KEYWORD_ONLY, 1),
                ("max_scoring_workers", KEYWORD_ONLY, None),
                ("num_cpus_per_worker", KEYWORD_ONLY, None),
                ("num_gpus_per_worker", KEYWORD_ONLY, None),
                ("separate_gpu_stage", KEYWORD_ONLY, True),
                ("ray_remote_args", KEYWORD_ONLY, None),
                ("predict_kwargs", REST, REQUIRED),
            ],
        ),
    ],
)
def test_the_signatures_are_those_of_ray_2_6_3(method, expected):
    found = [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
    assert found == expected


def test_the_repr_shows_checkpoint_and_class(checkpoint):
    predictor = BatchPredictor.from_checkpoint(checkpoint, Adder, factor=2)
    assert isinstance(predictor, BatchPredictor)
    assert repr(predictor) == f"BatchPredictor(checkpoint={checkpoint}, predictor_cls=Adder)"


# Results


def test_prediction_is_lazy_and_gets_both_kinds_of_keyword_arguments(numbers, checkpoint, rows_of, tmp_path):
    marker = tmp_path / "made"
    predictor = BatchPredictor(checkpoint, PandasAdder, factor=2, marker=str(marker))  # made directly
    predictions = predictor.predict(numbers, **ONE, plus=7)
    del predictor
    assert not marker.exists()
    rows = rows_of(predictions, by="sum")
    assert marker.exists()
    assert column(rows, "sum") == [7, 209, 411, 613, 815, 1017]
    assert set(rows[0]) == {"sum", "names"}  # nothing is kept unless asked for
    assert set(column(rows, "names")) == {"id x y"}


@pytest.mark.parametrize("adder", [Adder, PandasAdder])
def test_features_and_kept_columns_are_taken_after_preprocessing(numbers, checkpoint, rows_of, adder):
    predictor = BatchPredictor.from_checkpoint(checkpoint, adder, factor=2)
    predictor.set_preprocessor(BatchMapper(prepare, "pandas"))
    rows = rows_of(predictor.predict(numbers, **ONE, feature_columns=["z"], keep_columns=["id", "x"], plus=7))
    assert column(rows, "sum") == [7, 11, 15, 19, 23, 27]  # of z alone, which the preprocessor made
    assert set(column(rows, "names")) == {"z"}
    assert column(rows, "id") == [0, 1, 2, 3, 4, 5]
    assert column(rows, "x") == [0, 10, 20, 30, 40, 50]  # the preprocessed values, though no feature
    assert set(rows[0]) == {"sum", "names", "id", "x"}


@pytest.mark.skipif(installed.HAS_AIR, reason="Ray's own has errors of its own")
@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ("photos/", {}, TypeError, r"data must be a Dataset, .*, not str"),
        (None, {"keep_columns": "id"}, TypeError, "keep_columns is a list of names, not 'id'"),
        (None, {"feature_columns": "x"}, TypeError, "feature_columns is a list of names, not 'x'"),
        (None, {"batch_size": "16"}, TypeError, "batch_size is a whole number, not '16'"),
        (None, {"batch_size": 2.5}, TypeError, "batch_size is a whole number, not 2.5"),
        (None, {"max_scoring_workers": 0}, ValueError, "max_scoring_workers is at least 1, not 0"),
        (None, {"min_scoring_workers": 3, "max_scoring_workers": 2}, ValueError, r"\(2\) is less than .* \(3\)"),
        (None, {"num_gpus_per_worker": -1}, ValueError, "num_gpus_per_worker is at least 0, not -1"),
        (None, {"num_cpus_per_worker": -1}, ValueError, "num_cpus_per_worker is at least 0, not -1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(numbers, checkpoint, data, options, error, message):
    with pytest.raises(error, match=message):
        BatchPredictor(checkpoint, Adder).predict(data or numbers, **options)


def test_feature_columns_that_are_not_there(numbers, checkpoint, rows_of, failure_of):
    asked = {"feature_columns": ["x", "absent"]}
    rows = rows_of(BatchPredictor(checkpoint, Adder).predict(numbers, **ONE, **asked), by="sum")
    assert column(rows, "sum") == [0, 1, 2, 3, 4, 5]  # left out of a dict
    assert "KeyError" in failure_of(BatchPredictor(checkpoint, PandasAdder).predict(numbers, **ONE, **asked))


@pytest.mark.parametrize("adder", [Adder, PandasAdder])
def test_a_kept_column_that_is_not_there_is_an_error(numbers, checkpoint, failure_of, adder):
    failure = failure_of(BatchPredictor(checkpoint, adder).predict(numbers, **ONE, keep_columns=["id", "absent"]))
    assert "KeyError" in failure
    assert "absent" in failure


@pytest.mark.parametrize("option", ["feature_columns", "keep_columns"])
def test_column_names_are_refused_where_batches_are_bare_arrays(numbers, checkpoint, failure_of, option):
    predictor = BatchPredictor(checkpoint, Echo)
    predictor.set_preprocessor(BatchMapper(lambda batch: batch["x"], "numpy"))
    in_actor = {"num_gpus_per_worker": 1, "separate_gpu_stage": False}
    failure = failure_of(predictor.predict(numbers, **ONE, **in_actor, **{option: ["x"]}))
    assert "ValueError" in failure
    assert "Column name(s) ['x'] should not be provided" in failure
    assert "for prediction input data type of ``numpy.ndarray``" in failure


def test_4096_rows_are_scored_at_once_by_default(checkpoint):
    many = ray.data.from_pandas(pd.DataFrame({"id": np.arange(5000)}))
    predictions = BatchPredictor(checkpoint, Witness).predict(many).to_pandas()  # in take_all each row takes its time
    assert sorted(predictions["rows"]) == [904] * 904 + [4096] * 4096


def test_from_pandas_udf_predicts_with_the_function(numbers, rows_of):
    def scale(frame, factor=1):
        return pd.DataFrame({"id": frame["id"], "scaled": frame["x"] * factor})

    predictor = BatchPredictor.from_pandas_udf(scale)
    assert isinstance(predictor, BatchPredictor)
    assert predictor.get_preprocessor() is None
    rows = rows_of(predictor.predict(numbers, **ONE, feature_columns=["id", "x"], keep_columns=["y"], factor=3))
    assert column(rows, "scaled") == [0, 3, 6, 9, 12, 15]
    assert column(rows, "y") == [0, 100, 200, 300, 400, 500]


@pytest.mark.parametrize("doubler", [Doubler, PandasDoubler])
def test_a_predictor_may_write_into_its_batch(checkpoint, rows_of, doubler):
    cells = [np.array([i, i + 1]) for i in range(4)]
    source = ray.data.from_pandas(pd.DataFrame({"id": np.arange(4), "x": cells})).materialize()
    predictions = BatchPredictor(checkpoint, doubler).predict(source)
    assert [list(x) for x in column(rows_of(predictions), "x")] == [[0, 2], [2, 4], [4, 6], [6, 8]]
    assert [list(x) for x in column(rows_of(source), "x")] == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_a_predictor_that_only_reads_gets_views(checkpoint):
    source = ray.data.from_items([{"x": i} for i in range(4)]).materialize()
    predictions = BatchPredictor(checkpoint, Reader).predict(source)
    assert column(predictions.take_all(), "writeable") == [False] * 4


@pytest.mark.skipif(installed.HAS_AIR, reason="Ray 2.6's own class hands out read-only views here")
def test_a_predictor_may_write_into_a_view_of_the_object_store(checkpoint, rows_of):
    source = ray.data.from_items([{"id": i, "x": i} for i in range(4)]).materialize()
    predictions = BatchPredictor(checkpoint, Doubler).predict(source)
    assert column(rows_of(predictions), "x") == [0, 2, 4, 6]
    assert column(rows_of(source), "x") == [0, 1, 2, 3]


# The preprocessor


def test_the_preprocessor_is_the_checkpoints_unless_overridden(make_checkpoint, numbers, rows_of):
    predictor = BatchPredictor.from_checkpoint(
        make_checkpoint(checkpoint_class=PreparedCheckpoint),
        Adder,
        preprocessor=BatchMapper(prepare, "pandas"),  # the predictor's own one is not applied
    )
    assert repr(predictor.get_preprocessor()) == "BatchMapper(fn=prepare)"
    assert column(rows_of(predictor.predict(numbers, **ONE), by="sum"), "sum") == [
        0,
        112,
        224,
        336,
        448,
        560,
    ]

    own = BatchMapper(lambda frame: frame[["x"]] + 1, "pandas")
    predictor.set_preprocessor(own)
    assert predictor.get_preprocessor() is own
    assert column(rows_of(predictor.predict(numbers, **ONE), by="sum"), "sum") == [1, 2, 3, 4, 5, 6]

    predictor.set_preprocessor(None)
    assert predictor.get_preprocessor() is None
    rows = rows_of(predictor.predict(numbers, **ONE), by="sum")
    assert column(rows, "sum") == [0, 101, 202, 303, 404, 505]
    assert set(rows[0]) == {"sum", "names"}
    assert set(column(rows, "names")) == {"id x y"}


class Dtypes(Toy):
    """Tells the dtypes of its columns, and hands on what the preprocessor told."""

    def _predict_pandas(self, data):
        return pd.DataFrame({"before": data.pop("told"), "after": dtypes(data), "array": str(data.to_numpy().dtype)})


def dtypes(frame):
    return " ".join(map(str, frame.dtypes))


def test_pandas_batches_have_numpys_dtypes(checkpoint):
    predictor = BatchPredictor(checkpoint, Dtypes)
    predictor.set_preprocessor(BatchMapper(lambda frame: frame.assign(told=dtypes(frame)), "pandas"))
    table = pa.table({"share": [0.5, 1.5], "count": [1, 2], "gap": [1, None]})
    expected = {"before": "float64 int64 float64", "after": "float64 int64 float64", "array": "float64"}
    assert predictor.predict(ray.data.from_arrow(table), **ONE).take_all() == [expected, expected]


def test_text_of_pandas_batches_is_objects_and_its_nulls_are_none(checkpoint):
    def look(frame):
        return pd.DataFrame({"told": [f"{frame['text'].dtype} {cell!r}" for cell in frame["text"]]})

    texts = ray.data.from_arrow(pa.table({"text": ["a", None]}))
    assert column(BatchMapper(look, "pandas").transform(texts).take_all(), "told") == ["object 'a'", "object None"]
    predictions = BatchPredictor.from_pandas_udf(look).predict(texts, **ONE).take_all()
    assert sorted(column(predictions, "told")) == ["object 'a'", "object None"]


def test_rows_count_from_0_whatever_the_index_of_their_frame(small_ray):
    frame = pd.DataFrame({"x": [1, 2, 3, 4]}, index=[2, 3, 1, 0])
    predictor = BatchPredictor.from_pandas_udf(lambda df: pd.DataFrame({"double": 2 * df["x"].to_numpy()}))
    rows = predictor.predict(ray.data.from_pandas(frame), keep_columns=["x"], **ONE).take_all()
    assert sorted((row["x"], row["double"]) for row in rows) == [(1, 2), (2, 4), (3, 6), (4, 8)]


def test_an_argument_of_the_predictor_may_be_called_batch(small_ray):
    predictor = BatchPredictor.from_pandas_udf(lambda df, batch=0: pd.DataFrame({"sum": df["id"] + batch}))
    assert sorted(column(predictor.predict(ray.data.range(2), batch=10, **ONE).take_all(), "sum")) == [10, 11]


@pytest.mark.skipif(installed.HAS_AIR, reason="Ray 2.6's own class leaves it out without a word")
def test_a_predictors_own_preprocessor_that_nobody_would_run_is_refused(numbers, checkpoint, rows_of):
    predictor = BatchPredictor(checkpoint, Adder, preprocessor=BatchMapper(prepare, "pandas"))
    assert predictor.get_preprocessor() is None
    with pytest.raises(Exception, match="Adder has a preprocessor of its own, which BatchPredictor does not run; give"):
        predictor.predict(numbers, **ONE).take_all()
    predictor.set_preprocessor(None)
    assert column(rows_of(predictor.predict(numbers, **ONE), by="sum"), "sum") == [0, 101, 202, 303, 404, 505]


# Where, and with which resources


def scored_by(checkpoint, predictor_cls, dataset, predictor_kwargs=None, **options):
    """The rows of a witness's report, after checking that they agree but for ids and processes."""
    predictor = BatchPredictor(checkpoint, predictor_cls, **(predictor_kwargs or {}))
    predictor.set_preprocessor(BatchMapper(name_process, "pandas"))
    rows = predictor.predict(dataset, **options).take_all()
    assert sorted(row["id"] for row in rows) == list(range(10))
    assert len({(row["cpu"], row["gpu"], row["use_gpu"], row["pid"] == row["prepared_by"]) for row in rows}) == 1
    return rows


def test_without_options_a_worker_has_one_cpu_and_preprocessing_is_a_stage_of_its_own(ten, checkpoint):
    row = scored_by(checkpoint, GpuWitness, ten)[0]
    assert (row["cpu"], row["gpu"]) == (1, 0)
    assert row["use_gpu"] == "by default"
    assert os.getpid() not in (row["pid"], row["prepared_by"])
    assert row["prepared_by"] != 0
    if not installed.HAS_AIR:  # Ray 2.6 fuses the stages where both ask for one CPU
        assert row["prepared_by"] != row["pid"]
    assert row["cast"]  # Ray Data casts tensor columns, so the predictor was told to


def test_with_a_gpu_a_worker_has_no_cpu_and_is_told_to_use_it(ten, checkpoint):
    row = scored_by(checkpoint, GpuWitness, ten, num_gpus_per_worker=1)[0]
    assert (row["cpu"], row["gpu"]) == (0, 1)
    assert row["use_gpu"] == "True"
    assert row["prepared_by"] not in (0, row["pid"], os.getpid())  # a separate stage


@pytest.mark.skipif(installed.HAS_AIR, reason="Ray's own waits without a word")
def test_it_is_said_that_workers_wait_for_gpus(ten, checkpoint, caplog):
    predictor = BatchPredictor(checkpoint, GpuWitness)
    predictor.predict(ten, num_gpus_per_worker=1)
    assert not caplog.records
    predictor.predict(ten, num_gpus_per_worker=1.5)  # lazy: nothing waits here
    assert "num_gpus_per_worker=1.5: the cluster has 1 GPU(s). The scoring workers wait" in caplog.text


def test_in_one_stage_the_gpu_worker_preprocesses_and_a_given_use_gpu_stays(ten, checkpoint):
    options = {"num_gpus_per_worker": 1, "separate_gpu_stage": False}
    row = scored_by(checkpoint, GpuWitness, ten, {"use_gpu": False}, **options)[0]
    assert (row["cpu"], row["gpu"]) == (0, 1)
    assert row["use_gpu"] == "False"
    assert row["pid"] == row["prepared_by"]


def test_in_one_stage_rays_own_preprocessors_do_what_they_do_in_two(numbers):
    predictor = BatchPredictor.from_pandas_udf(lambda df: pd.DataFrame({"sum": df["x"] + df["y"]}))
    predictor.set_preprocessor(StandardScaler(["x", "y"]).fit(numbers))
    options = {"num_gpus_per_worker": 1, "keep_columns": ["id"], **ONE}
    one, two = (predictor.predict(numbers, separate_gpu_stage=stage, **options).take_all() for stage in (False, True))
    by_id = [{row["id"]: row["sum"] for row in rows} for rows in (one, two)]
    assert by_id[0] == pytest.approx(by_id[1]) and by_id[0][0] == pytest.approx(-2 * 2.5 / np.std(np.arange(6)))


def test_batch_size_is_the_most_rows_at_once_and_use_gpu_is_given_only_to_a_predictor_that_names_it(ten, checkpoint):
    rows = scored_by(checkpoint, Witness, ten, num_gpus_per_worker=0.5, batch_size=4)
    assert rows[0]["gpu"] == 0.5
    assert rows[0]["use_gpu"] == "not given"
    assert sorted(column(rows, "rows")) == [2] * 2 + [4] * 8


def test_zero_gpus_are_none_and_make_one_stage_no_matter(ten, checkpoint):
    row = scored_by(checkpoint, GpuWitness, ten, num_gpus_per_worker=0, separate_gpu_stage=False)[0]
    assert (row["cpu"], row["gpu"]) == (1, 0)
    assert row["use_gpu"] == "by default"
    assert row["prepared_by"] != 0


def test_further_resources_are_reserved_and_a_predictor_is_told_when_tensor_columns_are_not_cast(ten, checkpoint):
    asked = {"resources": {"lab": 0.25}, "num_cpus": 3, "num_gpus": 1}  # CPUs and GPUs have options of their own
    context = ray.data.DataContext.get_current()
    context.enable_tensor_extension_casting = False
    try:
        row = scored_by(checkpoint, Witness, ten, num_cpus_per_worker=2, ray_remote_args=asked)[0]
    finally:
        context.enable_tensor_extension_casting = True
    assert (row["cpu"], row["gpu"], row["lab"]) == (2, 0, 0.25)
    assert not row["cast"]


def test_there_are_at_least_min_scoring_workers(checkpoint, tmp_path):
    (tmp_path / "crowd").mkdir()
    predictor = BatchPredictor(checkpoint, Crowd, folder=str(tmp_path / "crowd"), expected=2)
    one_block = ray.data.from_pandas(pd.DataFrame({"id": np.arange(4)}))
    rows = predictor.predict(one_block, min_scoring_workers=2, max_scoring_workers=2).take_all()
    assert set(column(rows, "predictors")) == {2}  # though the one block needs one worker only


def test_there_are_at_most_max_scoring_workers(checkpoint, tmp_path):
    (tmp_path / "begun").mkdir()
    predictor = BatchPredictor(checkpoint, Shift, folder=str(tmp_path / "begun"), expected=2)
    blocks = ray.data.from_pandas([pd.DataFrame({"id": np.arange(2)}) for _ in range(16)])
    rows = predictor.predict(blocks, batch_size=1, max_scoring_workers=2).take_all()
    assert len(rows) == 32
    batches = {(row["begin"], row["end"], row["pid"]) for row in rows}
    # Ray may end a worker that is idle, and start another one later: what counts is how many work at the same time.
    at_once = [{pid for begin, end, pid in batches if begin <= time < end} for time, _, _ in batches]
    assert max(map(len, at_once)) == 2  # grown from one, because work waited, and no further


# The checkpoint's way to the workers


def test_a_directory_checkpoint_arrives_as_its_own_class_when_its_folder_is_gone(
    make_checkpoint, tmp_path, ten, rows_of
):
    files = {"label.txt": "cat", "nested/deeper/label.txt": "below", "nested/empty.txt": "", ".hidden.txt": "too"}
    checkpoint = make_checkpoint(files, LabelledCheckpoint)
    checkpoint.colour = "black"
    predictor = BatchPredictor.from_checkpoint(checkpoint, FileReader)
    predictor.set_preprocessor(None)  # the checkpoint of Ray 2.6 would look for one in its folder
    shutil.rmtree(tmp_path / "model")
    rows = rows_of(predictor.predict(ten))
    assert set(column(rows, "texts")) == {repr(sorted(files.items()))}
    assert set(column(rows, "label")) == {"LabelledCheckpoint: black cat"}
    assert checkpoint.colour == "black"


@pytest.mark.skipif(installed.HAS_AIR, reason="Ray 2.6 packs links themselves")
def test_linked_and_empty_folders_arrive(tmp_path):
    (tmp_path / "step_3").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "step_3/label.txt").write_text("cat")
    (tmp_path / "best").symlink_to("step_3")
    (tmp_path / "step_3/up").symlink_to(tmp_path)  # a circle
    restored = CheckpointFiles.read(Checkpoint.from_directory(str(tmp_path))).restore()
    assert sorted(os.listdir(restored.path)) == ["best", "empty", "step_3"]
    assert Path(restored.path, "best/label.txt").read_text() == "cat"


def test_a_predictor_may_read_in_its_checkpoints_folder_later_and_the_callers_stays(
    make_checkpoint, ten, rows_of, tmp_path
):
    checkpoint = make_checkpoint({"label.txt": "cat"})
    path = checkpoint.path
    predictor = BatchPredictor.from_checkpoint(checkpoint, PathReader)
    assert set(column(rows_of(predictor.predict(ten)), "text")) == {"cat"}
    assert checkpoint.path == path
    assert (tmp_path / "model/label.txt").read_text() == "cat"
