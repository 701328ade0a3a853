"""`rewardjax train judge`, from a YAML file and files to a judge that scores texts."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from rewardjax.cli import main as cli
from rewardjax.data.generations import Row
from rewardjax.data.sources import group
from rewardjax.errors import RewardJaxError
from rewardjax.metrics.bootstrap import bootstrap_auc
from rewardjax.metrics.evaluation import count_text, evaluate
from rewardjax.metrics.judge import Judge, fit, load_judge, save_judge
from rewardjax.metrics.regression import auc
from rewardjax.metrics.scorers import load_scorer, load_scorers
from rewardjax.report.metrics import metrics_table
from rewardjax.report.table import to_markdown
from tests.metrics.encoders import save_encoder

CONFIGS = Path(__file__).parents[2] / "configs"
FILLER = ["film", "book", "friend", "it was", "you are", "the fool", "not", "a film"]


def rows(seed, count=60):
    """Toxic texts say bad or awful, the others good or nice."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        word = ("bad", "awful")[i // 2 % 2] if i % 2 else ("good", "nice")[i // 2 % 2]
        parts = [*rng.choice(FILLER, 3), word]
        rng.shuffle(parts)
        found.append((" ".join(parts), i % 2))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sources and a test set on disk, an encoder, and a config that names no path."""
    path = tmp_path_factory.mktemp("judge")
    save_encoder(path)
    codes = "tweet,class\n" + "".join(f"{t},{[2, 0][y]}\n" for t, y in rows(0))
    (path / "d.csv").write_text(codes)
    pairs = list(zip(rows(1)[1::2], rows(2)[::2], strict=True))
    lines = "".join(f"{bad}\t{good}\n" for (bad, _), (good, _) in pairs)
    (path / "p.tsv").write_text("toxic\tneutral1\n" + lines)
    (path / "t.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows(3, 30))
    )
    config = {
        "kind": "toxicity",
        "encoder": str(path / "encoder"),
        "remark": "not on the reward model's labels",
        "sources": {
            "davidson": {"dataset": "davidson"},
            "toxic": {"file": "pairs", "text": "toxic", "constant_label": 1},
            "neutral": {"file": "pairs", "texts": ["neutral1"], "constant_label": 0},
        },
        "tests": {"mine": {}, "absent": {"dataset": "surge_toxicity"}},
        "folds": 2,
        "choices": [1.0, 10.0],
    }
    (path / "judge.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def arguments(folder, out, *flags):
    files = [f"davidson={folder / 'd.csv'}", f"pairs={folder / 'p.tsv'}"]
    return ["train", "judge", str(folder / "judge.yaml"), "--out", str(out), "--files", *files, *(
        str(flag) for flag in flags
    )]  # fmt: skip


@pytest.fixture(scope="module")
def judge(folder):
    """Folder of a judge that was fitted from the command line."""
    out = folder / "out"
    beside = ["--beside", "alt-profanity-check"]
    assert cli(arguments(folder, out, f"mine={folder / 't.jsonl'}", *beside)) == 0
    return out


def test_what_is_written(folder, judge):
    values = json.loads((judge / "judge.json").read_text())
    assert (values["kind"], values["threshold"], values["name"]) == (
        "toxicity",
        0.5,
        "toxicity-judge",
    )
    digest = hashlib.sha256((folder / "p.tsv").read_bytes()).hexdigest()
    assert values["fitted_on"][1] == {
        "name": "toxic", "file": "p.tsv", "sha256": digest, "texts": 30, "positive": 30
    }  # fmt: skip
    record = values["record"]
    assert list(record["tests"]) == ["mine"]  # the other has no file
    assert set(record["held_out"]) == {"toxicity-judge", "alt-profanity-check"}
    assert record["train_texts"] < 120
    assert record["C"] == min(
        map(float, record["log_loss"]), key=lambda c: record["log_loss"][f"{c:g}"]
    )
    assert sorted(path.name for path in judge.iterdir()) == ["judge.json", "weights.safetensors"]


def test_the_judge_tells_new_texts_apart(folder, judge):
    scorer = load_scorer(str(judge))
    texts, labels = zip(*rows(3, 30), strict=True)
    scores = scorer(texts)
    assert scorer.kind == "toxicity"
    assert ((scores > 0) & (scores < 1)).all()
    mine = json.loads((judge / "judge.json").read_text())["record"]["tests"]["mine"]["scorers"]
    found = mine["toxicity-judge"]
    assert found["auc"] == pytest.approx(auc(scores, np.array(labels)))
    assert found["accuracy"] == pytest.approx(np.mean((scores >= 0.5) == np.array(labels)))
    assert found["auc"] > 0.9
    assert found["low"] <= found["auc"] <= found["high"]
    assert scorer(texts[::-1])[::-1] == pytest.approx(scores, abs=1e-6)


def test_scores_are_scikit_learn_s(folder, judge):
    """The saved numbers alone give what the fitted model gives."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(200, 5)), rng.random(200) < 0.3
    vectors[labels, 0] += 1.0
    weights, bias, record = fit(vectors, labels, np.arange(200), choices=[0.1, 1.0], balance=False)
    model = LogisticRegression(C=record["C"], max_iter=2000).fit(vectors, labels)
    for kind, expected in (
        ("toxicity", model.predict_proba(vectors)[:, 1]),
        ("sentiment", 2 * model.predict_proba(vectors)[:, 1] - 1),
    ):
        one = Judge("x", kind, {"version": "v"}, weights, bias, [])
        np.testing.assert_allclose(one.scores(one.probability(vectors)), expected, atol=1e-12)
    far = Judge("x", "toxicity", {"version": "v"}, np.full(5, 1e4), 0.0, [])
    assert far.probability(np.stack([np.full(5, -1e3), np.full(5, 1e3)])).tolist() == [0.0, 1.0]
    balanced = fit(vectors, labels, np.arange(200), choices=[1.0])[1]
    assert balanced > bias  # the rarer class weighs more


