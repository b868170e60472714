"""The rounds of an input, one after another: their images become shards of the output."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import ray

from ray_segformer._guesses import Guess, say
from ray_segformer.inputs import DoneRows, ImageInput, ListedAhead
from ray_segformer.jobs._progress import progress_of_workers
from ray_segformer.outputs import OutputFolder, Shards


def write_rounds(
    rounds: Iterator[ImageInput],
    guesses: list[Guess],
    written: Callable[[ImageInput], ray.data.Dataset],
    done: DoneRows | None,
    shards: Shards,
    folder: OutputFolder,
    totals: Any,
) -> list[Guess]:
    """Segment the images of all rounds that are not done, and add the shards that workers write.

    Args:
        rounds: the images, from `find_rounds` or `find_scenes`. The next round is listed while one is segmented.
        guesses: those of the first round, which are said already. New ones of later rounds are said.
        written: returns, for the images of a round, the rows of `WriteShards`.
        done: the images of an earlier run; None if there is none.
        shards: those of the output. New ones are added.
        folder: the output.
        totals: the actor that counts what is done, to show progress; None shows none.

    Returns:
        The guesses of the last round, which are those of the whole input.
    """
    said = {guess.code for guess in guesses}
    resumed = found = shards.rows  # `found`: the images of the rounds so far
    all_listed = False
    ahead = ListedAhead(rounds)
    with contextlib.ExitStack() as stack:
        if totals is not None:
            stack.enter_context(progress_of_workers(totals, lambda: found if all_listed else None, resumed))
        for images in ahead:
            guesses = images.guesses
            say(guess for guess in guesses if guess.code not in said)
            said.update(guess.code for guess in guesses)
            remaining = images.rows if done is None else int((~done.among(images.keys())).sum())
            found, all_listed = found + remaining, images.is_last
            if not remaining:
                continue
            for row in written(images).iter_rows():
                ahead.list_next()
                shards.add(json.loads(row["shard"]))
                folder.lease.check()
    folder.lease.look()
    return guesses
