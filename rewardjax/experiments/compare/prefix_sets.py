"""The texts whose prefixes are the rows of a comparison's rank analyses."""

from __future__ import annotations

from rewardjax.config import from_dict
from rewardjax.data.settings import DataConfig
from rewardjax.data.texts import apart, read_texts, trained_texts
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.compare.programs import program_of, shared
from rewardjax.experiments.compare.settings import CompareConfig, models
from rewardjax.experiments.settings import merge


def prefix_texts(config: CompareConfig) -> dict[str, list[str]]:
    """Texts of `rank.held_out` that the first model has not seen, and those it is trained on.

    The other models are trained on the same texts, unless they change `data`.

    Raises:
      RewardJaxError: no text is unseen, or the first model is trained on no labels.
    """
    rank, first = config.rank, models(config)[0]
    if program_of(first).name != "reward-model":
        raise RewardJaxError(
            f"rank.held_out: the first model, {first.name!r}, is not trained on labelled texts;"
            " put one first that is"
        )
    settings = merge(shared(config, first), first.settings)
    data = from_dict(DataConfig, settings.get("data", {}), source="training.data")
    trained = trained_texts(data, config.seeds[0])
    unseen = apart(read_texts(str(rank.held_out), rank.text_field), trained)
    if not unseen:
        raise RewardJaxError(
            f"rank.held_out: every text of {rank.held_out!r} stands in one that the first model,"
            f" {first.name!r}, is trained on; expected others"
        )
    return {"held-out": unseen, "training": trained}
