"""Reward models as directories: what was trained, and which LM it belongs to.

    config.json           parametrization, link, base LM (source, fingerprint), backbone
    model.safetensors     the trainable part only, float32; names are paths in the parameter tree

The frozen part (embeddings) is read from the LM again, whose fingerprint must match.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rewardjax import hosts
from rewardjax.config import from_dict
from rewardjax.data.lines import json_object
from rewardjax.decoding.settings import LINK_NAMES
from rewardjax.errors import RewardJaxError, short
from rewardjax.lm import LM, LMConfig, OpenedLM, first_layers, open_lm, unstack_layers
from rewardjax.lm.checks import check_config, mapping
from rewardjax.lm.config import freeze
from rewardjax.lm.params import cut_config, param_shapes
from rewardjax.lm.save import new_folder
from rewardjax.rewards import RewardModel, RewardModelConfig, RewardParams, build
from rewardjax.sharding import place

PyTree = Any
FORMAT = 1
_NAME = re.compile(r"\w+(\.\w+){0,20}", re.ASCII)


@dataclass(frozen=True)
class TrainedRewardModel:
    """A reward model as trained, not yet tied to a loaded LM: call `bind`."""

    config: RewardModelConfig
    link: str
    """how raw rewards become rho in decoding: one of `decoding.settings.LINK_NAMES`"""
    base_source: str
    base_fingerprint: str
    transformer: LMConfig | None
    backbone_fingerprint: str | None
    """of the LM that the backbone of its own started from"""
    trainable: PyTree

    def bind(self, lm: LM) -> tuple[RewardModel, RewardParams]:
        """The static model and its parameters on this LM, ready for decoding.

        LoRA adapters are merged into the weights (`RewardModel.merge`). A backbone of its own
        runs in the LM's dtype; heads stay float32.

        Raises:
            RewardJaxError: another LM than the one it was trained for (both fingerprints named).
        """
        if lm.fingerprint != self.base_fingerprint:
            raise RewardJaxError(
                f"this reward model belongs to the LM {self.base_source!r} with fingerprint"
                f" {self.base_fingerprint}, but {lm.source!r} has fingerprint {lm.fingerprint};"
                " load that LM, or train a reward model for this one"
            )
        model = build(self.config, lm.config, self.transformer)
        self._check_tensors(model)
        frozen = {}
        if not model.reads_candidates or self.config.lora_rank:  # else all of it trained
            _, weights, fingerprint = start(self.config, lm)
            if fingerprint != self.backbone_fingerprint:
                raise RewardJaxError(
                    f"the backbone's source {self.config.init!r} has fingerprint {fingerprint}, but"
                    f" this reward model was trained from {self.backbone_fingerprint}; restore it"
                )
            frozen = model.freeze(weights)
        model, params = model.merge(RewardParams(self.trainable, frozen))
        return model, place(_in_dtype(lm.params["embed_tokens"]["embedding"].dtype, params))

    def shapes(self, lm: LMConfig, dtype: Any) -> tuple[RewardModel, RewardParams]:
        """What `bind` will give on an LM of this config and dtype, as `jax.ShapeDtypeStruct`s.

        Reads no weights, so it does not know whether it is the right LM.
        """
        model = build(self.config, lm, self.transformer)
        source = dtype if self.config.init is None else jnp.float32
        weights = param_shapes(model.transformer or lm, source)
        merged = []

        def bound(weights: PyTree) -> RewardParams:
            made, params = model.merge(model.init(jax.random.key(0), weights))
            merged.append(made)
            return _in_dtype(dtype, params)

        params = jax.eval_shape(bound, weights)
        return merged[0], params

    def _check_tensors(self, model: RewardModel) -> None:
        """Compares the saved tensors' names and shapes with what the config describes."""
        weights = param_shapes(model.transformer or model.lm)
        wanted = jax.eval_shape(model.init, jax.random.key(0), weights).trainable
        expected = {name: x.shape for name, x in _flatten(wanted).items()}
        got = {name: x.shape for name, x in _flatten(self.trainable).items()}
        wrong = sorted(n for n in expected.keys() | got.keys() if expected.get(n) != got.get(n))
        if wrong:
            raise RewardJaxError(
                f"the reward model's tensors do not fit its config.json: {len(wrong)} differ, the"
                f" first {wrong[0]!r}: got {got.get(wrong[0], 'none')}, expected"
                f" {expected.get(wrong[0], 'none')}; train or copy the reward model again"
            )


