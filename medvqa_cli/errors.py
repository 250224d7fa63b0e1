"""Every error a user can cause: a message, a hint on what to do next, and an exit code.

Programmer mistakes stay ValueError and TypeError. Ctrl-C exits with 130, usage mistakes caught by Typer with 2.
"""

from __future__ import annotations

import errno


class MedVQAError(Exception):
    """A mistake or a condition the user can act on.

    Args:
        message: What is wrong, where, with the value in quotes. A full sentence.
        hint: The next step; empty if the message says it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SettingsError(MedVQAError):
    """A setting, flag or configuration file is wrong."""

    exit_code = 2


class PluginError(MedVQAError):
    """A plugin is unknown, broken, or named twice."""

    exit_code = 3


class DataError(MedVQAError):
    """A data set is missing, laid out wrongly, or holds a bad row."""

    exit_code = 4


class ModelError(MedVQAError):
    """A checkpoint cannot be found, loaded or used."""

    exit_code = 5


class MissingDependencyError(MedVQAError):
    """An optional package is needed and not installed."""

    exit_code = 6

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs the package '{package}', which is not installed.",
                         f"Install it with: pip install 'medvqa-cli[{extra}]'")


class RunError(MedVQAError):
    """A run folder cannot be found, read or written."""

    exit_code = 7


FULL = "The disk is full."
FREE = "Free some space and run the same command again: it resumes where it stopped."
SIGNS_OF_FULL = ("No space left on device", "os error 28", "Errno 28", "Disk quota exceeded",
                 "PytorchStreamWriter failed")


def explain_full_disk(error: BaseException) -> RunError | None:
    """Turn what any library makes of a full disk into one clear error; None if an error is about something else.

    Safetensors, Arrow and torch wrap the system's failure into errors of their own, of which only the text, or what
    they were raised from, says what it is.
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        if isinstance(link, OSError) and link.errno == errno.ENOSPC:
            return explain_os_error(link)
        if any(sign in str(link) for sign in SIGNS_OF_FULL):
            return RunError(FULL, FREE)
        seen.append(link)
        link = link.__cause__ or link.__context__
    return None


def explain_os_error(error: OSError) -> RunError:
    """Turn an operating-system failure (no permission, disk full) into one clear error."""
    where = f" '{error.filename}'" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return RunError(f"The disk is full: could not write{where}." if where else FULL, FREE)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RunError(f"No permission to write{where}." if error.filename else "No permission to write.",
                        "Choose another place with --runs-dir or --prepared-dir, or change its permissions.")
    return RunError(f"{error.strerror or error}{':' if where else '.'}{where}",
                    "Look at the paths of this command: --runs-dir, --prepared-dir, --log-file and the like.")
