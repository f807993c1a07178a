"""A run on one page: cold start, then play, score, advantages, update, again and again; at the end, the arena.

    python -m omar_jax.main --config=configs/werewolf.py

The same command continues an interrupted run. What it leaves in --workdir is listed in docs/design.md.
"""

import contextlib
import functools
import operator
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from omar_jax import (
    advantages,
    contest,
    early_stopping,
    experiment,
    hosts,
    matches,
    metrics,
    report_page,
    runtime,
    settings,
    update,
    workdirs,
)
from omar_jax.checkpoint import Checkpoints, digest
from omar_jax.command_line import define_config, parse_flags
from omar_jax.console import Console
from omar_jax.endpoint import EndpointError
from omar_jax.judge import JudgeError
from omar_jax.turn_filter import filter_turns

CONFIG = define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept. Default: runs/<config>-<preset>.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where several processes train and neither TPU nor Slurm tells."
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many there are then.")
PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")


def train(config, workdir: Path, console: Console, stop: runtime.Stop) -> None:
    """Trains to the last iteration or until it is asked to stop, continuing what `workdir` holds; then the arena."""
    ################################## Build ##################################
    compilations = metrics.CompilationCounter()
    run = experiment.build(config, console.line)
    learner, plan, roles = run.learner, run.plan, run.env.role_names
    params, frozen, reference = run.start(workdir / "cold_start", console)
    jury = run.jury(reference, workdir / "judge", stop.check)
    moving, start = run.moving(params), 0
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.keep, console.line)
    if restored := checkpoints.restore_latest(moving):
        start, moving, _ = restored
    writer = metrics.MetricsWriter(workdir, start) if hosts.is_first() else None
    history = hosts.gather(writer and writer.history)[0]

    def save(iterations_done):
        counters = {"iterations_done": iterations_done}
        checkpoints.save(iterations_done, moving, counters)

    @contextlib.contextmanager
    def saving_if_stopped(iterations_done):
        try:
            yield
        except (runtime.StopRequested, JudgeError, EndpointError):
            save(iterations_done)
            checkpoints.close()
            console.line(f"saved after {iterations_done} iterations")
            raise

    def contestants(params):
        trained = matches.Contestant("trained", run.policy(params, frozen))
        return trained, matches.Contestant("cold start", run.policy(reference, None))

    if not restored:
        save(0)
    console.line(f"{workdir}: {'continuing after' if start else 'starting at'} iteration {start}; compiling ...")
    run.rollout.sampler.warm_up(run.policy(moving["state"].params, frozen))
    learner.warm_up(reference, moving["state"].params, frozen, plan)

    for iteration in range(start, config.ppo.iterations):
        if why := early_stopping.reason(history, run.bounds):
            console.line(f"stopping early, after {iteration} iterations: {why}")
            save(iteration)
            break
        ################################## Play ##################################
        key = jax.random.fold_in(run.rollout.sampler.key(config.seed), iteration)
        first = iteration * config.play.games
        games = run.opponents.games(range(first, first + config.play.games), iteration)
        players = [moving["state"].params, *run.opponents.drawn(moving, iteration)]
        policies = [run.policy(params, frozen) for params in players]
        bar = console.progress(f"iteration {iteration}", len(games), stop.check)
        with saving_if_stopped(iteration), bar as progress:
            play = functools.partial(run.rollout.play, hosts.share(games), policies, key)
            everywhere = hosts.together(functools.partial(play, config.play.temperature, progress))
        del policies, players, play  # copies, on several machines; the update needs its memory
        runtime.return_freed_memory()
        episodes = [episode for episodes, _ in everywhere for episode in episodes]
        cost = functools.reduce(operator.add, (cost for _, cost in everywhere))

        ################################# Score ##################################
        clock = time.perf_counter()
        episodes = [filter_turns(episode, run.chat.ends, run.turn_filter) for episode in episodes]
        judged, scores = {}, {}
        if jury:
            with saving_if_stopped(iteration):
                episodes, judged, of_games = jury.score(episodes)
            scores = {episode.game: of for episode, of in zip(episodes, of_games, strict=True) if of}
        fitting = plan.fitting(episodes)
        if not fitting:
            raise settings.SettingError(
                f"none of iteration {iteration}'s games fits config.play.transcript_tokens="
                f"{config.play.transcript_tokens} and config.layout.buckets: larger ones, or a longer cold start"
            )
        batch = plan.pack(fitting, roles)
        reference_log_probs = learner.reference_log_probs(reference, plan, fitting, batch, config.play.temperature)
        scored = time.perf_counter()

        ############################### Advantages ###############################
        computed = advantages.compute_whitened(batch, run.advantages, len(roles), moving["baselines"])
        baselines = advantages.next_baselines(batch, moving["baselines"], len(roles), config.advantages.baseline_decay)
        computed, baselines = jax.device_get((computed, baselines))
        targets = update.Targets(computed.advantages, computed.targets, computed.mask, reference_log_probs)

        ################################# Update #################################
        order = np.random.default_rng((config.seed, iteration))
        minibatches = (
            minibatch
            for _ in range(config.ppo.epochs)
            for minibatch in plan.minibatches(fitting, batch, targets, order)
        )
        state, numbers = learner.update(moving["state"], minibatches, config.play.temperature, frozen)
        pool = run.opponents.grown(moving, iteration + 1, state.params)
        moving = {"state": state, "baselines": baselines, **pool}
        updated = time.perf_counter()

        ################################# Write ##################################
        numbers |= metrics.game_metrics(episodes, run.env.team) | judged
        numbers |= {
            "critic/explained_variance": update.explained_variance(batch, targets),
            "game/oversize_share": 1 - len(fitting) / len(episodes),
            "play/idle_share": cost.idle_game_slots / max(cost.game_slots, 1),
            "time/play": cost.seconds,
            "time/host": cost.host_seconds,
            "time/score": scored - clock,
            "time/update": updated - scored,
            "time/games_per_second": len(games) / cost.seconds,
            "time/tokens_per_second": cost.action_tokens / cost.seconds,
            "time/update_games_per_second": config.ppo.epochs * len(games) / (updated - scored),
            "compilations": compilations.count,
        }
        if config.arena.every and (iteration + 1) % config.arena.every == 0:
            numbers["arena/score"] = contest.score(run.rollout, *contestants(state.params), config)
        history.append(numbers)
        console.iteration(iteration, numbers)
        last = iteration + 1 == config.ppo.iterations
        if writer:
            writer.write(iteration, numbers)
        if writer and config.log.episodes_every and (iteration % config.log.episodes_every == 0 or last):
            metrics.write_episodes(workdir, iteration, run.records(fitting, batch, computed, scores))
        if (iteration + 1) % config.checkpoint.every == 0 or last:
            save(iteration + 1)
    checkpoints.close()

    ################################## Arena ##################################
    if config.arena.games:
        trained, cold_start = contestants(moving["state"].params)
        trained = trained._replace(origin=digest(moving["state"].params))
        cold_start = cold_start._replace(origin=digest(reference))
        games, out = workdir / "arena" / str(config.ppo.iterations), workdir / "arena.json"
        contest.hold(run.rollout, trained, cold_start, config, games, out, console, stop)

    ################################# Report #################################
    if config.log.report and hosts.is_first():
        report_page.write(workdir, workdir / "report.html", console.line)
        console.line(f"What was learned, and the games: {workdir / 'report.html'}")


def main(argv: list[str]) -> None:
    """Trains, and puts what the user can mend into one line."""
    del argv
    try:
        hosts.start(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        config, console = CONFIG.value, Console(quiet=not hosts.is_first())
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        workdir = workdirs.prepare(config, WORKDIR.value, file)
        train(config, workdir, console, runtime.Stop())
    except runtime.StopRequested:
        console.line("stopped; the same command continues")
    except experiment.USER_ERRORS as error:
        sys.exit(f"omar_jax: {error}")
    except Exception as error:
        if not hosts.is_loss(error):
            raise
        hosts.give_up(error)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save
    runtime.keep_freed_memory()
    runtime.remember_compilations()
    app.run(main, flags_parser=parse_flags)
