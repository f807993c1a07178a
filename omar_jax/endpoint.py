"""Models behind an OpenAI-compatible endpoint: a client that is patient and forgets nothing, and a player.

The life of an answer: the player puts what its seat has heard and is asked into two messages; the client looks for the
same question among the answers it has (a file, so that an interrupted arena asks nothing twice) and otherwise asks the
endpoint, again and again while it fails in ways that pass.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omar_jax.envs.base import Ask, Environment, Player
from omar_jax.metrics import write_atomically
from omar_jax.text.chat import CLOSE_THOUGHT, OPEN_THOUGHT

INSTRUCTIONS = (
    "You take part in a conversation among several players and speak for one of them. Everything that you have heard "
    "is given, in order, then what you are asked now. Answer with what your player says or chooses and nothing else: "
    "one line, no quotation marks, no name before it."
)


class EndpointError(ValueError):
    """An endpoint that gives no answer; the message says what it is and what happened."""


class Cost(NamedTuple):
    """What an endpoint was asked: requests, repeated ones too, and the tokens of those answered, as it counts them."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


class Endpoint:
    """A model behind an endpoint.

    Attributes:
      cost: so far, of what was asked and not known already.

    Args:
      model: its name there.
      url: of the endpoint, as in http://localhost:8000/v1.
      at_once: most questions at the same time.
      timeout: seconds to wait for an answer.
      retries: how often to ask again, at growing intervals, where the endpoint fails or is too busy.
      kept: a file of answers; None keeps none.
      check: called before every question; what it raises ends the asking.

    Raises:
      EndpointError: the openai package is missing.
    """

    def __init__(
        self,
        model: str,
        url: str,
        at_once: int,
        timeout: float,
        retries: int,
        kept: Path | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        try:
            import openai
        except ModuleNotFoundError as error:
            raise EndpointError("models behind endpoints need a package: pip install openai") from error
        self.model, self.url, self.at_once, self._check = model, url, at_once, check
        self._free = threading.BoundedSemaphore(at_once)  # several lanes may ask at the same time
        # It raises ValueError where an answer is no JSON.
        self._errors = (openai.APIError, ValueError)
        key = os.environ.get("OPENAI_API_KEY", "none")  # servers of one's own ask for none
        hooks = {"request": [lambda request: self._count(requests=1)]}
        web = openai.DefaultHttpxClient(timeout=timeout, event_hooks=hooks)
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries, http_client=web)
        self._lock, self._kept, self._answers, self.cost = threading.Lock(), kept, {}, Cost()
        if kept and kept.exists():
            lines = kept.read_text().splitlines()
            # Half a line, of a process killed while writing it, must not stay: the next would be added to it.
            write_atomically(kept, [line for line in lines if self._remember(line)])
            self._answers = {name: said for name, said in self._answers.items() if said is not None}  # forgotten ones

    def _remember(self, line: str) -> bool:
        """Takes in a line; whether it is whole."""
        try:
            self._answers.update([json.loads(line)])
        except ValueError:
            return False
        return True

    def answer(self, messages: Sequence[dict[str, str]], occasion: Any = None, **options: Any) -> str:
        """The model's answer, without its thoughts.

        Args:
          messages: of the chat.
          occasion: what tells apart questions that are the same word by word and are to be asked anew.
          **options: of `chat.completions.create`, such as max_tokens and temperature.

        Raises:
          EndpointError: the endpoint failed until the last retry, refused, or answered with something else.
        """
        name = self._name(messages, occasion, options)
        with self._lock:
            said = self._answers.get(name)
        if said is None:
            self._check()
            said = self._ask(messages, options)
            self._keep(name, said)
        return said

    def forget(self, messages: Sequence[dict[str, str]], occasion: Any = None, **options: Any) -> None:
        """Asks the endpoint again when `answer` is next called like this."""
        self._keep(self._name(messages, occasion, options), None)

    def _name(self, messages: Sequence[dict[str, str]], occasion: Any, options: dict[str, Any]) -> str:
        question = json.dumps([self.model, self.url, list(messages), occasion, options], sort_keys=True)
        return hashlib.sha256(question.encode()).hexdigest()

    def _keep(self, name: str, said: str | None) -> None:
        with self._lock:
            self._answers[name] = said
            if self._kept:
                self._kept.parent.mkdir(parents=True, exist_ok=True)
                with self._kept.open("a") as file:
                    file.write(json.dumps([name, said]) + "\n")

    def _count(self, **more: int) -> None:
        with self._lock:
            self.cost = self.cost._replace(**{name: getattr(self.cost, name) + n for name, n in more.items()})

    def _ask(self, messages: Sequence[dict[str, str]], options: dict[str, Any]) -> str:
        try:
            with self._free:
                made = self._client.chat.completions.create(model=self.model, messages=list(messages), **options)
        except self._errors as error:
            raise self._failure(f"{type(error).__name__}: {error}") from error
        try:
            choice = made.choices[0]
            whole = choice.message.content or ""
            whole.strip()  # text, and nothing else
        except (AttributeError, IndexError, TypeError) as error:
            raise self._failure(f"no chat completion: {made}") from error
        # Some endpoints do not say, or say something else.
        told = [getattr(made.usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        prompt, answer = (n if isinstance(n, int) else 0 for n in told)
        self._count(prompt_tokens=prompt, answer_tokens=answer)
        said = whole.rpartition(CLOSE_THOUGHT)[2].partition(OPEN_THOUGHT)[0].strip()
        if not said and choice.finish_reason == "length":
            raise self._failure("it has thoughts alone, and no tokens left for words: serve it without thinking")
        return said

    def _failure(self, reason: str) -> EndpointError:
        reason = " ".join(reason.split())[:200]
        return EndpointError(
            f"{self.model} at {self.url} gives no answer ({reason}); what is over is kept, and the same command goes on"
        )

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()


class EndpointPlayer(Player):
    """Plays a seat by asking an endpoint.

    Args:
      endpoint: whom to ask.
      temperature: of its sampler.
    """

    def __init__(self, endpoint: Endpoint, temperature: float):
        self.endpoint, self.temperature, self.at_once = endpoint, temperature, endpoint.at_once

    def act(
        self, env: Environment, state: Any, seat: int, ask: Ask, heard: Sequence[str], rng: np.random.Generator
    ) -> str:
        """See base.Player; the first line of the answer that is not empty."""
        question = [*heard, ask.cue]
        if ask.options:
            question.append(f"(One of: {', '.join(ask.options)}.)")
        messages = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": "\n".join(question)},
        ]
        # Tokens are another model's here: twice as many leave room for it.
        options = {"max_tokens": 2 * ask.max_tokens, "temperature": self.temperature}
        said = self.endpoint.answer(messages, occasion=int(rng.integers(2**31)), **options)
        return next((line.strip() for line in said.splitlines() if line.strip()), "")
