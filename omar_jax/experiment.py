"""From a checked configuration to the parts of a run. The commands build everything here.

What is built: the environment, the chat around its text, the model with its weights, the sampler and rollout
that play, the learner and minibatch plan that update.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from omar_jax import layout, metrics, settings, sft, train_state
from omar_jax.advantages import Advantages, AdvantageSettings
from omar_jax.checkpoint import CheckpointError
from omar_jax.console import Console
from omar_jax.envs.base import Player
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import ScriptedPlayer
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.model import hf
from omar_jax.model.attention import causal
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.model.hf import ModelError
from omar_jax.rollout import Rollout
from omar_jax.sampler import LegalTable, Sampler, Shapes
from omar_jax.text.chat import Chat, load_tokenizer
from omar_jax.train_state import OptimizerSettings, make_optimizer
from omar_jax.turn_filter import FilterSettings
from omar_jax.types import Episode, GameBatch, Params
from omar_jax.update import Learner, MinibatchPlan, PPOSettings, ppo_loss

EMBEDDED = Path(__file__).parent / "assets" / "embedded"


# What a user can mend; the commands show it as one line.
USER_ERRORS = (settings.SettingError, CheckpointError, ModelError, FloatingPointError)


def prepare_workdir(config: ConfigDict, workdir: str | None, config_file: str) -> Path:
    """Makes the run's folder and writes its configuration there.

    Raises:
      SettingError: the folder holds a run of another configuration.
    """
    settings.check(config)
    name = f"{Path(config_file).stem}-{config.preset or 'default'}"
    folder = Path(workdir) if workdir else Path("runs") / name
    folder.mkdir(parents=True, exist_ok=True)
    stored, given = folder / "config.json", config.to_json(sort_keys=True, indent=1)
    if stored.is_file():
        settings.check_same(json.loads(stored.read_text()), json.loads(given), folder)
    stored.write_text(given + "\n")
    return folder


def model_folder(config: ConfigDict) -> Path:
    """Where the model's config, weights and tokenizer lie."""
    return EMBEDDED if config.model.folder == "embedded" else Path(config.model.folder)


def initial_params(model: Decoder, seed: int) -> Params:
    """Random parameters."""

    def init(key):
        tokens = np.zeros((1, 2), np.int32)
        return model.init(key, tokens, tokens, causal(model.config, tokens), method="init_all")

    return jax.jit(init)(jax.random.key(seed))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run; see `build`."""

    config: ConfigDict
    env: Werewolf
    chat: Chat
    decoder_config: DecoderConfig
    rollout: Rollout
    learner: Learner
    plan: MinibatchPlan
    advantages: AdvantageSettings
    turn_filter: FilterSettings

    @property
    def model(self) -> Decoder:
        """The policy's network."""
        return self.learner.model

    def load_params(self) -> Params:
        """The configured weights, as device arrays."""
        return jax.device_put(hf.load(model_folder(self.config), self.decoder_config))

    def train_cold_start(self, console: Console) -> Params:
        """A fresh model fine-tuned on scripted games; deterministic by seed."""
        learner, plan = self.cold_start()
        state = train_state.create(initial_params(self.model, self.config.seed), learner.optimizer)
        total, seed, begun = self.config.cold_start.games, self.config.seed, time.perf_counter()

        def report(games, numbers):
            values = "  ".join(f"{name.split('/')[1]} {value:.4f}" for name, value in numbers.items())
            seconds = time.perf_counter() - begun
            console.line(f"cold start {games:6d} of {total} games  {values}  {seconds:.0f} s")

        return sft.train(self.rollout, learner, state, self.scripted_player(), plan, total, seed, report).params

    def cold_start_params(self, folder: Path, console: Console) -> Params:
        """The policy that training starts from and is held to: the configured weights, or made anew in `folder`."""
        if not self.config.cold_start.train:
            return self.load_params()
        if not folder.is_dir():
            unfinished = folder.with_name(folder.name + ".tmp")
            unfinished.mkdir(parents=True, exist_ok=True)
            hf.save(unfinished, self.decoder_config, self.train_cold_start(console))
            unfinished.rename(folder)
        return jax.device_put(hf.load(folder, self.decoder_config))

    def records(self, episodes: Sequence[Episode], batch: GameBatch, computed: Advantages) -> list[dict]:
        """Games as JSON, every action token with its advantage; row n of the batch is episode n."""
        found = []
        for n, episode in enumerate(episodes):
            by_seat = sorted(
                (seat, step) for step, said in enumerate(episode.steps) for seat in said.turns
            )  # the order of the batch's turns
            of_turn = {at: computed.advantages[n][batch.action_turn[n] == row] for row, at in enumerate(by_seat)}
            found.append(metrics.episode_record(episode, self.env.seat_names, of_turn, self.chat.tokenizer.decode))
        return found

    def scripted_player(self) -> Player:
        """Who plays the games of the cold start."""
        return ScriptedPlayer()

    def cold_start(self) -> tuple[Learner, MinibatchPlan]:
        """What fine-tunes on scripted games."""
        c = self.config.cold_start
        optimizer = OptimizerSettings(
            learning_rate=c.learning_rate,
            warmup_steps=c.warmup_steps,
            max_gradient_norm=1.0,
            weight_decay=c.weight_decay,
            total_steps=c.games // c.minibatch_games,
        )
        loss = functools.partial(sft.sft_loss, c.value_coefficient)
        plan = dataclasses.replace(self.plan, games_at_once=c.games_at_once, minibatch_games=c.minibatch_games)
        return Learner(self.model, loss, make_optimizer(optimizer)), plan