def test_provenance_stands_under_the_table(judge):
    row = Row(prompt="it was", text=" a good film", prompt_index=0, sample_index=0)
    metrics = evaluate([row], load_scorers([str(judge), "vader"]))
    note = "fitted on davidson (60), toxic (30), neutral (30); not on the reward model's labels"
    assert metrics["toxicity-judge.toxic_rate"].to_dict()["note"] == note
    table = metrics_table({"a": metrics}, counts={"a": count_text([row])})
    assert f"toxicity-judge: {note}" in to_markdown(table)
    assert "vader: a lexicon" in table.caption
    assert "note" not in metrics["dist-1"].to_dict()


def test_texts_of_one_line_are_never_on_both_sides(folder, judge, monkeypatch):
    from rewardjax.train import judge as program

    seen = {}

    def spy(vectors, labels, groups, **rest):
        seen["groups"] = groups
        return fit(vectors, labels, groups, **rest)

    def measure(scorers, part, fitted):
        seen["held"] = part
        seen["fitted"] = fitted
        return {}

    monkeypatch.setattr(program, "fit", spy)
    monkeypatch.setattr(program, "_measure", measure)
    monkeypatch.setattr(program, "quality_table", lambda judge: None)
    monkeypatch.setattr(program, "print_table", lambda table: None)
    argv = arguments(folder, folder / "again")
    assert cli(argv) == 0
    lines = (folder / "p.tsv").read_text().splitlines()[1:]
    pairs = {text: line for line in lines for text in line.split("\t")}
    held = {pairs[text] for text in seen["held"].texts if text in pairs}
    assert held
    assert not held & {pairs[text] for text in seen["fitted"] if text in pairs}
    assert cli(argv) == 2  # a judge is there already
    assert cli([*argv, "--overwrite"]) == 0


