"""`Predictor` as Ray 2.6.3 had it: which types go in, what the subclass sees, what comes out."""

import inspect
import pickle
from collections import OrderedDict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from ray import cloudpickle

from ray_segformer import BatchMapper, Predictor
from ray_segformer.air import BatchFormat, PredictorNotSerializableException, installed

KEYWORD, POSITIONAL = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_OR_KEYWORD


class Toy(Predictor):
    """A predictor that remembers what it was given. Its subclasses implement a format or two."""

    seen = None
    seen_kwargs = None

    @classmethod
    def from_checkpoint(cls, checkpoint, **kwargs):
        return cls(**kwargs)


class PandasToy(Toy):
    def _predict_pandas(self, data, **kwargs):
        self.seen, self.seen_kwargs = data, kwargs
        return pd.DataFrame({name: data[name] * 2 for name in data})


class NumpyToy(Toy):
    def _predict_numpy(self, data, **kwargs):
        self.seen, self.seen_kwargs = data, kwargs
        if isinstance(data, np.ndarray):
            return data * 2
        return {name: column * 2 for name, column in data.items()}


class BothToy(PandasToy, NumpyToy):
    pass


class BothPreferringNumpyToy(BothToy):
    @classmethod
    def preferred_batch_format(cls):
        return BatchFormat.NUMPY


def increase(batch):
    return batch + 1


def to_frame(batch):
    return pd.DataFrame({"made": batch["x"] + 1, "other": 0})


def to_arrays(batch):
    return {"made": batch["x"] + 1, "other": batch["x"]}


X = np.array([1, 2, 3])
TWO_COLUMNS = {"x": X, "y": X * 10}


# What may go in


@pytest.mark.parametrize(
    "data", [OrderedDict(x=X), [1, 2, 3], pd.Series([1]), None, "text", X.view(np.ma.MaskedArray), pd.Index([1])]
)
def test_other_types_are_refused_by_a_message_that_names_the_supported_ones(data):
    with pytest.raises(RuntimeError, match=r"(?s)Invalid input data type of .*supported types") as caught:
        PandasToy().predict(data)
    message = str(caught.value)
    assert str(type(data)) in message
    assert all(str(supported) in message for supported in (np.ndarray, dict, pd.DataFrame))


def test_a_subclass_of_a_supported_type_is_refused_before_anything_is_computed():
    class Frame(pd.DataFrame):
        pass

    calls = []
    predictor = PandasToy(BatchMapper(lambda batch: calls.append(batch) or batch, "pandas"))
    with pytest.raises(RuntimeError, match="Invalid input data type"):
        predictor.predict(Frame({"x": X}))
    assert calls == []
    assert predictor.seen is None


@pytest.mark.parametrize("toy", [PandasToy, NumpyToy])
def test_a_dict_value_that_is_no_array_is_refused(toy):
    with pytest.raises(ValueError, match=r"(?s)must be of type np\.ndarray.*list.*wrong"):
        toy().predict({"x": X, "wrong": [1, 2, 3]})


# What the subclass sees


def test_pandas_sees_an_array_as_the_column_value():
    predictor = PandasToy()
    predictor.predict(X)
    assert list(predictor.seen.columns) == ["__value__"]
    assert predictor.seen["__value__"].tolist() == [1, 2, 3]


def test_pandas_sees_the_rows_of_a_matrix_as_cells():
    predictor = PandasToy()
    predictor.predict(np.arange(6).reshape(3, 2))
    assert [cell.tolist() for cell in predictor.seen["__value__"]] == [[0, 1], [2, 3], [4, 5]]


def test_pandas_sees_a_dict_as_a_frame():
    predictor = PandasToy()
    predictor.predict(TWO_COLUMNS)
    pd.testing.assert_frame_equal(predictor.seen, pd.DataFrame(TWO_COLUMNS))


def test_numpy_sees_one_column_of_a_frame_as_a_bare_array():
    predictor = NumpyToy()
    predictor.predict(pd.DataFrame({"x": X}))
    assert type(predictor.seen) is np.ndarray
    assert predictor.seen.tolist() == [1, 2, 3]


def test_numpy_sees_several_columns_of_a_frame_as_a_dict():
    predictor = NumpyToy()
    predictor.predict(pd.DataFrame(TWO_COLUMNS))
    assert type(predictor.seen) is dict
    assert {name: column.tolist() for name, column in predictor.seen.items()} == {"x": [1, 2, 3], "y": [10, 20, 30]}


def test_numpy_sees_a_dict_of_one_column_as_a_dict():
    predictor = NumpyToy()
    predictor.predict({"x": X})
    assert type(predictor.seen) is dict
    assert predictor.seen["x"] is X


@pytest.mark.parametrize(("toy", "data"), [(NumpyToy, X), (PandasToy, pd.DataFrame({"x": X}))])
def test_data_in_the_right_format_is_handed_over_as_it_is(toy, data):
    predictor = toy()
    predictor.predict(data)
    assert predictor.seen is data


