"""The program: its commands, and how an error becomes a sentence and an exit code."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from higgsfield_async._errors import HiggsfieldError
from higgsfield_async.cli._batch import batch
from higgsfield_async.cli._catalogues import models, motions, presets, sounds, styles, voices
from higgsfield_async.cli._doctor import doctor
from higgsfield_async.cli._estimate import price_batch
from higgsfield_async.cli._exits import Exit, exit_of, hint_of
from higgsfield_async.cli._generating import ad, generate, keyframes, model, soul, speak
from higgsfield_async.cli._output import SCREEN, Log, Output, to_nowhere
from higgsfield_async.cli._refs import cancel, save, wait
from higgsfield_async.cli._running import run_until_told
from higgsfield_async.cli._sandbox import sandbox
from higgsfield_async.cli._tasks import forget, recover, resolve, tasks
from higgsfield_async.cli._upload import upload

app = App(
    name="higgsfield-async",
    help="Higgsfield's image and video generation. Keys are read from the environment, never from the command line.",
    version=importlib.metadata.version("higgsfield-async"),
    default_parameter=Parameter(negative=""),
)


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that makes a shell complete these commands: source <(higgsfield-async completion bash).

    Parameters
    ----------
    shell
        Which shell.
    """
    print(app.generate_completion(shell=shell), flush=True)


_prices = App(default_parameter=Parameter(negative=""))
_prices.command(price_batch, name="batch")


def estimate(
    command: Annotated[
        Literal["generate", "speak", "ad", "keyframes", "soul", "model", "batch"],
        Parameter(help="A command that makes something."),
    ],
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True, help="What that command takes.")],
) -> object:
    """Say what a command would cost, and make nothing.

    The proxy's prices are published; the platform is asked, which costs nothing however often it is done.
    """
    # It comes first: nothing that follows makes it a value of something else.
    parser, tokens = (_prices, [command]) if command == "batch" else (app, [command, "--dry-run"])
    priced, bound, _ = parser.parse_args([*tokens, *arguments], exit_on_error=False, print_error=False)
    return priced(*bound.args, **bound.kwargs)


# Every command stands in this table, under the heading that `--help` shows it below.
COMMANDS: Mapping[str, Mapping[str, Callable[..., object]]] = {
    "Generating": {
        "generate": generate,
        "speak": speak,
        "ad": ad,
        "keyframes": keyframes,
        "soul": soul,
        "model": model,
        "batch": batch,
        "estimate": estimate,
    },
    "Picking up": {"wait": wait, "save": save, "cancel": cancel},
    "Journal": {"tasks": tasks, "recover": recover, "resolve": resolve, "forget": forget},
    "Catalogues": {
        "motions": motions,
        "voices": voices,
        "sounds": sounds,
        "presets": presets,
        "styles": styles,
        "models": models,
    },
    "Setting up": {"doctor": doctor, "upload": upload, "sandbox": sandbox, "completion": completion},
}
for _heading, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_command, name=_name, group=_heading)


def run(arguments: Sequence[str]) -> int:
    """Runs one command: 0 where it did what it was asked for."""
    output = Output(json="--json" in arguments)
    debug = "--debug" in arguments
    try:
        with Log(output, logging.DEBUG if debug else logging.WARNING):
            return _run(arguments, output)
    except CycloptsError as error:
        output.error(str(error), "higgsfield-async --help")
        return Exit.WRONG
    except HiggsfieldError as error:
        output.error(str(error), hint_of(error))
        if debug:
            output.trace()
        return exit_of(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        to_nowhere()
        return Exit.DONE
    except Exception as error:  # noqa: BLE001  # a sentence, and an exit code of its own, for whatever it is
        output.error(f"{type(error).__name__}: {error}", "A fault of this program; --debug shows where.")
        if debug:
            output.trace()
        return Exit.FAULT
    finally:
        SCREEN.drain()


def _run(arguments: Sequence[str], output: Output) -> int:
    command, bound, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
    result = command(*bound.args, **bound.kwargs)
    if inspect.iscoroutine(result):
        result = run_until_told(result, lambda: output.say("Ended. What was submitted goes on."))
    return result if isinstance(result, int) else Exit.DONE
