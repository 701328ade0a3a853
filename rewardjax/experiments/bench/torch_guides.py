"""RAD and ARM in PyTorch, as logits processors for Hugging Face's `generate`.

The reward model keeps keys and values of its own in one preallocated tensor. RAD scores all
candidates of all rows in one forward over the shared prefix, each seeing the prefix and itself;
the chosen one's keys and values are kept. ARM reads the newest token: one forward per token.
A batch's prompts are of one length, so no padding is masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Prefix:
    """Keys and values of what the reward model has read, as `transformers` asks of a cache."""

    def __init__(self, config: Any, batch: int, room: int, like: Any) -> None:
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        width = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
        self.kv = like.new_empty(2, config.num_hidden_layers, batch, heads, room, width)
        self.length = 0

    def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Puts keys and values [B, K, Q, H] behind the prefix; views of all up to there."""
        end = self.length + keys.shape[2]
        both = self.kv[:, layer]
        both[0, :, :, self.length : end] = keys
        both[1, :, :, self.length : end] = values
        return both[0, :, :, :end], both[1, :, :, :end]

    def keep(self, rows: Any, chosen: Any) -> None:
        """Of the candidates behind the prefix, row b's number `chosen[b]` joins it."""
        found = self.kv[:, :, rows, :, self.length + chosen]  # [B, 2, L, K, H]
        self.kv[:, :, :, :, self.length] = found.permute(1, 2, 0, 3, 4)
        self.length += 1

    def get_seq_length(self, layer: int = 0) -> int:
        return self.length

    def get_query_offset(self, layer: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, queries: int, layer: int = 0) -> tuple[int, int]:
        return self.length + queries, 0


class Guide(ABC):
    """z + β clip(r, 0, 1) on the k candidates with the largest logits, -inf elsewhere.

    One object serves one call of `generate`.
    """

    def __init__(self, body: Any, head: dict[str, Any], bos: int, k: int, beta: float, room: int):
        self.body, self.head, self.bos, self.k, self.beta = body, head, bos, k, beta
        self.room = room
        self.prefix: Prefix | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        values, ids = scores.topk(self.k)
        steered = values.float() + self.beta * self.rewards(input_ids, ids).clamp(0, 1)
        return scores.new_full(scores.shape, -float("inf")).scatter_(
            1, ids, steered.to(scores.dtype)
        )

    @abstractmethod
    def rewards(self, input_ids: Any, ids: Any) -> Any:
        """Raw rewards float32[B, k] of the candidates `ids` after the texts so far."""

    def read(self, tokens: Any, **named: Any) -> Any:
        """Final hidden states of tokens [B, Q], read behind the prefix; they do not join it."""
        assert self.prefix is not None
        return self.body(
            input_ids=tokens, past_key_values=self.prefix, use_cache=True, **named
        ).last_hidden_state

    def read_prompts(self, input_ids: Any) -> Any:
        """The same of BOS and prompts, which are the prefix from then on."""
        from torch.nn.functional import pad

        like = next(self.body.parameters())
        tokens = pad(input_ids, (1, 0), value=self.bos)
        self.prefix = Prefix(self.body.config, len(tokens), tokens.shape[1] + self.room, like)
        states = self.read(tokens)
        self.prefix.length = tokens.shape[1]
        return states


class ArmGuide(Guide):
    """<w, h> + <W h, e(v)>; head: projection [1, D, D], baseline [1, D], embedding [V, D]."""

    def rewards(self, input_ids: Any, ids: Any) -> Any:
        if self.prefix is None:
            h = self.read_prompts(input_ids)[:, -1]
        else:
            h = self.read(input_ids[:, -1:])[:, -1]
            self.prefix.length += 1
        h = h.float()
        projected = h @ self.head["projection"][0].T
        tokens = self.head["embedding"][ids].float()
        return h @ self.head["baseline"].T + (tokens @ projected[:, :, None])[..., 0]


class RadGuide(Guide):
    """<w, h> + b of the state that has read the candidate; head: kernel [D, 1], bias [1]."""

    candidates: Any = None

    def rewards(self, input_ids: Any, ids: Any) -> Any:
        import torch

        if self.prefix is None:
            self.read_prompts(input_ids)
        else:
            chosen = (self.candidates == input_ids[:, -1:]).int().argmax(dim=1)
            self.prefix.keep(torch.arange(len(ids), device=ids.device), chosen)
        assert self.prefix is not None
        self.candidates = ids
        length, k = self.prefix.length, ids.shape[1]
        eye = torch.eye(k, dtype=torch.bool, device=ids.device)
        mask = torch.cat([eye.new_ones(k, length), eye], dim=1)[None, None]
        positions = torch.full_like(ids, length)
        states = self.read(ids, attention_mask=mask, position_ids=positions)
        return (states.float() @ self.head["kernel"] + self.head["bias"])[..., 0]


GUIDES = {"arm": ArmGuide, "rad": RadGuide}
