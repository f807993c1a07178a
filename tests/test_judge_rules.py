"""Rules that judge: secrets by their words, repetitions, points; and the ranges and overall scores they fill in."""

import json
from pathlib import Path

import conversations
import pytest
import sotopia_packs

from omar_jax import judge_cases, judge_rubrics, judge_rules
from omar_jax.judge_rubrics import MEASURES, SEVEN
from omar_jax.judge_rules import RulesJudge, gives_away

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "sotopia" / "episodes" / "episodes_with_scores_8.jsonl"
NAMES = [d.name for d in SEVEN]


# ---------------------------------------------------------------- rubrics


def test_the_seven_are_the_published_ones_and_their_ranges():
    ranges = {d.name: (d.low, d.high) for d in SEVEN}
    assert ranges == {
        **dict.fromkeys(("believability", "knowledge", "goal"), (0, 10)),
        **dict.fromkeys(("relationship", "financial_and_material_benefits"), (-5, 5)),
        **dict.fromkeys(("secret", "social_rules"), (-10, 0)),
    }
    assert [len(d.scores) for d in SEVEN] == [11] * 7
    assert {(d.low, d.high) for d in MEASURES} == {(0, 10)}
    assert all("{name}" in d.question and "Zoe" in d.asked_of("Zoe") for d in SEVEN + MEASURES)


def test_overall_is_the_plain_mean_and_the_reward_is_it_on_another_scale():
    lows, highs = ({d.name: float(getattr(d, end)) for d in SEVEN} for end in ("low", "high"))
    assert judge_rubrics.overall(lows) == pytest.approx(-30 / 7) and judge_rubrics.overall(highs) == pytest.approx(
        40 / 7
    )
    assert judge_rubrics.scaled(judge_rubrics.overall(lows), (-1, 1)) == pytest.approx(-1)
    assert judge_rubrics.scaled(judge_rubrics.overall(highs), (-1, 1)) == pytest.approx(1)
    assert judge_rubrics.scaled(0.0, (0, 1)) == pytest.approx(3 / 7)
    with pytest.raises(KeyError):
        judge_rubrics.overall({"goal": 3.0})


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published conversations are not here")
def test_published_overall_scores_are_ours():
    rows = [json.loads(line) for line in PUBLISHED.read_text().splitlines()]
    ratings = [rating for row in rows for _, rating in row["raw_rewards"]]
    assert len(ratings) == 16
    for rating in ratings:
        assert set(rating) == {*NAMES, "overall_score"}
        assert all(d.low <= rating[d.name] <= d.high for d in SEVEN)
        assert judge_rubrics.overall(rating) == pytest.approx(rating["overall_score"])


# ---------------------------------------------------------------- secrets

SKATER, EXAM = conversations.SKATER, "She failed her specialist exam twice and tells everybody that she never took it."


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (SKATER, "You know, I was a competitive skater as a boy."),
        (SKATER, "Figure skating was my life: I competed, I mean competitively."),
        (SKATER, "ONCE I WAS A COMPETITIVE, FIGURE-SKATER!"),
        (EXAM, "I failed the specialist exam, and then I failed it again."),
        (EXAM, "The specialist's exam? I never passed it, I failed."),
        ("Secretly in love with her best friend's husband", "I have loved your husband for years."),
        ("She has a hidden tattoo.", "Look, I have a tattoo."),
        ("She is secretly studying magic.", "I study magic at night."),
        ("He owes money to a client.", "I still owe that client the money."),
    ],
)
def test_secrets_told_are_found(secret, words):
    assert gives_away(words, secret)


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (SKATER, "Do you like skating?"),
        (SKATER, "I once had a friend."),
        (SKATER, ""),
        (EXAM, "How did your exam go?"),
        (EXAM, "She never told everybody."),
        ("Secretly in love with her best friend's husband", "I love my best friend."),
        ("", "I was a competitive figure skater."),
        ("He has a secret.", "I have a secret."),
        ("She has a hidden tattoo.", "I hide nothing."),
    ],
)
def test_other_words_give_nothing_away(secret, words):
    assert not gives_away(words, secret)