def test_the_shipped_configs_read_the_published_files(folder, tmp_path):
    """Each on a few lines in its files' own form; no config names a path."""
    tweets = ",count,hate_speech,offensive_language,neither,class,tweet\n"
    tweets += "".join(f"{i},3,0,0,3,{[2, 1][y]},{t}\n" for i, (t, y) in enumerate(rows(0, 20)))
    pairs = "worst\tfine\tnice\tgood\n"
    pairs += "".join(f"{t}\tyou are {i}\t\t\n" for i, (t, _) in enumerate(rows(1, 20)))
    ratings = "".join(f"{i}\t{[3.1, -2.5][y]}\t{t}\n" for i, (t, y) in enumerate(rows(2, 40)))
    scores = [0.6, None, 0.1]
    web = "".join(
        json.dumps({"continuation": {"text": f"a {i}", "toxicity": x}}) + "\n"
        for i, x in enumerate(scores)
    )
    content = {
        "davidson": ("d.csv", tweets),
        "paradetox": ("p.tsv", "toxic\tneutral1\tneutral2\tneutral3\n" + pairs + "half\n"),
        "rtp": ("r.jsonl", web),
        "surge": ("s.csv", "text,is_toxic\nfine,Not Toxic\nfool,Toxic\n"),
        "amazon": ("a.txt", ratings + "x\t0.2\tneither\n"),
        "tweets": ("t.txt", ratings),
        "news": ("n.txt", ratings),
        "sst2": ("s.tsv", "sentence\tlabel\na good film \t1\nan awful one \t0\n"),
    }
    for name, text in content.values():
        (tmp_path / name).write_text(text)
    for config, names in (
        ("judge_toxicity.yaml", ("davidson", "paradetox", "rtp", "surge")),
        ("judge_sentiment.yaml", ("amazon", "tweets", "news", "sst2")),
    ):
        out = tmp_path / config.removesuffix(".yaml")
        files = [f"{name}={tmp_path / content[name][0]}" for name in names]
        flags = ["--encoder", str(folder / "encoder"), "--choices", "1", "--folds", "2"]
        argv = [str(CONFIGS / config), "--out", str(out), "--files", *files, *flags]
        assert cli(["train", "judge", *argv]) == 0
        found = {x["name"]: (x["texts"], x["positive"]) for x in load_judge(out).fitted_on}
        tests = {n: x["texts"] for n, x in load_judge(out).record["tests"].items()}
        if "davidson" in names:
            assert found == {
                "davidson": (20, 10), "paradetox_toxic": (21, 21), "paradetox_neutral": (23, 0)
            }  # fmt: skip
            assert tests == {"rtp": 2, "surge": 2}
        else:
            assert found == {"amazon": (40, 20), "tweets": (40, 20), "news": (40, 20)}
            assert tests == {"sst2": 2}


def test_the_same_seed_gives_the_same_judge(folder, judge):
    out = folder / "twice"
    assert cli(arguments(folder, out)) == 0
    assert (out / "weights.safetensors").read_bytes() == (
        judge / "weights.safetensors"
    ).read_bytes()


