"""A small comparison of everything that `rewardjax compare` holds, for its tests."""

import json

import numpy as np
import yaml

from rewardjax.cli import main as cli

CONFIG = {
    "name": "tiny comparison",
    "question": "Does it run?",
    "training": {
        "data": {"path": "{texts}", "labels": ["label"], "held_out": 0.2, "split_seed": 0},
        "optim": {"steps": 3, "batch_size": 8, "learning_rate": 1e-3},
    },
    "models": [
        {
            "name": "RAD",
            "settings": {
                "reward_model": {"parametrization": "rad", "backbone": "own", "num_layers": 1}
            },
        },
        {"name": "ARM"},
        {"name": "ARM distilled", "teacher": "RAD", "link": "log_sigmoid", "betas": [2, 5]},
        {"name": "NADO", "program": "nado", "invert": True, "full": False, "betas": [1, 5]},
    ],
    "oracles": {"letter": {"pattern": "[ab]"}},
    "nado": {
        "prompts": {"path": "{prompts}", "limit": 4, "offset": 2, "seed": 0},
        "sampling": {"num_samples": 4, "max_new_tokens": 4},
        "oracle": {"pattern": "[ab]"},
        "reward_model": {"parametrization": "arm"},
        "optim": {"steps": 4, "batch_size": 4, "learning_rate": 0.05, "schedule": "constant"},
        "eval": {"every": 1},
        "checkpoint": {"export": "best"},
        "held_out": 0.25,
    },
    "sweeps": [
        {
            "name": "rank",
            "field": "reward_model.rank",
            "values": [1, 2],
            "settings": {"reward_model": {"parametrization": "arm_rank"}},
            "decode": False,
        }
    ],
    "seeds": [0, 1],
    "arms": [
        {
            "name": "up",
            "prompts": "{prompts}",
            "metric": "vader.positive_rate",
            "most_perplexity": 2.0,
        },
        {
            "name": "down",
            "prompts": "{prompts}",
            "metric": "vader.positive_rate",
            "invert": True,
            "higher_is_better": False,
            "full": False,
            "other_seeds": False,
            "models": ["ARM"],
            "betas": [20],
        },
    ],
    "betas": [5, 10],
    "top_k": 5,
    "protocol": {
        "prompts": 3,
        "samples": 2,
        "max_new_tokens": 3,
        "full_prompts": 2,
        "full_samples": 3,
        "batch_size": 4,
        "perplexity_samples": 1,
    },
    "scorers": ["vader"],
    "rank": {
        "held_out": "{texts}",
        "num_prefixes": 6,
        "columns": "50",
        "check_prefixes": 0,
    },
    "agreement": {"texts": "{texts}", "num_texts": 10, "num_candidates": 3},
}


def write_inputs(folder, lm):
    """Texts, prompts and the YAML in `folder`, for the LM in the folder `lm`."""
    rng = np.random.default_rng(0)
    words = ["good", "bad", "great", "film", "was", "is", "not", "it"]
    lines = [
        {"text": " ".join(rng.choice(words, size=5)) + str(i), "label": i % 2} for i in range(40)
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "prompts.txt").write_text("".join(f"the film {i}\n" for i in range(6)))
    config = CONFIG | {"lm": str(lm), "perplexity_lm": str(lm)}
    (folder / "compare.yaml").write_text(yaml.safe_dump(config))
    return folder


def files(inputs):
    return [f"texts={inputs / 'texts.jsonl'}", f"prompts={inputs / 'prompts.txt'}"]


def command(inputs, *more, out="out", publish="published"):
    folders = ["--out", str(inputs / out), "--publish", str(inputs / publish)]
    config = str(inputs / "compare.yaml")
    return cli(["compare", config, "--files", *files(inputs), *folders, *more])
