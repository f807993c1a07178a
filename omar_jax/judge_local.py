"""A judge that is a model of ours: the expected score over all answers that it could give, so that none is unreadable.

The life of a question: the case is told once, as the shared stream of a game (`layout`); every question about it is the
stream of a seat of its own, and every possible answer a branch of that, so that one forward pass (`evaluate_actions`)
gives the log-probability of each answer, its end included:

    shared   opening, who they are, line 1, line 2, ...      clock 0, 2, 4, ...
    seat i   question i (branch 0); answers' tokens but the last (branch 1, 2, ...)

A question about the first m lines has clock 2m + 1 and stands where these end: what it sees is an ordinary prompt, and
nothing later. The probabilities of the answers, made to sum to 1, weigh their scores.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from omar_jax import judge_text, layout, sharding
from omar_jax.judge_cases import Case, Said
from omar_jax.judge_rubrics import Rubric, Scores
from omar_jax.layout import Sizes
from omar_jax.model.decoder import Decoder
from omar_jax.text.chat import Chat
from omar_jax.types import GameBatch, Params
from omar_jax.update import evaluate_actions

# Smallest sizes of the questions' streams and of their answers; larger ones are these times 1.5, 2, 3, 4, 6, 8, ...
SEAT_TOKENS, ACTION_TOKENS = 256, 64
# Only turns have them; a judge's answers are nobody's.
_NO_TURNS = 1


class Question(NamedTuple):
    """A question about the first lines of a conversation.

    Attributes:
      lines: how many of them.
      tokens: of the question, to where the answer begins.
      answers: tokens of every possible answer, its end included.
    """

    lines: int
    tokens: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


class Told(NamedTuple):
    """A case as tokens: what stands before the conversation, its lines by number (from 1), and the questions."""

    opening: tuple[int, ...]
    lines: dict[int, tuple[int, ...]]
    questions: tuple[Question, ...]

    @property
    def length(self) -> int:
        """Shared tokens."""
        return len(self.opening) + sum(map(len, self.lines.values()))

    @property
    def sizes(self) -> Sizes:
        """What it takes in a batch."""
        answers = [answer for question in self.questions for answer in question.answers]
        seat = sum(len(question.tokens) for question in self.questions) + sum(len(answer) - 1 for answer in answers)
        return Sizes(self.length, seat, sum(map(len, answers)), _NO_TURNS)


def cut(told: Told, note: tuple[int, ...], room: int) -> Told:
    """The case in `room` tokens: the first lines make way for a note, then the end of the opening does."""
    if told.length <= room:
        return told
    left, kept = room - len(told.opening) - len(note), {}
    for number in sorted(told.lines, reverse=True):
        left -= len(told.lines[number])
        if left < 0:
            break
        kept[number] = told.lines[number]
    opening = told.opening[: room - len(note)] + note
    return told._replace(opening=opening, lines=dict(sorted(kept.items())))


def write(batch: GameBatch, n: int, told: Told) -> None:
    """Lays a case out as game `n` of a batch of padding games."""
    tokens, clock, ends = list(told.opening), [0] * len(told.opening), {0: len(told.opening)}
    for number, line in told.lines.items():
        tokens += line
        clock += [2 * number] * len(line)
        ends[number] = len(tokens)
    batch.shared_tokens[n, : len(tokens)] = tokens
    batch.shared_positions[n, : len(tokens)] = np.arange(len(tokens))
    batch.shared_clock[n, : len(tokens)] = clock
    at = action = 0
    for seat, question in enumerate(told.questions):
        first = max(end for number, end in ends.items() if number <= question.lines)
        begin, asked = at, at + len(question.tokens)

        def add(some, position, branch):
            nonlocal at
            span = slice(at, at + len(some))
            batch.seat_tokens[n, span] = some
            batch.seat_positions[n, span] = np.arange(position, position + len(some))
            batch.seat_branch[n, span] = branch
            at += len(some)

        add(question.tokens, first, 0)
        for branch, answer in enumerate(question.answers, start=1):
            span = slice(action, action + len(answer))
            batch.action_tokens[n, span] = answer
            batch.action_mask[n, span] = True
            # Its first token is read where the question ends, the others where the one before them stands.
            batch.action_index[n, span] = [asked - 1, *range(at, at + len(answer) - 1)]
            add(answer[:-1], first + len(question.tokens), branch)
            action = span.stop
        batch.seat_owner[n, begin:at] = seat
        batch.seat_clock[n, begin:at] = 2 * question.lines + 1


@functools.partial(jax.jit, static_argnums=0)
def log_probs(model: Decoder, params: Params, batch: GameBatch) -> jax.Array:
    """[N, X] log-probabilities of the answers' tokens."""
    return sharding.split(evaluate_actions(model, params, batch, 1.0).log_probs, model.mesh)


def normalized(log_probabilities: Sequence[float]) -> np.ndarray:
    """Probabilities of answers among themselves."""
    shifted = np.exp(np.asarray(log_probabilities, np.float64) - np.max(log_probabilities))
    return shifted / shifted.sum()


