"""`BatchPredictor` as Ray 2.6.3 had it, which Ray removed in 2.7, for newer versions of Ray Data."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import ray
from ray.data import ActorPoolStrategy, Dataset

from ray_segformer.air._checkpoint_files import CheckpointFiles
from ray_segformer.air._predict_arguments import check_predict_arguments
from ray_segformer.air._predictor import DataBatch, pandas_udf_predictor
from ray_segformer.air._predictor import Predictor as OurPredictor
from ray_segformer.air._retries import BatchAttempts, load_with_retries
from ray_segformer.air._writable import rows_from_0, writable
from ray_segformer.air.installed import BatchFormat, Checkpoint, Predictor, Preprocessor

logger = logging.getLogger(__name__)


class BatchPredictor:
    """Scores a `Dataset` with a `Predictor` class in a pool of actors. CPU tasks preprocess the dataset before.

        predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor)
        masks = predictor.predict(read_images("photos/"), batch_size=16, max_scoring_workers=4)

    It mirrors `ray.train.batch_predictor.BatchPredictor` of Ray 2.6.3, without `DatasetPipeline`. As there, the driver
    reads the checkpoint's content and puts it into Ray's object store. A worker node needs no access to the place that
    the checkpoint came from. These features are new:

    * CPUs: if the scoring workers would reserve every CPU of the cluster, the stages before them would wait forever.
      Then each worker reserves less, and a warning says so.
    * Retries: a worker whose process is killed, or whose node is lost, is replaced, and its batches are scored again.
      The job ends if a worker dies three times in a row while it loads the model, and if one batch ends six processes.
      If loading raises an error that may be temporary (an OSError or RuntimeError, for example), it is tried three
      times. Any other error ends the job at once.
    * `predictor_cls.prepare_checkpoint(checkpoint, **predictor_kwargs)`, an optional classmethod, is called once, on
      the driver. Its result is sent to the workers instead of the checkpoint, and the result's `get_preprocessor()` is
      the CPU stage. This works for a plain `ray.train.Checkpoint` too, which has no preprocessor.
    * The predictor's own preprocessor: Ray's class removes it, because the checkpoint's has run. If there is no other
      preprocessor, ours raises a ValueError in the workers, unless `set_preprocessor(None)` was called.
    * `pieces(batch)`, an optional method of a predictor, splits a preprocessed batch into parts. They are predicted one
      after the other, so that their predictions need not be in memory together.
    * `to_block(batch)`, an optional method of a predictor, converts predictions to a block of the returned dataset.
    * `writes_into_batches`, an optional attribute of a predictor: if False, it gets Ray Data's read-only views. By
      default it gets copies, which it may write into, as on Ray 2.6.

    Args:
        checkpoint: what `predictor_cls.from_checkpoint` loads.
        predictor_cls: a subclass of `Predictor`. Anything that is not a class raises a TypeError.
        predictor_kwargs: further arguments for `predictor_cls.from_checkpoint`.
    """

    def __init__(self, checkpoint: Checkpoint, predictor_cls: type[Any], **predictor_kwargs: Any) -> None:
        if not isinstance(predictor_cls, type):
            raise TypeError(f"predictor_cls is a class, such as SegformerPredictor, not {predictor_cls!r}")
        if hasattr(predictor_cls, "prepare_checkpoint"):
            checkpoint = predictor_cls.prepare_checkpoint(checkpoint, **predictor_kwargs)
            self._checkpoint_ref = ray.put(checkpoint)
        else:
            self._checkpoint_ref = ray.put(CheckpointFiles.read(checkpoint))
        self._checkpoint = checkpoint
        self._predictor_cls = predictor_cls
        self._predictor_kwargs = predictor_kwargs
        self._override_preprocessor: Preprocessor | None = None
        self._override_preprocessor_set = False

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(checkpoint={self._checkpoint}, predictor_cls={self._predictor_cls.__name__})"

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, predictor_cls: type[Any], **kwargs: Any) -> BatchPredictor:
        """Make a batch predictor, as the constructor does. `kwargs` go to `predictor_cls.from_checkpoint`."""
        return cls(checkpoint=checkpoint, predictor_cls=predictor_cls, **kwargs)

    @classmethod
    def from_pandas_udf(cls, pandas_udf: Callable[..., pd.DataFrame]) -> BatchPredictor:
        """Make a batch predictor without a model: `pandas_udf(df, **predict_kwargs)` predicts every batch."""
        predictor_cls = pandas_udf_predictor(pandas_udf, Predictor or OurPredictor)
        return cls(checkpoint=None, predictor_cls=predictor_cls)

    def get_preprocessor(self) -> Preprocessor | None:
        """Return the preprocessor that `set_preprocessor` got, else the checkpoint's, else None."""
        if self._override_preprocessor_set:
            return self._override_preprocessor
        get_preprocessor = getattr(self._checkpoint, "get_preprocessor", None)  # ray.train.Checkpoint has none today
        return get_preprocessor() if get_preprocessor else None

    def set_preprocessor(self, preprocessor: Preprocessor | None) -> None:
        """Use `preprocessor` instead of the checkpoint's. None means no preprocessing."""
        self._override_preprocessor = preprocessor
        self._override_preprocessor_set = True

    def predict(
        self,
        data: Dataset,
        *,
        feature_columns: list[str] | None = None,
        keep_columns: list[str] | None = None,
        batch_size: int = 4096,
        min_scoring_workers: int = 1,
        max_scoring_workers: int | None = None,
        num_cpus_per_worker: float | None = None,
        num_gpus_per_worker: float | None = None,
        separate_gpu_stage: bool = True,
        ray_remote_args: dict[str, Any] | None = None,
        **predict_kwargs: Any,
    ) -> Dataset:
        """Score a dataset lazily. The work starts when the returned dataset is consumed.

        Args:
            data: the dataset to score.
            feature_columns: columns of the preprocessed dataset that the predictor gets; None for all.
            keep_columns: columns of the preprocessed dataset to add to the predictions.
            batch_size: rows in a batch; None for whole blocks.
            min_scoring_workers, max_scoring_workers: the actors at the start, and at most (None: all that have room).
            num_cpus_per_worker: CPUs that each actor reserves. The default is 1, or 0 with GPUs.
            num_gpus_per_worker: GPUs that each actor reserves; 0 by default. If it is positive and
                `predictor_cls.from_checkpoint` has a parameter `use_gpu`, that defaults to True. If the cluster has
                too few, a warning is logged, and the actors wait for them, as everything on Ray does.
            separate_gpu_stage: whether CPU tasks preprocess if actors score on GPUs. If False, the actors do.
            ray_remote_args: further resource arguments for the actors.
            predict_kwargs: arguments for the predictor's `predict`.

        Returns:
            A dataset with the predictions and the kept columns.

        Raises:
            TypeError: `data`, a list of columns or a count is of another type, or an argument is unknown.
            ValueError: a number is too small. On execution: columns are named, but a batch is a bare array; or the
                predictions already have a column of `keep_columns` (Ray 2.6.3 replaces it).
            KeyError: on execution, if one of `keep_columns` is not in the preprocessed batch.
        """
        check_predict_arguments(
            data,
            {"feature_columns": feature_columns, "keep_columns": keep_columns},
            batch_size,
            (min_scoring_workers, max_scoring_workers),
            {"num_cpus_per_worker": num_cpus_per_worker, "num_gpus_per_worker": num_gpus_per_worker},
            (self._predictor_cls, predict_kwargs),
        )
        num_gpus = num_gpus_per_worker or 0
        num_cpus = (0 if num_gpus > 0 else 1) if num_cpus_per_worker is None else num_cpus_per_worker
        gpus = ray.cluster_resources().get("GPU", 0) if num_gpus > 0 else 0  # type: ignore[no-untyped-call]
        if num_gpus > gpus:  # not an error: an autoscaler may add nodes
            logger.warning(
                "num_gpus_per_worker=%g: the cluster has %g GPU(s). The scoring workers wait until it has more. "
                "Without num_gpus_per_worker, they score on CPUs.",
                num_gpus, gpus,
            )  # fmt: skip

        predictor_kwargs = dict(self._predictor_kwargs)
        if num_gpus > 0 and "use_gpu" in inspect.signature(self._predictor_cls.from_checkpoint).parameters:
            predictor_kwargs.setdefault("use_gpu", True)

        preprocessor = self.get_preprocessor()
        batch_format = self._predictor_cls._batch_format_to_use()
        in_actor = None
        if preprocessor is not None and not separate_gpu_stage and num_gpus > 0:
            in_actor = preprocessor
            is_numpy = preprocessor._determine_transform_to_use() == BatchFormat.NUMPY
            batch_format = BatchFormat.NUMPY if is_numpy else BatchFormat.PANDAS  # as on Ray 2.6; some ask for Arrow

        remote_args = dict(ray_remote_args or {}, num_gpus=num_gpus)
        if preprocessor is not None and in_actor is None:
            data = preprocessor.transform(data)
            # Ray Data fuses a stage of tasks with the actors after it if both have the same remote arguments. An
            # explicit default makes them differ, so that tasks preprocess while the actors score, on CPUs too.
            remote_args.setdefault("runtime_env", {})
        remote_args["num_cpus"] = _cpus_that_leave_room(num_cpus, max(min_scoring_workers, max_scoring_workers or 0))
        return data.map_batches(
            ScoringWorker,
            fn_constructor_kwargs={
                "checkpoint_ref": [self._checkpoint_ref],  # In a list, because Ray passes a bare one by value.
                "predictor_cls": self._predictor_cls,
                "predictor_kwargs": predictor_kwargs,
                "preprocessor": in_actor,
                "is_preprocessed": preprocessor is not None or self._override_preprocessor_set,
                "feature_columns": feature_columns,
                "keep_columns": keep_columns,
                "cast_tensor_columns": ray.data.DataContext.get_current().enable_tensor_extension_casting,
            },
            fn_kwargs=predict_kwargs,
            compute=ActorPoolStrategy(min_size=min_scoring_workers, max_size=max_scoring_workers),
            batch_format=BatchFormat(batch_format).value,
            batch_size=batch_size and int(batch_size),  # Ray Data never ends with an unsigned number of NumPy
            **remote_args,
        )


