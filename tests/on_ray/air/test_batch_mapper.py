"""`BatchMapper` as Ray 2.6.3 had it: any function of a batch as a preprocessor."""

import functools
import inspect
import sys
from collections import UserDict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
from ray import cloudpickle

from ray_segformer import BatchMapper
from ray_segformer.air import BatchFormat, Preprocessor, installed

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

FORMATS = ["pandas", "numpy"]
X = np.array([1, 2, 3])


def double(batch):
    """For any batch."""
    return batch * 2 if isinstance(batch, (np.ndarray, pd.DataFrame)) else {name: batch[name] * 2 for name in batch}


def describe(batch):
    """The rows and the type of a batch, as columns."""
    columns = {"rows": np.full(len(batch["id"]), len(batch["id"])), "id": batch["id"]}
    columns["type"] = np.array([type(batch).__name__] * len(batch["id"]))
    return pd.DataFrame(columns) if isinstance(batch, pd.DataFrame) else columns


def double_in_place(batch):
    """Writes into the column `x` of a dict or a frame."""
    batch["x"] *= 2
    return batch


def blank_first_row(batch):
    """Writes into the first row of the arrays of a dict."""
    batch["x"][0] = -1
    return batch


def blank_small(frame):
    """Writes into some rows of a frame."""
    frame.loc[frame["x"] < 3, "x"] = -1
    return frame


def increase_cells(frame):
    """Writes into the arrays inside of a frame's cells."""
    for cell in frame["x"]:
        cell += 1
    return frame


def values(dataset, name="x"):
    """A column of a dataset as sorted lists or numbers: Ray keeps no order."""
    return sorted(np.asarray(row[name]).tolist() for row in dataset.take_all())


def arrow_numbers(rows=6):
    return ray.data.from_arrow(pa.table({"id": np.arange(rows), "x": np.arange(rows)}))


def pandas_numbers():
    return ray.data.from_pandas(pd.DataFrame({"id": np.arange(6), "x": np.arange(6)}))


def tensors():
    """A column of arrays, in the object store."""
    matrices = ray.data.from_numpy(np.arange(12).reshape(6, 2))
    return matrices.map_batches(lambda batch: {"x": batch["data"]}, batch_format="numpy").materialize()


def pandas_tensors():
    return ray.data.from_pandas(pd.DataFrame({"x": [np.array([i, i]) for i in range(6)]})).materialize()


# Construction


@pytest.mark.parametrize("batch_format", [None, "pyarrow", "arrow", BatchFormat.ARROW, "default", "NumPy", "", 1])
def test_other_batch_formats_are_refused(batch_format):
    with pytest.raises(ValueError, match="only supports 'pandas' or 'numpy' batch format"):
        BatchMapper(double, batch_format)


@pytest.mark.parametrize("batch_format", [*FORMATS, BatchFormat.PANDAS, BatchFormat.NUMPY])
def test_both_batch_formats_are_taken_as_text_and_as_enum(batch_format):
    mapper = BatchMapper(double, batch_format=batch_format, batch_size=8)
    assert mapper.batch_format == batch_format
    assert mapper.batch_size == 8
    assert mapper.fn is double
    assert mapper._determine_transform_to_use() == BatchFormat(batch_format)


def test_the_signature_is_that_of_ray_2_6_3():
    parameters = inspect.signature(BatchMapper).parameters.values()
    required, either = inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert [(p.name, p.kind, p.default) for p in parameters] == [
        ("fn", either, required),
        ("batch_format", either, required),
        ("batch_size", either, "default"),
    ]


def test_it_is_a_preprocessor_with_nothing_to_fit():
    mapper = BatchMapper(double, "numpy")
    assert isinstance(mapper, Preprocessor)
    assert mapper.fit_status() == Preprocessor.FitStatus.NOT_FITTABLE
    assert mapper.fit(arrow_numbers()) is mapper
    assert mapper.fit_status() == Preprocessor.FitStatus.NOT_FITTABLE
    assert values(mapper.fit_transform(arrow_numbers())) == [0, 2, 4, 6, 8, 10]


def test_the_repr_names_the_function():
    class Doubler:
        def __call__(self, batch):
            return double(batch)

        def __repr__(self):
            return "Doubler()"

    class OwnMapper(BatchMapper):
        pass

    partial = functools.partial(double)
    assert repr(BatchMapper(double, "numpy")) == "BatchMapper(fn=double)"
    assert repr(BatchMapper(lambda batch: batch, "numpy")) == "BatchMapper(fn=<lambda>)"
    assert repr(BatchMapper(Doubler(), "numpy")) == "BatchMapper(fn=Doubler())"
    assert repr(BatchMapper(partial, "numpy")) == f"BatchMapper(fn={partial})"
    assert repr(OwnMapper(double, "numpy")) == "OwnMapper(fn=double)"


