"""What errors say: one line, whose fault it is, and what became of the cell."""

from __future__ import annotations

import errno
import pickle

from nbcontainer.errors import SetupError


def test_a_step_of_the_set_up() -> None:
    text = str(SetupError("layer", errno.EPERM, "/x", "type this"))
    assert text == "set-up step 'layer' at /x: EPERM (Operation not permitted); the cell did not run. Remedy: type this"
    assert str(SetupError("layer", 0)) == "set-up step 'layer': failed; the cell did not run"


def test_a_change_of_a_running_container() -> None:
    text = str(SetupError("limit memory", errno.EBUSY, "/memory.max").of_a_change())
    assert text == "step 'limit memory' at /memory.max: EBUSY (Device or resource busy); the container goes on as it was"


def test_what_comes_after_a_cell() -> None:
    assert str(SetupError("remove the cgroup", errno.EBUSY, "/x")) == "step 'remove the cgroup' at /x: EBUSY (Device or resource busy)"


def test_it_can_be_sent() -> None:
    again = pickle.loads(pickle.dumps(SetupError("layer", 1, "/x", "y")))
    assert str(again) == str(SetupError("layer", 1, "/x", "y"))
