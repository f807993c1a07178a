"""What a judge is worth: its scores of published conversations against the published ones, which GPT-4 gave.

    python -m benchmarks.judge_agreement --episodes=sotopia_episodes.jsonl --config=configs/sotopia.py:gemma3_270m

The judge is that of config.judge; a local one is the model as it was published, without a cold start. Prints, for every
dimension, both means, the rank correlation with an interval (bootstrapped over conversations), and how far the scores
are apart on average, beside how far the published mean is from them: what a judge that says always the same would do.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from scipy import stats

from omar_jax import experiment, judge_cases, runtime
from omar_jax.command_line import define_config, parse_flags
from omar_jax.console import Console
from omar_jax.datasets import sotopia as records
from omar_jax.envs import sotopia_text as text
from omar_jax.envs.sotopia import PUBLISHED_ENDING, Settings, Sotopia, State
from omar_jax.judge_rubrics import SEVEN
from omar_jax.model import lora

CONFIG = define_config()
EPISODES = flags.DEFINE_string("episodes", None, "A file of published conversations with their scores.", required=True)
OUT = flags.DEFINE_string("out", None, "Where to write both scores of everybody, as JSON.")
RESAMPLES = 2000


def replayed(env: Sotopia, pack, row) -> judge_cases.Case:
    """A published conversation as a judge reads it."""
    people = tuple(pack.characters[id] for id in row["agent_ids"])
    step = env.step(State(0, pack.scenarios[row["environment_id"]], people, None), {})
    for heard in row["raw_messages"]:
        done = {who: words for who, _, words in heard}
        if step.rewards is None:
            [seat] = step.asks
            step = env.step(step.state, {seat: text.write_json(text.from_words(done[people[seat].name]))})
    return judge_cases.of_state(step.state, env.names(step.state))


def correlation(found: np.ndarray, published: np.ndarray) -> str:
    """The rank correlation of [conversations, seats], with an interval; "-" where one never changes."""

    def of(rows):
        a, b = found[rows].ravel(), published[rows].ravel()
        return stats.spearmanr(a, b).statistic if np.ptp(a) and np.ptp(b) else np.nan

    rng, n = np.random.default_rng(0), len(found)
    again = [of(rng.integers(n, size=n)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(again, [2.5, 97.5]) if np.isfinite(again).any() else (np.nan, np.nan)
    whole = of(np.arange(n))
    return f"{whole:+.2f} ({low:+.2f} to {high:+.2f})" if np.isfinite(whole) else "-"


def main(argv: list[str]) -> None:
    """Judges, compares, prints."""
    del argv
    console, path = Console(), Path(EPISODES.value)
    try:
        run = experiment.build(CONFIG.value, console.line)
        pack = records.load(path, console.line)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        env = Sotopia(pack, Settings(actions="json", opening="published", ending=PUBLISHED_ENDING))
        cases = [replayed(env, pack, row) for row in rows]
        with tempfile.TemporaryDirectory() as folder:
            reference = lora.combine(*run.weights()) if CONFIG.value.judge.backend == "local" else None
            jury = run.jury(reference, Path(folder), lambda: None)
            if jury is None:
                sys.exit("omar_jax: there is no judge: give --config.judge.backend=local, openai or rules")
            scores = jury.judge.scores(cases, SEVEN, len(cases))
    except (*experiment.USER_ERRORS, ValueError) as error:
        sys.exit(f"omar_jax: {error}")
    judged = [n for n, of in enumerate(scores) if not isinstance(of, judge_cases.Failure)]
    console.line(f"{len(judged)} of {len(rows)} conversations were judged")
    print(
        "| dimension | judge, mean | published, mean | rank correlation | apart | the mean's apart |\n"
        + "|---" * 6
        + "|"
    )
    for name in [dimension.name for dimension in SEVEN]:
        found = np.array([[seat[name] for seat in scores[n]] for n in judged])
        published = np.array([[rating[name] for _, rating in rows[n]["raw_rewards"]] for n in judged])
        apart, of_mean = np.abs(found - published).mean(), np.abs(published - published.mean()).mean()
        cells = (f"{found.mean():.2f}", f"{published.mean():.2f}", correlation(found, published))
        print("| " + " | ".join((name, *cells, f"{apart:.2f}", f"{of_mean:.2f}")) + " |")
    if OUT.value:
        both = [{"judge": scores[n], "published": [of for _, of in rows[n]["raw_rewards"]]} for n in judged]
        Path(OUT.value).write_text(json.dumps(both, indent=1))


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    runtime.keep_freed_memory()
    runtime.remember_compilations()
    app.run(main, flags_parser=parse_flags)
