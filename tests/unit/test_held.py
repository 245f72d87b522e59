"""Text without the end of its line is shown once: by the memory that process and kernel share, or by the pipe."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.engine.held import WAIT_SECONDS, HeldText
from nbcontainer.linux.syscalls import map_shared
from nbcontainer.runtime.protocol import HELD_BYTES, HELD_OFFSET
from nbcontainer.runtime.stdio import LineStream

STEPS = st.lists(
    st.one_of(
        st.sampled_from(["look", "read", "flush"]),
        st.tuples(st.just("print"), st.text(st.sampled_from("ab.ü\n"), max_size=4)),
        st.tuples(st.just("print"), st.integers(0, 3000).map("c".__mul__)),
    ),
    max_size=40,
)


class Both:
    """A process's stream, and the kernel that reads it."""

    def __init__(self) -> None:
        self.file = os.memfd_create("held")
        os.ftruncate(self.file, HELD_OFFSET + HELD_BYTES)
        self.reads, writes = os.pipe()
        os.set_blocking(self.reads, False)
        self.stream = LineStream(io.BufferedWriter(io.FileIO(writes, "w")))
        self.memory = map_shared(self.file, HELD_BYTES, HELD_OFFSET)
        self.stream.share(self.memory)
        self.held = HeldText(self.file, "stdout")
        self.shown = b""
        self.seconds = 0.0

    def read(self) -> None:
        try:
            self.shown += self.held.unshown(os.read(self.reads, 1 << 16))
        except BlockingIOError:
            pass

    def look(self) -> None:
        self.seconds += WAIT_SECONDS
        if self.held.is_due(self.seconds):
            self.read()
            self.shown += self.held.take()

    def end(self) -> str:
        """The process is killed."""
        self.read()
        self.shown += self.held.rest()
        self.stream.share(None)
        self.stream.close()
        os.close(self.file)
        os.close(self.reads)
        return self.shown.decode()


@given(STEPS)
def test_all_that_is_printed_is_shown_once(steps: list[str | tuple[str, str]]) -> None:
    both, printed = Both(), ""
    for step in steps:
        if isinstance(step, tuple):
            both.stream.write(step[1])
            printed += step[1]
        elif step == "flush":
            both.stream.flush()
        elif step == "read":
            both.read()
        else:
            both.look()
    assert both.end() == printed


def test_only_what_has_waited_is_shown() -> None:
    both = Both()
    both.look()
    for _ in range(5):
        both.stream.write("x")
        both.look()  # sees it
        both.stream.write("\n")
    assert both.shown == b""
    both.stream.write("x")
    both.look()
    both.look()
    both.look()
    assert both.shown.endswith(b"x\nx") and both.end() == "x\n" * 5 + "x"


def test_another_s_text_before_it_stays_where_it_is() -> None:
    both = Both()
    both.stream.write("0")
    both.look()
    both.look()
    os.write(both.stream.fileno(), b"1.0\n")
    both.read()
    both.stream.write("\n")
    assert both.end() == "01.0\n\n"


@pytest.mark.parametrize("forged", [b"\xff" * HELD_BYTES, b"\x01\x00\x01\x01" + b"z" * 99])
def test_what_is_forged_is_text_and_no_more(forged: bytes) -> None:
    both = Both()
    both.stream.write("text")
    both.look()
    both.look()
    both.memory[: len(forged)] = forged
    both.look()
    both.look()
    both.stream.write("\n")
    assert both.end().startswith("text") and len(both.shown) < 2 * HELD_BYTES
