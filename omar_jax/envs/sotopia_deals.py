"""Deals in words: how a bargain is told to those who bargain, and how the deals they state are read.

The life of a deal: somebody states it, "Deal: Ana gets 2 hats; Ben gets the rest." or "Deal: 40 dollars, Monday.",
and `stated` reads it; another states the same, or accepts it with "Deal."; what they agreed on is written in full.
Reading forgives other words for the same, but nothing left open: a thing nobody gets, a thing given twice, an issue
left out or a word it does not know make it no deal.
"""

import re
from collections.abc import Iterator, Sequence

from omar_jax.envs.sotopia_points import Bargain, Deal, Issue, Items, Terms

ACCEPTANCE = "Deal."
_ACCEPTANCES = {"deal", "it's a deal", "it is a deal", "agreed", "i accept", "i accept the deal", "i accept your deal"}
_STATEMENT = re.compile(r"\bdeal\s*:\s*(.*)", re.IGNORECASE | re.DOTALL)
_SENTENCE_END = re.compile(r"[.!](?=\s|$)|(?<=\?)\s|\n")  # a question keeps its mark, and is no deal
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d]+(?:'[^\W\d]+)*|[^\s\w.,;:()&$€£'\"-]")

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_AMOUNTS = {"a": 1, "an": 1, "zero": 0} | {word: number for number, word in enumerate(_NUMBERS)}
_REST, _ALL = "rest", "all"  # what is left; every one
_GIVING = re.compile("and|the|of|gets?|getting|receives?|takes?|keeps?|has|have|is|are|to")
_AGREEING = re.compile("and|the|an?|at|on|in|for|of|by|it|is|we|meet|with|our")


