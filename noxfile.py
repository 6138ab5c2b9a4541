"""Every chore by one name: `nox -s lint`, `nox -s tests`.

Each session has a virtual environment of its own; `nox --no-venv -s lint` uses the current one, which
`pip install '.[dev]'` has filled.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "imports", "tests"]
nox.options.reuse_existing_virtualenvs = True

DEV: list[str] = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["dev"]


def need(session: nox.Session, *packages: str) -> None:
    """Install into the session's own environment; the current interpreter is left as it is."""
    if session.venv_backend != "none":
        session.install(*packages)


def pinned(name: str) -> str:
    """The requirement on `name` as the `dev` extra has it, for sessions that can do without torch."""
    return next(requirement for requirement in DEV if requirement.startswith(f"{name}>="))


@nox.session
def lint(session: nox.Session) -> None:
    """Style and formatting, by ruff."""
    need(session, pinned("ruff"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, by mypy in strict mode."""
    need(session, ".[dev]")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """The order of the layers, by import-linter."""
    need(session, ".[dev]")
    session.run("lint-imports", "--no-cache")


@nox.session
def tests(session: nox.Session) -> None:
    """All but the long tests; arguments go to pytest: `nox -s tests -- -k schedule`."""
    need(session, ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def plugins(session: nox.Session) -> None:
    """The packages in `plugins/`, each with its tests."""
    need(session, ".[dev]", *(str(folder) for folder in sorted(Path("plugins").iterdir())))
    session.run("pytest", "plugins", *session.posargs)


@nox.session
def long(session: nox.Session) -> None:
    """The tests that take minutes."""
    need(session, ".[dev]")
    session.run("pytest", "-m", "long", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """The tests and the benchmark that need a GPU, each in less than eight minutes on a large one."""
    need(session, ".[dev]")
    session.run("pytest", "tests/gpu", "-n", "0", *session.posargs)
    session.run("python", "benchmarks/gpu.py")


@nox.session
def deepspeed(session: nox.Session) -> None:
    """Runs by DeepSpeed, which the other sessions do without."""
    need(session, ".[dev,deepspeed]")
    session.run("pytest", "tests/integration/test_processes.py", "-k", "deepspeed", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Kills, faults and fuzz by the thousand, for a release; FTKIT_SOAK=0.1 does a tenth of them."""
    need(session, ".[dev]", "atheris>=3,<4; sys_platform == 'linux' and python_version < '3.14'")
    session.run("pytest", "-m", "soak", "-n", "0", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Wheel and source archive in `dist/`."""
    need(session, pinned("hatchling"))
    session.run("python", "-m", "hatchling", "build")
