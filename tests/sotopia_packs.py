"""Small packs for tests: two or three characters and one scenario."""

from omar_jax.envs import sotopia_records as records

ITEMS = {
    "kind": "items",
    "items": {"book": 2, "hat": 1},
    "values": [{"book": 1, "hat": 8}, {"book": 5, "hat": 0}],
}
TERMS = {
    "kind": "terms",
    "issues": [
        {"name": "price", "unit": "dollars", "range": [20, 40, 10], "limits": [20, 40]},
        {"name": "day", "options": ["Monday", "Friday"], "values": [[0, 5], [3, 0]]},
    ],
}


def character_row(first, last, **changed):
    row = dict.fromkeys(("big_five", "decision_making_style", "mbti"), "")
    row |= {
        "agent_id": first.lower(),
        "first_name": first,
        "last_name": last,
        "age": 40,
        "occupation": "Deep-Sea Diver",
        "gender": "Woman",
        "gender_pronoun": "She/her",
        "public_info": f"{first} keeps an octopus.",
        "moral_values": ["Care"],
        "schwartz_personal_values": ["Security"],
        "personality_and_values": f"{first} is brave.",
        "secret": f"{first} fears water.",
    }
    return row | changed


def scenario_row(**changed):
    row = {
        "env_id": "meeting",
        "codename": "meeting",
        "source": "tests",
        "scenario": 'They meet. <p viewer="environment">It is a trap.</p><p viewer="agent_1">You are late.</p>',
        "agent_goals": [
            "Win <extra_info>you hold an ace. <strategy_hint>Hint: wait.</strategy_hint></extra_info>",
            'Lose <extra_info>you are bribed.</extra_info><p viewer="environment">Nobody sees this.</p>',
        ],
        "relationship": "3",
        "age_constraint": "nan",
        "occupation_constraint": None,
        "agent_constraint": "none",
    }
    return row | changed


def pack(characters=(("Ana", "Souza"), ("Ben", "Okafor")), **changed):
    """One scenario, played by these characters in this order."""
    rows = [character_row(*names, agent_id=" ".join(names)) for names in characters]
    people = [records.character(row, "here") for row in rows]
    scenario = records.scenario(scenario_row(**changed), "here")
    combo = records.Combo("combo", scenario.id, tuple(person.id for person in people))
    return records.pack([("here", scenario)], [("here", person) for person in people], [], [("here", combo)])
