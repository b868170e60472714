"""Checks the arguments of `BatchPredictor.predict` early. Ray finds wrong ones in a worker, or never."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from numbers import Integral
from typing import Any

from ray.data import Dataset


def check_predict_arguments(
    data: Any,
    columns: dict[str, list[str] | None],
    batch_size: Any,
    workers: tuple[int, int | None],
    resources: dict[str, float | None],
    prediction: tuple[type[Any], Iterable[str]],
) -> None:
    """Check arguments of `BatchPredictor.predict`.

    Args:
        data, batch_size: as there.
        columns: lists of columns by the names of the arguments.
        workers: `min_scoring_workers` and `max_scoring_workers`.
        resources: numbers of CPUs and GPUs by the names of the arguments.
        prediction: the class of the predictor, and the names of the keyword arguments that its `predict` is to get.

    Raises:
        TypeError: `data` is not a `Dataset`, columns are one name and not a list, a count is not an integer, or the
            predictor's `predict` does not take an argument.
        ValueError: a number is too small, or there are more workers at the start than at most.
    """
    if not isinstance(data, Dataset):
        raise TypeError(f"data must be a Dataset, such as ray.data.read_images(...) returns, not {type(data).__name__}")
    for option, names in columns.items():
        if isinstance(names, str):
            raise TypeError(f"{option} is a list of names, not {names!r}")
    least, most = workers
    numbers = {"batch_size": batch_size, "min_scoring_workers": least, "max_scoring_workers": most}
    for option, number in numbers.items():
        if number is None:  # whole blocks; as many workers as there is room for
            continue
        if isinstance(number, bool) or not isinstance(number, Integral):
            raise TypeError(f"{option} is a whole number, not {number!r}")
        if number < 1:
            raise ValueError(f"{option} is at least 1, not {number}")
    if most is not None and most < least:
        raise ValueError(f"max_scoring_workers ({most}) is less than min_scoring_workers ({least})")
    for option, amount in resources.items():
        if (amount or 0) < 0:  # Ray runs actors of -1 CPU
            raise ValueError(f"{option} is at least 0, not {amount}")
    _check_keywords(*prediction)


def _check_keywords(predictor_cls: type[Any], names: Iterable[str]) -> None:
    """Check that `predictor_cls.predict` takes keyword arguments of these names. With `**kwargs`, it takes all."""
    # Without those of a wrapped function: a decorator may take more.
    parameters = inspect.signature(predictor_cls.predict, follow_wrapped=False).parameters.values()
    taken = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [name for name in names if not takes_all and name not in taken]
    if unknown:
        predictor = predictor_cls.__name__
        raise TypeError(
            f"neither BatchPredictor.predict nor {predictor}.predict takes {', '.join(unknown)}; options of the "
            f"predictor go to BatchPredictor.from_checkpoint(checkpoint, {predictor}, ...)"
        )