def test_keyword_arguments_reach_both_methods():
    for predictor in PandasToy(), NumpyToy():
        predictor.predict(X, threshold=0.5, classes=[1])
        assert predictor.seen_kwargs == {"threshold": 0.5, "classes": [1]}


# What comes out


@pytest.mark.parametrize("toy", [PandasToy, NumpyToy, BothToy, BothPreferringNumpyToy])
def test_a_frame_for_a_frame(toy):
    result = toy().predict(pd.DataFrame(TWO_COLUMNS))
    pd.testing.assert_frame_equal(result, pd.DataFrame({"x": X * 2, "y": X * 20}))


@pytest.mark.parametrize("toy", [PandasToy, NumpyToy, BothToy, BothPreferringNumpyToy])
def test_a_dict_for_a_dict(toy):
    result = toy().predict(TWO_COLUMNS)
    assert type(result) is dict
    assert {name: column.tolist() for name, column in result.items()} == {"x": [2, 4, 6], "y": [20, 40, 60]}
    assert all(type(column) is np.ndarray for column in result.values())


@pytest.mark.parametrize("toy", [PandasToy, NumpyToy])
def test_an_array_for_an_array(toy):
    result = toy().predict(X)
    assert type(result) is np.ndarray
    assert result.tolist() == [2, 4, 6]


def test_one_column_made_by_pandas_is_an_array_even_for_a_dict():
    result = PandasToy().predict({"x": X})
    assert type(result) is np.ndarray
    assert result.tolist() == [2, 4, 6]


def test_an_array_made_by_numpy_is_the_column_value_of_a_frame():
    result = NumpyToy().predict(pd.DataFrame({"x": X}))
    pd.testing.assert_frame_equal(result, pd.DataFrame({"__value__": X * 2}))


@pytest.mark.parametrize("to_other_type", [BatchMapper(to_frame, "pandas"), BatchMapper(to_arrays, "numpy")])
@pytest.mark.parametrize("toy", [PandasToy, NumpyToy])
def test_the_result_has_the_callers_type_whatever_the_preprocessor_makes(toy, to_other_type):
    predictor = toy(to_other_type)
    from_dict = predictor.predict({"x": X, "dropped": X})
    assert type(from_dict) is dict
    assert from_dict["made"].tolist() == [4, 6, 8]
    from_frame = predictor.predict(pd.DataFrame({"x": X, "dropped": X}))
    assert type(from_frame) is pd.DataFrame
    assert from_frame["made"].tolist() == [4, 6, 8]


@pytest.mark.parametrize(
    ("method", "data"),
    [("_predict_numpy", {"x": X}), ("_predict_numpy", X), ("_predict_pandas", pd.DataFrame({"x": X}))],
)
def test_a_result_in_the_callers_format_is_not_looked_at(method, data):
    made = {"scores": [0.5, 0.25], "note": "not an array"}
    toy = type("AnythingToy", (Toy,), {method: lambda self, data: made})
    assert toy().predict(data) is made


@pytest.mark.parametrize(("toy", "data"), [(PandasToy, X), (NumpyToy, pd.DataFrame({"x": X}))])
def test_a_result_that_must_be_converted_and_cannot_is_refused(toy, data):
    broken = type(
        "BrokenToy", (toy,), {method: lambda self, data: [1, 2] for method in vars(toy) if "predict" in method}
    )
    with pytest.raises(ValueError, match="Received data of type"):
        broken().predict(data)


# Which method is used


@pytest.mark.parametrize(
    ("toy", "expected"),
    [
        (PandasToy, BatchFormat.PANDAS),
        (NumpyToy, BatchFormat.NUMPY),
        (BothToy, BatchFormat.PANDAS),
        (BothPreferringNumpyToy, BatchFormat.NUMPY),
    ],
)
def test_the_implemented_method_is_used_and_of_two_the_preferred(toy, expected):
    assert toy._batch_format_to_use() == expected
    predictor = toy()
    predictor.predict({"x": X, "y": X})
    assert type(predictor.seen) is (pd.DataFrame if expected == BatchFormat.PANDAS else dict)


def test_the_preferred_format_is_pandas_and_matters_only_with_both():
    assert Toy.preferred_batch_format() == BatchFormat.PANDAS
    assert NumpyToy.preferred_batch_format() == BatchFormat.PANDAS


def test_neither_method_is_an_error_that_names_the_class():
    with pytest.raises(NotImplementedError, match=r"Predictor Toy must implement at least one"):
        Toy().predict(X)
    with pytest.raises(NotImplementedError, match=r"Predictor Toy must implement at least one"):
        Toy._batch_format_to_use()
    for method in "_predict_pandas", "_predict_numpy":
        with pytest.raises(NotImplementedError):
            getattr(Toy(), method)(X)


# Construction


def test_the_base_class_and_one_without_from_checkpoint_cannot_be_instantiated():
    class Forgetful(Predictor):
        def _predict_numpy(self, data):
            return data

    with pytest.raises(TypeError, match="abstract"):
        Predictor()
    with pytest.raises(TypeError, match=r"abstract.*from_checkpoint"):
        Forgetful()