def test_it_travels():
    factor = 3
    mapper = BatchMapper(lambda batch: batch * factor, "numpy", batch_size=None)
    copy = cloudpickle.loads(cloudpickle.dumps(mapper))
    assert copy.transform_batch(X).tolist() == [3, 6, 9]
    assert (copy.batch_format, copy.batch_size) == ("numpy", None)


# One batch


@pytest.mark.parametrize(
    ("batch_format", "batch", "seen", "column"),
    [
        ("pandas", pd.DataFrame({"x": X}), pd.DataFrame, "x"),
        ("pandas", {"x": X}, pd.DataFrame, "x"),
        ("pandas", {"x": X, "y": X}, pd.DataFrame, "x"),
        ("pandas", X, pd.DataFrame, "__value__"),
        ("pandas", pa.table({"x": X}), pd.DataFrame, "x"),
        ("numpy", pd.DataFrame({"x": X, "y": X}), dict, "x"),
        ("numpy", pd.DataFrame({"x": X}), np.ndarray, None),
        ("numpy", {"x": X}, dict, "x"),
        ("numpy", X, np.ndarray, None),
        ("numpy", pa.table({"x": X}), dict, "x"),
    ],
)
def test_a_batch_of_any_type_reaches_the_function_in_its_format(batch_format, batch, seen, column):
    given = []
    mapper = BatchMapper(lambda batch: given.append(batch) or double(batch), batch_format)
    result = mapper.transform_batch(batch)
    assert type(given[0]) is seen
    assert type(result) is seen  # what the function returns is not converted back
    assert list(given[0] if column is None else given[0][column]) == [1, 2, 3]
    assert list(result if column is None else result[column]) == [2, 4, 6]


@pytest.mark.parametrize("batch_format", FORMATS)
@pytest.mark.parametrize("batch", [[1, 2], (1, 2), None, "text", pd.Series([1]), 5])
def test_other_types_are_refused(batch_format, batch):
    with pytest.raises(ValueError, match=r"only implemented for Pandas.*Got"):
        BatchMapper(double, batch_format).transform_batch(batch)


@pytest.mark.parametrize("batch_format", FORMATS)
def test_a_dict_value_that_is_no_array_and_another_mapping_are_refused(batch_format):
    mapper = BatchMapper(double, batch_format)
    with pytest.raises(ValueError, match=r"(?s)must be of type np\.ndarray.*list"):
        mapper.transform_batch({"x": [1, 2]})
    with pytest.raises(ValueError, match="Received data of type"):
        mapper.transform_batch(UserDict(x=X))


def test_frames_with_odd_column_names_reach_the_function():
    mapper = BatchMapper(lambda frame: frame, "pandas")
    numbered = pd.DataFrame({0: ["a", "b"], 1: [np.arange(2), np.arange(3)]}, dtype=object, index=[7, 8])
    result = mapper.transform_batch(numbered)
    assert list(result.columns) == [0, 1]
    assert list(result.index) == [7, 8]
    assert result[0].tolist() == ["a", "b"]
    assert [cell.tolist() for cell in result[1]] == [[0, 1], [0, 1, 2]]
    twice = pd.DataFrame([["a", "b"], ["c", "d"]], columns=["x", "x"], dtype=object, index=[0, 0])
    pd.testing.assert_frame_equal(mapper.transform_batch(twice), twice)


# A dataset


@pytest.mark.parametrize("batch_format", FORMATS)
def test_a_dataset_is_transformed_in_the_format_asked_for(batch_format):
    result = BatchMapper(describe, batch_format).transform(arrow_numbers()).take_all()
    assert {row["type"] for row in result} == {"DataFrame" if batch_format == "pandas" else "dict"}
    assert sorted(row["id"] for row in result) == [0, 1, 2, 3, 4, 5]


def test_a_dataset_is_transformed_when_it_is_consumed(tmp_path):
    marker = str(tmp_path / "ran")

    def leave_marker(batch):
        open(marker, "w").close()
        return batch

    dataset = BatchMapper(leave_marker, "numpy").transform(arrow_numbers())
    assert not (tmp_path / "ran").exists()
    dataset.take_all()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("batch_format", FORMATS)
