import errno
import subprocess
import sys
import types

import pytest

from rewardjax import cli
from rewardjax.errors import RewardJaxError


@pytest.fixture
def command(monkeypatch):
    """Make `rewardjax quickstart` run a given function."""

    def install(function):
        module = types.SimpleNamespace(main=function)
        monkeypatch.setitem(sys.modules, "rewardjax.experiments.quickstart", module)

    return install


def raising(error):
    def main(argv):
        raise error

    return main


def one_line(capsys) -> str:
    """Standard error must hold exactly one line, and standard output nothing."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("rewardjax: error: ")
    return err


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys, rewardjax.cli as c; r = c.main(['--help']);"
        "heavy = {'jax', 'numpy', 'transformers', 'tyro', 'yaml', 'flax'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else r)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in cli.COMMANDS:
        assert " ".join(words) in done.stdout


def test_family_help(capsys):
    assert cli.main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "train reward-model" in out
    assert "decode guided" not in out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rewardjax 0.")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["quickstrat"], "did you mean 'quickstart'?"),
        (["train"], "needs one of: reward-model, distill"),
        (["train", "reward-modle"], "got 'reward-modle'; did you mean 'reward-model'?"),
        (["decode", "x"], "needs one of: guided"),
        (["--unknown"], "unknown command '--unknown'"),
    ],
)
def test_unknown_command(argv, expected, capsys):
    assert cli.main(argv) == 2
    assert expected in one_line(capsys)


def test_arguments_and_exit_status_are_passed_through(command):
    seen = []
    command(lambda argv: seen.append(argv) or 1)
    assert cli.main(["quickstart", "--seed", "1"]) == 1
    assert seen == [["--seed", "1"]]


def test_bad_input_is_one_line_and_exit_2(command, capsys):
    command(raising(RewardJaxError("file 'x' is\nmissing")))
    assert cli.main(["quickstart"]) == 2
    assert one_line(capsys) == "rewardjax: error: file 'x' is missing\n"


def test_debug_anywhere_shows_the_traceback(command, capsys):
    seen = []
    command(lambda argv: seen.append(argv) or raising(RewardJaxError("bad"))(argv))
    assert cli.main(["quickstart", "--debug", "--seed", "1"]) == 2
    assert seen == [["--seed", "1"]]
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == "rewardjax: error: bad"


def test_disk_full_is_one_line(command, capsys):
    command(raising(OSError(errno.ENOSPC, "No space left on device", "out.jsonl")))
    assert cli.main(["quickstart"]) == 2
    assert "no space left on the disk while writing 'out.jsonl'" in one_line(capsys)


def test_permission_denied_is_one_line(command, capsys):
    command(raising(PermissionError(errno.EACCES, "Permission denied", "/nowhere/x")))
    assert cli.main(["quickstart"]) == 2
    assert "Permission denied: '/nowhere/x'" in one_line(capsys)


def test_interrupt_and_sigterm_statuses(command, capsys):
    command(raising(KeyboardInterrupt()))
    assert cli.main(["quickstart"]) == 130
    command(raising(SystemExit(143)))
    assert cli.main(["quickstart"]) == 143
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_is_not_hidden(command):
    command(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["quickstart"])


def test_library_noise_is_silent_and_restored(command, capsys):
    import logging
    import warnings

    def noisy(argv):
        warnings.warn("a library warns", stacklevel=1)
        logging.getLogger("transformers").error("a library logs")
        return 0

    command(noisy)
    assert cli.main(["quickstart"]) == 0
    assert capsys.readouterr().err == ""
    assert logging.root.manager.disable == logging.NOTSET


def test_every_command_names_a_function_that_takes_argv():
    # Only that the words resolve; the programs have their own tests.
    for words, (target, text) in cli.COMMANDS.items():
        assert cli.find([*words, "--flag"]) == (target, ["--flag"])
        assert target.endswith(":main")
        assert text
