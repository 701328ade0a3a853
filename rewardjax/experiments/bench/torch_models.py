"""Our parameter trees as PyTorch models of Hugging Face, value for value.

PyTorch is a test dependency: nothing here imports it before it is needed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import jax

from rewardjax.errors import RewardJaxError
from rewardjax.lm import LMConfig
from rewardjax.lm.names import hf_plan

PyTree = Any
_ACTIVATIONS = {"gelu_tanh": "gelu_new"}


def check_torch(config: LMConfig) -> None:
    """Refuse peers that cannot be made.

    Raises:
      RewardJaxError: PyTorch is missing or sees no accelerator where JAX does, or the family has
        no counterpart here.
    """
    if importlib.util.find_spec("torch") is None:
        raise RewardJaxError(
            "the PyTorch peers need torch, which is not installed; pip install 'rewardjax[test]',"
            " or pass --no-peers"
        )
    import torch

    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        raise RewardJaxError(
            "JAX runs on a GPU and torch sees none, so they cannot be compared; install a CUDA"
            " build of torch, or pass --no-peers"
        )
    rope = dict(config.rope_scaling or ()).get("rope_type", "default")
    if config.model_type not in ("gpt2", "llama") or rope == "factors":
        raise RewardJaxError(
            f"the PyTorch peers know GPT-2 and Llama, and got a {config.model_type} model with"
            f" {rope!r} positions; pass --no-peers"
        )


def device() -> str:
    """Where the peers run: where JAX runs."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def torch_model(config: LMConfig, params: PyTree, dtype: str, *, lm: bool = True) -> Any:
    """A `transformers` model on `device()` with our weights, in evaluation mode.

    Args:
      params: canonical tree.
      dtype: of its weights.
      lm: with the LM head; without it `last_hidden_state` is the final-norm state.
    """
    import torch
    import transformers

    kind = transformers.AutoModelForCausalLM if lm else transformers.AutoModel
    with torch.device(device()):
        model: Any = kind.from_config(_hf_config(config), dtype=getattr(torch, dtype))
    own = model.state_dict()
    state = {
        name: value
        for name, value in _state_dict(config, params, lm).items()
        if name in own or not name.endswith("lm_head.weight")
    }
    # Tied weights have two names in the model and one here.
    lacking = {name for name in own if name not in state} - {"lm_head.weight"}
    if lacking or (lm and "lm_head.weight" not in state and not config.tie_word_embeddings):
        raise RewardJaxError(f"no weights of ours for {sorted(lacking)[:3]} of the PyTorch model")
    model.load_state_dict(state, strict=False)
    return model.eval().requires_grad_(False)


def to_torch(x: Any) -> Any:
    """A JAX array as a tensor on `device()`, sharing memory where it can."""
    import torch

    return torch.from_dlpack(x).to(device())


def _state_dict(config: LMConfig, params: PyTree, lm: bool) -> dict[str, Any]:
    import torch

    gpt2 = config.model_type == "gpt2"
    prefix = ("transformer." if gpt2 else "model.") if lm else ""
    state = {}
    for name, stored in hf_plan(config).items():
        # GPT-2's fused matrix has q, k and v side by side.
        paths = sorted((path for path, _ in stored.parts), key=lambda p: "qkv".find(p[-2][0]))
        parts = [_leaf(params, path) for path in paths]
        if any(part is None for part in parts):
            continue  # a reward model's backbone has no LM head
        kernel = paths[0][-1] == "kernel"
        tensors = [to_torch(part) for part in parts]
        tensor = torch.cat(tensors, dim=-1) if len(tensors) > 1 else tensors[0]
        # GPT-2's Conv1D keeps kernels [in, out] as we do; nn.Linear keeps [out, in].
        if kernel and (not gpt2 or name.startswith("lm_head")):
            tensor = tensor.T
        state[name if name.startswith("lm_head") else prefix + name] = tensor
    return state


def _leaf(params: PyTree, path: tuple[str, ...]) -> Any:
    for part in path:
        if part not in params:
            return None
        params = params[part]
    return params


def _hf_config(config: LMConfig) -> Any:
    import transformers

    c = config
    common: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_word_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    activation = _ACTIVATIONS.get(c.activation, c.activation)
    if c.model_type == "gpt2":
        return transformers.GPT2Config(
            n_embd=c.hidden_size,
            n_inner=c.intermediate_size,
            n_layer=c.num_hidden_layers,
            n_head=c.num_attention_heads,
            n_positions=c.max_position_embeddings,
            layer_norm_epsilon=c.norm_eps,
            activation_function=activation,
            **common,
        )
    rope = {"rope_type": "default", **dict(c.rope_scaling or ()), "rope_theta": c.rope_theta}
    return transformers.LlamaConfig(
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads,
        head_dim=c.head_dim,
        max_position_embeddings=c.max_position_embeddings,
        rms_norm_eps=c.norm_eps,
        rope_parameters=rope,
        attention_bias=c.attention_bias,
        mlp_bias=c.mlp_bias,
        hidden_act=activation,
        **common,
    )
