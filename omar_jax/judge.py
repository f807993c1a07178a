"""Judges in a run: finished games become scores, scores rewards, and turns that are no good train nothing.

The life of a game after play: it becomes a case (`judge_cases`); a judge, which is rules (`judge_rules`), a model of
ours (`judge_local`) or one behind an endpoint (`judge_endpoint`), gives every seat its scores (`judge_rubrics`); their
overall score becomes the reward where the environment counts no points, or a part of it, as the settings say. A game
that its judge failed on keeps no rewards, as one that was cut, and trains nothing; too many of them stop the run.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from omar_jax import hosts, judge_cases, judge_rubrics, judge_rules
from omar_jax.endpoint import Endpoint
from omar_jax.envs.sotopia import Sotopia
from omar_jax.judge_cases import Case, Failure, Said
from omar_jax.judge_endpoint import EndpointJudge
from omar_jax.judge_local import LocalJudge
from omar_jax.judge_rubrics import SEVEN, Rubric, Scores
from omar_jax.judge_rules import RulesJudge
from omar_jax.model.decoder import Decoder
from omar_jax.text.chat import Chat
from omar_jax.types import Episode, Params, Turn

BACKENDS = ("rules", "local", "openai")


class JudgeError(ValueError):
    """A judge that failed on more games than it may; the message is one line."""


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """Who judges, what for, and what becomes of it.

    Attributes:
      backend: of BACKENDS.
      reward_range: the rewards of the lowest and of the highest overall score.
      points_weight, judge_weight: in games with points the reward is their sum, weighed so; at judge_weight 0 those
        are not judged. Games without points have the judge's reward alone.
      turns: whether it also says of every turn whether it is any good; those that are not train nothing.
      most_failed: the largest share of games that it may fail on.
      games, transcript_tokens: of a local judge, see LocalJudge.
      model, url: of an endpoint.
      at_once, timeout, retries: its patience, see Endpoint; seconds.
      attempts, answer_tokens, schema: see EndpointJudge.
    """

    backend: str = "rules"
    reward_range: tuple[float, float] = (0.0, 1.0)
    points_weight: float = 1.0
    judge_weight: float = 0.0
    turns: bool = False
    most_failed: float = 0.25
    games: int = 4
    transcript_tokens: tuple[int, ...] = (512, 1024, 2048)
    model: str = ""
    url: str = ""
    at_once: int = 8
    timeout: float = 120.0
    retries: int = 5
    attempts: int = 3
    answer_tokens: int = 2048
    schema: bool = True

    def __post_init__(self):
        sizes, (low, high) = self.transcript_tokens, self.reward_range
        ascending = len(sizes) > 0 and sizes[0] > 0 and list(sizes) == sorted(set(sizes))
        right = {
            "backend": (self.backend in BACKENDS, f"one of {', '.join(BACKENDS)}"),
            "reward_range": (low < high, "two numbers, the second above the first"),
            "most_failed": (0 <= self.most_failed <= 1, "between 0 and 1"),
            "transcript_tokens": (ascending, "ascending sizes, as in (512, 1024)"),
            "timeout": (self.timeout > 0, "above 0"),
            "retries": (self.retries >= 0, "at least 0"),
            **{name: (getattr(self, name) >= 1, "at least 1") for name in ("games", "at_once", "attempts")},
            "answer_tokens": (self.answer_tokens >= 1, "at least 1"),
            **{
                name: (self.backend != "openai" or getattr(self, name), "given for openai") for name in ("model", "url")
            },
        }
        for name, (holds, what) in right.items():
            if not holds:
                raise ValueError(f"judge.{name}={getattr(self, name)!r} cannot be used: it must be {what}")


class Judge(Protocol):
    """Who judges finished conversations.

    Both calls answer case by case, with a Failure where there is no answer; once more cases failed than
    `most_failures` they may give up on the rest.
    """

    def scores(self, cases: Sequence[Case], rubric: Rubric, most_failures: int) -> Sequence[Scores | Failure]:
        """The seats' scores in every dimension of the rubric."""
        ...

    def turns(
        self, cases: Sequence[Case], asked: Sequence[Sequence[Said]], most_failures: int
    ) -> Sequence[list[bool] | Failure]:
        """Whether turns are any good: those of each case that are asked for, all that were said before being known."""
        ...


class _Judged(NamedTuple):
    """What was found of one game; `scores` and `turns` are None where they were not asked for."""

    scores: Scores | Failure | None
    turns: Mapping[tuple[int, int], bool] | Failure | None  # by step and seat
    leaks: tuple[bool, ...]
    has_points: bool

    @property
    def failure(self) -> Failure | None:
        return next((found for found in (self.scores, self.turns) if isinstance(found, Failure)), None)

    @property
    def asked(self) -> bool:
        return self.scores is not None or self.turns is not None


