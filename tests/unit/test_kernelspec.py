"""``nbcontainer kernel``: what is refused, and what is written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager

import nbcontainer
from nbcontainer import cli
from nbcontainer.jupyter.surroundings import volumes_of_program
from nbcontainer.runtime.skeleton import python_directories


@pytest.fixture(autouse=True)
def own_kernelspecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kernelspecs of this test's own, besides those of the environment."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "user"))
    return tmp_path


def write_kernelspec(prefix: Path, name: str, content: object) -> Path:
    directory = prefix / "share" / "jupyter" / "kernels" / name
    directory.mkdir(parents=True)
    (directory / "kernel.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["kernel", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("install --mem 64M", "kernel install: --name is missing"),
        ("install --name", "--name: a value is missing"),
        ("install --name a/b", "--name: 'a/b' is not a name for a kernel"),
        ("install --name python3", "--name: 'python3' is the kernel without a container"),
        ("install --name k --kernelspec no-such", "--kernelspec: there is no 'no-such'; there are "),
        ("install --name k --mem 4000T", "--mem: '4000T' is more than this host's"),
        ("install --name k --mem much", "--mem: 'much' is not a size"),
        ("install --name k --cpus 4000", "--cpus: '4000' is not a number from"),
        ("install --name k --image alpine", "--image: is not available yet"),
        ("install --name k --no-raise-error", "--no-raise-error: is for cells"),
        ("install --name k --engine vm", "--engine: a kernel runs in a container on this host"),
        ("install --name k --user nobody", "--user: not for a kernel: the kernel is root of its container"),
        ("install --name k --user --prefix /tmp", "--user, --prefix: one of them"),
        ("install --name k --root none", "a kernel needs a root of its own"),
        ("install --name k bash", "kernel install: 'bash' is not understood"),
        ("install --name k --memmm 3", "--memmm: there is no such option; did you mean --mem"),
        ("rm python3", "kernel rm: 'python3' is not a kernel in a container"),
        ("make", "kernel: 'make' is not understood"),
        ("", "kernel: 'a command' is not understood"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, message: str) -> None:
    code, out, err = command(capsys, *words.split())
    assert (code, out) == (cli.EXIT_USAGE, "")
    assert err.startswith(f"nbcontainer: {message}") or message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "user").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"argv": [], "display_name": "x", "language": "x"}, "bad/kernel.json has no argv"),
        ({"display_name": "x", "language": "x"}, "bad/kernel.json has no argv"),
        ({"argv": "python", "display_name": "x"}, "bad/kernel.json cannot be read"),
        ("{", "bad/kernel.json cannot be read"),
        ({"argv": ["x"], "metadata": {"kernel_provisioner": {"provisioner_name": "elsewhere"}}}, "started by another provisioner (elsewhere)"),
    ],
)
def test_bases_that_cannot_be_contained(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: object, message: str) -> None:
    write_kernelspec(tmp_path, "bad", content)
    code, _, err = command(capsys, "install", "--name", "k", "--kernelspec", "bad", "--user")
    assert code == cli.EXIT_USAGE
    assert message in err
    assert not (tmp_path / "user").exists()


def test_install_list_and_remove(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = {"argv": ["R", "{connection_file}"], "display_name": "R", "language": "R", "env": {"A": "b"}, "metadata": {"debugger": False}}
    directory = write_kernelspec(tmp_path, "ir", base)
    (directory / "logo.svg").write_text("<svg/>")
    code, out, err = command(capsys, *"install --name r-512m --kernelspec ir --mem 512M --cpus 1 -v .:/workspace --user".split())
    assert (code, err) == (0, "")
    assert "is gone" not in out, "it writes through"
    written = tmp_path / "user" / "kernels" / "r-512m"
    assert (written / "logo.svg").read_text() == "<svg/>"
    spec = json.loads((written / "kernel.json").read_text())
    assert spec["argv"] == base["argv"]
    assert spec["env"] == {"A": "b"}
    assert spec["display_name"] == "R · 512M · 1 CPU"
    options = {"mem": "512M", "cpus": "1", "volume": [".:/workspace"]}
    assert spec["metadata"]["kernel_provisioner"] == {"provisioner_name": "nbcontainer", "config": {"base": "ir", "options": options}}
    assert spec["metadata"]["debugger"] is False
    code, out, _ = command(capsys, "ls")
    assert [line.split("  ")[-1].strip() for line in out.splitlines() if line.startswith("r-512m")] == ["--mem 512M --cpus 1 --volume .:/workspace"]
    assert command(capsys, "rm", "R-512m")[0] == 0
    assert not written.exists()


def test_a_hint_where_nothing_is_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, out, _ = command(capsys, "install", "--name", "py", "--prefix", str(tmp_path), "--display-name", "Python, contained")
    assert "-v .:/workspace keeps it" in out
    assert "Python, contained" in command(capsys, "ls")[1]


def test_volumes_of_a_notebook_s_directory_are_looked_for_when_there_is_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["install", "--name", "py", "--prefix", str(tmp_path)]
    assert command(capsys, *words, "-v", "./not-here:/data")[0] == 0
    code, _, err = command(capsys, *words, "-v", f"{tmp_path}/not-here:/data")
    assert code == cli.EXIT_USAGE
    assert "does not exist" in err


def test_the_place_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = command(capsys, "install", "--name", "py", "--prefix", str(tmp_path / "file"))
    assert code == cli.EXIT_USAGE
    assert "cannot be written" in err
    assert "--user" in err


def test_what_a_program_brings_along(tmp_path: Path) -> None:
    venv, base, conda = tmp_path / "venv", tmp_path / "python", tmp_path / "conda"
    for directory in (venv / "bin", base / "bin", conda / "bin", conda / "conda-meta"):
        directory.mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text(f"home = {base / 'bin'}\ninclude-system-site-packages = false\n")
    alone = tmp_path / "kernel"
    alone.write_text("")
    resources = tmp_path / "resources"
    resources.mkdir()
    assert volumes_of_program([str(venv / "bin" / "python"), "-m", "x"], str(resources)) == sorted([str(venv), str(base)])
    assert volumes_of_program([str(conda / "bin" / "R")], "") == [str(conda)]
    assert volumes_of_program([str(alone), f"{resources}/start"], str(resources)) == [str(alone), str(resources)]
    package = str(Path(nbcontainer.__file__).resolve().parent)
    installed = any(package.startswith(directory + "/") for directory in python_directories())
    assert volumes_of_program([sys.executable], "") == ([] if installed else [package]), "for %load_ext in the kernel"
    assert volumes_of_program(["R"], "") == []
    assert volumes_of_program([os.path.realpath("/bin/sh")], "") == []


def test_jupyter_s_own_kernel_need_not_be_written_anywhere(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ipykernel came without its data files, Jupyter makes its kernelspec as it needs it."""
    monkeypatch.setattr(KernelSpecManager, "kernel_dirs", [str(tmp_path / "user" / "kernels")])
    assert command(capsys, *"install --name py-64m --mem 64M --user".split())[0] == 0
    spec = json.loads((tmp_path / "user" / "kernels" / "py-64m" / "kernel.json").read_text())
    assert "ipykernel_launcher" in spec["argv"] and spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "nbcontainer"
    assert (tmp_path / "user" / "kernels" / "py-64m" / "logo-svg.svg").exists()
