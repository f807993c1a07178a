"""Published games as players: a small game of our own, and the real ones where they lie beside the checkout."""

import functools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omar_jax.envs import werewolf_published
from omar_jax.envs.base import Ask
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_rules import RULE_SETS

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "werewolf" / "sotopia_games_100.jsonl"
ENV = Werewolf(RULE_SETS["sotopia"])
load = functools.partial(werewolf_published.load, shuffle_seats=False)

# Seats in the record; they become Alice, Bob, Carol, David, Emma, Frank.
SEATS = ["James", "Alice", "Bob", "Carol", "Thomas", "Mary"]
ROLES = ["Villager", "Werewolf", "Seer", "Werewolf", "Witch", None]
DEALT = ("villager", "werewolf", "seer", "werewolf", "witch", "villager")
SPEECHES = {
    "James": "Bob and Carol: is Alice here?",
    "Alice": '"I trust Bob."',
    "Bob": "I'm the seer.\\n\n- **Alice** is a werewolf\n- ‘Carol’ said “hm”",
    "Carol": "James' plan, Thomas's plan",
    "Thomas": "Tom speaks.",
}


def do(argument: str, kind: str = "action") -> str:
    return json.dumps({"action_type": kind, "argument": argument})


def small_game() -> list[list]:
    """Mary dies of two proposals, day 1 is Alice's end, then the witch poisons Carol."""
    actions = [
        [0, "Alice", do("kill Mary")],
        [1, "Carol", do("kill James")],
        [2, "Bob", do("inspect Alice")],
        [3, "Thomas", do("skip")],
    ]
    actions += [[4 + i, name, do(words, "speak")] for i, (name, words) in enumerate(SPEECHES.items())]
    actions += [[9, name, do("vote Alice" if name != "Alice" else "vote Bob")] for name in SPEECHES]
    actions += [[10, "Carol", do("kill Bob")], [11, "Bob", do("inspect Carol")], [12, "Thomas", do("poison Carol")]]
    return actions


def write(path: Path, actions: list[list], **changed) -> Path:
    record = {"seats": SEATS, "roles": dict(zip(SEATS, ROLES, strict=True)), "winner": "Villagers", "actions": actions}
    path.write_text(json.dumps({**record, **changed}) + "\n")
    return path


def replaced(turn: int, name: str, raw: str) -> list[list]:
    return [[t, n, raw if (t, n) == (turn, name) else old] for t, n, old in small_game()]


def play(game, rng_seed: int = 0) -> tuple[list[tuple[int, str, int, str]], list[str], Counter]:
    """Who did what, the public lines, and the events of a game played by its published players."""
    rng = np.random.default_rng(rng_seed)
    step = ENV.step(ENV.reset(game.seed), {})
    done, heard, events = [], [step.public], Counter(step.events)
    while step.rewards is None:
        tasks = step.state.tasks
        actions = {seat: game.act(ENV, step.state, seat, ask, (), rng) for seat, ask in step.asks.items()}
        assert all(ask.options is None or actions[seat] in ask.options for seat, ask in step.asks.items())
        done += [(step.state.night, tasks[seat].kind, seat, action) for seat, action in actions.items()]
        step = ENV.step(step.state, actions)
        heard.append(step.public)
        events.update(step.events)
    return done, "\n".join(heard).split("\n"), events


def test_goes_as_recorded(tmp_path):
    (game,) = load(write(tmp_path / "games.jsonl", small_game()), ENV)
    assert ENV.reset(game.seed).roles == DEALT
    done, heard, events = play(game)
    assert [(day, kind, seat, what) for day, kind, seat, what in done if kind != "speech"] == [
        (1, "kill", 1, "Frank"),
        (1, "look", 2, "Bob"),
        (1, "kill", 3, "Alice"),
        (1, "witch", 4, "nobody"),
        *((1, "vote", seat, "Carol" if seat == 1 else "Bob") for seat in range(5)),
        (2, "look", 2, "David"),
        (2, "kill", 3, "Carol"),
        (2, "witch", 4, "poison David"),
    ]
    assert "Frank was killed. Frank was a villager." in heard
    assert heard[-1] == "The village wins."
    assert events["invalid"] == 0


def test_speeches_are_plain_text_in_the_new_names(tmp_path):
    (game,) = load(write(tmp_path / "games.jsonl", small_game()), ENV)
    assert [game.answers[1, "speech", seat] for seat in range(5)] == [
        "Carol and David: is Bob here?",  # a chain: Alice -> Bob -> Carol -> David
        "I trust Carol.",
        "I'm the seer. Bob is a werewolf 'David' said \"hm\"",
        "Alice's plan, Emma's plan",
        "Emma speaks.",
    ]


@pytest.mark.parametrize(("victim", "other"), [("Mary", "James"), ("James", "Mary")])
def test_chance_falls_as_recorded(tmp_path, victim, other):
    """Two werewolves name two victims; who is silent next day was the one."""
    roles = dict(zip(SEATS, ["Villager", "Werewolf", "Seer", "Werewolf", "Witch", "Villager"], strict=True))
    actions = [[turn, other if name == "James" else name, raw] for turn, name, raw in small_game()]
    (game,) = load(write(tmp_path / "games.jsonl", actions, roles=roles), ENV)
    dead = ENV.seat_names[SEATS.index(victim)]
    assert f"{dead} was killed. {dead} was a villager." in play(game)[1]


def test_json_in_json_is_read(tmp_path):
    actions = replaced(2, "Bob", json.dumps(do("inspect Alice")))
    assert len(load(write(tmp_path / "games.jsonl", actions), ENV)) == 1


