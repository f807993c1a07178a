"""Writes one page about a run that opens from the disk: result, curves, comparisons, behaviour and a reader of games.

    python -m omar_jax.report --workdir=runs/werewolf-default

The life of the page: `report_page.write` reads what the run has left so far, be it running or over, and writes it.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from omar_jax import experiment, report_page

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, as given to omar_jax.main.", required=True)
OUT = flags.DEFINE_string("out", None, "File to write. Default: report.html in the run's folder.")
GAMES = flags.DEFINE_integer(
    "games", report_page.MOST_GAMES, "Most games in the reader.", lower_bound=0, upper_bound=5000
)


def main(argv: list[str]) -> None:
    """Writes the page that the flags say, and puts what the user can mend into one line."""
    del argv
    workdir = Path(WORKDIR.value)
    out = Path(OUT.value) if OUT.value else workdir / "report.html"
    try:
        size = report_page.write(workdir, out, print, GAMES.value)
    except experiment.USER_ERRORS as error:
        sys.exit(f"omar_jax: {error}")
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    app.run(main)
