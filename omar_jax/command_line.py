"""The command line of every command: a configuration file with a preset, and changes of its settings.

A mistake in it ends the program with one line that names the setting, its value, and what would be right.
"""

import re
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags

from omar_jax import settings

DEFAULT_CONFIG = "configs/werewolf.py"
# What a value must be, by the type of its flag.
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "like (256, 512)"}


def define_config() -> flags.FlagHolder:
    """Defines --config."""
    # No default of its own: ml_collections would read it, and fail on unknown settings, right here.
    return config_flags.DEFINE_config_file("config", None, f"File[:preset]. Default: {DEFAULT_CONFIG}.")


def is_given(argv: list[str]) -> bool:
    """Whether the command line names a configuration's file."""
    return any(re.fullmatch(r"--?config(=.*)?", argument) for argument in argv[1:])


def changes() -> dict[str, Any]:
    """The settings that the command line changes, as in {"ppo.epochs": 2}."""
    return config_flags.get_override_values(flags.FLAGS["config"])


def parse_flags(argv: list[str]) -> list[str]:
    """Reads the command line for `app.run`; a mistake in it ends the program with one line."""
    only_config = flags.FlagValues()
    file = flags.DEFINE_string("config", DEFAULT_CONFIG, "", only_config)
    try:
        only_config(argv, known_only=True)
        fresh = settings.fresh(file.value)
        for argument in argv[1:]:
            if override := re.match(r"--?(?:no)?config\.([^=]+)", argument):
                settings.check_known(fresh, override[1])
        rest = flags.FLAGS([argv[0], *([] if file.present else [f"--config={file.value}"]), *argv[1:]])
        if rest[1:]:
            raise flags.Error(f"{rest[1]!r} is no flag; settings are given as --config.section.name=value")
        return rest
    except flags.IllegalFlagValueError as error:
        setting, value = re.match(r"flag --([^=]+)=(.*?): ", str(error)).groups()
        parser = flags.FLAGS[setting].parser
        right = KINDS.get(parser.flag_type(), parser.flag_type())
        if isinstance(parser, flags.IntegerParser | flags.FloatParser) and parser.lower_bound is not None:
            right += f" of at least {parser.lower_bound}"
        shown = setting if setting.startswith("config.") else f"--{setting}"
        sys.exit(f"omar_jax: {shown}={value} cannot be used: it must be {right}")
    except (settings.SettingError, flags.Error) as error:
        sys.exit(f"omar_jax: {error}")