class ScoringWorker:
    """The class that the actors of `BatchPredictor.predict` run."""

    def __init__(
        self,
        checkpoint_ref: list[ray.ObjectRef[Any]],
        predictor_cls: type[Any],
        predictor_kwargs: dict[str, Any],
        preprocessor: Preprocessor | None,
        is_preprocessed: bool,
        feature_columns: list[str] | None,
        keep_columns: list[str] | None,
        cast_tensor_columns: bool,
    ) -> None:
        def load() -> tuple[Any, Any]:
            checkpoint = ray.get(checkpoint_ref[0])
            if isinstance(checkpoint, CheckpointFiles):
                checkpoint = checkpoint.restore()
            predictor = predictor_cls.from_checkpoint(checkpoint, **predictor_kwargs)
            if predictor.get_preprocessor() is not None and not is_preprocessed:
                raise ValueError(
                    f"{predictor_cls.__name__} has a preprocessor of its own, which BatchPredictor does not run; give "
                    "it to `batch_predictor.set_preprocessor(...)`, or None to leave it out"
                )
            return checkpoint, predictor

        # The checkpoint is kept because its folder is removed with it, and the predictor may read there later.
        self._checkpoint, self._predictor = load_with_retries(load)
        self._batch_attempts = BatchAttempts()
        if cast_tensor_columns:
            self._predictor._set_cast_tensor_columns()
        # Columns are selected after preprocessing, so the predictor itself must not preprocess.
        self._predictor.set_preprocessor(None)
        self._preprocessor = preprocessor
        self._feature_columns = feature_columns
        self._keep_columns = keep_columns

    def __call__(self, batch: DataBatch, /, **predict_kwargs: Any) -> Iterator[DataBatch]:
        """Score one batch: preprocess it if this is the actor's task, select columns, predict, add kept columns."""
        batch = rows_from_0(batch)
        if self._preprocessor is not None:
            batch = rows_from_0(self._preprocessor.transform_batch(batch))
        if getattr(self._predictor, "writes_into_batches", True):
            batch = writable(batch)
        for option, columns in (("feature_columns", self._feature_columns), ("keep_columns", self._keep_columns)):
            if columns and isinstance(batch, np.ndarray):
                raise ValueError(
                    f"Column name(s) {columns} should not be provided as {option} "
                    "for prediction input data type of ``numpy.ndarray``"
                )
        pieces = getattr(self._predictor, "pieces", None)
        for piece in pieces(batch) if pieces else (batch,):
            with self._batch_attempts.attempt():
                predictions = self._score(piece, predict_kwargs)
            yield predictions

    def _score(self, batch: Any, predict_kwargs: dict[str, Any]) -> Any:
        predictions = self._predictor.predict(self._select(batch), **predict_kwargs)
        for column in self._keep_columns or []:
            if column not in batch:
                raise KeyError(
                    f"keep_columns names {column!r}, but the preprocessed batch has only the columns {list(batch)}"
                )
            if column not in predictions:
                predictions[column] = batch[column]
            elif column != "error":  # that of the predictions has those of earlier stages, too
                raise ValueError(f"keep_columns names {column!r}, as the predictions have; rename it in the dataset")
        to_block = getattr(self._predictor, "to_block", None)
        return to_block(predictions) if to_block else predictions

    def _select(self, batch: Any) -> Any:
        if not self._feature_columns:
            return batch
        if isinstance(batch, pd.DataFrame):
            return batch[self._feature_columns]
        return {name: column for name, column in batch.items() if name in self._feature_columns}


def _cpus_that_leave_room(num_cpus: float, workers: int) -> float:
    """Return how many CPUs each of `workers` actors may reserve, so that a one-CPU task still fits on some node.

    An actor holds its CPUs while it waits for input. If the actors hold all CPUs, the tasks that make the input never
    start, and Ray Data waits forever.
    """
    nodes: list[float] = [
        node["Resources"].get("CPU", 0)
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    nodes = [cpus for cpus in nodes if cpus >= 1]
    if num_cpus == 0 or not nodes:
        return num_cpus
    # A node is full if less than one CPU is left. The sum is the number of actors that fill all nodes.
    if workers < sum(math.floor((cpus - 1) / num_cpus) + 1 for cpus in nodes):
        return num_cpus
    room = sum(nodes) - len(nodes)
    reduced = math.floor(room / workers * 100) / 100
    logger.warning(
        "%d scoring worker(s) of %g CPU(s) each would reserve all %g CPU(s) of the cluster. The tasks that read and "
        "preprocess their input would wait forever. To make room, each reserves %g CPU(s) instead. Pass a smaller "
        "max_scoring_workers or num_cpus_per_worker to avoid this warning.",
        workers, num_cpus, sum(nodes), reduced,
    )  # fmt: skip
    return reduced
