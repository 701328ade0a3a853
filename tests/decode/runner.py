"""Runs `rewardjax` commands in processes of their own and kills them: imports once, forks often.

Reads jobs from standard input, a JSON object a line, and answers each with a line: the exit status,
or minus the signal that ended it. It forks before JAX starts its threads.

The first argument is a language model's folder. A job has `argv`, and moments at the first of which
it is killed: `byte` (so many are in the partial file), `before` or `after` (a file of that name is
put in its place), `seconds` after it started.
"""

import io
import json
import os
import signal
import sys
import time

import rewardjax.api  # noqa: F401
from rewardjax.cli import main
from rewardjax.decode import guided  # noqa: F401
from rewardjax.decode.rows_file import RowsFile
from rewardjax.lm import open_lm


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_byte(last):
    """Kills this process when the rows' file has grown to `last` bytes."""
    enter = RowsFile.__enter__

    class Dying(io.BufferedWriter):
        def write(self, data):
            room = last - self.tell()
            if room <= len(data):
                super().write(data[:room])
                self.flush()
                die()
            return super().write(data)

    def opened(self):
        enter(self)
        self._file = Dying(self._file.detach())
        return self

    RowsFile.__enter__ = opened


def die_at_replace(name, moment):
    replace = os.replace

    def dying(source, target):
        if os.path.basename(target) != name:
            replace(source, target)
            return
        if moment == "after":
            replace(source, target)
        die()

    os.replace = dying


def run(job):
    child = os.fork()
    if child:
        if "seconds" in job:
            time.sleep(job["seconds"])
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if "byte" in job:
        die_at_byte(job["byte"])
    for moment in ("before", "after"):
        if moment in job:
            die_at_replace(job[moment], moment)
    try:
        os._exit(main(job["argv"]))
    finally:
        os._exit(99)


open_lm(sys.argv[1])  # which imports most of what the command needs
for line in sys.stdin:
    print(run(json.loads(line)), flush=True)
