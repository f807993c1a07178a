"""From a checked configuration to the parts of a run. The commands build everything here.

What is built: the environment, the chat around its text, the model, the sampler and rollout that play, the learner
and minibatch plan that update; then the weights to start from, cold-started where the configuration says so.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from omar_jax import catalogue, early_stopping, given_games, judge, layout, meshes, metrics, settings, sft, sharding
from omar_jax.advantages import Advantages, AdvantageSettings
from omar_jax.checkpoint import CheckpointError, Checkpoints
from omar_jax.console import Console
from omar_jax.endpoint import EndpointError
from omar_jax.envs.base import Environment
from omar_jax.judge import JudgeSettings
from omar_jax.judge_rubrics import Scores
from omar_jax.model import hf, lora, source
from omar_jax.model.attention import causal
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder, convert, counts_in_float32
from omar_jax.model.hf import ModelError
from omar_jax.opponents import Opponents
from omar_jax.rollout import Rollout
from omar_jax.sampler import LegalTable, Sampler, Shapes
from omar_jax.text.chat import Chat
from omar_jax.train_state import OptimizerSettings, make_optimizer
from omar_jax.turn_filter import FilterSettings
from omar_jax.types import Episode, GameBatch, Params
from omar_jax.update import Learner, MinibatchPlan, PPOSettings, ppo_loss

# Tokens of a game up to which accelerators train with whole masks, as long as those fit: a gradient of 6 layers of
# Gemma 3 270M on 5,632 tokens, compiled for v5e with low effort, moves 94 GiB through its memory and needs 1.1 GiB; in
# blocks it moves 134 GiB and needs 0.6 GiB.
LONGEST_DENSE = 6144

# How a small model plays fastest on a CPU of two cores: its caches stay near the cores, and a second thread finds a
# core that the first one's small matrices leave idle. Accelerators play all games at once.
CPU_BATCH_GAMES, CPU_LANES = 64, 2

# What a user can mend; the commands show it as one line.
USER_ERRORS = (
    *(settings.SettingError, CheckpointError, ModelError, FloatingPointError),
    *(judge.JudgeError, EndpointError),
)


def initial_params(model: Decoder, seed: int) -> Params:
    """Random parameters, in float32."""

    def init(key):
        tokens = np.zeros((1, 2), np.int32)
        params = model.init(key, tokens, tokens, causal(model.config, tokens), method="init_all")
        return sharding.keep_split(params, model.mesh, model.config.kv_heads)

    return jax.jit(init)(jax.random.key(seed))


class Start(NamedTuple):
    """The parameters that self-play starts from.

    Attributes:
      trained: what the optimizer changes.
      frozen: what it does not, beside it; None where everything is trained (`model.lora`).
      reference: the whole policy as it is now, which the KL penalty holds on to; never changed.
    """

    trained: Params
    frozen: Params | None
    reference: Params


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run; see `build`."""

    config: ConfigDict
    folder: Path  # of the model: config.json, weights, tokenizer
    env: Environment
    chat: Chat
    decoder_config: DecoderConfig
    rollout: Rollout
    learner: Learner
    plan: MinibatchPlan
    advantages: AdvantageSettings
    turn_filter: FilterSettings
    opponents: Opponents
    bounds: early_stopping.Bounds
    judging: JudgeSettings | None  # None: nobody judges

    @property
    def model(self) -> Decoder:
        """The policy's network."""
        return self.learner.model

    def weights(self) -> tuple[Params, Params | None]:
        """(trained, frozen) parameters as the configuration names them: stored or random, with new adapters."""
        precision, adapters = self.config.precision, self.model.lora
        dtype = self.dtype(precision.frozen if adapters else precision.params)

        mesh, kv_heads = self.model.mesh, self.decoder_config.kv_heads

        def place(name, array):
            array = array.astype(jnp.float32 if counts_in_float32(name) else dtype, copy=False)
            return sharding.put(array, mesh, sharding.partition(name, array.shape, mesh, kv_heads))

        if self.config.model.weights == "random":
            params = convert(initial_params(Decoder(self.decoder_config, mesh=mesh), self.config.seed), dtype)
        else:
            params = hf.load(self.folder, self.decoder_config, place)
        if adapters:
            params = sharding.place(lora.add(params, adapters, self.config.seed), mesh, kv_heads)
        return lora.split(params, adapters)

    def policy(self, trained: Params, frozen: Params | None) -> Params:
        """The whole policy on the devices that play and in the dtype it computes in, so that play converts nothing."""
        params = convert(lora.combine(trained, frozen), self.model.dtype)
        return sharding.to_play(params, self.model.mesh, self.rollout.sampler.model.mesh, self.decoder_config.kv_heads)

    def jury(self, reference: Params | None, folder: Path, check: Callable[[], None]) -> judge.Jury | None:
        """Who judges finished games, if anybody does; `check` may stop it. Only a local judge needs `reference`."""
        player = self.rollout.sampler.model
        parts = (self.env, player, self.chat, lambda: self.policy(reference, None), folder, check)
        return self.judging and judge.build(self.judging, *parts)

    def start(self, folder: Path, console: Console) -> Start:
        """The weights, fine-tuned on scripted games where `cold_start.train` says so and kept in `folder`."""
        trained, frozen = self.weights()
        if self.config.cold_start.train:
            cold_start = Checkpoints(folder, keep=1, report=console.line)
            if stored := cold_start.restore_latest(trained):
                trained = stored[1]
            else:
                trained = self.train_cold_start(trained, frozen, console)
                cold_start.save(0, trained, {})
            cold_start.close()
        # The optimizer gives its arrays away at every step, so the reference must have its own.
        dtype = self.dtype(self.config.precision.frozen if frozen is None else "float32")
        reference = jax.tree.map(jnp.copy, convert(trained, dtype))
        return Start(trained, frozen, lora.combine(reference, frozen))

    def cold_start_weights(self, folder: Path) -> tuple[Params, Params | None]:
        """(trained, frozen) parameters that a run started from; `folder` keeps them where it made its own.

        Raises:
          CheckpointError: it made its own, and the folder holds none.
        """
        trained, frozen = self.weights()
        if not self.config.cold_start.train:
            return trained, frozen
        stored = Checkpoints(folder, keep=None).restore_latest(trained)
        if stored is None:
            raise CheckpointError(f"{folder} holds no cold start yet")
        return stored[1], frozen

    def moving(self, params: Params) -> dict[str, Any]:
        """Everything that an iteration changes, as a run begins; what its checkpoints hold."""
        baselines = np.zeros(len(self.env.role_names), np.float32)
        return {"state": self.learner.create(params), "baselines": baselines, **self.opponents.start(params)}

    def result(self, workdir: Path, iteration: int | None = None) -> tuple[int, Params]:
        """(iteration, the whole policy) of a run's checkpoint, the newest sound one if none is named.

        Raises:
          CheckpointError: there is no such checkpoint, or it cannot be used.
        """
        trained, frozen = self.weights()
        shapes = jax.eval_shape(self.moving, trained)
        template = sharding.described(shapes, self.model.mesh, self.decoder_config.kv_heads)
        checkpoints = Checkpoints(workdir / "checkpoints", keep=None)
        if iteration is None:
            found = checkpoints.restore_latest(template)
            if found is None:
                raise CheckpointError(f"{workdir} holds no checkpoint yet")
            iteration, moving, _ = found
        else:
            moving, _ = checkpoints.restore(iteration, template)
        checkpoints.close()
        return iteration, lora.combine(moving["state"].params, frozen)

    def train_cold_start(self, trained: Params, frozen: Params | None, console: Console) -> Params:
        """`trained`, fine-tuned on scripted games; deterministic by seed."""
        learner, plan = self.cold_start()
        state = learner.create(trained)
        total, seed, begun = self.config.cold_start.games, self.config.seed, time.perf_counter()

        def report(games, numbers):
            values = "  ".join(f"{name.split('/')[1]} {value:.4f}" for name, value in numbers.items())
            seconds = time.perf_counter() - begun
            console.line(f"cold start {games:6d} of {total} games  {values}  {seconds:.0f} s")

        given, roles = self.given_games(console.line), self.env.role_names
        return sft.train(given, learner, state, roles, plan, total, seed, report, frozen).params

    def dtype(self, setting: str) -> jnp.dtype:
        """What a setting of `config.precision` means."""
        return self.model.dtype if setting == "auto" else jnp.dtype(setting)

    def records(
        self, episodes: Sequence[Episode], batch: GameBatch, computed: Advantages, scores: Mapping[int, Scores]
    ) -> list[dict]:
        """Games as JSON, the learner's turns and tokens with their advantages; row n of the batch is episode n.

        `scores` are a judge's, by the game's number, of games that have some.
        """
        found, decode = [], self.chat.tokenizer.decode
        for n, episode in enumerate(episodes):
            said = ((seat, step) for step, turns in enumerate(episode.steps) for seat in turns.turns)
            by_seat = sorted(at for at in said if episode.is_learner(at[0]))  # the order of the batch's turns
            of_tokens = {at: computed.advantages[n][batch.action_turn[n] == row] for row, at in enumerate(by_seat)}
            whole = {at: computed.turn_advantages[n][row] for row, at in enumerate(by_seat)}
            found.append(metrics.episode_record(episode, of_tokens, decode, whole, scores.get(episode.game)))
        return found

    def given_games(self, report: Callable[[str], None]) -> Callable[[range], list[Episode]]:
        """The numbered games of the cold start: those of a file, again and again, or scripted ones.

        Raises:
          SettingError: `cold_start.dialogues` names no such file.
        """
        dialogues = self.config.cold_start.dialogues
        if not dialogues:
            teacher = catalogue.player(self.config, self.config.cold_start.player)

            def scripted(numbers):
                return self.rollout.play(self.opponents.lessons(numbers, teacher), [], jax.random.key(0))[0]

            return scripted
        try:
            episodes = given_games.load(Path(dialogues), self.rollout)
        except ValueError as error:
            raise settings.SettingError(f"config.cold_start.dialogues: {error}") from error
        report(f"{dialogues}: {len(episodes)} games or chats to learn from")
        return lambda numbers: [episodes[number % len(episodes)] for number in numbers]

    def cold_start(self) -> tuple[Learner, MinibatchPlan]:
        """What fine-tunes on scripted games."""
        c = self.config.cold_start
        optimizer = OptimizerSettings(
            learning_rate=c.learning_rate,
            warmup_steps=c.warmup_steps,
            max_gradient_norm=1.0,
            weight_decay=c.weight_decay,
            total_steps=c.games // c.minibatch_games,
            momentum_dtype=self.config.precision.momentum,
        )
        loss = functools.partial(sft.sft_loss, c.value_coefficient)
        plan = dataclasses.replace(self.plan, games_at_once=c.games_at_once, minibatch_games=c.minibatch_games)
        return Learner(self.model, loss, make_optimizer(optimizer)), plan


