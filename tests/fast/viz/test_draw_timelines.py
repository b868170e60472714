"""Pictures of timelines: the colours of pixels at known times."""

import subprocess
import sys

import numpy as np
import pytest
from pixels import edge_is

from ray_segformer.architectures._timeline import Event, Timeline
from ray_segformer.viz import draw_timelines

pytest.importorskip("matplotlib")

WHITE, INK, IDLE, PREPROCESS = (255, 255, 255), (40, 40, 40), (240, 239, 236), (169, 211, 238)
LOAD = [(210, 210, 210), (140, 140, 140)]  # grey, and the colour of its hatching
PREDICT = [(0, 99, 160), (196, 78, 0), (29, 43, 83)]
EPOCH = 1.7e9  # seconds: a realistic value of time.time()


def run(seconds, *events):
    """Return a timeline of events: (kind, process, start, end, images), or (kind, (node, process), ...)."""
    made = []
    for kind, worker, start, end, *images in events:
        node, process = worker if isinstance(worker, tuple) else ("node", worker)
        made.append(Event(kind, node, process, EPOCH + start, end - start, tuple(*images)))
    return Timeline(tuple(sorted(made, key=lambda event: event.start)), EPOCH, EPOCH + seconds)


def is_colour(pixels, *colours):
    return np.any([(pixels == colour).all(axis=-1) for colour in colours], axis=0)


class Drawn:
    """A picture of timelines. All lanes must be idle for a moment when the run starts."""

    def __init__(self, timelines):
        self.picture = draw_timelines(timelines)
        self.pixels = np.asarray(self.picture)
        idle = is_colour(self.pixels, IDLE)
        self.left = int(np.flatnonzero(idle.any(axis=0))[0])  # 0 s
        rows = np.flatnonzero(idle[:, self.left + 2])
        self.lanes = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        longest = max(timeline.seconds for timeline in timelines.values())
        ends = [self.end(lane) for lane in range(len(self.lanes))]
        self.per_second = (max(ends) - self.left) / longest

    def end(self, lane):
        """Return the column of the line at the end of the run."""
        return float(np.flatnonzero(is_colour(self.pixels[self.lanes[lane][0]], INK)).mean())

    def row(self, lane):
        """Return a row of pixels through the lane's bars, above their texts."""
        return self.pixels[self.lanes[lane][6]]

    def at(self, lane, seconds):
        """Return the colour of a lane at a time in seconds."""
        return tuple(self.row(lane)[round(self.left + seconds * self.per_second)].tolist())


def test_bars_are_where_their_events_were():
    drawn = Drawn(
        {
            "run": run(
                10,
                ("load", 1, 1, 2),
                ("preprocess", 1, 2, 3, [0, 1]),
                ("predict", 1, 3, 4, [0, 1]),
                ("predict", 1, 5, 8, [2, 3]),
                ("load", 2, 6, 7),
            )
        }
    )
    assert len(drawn.lanes) == 2
    for seconds in (0.1, 0.9, 4.1, 4.9, 8.1, 9.9):
        assert drawn.at(0, seconds) == IDLE, seconds
    for seconds in (0.1, 5.9, 7.1, 9.9):
        assert drawn.at(1, seconds) == IDLE, seconds
    assert [drawn.at(0, seconds) for seconds in (2.1, 2.9)] == [PREPROCESS] * 2
    assert [drawn.at(0, seconds) for seconds in (3.1, 3.9)] == [PREDICT[0]] * 2
    assert [drawn.at(0, seconds) for seconds in (5.1, 6.5, 7.9)] == [PREDICT[1]] * 3
    for lane, start in ((0, 1), (1, 6)):
        bars = drawn.pixels[drawn.lanes[lane], drawn.left :]
        places = np.flatnonzero(is_colour(bars, LOAD[0]).any(axis=0)) / drawn.per_second
        assert places[[0, -1]] == pytest.approx([start, start + 1], abs=0.03)
        assert is_colour(bars, LOAD[1]).any()  # hatched
    widths = [is_colour(drawn.row(0), colour).sum() for colour in PREDICT[:2]]
    assert widths[1] / widths[0] == pytest.approx(3, rel=0.02)


def test_panels_share_the_time():
    events = [("load", 1, 1, 2), ("predict", 1, 2, 3, [0])]
    drawn = Drawn({"long": run(8, *events), "short": run(4, *events)})
    assert (drawn.end(0) - drawn.left) / (drawn.end(1) - drawn.left) == pytest.approx(2, rel=0.01)
    assert (drawn.row(1)[int(drawn.end(1)) + 3 :] == WHITE).all()  # the short run is over
    assert drawn.at(0, 6) == IDLE
    assert drawn.at(0, 2.5) == drawn.at(1, 2.5) == PREDICT[0]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("panels", [1, 6])