def sampler_shapes(config: ConfigDict, env: Werewolf, chat: Chat) -> Shapes:
    """The sizes play is compiled for: smaller batches for when games have finished, and half the seats.

    Two of three games go on after their first day, fewer after each later one; these batch sizes keep idle slots
    under a tenth (`play/idle_share` in the metrics).
    """
    legal_nodes, legal_width = LegalTable.size(chat.action(choice) for choice in env.choices)
    games = config.play.games
    return Shapes(
        games=tuple(sorted({max(games * eighths // 8, 1) for eighths in (8, 7, 6, 4)}, reverse=True)),
        transcript=tuple(config.play.transcript_tokens),
        piece=config.play.piece_tokens,
        cue=config.play.cue_tokens,
        action=config.play.action_tokens,
        asked=tuple(sorted({(env.num_seats + 1) // 2, env.num_seats})),
        legal_nodes=legal_nodes,
        legal_width=legal_width,
    )


def build(config: ConfigDict) -> Experiment:
    """Builds the parts of a run.

    Raises:
      SettingError: a setting cannot be used.
      ModelError: the model's folder cannot be.
    """
    settings.check(config)
    folder = model_folder(config)
    env = Werewolf(RULE_SETS[config.environment.rules], config.environment.legal_choices)
    decoder_config = hf.read_config(folder)
    try:
        chat = Chat(load_tokenizer(folder))
    except ValueError as error:  # `text` knows no errors of ours
        raise ModelError(str(error)) from error
    model = Decoder(decoder_config, remat=config.model.remat)
    shapes = sampler_shapes(config, env, chat)
    sampler = Sampler(model, chat.end, shapes)
    ppo = config.ppo
    loss = PPOSettings(
        clip_low=ppo.clip_low,
        clip_high=ppo.clip_high,
        value_clip=ppo.value_clip or None,
        value_coefficient=ppo.value_coefficient if config.advantages.mode != "return" else 0.0,
        kl_coefficient=ppo.kl_coefficient,
        entropy_coefficient=ppo.entropy_coefficient,
    )
    optimizer = OptimizerSettings(ppo.learning_rate, ppo.warmup_steps, ppo.max_gradient_norm, ppo.weight_decay)
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
        env=env,
        chat=chat,
        decoder_config=decoder_config,
        rollout=Rollout(env, chat, sampler, config.environment.role_card),
        learner=Learner(model, functools.partial(ppo_loss, loss), make_optimizer(optimizer)),
        plan=plan,
        advantages=AdvantageSettings(
            a.mode, a.gamma_turn, a.lambda_turn, a.gamma_token, a.lambda_token, a.turn_value, a.whiten
        ),
        turn_filter=FilterSettings(config.filter.unfinished, config.filter.empty, config.filter.repeated_words),
    )
