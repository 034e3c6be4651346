"""Files for requests to use, on the platform."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec.structs import asdict

from higgsfield_async._errors import InvalidRequest, UploadError
from higgsfield_async.cli._exits import Exit, exit_of
from higgsfield_async.cli._options import Options, client
from higgsfield_async.cli._output import Output, plain


async def upload(
    files: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)],
    /,
    *,
    options: Options = Options(),
) -> int:
    """Upload files to the platform, and print the address of each: what a request takes for an image, audio or video.

    It costs nothing, and the platform keeps them for 7 days.

    Parameters
    ----------
    files
        Pictures (JPEG, PNG, WebP, GIF), WAV, or MP4.
    """
    output = Output(json=options.json)
    code = Exit.DONE
    async with client(options, journal=False) as hf:
        for number, file in enumerate(files, 1):
            waiting = output.screen.status(f"{plain(file.name)} ({number} of {len(files)})".replace("[", r"\["))
            try:
                with waiting if output.screen.is_terminal else contextlib.nullcontext():
                    uploaded = await hf.upload(file)
            except (InvalidRequest, UploadError) as error:
                # The fault of this one file.
                output.error(f"{file}: {error}")
                code = code or exit_of(error)
                continue
            output.thing({"file": file, **asdict(uploaded)}, uploaded.url)
    return code
