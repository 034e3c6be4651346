"""Everything that is done to this project, each by one command.

    python3 noxfile.py --list               what there is
    python3 noxfile.py -s tests             the tests, with coverage
    python3 noxfile.py -s tests -- -k retry what follows `--` goes to pytest
    python3 noxfile.py -R -s tests          again, without installing anything

Needs Python 3.11 or newer and nothing else: nox is fetched into `.nox/` when it is not installed. Environments are kept
there and used again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
NOX = "nox>=2025.10.14,<2027"


def run_again_with_nox() -> NoReturn:
    """Install nox into an environment of its own and run this file there, with the same arguments."""
    if sys.version_info < (3, 11):  # noqa: UP036 (this file is where an older Python is told so)
        raise SystemExit(f"higgsfield-async needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    home = ROOT / ".nox" / f"bootstrap-{sys.version_info.major}.{sys.version_info.minor}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    installed = home / "installed"
    if not (installed.exists() and installed.read_text() == NOX and python.exists()):
        print(f"Installing nox into {home.relative_to(ROOT)}", file=sys.stderr)
        try:
            venv.create(home, clear=True, with_pip=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{sys.executable} cannot make a virtual environment: {error}") from None
        pip = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1", NOX],
            capture_output=True,
            text=True,
            check=False,
        )
        if pip.returncode:
            reason = pip.stderr.strip().splitlines() or ["no reason given"]
            raise SystemExit(f"Cannot install nox; is there a network? pip says: {reason[-1]}")
        installed.write_text(NOX)
    command = [str(python), __file__, *sys.argv[1:]]
    if os.name == "nt":  # there, exec returns to the shell at once
        raise SystemExit(subprocess.call(command))
    os.execv(python, command)  # noqa: S606 (no shell is wanted)


try:
    import nox
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    run_again_with_nox()

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "virtualenv"  # pip honours the user's own settings; uv does not read them
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "lint", "types", "docs"]

PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
EXTRAS = sorted(PROJECT["project"]["optional-dependencies"])
# The package with all of them.
ALL = f".[{','.join(EXTRAS)}]"
SANDBOX_FLOOR = 95
MUTANTS_FLOOR = 0.9


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


def interpreter(version: str) -> str:
    """Return pyenv's interpreter of that version, or the version: a shim on PATH may be for one that is off."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    return str(found[-1]) if found else version


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, with coverage; judge the coverage when all of them ran."""
    session.install("-e", ALL, *group("tests"))
    session.run("pytest", "--cov", "--cov-report=", "--cov-fail-under=0", *session.posargs)
    if session.posargs:  # some tests cover some of the code
        session.run("coverage", "report", "--fail-under=0")
        return
    sandbox = "*/higgsfield_async/sandbox/*"
    session.log("Coverage of the sandbox:")
    session.run("coverage", "report", f"--include={sandbox}", f"--fail-under={SANDBOX_FLOOR}")
    session.log("Coverage of everything else:")
    session.run("coverage", "report", f"--omit={sandbox}")


def try_wheel(session: nox.Session, constraints: Path | None = None) -> None:
    """Build the wheel through the sdist, install it, and run the tests where the source cannot be imported.

    Without coverage: which branches CPython reports differs between versions, so `tests` alone judges them.
    """
    within = [] if constraints is None else ["--constraint", str(constraints)]
    session.install("build")
    with tempfile.TemporaryDirectory(prefix="higgsfield-async-") as folder:
        away = Path(folder)
        built = build_wheel(session, away / "dist")
        # Reinstalled whenever it is built: the version is the same until the next commit.
        session.install("--force-reinstall", "--no-deps", str(built))
        session.install(f"{built}[{','.join(EXTRAS)}]", *group("tests"), *within)
        for name in ("benchmarks", "docs", "examples", "tests"):
            shutil.copytree(ROOT / name, away / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
            shutil.copy(path, away)
        session.chdir(away)
        where = "import higgsfield_async; print(higgsfield_async.__file__)"
        found = str(session.run("python", "-c", where, silent=True, env={"PYTHONPATH": None})).strip()
        if "site-packages" not in Path(found).parts:
            session.error(f"The tests would read {found}, not the wheel")
        session.run("pytest", "-m", "not once", *session.posargs, env={"PYTHONPATH": None})
        session.chdir(ROOT)


def build_wheel(session: nox.Session, folder: Path) -> Path:
    """Build the sdist from the source and the wheel from the sdist; `build` must be installed."""
    session.run("python", "-m", "build", "--outdir", str(folder), ".", silent=True)
    (built,) = folder.glob("*.whl")
    session.log(f"Built {built.name}")
    return built


def fresh_python(session: nox.Session, home: Path) -> Path:
    """Return the Python of a new environment with nothing in it."""
    session.run("python", "-m", "venv", "--without-pip", str(home), silent=True)
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install_into(session: nox.Session, python: Path, wanted: str) -> None:
    """Install into another environment than the session's."""
    session.run("python", "-m", "pip", "--python", str(python), "install", "--quiet", wanted)