def _in_dtype(dtype: Any, params: RewardParams) -> RewardParams:
    def cast(tree: PyTree) -> PyTree:
        if "backbone" not in tree:
            return tree
        return {**tree, "backbone": jax.tree.map(lambda x: x.astype(dtype), tree["backbone"])}

    return RewardParams(cast(params.trainable), cast(params.frozen))


def context(lm: LM | OpenedLM, reward_model: TrainedRewardModel | None) -> int:
    """Longest text, in tokens, that both can read; a backbone of its own also reads a BOS."""
    room = lm.config.max_position_embeddings
    if reward_model is None or reward_model.transformer is None:
        return room
    return min(room, reward_model.transformer.max_position_embeddings - 1)


def architecture(config: RewardModelConfig, lm: LM | OpenedLM) -> RewardModel:
    """The static model; needs no weights, so that bad settings are refused before they load.

    Raises:
        RewardJaxError: settings that do not fit the LM, or a backbone whose vocabulary gives
            other ids than the LM's.
    """
    if config.backbone == "base":
        return build(config, lm.config)
    return build(config, lm.config, _backbone(config, lm, _source(config, lm)))


def start(config: RewardModelConfig, lm: LM) -> tuple[RewardModel, PyTree, str | None]:
    """Static model, the weights it starts from, and the fingerprint of a backbone's source.

    Raises:
        RewardJaxError: as `architecture`.
    """
    if config.backbone == "base":
        return build(config, lm.config), lm.params, None
    source = _source(config, lm)
    transformer = _backbone(config, lm, source)
    loaded = source.load() if isinstance(source, OpenedLM) else source
    config_, params = loaded.config, loaded.params
    if config_.scan_layers:  # reward models speak the canonical, per-layer tree only
        config_, params = dataclasses.replace(config_, scan_layers=False), unstack_layers(params)
    _, weights = first_layers(config_, params, transformer.num_hidden_layers)
    return build(config, lm.config, transformer), weights, loaded.fingerprint


def _source(config: RewardModelConfig, lm: LM | OpenedLM) -> LM | OpenedLM:
    return lm if config.init is None else open_lm(config.init)


def _backbone(config: RewardModelConfig, lm: LM | OpenedLM, source: LM | OpenedLM) -> LMConfig:
    if source is not lm:
        compare_vocabularies(lm, source)
    layers = config.num_layers
    unrolled = dataclasses.replace(source.config, scan_layers=False)
    return cut_config(unrolled, source.config.num_hidden_layers if layers is None else layers)


def compare_vocabularies(lm: LM | OpenedLM, backbone: LM | OpenedLM) -> None:
    """Refuses a backbone whose ids differ: the same id must be the same token in both."""
    ours, theirs = lm.vocab, backbone.vocab
    different = [
        token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)
    ]
    sizes = lm.config.vocab_size, backbone.config.vocab_size
    if not different and sizes[0] > sizes[1]:
        raise RewardJaxError(
            f"{backbone.source!r} has {sizes[1]} token embeddings and {lm.source!r} has {sizes[0]}"
            " (the same tokens, other padding); choose a backbone with at least as many"
        )
    if different:
        first = min(different, default="")
        raise RewardJaxError(
            f"vocabularies differ: {len(different)} tokens have other ids in {backbone.source!r}"
            f" than in {lm.source!r} (e.g. {first!r}: {theirs.get(first)} against"
            f" {ours.get(first)}); choose a backbone that shares the LM's tokenizer"
        )


def save_reward_model(
    directory: str | Path,
    config: RewardModelConfig,
    trainable: PyTree,
    lm: LM,
    *,
    link: str = "clip",
    transformer: LMConfig | None = None,
    backbone_fingerprint: str | None = None,
) -> TrainedRewardModel:
    """Writes a reward model; the directory appears whole or not at all."""
    trained = TrainedRewardModel(
        config, link, lm.source, lm.fingerprint, transformer, backbone_fingerprint, trainable
    )
    tensors = {k: hosts.fetch(x).astype(np.float32) for k, x in _flatten(trainable).items()}
    if hosts.is_first():
        _write(Path(directory), trained, tensors)
    hosts.wait("reward model")
    return trained


