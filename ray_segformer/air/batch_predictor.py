"""`BatchPredictor`, which Ray removed in 2.7, as Ray 2.6.3 had it, for today's Ray Data."""

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

from ray_segformer.air.checkpoint_files import CheckpointFiles
from ray_segformer.air.installed import BatchFormat, Checkpoint, Predictor, Preprocessor
from ray_segformer.air.predictor import DataBatch, pandas_udf_predictor
from ray_segformer.air.predictor import Predictor as OurPredictor
from ray_segformer.air.retries import Attempts, start
from ray_segformer.air.writable import writable

logger = logging.getLogger(__name__)


class BatchPredictor:
    """Scores a `Dataset` with a `Predictor` class in a pool of actors, preprocessing in CPU tasks before.

        predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor)
        masks = predictor.predict(ray.data.read_images("photos/"), batch_size=16, max_scoring_workers=4)

    Mirrors `ray.train.batch_predictor.BatchPredictor` of Ray 2.6.3 without `DatasetPipeline`. As there, the
    checkpoint's content is read on the driver and travels through Ray's object store, so that a worker
    node needs no access to where it came from. Beyond it:

    * Scoring workers that would take every CPU of the cluster, on which the stages before them then wait for
      ever, reserve less, and a warning says so.
    * A predictor class may have a classmethod `prepare_checkpoint(checkpoint, **predictor_kwargs)`, called once
      on the driver: what it returns travels instead, and its `get_preprocessor()` is the CPU stage, also for a
      plain `ray.train.Checkpoint`, which knows no preprocessor.
    * A predictor may have a method `to_block(batch)`: what it returns is put in the dataset.
    * A worker whose process is killed, or whose node is lost, is replaced and its batches are scored again; what ends
      every process does not go on for ever. A model that raises while it is loaded ends the job at once with its own
      error, if that cannot be a moment's (an OSError or RuntimeError can, which is tried three times); so does a worker
      that died three times in a row while it loaded, and a batch that ended six processes.
    * A predictor may have a method `pieces(batch)`: the parts of a preprocessed batch that it gets one after the other,
      so that what it makes of them need not be in memory at once.
    * A predictor whose `writes_into_batches` is False gets Ray Data's read-only views; others get copies of them, which
      they may write into, as on Ray 2.6.

    Args:
        checkpoint: what `predictor_cls.from_checkpoint` loads.
        predictor_cls: a subclass of `Predictor`.
        predictor_kwargs: further arguments for `predictor_cls.from_checkpoint`.
    """

    def __init__(self, checkpoint: Checkpoint, predictor_cls: type[Any], **predictor_kwargs: Any):
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
        """The same as the constructor: `kwargs` go to `predictor_cls.from_checkpoint`."""
        return cls(checkpoint=checkpoint, predictor_cls=predictor_cls, **kwargs)

    @classmethod
    def from_pandas_udf(cls, pandas_udf: Callable[..., pd.DataFrame]) -> BatchPredictor:
        """A batch predictor without a model: `pandas_udf(df, **predict_kwargs)` predicts every batch."""
        predictor_cls = pandas_udf_predictor(pandas_udf, Predictor or OurPredictor)
        return cls(checkpoint=None, predictor_cls=predictor_cls)

    def get_preprocessor(self) -> Preprocessor | None:
        """What `set_preprocessor` was given, else the checkpoint's own preprocessor, else None."""
        if self._override_preprocessor_set:
            return self._override_preprocessor
        # A plain ray.train.Checkpoint of Ray 2.7 and newer has no such method.
        get_preprocessor = getattr(self._checkpoint, "get_preprocessor", None)
        return get_preprocessor() if get_preprocessor else None

    def set_preprocessor(self, preprocessor: Preprocessor | None) -> None:
        """Use `preprocessor` instead of the checkpoint's; None for none."""
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
        """Score a dataset, lazily: consuming the returned one runs it.

        Args:
            data: the dataset to score.
            feature_columns: columns of the preprocessed dataset handed to the predictor; None for all.
            keep_columns: columns of the preprocessed dataset to put beside the predictions.
            batch_size: rows scored at once.
            min_scoring_workers: actors at the start.
            max_scoring_workers: actors at most; None for as many as the cluster has room for.
            num_cpus_per_worker: CPUs an actor reserves; 1 by default, 0 with GPUs.
            num_gpus_per_worker: GPUs an actor reserves, 0 by default. When positive, and
                `predictor_cls.from_checkpoint` names `use_gpu`, that is set to True unless given.
            separate_gpu_stage: preprocess in CPU tasks even when scoring on GPUs; False to preprocess in
                the GPU actors.
            ray_remote_args: further resource arguments for the actors.
            predict_kwargs: handed to the predictor's `predict`.

        Returns:
            A dataset with the predictions and the kept columns.

        Raises:
            ValueError: on execution, `feature_columns` or `keep_columns` are given but the batch is a bare array.
            KeyError: on execution, one of `keep_columns` is not in the preprocessed batch.
        """
        num_gpus = num_gpus_per_worker or 0
        num_cpus = num_cpus_per_worker
        if num_cpus is None:
            num_cpus = 0 if num_gpus > 0 else 1

        predictor_kwargs = dict(self._predictor_kwargs)
        if num_gpus > 0 and "use_gpu" in inspect.signature(self._predictor_cls.from_checkpoint).parameters:
            predictor_kwargs.setdefault("use_gpu", True)

        preprocessor = self.get_preprocessor()
        batch_format = self._predictor_cls._batch_format_to_use()
        in_actor = None
        if preprocessor is not None and not separate_gpu_stage and num_gpus > 0:
            in_actor = preprocessor
            batch_format = preprocessor._determine_transform_to_use()

        remote_args = dict(ray_remote_args or {}, num_gpus=num_gpus)
        if preprocessor is not None and in_actor is None:
            data = preprocessor.transform(data)
            # Ray Data moves a stage of tasks into the actors behind it where both ask for the same. A default,
            # spelled out, sets them apart, so that images are preprocessed while the actors score, on CPUs too.
            remote_args.setdefault("runtime_env", {})
        remote_args["num_cpus"] = _cpus_that_leave_room(num_cpus, max(min_scoring_workers, max_scoring_workers or 0))
        return data.map_batches(
            ScoringWorker,
            fn_constructor_kwargs={
                "checkpoint_ref": [self._checkpoint_ref],  # in a list: Ray would pass a bare one by value
                "predictor_cls": self._predictor_cls,
                "predictor_kwargs": predictor_kwargs,
                "preprocessor": in_actor,
                "feature_columns": feature_columns,
                "keep_columns": keep_columns,
                "cast_tensor_columns": ray.data.DataContext.get_current().enable_tensor_extension_casting,
            },
            fn_kwargs=predict_kwargs,
            compute=ActorPoolStrategy(min_size=min_scoring_workers, max_size=max_scoring_workers),
            batch_format=BatchFormat(batch_format).value,
            batch_size=batch_size,
            **remote_args,
        )


