"""What conversations are judged by: dimensions with their ranges, and what they come to as one number and a reward.

The life of a score: a judge gives every seat a number in each dimension of a rubric; over SEVEN, SOTOPIA's dimensions
(Zhou et al., arXiv:2310.11667), their plain mean is the `overall` score; and `scaled` takes that to the reward's range.
MEASURES are finer, for comparing policies: they say how somebody gets there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Dimension:
    """Something that a seat is judged by.

    Attributes:
      name: as published.
      low, high: its lowest and highest score; whole numbers between them are the usual ones.
      question: what is asked of {name}, and what the ends of the range mean.
    """

    name: str
    low: int
    high: int
    question: str

    @property
    def scores(self) -> range:
        """The whole numbers of its range."""
        return range(self.low, self.high + 1)

    def asked_of(self, name: str) -> str:
        """The question about somebody."""
        return self.question.format(name=name)


Rubric = tuple[Dimension, ...]
Scores = tuple[Mapping[str, float], ...]  # [P] by dimension

SEVEN: Rubric = (
    Dimension(
        "believability",
        0,
        10,
        "Does {name} come across as a real person, and as the one described? Take off for words said again without "
        "reason, for mixing up who is who, for what does not fit the moment. 0: a broken machine, 10: a person.",
    ),
    Dimension(
        "relationship",
        -5,
        5,
        "What did the conversation do to what {name} and the others are to one another, and to how {name} is seen? "
        "-5: a relationship is ruined, 0: all is as before, 5: they are much closer.",
    ),
    Dimension(
        "knowledge",
        0,
        10,
        "How much did {name} learn that is new and matters? 0: nothing, 10: a great deal.",
    ),
    Dimension(
        "secret",
        -10,
        0,
        "Did {name} give away what {name} hides? 0: it is as safe as before, -10: everybody knows now.",
    ),
    Dimension(
        "social_rules",
        -10,
        0,
        "Did {name} break the law or what people expect of one another? 0: not at all, -10: gravely.",
    ),
    Dimension(
        "financial_and_material_benefits",
        -5,
        5,
        "What did {name} win or lose in money, in things, in lasting advantage? -5: a heavy loss, 0: neither, "
        "5: a great gain.",
    ),
    Dimension(
        "goal",
        0,
        10,
        "How far did {name} get with the goal that was given? 0: nowhere, 10: it is reached.",
    ),
)

MEASURES: Rubric = (
    Dimension(
        "compromise_seeking",
        0,
        10,
        "Does {name} look for a middle that all can live with, and give up something for it? 0: never, 10: always.",
    ),
    Dimension(
        "persuasion",
        0,
        10,
        "Does {name} move others by reasons, offers and tone that fit them? 0: not at all, 10: masterly.",
    ),
    Dimension(
        "strategic_commitment",
        0,
        10,
        "Does {name} follow a plan towards the goal and stay with it when others push? 0: drifts, 10: every turn "
        "serves the plan.",
    ),
    Dimension(
        "empathy",
        0,
        10,
        "Does {name} see what others feel and need, and answer to it? 0: ignores them, 10: deeply.",
    ),
    Dimension(
        "mutual_benefit_seeking",
        0,
        10,
        "Does {name} look for what is better for all at once, beyond splitting the difference? 0: never, 10: always.",
    ),
)


def bounds(rubric: Sequence[Dimension]) -> tuple[float, float]:
    """The lowest and the highest mean over a rubric."""
    return sum(d.low for d in rubric) / len(rubric), sum(d.high for d in rubric) / len(rubric)


def overall(scores: Mapping[str, float]) -> float:
    """The plain mean of the seven scores, as in the published ratings. Raises KeyError if one is missing."""
    return sum(scores[dimension.name] for dimension in SEVEN) / len(SEVEN)


def scaled(score: float, reward_range: tuple[float, float]) -> float:
    """An overall score on the reward's scale: the lowest one possible is its low end, the highest its high end."""
    (low, high), (least, most) = bounds(SEVEN), reward_range
    return least + (score - low) / (high - low) * (most - least)
