"""Published Werewolf games between language models, as players for the cold start.

The life of a published game: a line of the file (100 games that sotopia-lab/sotopia published under MIT) says who
sat where, their roles and their raw responses. The responses are sorted by night or day, kind and seat
(`_answers`), and the players get the environment's names. Then seeds are tried until one deals these roles and,
where chance decides between two victims, takes the recorded one (`_replays`): only a game that goes as recorded to
the recorded winner is kept. A kept game is a `base.Player` that says again what was said.

The published players spoke one after another; here all of a round talk at once, so a speech may answer another of
the same round. For a cold start that does no harm.
"""

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from omar_jax.envs import werewolf_text as text
from omar_jax.envs.base import Ask, Environment, Player
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import ScriptedPlayer
from omar_jax.envs.werewolf_rules import RULE_SETS, RuleSet, State, Task

SEEDS = range(4000)  # a deal of six such roles comes up about once in 180

Key = tuple[int, str, int]  # night or day counted from 1, kind of task, seat

_ROLES = {"Werewolf": "werewolf", "Seer": "seer", "Witch": "witch", "Villager": "villager", None: "villager"}
_WINNERS = {"Villagers": "village_wins", "Werewolves": "werewolves_wins", None: "draws"}  # as events of the game
_NIGHT_TASKS = {"werewolf": "kill", "seer": "look", "witch": "witch"}
_VERBS = {"vote": ("vote",), "kill": ("kill",), "look": ("inspect",), "witch": ("save", "poison")}
_SKIPS = ("skip", "none", "")
_STAND_IN = ScriptedPlayer()  # for choices that are illegal here
_FREE_RULES = ("max_speech_tokens", "max_choice_tokens", "elimination_discount", "max_days")

# What players called one another for short; forms that are also words ("Will", "Rich") are left out.
_SHORT_FORMS = {
    "Christopher": "Chris",
    "Daniel": "Dan",
    "Jeffrey": "Jeff",
    "Jessica": "Jess",
    "Jonathan": "Jon",
    "Joshua": "Josh",
    "Kimberly": "Kim",
    "Matthew": "Matt",
    "Michael": "Mike",
    "Nicholas": "Nick",
    "Stephanie": "Steph",
    "Steven": "Steve",
    "Thomas": "Tom",
    "Timothy": "Tim",
}
_PLAIN_QUOTES = str.maketrans("‘’“”", "''\"\"")
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|#+)\s+", re.MULTILINE)
_EMPHASIS = re.compile(r"\*+|__+|`+")
_LEFTOVER = re.compile(r"[{}\[\]<\\|]|\w_\w")  # of JSON ("action_type"), escapes, markup or the published engine


class _UnusableError(Exception):
    """The game holds a response that must not be imitated."""


@dataclass(frozen=True)
class PublishedGame(Player):
    """One game, and the player of all its seats.

    Attributes:
      seed: of `Werewolf.reset`; only the game dealt with it goes as recorded.
      line: where the game stands in its file, from 1.
      answers: what was said, in the environment's names: speeches, and choices as options write them; a choice
        that no rule allows stands here as it was meant.
    """

    seed: int
    line: int
    answers: Mapping[Key, str]

    def act(
        self, env: Environment, state: State, seat: int, ask: Ask, heard: Sequence[str], rng: np.random.Generator
    ) -> str:
        """What the seat said here; see base.Player.

        Some published choices are illegal here: a witch's save of somebody not attacked had no effect and becomes
        "nobody"; for a vote for oneself or a werewolf's attack on its partner a `ScriptedPlayer` chooses instead,
        from the game's own seed. Raises ValueError where the recorded game was never.
        """
        task = state.tasks[seat]
        answer = self.answers.get(_key(state, task, seat))
        if answer is None:
            raise ValueError(
                f"the published game of line {self.line} has no {task.kind} of {env.seat_names[seat]} in round "
                f"{state.night} of seed {state.seed}; it must be played with seed {self.seed} and rules 'sotopia'"
            )
        if not task.choices or answer in task.choices:
            return answer
        if task.kind == "witch":
            return text.NOBODY
        own_rng = np.random.default_rng((self.seed, state.steps, seat))
        return _STAND_IN.act(env, state, seat, ask, heard, own_rng)


