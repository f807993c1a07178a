"""A run's folder: its configuration is written there first, and read again by whatever looks at the run later.

What else lies in it is listed in docs/design.md.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from omar_jax import hosts, settings


def prepare(config: ConfigDict, workdir: str | None, config_file: str) -> Path:
    """Makes the run's folder and writes its configuration there.

    Raises:
      SettingError: the folder holds a run of another configuration that has got further than its first mistake.
    """
    settings.check(config)
    name = f"{Path(config_file).stem}-{config.preset or 'default'}"
    folder = Path(workdir) if workdir else Path("runs") / name
    folder.mkdir(parents=True, exist_ok=True)
    stored, given = folder / "config.json", config.to_json(sort_keys=True, indent=1)
    begun = any((folder / made).exists() for made in ("checkpoints", "cold_start"))
    if begun and stored.is_file():
        before = json.loads(json.dumps(settings.completed(json.loads(stored.read_text()))))  # lists, no tuples
        settings.check_same(before, json.loads(given), folder)
    if hosts.is_first():
        written = folder / "config.json.new"  # renamed, so that no other process reads half of it
        written.write_text(given + "\n")
        written.replace(stored)
    return folder


def stored_config(workdir: Path) -> ConfigDict:
    """The configuration of a run that exists, for the devices at hand and not for those that it trained on.

    Settings that were not there when the run began have their defaults.

    Raises:
      SettingError: the folder holds no run.
    """
    stored = workdir / "config.json"
    if not stored.is_file():
        raise settings.SettingError(f"--workdir={workdir} holds no config.json; give the folder of a run")
    kept = json.loads(stored.read_text()) | {"mesh": {"train": "auto", "play": "auto"}}
    return ConfigDict(settings.completed(kept))
