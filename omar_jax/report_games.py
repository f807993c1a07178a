"""Games for the report's reader: an even choice of those that were logged, each token with its own piece of text.

The life of a game: a line of `episodes/000012.jsonl` (`metrics.episode_record`) is read, or skipped where it is broken;
an even choice is made (`choose`); `shown` keeps what the reader shows, joins turns with what others heard of them and
token ids with their pieces of text; what does not fit the page's bytes is left out, again evenly (`within`).
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omar_jax.text.chat import Chat

_GAME = {"game", "seed", "names", "roles", "rewards", "transcript", "turns"}
_OF_TOKENS = ("tokens", "log_probs", "values")
_CONTROL = re.compile(r"<\|?\w+\|?>")  # how the models' tokens that are no text are written
REPLACEMENT = "\ufffd"  # what half a letter decodes to


def even(total: int, wanted: int) -> list[int]:
    """`wanted` numbers evenly spaced in 0 .. total - 1, the first and the last among them; of one, the last."""
    if wanted >= total:
        return list(range(total))
    if wanted <= 1:
        return [total - 1][:wanted]
    return [round(place * (total - 1) / (wanted - 1)) for place in range(wanted)]


def choose(counts: Mapping[int, int], wanted: int) -> list[tuple[int, int]]:
    """(iteration, index of a game) of about `wanted` games, never more: evenly spaced iterations, evenly spaced games.

    Args:
      counts: how many games there are, by iteration, in order.
      wanted: games; iterations first and last are there if it is 2 or more.
    """
    there = [iteration for iteration, count in counts.items() if count]
    picked = [there[place] for place in even(len(there), wanted)]
    each, more = divmod(wanted, max(len(picked), 1))
    quotas = [each + (place >= len(picked) - more) for place in range(len(picked))]
    return [
        (iteration, game)
        for iteration, quota in zip(picked, quotas, strict=True)
        for game in even(counts[iteration], quota)
    ]


def within(sizes: Mapping[int, Sequence[int]], wanted: int, budget: int) -> list[tuple[int, int]]:
    """`choose`, as many games of at most `wanted` as have no more than `budget` bytes together; sizes by iteration."""
    counts = {iteration: len(of_games) for iteration, of_games in sizes.items()}
    while True:
        chosen = choose(counts, wanted)
        total = sum(sizes[iteration][game] for iteration, game in chosen)
        if total <= max(budget, 0):
            return chosen
        wanted = min(wanted, len(chosen), int(wanted * budget / total) + 1) - 1


def logged(workdir: Path) -> dict[int, Path]:
    """The run's files of games by iteration, in order."""
    files = (file for file in (workdir / "episodes").glob("*.jsonl") if file.stem.isdecimal())
    return dict(sorted((int(file.stem), file) for file in files))


class Read(NamedTuple):
    """What a file of games holds: its games (`metrics.episode_record`), and how many lines are none."""

    records: list[dict[str, Any]]
    broken: int


def read(file: Path) -> Read:
    """The games of a file; lines that are half written or hold something else are counted."""
    lines = [line for line in file.read_bytes().split(b"\n") if line.strip()]
    records = [record for record in map(_record, lines) if record is not None]
    return Read(records, len(lines) - len(records))


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line, parse_constant=lambda _: None)
        return record if record.keys() >= _GAME and _is_sound(record) else None
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return None


def _is_sound(record: Mapping[str, Any]) -> bool:
    seats = len(record["names"])
    rewards, pieces = record["rewards"], record["transcript"]
    return (
        len(record["roles"]) == seats
        and (rewards is None or len(rewards) == seats)
        and all(type(name) is str for name in [*record["names"], *record["roles"]])
        and all(type(piece[part]) is str for piece in pieces for part in ("visible_to", "text"))
        and all(type(turn["text"]) is str and 0 <= turn["seat"] < seats for turn in record["turns"])
        and all(len({len(turn[name]) for name in _OF_TOKENS}) == 1 for turn in record["turns"])
        and all(len(turn["advantages"] or turn["tokens"]) == len(turn["tokens"]) for turn in record["turns"])
        and all(number is None or type(number) in (int, float) for number in _numbers(record))
        and all(type(token) is int and token >= 0 for turn in record["turns"] for token in turn["tokens"])
    )


def _numbers(record: Mapping[str, Any]) -> Iterator[Any]:
    yield from record["rewards"] or ()
    for turn in record["turns"]:
        yield turn.get("turn_advantage")
        for name in ("log_probs", "values", "advantages"):
            yield from turn[name] or ()


