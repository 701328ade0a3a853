"""The time left, by the mean of this run."""

import pytest
from rich.progress import Progress

from rewardjax.progress import _TimeLeft


@pytest.mark.parametrize(
    ("done", "steps", "expected"),
    [
        (0, [], "-:--:--"),
        (0, [(60, 32)], "0:02:08"),  # 68 to go, at 32 a minute
        (0, [(60, 32), (60, 1), (1, 1)], "0:03:55"),  # 66 to go, at 34 in 121 seconds
        (50, [(10, 5)], "0:01:30"),  # what an earlier run did took no time of this one
        (90, [(1, 10)], "0:00:00"),
        (0, [(3600 * 30, 50)], "1 day, 6:00:00"),
    ],
)
def test_time_left(done, steps, expected):
    now = [1000.0]
    progress = Progress(_TimeLeft(), get_time=lambda: now[0], disable=True)
    task = progress.add_task("", total=100, completed=done, done=done)
    for seconds, count in steps:
        now[0] += seconds
        progress.advance(task, count)
    assert str(_TimeLeft().render(progress.tasks[0])) == expected
