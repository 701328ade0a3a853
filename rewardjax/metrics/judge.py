"""A judge of texts: sentence encoder + logistic regression, fitted on labelled texts of one's own.

A judge is independent of a reward model only if it was fitted on other texts, so it carries what
it was fitted on (`Judge.note`, shown under every table it fills). On disk it is a folder of
judge.json and weights.safetensors; the encoder itself is not copied, only named and hashed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from rewardjax.config import from_dict
from rewardjax.data.lines import json_object
from rewardjax.errors import RewardJaxError, require
from rewardjax.metrics.bootstrap import Interval, bootstrap_auc
from rewardjax.metrics.encoder import Encoder, load_encoder

FORMAT = 1
JudgeKind = Literal["sentiment", "toxicity"]


@dataclass(frozen=True)
class Judge:
    """p(positive | text) = sigmoid(weights · encoder(text) + bias)."""

    name: str
    kind: JudgeKind
    encoder: dict[str, str]
    """spec (an alias or a folder), name, version, sha256"""
    weights: Float[np.ndarray, " D"]
    bias: float
    fitted_on: list[dict[str, Any]]
    """one entry per source: name, file, sha256, texts, positive"""
    remark: str = ""
    """what the person who fitted it says of it"""
    threshold: float = 0.5
    """of the probability; written down for readers of judge.json"""
    record: dict[str, Any] = field(default_factory=dict)
    """how it was fitted, and how well it does"""

    @property
    def note(self) -> str:
        """What it was fitted on, in a line."""
        parts = ", ".join(f"{source['name']} ({source['texts']:,})" for source in self.fitted_on)
        return f"fitted on {parts}" + (f"; {self.remark}" if self.remark else "")

    @property
    def version(self) -> str:
        """The encoder's version, and a hash of the weights upon it."""
        digest = hashlib.sha256(self.weights.tobytes() + np.float64(self.bias).tobytes())
        return f"{self.encoder['version']} + logistic {digest.hexdigest()[:12]}"

    def probability(self, vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
        """p(positive) of encoded texts, float64."""
        if vectors.shape[1] != len(self.weights):
            raise RewardJaxError(
                f"judge {self.name!r} has {len(self.weights)} weights and its encoder returns "
                f"vectors of {vectors.shape[1]}; fit the judge again with this encoder"
            )
        logits = vectors @ self.weights + self.bias
        return np.exp(-np.logaddexp(0.0, -logits))

    def scores(self, probability: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """2p − 1 for sentiment (positive above 0), p for toxicity (toxic from .5)."""
        return 2.0 * probability - 1.0 if self.kind == "sentiment" else probability


def fit(
    vectors: Float[np.ndarray, "N D"],
    labels: Bool[np.ndarray, " N"],
    groups: Int[np.ndarray, " N"],
    *,
    choices: Sequence[float],
    folds: int = 5,
    balance: bool = True,
) -> tuple[Float[np.ndarray, " D"], float, dict[str, Any]]:
    """L2-regularised logistic regression, its inverse strength C chosen by cross-validation.

    Args:
      groups: texts of one group are never on both sides of a fold.
      choices: values of C; the one with the least mean held-out log loss is taken.
      balance: weigh the two classes alike, whatever their counts.

    Returns:
      Weights, bias, and {"C", "log_loss": C → mean over the folds}.

    Raises:
      RewardJaxError: one kind of text only, or fewer groups than folds.
    """
    linear, selection = (
        require(f"sklearn.{part}", "judges") for part in ("linear_model", "model_selection")
    )

    if len(np.unique(labels)) < 2 or len(np.unique(groups)) < folds:
        raise RewardJaxError(
            f"{int(labels.sum())} positive of {len(labels)} texts, {len(np.unique(groups))} of "
            f"them apart; expected both kinds and at least {folds} (--folds)"
        )

    def model(c: float) -> Any:
        weight = "balanced" if balance else None
        return linear.LogisticRegression(C=c, max_iter=2000, class_weight=weight)

    loss = {}
    for c in choices:
        part = selection.cross_val_score(
            model(c),
            vectors,
            labels,
            groups=groups,
            cv=selection.GroupKFold(folds),
            scoring="neg_log_loss",
        )
        loss[c] = -float(np.mean(part))
    best = min(loss, key=lambda c: loss[c])
    fitted = model(best).fit(vectors, labels)
    record = {"C": best, "log_loss": {f"{c:g}": value for c, value in loss.items()}}
    return np.asarray(fitted.coef_[0], np.float64), float(fitted.intercept_[0]), record


def quality(
    scores: Float[np.ndarray, " N"],
    labels: Bool[np.ndarray, " N"],
    positive: Bool[np.ndarray, " N"],
) -> tuple[Interval, float]:
    """AUC with its 95% interval over texts, and the share of texts called right.

    Args:
      positive: what the scorer calls each text.
    """
    return bootstrap_auc(scores, labels), float(np.mean(positive == labels))


def save_judge(judge: Judge, folder: str | Path) -> None:
    """Write weights.safetensors and then judge.json, without which the folder is no judge."""
    from safetensors.numpy import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "judge.json").unlink(missing_ok=True)
    weights = {"weights": np.ascontiguousarray(judge.weights), "bias": np.array([judge.bias])}
    # Not save_file, whose files only their owner may read.
    (folder / "weights.safetensors").write_bytes(save(weights))
    values = {"format": FORMAT, **dataclasses.asdict(judge)}
    del values["weights"], values["bias"]
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "judge.json").write_text(text + "\n", encoding="utf-8")