def pieces(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[tuple[str, int]]:
    """The text of a turn in pieces, (text, number of tokens): one token each, more where they share a letter.

    Joined, the texts are what all tokens decode to; where a tokenizer is such that parts cannot be told, there is one
    piece.
    """
    found: list[tuple[str, int]] = []
    before = ""  # what the tokens up to `start` decode to, after the same context
    context = start = 0  # decoding begins a piece early: some tokenizers drop a space in front of the first token
    for end in range(1, len(tokens) + 1):
        text = decode(tokens[context:end])
        more = text[len(before) :]
        if not text.startswith(before) or not more or (more.endswith(REPLACEMENT) and end < len(tokens)):
            continue
        found.append((more, end - start))
        context, start = start, end
        before = decode(tokens[context:start])
    if found and start < len(tokens):
        found[-1] = (found[-1][0], found[-1][1] + len(tokens) - start)
    whole = decode(tokens)
    is_whole = "".join(text for text, _ in found) == whole and sum(count for _, count in found) == len(tokens)
    return found if is_whole else [(whole, len(tokens))]


def winner(record: Mapping[str, Any], team: Callable[[str], str]) -> str:
    """The teams with a reward above 0, "nobody", or "cut short"."""
    if record["rewards"] is None:
        return "cut short"
    seats = zip(record["roles"], record["rewards"], strict=True)
    teams = dict.fromkeys(team(role) for role, reward in seats if (reward or 0) > 0)
    return " and ".join(teams) or "nobody"


def shown(record: Mapping[str, Any], iteration: int, team: Callable[[str], str], chat: Chat | None) -> dict[str, Any]:
    """What the reader gets of a game.

    Returns:
      iteration, game, seed, names, roles, rewards, winner; turns: seat, question, text, kept, advantage (of the turn),
      heard (by whom, word for word), and with a chat: pieces (texts), counts (tokens, absent if all are 1),
      control (indices of pieces that are control tokens), log_probs, values, advantages (one a piece); story: what
      happened in order, the number of a turn or {to: names, none for everybody; text}.
    """
    turns = [_turn(turn, record, chat) for turn in record["turns"]]
    return {
        "iteration": iteration,
        **{name: record[name] for name in ("game", "seed", "names", "roles", "rewards")},
        "winner": winner(record, team),
        "turns": turns,
        "story": _story(record, turns),
    }


def _turn(turn: Mapping[str, Any], record: Mapping[str, Any], chat: Chat | None) -> dict[str, Any]:
    seat = turn["seat"]
    found = {
        "seat": seat,
        "question": _question(turn.get("cue", ""), record["names"][seat], record["roles"][seat]),
        "text": turn["text"],
        "kept": bool(turn.get("kept", True)),
        "advantage": turn.get("turn_advantage"),
        "heard": [],
    }
    if chat is None:
        numbers = [number for number in turn["advantages"] or () if number is not None]
        return found | {"mean": round(sum(numbers) / len(numbers), 3) if numbers else None}
    of_text = pieces(turn["tokens"], lambda ids: chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    counts = [count for _, count in of_text]
    control = {*chat.tokenizer.all_special_ids, *chat.ends}
    parts = [slice(end - count, end) for count, end in zip(counts, itertools.accumulate(counts), strict=True)]
    numbers = turn["advantages"]
    return found | {
        "pieces": [text for text, _ in of_text],
        **({"counts": counts} if any(count > 1 for count in counts) else {}),
        "control": [place for place, part in enumerate(parts) if control.issuperset(turn["tokens"][part])],
        "log_probs": [_total(turn["log_probs"][part]) for part in parts],  # of all of it: their sum
        "values": [turn["values"][part.start] for part in parts],  # before it: the first one's
        "advantages": [_total(numbers[part], mean=True) for part in parts] if numbers else None,
    }


def _total(numbers: Sequence[float | None], mean: bool = False) -> float | None:
    if not numbers or None in numbers:
        return None
    return round(sum(numbers) / (len(numbers) if mean else 1), 3)


def _question(cue: str, name: str, role: str) -> str:
    """What a cue asks: its last line without control tokens and without the name and role it begins with."""
    lines = [line.strip() for line in _CONTROL.split(cue)[0].split("\n") if line.strip()]
    last = lines[-1] if lines else ""
    return re.sub(rf"^{re.escape(name)}( (the )?{re.escape(role)})?\b\s*", "", last)


def _story(record: Mapping[str, Any], turns: Sequence[dict[str, Any]]) -> list[int | dict[str, Any]]:
    """The transcript, in which lines that repeat a turn just taken only tell who heard it."""
    names = record["names"]
    waiting = [[place for place, turn in enumerate(turns) if turn["seat"] == seat] for seat in range(len(names))]
    seat_of_turn = {f"{name}'s turn": seat for seat, name in enumerate(names)}
    story: list[int | dict[str, Any]] = []
    spoken: dict[str, dict[str, Any]] = {}
    told = False  # since the latest turns
    for piece in record["transcript"]:
        who, text = piece["visible_to"], piece["text"]
        seat = seat_of_turn.get(who)
        if seat is not None and waiting[seat]:
            turn = turns[waiting[seat][0]]
            spoken = spoken if not told else {}
            spoken[f"{names[seat]}: {' '.join(turn['text'].split())}"] = turn
            told = False
            story.append(waiting[seat].pop(0))
            continue
        told = True
        lines = []
        for line in text.split("\n"):
            if line in spoken:
                spoken[line]["heard"].append(who)
            else:
                lines.append(line)
        to, rest = ([] if who == "public" else [who]), "\n".join(lines)
        last = story[-1] if story else None
        if rest and to and isinstance(last, dict) and last["to"] and last["text"] == rest:
            last["to"] += to  # the same, told to several
        elif rest:
            story.append({"to": to, "text": rest})
    return story
