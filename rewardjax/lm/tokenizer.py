"""Tokenizers, always as transformers' own class and without torch.

A directory's tokenizer comes from `AutoTokenizer`. A GGUF's is built here from its metadata with
the `tokenizers` library: transformers can do the same, but only with torch installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewardjax.errors import RewardJaxError, short
from rewardjax.lm.json_file import read_json

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_DIGIT = r"\p{N}"
# tokenizer.ggml.pre → the splits that the vocabulary's merges were learned under, in order.
_SPLITS = {
    "default": (_GPT2,),
    "gpt-2": (_GPT2,),
    "smollm": (_DIGIT, _GPT2),
    "starcoder": (_DIGIT, _GPT2),
    "refact": (_DIGIT, _GPT2),
    "command-r": (_DIGIT, _GPT2),
    "llama3": (_LLAMA3,),
    "llama-v3": (_LLAMA3,),
    "llama-bpe": (_LLAMA3,),
    "qwen2": (_QWEN2,),
}
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_LONGEST = 1000
"""Characters of a token: the splits of one are as many, and copies of most of it."""


def tokenizer_from_directory(path: Path) -> Any:
    """`AutoTokenizer` of a model directory; local files only, no remote code."""
    from transformers import AutoTokenizer

    settings = path / "tokenizer_config.json"
    if settings.is_file() and read_json(settings).get("tokenizer_class") == "AutoTokenizer":
        raise RewardJaxError(f"{settings}: tokenizer_class is 'AutoTokenizer'; expected which one")
    try:
        return AutoTokenizer.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False
        )
    except BaseException as error:  # files parsed in many places, each with errors of its own
        _let_through(error)
        reason = " ".join(str(error).split())[:200]
        raise RewardJaxError(
            f"{path}: no usable tokenizer: {type(error).__name__}: {reason}; get its files again"
        ) from error


def tokenizer_from_gguf(gguf: Any) -> Any:
    """`PreTrainedTokenizerFast` from an opened `GGUFFile`: byte-level BPE or SentencePiece BPE."""
    from transformers import PreTrainedTokenizerFast

    meta = {
        k.removeprefix("tokenizer.").removeprefix("ggml."): v
        for k, v in gguf.metadata.items()
        if k.startswith("tokenizer.")
    }
    kind, tokens = meta.get("model"), meta.get("tokens")
    if kind not in ("gpt2", "llama") or not isinstance(tokens, list) or not tokens:
        raise RewardJaxError(
            f"{gguf.path}: GGUF tokenizer {short(kind)} is not supported: expected 'gpt2' or "
            "'llama' with a list of tokens"
        )
    _check_lists(gguf, meta, len(tokens))
    special = {
        name: _token(gguf, tokens, meta.get(key))
        for name, key in (
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            ("pad_token", "padding_token_id"),
        )
    }
    try:
        if gguf.metadata.get("general.architecture") == "gemma3" and kind == "llama":
            meta = _as_gemma(meta)
        backend = _byte_level(gguf, meta) if kind == "gpt2" else _sentencepiece(meta, special)
        _add_special_tokens(backend, meta)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            # llama.cpp adds BOS to a SentencePiece text unless the file says otherwise.
            add_bos_token=bool(meta.get("add_bos_token", kind == "llama")),
            add_eos_token=bool(meta.get("add_eos_token", False)),
            clean_up_tokenization_spaces=False,
            **special,
        )
    except RewardJaxError:
        raise
    except BaseException as error:  # the tokenizers library has no errors of its own
        _let_through(error)
        reason = " ".join(str(error).split())[:200]
        raise RewardJaxError(f"{gguf.path}: unusable GGUF tokenizer: {reason}") from None
    if isinstance(meta.get("chat_template"), str):
        tokenizer.chat_template = meta["chat_template"]
    return tokenizer


def _let_through(error: BaseException) -> None:
    """Raises what is not about the tokenizer, such as Ctrl-C. A panic in Rust is no Exception."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _check_lists(gguf: Any, meta: dict[str, Any], count: int) -> None:
    broken = f"{gguf.path}: unusable GGUF tokenizer:"
    for name, kind, length in (
        ("tokens", str, count),
        ("merges", str, None),
        ("scores", float, count),
        ("token_type", int, count),
    ):
        values = meta.get(name, [kind()] * count)
        if (
            not isinstance(values, list)
            or not all(isinstance(value, kind) for value in values)
            or len(values) != (length or len(values))
        ):
            raise RewardJaxError(
                f"{broken} {name} is {short(values)}, expected a list of {length or 'any'} values"
                f" of type {kind.__name__}"
            )
    if max(map(len, meta["tokens"])) > _LONGEST:
        raise RewardJaxError(f"{broken} a token has more than {_LONGEST} characters")