@dataclasses.dataclass(frozen=True)
class LocalJudge:
    """See judge.Judge; it never fails.

    Attributes:
      model: the judge's network.
      weights: its parameters, asked for whenever it judges and not kept.
      chat: its text as tokens.
      games: cases of one forward pass.
      transcript_tokens: room for a case, ascending; the last is the most that it reads, and what is longer is cut.
      check: called before every forward pass; what it raises ends the judging.
    """

    model: Decoder
    weights: Callable[[], Params]
    chat: Chat
    games: int
    transcript_tokens: tuple[int, ...]
    check: Callable[[], None] = lambda: None

    def scores(self, cases: Sequence[Case], rubric: Rubric, most_failures: int) -> list[Scores]:
        """See judge.Judge: expected scores over the whole numbers of each dimension's range."""
        del most_failures
        answers = [tuple(self.chat.action(str(score)) for score in d.scores) for d in rubric]
        told = []
        for case in cases:
            questions = [
                self._question(
                    len(case.said), *judge_text.score_question(d.asked_of(name), d.low, d.high), of_dimension
                )
                for name in case.names
                for d, of_dimension in zip(rubric, answers, strict=True)
            ]
            told.append(self._told(case, questions))
        found = []
        for case, of_case in zip(cases, self.probabilities(told), strict=True):
            expected = iter(np.dot(p, d.scores) for p, d in zip(of_case, list(rubric) * len(case.names), strict=True))
            found.append(tuple({d.name: float(next(expected)) for d in rubric} for _ in case.names))
        return found

    def turns(self, cases: Sequence[Case], asked: Sequence[Sequence[Said]], most_failures: int) -> list[list[bool]]:
        """See judge.Judge: whether yes is at least as likely as no; yes for turns that were cut away."""
        del most_failures
        answers = tuple(map(self.chat.action, (judge_text.YES, judge_text.NO)))
        told = []
        for case, of_case in zip(cases, asked, strict=True):
            questions = [
                self._question(case.said.index(said) + 1, *judge_text.turn_question(case.names[said.seat]), answers)
                for said in of_case
            ]
            told.append(self._told(case, questions))
        return [
            [
                bool(p[0] >= 0.5) or question.lines not in game.lines
                for p, question in zip(of, game.questions, strict=True)
            ]
            for of, game in zip(self.probabilities(told), told, strict=True)
        ]

    def _question(self, lines: int, text: str, cue: str, answers: Sequence[tuple[int, ...]]) -> Question:
        return Question(lines, self.chat.event(text) + self.chat.cue(cue), tuple(answers))

    def _told(self, case: Case, questions: Sequence[Question]) -> Told:
        opening = self.chat.opening + self.chat.event("\n".join(judge_text.about(case)))
        lines = {number: self.chat.event(said.told) for number, said in enumerate(case.said, start=1)}
        note = self.chat.event(judge_text.LEFT_OUT)
        return cut(Told(opening, lines, tuple(questions)), note, self.transcript_tokens[-1])

    def probabilities(self, told: Sequence[Told]) -> list[list[np.ndarray]]:
        """By case and question, [answers] the probability of each among them."""
        parts = sharding.num_game_parts(self.model.mesh)
        num_games = -(-self.games // parts) * parts
        by_room: dict[Sizes, list[int]] = {}
        seat, actions = (max((game.sizes[n] for game in told), default=0) for n in (1, 2))
        for number, game in enumerate(told):
            shared = min(room for room in self.transcript_tokens if room >= game.length)
            room = Sizes(shared, _room(SEAT_TOKENS, seat), _room(ACTION_TOKENS, actions), _NO_TURNS)
            by_room.setdefault(room, []).append(number)
        params, found = self.weights(), {}
        for room, numbers in sorted(by_room.items()):
            for first in range(0, len(numbers), num_games):
                self.check()
                some = numbers[first : first + num_games]
                batch = layout.empty(num_games, room, 1)
                for n, number in enumerate(some):
                    write(batch, n, told[number])
                scored = np.asarray(log_probs(self.model, params, sharding.spread(batch, self.model.mesh)))
                found |= {number: _by_answer(told[number], scored[n]) for n, number in enumerate(some)}
        return [found[number] for number in range(len(told))]


def _room(smallest: int, needed: int) -> int:
    """The least of few sizes that is enough, for a program is compiled for each."""
    while smallest * 3 // 2 < needed:
        smallest *= 2
    return smallest if needed <= smallest else smallest * 3 // 2


def _by_answer(told: Told, scored: np.ndarray) -> list[np.ndarray]:
    """By question, [answers]; `scored` are the [X] log-probabilities of a game's answer tokens."""
    at, found = 0, []
    for question in told.questions:
        sums = []
        for answer in question.answers:
            sums.append(scored[at : at + len(answer)].sum(dtype=np.float64))
            at += len(answer)
        found.append(normalized(sums))
    return found
