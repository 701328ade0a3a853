"""Public data sets by name: where they are on the hub, and which of their columns to read.

The form that people have on disk may have other columns than the one on the hub (Amazon's files
have no header), so a preset may hold both. A preset only fills in what the user left unset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """What is known of one data set. Keys of `columns` and `local` are fields of `DataConfig`."""

    columns: dict[str, Any]
    """text and label columns, label range, and whatever else reading needs"""
    hub: str | None = None
    """the hub's id; None: it cannot be read from the hub, only from a file"""
    local: dict[str, Any] = field(default_factory=dict)
    """what is otherwise in the file that its authors publish"""
    about: str = ""
    """where the file comes from, for messages"""


# The order of the outputs in the papers on RAD and its low-rank form.
CIVIL_COMMENTS = (
    "toxicity",
    "severe_toxicity",
    "obscene",
    "identity_attack",
    "insult",
    "threat",
    "sexual_explicit",
)

PRESETS: dict[str, Preset] = {
    "civil_comments": Preset(
        {"text": "text", "labels": CIVIL_COMMENTS}, hub="google/civil_comments"
    ),
    # The competition's file of the same comments; its hub dataset is a script, which `datasets`
    # no longer runs.
    "jigsaw_unintended_bias": Preset(
        {"text": "comment_text", "labels": ("target", *CIVIL_COMMENTS[1:])},
        about="train.csv of Kaggle's Jigsaw Unintended Bias competition; the same comments are on "
        "the hub as civil_comments",
    ),
    "jigsaw_toxic": Preset(
        {
            "text": "comment_text",
            "labels": ("toxic", "severe_toxic", "obscene", "identity_hate", "insult", "threat"),
        },
        about="train.csv of Kaggle's Toxic Comment Classification competition",
    ),
    "amazon_polarity": Preset(
        {"text": "content", "labels": ("label",)},
        hub="fancyzhx/amazon_polarity",
        local={"header": False, "text": "3", "labels": ("1",), "label_min": 1.0, "label_max": 2.0},
    ),
    "sst2": Preset({"text": "sentence", "labels": ("label",)}, hub="stanfordnlp/sst2"),
    # Continuations with their Perspective score; some have none.
    "real_toxicity_prompts": Preset(
        {"text": "continuation.text", "labels": ("continuation.toxicity",), "drop_empty": True},
        hub="allenai/real-toxicity-prompts",
    ),
    "davidson": Preset(
        {"text": "tweet", "labels": ("class",), "label_map": ("0=1", "1=1", "2=0")},
        hub="tdavidson/hate_speech_offensive",
    ),
    "surge_toxicity": Preset(
        {"text": "text", "labels": ("is_toxic",), "label_map": ("Toxic=1", "Not Toxic=0")},
        about="toxicity_en.csv of Surge AI's toxicity data set",
    ),
    "vader_ratings": Preset(
        {"header": False, "text": "3", "labels": ("2",), "label_min": -4.0, "label_max": 4.0},
        about="a ..._GroundTruth.txt file of VADER's authors",
    ),
}