def test_an_illegal_choice_is_replaced_and_replays(tmp_path):
    path = write(tmp_path / "games.jsonl", replaced(9, "James", do("vote James")))
    (game,) = load(path, ENV)
    votes = [
        [what for _, kind, seat, what in play(game, rng_seed)[0] if (kind, seat) == ("vote", 0)] for rng_seed in (1, 2)
    ]
    assert votes[0] == votes[1] and votes[0][0] != "Alice"


def test_a_potion_without_effect_is_nothing(tmp_path):
    (game,) = load(write(tmp_path / "games.jsonl", replaced(3, "Thomas", do("save Bob"))), ENV)
    assert (1, "witch", 4, "nobody") in play(game)[0]


@pytest.mark.parametrize(
    "raw",
    [
        "1 validation error for AgentAction",  # what a failed parse left behind
        do("{'said': 'Good morning.'}", "speak"),
        do("Good morning.", "non-verbal communication"),
        do("Frank is a werewolf.", "speak"),  # a stranger here, but a seat's name in the environment
        do("", "speak"),
        json.dumps(["speak", "Good morning."]),
    ],
)
def test_games_with_unusable_speech_are_left_out(tmp_path, raw):
    assert load(write(tmp_path / "games.jsonl", replaced(4, "James", raw)), ENV) == []


def test_games_with_unreadable_choices_are_left_out(tmp_path):
    for choice in ("vote Zoe", "vote", "Alice", "kill Alice"):
        path = write(tmp_path / "games.jsonl", replaced(9, "James", do(choice)))
        assert load(path, ENV) == []


def test_games_that_go_otherwise_are_left_out(tmp_path):
    game, path = small_game(), tmp_path / "games.jsonl"
    assert load(write(path, game, winner=None), ENV) == []
    assert load(write(path, game, winner="Werewolves"), ENV) == []
    assert load(write(path, game[:-1]), ENV) == []  # the witch's last choice is not recorded
    silent = [action for action in game if action[1] != "James"]
    assert load(write(path, silent), ENV) == []  # neither victim spoke, but one lives


def test_another_seed_is_refused(tmp_path):
    (game,) = load(write(tmp_path / "games.jsonl", small_game()), ENV)
    other = next(seed for seed in range(4000) if ENV.reset(seed).roles[0] == "werewolf")
    state = ENV.step(ENV.reset(other), {}).state
    with pytest.raises(ValueError, match=rf"no kill of Alice in round 1 of seed {other}; .* seed {game.seed}"):
        game.act(ENV, state, 0, Ask("", 8), (), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "is not JSON"),
        ("[]", "is a list; it must be an object"),
        ('{"seats": [], "roles": {}}', "lacks winner, actions"),
        ({"roles": {}}, "roles must give every seat's role"),
        ({"seats": [[1]]}, "roles must give every seat's role"),
        ({"roles": dict.fromkeys(SEATS, "Villager")}, "they must be .*'seer': 1"),
        ({"roles": {name: ["Seer"] for name in SEATS}}, "they must be .*'seer': 1"),
        ({"winner": "Seer"}, "winner is 'Seer'; it must be one of"),
        ({"actions": 3}, "action is 3; it must be"),
        ({"actions": [[0, "Zoe", ""]]}, r"action is \[0, 'Zoe', ''\]; it must be"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, what):
    path = write(tmp_path / "games.jsonl", small_game())
    wrong = line if isinstance(line, str) else json.dumps(json.loads(path.read_text()) | line)
    path.write_text(path.read_text() + wrong + "\n")
    with pytest.raises(ValueError, match=f"games.jsonl, line 2: .*{what}") as error:
        load(path, ENV)
    assert "\n" not in str(error.value)


def test_file_and_rules_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.jsonl: there is no such file"):
        load(tmp_path / "nowhere.jsonl", ENV)
    path = write(tmp_path / "games.jsonl", small_game())
    with pytest.raises(ValueError, match=r"environment\.rules must be 'sotopia' .* differ in .*'villager'"):
        load(path, Werewolf(RULE_SETS["omar"]))
    longer = replace(RULE_SETS["sotopia"], max_speech_tokens=200, elimination_discount=0.9)
    assert len(load(path, Werewolf(longer))) == 1


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published games do not lie beside this checkout")
def test_the_published_games():
    records = [json.loads(line) for line in PUBLISHED.read_bytes().splitlines()]
    games = load(PUBLISHED, ENV)
    assert len(games) == 44
    votes, replaced_votes = 0, 0
    for game in games:
        record = records[game.line - 1]
        done, _, events = play(game)
        new = dict(zip(record["seats"], ENV.seat_names, strict=True))
        made = [(ENV.seat_names[seat], what) for _, kind, seat, what in done if kind == "vote"]
        responses = [(new[name], json.loads(raw)["argument"]) for _, name, raw in record["actions"]]
        recorded = [(name, new[said.removeprefix("vote ")]) for name, said in responses if said.startswith("vote ")]
        assert events["village_wins" if record["winner"] == "Villagers" else "werewolves_wins"] == 1
        assert events["invalid"] == 0
        replaced_votes += sum(vote != other for vote, other in zip(made, recorded, strict=True))
        votes += len(made)
        old_names = set(record["seats"]) - set(ENV.seat_names)
        for _, _, _, words in done:
            assert words and not any(left in words for left in [*old_names, "{", "}", "_", "\\", "**"]), words
    assert (votes, replaced_votes) == (283, 6)  # six would-be votes for oneself or a dead seat


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published games do not lie beside this checkout")
def test_shuffled_seats_do_not_tell_the_roles():
    games = werewolf_published.load(PUBLISHED, ENV)
    assert len(games) == 41
    for seat in range(ENV.num_seats):
        assert len({ENV.reset(game.seed).roles[seat] for game in games}) == 4
    for game in games:
        assert play(game)[2]["invalid"] == 0