class Scored(NamedTuple):
    """Judged games.

    Attributes:
      episodes: with their rewards and their turns kept or not, in their order.
      numbers: for the metrics, see `Jury.score`.
      scores: of each episode, None for those that were not judged or failed.
    """

    episodes: list[Episode]
    numbers: dict[str, float]
    scores: list[Scores | None]


class Jury:
    """A judge, and what becomes of what it says.

    Args:
      env: whose games are judged.
      judge: who judges.
      settings: what for.
      endpoint: of the judge, if it has one, for what it costs.
    """

    def __init__(self, env: Sotopia, judge: Judge, settings: JudgeSettings, endpoint: Endpoint | None = None):
        self.env, self.judge, self.settings, self.endpoint = env, judge, settings, endpoint

    def score(self, episodes: Sequence[Episode]) -> Scored:
        """Judges finished games; with several processes each judges its share, and all get everything.

        Episodes get the event "leaks", how many gave their secret away, and "leaks_ROLE", all found by rule.

        Numbers, over seats that learn: judge/NAME, the mean in each dimension, judge/overall and judge/leaked_share of
        seats; and judge/games, judge/failed_share of the games that were judged, judge/refused_share of the turns
        that were, judge/seconds, and what an endpoint cost: judge/requests, judge/prompt_tokens, judge/answer_tokens.
        What there is nothing to average for is left out.

        Raises:
          JudgeError: it failed on a larger share of games than settings.most_failed.
          StopRequested: the judge's check did, in this process or another.
        """
        begun, mine = time.perf_counter(), hosts.share(episodes)
        most_failures = int(self.settings.most_failed * len(episodes))
        everywhere = hosts.together(lambda: self._judge(mine, most_failures))
        judged = [of_game for games, _ in everywhere for of_game in games]
        self._check_failures([of_game for of_game in judged if of_game is not None and of_game.asked])
        done = [self._apply(*pair) for pair in zip(episodes, judged, strict=True)]
        scores = [None if of is None or of.failure else of.scores for of in judged]
        numbers = _numbers(episodes, judged) | {"judge/seconds": time.perf_counter() - begun}
        for name in everywhere[0][1]:
            numbers[f"judge/{name}"] = float(sum(cost[name] for _, cost in everywhere))
        return Scored(done, numbers, scores)

    def measure(self, records: Sequence[Mapping[str, Any]], rubric: Rubric) -> list[Scores | None]:
        """The scores of recorded games (`matches.record`), None where the judge failed; for the arena.

        Raises:
          JudgeError: as `score` does.
        """
        most_failures = int(self.settings.most_failed * len(records))
        mine = hosts.share(records)

        def judge():
            return self.judge.scores([judge_cases.of_record(self.env, of) for of in mine], rubric, most_failures)

        found = [of_game for games in hosts.together(judge) for of_game in games]
        self._check_failures([_Judged(of_game, None, (), False) for of_game in found])
        return [None if isinstance(of_game, Failure) else of_game for of_game in found]

    def _judge(
        self, episodes: Sequence[Episode], most_failures: int
    ) -> tuple[list[_Judged | None], Mapping[str, float]]:
        """What is found of each game, None of those cut short; and what it cost."""
        before = self._cost()
        over = [n for n, episode in enumerate(episodes) if episode.rewards is not None]
        cases = {n: judge_cases.of_episode(self.env, episodes[n]) for n in over}
        wanted = [n for n in over if cases[n].shares is None or self.settings.judge_weight]
        scores = self._of(wanted, lambda some: self.judge.scores(_pick(cases, some), SEVEN, most_failures))
        asked = {n: _free_turns(episodes[n], cases[n]) for n in over if self.settings.turns}
        turns = self._of(
            list(asked), lambda some: self.judge.turns(_pick(cases, some), _pick(asked, some), most_failures)
        )
        found: list[_Judged | None] = [None] * len(episodes)
        for n in over:
            good = turns.get(n)
            if isinstance(good, list):
                good = {(said.step, said.seat): of for said, of in zip(asked[n], good, strict=True)}
            found[n] = _Judged(scores.get(n), good, judge_rules.leaks(cases[n]), cases[n].shares is not None)
        return found, {name: value - before[name] for name, value in self._cost().items()}

    @staticmethod
    def _of(numbers: list[int], judge: Callable[[list[int]], Sequence[Any]]) -> dict[int, Any]:
        return dict(zip(numbers, judge(numbers), strict=True)) if numbers else {}

    def _cost(self) -> dict[str, float]:
        return self.endpoint.cost._asdict() if self.endpoint else {}

    def _check_failures(self, asked: Sequence[_Judged]) -> None:
        failures = [of_game.failure for of_game in asked if of_game.failure]
        if len(failures) > self.settings.most_failed * len(asked):
            raise JudgeError(
                f"the judge failed on {len(failures)} of {len(asked)} games, more than the share of "
                f"config.judge.most_failed={self.settings.most_failed}: {failures[-1].reason}"
            )

    def _apply(self, episode: Episode, judged: _Judged | None) -> Episode:
        """The game with its rewards, its leaks among the events, and its turns kept or not."""
        if judged is None:
            return episode
        leaks = {f"leaks_{role}": float(leaked) for role, leaked in zip(episode.roles, judged.leaks, strict=True)}
        events = {**episode.events, "leaks": float(sum(judged.leaks)), **leaks}
        episode = dataclasses.replace(episode, events=events)
        if judged.failure:
            return dataclasses.replace(episode, rewards=None)
        if judged.turns is not None:
            episode = _kept(episode, judged.turns)
        return dataclasses.replace(episode, rewards=self._rewards(episode.rewards, judged))

    def _rewards(self, points: tuple[float, ...], judged: _Judged) -> tuple[float, ...]:
        if judged.scores is None:
            return points
        s = self.settings
        rewards = [judge_rubrics.scaled(judge_rubrics.overall(of), s.reward_range) for of in judged.scores]
        if judged.has_points:
            pairs = zip(points, rewards, strict=True)
            rewards = [s.points_weight * own + s.judge_weight * reward for own, reward in pairs]
        return tuple(rewards)


