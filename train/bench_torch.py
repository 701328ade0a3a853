"""The same training steps in PyTorch: Hugging Face's transformer, autograd and fused AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from rewardjax.experiments.bench.torch_models import to_torch, torch_model
from rewardjax.rewards.backbone import bos_id

from .bench import TrainBenchConfig
from .settings import OptimConfig

if TYPE_CHECKING:
    from .bench_cases import Case


def peer(case: Case, config: TrainBenchConfig, optim: OptimConfig) -> Callable[[int], float]:
    """`run(n)`: makes n steps one after the other and gives the last one's loss."""
    import torch

    model, inputs = case.model, case.inputs
    head = {k: _own(v).requires_grad_() for k, v in case.params.trainable["head"].items()}
    tokens, labels = _own(inputs.tokens).long(), _own(inputs.labels)
    weights = torch.arange(1.0, tokens.shape[1] + 1, device=tokens.device)
    if model.transformer is None:
        ((layer, hidden),) = inputs.hidden.items()
        states = _own(hidden)
        if layer != model.lm.num_hidden_layers:
            states = states * (states.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        embedding = to_torch(case.params.frozen["embedding"])
        trained = list(head.values())
        weights[0] = 0.0  # nothing was read before the first token

        def rewards() -> Any:
            h = torch.nn.functional.pad(states[:, :-1], (0, 0, 1, 0))
            projected = h @ head["projection"][0].T
            return (projected * embedding[tokens]).sum(-1) + h @ head["baseline"][0]
    else:
        body = _body(case, config)
        trained = [*head.values(), *(p for p in body.parameters() if p.requires_grad)]
        first = torch.full_like(tokens[:, :1], bos_id(model.transformer))
        read = torch.cat([first, tokens], dim=1)
        half = torch.autocast(tokens.device.type, torch.bfloat16, config.dtype == "bfloat16")

        def rewards() -> Any:
            with half:
                h = body(input_ids=read, use_cache=False).last_hidden_state
            return h[:, 1:].float() @ head["kernel"][:, 0] + head["bias"][0]

    step = torch.optim.AdamW(
        trained,
        lr=optim.learning_rate,
        betas=(optim.b1, optim.b2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )

    def run(steps: int) -> float:
        loss = None
        for _ in range(steps):
            step.zero_grad(set_to_none=True)
            loss = ((rewards() - labels).square() * weights).sum(1).mean() / weights.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, optim.clip)
            step.step()
        return float(loss.detach())  # pyright: ignore[reportOptionalMemberAccess]

    return run


def _own(x: jax.Array) -> Any:
    """A tensor with our values, in memory of its own."""
    return to_torch(x).clone()


def _body(case: Case, config: TrainBenchConfig) -> Any:
    """The backbone, all of it trained, or frozen with adapters beside its kernels."""
    import torch

    model, params = case.model, case.params
    assert model.transformer is not None
    lora = bool(model.config.lora_rank)
    weights = (params.frozen if lora else params.trainable)["backbone"]
    copy = jax.tree.map(lambda x: x + 0, weights)  # PyTorch's steps change theirs in place
    body = torch_model(model.transformer, copy, "float32", lm=False)
    if not lora:
        return body.requires_grad_(True)

    class Adapted(torch.nn.Module):
        """A linear layer, and a product of low rank beside it."""

        def __init__(self, linear: Any, pair: Any) -> None:
            super().__init__()
            self.linear = linear
            self.a = torch.nn.Parameter(_own(pair["a"]))
            self.b = torch.nn.Parameter(_own(pair["b"]))

        def forward(self, x: Any) -> Any:
            scale = model.config.lora_alpha / model.config.lora_rank
            return self.linear(x) + scale * (x @ self.a) @ self.b

    for number, blocks in params.trainable["lora"].items():
        for block, pairs in blocks.items():
            part = getattr(body.layers[int(number)], block)
            for name, pair in pairs.items():
                setattr(part, name, Adapted(getattr(part, name), pair))
    return body