def add_tests_on(version: str) -> None:
    """Add the session that runs the tests on one version of Python."""

    @nox.session(name=f"tests-{version}", python=interpreter(version))
    def tests_on(session: nox.Session) -> None:
        try_wheel(session)

    tests_on.__doc__ = f"Run the tests on Python {version}, with the newest dependencies, on the built wheel."


for _version in PYTHONS:
    add_tests_on(_version)


@nox.session(name="min-deps", python=interpreter(PYTHONS[0]))
def min_deps(session: nox.Session) -> None:
    """Run the tests on the oldest Python, with the oldest dependencies that pyproject.toml allows, on the wheel."""
    oldest = Path(session.create_tmp(), "oldest.txt")
    session.install("uv")
    session.run(
        *("uv", "pip", "compile", "--quiet", "--resolution=lowest-direct", "--all-extras"),
        *(f"--python={session.bin}/python", f"--output-file={oldest}", "pyproject.toml"),
        silent=True,
    )
    try_wheel(session, oldest)


@nox.session
def extras(session: nox.Session) -> None:
    """Install the wheel without any extra, and with each of them alone, and see that it works and says what it lacks.

    `-- cli otel` looks at those alone; the one without any is called `bare`.
    """
    session.install("build")
    with tempfile.TemporaryDirectory(prefix="higgsfield-async-") as folder:
        built = build_wheel(session, Path(folder, "dist"))
        for extra in session.posargs or ["bare", *EXTRAS]:
            python = fresh_python(session, Path(folder, extra))
            install_into(session, python, str(built) if extra == "bare" else f"{built}[{extra}]")
            session.run(str(python), "-I", "tests/extras/check.py", extra, external=True)


