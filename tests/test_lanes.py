"""Work in lanes: results in order, one failure is everybody's end."""

import threading
import time

import pytest

from omar_jax.lanes import GivenUp, in_lanes


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_results_come_in_the_order_of_the_work(lanes):
    def work(piece, check):
        check()
        time.sleep(0.01 * (5 - piece))
        return piece**2

    assert in_lanes(work, range(5), lanes) == [0, 1, 4, 9, 16]


def test_lanes_work_at_the_same_time():
    both = threading.Barrier(2, timeout=10)
    assert len(in_lanes(lambda piece, check: both.wait(), range(2), 2)) == 2


@pytest.mark.parametrize(("lanes", "pieces"), [(1, 3), (4, 1), (4, 0)])
def test_work_that_needs_no_lanes_is_done_by_the_caller_itself(lanes, pieces):
    threads = in_lanes(lambda piece, check: threading.current_thread(), range(pieces), lanes)
    assert set(threads) <= {threading.current_thread()}


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_ends_the_other_lanes_and_is_the_one_raised(failing):
    both, ended = threading.Barrier(2, timeout=10), []

    def work(piece, check):
        both.wait()
        if piece == failing:
            raise KeyError(piece)
        try:
            while True:
                check()
                time.sleep(0.001)
        except GivenUp:
            ended.append(piece)
            raise

    with pytest.raises(KeyError, match=str(failing)):
        in_lanes(work, range(2), 2)
    assert ended == [1 - failing]


def test_work_that_has_not_begun_is_not_begun_after_a_failure():
    begun = []

    def work(piece, check):
        begun.append(piece)
        if piece == 0:
            raise ValueError
        while True:
            check()
            time.sleep(0.001)

    with pytest.raises(ValueError):
        in_lanes(work, range(9), 2)
    assert len(begun) <= 3