def refused(argv, capsys):
    assert cli(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_bad_input(folder, tmp_path, capsys):
    out = tmp_path / "out"
    argv = arguments(folder, out)
    assert "sources is empty" in refused(["train", "judge"], capsys)
    err = refused(argv[: argv.index("--files")], capsys)
    assert "sources without a file; give them with --files pairs=PATH" in err
    assert "did you mean 'pairs'" in refused([*argv, "pair=x"], capsys)
    assert "folds is 1" in refused([*argv, "--folds", "1"], capsys)
    assert "held_out is 1" in refused([*argv, "--held-out", "1"], capsys)
    assert "encoder 'gone' does not exist" in refused([*argv, "--encoder", "gone"], capsys)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    err = refused(arguments(folder, tmp_path / "other"), capsys)
    assert "holds something else" in err
    (tmp_path / "bad.csv").write_text("tweet,class\na,5\n")
    err = refused([*argv, "--files", f"davidson={tmp_path / 'bad.csv'}", argv[-1]], capsys)
    assert "sources.davidson: " in err
    assert "bad.csv:2: label 'class' is '5'; expected one of '0', '1', '2'" in err
    (tmp_path / "one.csv").write_text("tweet,class\n" + "".join(f"a{i},1\n" for i in range(20)))
    yaml_file = tmp_path / "one.yaml"
    yaml_file.write_text(
        yaml.safe_dump(
            {"encoder": str(folder / "encoder"), "sources": {"a": {"dataset": "davidson"}}}
        )
    )
    one = ["train", "judge", str(yaml_file), "--out", str(out), "--files"]
    err = refused([*one, f"a={tmp_path / 'one.csv'}"], capsys)
    assert "18 positive of 18 texts" in err
    yaml_file.write_text("sources: {a: 3}")
    assert "sources: got" in refused(one[:3], capsys)
    assert not out.exists()


DAMAGE = {
    "format": lambda values: values.update(format=99),
    "kind": lambda values: values.update(kind="humour"),
    "no encoder": lambda values: values.pop("encoder"),
    "more": lambda values: values.update(code="x"),
    "fitted on": lambda values: values.update(fitted_on=[{}]),
    "threshold": lambda values: values.update(threshold="high"),
}


@pytest.fixture
def copy(judge, tmp_path):
    def make(change=None):
        target = tmp_path / "copy"
        save_judge(load_judge(judge), target)
        values = json.loads((target / "judge.json").read_text())
        if change:
            change(values)
            (target / "judge.json").write_text(json.dumps(values))
        return target

    return make


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_judges(copy, case):
    with pytest.raises(RewardJaxError, match=r"judge\.json' is damaged or of another version"):
        load_scorer(str(copy(DAMAGE[case])))


def test_a_folder_that_is_no_judge_and_weights_that_are_none(copy, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RewardJaxError, match="fit the judge again"):
        load_scorer(str(tmp_path / "empty"))
    target = copy()
    (target / "weights.safetensors").write_bytes(b"\x80\x04 pickle")
    with pytest.raises(RewardJaxError, match="is damaged"):
        load_scorer(str(target))


def test_a_judge_refuses_another_encoder(copy, folder, tmp_path):
    other = save_encoder(tmp_path, seed=1)
    with pytest.raises(RewardJaxError, match="with other weights than encoder sha256"):
        load_scorer(str(copy(lambda values: values["encoder"].update(spec=str(other)))))
    moved = tmp_path / "moved"
    (folder / "encoder").rename(moved)
    try:
        with pytest.raises(RewardJaxError, match=r"encoder' does not exist"):
            load_scorer(str(copy()))
        scorer = load_scorer(str(copy(lambda values: values["encoder"].update(spec=str(moved)))))
        assert scorer(["a good film"]).shape == (1,)
    finally:
        moved.rename(folder / "encoder")


def test_two_judges_of_one_name(judge, copy):
    with pytest.raises(RewardJaxError, match="two scorers are called 'toxicity-judge'"):
        load_scorers([str(judge), str(copy())])
    other = copy(lambda values: values.update(name="second"))
    assert [scorer.name for scorer in load_scorers([str(judge), str(other)])] == [
        "toxicity-judge",
        "second",
    ]


def test_auc_and_its_interval():
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.4
    scores = np.round(rng.normal(size=400) + labels, 1)  # with ties
    found = bootstrap_auc(scores, labels, resamples=400)
    assert found.value == pytest.approx(auc(scores, labels.astype(float)), abs=1e-12)
    drawn = [rng.integers(0, 400, 400) for _ in range(400)]
    slow = np.percentile([auc(scores[i], labels[i].astype(float)) for i in drawn], [2.5, 97.5])
    assert found.low == pytest.approx(slow[0], abs=0.012)
    assert found.high == pytest.approx(slow[1], abs=0.012)
    assert np.isnan(bootstrap_auc(scores, np.zeros(400, bool)).value)
    assert bootstrap_auc(np.arange(4.0), np.array([0, 0, 1, 1], bool)).value == 1.0


def test_groups_keep_the_split_whole():
    assert group(["a", "a"], ["1", "2"]).tolist() == [0, 0]
