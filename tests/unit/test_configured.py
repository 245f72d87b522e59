"""Defaults from IPython's configuration."""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from nbcontainer.notebook.configured import with_configuration
from nbcontainer.notebook.magic import ContainerMagics
from nbcontainer.options import parse_options


def test_the_configuration_is_below_the_line() -> None:
    config = Config()
    config.ContainerMagics.mem = "512M"
    config.ContainerMagics.no_live = True
    config.ContainerMagics.volume = ["./data:/data:ro"]
    shell = InteractiveShell()
    shell.config = config
    magics = ContainerMagics(shell=shell, parent=shell)
    parsed = with_configuration(parse_options(["--cpus", "1", "sh"]), magics)
    assert parsed.container == {"cpus": "1", "mem": "512M", "volume": ["./data:/data:ro"]}
    assert parsed.front == {"no_live": True} and parsed.program == ("sh",)
    line = with_configuration(parse_options(["--mem", "64M", "--live"]), magics)
    assert line.container["mem"] == "64M" and line.front == {"live": True}
    magics.mem, magics.volume, magics.no_live = None, None, False
    assert with_configuration(parse_options(["sh"]), magics).container == {}