# ------------------------------------------------------------------ writing
def _listed(parts: Sequence[str], last: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def amount(count: int, name: str) -> str:
    """ "1 hat", "2 hats"."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def share(bargain: Items, counts: Sequence[int]) -> str:
    """What somebody gets: "2 hats and 1 ball", or "nothing"."""
    parts = [amount(count, name) for count, name in zip(counts, bargain.names, strict=True) if count]
    return _listed(parts) if parts else "nothing"


def written(bargain: Bargain, deal: Deal, names: Sequence[str]) -> str:
    """The deal in full, without "Deal:" and full stop; `names` are the seats'."""
    if isinstance(bargain, Terms):
        return ", ".join(chosen(issue, option) for issue, option in zip(bargain.issues, deal, strict=True))
    return "; ".join(f"{name} gets {share(bargain, counts)}" for name, counts in zip(names, deal, strict=True))


def chosen(issue: Issue, option: int) -> str:
    """An option with its unit."""
    return f"{issue.options[option]} {issue.unit}".strip()


def _open(issue: Issue) -> str:
    if issue.unit:
        step = int(issue.options[1]) - int(issue.options[0])
        return f"{issue.options[0]} to {issue.options[-1]} {issue.unit} in steps of {step}"
    return _listed(issue.options, "or")


def _private(issue: Issue, seat: int) -> str:
    """What an issue is worth to a seat."""
    values = issue.values[seat]
    if issue.unit:
        rises = values[1] > values[0]
        limit = int(issue.options[0]) - values[0] if rises else int(issue.options[0]) + values[0]
        return f"1 for every {issue.unit.removesuffix('s')} {'above' if rises else 'below'} {limit}"
    return ", ".join(f"{option} {value}" for option, value in zip(issue.options, values, strict=True))


def fill(text: str, bargain: Bargain, names: Sequence[str], seat: int | None = None) -> str:
    """Puts a game's particulars into a scenario's text.

    Placeholders are {first}, {second}, {third} for names; {items} for the things to be shared out, or an issue's name
    for its options; and, in a goal, {points} for what they are worth to `seat`
    and {outside} for what it gets without a deal.
    """
    filled = dict(zip(("first", "second", "third"), names, strict=False))
    if isinstance(bargain, Items):
        filled["items"] = share(bargain, bargain.counts)
    else:
        filled |= {issue.name: _open(issue) for issue in bargain.issues}
    if seat is not None:
        if isinstance(bargain, Items):
            own = [f"{name} {value}" for name, value in zip(bargain.names, bargain.values[seat], strict=True)]
            filled["points"] = ", ".join(own)
        else:
            filled["points"] = "; ".join(_private(issue, seat) for issue in bargain.issues)
        filled["outside"] = str(bargain.outside[seat])
    for name, words in filled.items():
        text = text.replace(f"{{{name}}}", words)
    return text


# ------------------------------------------------------------------ reading
def accepts(words: str) -> bool:
    """Whether somebody takes the deal stated last: a sentence is "Deal." or alike."""
    sentences = (sentence.strip(" \"'*,").lower().replace("’", "'") for sentence in _SENTENCE_END.split(words))
    return any(sentence in _ACCEPTANCES for sentence in sentences)


def statement(words: str) -> str | None:
    """What follows the last "Deal:", to the end of its sentence; None if there is none."""
    found = _STATEMENT.search(words)
    if found is None:
        return None
    rest = found[1]
    return statement(rest) or _SENTENCE_END.split(rest)[0].strip()


def _words(text: str, without: re.Pattern[str]) -> list[str]:
    return [word for word in _WORD.findall(text) if not without.fullmatch(word)]


def stated(words: str, bargain: Bargain, aliases: Sequence[Sequence[str]], speaker: int) -> Deal | None:
    """The deal that an utterance states.

    Args:
      words: what was said; only what follows "Deal:" counts.
      bargain: what is to be agreed on.
      aliases: [P] what each seat may be called; "I" is the speaker and, between two, "you" the other.
      speaker: who said it.

    Returns:
      The deal, or None if it states none, or none that is clear and complete.
    """
    text = statement(words)
    if not text:
        return None
    text = text.lower().replace("’", "'")
    return _terms(text, bargain) if isinstance(bargain, Terms) else _items(text, bargain, aliases, speaker)


def _items(text: str, bargain: Items, aliases: Sequence[Sequence[str]], speaker: int) -> Deal | None:
    seats = range(len(bargain.values))
    called = {alias.lower(): seat for seat in seats for alias in aliases[seat]} | {"i": speaker, "me": speaker}
    if len(seats) == 2:
        called["you"] = 1 - speaker
    longest_first = sorted(called, key=len, reverse=True)
    pieces = re.split(rf"\b({'|'.join(map(re.escape, longest_first))})\b", text)
    named = [called[name] for name in pieces[1::2]]
    if _words(pieces[0], _GIVING) or len(named) != len(set(named)):
        return None
    shares = {seat: _share(piece, bargain) for seat, piece in zip(named, pieces[2::2], strict=True)}
    left = [seat for seat in seats if shares.get(seat, _REST) == _REST]
    if None in shares.values() or not named or len(left) > 1:
        return None
    given = [sum(of[n] for of in shares.values() if of != _REST) for n in range(len(bargain.names))]
    rest = tuple(count - n for count, n in zip(bargain.counts, given, strict=True))
    if min(rest) < 0 or (not left and any(rest)):
        return None
    return tuple(rest if seat in left else shares[seat] for seat in seats)


def _share(text: str, bargain: Items) -> tuple[int, ...] | str | None:
    """How many of each thing somebody gets, or the rest; None if it is not clear."""
    counts, number = [0] * len(bargain.names), None
    words = _words(text, _GIVING)
    if words in (["rest"], ["others"], ["everything", "else"]):
        return _REST
    if words == ["everything"]:
        return bargain.counts
    for word in words if words != ["nothing"] else ():
        if word.isdecimal() or word in _AMOUNTS:
            if number is not None:
                return None
            number = int(word[:9]) if word.isdecimal() else _AMOUNTS[word]
        elif word in ("all", "both"):
            number = _ALL
        else:
            at = _item(word, bargain.names)
            if at is None or counts[at]:
                return None
            if number is None:  # "the hat", "the hats"
                number = 1 if word == bargain.names[at] else _ALL
            counts[at] = bargain.counts[at] if number == _ALL else number
            number = None
    return tuple(counts) if number is None and words else None


def _item(word: str, names: Sequence[str]) -> int | None:
    return next((n for n, name in enumerate(names) if word in (name, f"{name}s", f"{name}es")), None)


def _terms(text: str, bargain: Terms) -> Deal | None:
    deal = {}
    for n, issue in sorted(enumerate(bargain.issues), key=lambda pair: bool(pair[1].unit)):  # "15:00" is no price
        found, text = _take(text, issue)
        if len(found) != 1:
            return None
        deal[n] = found.pop()
    known = {word for issue in bargain.issues for word in (issue.name, issue.unit, issue.unit.removesuffix("s"))}
    if set(_words(text, _AGREEING)) - known:
        return None
    return tuple(deal[n] for n in range(len(bargain.issues)))


def _take(text: str, issue: Issue) -> tuple[set[int], str]:
    """The options of an issue that a text names, and the text without them."""
    found = set()
    if issue.unit:
        numbers = list(re.finditer(r"\d+(?:\.\d+)?", text))
        options = [float(option) for option in issue.options]
        found = {options.index(float(n[0])) if float(n[0]) in options else -1 for n in numbers}
        return (found if -1 not in found else set()), re.sub(r"\d+(?:\.\d+)?", " ", text)
    for option in sorted(issue.options, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(option.lower())}(?!\w)"
        if re.search(pattern, text):
            found.add(issue.options.index(option))
            text = re.sub(pattern, " ", text)
    return found, text


def examples(bargain: Bargain, names: Sequence[str]) -> Iterator[str]:
    """Ways to state one of the deals, the last way in full."""
    deals = list(bargain.deals())
    deal = deals[len(deals) // 2]
    if isinstance(bargain, Items):
        yield f"Deal: {names[0]} gets {share(bargain, deal[0])}; {names[1]} gets the rest."
    yield f"Deal: {written(bargain, deal, names)}."
