"""Memory and multiplications that are forecast, against those of real calls and of a real iteration."""

import ctypes
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.werewolf import get_config
from omar_jax import accelerators, experiment, forecast, layout, programs, update
from omar_jax.envs.werewolf_bots import ScriptedPlayer
from omar_jax.rehearsal import rehearse
from omar_jax.sampler import nobody_asked, nothing_said
from omar_jax.tables import Game, environment_seed

ROOT = Path(__file__).parents[1]
RELATIVE = 0.15


def tell_nobody(call, seconds):
    pass


def small_config():
    """The embedded model with small batches."""
    config = get_config("smoke")
    config.play.games = 32
    config.ppo.minibatch_games = 16
    config.layout.buckets = ((184, 208, 64, 12), (448, 512, 256, 24))
    return config


@pytest.fixture(scope="module")
def planned():
    """(run, topology, rehearsed, estimates of all that it calls)."""
    run = experiment.build(small_config())
    topology = accelerators.find(accelerators.LOCAL)
    rehearsed = rehearse(run.rollout, run.plan, run.config.seed, ScriptedPlayer())
    calls = {*programs.largest_calls(run), *programs.made_calls(run, rehearsed, 1)}
    found = forecast.estimate(run, topology, calls, forecast.loop_steps(run, calls, rehearsed), tell_nobody)
    return run, topology, rehearsed, found


def played_calls(run, params):
    """(episodes, calls, steps of decoding) of really played games, by shape."""
    sampler, calls, steps = run.rollout.sampler, Counter(), Counter()

    class Noting(type(sampler)):
        def extend(self, params, cache, piece):
            calls[programs.Extend(len(piece.count), cache.room)] += 1
            return sampler.extend(params, cache, piece)

        def decode(self, params, cache, ask, key, temperature):
            spoken = sampler.decode(params, cache, ask, key, temperature)
            call = programs.Decode(*ask.seat.shape[:1], cache.room, ask.seat.shape[1])
            calls[call] += 1
            steps[call] += int(spoken.count.max())
            return spoken

    noting = Noting(sampler.model, sampler.ends, sampler.shapes)
    rollout = type(run.rollout)(run.env, run.chat, noting, run.rollout.role_card)
    games = [
        Game(number, environment_seed(run.config.seed, number), lambda dealt: [0] * len(dealt))
        for number in range(run.config.play.games)
    ]
    return rollout.play(games, [params], sampler.key(0))[0], calls, steps


@pytest.mark.slow
def test_the_flops_are_those_of_a_real_iteration(planned):
    run, topology, rehearsed, found = planned
    trained, frozen = run.weights()
    episodes, calls, steps = played_calls(run, run.policy(trained, frozen))
    microbatches = Counter(
        room for room, _ in run.plan.microbatches(run.plan.fitting(episodes), np.random.default_rng(0))
    )
    for room, count in microbatches.items():
        calls[programs.Score(room)] = count
        calls[programs.Accumulate(room)] = run.config.ppo.epochs * count
    turns = {call: steps[call] / calls[call] for call in steps}
    real = forecast.estimate(run, topology, list(calls), turns, tell_nobody)
    spent = sum(count * real[call].flops for call, count in calls.items())
    made = forecast.forecast(run, topology, rehearsed, found)
    print(f"{made.flops / spent:.3f} of the FLOPs of a real iteration")
    assert made.flops == pytest.approx(spent, rel=RELATIVE)


def test_only_the_largest_programs_give_an_upper_bound(planned):
    run, topology, rehearsed, found = planned
    largest = {call: found[call] for call in programs.largest_calls(run)}
    exact = forecast.forecast(run, topology, rehearsed, found)
    quick = forecast.forecast(run, topology, rehearsed, largest)
    assert quick.flops >= exact.flops
    assert quick.total_seconds >= exact.total_seconds
    assert quick.worst.total == pytest.approx(exact.worst.total)