def load_judge(folder: str | Path) -> Judge:
    """The judge in a folder, without its encoder.

    Raises:
      RewardJaxError: a damaged folder, or one of another format.
    """
    from safetensors.numpy import load_file

    file = Path(folder) / "judge.json"
    try:
        saved = from_dict(_Saved, json_object(file.read_text("utf-8")))
        if saved.format != FORMAT or saved.threshold != 0.5:
            raise ValueError(f"format is not {FORMAT}, or threshold not 0.5")
        if not {"spec", "version", "sha256"} <= saved.encoder.keys() or not all(
            isinstance(source.get("name"), str) and isinstance(source.get("texts"), int)
            for source in saved.fitted_on
        ):
            raise ValueError("encoder or fitted_on is not what it should be")
        file = file.with_name("weights.safetensors")
        arrays = load_file(file)
        weights, bias = arrays["weights"], arrays["bias"]
        if not (
            (weights.ndim, bias.shape) == (1, (1,))
            and weights.dtype == bias.dtype == np.float64
            and np.isfinite(weights).all()
            and np.isfinite(bias).all()
        ):
            raise ValueError("expected weights [D] and a bias, float64 and finite")
    except Exception as error:  # whatever a file of another kind can lead to
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise RewardJaxError(
            f"{str(file)!r} is damaged or of another version ({reason}); fit the judge again with "
            "`rewardjax train judge`"
        ) from error
    values = dataclasses.asdict(saved)
    del values["format"]
    return Judge(**values, weights=weights, bias=float(bias[0]))


@dataclass(frozen=True)
class _Saved:
    """judge.json"""

    format: int
    name: str
    kind: JudgeKind
    encoder: dict[str, str]
    fitted_on: list[dict[str, Any]]
    remark: str = ""
    threshold: float = 0.5
    record: dict[str, Any] = field(default_factory=dict)


def judge_encoder(judge: Judge, path: str | Path = "") -> Encoder:
    """The encoder that a judge was fitted on.

    Raises:
      RewardJaxError: it is not there, or it has other weights now.
    """
    encoder = load_encoder(judge.encoder["spec"])
    if encoder.sha256 != judge.encoder["sha256"]:
        raise RewardJaxError(
            f"judge {str(path) or judge.name!r} was fitted on the encoder "
            f"{judge.encoder['version']} with other weights than {encoder.version}; "
            "fit it again, or set encoder.spec in judge.json to where that encoder is"
        )
    return encoder
