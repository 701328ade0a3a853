"""Independent judges of texts: offline, pluggable, named with their version beside each number.

| name | kind | score |
|---|---|---|
| `vader` | sentiment | VADER's compound score, −1..1 |
| `textblob` | sentiment | TextBlob's polarity, −1..1 |
| `alt-profanity-check` | toxicity | probability that the text is offensive, 0..1 |
| a folder of `rewardjax train judge` | its own | 2p − 1 (sentiment) or p (toxicity) |
| `KIND=module:function` | as said | whatever the function returns |

A sentiment scorer sees prompt + continuation and calls a text positive when its score is
strictly above 0; a toxicity scorer sees the continuation alone, and .5 is its threshold; a
`score`, or a `constraint` (0 to 1: how far it is satisfied), is averaged over continuations,
nothing else. Modules are named by flags and configs only: nothing that is read from a data file is
ever imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Float

from rewardjax.errors import RewardJaxError, nearest, require

Kind = Literal["sentiment", "toxicity", "score", "constraint"]


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A named, versioned function from texts to numbers.

    `version` names what computed the number, such as "vaderSentiment 3.3.2"; `note` says what it
    knows texts from, so that a reader can tell whether it is independent of the reward model.
    """

    name: str
    version: str
    kind: Kind
    function: Callable[[list[str]], Any]
    note: str = ""

    @property
    def reads_prompt(self) -> bool:
        """Whether it sees prompt + continuation, and not the continuation alone."""
        return self.kind == "sentiment"

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Scores of N texts, float64.

        Raises:
          RewardJaxError: the function returns another number of scores, or one that is not finite.
        """
        if not texts:
            return np.zeros(0, np.float64)
        try:
            scores = np.asarray(self.function(list(texts)), np.float64)
        except RewardJaxError:
            raise
        except Exception as error:  # the function may be the user's own and raise anything
            raise RewardJaxError(
                f"scorer {self.name!r}: {type(error).__name__}: {str(error)[:120]}; expected one "
                "number per text (--debug shows where)"
            ) from error
        if scores.shape != (len(texts),):
            raise RewardJaxError(
                f"scorer {self.name!r} returned shape {scores.shape} for {len(texts)} texts; "
                f"expected ({len(texts)},)"
            )
        if not np.isfinite(scores).all():
            raise RewardJaxError(f"scorer {self.name!r} returned a score that is not finite")
        return scores


_LEXICON = "a lexicon, fitted on no labelled texts"


def _vader() -> Scorer:
    module = require("vaderSentiment.vaderSentiment", "eval")
    analyzer = module.SentimentIntensityAnalyzer()

    def compound(texts: list[str]) -> list[float]:
        return [analyzer.polarity_scores(text)["compound"] for text in texts]

    return Scorer("vader", _distribution("vaderSentiment"), "sentiment", compound, _LEXICON)


def _textblob() -> Scorer:
    module = require("textblob", "eval")

    def polarity(texts: list[str]) -> list[float]:
        return [module.TextBlob(text).sentiment.polarity for text in texts]

    return Scorer("textblob", _distribution("textblob"), "sentiment", polarity, _LEXICON)


def _alt_profanity_check() -> Scorer:
    with warnings.catch_warnings():
        # Its pickled classifier was written by an older scikit-learn and says so on loading.
        warnings.simplefilter("ignore")
        module = require("profanity_check", "eval")
    return Scorer(
        "alt-profanity-check",
        _distribution("alt-profanity-check"),
        "toxicity",
        module.predict_prob,
        "fitted by its authors on Davidson's tweets and Jigsaw's Wikipedia comments",
    )


def _judge(folder: str) -> Scorer:
    from rewardjax.metrics.judge import judge_encoder, load_judge

    judge = load_judge(folder)
    encoder = judge_encoder(judge, folder)

    def score(texts: list[str]) -> Any:
        return judge.scores(judge.probability(encoder(texts, judge.name)))

    return Scorer(judge.name, judge.version, judge.kind, score, judge.note)


_BUILT_IN: dict[str, Callable[[], Scorer]] = {
    "vader": _vader,
    "textblob": _textblob,
    "alt-profanity-check": _alt_profanity_check,
}
DEFAULT_SCORERS = tuple(_BUILT_IN)


def load_scorer(spec: str) -> Scorer:
    """The scorer that `spec` names: a built-in name, a judge's folder or `[KIND=]module:function`.

    Without a kind the function is a plain `score`. It is called with a list of N texts and
    returns N numbers. The module is looked for in the Python path and the working directory.

    Raises:
      RewardJaxError: unknown name, module or function; a damaged judge, or another encoder.
      MissingExtra: the scorer's package is not installed; the message has the pip command.
    """
    if spec in _BUILT_IN:
        return _BUILT_IN[spec]()
    if Path(spec).is_dir():
        return _judge(spec)
    kind, _, target = spec.rpartition("=")
    kind = kind or "score"
    module_name, colon, function_name = target.partition(":")
    if not colon:
        raise RewardJaxError(
            f"unknown scorer {spec!r}{nearest(spec, _BUILT_IN)}; expected one of "
            f"{', '.join(_BUILT_IN)}, a judge's folder, or KIND=module:function"
        )
    if kind not in get_args(Kind):
        raise RewardJaxError(
            f"scorer {spec!r}: unknown kind {kind!r}{nearest(kind, get_args(Kind))}; "
            f"expected {', '.join(get_args(Kind))}"
        )
    module = _import(module_name, spec)
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise RewardJaxError(
            f"scorer {spec!r}: module {module_name!r} has no function {function_name!r}"
            f"{nearest(function_name, names)}"
        )
    return Scorer(target, _module_version(module), cast(Kind, kind), function)


def load_scorers(specs: Sequence[str]) -> list[Scorer]:
    """Every scorer in turn; a name given twice is refused."""
    twice = {spec for spec in specs if specs.count(spec) > 1}
    if twice:
        raise RewardJaxError(f"scorer {min(twice)!r} is named twice; name each scorer once")
    scorers = [load_scorer(spec) for spec in specs]
    names = [scorer.name for scorer in scorers]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise RewardJaxError(
            f"two scorers are called {min(twice)!r}, and their numbers could not be told apart; "
            'give one another "name" in its judge.json'
        )
    return scorers


def _import(name: str, spec: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise RewardJaxError(
            f"scorer {spec!r}: {name!r} is no module's name; expected KIND=module:function"
        )
    try:
        with _working_directory_importable():
            return importlib.import_module(name)
    except ImportError as error:
        raise RewardJaxError(
            f"scorer {spec!r}: cannot import module {name!r} ({error}); "
            "expected an installed module or one in the working directory"
        ) from error
    except Exception as error:  # a module of the user's own may raise anything
        raise RewardJaxError(
            f"scorer {spec!r}: module {name!r} fails on import ({type(error).__name__}: {error}); "
            "mend it (--debug shows where)"
        ) from error


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    # Last, so that a file here never hides an installed module.
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _distribution(name: str) -> str:
    return f"{name} {importlib.metadata.version(name)}"


def _module_version(module: ModuleType) -> str:
    """Distribution and version of a module; a hash of its file when it belongs to none."""
    top = module.__name__.partition(".")[0]
    owners = importlib.metadata.packages_distributions().get(top)
    if owners:
        return _distribution(owners[0])
    version = getattr(module, "__version__", None)
    if isinstance(version, str):
        return f"{module.__name__} {version}"
    path = getattr(module, "__file__", None)
    if path is None:
        return f"{module.__name__} (no version)"
    return f"{module.__name__} sha256:{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}"
