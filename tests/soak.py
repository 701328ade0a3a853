"""How often a test that draws its cases at random repeats: a few times in `make test`, often in
`make soak`, which also writes down what was proved: docs/reliability.md.

As a plugin (`pytest -p tests.soak`) it runs those tests alone, and writes that page.
"""

import datetime
import os
import time
from collections import defaultdict
from pathlib import Path

FULL = os.environ.get("REWARDJAX_SOAK") == "1"
PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"


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


class Page:
    """Collects what the tests proved, and writes it when they are over."""

    def __init__(self):
        self.began = time.monotonic()
        self.cases, self.tests, self.failed = defaultdict(int), defaultdict(set), []

    def pytest_collection_modifyitems(self, config, items):
        chosen = [item for item in items if "record_property" in item.fixturenames]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when != "call" or not report.passed:
            return
        for name, value in report.user_properties:
            if name == "proved":
                self.cases[value["promise"]] += value["cases"]
                self.tests[value["promise"]].add(report.nodeid.split("[")[0])

    def pytest_sessionfinish(self, session):
        if hasattr(session.config, "workerinput") or not FULL:  # a worker of xdist
            return
        PAGE.write_text(self.text(session.config))

    def text(self, config):
        from rewardjax.provenance import commit, machine, versions

        made, where = versions(), machine()
        minutes = (time.monotonic() - self.began) / 60
        how = f"{datetime.date.today()}, commit {commit()}, Python {made['python']},"
        how += f" JAX {made['jax']}"
        how += f", {where['cores']} cores of {where['cpu']}, {minutes:.0f} minutes"
        rows = [
            f"| {promise} | {', '.join(f'`{test}`' for test in sorted(self.tests[promise]))} |"
            f" {count:,} |"
            for promise, count in sorted(self.cases.items())
        ]
        result = f"**{len(self.failed)} tests failed**: {', '.join(self.failed)}."
        if not self.failed:
            result = "Every case held: nothing was lost, repeated or changed."
        return f"""# What is promised, and what shows it

Written by `make soak`: {how}.
`make test` runs the same tests with fewer cases.

{result}

| promise | test | cases |
|---|---|---|
{chr(10).join(rows)}
| all | | {sum(self.cases.values()):,} |
"""


def pytest_configure(config):
    config.pluginmanager.register(Page())