@pytest.mark.parametrize(
    ("options", "rows", "expected"),
    [
        ({"batch_size": 4}, 10, {4, 2}),
        ({"batch_size": None}, 5000, {5000}),
        ({}, 5000, {1024, 904}),
        ({"batch_size": "default"}, 5000, {1024, 904}),
    ],
)
def test_the_function_gets_at_most_batch_size_rows(batch_format, options, rows, expected):
    result = BatchMapper(describe, batch_format, **options).transform(arrow_numbers(rows)).to_pandas()
    assert len(result) == rows
    assert set(result["rows"]) == expected


# Functions that write into their batch


@pytest.mark.parametrize(
    ("function", "batch_format", "batch_size", "make_dataset", "expected"),
    [
        (double_in_place, "pandas", None, arrow_numbers, [0, 2, 4, 6, 8, 10]),
        (double_in_place, "pandas", 4, pandas_numbers, [0, 2, 4, 6, 8, 10]),
        (blank_small, "pandas", None, arrow_numbers, [-1, -1, -1, 3, 4, 5]),
        (blank_small, "pandas", 4, pandas_numbers, [-1, -1, -1, 3, 4, 5]),
        (double_in_place, "numpy", None, tensors, [[0, 2], [4, 6], [8, 10], [12, 14], [16, 18], [20, 22]]),
        (blank_first_row, "numpy", 6, tensors, [[-1, -1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]),
        (double_in_place, "pandas", None, tensors, [[0, 2], [4, 6], [8, 10], [12, 14], [16, 18], [20, 22]]),
    ],
)
def test_a_function_may_write_into_its_batch(function, batch_format, batch_size, make_dataset, expected):
    source = make_dataset().materialize()
    before = values(source)
    assert values(BatchMapper(function, batch_format, batch_size).transform(source)) == expected
    assert values(source) == before


def test_rows_of_a_dataset_count_from_0_whatever_the_index_of_its_frame():
    frame = pd.DataFrame({"x": [1, 2, 3]}, index=[2, 0, 1])
    mapper = BatchMapper(lambda df: df.assign(z=pd.Series(df["x"].to_numpy() * 10)), "pandas")
    rows = mapper.transform(ray.data.from_pandas(frame)).take_all()
    assert [(row["x"], row["z"]) for row in rows] == [(1, 10), (2, 20), (3, 30)]
    assert list(mapper.transform_batch(frame)["z"][:2]) == [30, 10]  # a batch of the user's own keeps its index


@pytest.mark.skipif(installed.HAS_AIR, reason="Ray 2.6's own class hands out read-only views here")
@pytest.mark.parametrize(
    ("function", "batch_format", "batch_size", "make_dataset", "expected"),
    [
        (double_in_place, "numpy", None, arrow_numbers, [0, 2, 4, 6, 8, 10]),
        (double_in_place, "numpy", 4, arrow_numbers, [0, 2, 4, 6, 8, 10]),
        (blank_first_row, "numpy", None, pandas_numbers, [-1, 1, 2, 3, 4, 5]),
        (double_in_place, "pandas", None, pandas_numbers, [0, 2, 4, 6, 8, 10]),
        (blank_small, "pandas", None, pandas_numbers, [-1, -1, -1, 3, 4, 5]),
        (blank_first_row, "numpy", None, pandas_tensors, [[-1, -1], [1, 1], [2, 2], [3, 3], [4, 4], [5, 5]]),
        (increase_cells, "pandas", None, tensors, [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]),
        (increase_cells, "pandas", None, pandas_tensors, [[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, 6]]),
    ],
)
def test_a_function_may_write_into_a_view_of_the_object_store(
    function, batch_format, batch_size, make_dataset, expected
):
    source = make_dataset().materialize()
    before = values(source)
    assert values(BatchMapper(function, batch_format, batch_size).transform(source)) == expected
    assert values(source) == before


@pytest.mark.skipif(installed.HAS_AIR, reason="Ray 2.6's own class hands read-only arrays on")
def test_a_function_may_write_into_a_read_only_batch_and_the_callers_stays():
    array = np.arange(4)
    array.setflags(write=False)
    ragged = np.empty(2, object)
    ragged[:] = [array, array[:2]]
    mapper = BatchMapper(double_in_place, "numpy")
    assert mapper.transform_batch({"x": array})["x"].tolist() == [0, 2, 4, 6]
    assert [cell.tolist() for cell in mapper.transform_batch({"x": ragged})["x"]] == [[0, 2, 4, 6], [0, 2]]
    cells = BatchMapper(increase_cells, "pandas").transform_batch(pd.DataFrame({"x": ragged}))["x"]
    assert [cell.tolist() for cell in cells] == [[1, 2, 3, 4], [1, 2]]
    assert array.tolist() == [0, 1, 2, 3]
