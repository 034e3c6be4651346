"""A Higgsfield of your own on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from higgsfield_async._errors import ConfigurationError
from higgsfield_async.cli._options import Options
from higgsfield_async.cli._output import Output

if TYPE_CHECKING:
    from higgsfield_async.sandbox import Sandbox


def sandbox(
    *,
    port: Annotated[int | None, Parameter(validator=Number(gte=1, lte=65533))] = None,
    speed: Annotated[float, Parameter(validator=Number(gt=0))] = 1.0,
    options: Options = Options(),
) -> None:
    """Run a Higgsfield on this machine until Ctrl-C, for trying things out: nothing in it costs anything.

    It prints the lines that make another shell use it.

    Parameters
    ----------
    port
        The first of three ports; free ones without it.
    speed
        So many times as fast as real time: an image takes 6 seconds of the sandbox's, a video 12.
    """
    from higgsfield_async.sandbox.__main__ import exports, serve, told

    def tell(running: Sandbox) -> None:
        if options.json:
            Output(json=True).thing(exports(running))
        else:
            told(running)

    try:
        serve(port, speed, tell)
    except BrokenPipeError:
        raise
    except OSError as error:
        msg = (
            f"The sandbox cannot begin: {error.strerror or error}. Choose another --port: it and the next two are used."
        )
        raise ConfigurationError(msg) from error