def test_each_worker_has_a_lane_of_the_same_height(workers, panels):
    events = [("predict", number, 1 + number / 10, 2, [0]) for number in range(workers)]
    drawn = Drawn({f"panel {number}": run(3, *events) for number in range(panels)})
    assert len(drawn.lanes) == workers * panels
    heights = [len(lane) for lane in drawn.lanes]
    assert min(heights) > 30 and max(heights) < 36 and max(heights) - min(heights) <= 2
    assert edge_is(drawn.picture, WHITE)
    assert drawn.picture.width == 1430


def test_workers_are_together_by_node():
    interleaved = [(("a", 1), 1), (("b", 1), 2), (("a", 2), 3), (("b", 2), 4)]
    events = [("preprocess", worker, start, start + 1, [0]) for worker, start in interleaved]
    drawn = Drawn({"run": run(6, *events)})
    starts = [np.flatnonzero(is_colour(drawn.row(lane), PREPROCESS))[0] for lane in range(4)]
    assert (np.array(starts) - drawn.left) / drawn.per_second == pytest.approx([1, 3, 2, 4], abs=0.02)
    single = Drawn(
        {"run": run(6, *(("preprocess", worker[1], start, start + 1, [0]) for worker, start in interleaved))}
    )
    assert drawn.left > single.left + 40  # labels are longer: "node 1, worker 1" instead of "worker 1"
    assert edge_is(drawn.picture, WHITE)


def test_batches_after_each_other_differ_in_colour():
    events = [("predict", worker, 1 + batch, 2 + batch, [batch]) for batch in range(7) for worker in (1, 2)]
    drawn = Drawn({"run": run(9, *events)})
    colours = np.array([[drawn.at(lane, 1.5 + batch) for batch in range(7)] for lane in (0, 1)])
    assert {tuple(colour) for colour in colours.reshape(-1, 3).tolist()} == set(PREDICT)
    assert (colours[:, 1:] != colours[:, :-1]).any(axis=-1).all()
    assert (colours[0] != colours[1]).any(axis=-1).all()


def test_bars_bear_their_images_where_there_is_room():
    def text_width(first, last, end=8):
        drawn = Drawn({"run": run(10, ("predict", 1, 1, end, range(first, last)), ("load", 1, 0.5, 0.6))})
        left, right = (round(drawn.left + seconds * drawn.per_second) for seconds in (1, end))
        bar = drawn.pixels[drawn.lanes[0][5] : drawn.lanes[0][-5], left + 2 : right - 1]
        places = np.flatnonzero((~is_colour(bar, PREDICT[0])).any(axis=0))
        return int(np.ptp(places)) if len(places) else 0

    assert text_width(0, 4) > 10
    assert text_width(0, 4, end=1.1) == 0  # too narrow
    assert text_width(1000, 1002) > 2 * text_width(1000, 1001)  # "1000-1001", "1000"
    assert abs(text_width(1000, 1002) - text_width(1000, 1009)) <= 2


def test_images_out_of_order_are_listed():
    in_order, skipping = (run(10, ("predict", 1, 1, 8, images)) for images in ([0, 1, 2, 3], [0, 1, 2, 4]))
    assert draw_timelines({"run": in_order}).tobytes() != draw_timelines({"run": skipping}).tobytes()
    again = draw_timelines({"run": in_order})
    assert again.tobytes() == draw_timelines({"run": in_order}).tobytes()


def test_names_are_not_formulas():
    timeline = run(3, ("predict", 1, 1, 2, [0]))
    assert edge_is(draw_timelines({"$x^2$ and $": timeline}), WHITE)
    assert draw_timelines({"$x$": timeline}).tobytes() != draw_timelines({"x": timeline}).tobytes()


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="no timelines"):
        draw_timelines({})
    with pytest.raises(ValueError, match="'idle' has no events"):
        draw_timelines({"idle": run(3)})


@pytest.mark.slow
def test_pictures_need_little(tmp_path):
    program = (
        "import sys, ray_segformer.viz as viz\n"
        "assert all(hasattr(viz, name) for name in viz.__all__)\n"
        "print([name for name in ('ray', 'torch', 'transformers', 'matplotlib') if name in sys.modules])\n"
        "from ray_segformer.architectures._timeline import Event, Timeline\n"
        "viz.draw_timelines({'run': Timeline((Event('load', '', 1, 0.0, 1.0),), 0.0, 2.0)})\n"
        "print([name for name in ('matplotlib', 'matplotlib.pyplot') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['matplotlib']"]