@nox.session
def sbom(session: nox.Session) -> None:
    """Build the package, and list what it brings along (CycloneDX), alone and with every extra: `-- --into FOLDER`."""
    into = Path(session.posargs[1] if session.posargs[:1] == ["--into"] else "release").resolve()
    session.install("build", *group("sbom"))
    shutil.rmtree(into, ignore_errors=True)
    built = build_wheel(session, into / "dist")
    (into / "sbom").mkdir()
    with tempfile.TemporaryDirectory(prefix="higgsfield-async-") as folder:
        # What is listed is this version, which pyproject.toml leaves to the tags.
        named = Path(folder, "pyproject.toml")
        version = f'version = "{built.name.split("-")[1]}"'
        named.write_text((ROOT / "pyproject.toml").read_text().replace('dynamic = ["version"]', version))
        for name, wanted in (("higgsfield-async", ""), ("higgsfield-async-all", f"[{','.join(EXTRAS)}]")):
            python = fresh_python(session, Path(folder, name))
            install_into(session, python, f"{built}{wanted}")
            session.run(
                *("cyclonedx-py", "environment", f"--pyproject={named}", "--mc-type=library"),
                *("--output-reproducible", f"--output-file={into / 'sbom' / name}.cdx.json", str(python)),
            )
    session.log(f"Built into {into}")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting, and the workflows. `-- --fix` repairs what it can."""
    session.install(*group("lint"))
    if "--fix" in session.posargs:
        session.run("ruff", "check", "--fix", ".")
        session.run("ruff", "format", ".")
        return
    session.run("zizmor", "--offline", "--persona=pedantic", ".github")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy and pyright, both strict, over the package and what a user would write."""
    # pyright runs on node; without one on this machine, take the one that comes as a wheel.
    node = [] if shutil.which("node") else ["pyright[nodejs]"]
    session.install("-e", ALL, *group("typing"), *node)
    session.run("mypy")
    session.run("pyright", env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning or a dangling reference fails."""
    session.install("-e", ALL, *group("docs"))
    html = Path(session.create_tmp(), "html")
    session.run("sphinx-build", "-q", "-n", "-W", "--keep-going", "-E", "-b", "html", "docs", str(html))
    session.log(f"The documentation is at {html / 'index.html'}")


@nox.session
def api(session: nox.Session) -> None:
    """See whether the public API is as recorded, and what breaks callers in the changelog; `-- --record` records it."""
    session.install("-e", ALL, "griffelib>=2,<3")
    session.run("python", "tests/public_api.py", *session.posargs)


@nox.session
def plots(session: nox.Session) -> None:
    """Draw the documentation's pictures from real runs, the studio's where there is a chromium. `-- NAME` draws one."""
    session.install("-e", ".[cli,fastapi,sandbox]", *group("plots"))
    for script in sorted(Path("docs", "plots").glob("[!_]*.py")):
        if script.stem in (session.posargs or [script.stem]):
            session.run("python", str(script))


@nox.session
def hints(session: nox.Session) -> None:
    """Bring what is known of the AI models up to date: `-- openapi.json --date 2026-07-19`, when that was published."""
    session.install("-e", ".")
    session.run("python", "-m", "higgsfield_async._hints", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demo against the sandbox. What follows `--` goes to the demo."""
    session.install("-e", ".[sandbox]")
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def studio(session: nox.Session) -> None:
    """Serve the studio, a page to make videos and images on, and open it. What follows `--` goes to it."""
    session.install("-e", ".[fastapi,sandbox]", *group("studio"))
    session.run("python", "examples/studio/app.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run benchmarks: `-- NAME [its arguments]`. Without a name, say which there are."""
    scripts = {path.stem: path for path in sorted(Path("benchmarks").glob("[!_]*.py"))}
    if not session.posargs:
        session.log(f"Benchmarks: {', '.join(scripts) or 'none'}")
        return
    name, *arguments = session.posargs
    if Path(name).stem not in scripts:
        session.error(f"No benchmark {name!r}; there are: {', '.join(scripts) or 'none'}")
    session.install("-e", ALL, *group("bench"))
    session.run("python", str(scripts[Path(name).stem]), *arguments)


@nox.session(python=interpreter(PYTHONS[0]))
def fuzz(session: nox.Session) -> None:
    """Fuzz what reads the bytes of others, for `-- --seconds 600`."""
    session.install("-e", ALL, *group("fuzz"))
    session.run("python", "tests/fuzz/fuzz.py", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Do all there is to do under faults, for `-- --minutes 30`, and see that nothing grows, is lost or paid twice."""
    session.install("-e", ALL)
    session.run("python", "benchmarks/soak.py", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Change the code that money hangs on, a bit at a time: do the tests notice? `-- retry transports` for some of it.

    All of it takes hours; it goes on where it was stopped, and fails where fewer than nine in ten are noticed.
    Then `.nox/mutants/bin/mutmut browse` shows those that were not.
    """
    session.install("-e", ALL, *group("mutants"))
    # Looking for plugins among all that is installed takes longer than most of these tests.
    plugins = "anyio.pytest_plugin,pytest_socket,pytest_timeout,_hypothesis_pytestplugin"
    wanted = [f"higgsfield_async._{name.removeprefix('_').removesuffix('.py')}." for name in session.posargs]
    session.run(
        *("mutmut", "run", *(f"{each}*" for each in wanted)),
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": plugins},
    )
    told = str(session.run("mutmut", "results", "--all", "true", silent=True))
    found: dict[str, list[str]] = {}
    for line in told.splitlines():
        name, colon, outcome = line.strip().partition(": ")
        if colon and (not wanted or name.startswith(tuple(wanted))):
            found.setdefault(name.partition(".x")[0], []).append(outcome)
    found["all of it"] = [outcome for outcomes in found.values() for outcome in outcomes]
    noticed = {module: sum(each in {"killed", "timeout"} for each in found[module]) for module in found}
    for module, outcomes in found.items():
        session.log(f"{module}: {noticed[module]} of {len(outcomes)} were noticed")
    if noticed["all of it"] < MUTANTS_FLOOR * len(found["all of it"]) or not found["all of it"]:
        session.error(f"Fewer than {MUTANTS_FLOOR:.0%} were noticed")


if __name__ == "__main__":
    sys.argv[1:1] = ["--noxfile", __file__]
    nox.main()