def test_the_models_flops_are_counted_by_hand(planned):
    run, _, rehearsed, _ = planned
    c = run.decoder_config
    block = 2 * c.width * c.heads * c.head_dim + 2 * c.width * c.kv_heads * c.head_dim + 3 * c.width * c.mlp_width
    passes = 1 + 3 * run.config.ppo.epochs
    tokens = passes * rehearsed.tokens + rehearsed.heard + rehearsed.spoken
    words = (passes + 1) * rehearsed.actions
    by_hand = 2 * (c.layers * block * tokens + c.vocabulary * c.width * words)
    assert forecast.model_flops(run, rehearsed, run.config.ppo.epochs) == by_hand


def test_phases_hold_what_is_alive_in_them(planned):
    run, topology, _, found = planned
    weights = 4 * sum(math.prod(shape) for shape in map(np.shape, jax.tree.leaves(run.weights()[0])))
    by_name = {phase.name: phase for phase in forecast.memory(run, topology, found)}
    assert list(by_name) == ["play", "score", "update", "step"]
    update = by_name["update"]
    # Weights and both moments, the count of steps and Adam's and the schedule's own.
    assert update.kept["weights and optimizer"] == pytest.approx(3 * weights, abs=64)
    assert update.kept["reference"] == update.kept["gradients"] == weights
    assert by_name["play"].kept["copy to play"] == 0  # the same arrays, as they lie
    assert update.call == programs.Accumulate(run.plan.buckets[-1])


def status(name):
    """Bytes that /proc says of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def grown(call):
    """Bytes of memory that this process takes more while it calls than before, once all is compiled."""
    call()
    time.sleep(0.5)  # what it took is given back in the background
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    call()
    return status("VmHWM") - before


def measure():
    """Prints (forecast, measured) bytes of the largest calls as JSON; run in a process of its own."""
    config = get_config()
    config.play.lanes, config.play.batch_games = 1, 256  # large calls, beside which what else grows is small
    config.ppo.microbatch_games = 16
    run = experiment.build(config)
    topology = accelerators.find(accelerators.LOCAL)
    trained, frozen = run.weights()
    policy, learner, sampler = run.policy(trained, frozen), run.learner, run.rollout.sampler
    _, decode, _, accumulate, _ = programs.largest_calls(run)
    found = forecast.estimate(run, topology, [decode, accumulate], {}, tell_nobody)
    batch = layout.empty(run.plan.microbatch_games, accumulate.room, run.plan.legal_width)
    targets = update.nothing_to_learn(run.plan.microbatch_games, accumulate.room)

    def step():
        given = (learner.zeros(trained), trained, frozen, learner.spread(batch), learner.spread(targets))
        jax.block_until_ready(learner.accumulate(*given, 1.0, np.float32(1)))

    def play():
        cache = sampler.grow(sampler.empty(decode.games), decode.room)
        cache = sampler.extend(policy, cache, nothing_said(decode.games, sampler.shapes))
        ask = nobody_asked(decode.games, decode.asked, sampler.shapes)
        jax.block_until_ready(sampler.decode(policy, cache, ask, sampler.key(0), np.float32(1)))

    pairs = {}
    for name, call, one in (("update", accumulate, step), ("play", decode, play)):
        [phase] = forecast.memory(run, topology, {call: found[call]})
        measured = sorted(grown(one) for _ in range(3))
        pairs[name] = phase.own + phase.kept.get("gradients", 0), measured[1]
    print(json.dumps(pairs))


@pytest.mark.slow  # 40 s
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak of memory")
def test_the_memory_is_that_of_real_calls():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    command = [sys.executable, "-c", "import test_forecast; test_forecast.measure()"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    for name, (expected, measured) in json.loads(done.stdout.splitlines()[-1]).items():
        assert expected == pytest.approx(measured, rel=RELATIVE), name


def test_attention_in_blocks_turns_once_a_pair_of_blocks(planned):
    run, _, rehearsed, _ = planned
    short, long = (programs.Accumulate(layout.Sizes(tokens, tokens, 64, 12)) for tokens in (512, 1536))
    assert forecast.loop_steps(run, [short, long], rehearsed) == {long: (1 + 12) / 2}  # blocks of 256


def test_a_program_too_large_to_compile_takes_no_time_but_memory():
    topology = accelerators.find(accelerators.LOCAL)
    found = forecast.measured(programs.Compiled(0, 0, 2**40, 0, None, None), topology, 1.0)
    assert found.own == 2**40 and math.isnan(found.seconds)
