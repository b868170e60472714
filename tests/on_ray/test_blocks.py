"""Rows in small blocks, in order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ray_segformer.inputs import small_blocks


@pytest.mark.parametrize(("rows", "most"), [(3, 1), (1_000, 5), (26_000, 128)])
def test_no_block_is_larger_and_rows_stay_in_order(ray_session, rows, most):
    dataset = small_blocks(pa.table({"id": range(rows), "name": list(map(str, range(rows)))}))
    dataset.context.execution_options.preserve_order = True
    blocks = list(dataset.iter_batches(batch_size=None))
    assert max(len(block["id"]) for block in blocks) == most
    assert np.concatenate([block["id"] for block in blocks]).tolist() == list(range(rows))
    assert np.concatenate([block["name"] for block in blocks]).tolist() == list(map(str, range(rows)))


@pytest.mark.parametrize(
    ("rows", "group", "sizes"),
    [(1_000, 12, {12, 4}), (1_000, 300, {128, 44, 100}), (27_000, 3, {126, 36}), (300, 1, {2})],
)
def test_blocks_begin_where_it_is_best(ray_session, rows, group, sizes):
    """Groups of rows stay together if they have at most 128 rows."""
    dataset = small_blocks(pa.table({"id": range(rows)}), np.arange(rows) % group == 0)
    dataset.context.execution_options.preserve_order = True
    blocks = [block["id"] for block in dataset.iter_batches(batch_size=None)]
    assert {len(block) for block in blocks} == sizes
    assert np.concatenate(blocks).tolist() == list(range(rows))


def test_no_rows(ray_session):
    assert small_blocks(pa.table({"id": pa.array([], pa.int64())})).count() == 0