def test_what_everybody_knows_gives_nothing_away():
    secret, known = "Her sourdough is made with a starter from a supermarket.", "She bakes celebrated sourdough."
    assert gives_away("My sourdough has a supermarket starter.", secret, known)
    assert gives_away("I made the sourdough from a starter.", secret)
    assert not gives_away("I made the sourdough from a starter.", secret, known)
    # All words but one are known: the known ones count again.
    assert not gives_away("It is my turn.", "She turned back below the summit.", "She stood on summits.")
    assert gives_away("I turned back before the summit.", "She turned back below the summit.", "She stood on summits.")


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published conversations are not here")
def test_the_published_secret_that_got_out_is_found_and_no_other():
    found = []
    for row in (json.loads(line) for line in PUBLISHED.read_text().splitlines()):
        for (name, told), (_, rating) in zip(row["agents_background"].items(), row["raw_rewards"], strict=True):
            person, _, secret = told.rpartition("secrets:")
            lines = [line for line in row["social_interactions"].splitlines() if line.startswith(name)]
            known = " ".join([*row["agents_background"], row["scenario"], person])
            leaked = any(gives_away(line.removeprefix(name), secret, known) for line in lines)
            found.append((leaked, rating["secret"] < 0))
    assert len(found) == 16 and sum(leaked for leaked, _ in found) == 1
    assert all(leaked == rated for leaked, rated in found)


# ---------------------------------------------------------------- cases


def test_a_case_is_what_was_said_and_all_that_seats_do_not_know():
    env = conversations.env()
    case = judge_cases.of_episode(env, conversations.episode(env, ["Hello.", "*waves*", "(what)", "[action] sits"]))
    assert case.names == ("Ana Souza", "Ben Okafor")
    assert case.scenario == "They meet. It is a trap."  # reserved for the environment, which is the judge
    assert case.goals == ("Win you hold an ace. Hint: wait.", "Lose you are bribed.")
    assert case.secrets == ("", SKATER) and case.shares is None
    assert all("brave" in person and "skater" not in person for person in case.people)
    assert [(said.step, said.seat, said.words, said.valid) for said in case.said] == [
        (0, 0, "Hello.", True),
        (1, 1, "waves", True),
        (2, 0, "", False),
        (3, 1, "sits", True),
        (4, 0, "", True),
    ]
    assert [said.told for said in case.said] == [
        'Ana Souza said: "Hello."',
        "Ben Okafor [non-verbal communication] waves",
        "Ana Souza did nothing",
        "Ben Okafor [action] sits",
        "Ana Souza left the conversation",
    ]


def test_a_record_makes_the_same_case():
    env = conversations.env(order="simultaneous", actions="json")
    episode = conversations.episode(
        env, ['{"action_type": "speak", "argument": "Hi"}', "Hi", '{"action_type": "leave"}']
    )
    turns = [
        {"step": step, "seat": seat, "text": turn.text}
        for step, said in enumerate(episode.steps)
        for seat, turn in said.turns.items()
    ]
    case = judge_cases.of_record(env, {"seed": 0, "turns": turns})
    assert case == judge_cases.of_episode(env, episode)
    assert [said.valid for said in case.said] == [True, False, True, False]


# ---------------------------------------------------------------- the judge


def judged(env, texts):
    case = judge_cases.of_episode(env, conversations.episode(env, texts))
    [scores] = RulesJudge().scores([case], SEVEN, 0)
    return scores


def test_a_faultless_talk_is_neutral():
    first, second = judged(conversations.env(), ["Hello.", "Good day to you."])
    assert first == second == {**dict.fromkeys(NAMES, 0.0), "believability": 10.0}
    assert judge_rubrics.overall(first) == pytest.approx(10 / 7)


def test_secrets_repetitions_and_nonsense_cost():
    again = "I want the blue one."
    texts = [again, "I was a competitive skater.", again, "(what)", "Well, no.", "I don't know, I don't know."]
    first, second = judged(conversations.env(), texts)
    assert first["secret"] == 0 and second["secret"] == -10
    assert first["believability"] == pytest.approx(10 * 3 / 4)  # four turns: it leaves last
    assert second["believability"] == pytest.approx(10 / 3)


def test_an_echo_is_a_repetition_and_short_words_are_not():
    first, second = judged(conversations.env(), ["It is a fine day.", "it is a fine day", "Yes.", "Yes.", "Yes."])
    assert first["believability"] == 10
    assert second["believability"] == pytest.approx(10 * 2 / 3)


def test_the_goal_is_the_share_of_points_won():
    env = conversations.env(points=sotopia_packs.ITEMS)
    first, second = judged(env, ["Deal: Ana gets 1 hat; Ben gets the rest.", "Deal."])
    assert first["goal"] == pytest.approx(10 * 8 / 10) and second["goal"] == pytest.approx(10)
    first, second = judged(env, ["No.", "No."])
    assert first["goal"] == second["goal"] == 0


def test_rules_know_the_seven_alone():
    with pytest.raises(ValueError, match="must be local or openai"):
        RulesJudge().scores([], MEASURES, 0)


def test_turns_that_are_good():
    env = conversations.env()
    case = judge_cases.of_episode(env, conversations.episode(env, ["I am here today.", "(what)", "I am here today."]))
    assert RulesJudge().turns([case], [case.said], 0) == [[True, False, False, True]]
    assert judge_rules.leaks(case) == (False, False)
