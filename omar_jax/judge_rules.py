"""A judge that costs nothing: secrets given away, words said again, points won, found by rule; all else is neutral.

The life of a secret: it falls into its clauses, each into its telling words: content words, stemmed, without those that
everybody may say anyway (names, the scenario, what is publicly known of the person). An utterance gives it away that
holds enough telling words of one clause (`gives_away`). So "I was a competitive skater once." gives away "He was once
a competitive figure skater.", and "Do you like skating?" does not. It is a rule of words: it hears no paraphrase, and
no "never".
"""

import functools
import math
import re
from collections.abc import Sequence

from omar_jax import judge_rubrics, turn_filter
from omar_jax.judge_cases import Case, Said
from omar_jax.judge_rubrics import Rubric, Scores

# Such a share of a clause's telling words, and two of them at least, give it away.
TELLING_SHARE = 0.5
# Turns of fewer words, such as "Deal.", may be said again.
REPEATED_WORDS = 4

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_CLAUSE_END = re.compile(r"[.;:,!?]|\b(?:and|but|because|although|while|which|who|whom|whose|that)\b")
_SUFFIXES = ("ingly", "edly", "ings", "ing", "ers", "ies", "ied", "ed", "er", "es", "ly", "s")
_COMMON_WORDS = """
a about after again against ago all almost already also always am an and another any anybody anyone anything are as
ask at away back be became because become been before began begin behind being believe below best better between big
both but by call came can cannot come could d day did didn do does doesn doing don done down each either else enough
even ever every everybody everyone everything far feel felt few find first for former found friend friends from gave
get getting give given go goes going gone good got great had has have having he hear heard help her here hers herself
hey hidden hide hides him himself his how i if in into is isn it its itself just keep keeps kept knew know known knows
large last let like likes little ll long longer look lot m made make makes making man many may maybe me mean might
mine more most much must my myself name need neither never new next no nobody none nor not nothing now of off often
old on once one ones only or other others our ours out over own part people perhaps person put quite rather re really
s said same saw say says secret secretly secrets see seen self several shall she should since so some somebody someone
something sometimes soon still stop stopped such sure t take taken takes tell tells than thank thanks that the their
theirs them themselves then there these they thing things think this those though three through time times to today
together told tomorrow too took toward towards tried try trying turn two under until up upon us use used uses ve very
want wants was way we well went were what when where whether which while who whom whose why will with within without
woman won word words work works would wouldn year years yes yet you young your yours yourself
"""
_COMMON = frozenset(_COMMON_WORDS.split())


# ------------------------------------------------------------------ secrets
def _stem(word: str) -> str:
    """What forms of a word have in common, roughly: skated, skating and skater are skat."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    word = word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
    return word[:-1] if len(word) > 3 and word[-1] in "eiy" else word


@functools.lru_cache(maxsize=4096)  # secrets come again with every turn
def telling_words(text: str) -> frozenset[str]:
    """The stems of a text's content words."""
    words = (re.sub(r"['’]\w*$", "", word) for word in _WORD.findall(text.lower()))
    return frozenset(_stem(word) for word in words if word not in _COMMON and (len(word) > 2 or word.isdecimal()))


def gives_away(words: str, secret: str, known: str = "") -> bool:
    """Whether an utterance gives a secret away.

    Args:
      words: of the utterance.
      secret: in words.
      known: what may be said anyway, in words.
    """
    said, clauses = telling_words(words), [telling_words(clause) for clause in _CLAUSE_END.split(secret.lower())]
    unknown = [clause - telling_words(known) for clause in clauses]
    if len(set().union(*unknown)) > 1:  # of a secret in words that are known, all of them tell
        clauses = unknown
    whole = frozenset().union(*clauses)
    least = min(2, len(whole))  # of a secret of one telling word that one
    if not least or len(said & whole) < least:
        return False
    # Clauses of one word say nothing by themselves.
    judged = [clause for clause in clauses if len(clause) >= least] or [whole]
    return any(len(said & clause) >= max(least, math.ceil(TELLING_SHARE * len(clause))) for clause in judged)


def leaks(case: Case) -> tuple[bool, ...]:
    """[P] whether each gave its secret away, in any one turn."""
    found = []
    for seat, secret in enumerate(case.secrets):
        known = " ".join([*case.names, case.scenario, case.people[seat]])
        found.append(any(said.seat == seat and gives_away(said.words, secret, known) for said in case.said))
    return tuple(found)


# ------------------------------------------------------------------ turns
@functools.lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))


def is_repeated(said: Said, earlier: Sequence[Said]) -> bool:
    """Whether a turn says again what its seat or the one before it has said, or the same phrase over and over."""
    words = _words(said.words)
    if len(words) < REPEATED_WORDS:
        return False
    heard = [other for n, other in enumerate(earlier) if other.seat == said.seat or n == len(earlier) - 1]
    again = any(_words(other.words) == words for other in heard)
    return again or turn_filter.repeats(words, max(len(words) // 2, REPEATED_WORDS))


def is_good(said: Said, case: Case) -> bool:
    """Whether a turn could be read, and was not said before."""
    return said.valid and not is_repeated(said, case.said[: case.said.index(said)])


# ------------------------------------------------------------------ the judge
class RulesJudge:
    """See judge.Judge; it never fails."""

    def scores(self, cases: Sequence[Case], rubric: Rubric, most_failures: int) -> list[Scores]:
        """Believability falls with the share of turns that could not be read or were said before, a secret given away
        is -10, and the goal is the share of points won, 0 where there are none; everything else is 0.

        Raises:
          ValueError: the rubric is another than SEVEN.
        """
        del most_failures
        if rubric != judge_rubrics.SEVEN:
            raise ValueError("judge.backend='rules' can only judge by the seven dimensions; it must be local or openai")
        return [self._of_case(case) for case in cases]

    @staticmethod
    def _of_case(case: Case) -> Scores:
        found = []
        for seat, leaked in enumerate(leaks(case)):
            mine = [said for said in case.said if said.seat == seat]
            good = sum(is_good(said, case) for said in mine)
            scores = {dimension.name: 0.0 for dimension in judge_rubrics.SEVEN}
            scores["believability"] = 10.0 * good / len(mine) if mine else 10.0
            scores["secret"] = -10.0 if leaked else 0.0
            scores["goal"] = 10.0 * case.shares[seat] if case.shares else 0.0
            found.append(scores)
        return tuple(found)

    def turns(self, cases: Sequence[Case], asked: Sequence[Sequence[Said]], most_failures: int) -> list[list[bool]]:
        """See judge.Judge."""
        del most_failures
        return [[is_good(said, case) for said in of_case] for case, of_case in zip(cases, asked, strict=True)]
