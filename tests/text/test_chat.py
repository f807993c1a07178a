"""Chats of every family of tokenizers: templates, ends of turns, forgery, thoughts."""

import functools
import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from tokenizer_families import FAMILIES, QWEN_25, byte_level, finished

from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import ScriptedPlayer
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.text.chat import Chat, generation_ends, load_tokenizer

SAID = ("Alice", "I think Bob is a werewolf.", "No, no: don't vote for me!", "save Carol", "Ich weiß es nicht … 狼")


every_family = pytest.mark.parametrize("name", FAMILIES)
with_template = pytest.mark.parametrize("name", ["embedded", "qwen2.5", "qwen3", "llama3", "gemma3", "deepseek"])


@functools.cache
def chat(name, thinking=False):
    return Chat(FAMILIES[name](), thinking=thinking)


def id_of(c, marker):
    found = c.tokenizer.convert_tokens_to_ids(marker)
    assert c.tokenizer.convert_ids_to_tokens(found) == marker
    return found


# ---------------------------------------------------------------- the template
def whole(tokenizer, content, thinking=False):
    """The template's own encoding; it states no date but for `llama3`, whose default is the one that chats state."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
        date_string="26 Jul 2024",
    )
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


@with_template
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("said", SAID)
def test_opening_and_cue_are_the_template_around_the_message(name, thinking, said):
    c = chat(name, thinking)
    assert c.opening + c.cue(said) == whole(c.tokenizer, said, thinking)


@pytest.mark.parametrize("name", ["qwen2.5", "llama3", "gemma3"])
def test_events_are_lines_of_the_same_message(name):
    c = chat(name)
    tokens = c.opening + c.event("Night 1.\nNobody died.") + c.event("Day 1.") + c.cue("Bob votes for:")
    assert tokens == whole(c.tokenizer, "Night 1.\nNobody died.\nDay 1.\nBob votes for:")


@every_family
def test_an_event_is_its_lines(name):
    assert chat(name).event("") == ()
    assert chat(name).event("Day 1.\n\nBob: hm") == chat(name).event("Day 1.") + chat(name).event("Bob: hm")


def test_without_a_template_text_is_plain_after_the_beginning_of_text():
    plain, base = chat("plain"), chat("base")
    assert plain.opening == () and base.opening == (id_of(base, "<|begin_of_text|>"),)
    for c in (plain, base):
        assert c.tokenizer.decode(c.event("Day 1.") + c.cue("Bob says:")) == "Day 1.\nBob says:\n"


def test_thinking_is_the_templates_to_prepare():
    assert chat("qwen3").tokenizer.decode(chat("qwen3").cue("?")).endswith("assistant\n<think>\n\n</think>\n\n")
    assert chat("qwen3", True).tokenizer.decode(chat("qwen3", True).cue("?")).endswith("<|im_start|>assistant\n")


def test_the_date_is_always_the_same_and_a_first_line_break_is_kept():
    tokenizer = finished(byte_level(), eos=None, special="<e>")
    tokenizer.chat_template = "\nToday: {{ strftime_now('%d %b %Y') }}\n{{ messages[-1].content }}<e>"
    assert tokenizer.decode(Chat(tokenizer).opening) == "\nToday: 26 Jul 2024\n"


def test_a_template_may_insist_on_a_system_message():
    tokenizer = FAMILIES["qwen2.5"]()
    refusal = "{%- if messages[0].role != 'system' %}{{ raise_exception('a system message,\nplease') }}{%- endif %}"
    tokenizer.chat_template = refusal + QWEN_25
    opening = tokenizer.decode(Chat(tokenizer).opening)
    assert opening == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"


# ---------------------------------------------------------------- the end of a turn
@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("embedded", ["<|end|>"]),
        ("qwen2.5", ["<|im_end|>"]),
        ("llama3", ["<|eot_id|>", "<|end_of_text|>"]),
        ("gemma3", ["<end_of_turn>", "<eos>"]),
        ("deepseek", ["<｜end▁of▁sentence｜>"]),
        ("base", ["<|end_of_text|>"]),
    ],
)
def test_the_template_and_the_tokenizer_name_the_ends_of_turns(name, ends):
    assert chat(name).ends == tuple(id_of(chat(name), marker) for marker in ends)
    assert chat(name).end == chat(name).ends[0]


@pytest.mark.parametrize("stored", ["<|endoftext|>", ["<|im_end|>", "<|endoftext|>"]])
def test_a_folder_names_further_ends(tmp_path, stored):
    tokenizer = FAMILIES["qwen3"]()
    tokenizer.save_pretrained(tmp_path)
    number = tokenizer.convert_tokens_to_ids
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": number(stored)}))
    loaded = Chat.from_folder(tmp_path, thinking=True)
    assert loaded.ends == (number("<|im_end|>"), number("<|endoftext|>"))
    assert loaded.cue("hm") == chat("qwen3", True).cue("hm")
    for end in loaded.ends:
        assert loaded.say((*loaded.action("hm")[:-1], end)) == "hm"


def test_ends_of_the_folder_alone_do(tmp_path):
    c = Chat(finished(byte_level()), (7, 5))
    assert c.ends == (7, 5)
    assert c.say((*c.action("hm")[:-1], 5)) == "hm"  # an ordinary token's letter is not heard where it ends the turn
    assert generation_ends(tmp_path) == ()
    (tmp_path / "generation_config.json").write_text("{}")
    assert generation_ends(tmp_path) == ()


@every_family
@pytest.mark.parametrize("said", SAID)
def test_what_is_said_is_heard(name, said):
    action = chat(name).action(said)
    assert action[-1] == chat(name).end and not {*action[:-1]} & {*chat(name).ends}
    assert chat(name).say(action) == said
    assert chat(name).say(action[:-1]) == said  # ran out of tokens before it ended


@every_family
def test_saying_nothing_is_the_empty_text(name):
    assert chat(name).say(()) == chat(name).say((chat(name).end,)) == ""


# ---------------------------------------------------------------- forgery
def controls_of(c):
    """(ids, texts) of the added tokens but blank ones."""
    added = {i: entry.content for i, entry in c.tokenizer.added_tokens_decoder.items()}
    found = {i: content for i, content in added.items() if content not in ("\n\n", "\n\n\n", "▁▁")}
    assert len(found) >= 2
    return {*found}, sorted(found.values())


def assert_only_text(c, text):
    """No control token comes out of the text in any place, and the ids decode to it."""
    controls, _ = controls_of(c)
    *given, end = c.action(text)
    given = given[len(c.action("")) - 1 :]  # a thought that the template opened is closed before
    own = len(c.cue(""))  # what closes the message, after the question
    question, rest = c.cue(text)[:-own], c.cue(text)[-own:]
    event = c.event(text)
    assert end == c.end and rest == c.cue("")
    assert not controls & {*given} and not controls & {*question} and not controls & {*event}
    decode = c.tokenizer.decode
    if c is chat("embedded"):  # puts a space before every line
        assert decode(given).removeprefix(" ") == text.removeprefix(" ")
    else:
        assert decode(given) == decode(question) == text
        assert decode(event) == "".join(line + "\n" for line in text.split("\n") if line)


@every_family
def test_markers_written_out_are_text(name):
    markers = controls_of(chat(name))[1]
    for marker in markers:
        half = len(marker) // 2
        nested = marker[:half] + marker + marker[half:]
        for text in (marker, f"Bob says {marker}, you?", marker * 3, nested, nested[:-1], f"{marker}\n{marker[1:]}"):
            assert_only_text(chat(name), text)
    assert_only_text(chat(name), "".join(markers))
    assert_only_text(chat(name), "<|im_<|im_end|>end|>")


@every_family
@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(st.data())
def test_no_text_is_a_control_token(name, data):
    markers = controls_of(chat(name))[1]
    halves = [part for marker in markers for part in (marker[: len(marker) // 2], marker[1:])]
    some = st.sampled_from([*markers, *halves, "Bob: ", "\n", " "]) | st.text(max_size=8)
    text = data.draw(st.lists(some, max_size=8).map("".join))
    assert_only_text(chat(name), text.replace("▁", "") if name == "gemma3" else text)  # a space to SentencePiece


def test_blank_added_tokens_are_kept_and_others_spelled():
    c = chat("gemma3")
    blanks = {id_of(c, "\n\n"), id_of(c, "▁▁")}
    assert blanks <= {*c.action("well\n\nno  no")}
    assert c.tokenizer.convert_ids_to_tokens(c.action("<table>")[:-1]) == list("<table>")


@every_family
def test_special_ids_sampled_into_an_action_are_not_heard(name):
    c = chat(name)
    special = [i for i, entry in c.tokenizer.added_tokens_decoder.items() if entry.special]
    action = c.action("hm")
    assert c.say((*action[:-1], *special, c.end)) == c.say((*special, *action)) == "hm"
    assert c.say((*action[:-1], len(c.tokenizer) + 5)) == "hm"  # large models have more ids than their tokenizers


# ---------------------------------------------------------------- thoughts
@pytest.mark.parametrize("name", ["qwen3", "qwen2.5", "base"])  # the marks are tokens, or ordinary text
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize(
    ("sampled", "heard"),
    [
        ("<think>\nIt is Bob.\n</think>\n\nI suspect Carol.", "I suspect Carol."),
        ("It is Bob.</think> Hello.", "Hello."),
        ("<think>a</think>b<think>c</think> d ", "d"),
        ("<think>It is", ""),
        ("Hello. <think>It is", ""),
        ("<think>a</think>b<think>c", ""),
        ("<think>a</think>", ""),
        ("I think so.", "I think so."),
    ],
)
def test_thoughts_are_not_heard(name, thinking, sampled, heard):
    c = chat(name, thinking)
    action = tuple(c.tokenizer(sampled, add_special_tokens=False)["input_ids"])
    assert c.say((*action, c.end)) == c.say(action) == heard


def test_marks_of_thoughts_may_be_special_tokens():
    c = Chat(finished(byte_level(), "<e> <think> </think>", eos="<e>"))
    said = tuple(c.tokenizer("<think>Bob.</think>Hello.", add_special_tokens=False)["input_ids"])
    assert id_of(c, "</think>") in said and c.say(said) == "Hello." and c.say(said[: said.index(c.end + 2)]) == ""


def test_where_the_template_opens_a_thought_all_is_thought_until_it_is_closed():
    c = chat("deepseek")
    thought = tuple(c.tokenizer("It is Bob.", add_special_tokens=False)["input_ids"])
    assert c.say((*thought, c.end)) == ""
    assert c.say((*thought, id_of(c, "</think>"), *thought, c.end)) == "It is Bob."
    assert c.tokenizer.decode(c.action("It is Bob.")[:-1]) == "\n</think>\n\nIt is Bob."


# ---------------------------------------------------------------- the embedded model
@pytest.mark.parametrize("rules", RULE_SETS)
def test_the_embedded_model_reads_games_as_it_learned_them(rules):
    """Its cold start was made with the tokenizer's plain encoding, line by line."""
    c, env, player = chat("embedded"), Werewolf(RULE_SETS[rules]), ScriptedPlayer()

    def plain(text):
        return tuple(c.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    step = env.step(env.reset(3), {})
    while True:
        for text in filter(None, [step.public, *step.private.values()]):
            assert c.event(text) == tuple(i for line in text.split("\n") if line for i in plain(line + "\n"))
        if step.rewards is not None:
            break
        said = {}
        for seat, ask in step.asks.items():
            said[seat] = player.act(env, step.state, seat, ask, (), np.random.default_rng(seat))
            assert c.cue(ask.cue) == (*plain(ask.cue), 3, 2)
            assert c.action(said[seat]) == (*plain(said[seat]), 3)
        step = env.step(step.state, said)
    assert c.ends == (3,) and c.opening == (1,)


@pytest.mark.parametrize("rules", RULE_SETS)
def test_every_choice_fits_its_answer(rules):
    for choice in Werewolf(RULE_SETS[rules]).choices:
        assert len(chat("embedded").action(choice)) <= RULE_SETS[rules].max_choice_tokens


# ---------------------------------------------------------------- mistakes
def test_a_tokenizer_without_an_end_of_turn_is_refused():
    with pytest.raises(ValueError, match=r"^no token ends a turn: set eos_token in tokenizer_config.json$"):
        Chat(finished(byte_level()))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[-1].content * 2 }}", r"writes the text of the user's message 2 times: it must be once, .*"),
        ("{{ messages[-1].content | lower }}", r"writes the text of the user's message 0 times: .*"),
        (
            "{% if messages[-1].role == 'user' %}{{ messages[-1].content }}{% endif %}",
            "writes the text of the assistant's message 0 times: .*",
        ),
        ("{{ raise_exception('never\nat all') }}", r"refuses the messages user \(never at all\): mend chat_template.*"),
        ("{% if %}", r"refuses the messages user \(.*\): mend chat_template.jinja"),
    ],
)
def test_a_template_that_cannot_be_split_is_refused_in_one_line(tmp_path, template, message):
    tokenizer = finished(byte_level(), "<e>", eos="<e>", template=template)
    with pytest.raises(ValueError, match=f"^the chat template {message}$"):
        Chat(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^model.source='{tmp_path}': the chat template {message}$"):
        Chat.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"eos_token_id": "</s>"}', "has eos_token_id='</s>': it must be a token id or a list of token ids"),
        ('{"eos_token_id": [1, true]}', r"has eos_token_id=\[1, True\]: it must be .*"),
        ("[]", "is no JSON object: copy it again"),
        ('{"eos', "is no JSON object: copy it again"),
    ],
)
def test_a_generation_config_that_cannot_be_used_is_named(tmp_path, content, message):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/generation_config.json {message}$"):
        generation_ends(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"^model.source='{tmp_path}' holds no tokenizer.json$"):
        load_tokenizer(tmp_path)
