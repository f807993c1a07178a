"""Games between policies: every line-up plays the same deals, and what is over is kept and never played again.

The life of a comparison: contestants are put into line-ups (who plays which side); the games of every line-up are
played batch by batch (`play`), all of them on the same numbered deals; each game over is a line of the folder's
`games.jsonl` (`Games`), from which an interrupted comparison continues; what they came to is read off these records
(`contest`).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from omar_jax import hosts, runtime
from omar_jax.envs.base import Player, sides
from omar_jax.metrics import write_atomically
from omar_jax.rollout import Guest, Rollout
from omar_jax.settings import SettingError
from omar_jax.tables import Game, environment_seed
from omar_jax.types import Episode, Params

# Contestants' names, side by side in the order of `envs.base.sides`.
LineUp = tuple[str, ...]
# A game that is over: who played which side, and what `record` keeps of it.
Record = Mapping[str, Any]

# Games at once for every question at once to somebody who has to be waited for: enough that there is always something
# to ask, and so few that games end, and are kept, one after another.
GAMES_A_QUESTION = 4


class Contestant(NamedTuple):
    """Somebody who can play any seat.

    Attributes:
      name: unique among the contestants.
      mind: parameters of the rollout's model, a policy of another model, or a player.
      origin: what tells it from another of the same name, such as a run that was made anew: a digest of its weights.
    """

    name: str
    mind: Params | Guest | Player
    origin: str = ""


def line_ups(sides: Sequence[str], one: str, rest: str) -> list[LineUp]:
    """All line-ups in which `one` plays one side, in the order of the sides, and `rest` the others."""
    return [tuple(one if side == its else rest for side in sides) for its in sides]


def record(episode: Episode, of: Mapping[str, str]) -> dict[str, Any]:
    """What is kept of a game: enough to replay it. `of` names the contestants by side."""
    return {
        "players": dict(of),
        "names": list(episode.names),
        "game": episode.game,
        "seed": episode.seed,
        "roles": list(episode.roles),
        "rewards": None if episode.rewards is None else [float(reward) for reward in episode.rewards],
        "events": dict(episode.events),
        "turns": [
            {"step": step, "seat": seat, "text": turn.text}
            for step, said in enumerate(episode.steps)
            for seat, turn in said.turns.items()
        ],
    }


class Games:
    """The games of a comparison by line-up and number, kept in `<folder>/games.jsonl`; in memory without a folder.

    Args:
      folder: where they are kept; made if it is missing.
      rules: what all of them have in common. They are kept too, and games of others cannot be added to a folder.
      origins: of the contestants, by name. More may come when a folder is opened again; none may become another.

    Raises:
      SettingError: the folder holds games of other rules, or of others of the same names; in all processes.
    """

    def __init__(
        self, folder: Path | None, rules: Mapping[str, Any], origins: Mapping[str, str] = MappingProxyType({})
    ):
        self._records: dict[tuple[LineUp, int], Record] = {}
        self._file = failure = None
        if folder is not None and hosts.is_first():
            try:
                self._open(folder, rules, origins)
            except SettingError as error:
                failure = error
        failure, self._records = hosts.gather((failure, self._records))[0]
        if failure:
            raise failure

    def _open(self, folder: Path, rules: Mapping[str, Any], origins: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file, given = folder / "games.json", json.loads(json.dumps({"rules": dict(rules), "origins": dict(origins)}))
        if file.is_file():
            kept = json.loads(file.read_text())
            self._check(kept["rules"], given["rules"], folder)
            for name in kept["origins"].keys() & origins.keys():
                if kept["origins"][name] != origins[name]:
                    raise SettingError(f"{folder} holds games of another {name}, of other weights: give another folder")
            given["origins"] = kept["origins"] | given["origins"]
        write_atomically(file, [json.dumps(given, indent=1)])
        path = folder / "games.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        whole = [line for line in lines if self._read(line)]
        write_atomically(path, whole)
        self._file = path.open("a")

    @staticmethod
    def _check(kept: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> None:
        for name in sorted({*kept, *given}):
            if kept.get(name) != given.get(name):
                raise SettingError(
                    f"{folder} holds games with {name}={kept.get(name)!r}, not {given.get(name)!r}: give the same to "
                    "go on with them, or another folder"
                )

    def _read(self, line: str) -> bool:
        """Takes in a line; whether it is whole (the last one is not, where the process was killed writing it)."""
        try:
            self._add(json.loads(line))
        except (ValueError, KeyError):
            return False
        return True

    def _add(self, record: Record) -> None:
        self._records[tuple(record["players"].values()), record["game"]] = record

    def missing(self, line_up: LineUp, num_games: int) -> list[int]:
        """The numbers of the games that are still to be played."""
        return [number for number in range(num_games) if (line_up, number) not in self._records]

    def add(self, records: Iterable[Record]) -> None:
        """Keeps games that are over."""
        for new in records:
            self._add(new)
            if self._file:
                self._file.write(json.dumps(new) + "\n")
        if self._file:
            self._file.flush()

    def of(self, line_up: LineUp, num_games: int) -> list[Record]:
        """The games of a line-up, by number."""
        return [self._records[line_up, number] for number in range(num_games)]

    def close(self) -> None:
        """Closes the file."""
        if self._file:
            self._file.close()


def play(
    rollout: Rollout,
    contestants: Sequence[Contestant],
    wanted: Sequence[LineUp],
    num_games: int,
    seed: int,
    temperature: float,
    games: Games,
    progress: Callable[[int, int], None],
) -> None:
    """Plays what is missing of the wanted line-ups; with several processes, all take part and all get all games.

    Args:
      rollout: of the environment.
      contestants: whom the line-ups name.
      wanted: line-ups, each to play the same deals.
      num_games: deals.
      seed: of deals and words.
      temperature: of the samplers.
      games: what was played before; gets what is played now, batch by batch.
      progress: told how many of the missing games are over, and of how many tokens so far.

    Raises:
      StopRequested: `progress` did, in this process or another.
    """
    minds = {contestant.name: contestant.mind for contestant in contestants}
    names = sides(rollout.env)
    over = spoken = 0  # games of all, and tokens of the first process, which alone shows them
    # No more at once than all processes' batches hold, so that a stop is not agreed on late.
    whole_batches = jax.process_count() * rollout.at_once
    for line_up in wanted:
        of = dict(zip(names, line_up, strict=True))
        policies = [name for name in dict.fromkeys(line_up) if not isinstance(minds[name], Player)]
        player = {name: policies.index(name) if name in policies else minds[name] for name in line_up}

        def seats(roles, of=of, player=player):
            return [player[of[rollout.env.team(role)]] for role in roles]

        runtime.return_freed_memory()
        numbers = games.missing(line_up, num_games)
        waiting = [mind.at_once for mind in player.values() if isinstance(mind, Player) and mind.at_once > 1]
        at_once = min([whole_batches, *(GAMES_A_QUESTION * questions for questions in waiting)])
        for first in range(0, len(numbers), at_once):
            some = [Game(n, environment_seed(seed, n), seats) for n in numbers[first : first + at_once]]

            def report(finished, tokens, over=over, spoken=spoken):
                progress(over + finished, spoken + tokens)

            of_mine = (
                *(hosts.share(some), [minds[name] for name in policies]),
                *(rollout.sampler.key(seed), temperature, report),
            )
            everywhere = hosts.together(lambda of_mine=of_mine: rollout.play(*of_mine))
            games.add(record(e, of) for played, _ in everywhere for e in played)
            over, spoken = over + len(some), spoken + everywhere[0][1].action_tokens