def _write(directory: Path, trained: TrainedRewardModel, tensors: dict[str, np.ndarray]) -> None:
    with new_folder(directory) as new:
        save_file(tensors, new / "model.safetensors")
        transformer = trained.transformer
        description = {
            "format": FORMAT,
            "reward_model": asdict(trained.config),
            "link": trained.link,
            "base_lm": {"source": trained.base_source, "fingerprint": trained.base_fingerprint},
            "transformer": transformer.to_dict() if transformer else None,
            "backbone_fingerprint": trained.backbone_fingerprint,
        }
        (new / "config.json").write_text(json.dumps(description, indent=2) + "\n")


def load_reward_model(directory: str | Path) -> TrainedRewardModel:
    """Reads what `save_reward_model` wrote.

    Raises:
        RewardJaxError: missing, truncated or inconsistent files, named.
    """
    directory = Path(directory)
    path = directory / "config.json"
    if not path.is_file():
        raise RewardJaxError(
            f"{directory} is not a reward model directory: it has no config.json; expected what"
            " `rewardjax train reward-model` writes to RUN_DIR/reward_model"
        )
    try:
        saved = json_object(path.read_text(encoding="utf-8"))
        if saved.get("format") != FORMAT:
            raise ValueError(f"format {short(saved.get('format'))}; expected format {FORMAT}")
        found = from_dict(_Description, saved)
        if found.link not in LINK_NAMES:
            raise ValueError(f"link {short(found.link)}; expected {' or '.join(LINK_NAMES)}")
        for name in ("outputs", "rank", "num_layers", "lora_rank"):
            if not 0 <= (getattr(found.reward_model, name) or 0) < 2**31:
                raise ValueError(f"reward_model.{name} is out of range")
        transformer = None if found.transformer is None else _transformer(found.transformer)
    except (ValueError, OSError, RewardJaxError) as error:
        raise RewardJaxError(
            f"{path} is damaged or from another version of rewardjax ({error}); train or copy the"
            " reward model again"
        ) from error
    return TrainedRewardModel(
        found.reward_model,
        found.link,
        found.base_lm.source,
        found.base_lm.fingerprint,
        transformer,
        found.backbone_fingerprint,
        _load_tensors(directory / "model.safetensors"),
    )


@dataclass(frozen=True)
class _BaseLM:
    source: str
    fingerprint: str


@dataclass(frozen=True)
class _Description:
    """config.json"""

    format: int
    reward_model: RewardModelConfig
    link: str
    base_lm: _BaseLM
    transformer: dict[str, Any] | None
    backbone_fingerprint: str | None


def _transformer(values: dict[str, Any]) -> LMConfig:
    """Raises RewardJaxError or ValueError: an architecture that no model can have."""
    scaling = mapping(values.get("rope_scaling"), "transformer.rope_scaling")
    config = from_dict(LMConfig, {**values, "rope_scaling": None}, source="transformer")
    return check_config(
        # How a model is computed at the moment is not the file's to say.
        dataclasses.replace(
            config, rope_scaling=freeze(scaling) or None, remat="none", compute_dtype=None
        )
    )


def _load_tensors(path: Path) -> PyTree:
    flat = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  not a dict
                dtype = file.get_slice(name).get_dtype()
                if dtype != "F32" or len(name) > 200 or not _NAME.fullmatch(name):
                    raise ValueError(
                        f"it holds {short(name)} of type {dtype}; expected a path of words, and F32"
                    )
                flat[name] = file.get_tensor(name)
    except (OSError, SafetensorError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RewardJaxError(
            f"{path} cannot be read ({reason}); train or copy the reward model again"
        ) from error
    tree: dict = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict) or leaf in node:
            raise RewardJaxError(
                f"{path}: tensor {short(name)} stands for a group and an array at once"
            )
        node[leaf] = jnp.asarray(value)
    return tree


def _flatten(tree: PyTree, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= _flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat
