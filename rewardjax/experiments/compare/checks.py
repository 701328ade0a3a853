"""Settings of a comparison made whole and looked at, before any work."""

from __future__ import annotations

import math

from rewardjax.decoding.settings import LINK_NAMES
from rewardjax.errors import RewardJaxError, nearest
from rewardjax.experiments.compare.settings import CompareConfig, models, strengths
from rewardjax.experiments.settings import slug


def check(config: CompareConfig) -> None:
    """Refuse what cannot mean anything, before any work.

    Raises:
      RewardJaxError: naming the setting.
    """
    every = models(config)
    names = [model.name for model in every]
    for kind, listed in (("model", names), ("arm", [arm.name for arm in config.arms])):
        if not all(listed):
            raise RewardJaxError(f"a {kind} of the comparison has no name; give each one a name")
        if twice := {name for name in listed if listed.count(name) > 1}:
            raise RewardJaxError(f"two {kind}s are named {min(twice)!r}; expected different names")
        slugs = [slug(name) for name in listed]
        if clash := [n for n, s in zip(listed, slugs, strict=True) if slugs.count(s) > 1]:
            raise RewardJaxError(
                f"the names {clash[0]!r} and {clash[1]!r} make the same file name; change one"
            )
    if not every:
        raise RewardJaxError("models is empty; a comparison needs at least one reward model")
    for model in every:
        if model.teacher is not None and model.teacher not in names[: names.index(model.name)]:
            before = names[: names.index(model.name)]
            raise RewardJaxError(
                f"model {model.name!r}: teacher {model.teacher!r} is none of the models before it"
                f"{nearest(model.teacher, before)}"
            )
        if model.program == "attribute" and (model.betas or model.link):
            raise RewardJaxError(
                f"model {model.name!r}: betas and link have no meaning for a fine-tuned LM, which"
                " decodes alone; remove them"
            )
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise RewardJaxError(f"seeds is {list(config.seeds)}; expected different integers")
    for model in every:
        if model.betas:
            _check_betas(f"model {model.name!r}", model.betas)
        if model.link is not None and model.link not in LINK_NAMES:
            raise RewardJaxError(
                f"model {model.name!r}: link is {model.link!r}; expected one of"
                f" {', '.join(LINK_NAMES)}{nearest(model.link, LINK_NAMES)}"
            )
    for arm in config.arms:
        _check_betas(f"arm {arm.name!r}", strengths(config, arm))
        if "." not in arm.metric:
            raise RewardJaxError(
                f"arm {arm.name!r}: metric is {arm.metric!r}; expected SCORER.STATISTIC, such as "
                "vader.positive_rate"
            )
        decoding = [model.name for model in every if model.decode]
        for name in arm.models:
            if name not in decoding:
                raise RewardJaxError(
                    f"arm {arm.name!r}: {name!r} is none of the models that decode"
                    f"{nearest(name, decoding)}"
                )
    protocol = config.protocol
    least = {"prompts": 1, "samples": 1, "max_new_tokens": 1, "full_prompts": 0, "full_samples": 1}
    for name, smallest in least.items():
        if getattr(protocol, name) < smallest:
            got = getattr(protocol, name)
            raise RewardJaxError(f"protocol.{name} is {got}; expected at least {smallest}")
    if config.hours is not None and not 0 < config.hours < math.inf:
        raise RewardJaxError(f"hours is {config.hours}; expected more than 0, and finite")


def _check_betas(where: str, betas: tuple[float, ...]) -> None:
    if not (betas and all(0 < beta <= 1e6 for beta in betas)):
        raise RewardJaxError(
            f"{where}: betas is {list(betas)}; expected numbers above 0, up to 1e6"
        )
