"""Writes a run's policy as a Hugging Face folder that transformers and vLLM load as it is.

    python -m omar_jax.export --workdir=runs/werewolf-default --out=exported

What is written: config.json, model.safetensors (in shards where it is large), the tokenizer with its chat template,
generation_config.json with the ids that end a turn, and the critic's head in value_head.safetensors, which others
ignore. Adapters (LoRA) are added to the weights they belong to.
"""

import json
import shutil
import sys
from pathlib import Path

from absl import app, flags, logging

from omar_jax import experiment, workdirs
from omar_jax.model import hf, lora
from omar_jax.settings import SettingError
from omar_jax.text.chat import GENERATION_CONFIG

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, as given to omar_jax.main.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder to write; it must not exist yet.", required=True)
ITERATION = flags.DEFINE_integer("iteration", None, "Which checkpoint. Default: the newest sound one.", lower_bound=0)
DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "What the weights are stored as.")


def export(run: experiment.Experiment, params, out: Path, dtype: str) -> None:
    """Writes a policy.

    Args:
      run: that it belongs to.
      params: the whole policy, adapters included.
      out: a folder that does not exist yet; it appears when everything in it is written.
      dtype: "bfloat16" or "float32".

    Raises:
      SettingError: the folder exists.
    """
    if out.exists():
        raise SettingError(f"--out={out} exists already; give a new folder")
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    folded = lora.fold(params, run.model.lora)
    hf.save(unfinished, hf.read_config_json(run.folder), run.decoder_config, folded, dtype)
    run.chat.tokenizer.save_pretrained(unfinished)
    given = run.folder / GENERATION_CONFIG
    generation = json.loads(given.read_text()) if given.is_file() else {}
    generation["eos_token_id"] = list(run.chat.ends)
    (unfinished / GENERATION_CONFIG).write_text(json.dumps(generation, indent=1) + "\n")
    unfinished.rename(out)


def main(argv: list[str]) -> None:
    """Exports what the flags say, and puts what the user can mend into one line."""
    del argv
    try:
        run = experiment.build(workdirs.stored_config(Path(WORKDIR.value)))
        iteration, params = run.result(Path(WORKDIR.value), ITERATION.value)
        export(run, params, Path(OUT.value), DTYPE.value)
    except experiment.USER_ERRORS as error:
        sys.exit(f"omar_jax: {error}")
    print(f"{OUT.value}: the policy after {iteration} iterations in {DTYPE.value}")


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    app.run(main)
