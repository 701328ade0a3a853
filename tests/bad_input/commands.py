"""Commands with something wrong in them, and what a refusal looks like."""

import io
import json
import sys
from pathlib import Path

from rewardjax import cli

COMMANDS = {
    "guided": "decode guided --lm {lm} --out new.jsonl --max-new-tokens 4",
    "train": "train reward-model --lm {lm} --run-dir run",
    "quickstart": "quickstart --out quick",
    "evaluate": "evaluate --scorers vader --out new.json",
}
PROMPT = ["--prompt", "I"]
DATA = ["--data.path", "data.jsonl"]
STEER = [*PROMPT, "--beta", "1", "--reward-model"]
TEXT = json.dumps({"text": "a film", "label": 1}) + "\n"
ROW = json.dumps({"prompt": "I", "text": " a", "prompt_index": 0, "sample_index": 0}) + "\n"


def put(files, monkeypatch=None):
    """Writes files into the working directory; `-` becomes standard input."""
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        if name == "-":
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        else:
            Path(name).write_bytes(data)


def listing(folder):
    return {p: p.is_file() and p.read_bytes() for p in sorted(folder.rglob("*"))}


def command(name, arguments, lm):
    words = COMMANDS[name].split()
    if arguments and arguments[0].endswith(".yaml"):  # a config comes first
        words, arguments = words[:2] + arguments[:1] + words[2:], arguments[1:]
    return [word.format(lm=lm) for word in words + arguments]


def refused(argv, capsys, expected, *, shown=""):
    """`shown`: how standard output may begin, where the work had begun."""
    before = listing(Path.cwd())
    status = cli.main(argv)
    out, err = capsys.readouterr()
    assert status == 2, err
    assert out.startswith(shown)
    assert bool(out) == bool(shown)
    assert err.startswith("rewardjax: error: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1
    assert expected in err
    assert listing(Path.cwd()) == before