class ScoringWorker:
    """The class that the actors of `BatchPredictor.predict` run."""

    def __init__(
        self,
        checkpoint_ref: list[ray.ObjectRef],
        predictor_cls: type[Any],
        predictor_kwargs: dict[str, Any],
        preprocessor: Preprocessor | None,
        feature_columns: list[str] | None,
        keep_columns: list[str] | None,
        cast_tensor_columns: bool,
    ):
        def load() -> tuple[Any, Any]:
            """The checkpoint, on this node, and its predictor."""
            checkpoint = ray.get(checkpoint_ref[0])
            if isinstance(checkpoint, CheckpointFiles):
                checkpoint = checkpoint.restore()
            return checkpoint, predictor_cls.from_checkpoint(checkpoint, **predictor_kwargs)

        # The checkpoint's folder lives as long as it, and the predictor may read there later.
        self._checkpoint, self._predictor = start(load)
        self._attempts = Attempts()
        if cast_tensor_columns:
            self._predictor._set_cast_tensor_columns()
        # Columns are selected after preprocessing, so it is applied here or before, not by the predictor.
        self._predictor.set_preprocessor(None)
        self._preprocessor = preprocessor
        self._feature_columns = feature_columns
        self._keep_columns = keep_columns

    def __call__(self, batch: DataBatch, **predict_kwargs: Any) -> Iterator[DataBatch]:
        """Score one batch: preprocess where that is done here, select, predict, put kept columns beside it."""
        if self._preprocessor is not None:
            batch = self._preprocessor.transform_batch(batch)
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
            with self._attempts.batch():
                predictions = self._score(piece, predict_kwargs)
            yield predictions

    def _score(self, batch: Any, predict_kwargs: dict[str, Any]) -> Any:
        predictions = self._predictor.predict(self._select(batch), **predict_kwargs)
        for column in self._keep_columns or []:
            if column not in batch:
                raise KeyError(
                    f"keep_columns names {column!r}, which the preprocessed batch lacks; it has {list(batch)}"
                )
            predictions[column] = batch[column]
        to_block = getattr(self._predictor, "to_block", None)
        return to_block(predictions) if to_block else predictions

    def _select(self, batch: Any) -> Any:
        if not self._feature_columns:
            return batch
        if isinstance(batch, pd.DataFrame):
            return batch[self._feature_columns]
        return {name: column for name, column in batch.items() if name in self._feature_columns}


def _cpus_that_leave_room(num_cpus: float, workers: int) -> float:
    """The CPUs each of `workers` actors may reserve so that a one-CPU task still fits on some node.

    An actor holds its CPUs while it waits for input; when the actors hold all, the tasks that would make
    the input never start, and Ray Data waits for ever.
    """
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    nodes = [cpus for cpus in nodes if cpus >= 1]
    if num_cpus == 0 or not nodes:
        return num_cpus
    # A node is full when less than one CPU is left of it, and that takes so many actors:
    if workers < sum(math.floor((cpus - 1) / num_cpus) + 1 for cpus in nodes):
        return num_cpus
    room = sum(nodes) - len(nodes)
    reduced = math.floor(room / workers * 100) / 100
    logger.warning(
        "%d scoring worker(s) of %g CPU(s) each would leave none of the cluster's %g CPU(s) to read and preprocess "
        "their input, which would then wait for ever. To make room, each reserves %g CPU(s) instead. Ask for fewer "
        "max_scoring_workers or a smaller num_cpus_per_worker to silence this.",
        workers, num_cpus, sum(nodes), reduced,
    )  # fmt: skip
    return reduced