def test_from_checkpoint_is_a_classmethod_that_the_base_does_not_implement(checkpoint):
    assert isinstance(inspect.getattr_static(Predictor, "from_checkpoint"), classmethod)
    with pytest.raises(NotImplementedError):
        Predictor.from_checkpoint(checkpoint)
    assert type(PandasToy.from_checkpoint(checkpoint)) is PandasToy


def test_a_subclass_that_never_called_the_base_constructor_says_so():
    class Hasty(NumpyToy):
        def __init__(self):
            pass

    with pytest.raises(NotImplementedError, match=r"must call Predictor\.__init__\(preprocessor\)"):
        Hasty().predict(X)
    with pytest.raises(NotImplementedError, match=r"must call Predictor\.__init__\(preprocessor\)"):
        Hasty().predict([1])  # before the type is looked at


def test_the_signatures_are_those_of_ray_2_6_3():
    def parameters(method):
        found = [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
        # Ray adds it to the methods of a class that became an actor, and to those that the class inherited.
        return [parameter for parameter in found if parameter[0] != "_ray_trace_ctx"]

    required = inspect.Parameter.empty
    assert parameters(Predictor.__init__) == [("self", POSITIONAL, required), ("preprocessor", POSITIONAL, None)]
    assert parameters(Predictor.from_checkpoint) == [
        ("checkpoint", POSITIONAL, required),
        ("kwargs", KEYWORD, required),
    ]
    assert parameters(Predictor.from_pandas_udf) == [("pandas_udf", POSITIONAL, required)]
    assert parameters(Predictor.get_preprocessor) == [("self", POSITIONAL, required)]
    assert parameters(Predictor.set_preprocessor) == [
        ("self", POSITIONAL, required),
        ("preprocessor", POSITIONAL, required),
    ]
    assert parameters(Predictor.preferred_batch_format) == []
    for method in Predictor.predict, Predictor._predict_pandas, Predictor._predict_numpy:
        assert parameters(method) == [
            ("self", POSITIONAL, required),
            ("data", POSITIONAL, required),
            ("kwargs", KEYWORD, required),
        ]


# The preprocessor


def test_the_preprocessor_is_applied_first():
    predictor = NumpyToy(BatchMapper(increase, "numpy"))
    assert predictor.predict(X).tolist() == [4, 6, 8]
    assert predictor.seen.tolist() == [2, 3, 4]


def test_the_preprocessor_can_be_read_and_replaced():
    first, second = BatchMapper(increase, "numpy"), BatchMapper(increase, "pandas")
    predictor = NumpyToy(preprocessor=first)
    assert predictor.get_preprocessor() is first
    predictor.set_preprocessor(second)
    assert predictor.get_preprocessor() is second
    predictor.set_preprocessor(None)
    assert predictor.get_preprocessor() is None
    assert predictor.predict(X).tolist() == [2, 4, 6]
    assert NumpyToy().get_preprocessor() is None


# Travelling


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_an_instance_refuses_to_be_pickled(dumps):
    with pytest.raises(PredictorNotSerializableException, match=r"not serializable.*Predictor\.from_checkpoint"):
        dumps(NumpyToy())


def test_a_class_can_be_pickled():
    class Local(NumpyToy):
        pass

    copy = cloudpickle.loads(cloudpickle.dumps(Local))
    assert copy is not NumpyToy
    assert issubclass(copy, Predictor)
    assert copy().predict(X).tolist() == [2, 4, 6]


# A predictor out of a function


def test_from_pandas_udf_predicts_with_the_function():
    def scale(frame, factor=1):
        return pd.DataFrame({"scaled": frame["x"] * factor, "rows": len(frame)})

    predictor = Predictor.from_pandas_udf(scale)
    assert isinstance(predictor, Predictor)
    assert predictor.get_preprocessor() is None
    result = predictor.predict({"x": X}, factor=3)
    assert result["scaled"].tolist() == [3, 6, 9]
    assert result["rows"].tolist() == [3, 3, 3]
    assert predictor.predict(pd.DataFrame({"x": X}))["scaled"].tolist() == [1, 2, 3]


# Beyond Ray 2.6.3


@pytest.mark.skipif(installed.Predictor is not None, reason="Ray's own Predictor takes no Arrow tables")
@pytest.mark.parametrize("toy", [PandasToy, NumpyToy])
def test_a_table_for_a_table(toy):
    result = toy().predict(pa.table({"x": X, "y": X * 10}))
    assert type(result) is pa.Table
    assert result.to_pydict() == {"x": [2, 4, 6], "y": [20, 40, 60]}


@pytest.mark.skipif(installed.Predictor is not None, reason="Ray's own Predictor takes no Arrow tables")
def test_a_table_that_the_preprocessor_made_an_array_comes_back_as_the_column_value():
    predictor = NumpyToy(BatchMapper(lambda batch: batch["x"], "numpy"))
    assert predictor.predict(pa.table({"x": X})).to_pydict() == {"__value__": [2, 4, 6]}
