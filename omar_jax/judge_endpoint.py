"""A judge behind an endpoint: one question a game, answered in strict JSON, asked again where the answer is none.

The life of an answer: the endpoint is asked for all scores of a game at once, and waited for with the client's
patience (`endpoint.Endpoint`, which keeps answers, so that none is paid for twice); what it says is read strictly
(`judge_text`); what cannot be used goes back to it with the complaint, a few times; then the game has failed, and what
was said of it is forgotten, so that the same command asks anew. Once too many have failed, no more are asked for.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from omar_jax import judge_text
from omar_jax.endpoint import Endpoint, EndpointError
from omar_jax.judge_cases import Case, Failure, Said
from omar_jax.judge_rubrics import Rubric, Scores
from omar_jax.judge_text import AnswerError, Messages

Found = TypeVar("Found")
Item = TypeVar("Item")


class EndpointJudge:
    """See judge.Judge.

    Args:
      endpoint: whom to ask.
      attempts: how often a game is asked for in all, where answers cannot be used.
      answer_tokens: most tokens of an answer.
      schema: whether to send the answer's JSON schema along; False for endpoints that refuse one.
    """

    def __init__(self, endpoint: Endpoint, attempts: int, answer_tokens: int, schema: bool):
        self.endpoint, self.attempts, self.answer_tokens, self.schema = endpoint, attempts, answer_tokens, schema

    def scores(self, cases: Sequence[Case], rubric: Rubric, most_failures: int) -> list[Scores | Failure]:
        """See judge.Judge."""

        def ask(case: Case) -> Scores | Failure:
            seats = len(case.names)
            schema = judge_text.score_schema(rubric, seats)
            messages = judge_text.score_messages(case, rubric)
            return self._ask(messages, schema, lambda said: judge_text.read_scores(said, rubric, seats))

        return self._of_each(cases, ask, most_failures)

    def turns(
        self, cases: Sequence[Case], asked: Sequence[Sequence[Said]], most_failures: int
    ) -> list[list[bool] | Failure]:
        """See judge.Judge."""

        def ask(of: tuple[Case, Sequence[Said]]) -> list[bool] | Failure:
            case, turns = of
            if not turns:
                return []
            messages, schema = judge_text.turn_messages(case, turns), judge_text.turn_schema(len(turns))
            return self._ask(messages, schema, lambda said: judge_text.read_turns(said, len(turns)))

        return self._of_each(list(zip(cases, asked, strict=True)), ask, most_failures)

    def _of_each(
        self, items: Sequence[Item], ask: Callable[[Item], Found | Failure], most_failures: int
    ) -> list[Found | Failure]:
        """What `ask` finds for each, so many at once as the endpoint takes."""
        failures, lock = [], threading.Lock()

        def find(item: Item) -> Found | Failure:
            if len(failures) > most_failures:
                return failures[-1]
            found = ask(item)
            if isinstance(found, Failure):
                with lock:
                    failures.append(found)
            return found

        pool = ThreadPoolExecutor(self.endpoint.at_once)
        try:
            return list(pool.map(find, items))
        finally:
            pool.shutdown(cancel_futures=True)  # after a stop, what has not begun does not

    def _ask(self, messages: Messages, schema: dict[str, Any], read: Callable[[str], Found]) -> Found | Failure:
        options: dict[str, Any] = {"max_tokens": self.answer_tokens, "temperature": 0.0}
        if self.schema:
            named = {"name": "judgement", "strict": True, "schema": schema}
            options["response_format"] = {"type": "json_schema", "json_schema": named}
        asked, reason = [], ""
        for attempt in range(self.attempts):
            try:
                said = self.endpoint.answer(messages, attempt, **options)
            except EndpointError as error:
                reason = str(error)
                break
            asked.append(messages)
            try:
                return read(said)
            except AnswerError as error:
                reason = f"{self.endpoint.model} at {self.endpoint.url} gave no answer that can be used ({error})"
                complaint = f"That cannot be used: {error}. Give the whole answer again, in the shape asked for."
                messages = [
                    *messages,
                    {"role": "assistant", "content": said},
                    {"role": "user", "content": complaint},
                ]
        for attempt, unusable in enumerate(asked):
            self.endpoint.forget(unusable, attempt, **options)
        return Failure(reason)