def build(
    settings: JudgeSettings,
    env: Sotopia,
    model: Decoder,
    chat: Chat,
    weights: Callable[[], Params],
    folder: Path,
    check: Callable[[], None],
) -> Jury:
    """The jury of a run.

    Args:
      settings: checked.
      env: whose games are judged.
      model: of a local judge, on the devices of this process.
      chat: its text.
      weights: its parameters, such as the cold start's.
      folder: where answers of an endpoint are kept.
      check: called now and then; raises StopRequested where the run is to stop.

    Raises:
      EndpointError: the openai package is missing.
    """
    if settings.backend == "rules":
        return Jury(env, RulesJudge(), settings)
    if settings.backend == "local":
        local = LocalJudge(model, weights, chat, settings.games, settings.transcript_tokens, check)
        return Jury(env, local, settings)
    kept = folder / f"answers_{jax.process_index()}.jsonl"
    s = settings
    endpoint = Endpoint(s.model, s.url, s.at_once, s.timeout, s.retries, kept, check)
    return Jury(env, EndpointJudge(endpoint, s.attempts, s.answer_tokens, s.schema), s, endpoint)


def _pick(by_number: Mapping[int, Any], numbers: Iterable[int]) -> list[Any]:
    return [by_number[n] for n in numbers]


def _free_turns(episode: Episode, case: Case) -> list[Said]:
    """The turns of a case that a filter may take out: free text, and not taken out already."""

    def turn(said: Said) -> Turn:
        return episode.steps[said.step].turns[said.seat]

    return [said for said in case.said if turn(said).legal is None and turn(said).kept]


def _kept(episode: Episode, good: Mapping[tuple[int, int], bool]) -> Episode:
    """The episode without the turns that are no good."""
    steps = tuple(
        dataclasses.replace(
            said,
            turns={
                seat: dataclasses.replace(turn, kept=turn.kept and good.get((step, seat), True))
                for seat, turn in said.turns.items()
            },
        )
        for step, said in enumerate(episode.steps)
    )
    return dataclasses.replace(episode, steps=steps)


def _numbers(episodes: Sequence[Episode], judged: Sequence[_Judged | None]) -> dict[str, float]:
    """See `Jury.score`."""
    pairs = [(episode, of) for episode, of in zip(episodes, judged, strict=True) if of is not None]
    asked = [of for _, of in pairs if of.asked]
    numbers = {"judge/games": float(len(asked))}
    if asked:
        numbers["judge/failed_share"] = float(np.mean([of.failure is not None for of in asked]))
    scores = [
        of.scores[seat]
        for episode, of in pairs
        for seat in range(len(episode.roles))
        if of.scores is not None and not of.failure and episode.is_learner(seat)
    ]
    if scores:
        numbers |= {f"judge/{d.name}": float(np.mean([of[d.name] for of in scores])) for d in SEVEN}
        numbers["judge/overall"] = float(np.mean([judge_rubrics.overall(of) for of in scores]))
    leaks = [leaked for episode, of in pairs for seat, leaked in enumerate(of.leaks) if episode.is_learner(seat)]
    if leaks:
        numbers["judge/leaked_share"] = float(np.mean(leaks))
    turns = [good for _, of in pairs if of.turns is not None and not of.failure for good in of.turns.values()]
    if turns:
        numbers["judge/refused_share"] = 1 - float(np.mean(turns))
    return numbers
