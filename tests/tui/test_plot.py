import math
from itertools import pairwise

import pytest

from mlxtune.runs.state import RunState, Validation
from mlxtune.tui.render.charts import Curve, draw_chart, scale, smooth, tick_step
from mlxtune.tui.rooms.train.chart import METRICS, build_curve

NAN = float("nan")


def test_smoothing_is_a_centred_mean_without_lag():
    line = [(float(x), 2.0 - x) for x in range(100)]
    for (x, y), (_, raw) in list(zip(smooth(line), line, strict=True))[4:-4]:
        assert y == pytest.approx(raw), x


def test_smoothing_is_one_sided_at_the_edges_and_skips_what_is_no_number():
    points = [(1.0, 1.0), (2.0, NAN), (3.0, 3.0), (4.0, 8.0)]
    assert smooth(points) == [(1.0, 4.0), (3.0, 4.0), (4.0, 4.0)]
    assert smooth([]) == []


@pytest.mark.parametrize(
    ("span", "count", "step", "decimals"), [(1.7, 4, 0.5, 1), (960, 5, 200, 0), (1.0, 4, 0.25, 2), (0.004, 4, 0.001, 3)]
)
def test_ticks_are_round_numbers(span, count, step, decimals):
    assert tick_step(span, count) == (pytest.approx(step), decimals)


def test_one_spike_does_not_flatten_the_curve():
    raw = [(float(x), 1.0 + math.sin(x) / 10) for x in range(400)]
    raw[200] = (200.0, 1e6)
    calm = [(x, y if y < 100 else 1.0) for x, y in raw]
    assert scale(Curve(raw, smooth(calm), [], 400), False, 80, 20).y[1] < 2


@pytest.mark.parametrize(
    ("reach", "labels"),
    [
        (0.004, {"0.004", "0.002", "0.000", "-0.002", "-0.004"}),
        (0.0062, {".0050", ".0025", ".0000", "-.0025", "-.0050"}),
        (4e6, {"4e6", "2e6", "0e0", "-2e6", "-4e6"}),
    ],
)
def test_all_labels_of_an_axis_have_one_notation(reach, labels):
    curve = [(0.0, -reach), (5.0, reach)]
    rows = draw_chart(Curve(curve, curve, [], 10), 60, 14).plain.splitlines()
    assert {row.split("├")[0].strip() for row in rows if "├" in row} == labels


def test_the_axis_spans_the_whole_run_and_zoom_its_last_fifth():
    raw = [(float(x), 1.0) for x in range(1, 641)]
    assert scale(Curve(raw, raw, [], 960), False, 80, 20).x == (0, 960)
    assert scale(Curve(raw, raw, [], 960), True, 80, 20).x == (512, 640)


def test_the_empty_right_part_is_the_time_left():
    raw = [(float(x), 1.0 + (x % 5) / 10) for x in range(1, 481)]
    rows = draw_chart(Curve(raw, smooth(raw), [], 960), 88, 12).plain.splitlines()
    dots = [at for row in rows for at, cell in enumerate(row) if 0x2800 < ord(cell) < 0x2900]
    assert min(dots) == 8
    assert max(dots) - 8 == pytest.approx(40, abs=1), "half of 80 columns"


def test_first_and_last_step_are_labelled_and_a_lost_loss_is_marked_once():
    raw = [(float(x), NAN if x in (100, 101) else 1.0 / x) for x in range(1, 201)]
    rows = draw_chart(Curve(raw, smooth(raw), [(50.0, 0.5), (60.0, NAN)], 200), 70, 14).plain.splitlines()
    assert rows[-1].split()[0] == "0"
    assert rows[-1].split()[-1] == "200"
    assert rows[-2].count("✗") == 1
    assert sum(row.count("◆") for row in rows) == 1


def test_validations_keep_three_cells_apart_and_the_newest_is_kept():
    marks = [(float(x), 1.0) for x in range(1, 101)]
    row = next(row for row in draw_chart(Curve(marks, marks, marks, 100), 68, 12).plain.splitlines() if "◆" in row)
    places = [at for at, cell in enumerate(row) if cell == "◆"]
    assert places[-1] == 67
    assert {b - a for a, b in pairwise(places)} == {3}


@pytest.mark.parametrize("width", range(-3, 40, 4))
@pytest.mark.parametrize("height", range(-2, 14, 3))
def test_any_size_and_any_curve_can_be_drawn(width, height):
    for raw in ([], [(1.0, NAN)], [(1.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)], [(1.0, -5.0), (2.0, 1e9)]):
        for zoom in (False, True):
            for row in draw_chart(Curve(raw, smooth(raw), raw, 0), width, height, zoom).plain.splitlines():
                assert len(row) <= max(width, 0)


def test_a_value_that_was_not_measured_is_left_out():
    metrics = [(("rewards/margins", 0.5),), (("rewards/margins", math.nan),)]
    state = RunState(validations=tuple(Validation(step, 1.0, values) for step, values in enumerate(metrics)))
    margins = next(metric for metric in METRICS if metric.name == "rewards/margins")
    assert build_curve(state, margins).validations == [(0.0, 0.5)]
