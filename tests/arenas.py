"""What tests of the arena share: games that no model plays, and an OpenAI-compatible server that does what it is told.

The life of a question: the server counts how many it is asked at once; it fails as often as it was told to; then it
answers by `say`, with nothing but the question to go by, so that the same question has the same answer.
"""

import contextlib
import functools
import json
import re
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from configs import werewolf
from omar_jax import experiment
from omar_jax.envs.werewolf_bots import ScriptedPlayer


@functools.cache
def run_of(rules="five", games=16):
    """The parts of a run, in batches of so many games."""
    config = werewolf.get_config("smoke")
    config.environment.rules = rules
    config.play.transcript_tokens = (4096,)
    config.play.games, config.play.batch_eighths = games, (8,)
    config.ppo.minibatch_games = config.ppo.microbatch_games = games
    return experiment.build(config, report=lambda line: None)


class OtherLuck(ScriptedPlayer):
    """The same habits, drawing otherwise."""

    def act(self, env, state, seat, ask, heard, rng):
        return super().act(env, state, seat, ask, heard, np.random.default_rng(rng.integers(2**32)))


def choose(messages):
    """The first word that comes to a mind without memory: one of the options, if there are any."""
    question = messages[-1]["content"]
    number = zlib.crc32(question.encode())
    if options := re.search(r"\(One of: (.*)\.\)$", question):
        names = options[1].split(", ")
        return names[number % len(names)]
    return f"I say {number % 7}."


class Server(ThreadingHTTPServer):
    """The server.

    Attributes:
      say: from messages to an answer.
      fails: statuses of the next requests, None for an answer; after them all are answered.
      left: how many answers are left until it only fails; None: it never does.
      seconds: how long an answer takes.
      raw: (content type, body) instead of any answer.
      cut: how many of the next answers end in the middle.
      usage: what answers say they cost, if anything.
      requests: bodies of all requests.
      answered: of those that got an answer.
      busiest: most requests at the same time.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.say, self.fails, self.left, self.seconds, self.raw = choose, [], None, 0.0, None
        self.reason, self.cut, self.usage = "stop", 0, None
        self.requests, self.answered, self.busy, self.busiest = [], [], 0, 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def reply(self, body):
        """(status, content type, content) for a request."""
        with self.lock:
            self.requests.append(body)
            status = self.fails.pop(0) if self.fails else None
            if self.left is not None and status is None:
                self.left -= 1
                status = 500 if self.left < 0 else None
        time.sleep(self.seconds)
        if status:
            return status, "application/json", json.dumps({"error": {"message": f"not\nnow: {status}"}})
        if self.raw:
            return 200, *self.raw
        with self.lock:
            self.answered.append(body)
        message = {"role": "assistant", "content": self.say(body["messages"])}
        choice = {"index": 0, "message": message, "finish_reason": self.reason}
        made = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        made |= {"usage": self.usage} if self.usage else {}
        return 200, "application/json", json.dumps(made)

    def handle_error(self, request, client_address):
        """Whoever waited no longer has gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        status, kind, content = self.server.reply(body) if self.path == "/v1/chat/completions" else (404, "", "")
        with self.server.lock:
            self.server.busy -= 1
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content.encode())))
        self.send_header("Retry-After-Ms", "1")
        self.end_headers()
        with self.server.lock:
            cut = status == 200 and self.server.cut > 0
            self.server.cut -= cut
        self.wfile.write(content.encode()[: len(content) // 2] if cut else content.encode())
        self.close_connection = cut

    def log_message(self, *arguments):
        """Says nothing."""


@contextlib.contextmanager
def serve():
    """A server that is up."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
