"""What may be wrong with arguments and files: command, arguments, files, what the message says."""

import gzip

import pytest

from tests.bad_input.commands import DATA, PROMPT, ROW, STEER, TEXT
from tests.bad_input.files import BINARY, LYING, MODELS

# item of the list → rows of (command, arguments, files to write first, what the line says)
CASES = {
    "missing file": [
        ("guided", ["--prompts", "gone.txt"], {}, "file 'gone.txt' does not exist"),
        ("guided", [*PROMPT, "--lm", "./gone"], {}, "./gone: no such file or directory"),
        ("guided", [*PROMPT, "--lm", "gone.gguf"], {}, "gone.gguf: no such file or directory"),
        ("guided", [*PROMPT, "--lm", "a/b/c"], {}, "a/b/c: no such file or directory"),
        ("guided", [*PROMPT, "--lm", "."], {}, "no config.json"),
        ("guided", [*PROMPT, "--lm", "data.jsonl"], {}, "data.jsonl: expected a .gguf file or"),
        ("guided", [*PROMPT, "--lm", ""], {}, "the language model's name is empty"),
        ("guided", [*STEER, "gone"], {}, "gone is not a reward model directory"),
        ("guided", [*STEER, "{lm}"], {}, "config.json is damaged or from another version"),
        ("train", ["gone.yaml"], {}, "config 'gone.yaml' does not exist"),
        ("train", ["a.yaml"], {"a.yaml": "extends: b.yaml"}, "config 'b.yaml' does not exist"),
        ("train", ["--data.path", "owner/name"], {}, "data file 'owner/name' does not exist"),
        ("train", ["--data.path", "dta.jsonl"], {}, "did you mean 'data.jsonl'?"),
        ("train", ["--data.hub", "./data.jsonl"], {}, "use data.path"),
        ("train", ["--data.path", "."], {}, "data file '.' is a folder"),
        (
            "train",
            [*DATA, "--reward-model.backbone", "own", "--reward-model.init", "./gone"],
            {},
            "./gone: no such file or directory",
        ),
        ("evaluate", ["gone.jsonl"], {}, "file 'gone.jsonl' does not exist"),
        ("evaluate", ["."], {}, "'.' is a folder"),
        ("evaluate", ["rows.jsonl", "--perplexity-lm", "no/"], {}, "no/: no such file"),
    ],
    "empty file": [
        ("guided", ["--prompts", "e.txt"], {"e.txt": ""}, "file 'e.txt' is empty"),
        ("train", ["--data.path", "e.jsonl"], {"e.jsonl": ""}, "data file 'e.jsonl' is empty"),
        ("train", ["e.yaml"], {"e.yaml": ""}, "exactly one of data.path"),
        ("evaluate", ["e.jsonl"], {"e.jsonl": ""}, "file 'e.jsonl' is empty"),
    ],
    "binary file": [
        ("guided", ["--prompts", "b.txt"], {"b.txt": BINARY}, "b.txt:1: binary data"),
        ("guided", ["--prompts", "-"], {"-": BINARY}, "<standard input>:1: binary data"),
        ("guided", ["--prompts", "l.txt"], {"l.txt": b"caf\xe9"}, "byte 4 is not UTF-8"),
        ("train", ["--data.path", "b.csv"], {"b.csv": BINARY}, "b.csv:1: binary data"),
        ("train", ["--data.path", "b.parquet"], {"b.parquet": BINARY}, "no whole Parquet file"),
        (
            "train",
            ["--data.path", "b.jsonl.gz"],
            {"b.jsonl.gz": gzip.compress(TEXT.encode() * 99, mtime=0)[:-9]},
            "b.jsonl.gz:100: damaged gzip file",
        ),
        ("train", ["b.yaml"], {"b.yaml": BINARY}, "config 'b.yaml' is not UTF-8 text"),
        ("evaluate", ["b.jsonl"], {"b.jsonl": BINARY}, "b.jsonl:1: binary data"),
    ],
    "broken JSONL line": [
        ("guided", ["--prompts", "a.jsonl"], {"a.jsonl": '{"prompt": "a"}\n{"'}, "a.jsonl:2: not"),
        ("guided", ["--prompts", "-"], {"-": '{"prompt"'}, "<standard input>:1: not JSON"),
        ("guided", ["--prompts", "a.jsonl"], {"a.jsonl": "[" * 10**5}, "nested too deeply"),
        ("train", ["--data.path", "a.jsonl"], {"a.jsonl": TEXT + '{"'}, "a.jsonl:2: not JSON"),
        ("train", ["--data.path", "a.jsonl"], {"a.jsonl": TEXT + "[1]"}, "a.jsonl:2: a JSON list"),
        ("evaluate", ["a.jsonl"], {"a.jsonl": ROW + "{"}, "a.jsonl:2: not JSON"),
    ],
    "missing column": [
        ("guided", ["--prompts", "a.jsonl"], {"a.jsonl": '{"promt": "a"}'}, "no field 'prompt'"),
        ("train", [*DATA, "--data.text", "txt"], {}, "data.jsonl:1: column 'txt' is missing"),
        ("train", ["--data.path", "a.csv"], {"a.csv": "text,lable\na,1\n"}, "column 'label' is"),
        ("evaluate", ["data.jsonl"], {}, "data.jsonl:1: no field 'prompt'"),
    ],
    "label outside its range": [
        ("train", ["--data.path", "a.jsonl"], {"a.jsonl": TEXT.replace("1", "1.5")}, "is 1.5; exp"),
        ("train", ["--data.path", "a.jsonl"], {"a.jsonl": TEXT.replace("1", "-1")}, "is -1; exp"),
        (
            "train",
            ["--data.path", "a.jsonl"],
            {"a.jsonl": TEXT.replace("1", "NaN")},
            "not a number",
        ),
        ("train", ["--data.path", "a.tsv"], {"a.tsv": "text\tlabel\na\tnan\n"}, "not a number"),
        (
            "train",
            ["--data.path", "a.jsonl"],
            {"a.jsonl": TEXT.replace("1", "1e999")},
            "is inf; ex",
        ),
        (
            "train",
            ["--data.path", "a.jsonl"],
            {"a.jsonl": TEXT.replace("1", "1" * 400)},
            "a.jsonl:1: label 'label' is 1111",
        ),
        ("train", [*DATA, "--data.label-max", "nan"], {}, "expected label_min < label_max"),
    ],
    "empty text": [
        ("train", ["--data.path", "a.jsonl"], {"a.jsonl": TEXT.replace("a film", " ")}, "is empty"),
        ("train", ["--data.path", "a.csv"], {"a.csv": "text,label\n,1\n"}, "a.csv:2: text 'text'"),
        ("train", ["--data.path", "a.csv"], {"a.csv": "text,label\n"}, "holds no rows"),
    ],
    "text that is no Unicode": [
        ("guided", ["--prompt", "\udcff"], {}, "'\\udcff' holds half a surrogate pair"),
        (
            "guided",
            ["--prompts", "a.jsonl"],
            {"a.jsonl": '{"prompt": "a"}\n{"prompt": "\\ud83d"}'},
            "a.jsonl:2 holds half a surrogate pair",
        ),
        (
            "train",
            ["--data.path", "a.jsonl"],
            {"a.jsonl": TEXT.replace("a film", "\\ud83d")},
            "a.jsonl:1: text 'text' holds half a surrogate pair",
        ),
        ("evaluate", ["a.jsonl"], {"a.jsonl": ROW.replace(" a", "\\ud83d")}, "a.jsonl:1: text hol"),
    ],
    "text longer than the context": [
        ("guided", ["--prompt", "x" * 253], {}, "has 253 tokens, which with 4 new tokens exceeds"),
        ("guided", ["--prompts", "a.txt"], {"a.txt": "a\n" + "x" * 300}, "a.txt:2 has 300 tokens"),
        ("guided", [*PROMPT, "--max-new-tokens", "256"], {}, "exceeds the context of 256"),
        (
            "train",
            ["--data.path", "a.jsonl"],
            {"a.jsonl": TEXT * 9 + TEXT.replace("film", "x" * 300)},
            "a.jsonl:10: text of 302 tokens, longer than the LM's context of 256",
        ),
        ("train", [*DATA, "--data.max-length", "999"], {}, "at most the LM's context, 256 tokens"),
        (
            "evaluate",
            ["a.jsonl", "--perplexity-lm", "{lm}"],
            {"a.jsonl": ROW.replace(" a", "x" * 300)},
            "sample_index 0 has 301 tokens",
        ),
    ],
    "empty prompt": [
        ("guided", ["--prompt", ""], {}, "--prompt '' is empty"),
        ("guided", ["--prompt", "a", " "], {}, "--prompt ' ' is empty"),
        ("guided", ["--prompts", "a.txt"], {"a.txt": "a\n\nb\n"}, "a.txt:2: empty prompt"),
        ("guided", ["--prompts", "-"], {"-": "\n"}, "<standard input> holds no prompt"),
        ("guided", ["--prompts", "data.jsonl", "--where", "label=1"], {}, "is no comparison"),
        ("guided", [*PROMPT, "--where", "label>0"], {}, "expected --prompts FILE with them"),
        ("guided", [], {}, "expected either --prompt TEXT … or --prompts FILE, got neither"),
    ],
    "unknown key": [
        (
            "train",
            ["a.yaml"],
            {"a.yaml": "data: {pth: x}"},
            "'data.pth'; did you mean 'data.path'?",
        ),
        ("train", ["a.yaml"], {"a.yaml": "sede: 1"}, "unknown key 'sede'; did you mean 'seed'?"),
        ("train", [*DATA, "--optim.step", "3"], {}, "did you mean '--optim.steps'?"),
        ("guided", [*PROMPT, "--top_n", "3"], {}, "unknown option '--top-n'; did you mean '--top-"),
        ("evaluate", ["rows.jsonl", "--scorer", "x"], {}, "did you mean '--scorers'?"),
        ("evaluate", ["rows.jsonl", "--scorers", "vadr"], {}, "did you mean 'vader'?"),
        ("train", [*DATA, "--reward-model.parametrization", "amr"], {}, "(nearest: arm)"),
    ],
    "wrong type": [
        ("train", ["a.yaml"], {"a.yaml": "seed: x"}, "a.yaml: seed: got 'x', expected a valid int"),
        ("train", ["a.yaml"], {"a.yaml": "optim: {clip: [1]}"}, "optim.clip: got [1], expected"),
        ("train", ["a.yaml"], {"a.yaml": "- a"}, "holds a list; expected keys and values"),
        ("train", ["a.yaml"], {"a.yaml": "data:\n\tpath: a"}, "a.yaml:2: not valid YAML"),
        (
            "train",
            ["a.yaml"],
            {"a.yaml": "? [a]\n: 1"},
            "a.yaml:1: not valid YAML: a key is a list",
        ),
        ("train", ["a.yaml"], {"a.yaml": "data: &a {path: *a}"}, "data.path: cannot use the value"),
        ("train", ["a.yaml"], {"a.yaml": "run_dir: 2020-13-45"}, "a.yaml: not usable YAML: month"),
        ("train", ["a.yaml"], {"a.yaml": "[" * 3000}, "a.yaml: not usable YAML"),
        ("train", ["a.yaml"], {"a.yaml": "seed: " + "9" * 5000}, "a.yaml: not usable YAML"),
        ("train", ["--data.path", "a.jsonl"], {"a.jsonl": TEXT.replace("1", '"x"')}, "a number"),
        ("guided", [*PROMPT, "--beta", "abc"], {}, "--beta: got 'abc', expected a number"),
        ("guided", [*PROMPT, "--top-k", "1.5"], {}, "--top-k: got '1.5', expected an integer"),
        ("guided", [*PROMPT, "--dtype", "int8"], {}, "invalid choice 'int8'"),
        ("guided", [*PROMPT, "--seed"], {}, "Missing value for argument '--seed'"),
        ("guided", [*PROMPT, "--seed", "1", "stray"], {}, "Unrecognized options: stray"),
        ("guided", ["--prompts", "a.jsonl"], {"a.jsonl": '{"prompt": 3}'}, "prompt is a int"),
        ("evaluate", ["rows.jsonl", "--resamples", "x"], {}, "--resamples: got 'x'"),
    ],
    "out of range": [
        ("guided", [*PROMPT, "--beta", "-1"], {}, "beta is -1.0; expected"),
        ("guided", [*PROMPT, "--beta", "nan"], {}, "beta is nan; expected"),
        ("guided", [*PROMPT, "--beta", "1"], {}, "beta is 1.0 but no --reward-model is given"),
        ("guided", [*PROMPT, "--top-k", "0"], {}, "top_k is 0; expected"),
        ("guided", [*PROMPT, "--top-k", "129"], {}, "expected at most the vocabulary's 128"),
        ("guided", [*PROMPT, "--top-p", "0"], {}, "top_p is 0.0; expected"),
        ("guided", [*PROMPT, "--top-p", "1.01"], {}, "top_p is 1.01; expected"),
        ("guided", [*PROMPT, "--temperature", "-0.1"], {}, "temperature is -0.1; expected"),
        ("guided", [*PROMPT, "--temperature", "inf"], {}, "temperature is inf; expected"),
        ("guided", [*PROMPT, "--num-samples", "0"], {}, "num_samples is 0; expected"),
        ("guided", [*PROMPT, "--max-new-tokens", "0"], {}, "max_new_tokens is 0; expected"),
        ("guided", [*PROMPT, "--seed", "-1"], {}, "seed is -1; expected"),
        ("guided", [*PROMPT, "--seed", "4294967296"], {}, "seed is 4294967296; expected"),
        ("guided", [*PROMPT, "--batch-size", "0"], {}, "batch_size is 0; expected"),
        ("guided", [*PROMPT, "--stop", ""], {}, "stop holds an empty string"),
        ("train", [*DATA, "--seed", "4294967296"], {}, "seed is 4294967296; expected at most"),
        ("train", [*DATA, "--optim.epochs", "1e30"], {}, "optim.epochs is 1e+30; expected at most"),
        ("train", [*DATA, "--optim.learning-rate", "inf"], {}, "learning_rate is inf; expected"),
        ("train", [*DATA, "--optim.eps", "0"], {}, "optim.eps is 0.0; expected more than 0"),
        ("train", [*DATA, "--data.label-max", "inf"], {}, "expected label_min < label_max, both f"),
        ("train", [*DATA, "--reward-model.layer", "9"], {}, "reward_model.layer 9: this LM has"),
        (
            "train",
            [*DATA, "--reward-model.backbone", "own", "--reward-model.num-layers", "0"],
            {},
            "num_layers is 0; expected 1 to 3",
        ),
        ("quickstart", ["--seed", "-1"], {}, "seed is -1; expected"),
        ("evaluate", ["rows.jsonl", "--level", "95"], {}, "level between 0 and 1"),
        ("evaluate", ["rows.jsonl", "--seed", "-1"], {}, "a seed of at least 0"),
        ("evaluate", ["rows.jsonl", "--resamples", "9999999999"], {}, "1 to 1000000 resamples"),
    ],
    "damaged GGUF": [
        ("guided", [*PROMPT, "--lm", "m.gguf"], {"m.gguf": data}, message)
        for data, message in MODELS.values()
    ],
    "damaged safetensors": [
        (
            "guided",
            [*PROMPT, "--lm", "model"],
            {"model/model.safetensors": data},
            "model.safetensors: not a usable safetensors file",
        )
        for data in LYING.values()
    ]
    + [
        ("guided", [*STEER, "rm"], {"rm/model.safetensors": data}, "model.safetensors cannot be")
        for data in LYING.values()
    ]
    + [
        ("guided", [*PROMPT, "--lm", "model"], {"model/config.json": "{"}, "config.json: not read"),
        ("guided", [*STEER, "rm"], {"rm/config.json": "{"}, "rm/config.json is damaged"),
        ("guided", [*STEER, "rm"], {"rm/config.json": '{"format": 9}'}, "format 9; expected form"),
        ("guided", [*STEER, "rm"], {"rm/config.json": '{"format": 1}'}, "missing key 'reward_mo"),
        (
            "guided",
            [*STEER, "rm"],
            {"rm/config.json": '{"format": 1, "reward_model": {"layer": "x"}}'},
            "reward_model.layer: got 'x', expected a valid integer",
        ),
        (
            "guided",
            [*PROMPT, "--lm", "model", "--chat"],
            {"model/chat_template.jinja": "{% for %}"},
            "does not go through the chat template of 'model': TemplateSyntaxError",
        ),
        (
            "train",
            [*DATA, "--lm", "model"],
            {"model/config.json": '{"model_type": "t5", "architectures": {}}'},
            "architecture 't5' (model_type 't5') is not supported",
        ),
        ("train", [*DATA, "--lm", "model"], {"model/tokenizer.json": "{"}, "no usable tokenizer"),
        (
            "evaluate",
            ["rows.jsonl", "--perplexity-lm", "model"],
            {"model/model.safetensors": b""},
            "model.safetensors: not a usable",
        ),
    ],
    "output in a missing folder": [
        ("guided", [*PROMPT, "--out", "no/new.jsonl"], {}, "folder 'no' does not exist"),
        ("guided", [*PROMPT, "--out", "new/"], {}, "cannot write 'new': it is a folder"),
        ("guided", [*PROMPT, "--out", "data.jsonl"], {}, "--out 'data.jsonl' exists"),
        ("guided", [*PROMPT, "--out", "."], {}, "is a folder; expected a file name"),
        ("evaluate", ["rows.jsonl", "--out", "no/a.json"], {}, "folder 'no' does not exist"),
        ("train", [*DATA, "--run-dir", "data.jsonl"], {}, "run_dir 'data.jsonl' is a file"),
        ("train", [*DATA, "--run-dir", "data.jsonl/run"], {}, "data.jsonl', which is a file"),
        ("train", [*DATA, "--run-dir", "."], {}, "is not empty"),
    ],
}
ROWS = [pytest.param(*row, id=f"{item} {i}") for item in CASES for i, row in enumerate(CASES[item])]
