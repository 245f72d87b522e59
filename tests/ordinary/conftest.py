"""What an ordinary user has only on some machines: tests/run makes a machine that has it. Held to what system tests are held to."""

from __future__ import annotations

from system.conftest import each_test_leaves_nothing, engine_leaves_nothing

__all__ = ["each_test_leaves_nothing", "engine_leaves_nothing"]
