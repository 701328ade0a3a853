"""How often a test that draws its cases at random repeats: a few times in `make test`, often in
`make soak`, which also writes down what was proved (docs/reliability.md)."""

import os

FULL = os.environ.get("REWARDJAX_SOAK") == "1"


def times(quick, full):
    """The number of cases: `quick` in every test run, `full` in `make soak`."""
    return full if FULL else quick


def proved(record_property, promise, cases):
    """Say that a test, when it passes, has shown a promise to hold in this many cases.

    Args:
      record_property: pytest's fixture.
      promise: the row of docs/reliability.md; several tests may share one, their cases add up.
    """
    record_property("proved", {"promise": promise, "cases": cases})
