"""The program: its commands, and how an error becomes a sentence and an exit code."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence

from cyclopts import App, CycloptsError, Parameter

from higgsfield_async._errors import HiggsfieldError
from higgsfield_async.cli._exits import Exit, exit_of, hint_of
from higgsfield_async.cli._output import Output, to_nowhere
from higgsfield_async.cli._running import run_until_told

app = App(
    name="higgsfield-async",
    help="Higgsfield's image and video generation. Keys are read from the environment, never from the command line.",
    version=importlib.metadata.version("higgsfield-async"),
    default_parameter=Parameter(negative=""),
)


# Every command stands in this table, under the heading that `--help` shows it below.
COMMANDS: Mapping[str, Mapping[str, Callable[..., object]]] = {}
for _heading, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_command, name=_name, group=_heading)


def run(arguments: Sequence[str]) -> int:
    """Runs one command: 0 where it did what it was asked for."""
    output = Output(json="--json" in arguments)
    debug = "--debug" in arguments
    try:
        command, bound, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
        if debug:
            logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        result = command(*bound.args, **bound.kwargs)
        if inspect.iscoroutine(result):
            result = run_until_told(result, lambda: output.say("Ended. What was submitted goes on."))
        return result if isinstance(result, int) else Exit.DONE
    except CycloptsError as error:
        output.error(str(error), "higgsfield-async --help")
        return Exit.WRONG
    except HiggsfieldError as error:
        output.error(str(error), hint_of(error))
        if debug:
            traceback.print_exc()
        return exit_of(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        to_nowhere()
        return Exit.DONE
    except Exception as error:
        output.error(f"{type(error).__name__}: {error}", "A fault of this program; --debug shows where.")
        if debug:
            traceback.print_exc()
        return Exit.FAULT