def _key(state: State, task: Task, seat: int) -> Key:
    return state.night, task.kind, seat  # the first night comes before the first day


def load(path: Path, env: Werewolf, shuffle_seats: bool = True) -> list[PublishedGame]:
    """The games of a file that can be played again.

    Left out are draws, games with a response that cannot be read or names somebody who does not play, and games that
    under no seed of `SEEDS` go as recorded: the same seats speak and vote on every day, and the same side wins.

    Args:
      path: a file of JSON lines with the keys seats, roles, winner and actions.
      env: under the rules "sotopia"; lengths, discount and last day may differ.
      shuffle_seats: draw every game's seats anew, by its line's number: all published games have the same roles seat
        by seat, and a model would learn by name who is the werewolf.

    Raises:
      ValueError: for other rules, a file that is not there, or a line that is no such game.
    """
    _check_rules(env.rules)
    records = _read(path, env)
    known_names = {name for record in records for name in record["seats"]} | set(text.NAMES)
    seeds = _seeds_by_deal(env)
    games = []
    for line, record in enumerate(records, start=1):
        if shuffle_seats:
            order = np.random.default_rng(line).permutation(env.num_seats)
            record = {**record, "seats": [record["seats"][place] for place in order]}
        try:
            answers = _answers(record, env.seat_names, known_names)
        except _UnusableError:
            continue
        dealt = seeds.get(_dealt(record), [])
        candidates = (PublishedGame(seed, line, answers) for seed in dealt if record["winner"])
        replaying = (game for game in candidates if _replays(game, env, _WINNERS[record["winner"]]))
        games += itertools.islice(replaying, 1)
    return games


def _check_rules(rules: RuleSet) -> None:
    names = [setting.name for setting in fields(rules) if setting.name not in _FREE_RULES]
    changed = [name for name in names if getattr(rules, name) != getattr(RULE_SETS["sotopia"], name)]
    if changed:
        raise ValueError(f"environment.rules must be 'sotopia' for published games; these differ in {changed}")


# ------------------------------------------------------------------ reading
def _read(path: Path, env: Werewolf) -> list[dict]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; it must be a file of published games")
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: is not JSON: {error}") from None
        wrong = _what_is_wrong(record, env.rules.counts)
        if wrong:
            raise ValueError(f"{path}, line {number}: {wrong}")
        records.append(record)
    return records


def _what_is_wrong(record, counts: Mapping[str, int]) -> str | None:
    """Why this is no game of these roles, or None if it is one."""
    keys = ("seats", "roles", "winner", "actions")
    if not isinstance(record, dict):
        return f"is a {type(record).__name__}; it must be an object with the keys {', '.join(keys)}"
    missing = [key for key in keys if key not in record]
    if missing:
        return f"lacks {', '.join(missing)}; a game has the keys {', '.join(keys)}"
    seats, roles = record["seats"], record["roles"]
    if not isinstance(seats, list) or not isinstance(roles, dict) or sorted(map(str, seats)) != sorted(roles):
        return f"seats are {seats!r}, roles {roles!r}; roles must give every seat's role"
    if any(role not in list(_ROLES) for role in roles.values()) or Counter(_dealt(record)) != Counter(counts):
        return f"roles are {list(roles.values())}; they must be {dict(counts)}, a villager's may be null"
    if record["winner"] not in list(_WINNERS):
        return f"winner is {record['winner']!r}; it must be one of {list(_WINNERS)}"
    for action in record["actions"] if isinstance(record["actions"], list) else [record["actions"]]:
        if not isinstance(action, list) or len(action) != 3 or type(action[0]) is not int or action[1] not in seats:
            return f"action is {action!r}; it must be [turn, one of {', '.join(seats)}, response]"
    return None


def _dealt(record: dict) -> tuple[str, ...]:
    return tuple(_ROLES[record["roles"][name]] for name in record["seats"])


