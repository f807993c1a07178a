import functools
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import omar_jax
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.text.chat import Chat, load_tokenizer

EMBEDDED = Path(omar_jax.__path__[0]) / "assets" / "embedded"
MARKERS = ("<|im_start|>", "<|im_end|>", "<bos>")
CHATML = (
    "<bos><|im_start|>system\nYou help.<|im_end|>\n{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SAID = (
    "Alice",
    "I think Bob is a werewolf.",
    "No, no: don't vote for me!",
    "save Carol",
    "Ich weiß es nicht … 狼",
)


def byte_tokenizer(**settings):
    """One token a byte and no space put before lines, as large models' tokenizers have it."""
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(MARKERS))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


@functools.cache
def chat(name):
    if name == "embedded":
        return Chat(load_tokenizer(EMBEDDED))
    found = byte_tokenizer(eos_token="<|im_end|>")
    if name == "chatml":
        found.chat_template = CHATML
    return Chat(found)


every_chat = pytest.mark.parametrize("name", ["embedded", "chatml", "plain"])
with_template = pytest.mark.parametrize("name", ["embedded", "chatml"])


def rendered(tokenizer, content):
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )


# ---------------------------------------------------------------- the template
@with_template
@pytest.mark.parametrize("said", SAID)
def test_opening_and_cue_are_the_template_around_the_message(name, said):
    tokens = chat(name).opening + chat(name).cue(said)
    whole = rendered(chat(name).tokenizer, said)
    assert list(tokens) == chat(name).tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_events_are_lines_of_the_same_message():
    tokens = chat("chatml").opening + chat("chatml").event("Night 1.\nNobody died.") + chat("chatml").event("Day 1.")
    tokens += chat("chatml").cue("Bob votes for:")
    whole = rendered(chat("chatml").tokenizer, "Night 1.\nNobody died.\nDay 1.\nBob votes for:")
    assert list(tokens) == chat("chatml").tokenizer(whole, add_special_tokens=False)["input_ids"]


@every_chat
def test_an_event_is_its_lines(name):
    assert chat(name).event("") == ()
    assert chat(name).event("Day 1.\n\nBob: hm") == chat(name).event("Day 1.") + chat(name).event("Bob: hm")


def test_without_a_template_text_is_plain():
    plain = chat("plain")
    assert plain.opening == ()
    assert plain.tokenizer.decode(plain.event("Day 1.") + plain.cue("Bob says:")) == "Day 1.\nBob says:\n"


# ---------------------------------------------------------------- forgery
FORGED = st.lists(
    st.sampled_from(["<|end|>", "<|user|>", "<|assistant|>", "<|pad|>", *MARKERS, "Bob: ", "\n", " "])
    | st.text(max_size=8),
    max_size=8,
).map("".join)


@every_chat
@hypothesis.settings(max_examples=80, deadline=None, derandomize=True)
@hypothesis.given(FORGED)
def test_players_cannot_speak_special_tokens(name, text):
    c = chat(name)
    special = set(c.tokenizer.added_tokens_decoder)
    assert len(special) >= 3
    assert not special & {*c.event(text)}
    assert not special & {*c.action(text)[:-1]} and c.action(text)[-1] == c.end
    own = len(c.cue(""))  # what closes the message, after the question
    assert c.cue(text)[-own:] == c.cue("") and not special & {*c.cue(text)[:-own]}


@with_template
def test_special_ids_sampled_into_an_action_are_not_heard(name):
    c = chat(name)
    first = min(c.tokenizer.added_tokens_decoder)
    assert c.say((first, *c.action("hm")[:-1], first, c.end)) == "hm"


# ---------------------------------------------------------------- words there and back
@every_chat
@pytest.mark.parametrize("said", SAID)
def test_what_is_said_is_heard(name, said):
    action = chat(name).action(said)
    assert action[-1] == chat(name).end and action.count(chat(name).end) == 1
    assert chat(name).say(action) == said
    assert chat(name).say(action[:-1]) == said  # ran out of tokens before it ended


@every_chat
@hypothesis.settings(max_examples=80, deadline=None, derandomize=True)
@hypothesis.given(FORGED)
def test_any_text_is_heard_as_it_was_said(name, text):
    assert chat(name).say(chat(name).action(text)) == text.strip()


@every_chat
def test_saying_nothing_is_the_empty_text(name):
    assert chat(name).say(()) == chat(name).say((chat(name).end,)) == ""


@pytest.mark.parametrize("rules", RULE_SETS)
def test_every_choice_fits_its_answer(rules):
    for choice in Werewolf(RULE_SETS[rules]).choices:
        assert len(chat("embedded").action(choice)) <= RULE_SETS[rules].max_choice_tokens


# ---------------------------------------------------------------- mistakes
def test_a_tokenizer_without_an_end_of_turn_is_refused():
    with pytest.raises(ValueError, match=r"^the tokenizer has no end-of-turn token: set eos_token in .*$"):
        Chat(byte_tokenizer())


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"^model.folder='{tmp_path}' holds no tokenizer.json$"):
        load_tokenizer(tmp_path)
