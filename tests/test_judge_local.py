"""A model as a judge: expected scores are those of whole prompts read one by one, whatever lies beside them."""

import conversations
import jax
import numpy as np
import pytest
import streams

from omar_jax import catalogue, judge_cases, judge_text
from omar_jax.judge_local import LocalJudge, Question, Told, cut, normalized
from omar_jax.judge_rubrics import Dimension
from omar_jax.metrics import CompilationCounter
from omar_jax.model.attention import causal
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.runtime import StopRequested
from omar_jax.text.chat import Chat, load_tokenizer

CONFIG = DecoderConfig(vocabulary=512, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=24)
PARAMS = streams.random_params(Decoder(CONFIG), seed=0)
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>\n{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
ENV = conversations.env()
TEXTS = [["Hello.", "Hi there, Ana.", "*nods*"], ["So?"], ["I am Ana.", "And I was a skater.", "Good.", "Bye now."]]
CASES = [judge_cases.of_episode(ENV, conversations.episode(ENV, texts)) for texts in TEXTS]
# Ranges whose numbers take one token and more.
PAIR = (Dimension("secret", -10, 0, "Does {name} tell?"), Dimension("goal", 0, 10, "Does {name} win?"))


def chat(template=None):
    tokenizer = load_tokenizer(catalogue.EMBEDDED["werewolf"])
    tokenizer.chat_template = template
    return Chat(tokenizer)


CHATS = {"plain": chat(), "template": chat(TEMPLATE)}


def judge(of=CHATS["plain"], games=2, sizes=(640,), **how):
    return LocalJudge(
        Decoder(CONFIG, longest_dense=how.pop("longest_dense", None)), lambda: PARAMS, of, games, sizes, **how
    )


def prompt(of, case, lines, question, cue, header=None):
    """What a question's reader has before it, as an ordinary prompt."""
    told = judge_text.about(case) if header is None else header
    told = [*told, *(said.told for said in case.said[:lines]), *question.split("\n")]
    return (*of.opening, *(token for line in told for token in of.event(line)), *of.cue(cue))


@jax.jit
def next_token(params, tokens):
    """[L, V] log-probabilities after each token of one prompt."""
    model, positions = Decoder(CONFIG), np.arange(len(tokens))[None]
    hidden, _ = model.apply(params, tokens[None], positions, causal(CONFIG, positions))
    return jax.nn.log_softmax(model.apply(params, hidden, method="logits")[0])


def plainly(before, answers):
    """Probabilities of answers after a prompt among themselves, each read by itself."""
    sums = []
    for answer in answers:
        tokens = np.zeros(768, np.int32)  # one size, compiled once; what comes later is not seen
        tokens[: len(before) + len(answer)] = [*before, *answer]
        after = np.asarray(next_token(PARAMS, tokens))
        sums.append(sum(float(after[len(before) + j - 1, token]) for j, token in enumerate(answer)))
    weights = np.exp(np.asarray(sums))
    return weights / weights.sum()


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize("kind", CHATS)
def test_scores_are_expected_over_all_answers(kind):
    of = CHATS[kind]
    assert len({len(of.action(str(score))) for score in (-10, -5, 5, 10)}) > 1  # some numbers are longer than others
    found = judge(of).scores(CASES, PAIR, 0)
    for case, scores in zip(CASES[:1], found, strict=False):
        for name, of_seat in zip(case.names, scores, strict=True):
            for d in PAIR:
                question, cue = judge_text.score_question(d.asked_of(name), d.low, d.high)
                before = prompt(of, case, len(case.said), question, cue)
                right = plainly(before, [of.action(str(score)) for score in d.scores]) @ np.arange(d.low, d.high + 1)
                assert of_seat[d.name] == pytest.approx(right, abs=2e-4)
                assert d.low < right < d.high
    assert len({round(of["goal"], 6) for scores in found for of in scores}) == 6  # they tell seats and games apart


def test_what_lies_beside_a_case_changes_nothing():
    together = judge().scores(CASES, PAIR, 0)
    alone = [judge().scores([case], PAIR, 0)[0] for case in CASES]
    otherwise = judge(games=3, sizes=(768,)).scores(CASES[::-1], PAIR, 0)[::-1]
    for other in (alone, otherwise):
        for ours, theirs in zip(together, other, strict=True):
            for mine, its in zip(ours, theirs, strict=True):
                assert mine == pytest.approx(its, abs=1e-4)


def test_long_cases_are_read_in_blocks_and_alike():
    [[whole, _]], [[blocks, _]] = (
        judge(games=1, longest_dense=longest).scores(CASES[:1], PAIR, 0) for longest in (10**6, 1)
    )
    assert whole == pytest.approx(blocks, abs=1e-4)


def test_nothing_compiles_twice():
    mine = judge()
    first = mine.scores(CASES[:1], PAIR, 0)
    counter = CompilationCounter()
    assert mine.scores(CASES, PAIR, 0)[0] == first[0]
    mine.scores(CASES[1:], PAIR, 0)
    assert counter.count == 0


def test_certain_answers_have_their_own_score():
    """Worked by hand: probabilities 1/4 and 3/4 of the numbers 0 and 10."""
    assert normalized(np.log([0.02, 0.06])) @ [0, 10] == pytest.approx(7.5)
    assert normalized([-2000.0, -2000.0, -2001.0]).sum() == pytest.approx(1)  # nothing underflows


# ---------------------------------------------------------------- turns


def test_turns_are_judged_by_what_was_said_before():
    of, case = CHATS["plain"], CASES[2]
    asked = [case.said[0], case.said[2]]
    answers = [of.action(word) for word in (judge_text.YES, judge_text.NO)]
    mine = judge()
    [found] = mine.turns([case], [asked], 0)
    right = []
    for lines in (1, 3):
        question, cue = judge_text.turn_question("Ana Souza")
        right.append(plainly(prompt(of, case, lines, question, cue), answers)[0])
    questions = [mine._question(n, *judge_text.turn_question("Ana Souza"), answers) for n in (1, 3)]
    [probabilities] = mine.probabilities([mine._told(case, questions)])
    assert [p[0] for p in probabilities] == pytest.approx(right, abs=1e-5)
    assert found == [p >= 0.5 for p in right]


def test_a_later_turn_changes_nothing_for_an_earlier_one():
    short = judge_cases.of_episode(ENV, conversations.episode(ENV, TEXTS[2][:2]))
    mine, answers = judge(), tuple(map(CHATS["plain"].action, ("yes", "no")))
    questions = [mine._question(2, *judge_text.turn_question("Ben Okafor"), answers)]
    one, other = mine.probabilities([mine._told(case, questions) for case in (short, CASES[2])])
    assert one[0] == pytest.approx(other[0], abs=1e-5)


def test_turns_of_all_cases_are_answered_in_their_order():
    found = judge().turns(CASES, [case.said for case in CASES], 0)
    assert [len(of) for of in found] == [len(case.said) for case in CASES]
    assert judge().turns(CASES, [[], CASES[1].said[:1], []], 0) == [[], found[1][:1], []]


# ---------------------------------------------------------------- long cases


def test_a_long_case_loses_its_first_lines_and_says_so():
    question = Question(3, (7,), ((8, 9),))
    told = Told((1, 2, 3), {1: (11,) * 4, 2: (12,) * 3, 3: (13,) * 2}, (question,))
    assert told.length == 12 and told.sizes == (12, 2, 2, 1)
    note = (5, 6)
    assert cut(told, note, 12) == told
    assert cut(told, note, 11) == told._replace(opening=(1, 2, 3, 5, 6), lines={2: (12,) * 3, 3: (13,) * 2})
    assert cut(told, note, 9) == told._replace(opening=(1, 2, 3, 5, 6), lines={3: (13,) * 2})
    assert cut(told, note, 5) == told._replace(opening=(1, 2, 3, 5, 6), lines={})
    assert cut(told, note, 4) == told._replace(opening=(1, 2, 5, 6), lines={})
    for room in range(2, 13):
        assert cut(told, note, room).length <= room


def test_a_cut_case_is_judged_by_what_is_left():
    of, texts = CHATS["plain"], ["I have something to tell you, and it is long: I am Ana, the diver.", *TEXTS[2][1:]]
    case = judge_cases.of_episode(ENV, conversations.episode(ENV, texts))
    whole = judge()._told(case, [])
    note = of.event(judge_text.LEFT_OUT)
    assert len(note) < len(whole.lines[1])
    mine = judge(sizes=(64, whole.length - len(whole.lines[1]) + len(note)))
    [scores] = mine.scores([case], PAIR, 0)
    d = PAIR[1]
    question, cue = judge_text.score_question(d.asked_of("Ana Souza"), d.low, d.high)
    told = [*judge_text.about(case), judge_text.LEFT_OUT, *(said.told for said in case.said[1:])]
    before = prompt(of, case, 0, question, cue, header=told)
    right = plainly(before, [of.action(str(score)) for score in d.scores]) @ np.arange(11)
    assert scores[0]["goal"] == pytest.approx(right, abs=2e-4)
    # Nothing is said against turns that are not there any more.
    assert mine.turns([case], [case.said[:1]], 0) == [[True]]


def test_a_stop_ends_the_judging():
    def stopped():
        raise StopRequested

    with pytest.raises(StopRequested):
        judge(check=stopped).scores(CASES, PAIR, 0)


def test_weights_are_asked_for_once_a_judging():
    asked = []
    mine = LocalJudge(Decoder(CONFIG), lambda: asked.append(1) or PARAMS, CHATS["plain"], 2, (640,))
    mine.scores(CASES, PAIR, 0)
    assert asked == [1]