def _answers(record: dict, seat_names: tuple[str, ...], known_names: set[str]) -> dict[Key, str]:
    """All responses by when, what and who. Raises _UnusableError if one must not be imitated.

    At night and in the talk each turn is one seat's; the vote is one turn of all the living, and ends a day. A
    living seat with a power acts every night, so its second response of a round is its speech.
    """
    seats, dealt = record["seats"], _dealt(record)
    new_names = dict(zip(seats, seat_names, strict=True))
    strangers = known_names - set(seats)
    turns: dict[int, list[tuple[int, str]]] = {}
    for turn, name, raw in record["actions"]:
        turns.setdefault(turn, []).append((seats.index(name), raw))
    answers: dict[Key, str] = {}
    now = 1
    for _, responses in sorted(turns.items()):
        for seat, raw in responses:
            kind = _NIGHT_TASKS.get(dealt[seat], "speech")
            if len(responses) > 1:
                kind = "vote"
            elif (now, kind, seat) in answers:
                kind = "speech"
            if (now, kind, seat) in answers:
                raise _UnusableError
            answers[now, kind, seat] = _answer(raw, kind, new_names, strangers)
        now += len(responses) > 1
    return answers


def _answer(raw: str, kind: str, new_names: Mapping[str, str], strangers: set[str]) -> str:
    action_type, argument = _response(raw)
    if action_type != ("speak" if kind == "speech" else "action"):
        raise _UnusableError
    if kind == "speech":
        return _speech(argument, new_names, strangers)
    verb, _, target = argument.strip().partition(" ")
    if kind == "witch" and verb in _SKIPS:
        return text.NOBODY
    if verb not in _VERBS[kind] or target not in new_names:
        raise _UnusableError
    name = new_names[target]
    return {"save": text.save, "poison": text.poison}[verb](name) if kind == "witch" else name


def _response(raw: str) -> tuple[str, str]:
    """Type and argument of a raw response, which may be JSON in a JSON string."""
    try:
        response = json.loads(raw)
        if isinstance(response, str):
            response = json.loads(response)
        action_type, argument = response["action_type"], response["argument"]
    except (ValueError, TypeError, KeyError):
        raise _UnusableError from None
    if not isinstance(argument, str):
        raise _UnusableError
    return action_type, argument


def _speech(words: str, new_names: Mapping[str, str], strangers: set[str]) -> str:
    """The words on one line without quotes around them and markup, in the new names."""
    words = words.translate(_PLAIN_QUOTES).replace("\\n", "\n").replace('\\"', '"')
    words = text.clean(_EMPHASIS.sub("", _LIST_MARK.sub("", words)))
    if words.startswith('"') and words.endswith('"') and words.count('"') == 2:
        words = words.strip('" ')
    if not words or _LEFTOVER.search(words) or strangers & set(re.findall(r"\w+", words)):
        raise _UnusableError
    return _rename(words, new_names)


def _rename(words: str, new_names: Mapping[str, str]) -> str:
    """All names at once, so that a new name is never taken for an old one."""
    short = {_SHORT_FORMS[name]: new for name, new in new_names.items() if name in _SHORT_FORMS}
    new = {**short, **new_names}
    # "James' vote" becomes "Bob's vote"; no new name of six ends in s.
    pattern = rf"\b({'|'.join(map(re.escape, new))})\b((?<=s)'(?= [a-z]))?"
    return re.sub(pattern, lambda found: new[found[1]] + ("'s" if found[2] else ""), words)


# ------------------------------------------------------------------ playing again
@functools.lru_cache(maxsize=1)
def _seeds_by_deal(env: Werewolf) -> Mapping[tuple[str, ...], list[int]]:
    """Which of SEEDS deal which roles."""
    seeds: dict[tuple[str, ...], list[int]] = {}
    for seed in SEEDS:
        seeds.setdefault(env.reset(seed).roles, []).append(seed)
    return seeds


def _replays(game: PublishedGame, env: Werewolf, winner: str) -> bool:
    """Whether the game goes as recorded: everything recorded is asked for, nothing else is, the same side wins."""
    step, asked, rng = env.step(env.reset(game.seed), {}), set(), np.random.default_rng(0)
    while step.rewards is None:
        keys = {seat: _key(step.state, task, seat) for seat, task in step.state.tasks.items()}
        if not set(keys.values()) <= set(game.answers):
            return False
        asked.update(keys.values())
        actions = {seat: game.act(env, step.state, seat, ask, (), rng) for seat, ask in step.asks.items()}
        step = env.step(step.state, actions)
    # A witch without potions was asked too.
    left = {key for key in game.answers if key not in asked and key[1] != "witch"}
    return not left and step.events[winner] == 1
