"""The command table. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator

from rewardjax.errors import RewardJaxError, nearest

COMMANDS: dict[tuple[str, ...], tuple[str, str]] = {
    ("quickstart",): (
        "rewardjax.experiments.quickstart:main",
        "train a reward head on human ratings, steer a small LM with it, write a report",
    ),
    ("train", "reward-model"): (
        "rewardjax.train.reward_model:main",
        "train a reward model from a YAML file",
    ),
    ("train", "distill"): (
        "rewardjax.train.distill:main",
        "train a reward model on another one's rewards",
    ),
    ("train", "nado"): (
        "rewardjax.train.nado:main",
        "train a reward model to satisfy an oracle, from the LM's own samples",
    ),
    ("train", "probe"): (
        "rewardjax.train.probe:main",
        "train a score of whole completions on the LM's hidden states",
    ),
    ("train", "attribute"): (
        "rewardjax.train.attribute:main",
        "fine-tune the LM itself towards an attribute, by a reward model and texts",
    ),
    ("train", "judge"): (
        "rewardjax.train.judge:main",
        "fit a judge of sentiment or toxicity on labelled texts",
    ),
    ("runs",): (
        "rewardjax.train.runs:main",
        "list training runs with their state and best metrics",
    ),
    ("decode", "guided"): (
        "rewardjax.decode.guided:main",
        "generate text with a reward model's guidance",
    ),
    ("decode", "select"): (
        "rewardjax.decode.select:main",
        "sample several completions of each prompt and choose one by its score",
    ),
    ("compare",): (
        "rewardjax.experiments.compare:main",
        "train reward models alike, decode at several strengths, compare: tables, figures, a page",
    ),
    ("evaluate",): (
        "rewardjax.decode.evaluate:main",
        "score generated texts: sentiment, toxicity, perplexity, diversity",
    ),
    ("analyze", "rank"): (
        "rewardjax.experiments.rank:main",
        "spectrum and rank of what a reward model learned",
    ),
    ("analyze", "agreement"): (
        "rewardjax.train.agreement:main",
        "how near a reward model is to another one, such as a student to its teacher",
    ),
    ("analyze", "controls"): (
        "rewardjax.experiments.controls:main",
        "what each rank can fit, on two matrices whose best fit is known",
    ),
    ("analyze", "selection"): (
        "rewardjax.experiments.selection:main",
        "what choosing among k completions earns: probes of several losses, exactly",
    ),
    ("bench", "decode"): (
        "rewardjax.experiments.bench:main",
        "decoding speed beside the machine's limits and PyTorch",
    ),
    ("bench", "train"): (
        "rewardjax.train.bench:main",
        "training speed beside the machine's ceiling and PyTorch",
    ),
    ("bench", "profile"): (
        "rewardjax.experiments.bench.profile:main",
        "where a decoding step's time goes, part by part",
    ),
}
"""Words of the command → (`module:function` taking argv and returning the exit status, help)."""

INTERRUPTED = 130
BAD_INPUT = 2

# Log lines of XLA and of the libraries: set before they are imported, kept when a user set them.
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "true",
}


def usage(prefix: tuple[str, ...] = ()) -> str:
    """The help text: every command whose first words are `prefix`."""
    rows = [(" ".join(words), text) for words, (_, text) in COMMANDS.items()]
    rows = [row for row in rows if row[0].split()[: len(prefix)] == list(prefix)]
    width = max(len(name) for name, _ in rows)
    lines = [
        f"usage: {' '.join(('rewardjax', *prefix))} COMMAND [OPTIONS]",
        "",
        "Steer a frozen language model while it decodes, with reward models trained in JAX.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {text}" for name, text in rows),
        "",
        "`rewardjax COMMAND --help` lists a command's options.",
        "--version shows the version; --debug, anywhere, shows tracebacks and library messages.",
    ]
    return "\n".join(lines)


def find(argv: list[str]) -> tuple[str, list[str]]:
    """Split `argv` into the target `module:function` and the command's own arguments.

    Raises:
      RewardJaxError: if the first words name no command.
    """
    for length in (2, 1):
        words = tuple(argv[:length])
        if words in COMMANDS:
            return COMMANDS[words][0], argv[length:]
    families = {words[0]: [] for words in COMMANDS}
    for words in COMMANDS:
        families[words[0]] += words[1:]
    first = argv[0]
    if first in families:
        got = f", got {argv[1]!r}" if len(argv) > 1 else ""
        hint = nearest(argv[1], families[first]) if len(argv) > 1 else ""
        raise RewardJaxError(
            f"'rewardjax {first}' needs one of: {', '.join(families[first])}{got}{hint}"
        )
    options = [" ".join(words) for words in COMMANDS]
    hint = nearest(" ".join(argv[:2]), options) or nearest(first, [*options, *families])
    raise RewardJaxError(f"unknown command {first!r}, expected one of: {', '.join(options)}{hint}")


def program(*words: str) -> Callable[[list[str]], int]:
    """The `main` of a command, imported now: how experiments run other commands."""
    module, function = COMMANDS[words][0].split(":")
    return getattr(importlib.import_module(module), function)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep libraries' warnings and log lines off standard error while the block runs."""
    import logging
    import warnings

    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"rewardjax {version('rewardjax')}")
        return 0
    families = {words[0] for words in COMMANDS if len(words) > 1}
    if argv[0] in families and argv[1:2] and argv[1] in ("-h", "--help"):
        print(usage((argv[0],)))
        return 0
    target, rest = find(argv)
    module, function = target.split(":")
    return int(getattr(importlib.import_module(module), function)(rest) or 0)


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 (bad input), 130 (Ctrl-C), or the command's.

    Bad input prints `rewardjax: error: …`, one line, on standard error. With `--debug` the
    traceback and the libraries' messages are shown as well.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    try:
        with contextlib.nullcontext() if debug else _quiet():
            try:
                status = _run(argv)
            except SystemExit as stop:
                if isinstance(stop.code, str):
                    return _fail(stop.code, stop, debug)
                status = int(stop.code or 0)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk shows here, not after everything is over
        return status
    except KeyboardInterrupt:
        if debug:
            raise
        print("rewardjax: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our standard output is gone (`… | head`): nothing to say, nowhere to say it.
        _drop_output()
        return 141
    except RewardJaxError as error:
        return _fail(str(error), error, debug)
    except (OSError, MemoryError) as error:
        _drop_output()
        return _fail(_describe(error), error, debug)


def _drop_output() -> None:
    """Standard output that cannot be written goes nowhere: else Python complains when it ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        assert sys.stdout is not None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe(error: OSError | MemoryError) -> str:
    import errno

    if isinstance(error, MemoryError):
        return "out of memory; use a smaller batch size, a shorter length or a smaller model"
    where = f" {error.filename!r}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk while writing{where}; free some space and run again"
    return f"{error.strerror or error}{':' if where else ''}{where}"


def _fail(message: str, error: BaseException, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"rewardjax: error: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
