import pytest

from omar_jax.console import COLUMNS, Console


def test_lines_are_printed_as_they_are(capsys):
    long = "runs/[bold]x[/bold] :" + " word" * 60
    Console().line(long)
    assert capsys.readouterr().out == long + "\n"


def test_an_iteration_is_one_line_with_every_column(capsys):
    numbers = {name: 0.25 for name, _ in COLUMNS.values()}
    Console().iteration(7, numbers | {"win_rate/village": 0.75})
    out = capsys.readouterr().out
    assert out.startswith("iteration    7  ") and out.count("\n") == 1
    assert all(f"{title} " in out for title in COLUMNS)
    assert "wolves win 0.25" in out and "kl 0.2500" in out and "explained +0.25" in out


@pytest.mark.parametrize("share, said", [(0.0, False), (0.25, True)])
def test_games_that_train_nothing_are_told_of(capsys, share, said):
    Console().iteration(7, {"game/oversize_share": share})
    out = capsys.readouterr().out
    assert ("left out 25%" in out and "config.layout.buckets" in out) == said


def test_progress_draws_nothing_outside_a_terminal_and_asks_whether_to_stop(capsys):
    calls = []

    def check():
        calls.append(len(calls))
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError), Console().progress("play", 10, check) as show:
        for games in range(10):
            show(games, 100 * games)
    assert calls == [0, 1, 2]
    assert capsys.readouterr().out.strip() == ""
