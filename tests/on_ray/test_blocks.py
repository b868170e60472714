"""Rows in small blocks, in order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ray_segformer.inputs import small_blocks


@pytest.mark.parametrize(("rows", "most"), [(3, 1), (1_000, 5), (70_000, 128)])
def test_no_block_is_larger_and_rows_stay_in_order(ray_session, rows, most):
    dataset = small_blocks(pa.table({"id": range(rows), "name": list(map(str, range(rows)))}))
    dataset.context.execution_options.preserve_order = True
    blocks = list(dataset.iter_batches(batch_size=None))
    assert max(len(block["id"]) for block in blocks) == most
    assert np.concatenate([block["id"] for block in blocks]).tolist() == list(range(rows))
    assert np.concatenate([block["name"] for block in blocks]).tolist() == list(map(str, range(rows)))


def test_no_rows(ray_session):
    assert small_blocks(pa.table({"id": pa.array([], pa.int64())})).count() == 0
