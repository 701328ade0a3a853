import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest

from rewardjax import config
from rewardjax.errors import RewardJaxError


@dataclass(frozen=True)
class Optim:
    """The optimizer."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    layer: int | None = None
    kind: Literal["adam", "sgd"] = "adam"
    names: tuple[str, ...] = ()
    nesterov: bool = False


@dataclass(frozen=True)
class Settings:
    """All settings."""

    run_dir: str = "runs"
    """Where to write."""
    optim: Optim = field(default_factory=Optim)


def parse(*argv):
    return config.parse(
        Settings, list(argv), prog="rewardjax x", description="Try.", yaml_positional=True
    )


@pytest.fixture
def yaml_file(tmp_path):
    def write(text, name="c.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_defaults_then_yaml_then_flags(yaml_file):
    path = yaml_file("run_dir: from_yaml\noptim: {learning_rate: 1e-4, names: [a, b]}\n")
    assert parse() == Settings()
    from_yaml = Settings("from_yaml", Optim(1e-4, names=("a", "b")))
    assert parse(path) == from_yaml
    both = parse(path, "--optim.learning-rate", "3", "--optim.nesterov")
    assert both == Settings("from_yaml", Optim(3.0, names=("a", "b"), nesterov=True))


def test_flags_work_with_underscores_and_none(yaml_file):
    path = yaml_file("optim: {layer: 3}")
    assert parse(path).optim.layer == 3
    assert parse(path, "--optim.layer", "None", "--run_dir", "q") == Settings("q")


def test_extends_merges_one_level(yaml_file):
    yaml_file("run_dir: below\noptim: {learning_rate: 2, layer: 5}", "below.yaml")
    path = yaml_file("extends: below.yaml\noptim: {learning_rate: 3}")
    assert parse(path) == Settings("below", Optim(3.0, 5))
    deeper = yaml_file("extends: c.yaml", "deeper.yaml")
    with pytest.raises(RewardJaxError, match="at most one level"):
        parse(deeper)


def test_yaml_round_trip():
    settings = Settings("x: y", Optim(1e-4, None, "sgd", ("a",), True))
    assert config.from_dict(Settings, config.yaml.safe_load(config.to_yaml(settings))) == settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim: {learning_rte: 1}", "unknown key 'optim.learning_rte'; did you mean 'optim.learn"),
        ("learning_rate: 1", "unknown key 'learning_rate'; did you mean 'optim.learning_rate'?"),
        (
            "optim: {learning_rate: fast}",
            "optim.learning_rate: got 'fast', expected a valid number",
        ),
        ("optim: {layer: 1.5}", "optim.layer: got 1.5, expected a valid integer"),
        ("optim: {layer: true}", "optim.layer: got True, expected a valid integer"),
        ("optim: {kind: lion}", "optim.kind: got 'lion', expected 'adam' or 'sgd'"),
        ("optim: {nesterov: 1}", "optim.nesterov: got 1, expected a valid boolean"),
        ("optim: {names: a}", "optim.names: got 'a', expected"),
        ("run_dir: 3", "run_dir: got 3, expected a valid string"),
        ("run_dir: 2020-01-01", "run_dir: cannot use the value"),
        ("optim: 3", "optim: expected keys and values, got 3"),
        ("run_dir: a\nrun_dir: b", "c.yaml:2: not valid YAML: duplicate key 'run_dir'"),
        ("optim: {a: 1", "not valid YAML"),
        ("- a", "holds a list; expected keys and values"),
        ("extends: gone.yaml", "gone.yaml' does not exist"),
        ("extends: [a]", "extends: expected one file name"),
    ],
)
def test_bad_yaml(text, expected, yaml_file):
    with pytest.raises(RewardJaxError) as error:
        parse(yaml_file(text))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["--optim.learning-rte", "3"],
            "unknown option '--optim.learning-rte'; did you mean '--op",
        ),
        (["--learning-rate=3"], "did you mean '--optim.learning-rate'?"),
        (
            ["--optim.learning-rate", "x"],
            "--optim.learning-rate: got 'x', expected a number",
        ),
        (["--optim.learning-rate"], "Missing value for argument '--optim.learning-rate'"),
        (["--optim.kind", "lion"], "invalid choice 'lion' for argument '--optim.kind'"),
        (["--run-dir", "a", "stray"], "Unrecognized options: stray"),
        (["missing.yaml"], "config 'missing.yaml' does not exist"),
    ],
)
def test_bad_flags(argv, expected, capsys):
    with pytest.raises(RewardJaxError) as error:
        parse(*argv)
    assert expected in str(error.value)
    assert set(str(error.value)).isdisjoint("│╭─\n")
    assert capsys.readouterr() == ("", "")


def test_config_that_is_no_text(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\x80\x81\xff")
    with pytest.raises(RewardJaxError, match="not UTF-8"):
        parse(str(path))
    with pytest.raises(RewardJaxError, match="is a directory"):
        parse(str(tmp_path))


def test_required_field_without_yaml():
    @dataclass(frozen=True)
    class Needs:
        """Needs one."""

        lm: str
        """Which."""
        out: str
        """Where, said in so many words that the help text of this field takes several lines."""

    def parse_needs(*argv):
        return config.parse(Needs, list(argv), prog="p", description="d")

    assert parse_needs("--lm", "x", "--out", "y") == Needs("x", "y")
    with pytest.raises(RewardJaxError, match=r"^missing: --out; see p --help$"):
        parse_needs("--lm", "x")


def test_help_shows_fields_and_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--optim.learning-rate" in text
    assert "Peak learning rate." in text


def test_field_types_covers_every_leaf():
    names = set(config.field_types(Settings))
    assert names == {"run_dir"} | {f"optim.{f.name}" for f in dataclasses.fields(Optim)}