def batches(config: ConfigDict, chosen: meshes.Meshes, on_cpu: bool) -> tuple[int, int]:
    """How many games of a process speak together, and how many such batches are played at the same time."""
    games, one_cpu = config.play.games // chosen.processes, on_cpu and chosen.play is None
    # Programs for several devices must reach all of them in the same order, which threads do not keep.
    lanes = 1 if chosen.play else config.play.lanes or (CPU_LANES if one_cpu else 1)
    most = config.play.batch_games or (CPU_BATCH_GAMES if one_cpu else games)
    return min(most, -(-games // lanes)), lanes


def sampler_shapes(config: ConfigDict, env: Environment, chat: Chat, games: int, mesh: Mesh | None) -> Shapes:
    """The sizes play is compiled for: smaller batches for when games have finished, and half the seats.

    Two of three games go on after their first day, fewer after each later one; eighths of 8, 6 and 4 keep idle slots
    under a tenth (`play/idle_share` in the metrics). Batches divide evenly over the mesh.
    """
    legal_nodes, legal_width = LegalTable.size(chat.action(choice) for choice in env.choices)
    parts = sharding.num_game_parts(mesh)
    sizes = {-(-max(games * eighths // 8, 1) // parts) * parts for eighths in config.play.batch_eighths}
    return Shapes(
        games=tuple(sorted(sizes, reverse=True)),
        transcript=tuple(config.play.transcript_tokens),
        piece=config.play.piece_tokens,
        cue=config.play.cue_tokens,
        action=config.play.action_tokens,
        asked=tuple(sorted({(env.num_seats + 1) // 2, env.num_seats})),
        legal_nodes=legal_nodes,
        legal_width=legal_width,
    )


def build(
    config: ConfigDict, report: Callable[[str], None] = print, devices: Sequence[Any] | None = None
) -> Experiment:
    """Builds the parts of a run on the given devices, by default all; `report` is told of what takes long.

    Raises:
      SettingError: a setting cannot be used.
      ModelError: the model's folder cannot be.
    """
    settings.check(config)
    folder = model_folder(config, report)
    chat = read_chat(folder, config)
    return assemble(config, folder, hf.read_config(folder), chat, jax.devices() if devices is None else devices, report)


def judging(config: ConfigDict) -> JudgeSettings | None:
    """Who judges; None if nobody does. Raises SettingError."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in config.judge.items()}
    try:
        return JudgeSettings(**given) if config.judge.backend else None
    except ValueError as error:
        raise settings.SettingError(f"config.{error}") from error


def model_folder(config: ConfigDict, report: Callable[[str], None], weights: bool = True) -> Path:
    """The folder of the model that a run trains, downloaded or converted where it must be; see `source.resolve`."""
    if config.model.source == "embedded":
        return catalogue.EMBEDDED[config.environment.name]
    return source.resolve(config.model.source, report, weights)


def read_chat(folder: Path, config: ConfigDict) -> Chat:
    """The chat of the model in a folder.

    Raises:
      ModelError: its files cannot be used.
    """
    try:
        return Chat.from_folder(folder, config.model.thinking)
    except ValueError as error:  # `text` knows no errors of ours
        raise ModelError(str(error)) from error


def assemble(
    config: ConfigDict,
    folder: Path,
    decoder_config: DecoderConfig,
    chat: Chat,
    devices: Sequence[Any],
    report: Callable[[str], None],
) -> Experiment:
    """`build`, with a model and its text as given; nothing is read and nothing computed."""
    env = catalogue.environment(config)
    compute, on_cpu = config.precision.compute, devices[0].platform == "cpu"
    compute = {"auto": "float32" if on_cpu else "bfloat16"}.get(compute, compute)
    adapters = config.lora.rank and lora.LoRA(config.lora.rank, config.lora.alpha, tuple(config.lora.projections))
    dtype = jnp.dtype(compute)
    chosen = meshes.choose(config, decoder_config, dtype, devices, report)
    longest_dense = config.model.longest_dense or (None if on_cpu else LONGEST_DENSE)
    model = Decoder(decoder_config, config.model.remat, dtype, adapters or None, longest_dense, chosen.update)
    player = dataclasses.replace(model, mesh=chosen.play)
    games, lanes = batches(config, chosen, on_cpu)
    shapes = sampler_shapes(config, env, chat, games, chosen.play)
    sampler = Sampler(player, chat.ends, shapes)
    ppo = config.ppo
    loss = PPOSettings(
        clip_low=ppo.clip_low,
        clip_high=ppo.clip_high,
        value_clip=ppo.value_clip or None,
        value_coefficient=ppo.value_coefficient if config.advantages.mode != "return" else 0.0,
        kl_coefficient=ppo.kl_coefficient,
        entropy_coefficient=ppo.entropy_coefficient,
    )
    optimizer = OptimizerSettings(
        learning_rate=ppo.learning_rate,
        warmup_steps=ppo.warmup_steps,
        max_gradient_norm=ppo.max_gradient_norm,
        weight_decay=ppo.weight_decay,
        momentum_dtype=config.precision.momentum,
    )
    plan = MinibatchPlan(
        games_at_once=config.play.games,
        minibatch_games=ppo.minibatch_games,
        microbatch_games=ppo.microbatch_games,
        buckets=tuple(layout.Sizes(*bucket) for bucket in config.layout.buckets),
        legal_width=shapes.legal_width,
    )
    a = config.advantages
    return Experiment(
        config=config,
        folder=folder,
        env=env,
        chat=chat,
        decoder_config=decoder_config,
        rollout=Rollout(env, chat, sampler, config.environment.role_card, lanes),
        learner=Learner(model, functools.partial(ppo_loss, loss), make_optimizer(optimizer)),
        plan=plan,
        advantages=AdvantageSettings(
            a.mode, a.gamma_turn, a.lambda_turn, a.gamma_token, a.lambda_token, a.turn_value, a.whiten, a.balance_roles
        ),
        turn_filter=FilterSettings(config.filter.unfinished, config.filter.empty, config.filter.repeated_words),
        bounds=early_stopping.Bounds(**config.stop.to_dict()),
        judging=judging(config),
        opponents=Opponents(
            *(env, config.seed, config.opponents.past, config.opponents.every, config.opponents.pool),
            *(catalogue.player(config, config.opponents.player), config.opponents.side),
        ),
    )