def _token(gguf: Any, tokens: list[str], index: Any) -> str | None:
    if index is None:
        return None
    if not isinstance(index, int) or not 0 <= index < len(tokens):
        raise RewardJaxError(
            f"{gguf.path}: special token id {short(index)} outside 0..{len(tokens) - 1}"
        )
    return tokens[index]


def _byte_level(gguf: Any, meta: dict[str, Any]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = meta.get("pre", "default")
    if pre not in _SPLITS:
        raise RewardJaxError(
            f"{gguf.path}: GGUF pre-tokenizer {short(pre)} is not supported: "
            f"expected one of {', '.join(_SPLITS)}"
        )
    vocab = {token: i for i, token in enumerate(meta["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in meta.get("merges", [])]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    splits = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in _SPLITS[pre]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _as_gemma(meta: dict[str, Any]) -> dict[str, Any]:
    """Gemma's SentencePiece metadata as `_sentencepiece` wants it.

    Runs of spaces are stored as such, but the text that merges work on has ▁ for each space: they
    become ordinary tokens of ▁. Merges follow the order of the tokens, which the scores of
    user-defined ones (-1000) do not.
    """
    tokens = list(meta["tokens"])
    kinds: list[int] = list(meta.get("token_type") or ())
    for i, token in enumerate(tokens):
        if token and not token.strip(" "):
            tokens[i] = "▁" * len(token)
            if i < len(kinds):
                kinds[i] = _NORMAL
    scores = [-float(i) for i in range(len(tokens))]
    return {
        "add_space_prefix": False,
        **meta,
        "tokens": tokens,
        "token_type": kinds,
        "scores": scores,
    }


def _sentencepiece(meta: dict[str, Any], special: dict[str, str | None]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate(meta["tokens"])}
    if "merges" in meta:
        merges = [tuple(merge.split(" ")) for merge in meta["merges"]]
    else:
        merges = merges_from_scores(vocab, meta["scores"])
    prefix = bool(meta.get("add_space_prefix", True))
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges,
            unk_token=special["unk_token"],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="first" if prefix else "never", split=False
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def merges_from_scores(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """BPE merges that a SentencePiece vocabulary implies: every split of a token into two tokens,
    best token score first."""
    found = []
    for token, index in vocab.items():
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [(a, b) for a, b in pairs if a in vocab and b in vocab]
        pairs.sort(key=lambda p: (vocab[p[0]], vocab[p[1]]))
        found += [(scores[index], len(a), len(b), a, b) for a, b in pairs]
    found.sort(key=lambda m: m[:3], reverse=True)
    return [(a, b) for *_, a, b in found]


def _add_special_tokens(tokenizer: Any, meta: dict[str, Any]) -> None:
    """Control and user-defined tokens are matched whole, before any splitting."""
    from tokenizers import AddedToken

    kinds = list(zip(meta["tokens"], meta.get("token_type") or (), strict=False))
    control = [AddedToken(t, normalized=False, special=True) for t, k in kinds if k == _CONTROL]
    user = [AddedToken(t, normalized=False, special=False) for t, k in kinds if k == _USER_DEFINED]
    # All at once: each call builds the matcher of all added tokens anew.
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(user)
