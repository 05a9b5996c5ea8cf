"""The command line: `imc-ssm demo | train | quantize | deploy | cost | sweep | explore | ...` (`imc-ssm --help`).

Heavy libraries are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, cast

__all__ = ["main"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    from imc_ssm.cli.process import keep_pages, wait_quietly

    wait_quietly()
    keep_pages()
    import typer

    from imc_ssm.cli.app import app
    from imc_ssm.cli.report import fail
    from imc_ssm.errors import ImcSsmError

    # The base of every misuse (unknown option, number out of range): typer exports only this child of it.
    misuse = cast("type[Exception]", typer.BadParameter.__mro__[1])
    code: int | None = None
    try:
        code = app(standalone_mode=False)
    except ImcSsmError as error:
        fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except misuse as error:
        _fail_misuse(error)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        try:
            print(flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or leaving would try to print once more
            fail(f"cannot print: {error.strerror}; send the output somewhere else")
        fail(
            f"cannot write {error.filename or 'a file'}: {error.strerror}; free some space or choose another disk"
        )
    if code == INTERRUPTED:
        print(
            "interrupted; nothing is half written; demo, train, quantize, deploy and experiment run, given again, "
            "go on from their last whole epoch, chip or cell",
            file=sys.stderr,
        )
    if code:
        sys.exit(code)


def _fail_misuse(error: Any) -> None:
    """One line for a command line that typer refuses: what is wrong and where the help is."""
    from pydantic import ValidationError

    from imc_ssm.cli.report import fail

    message = error.format_message()
    if not message:  # no command at all: typer has printed the help instead
        sys.exit(2)
    message = message.rstrip(".")
    if isinstance(error.__cause__, ValidationError):
        message += f", not {error.__cause__.errors()[0]['input']!r}"
    command = error.ctx.command_path if error.ctx is not None else "imc-ssm"
    fail(f"{message}; see {command} --help")
