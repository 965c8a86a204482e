"""Errors a user can act on. Every one is a sentence; every class carries the exit code the command returns."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Documented in docs/exit-codes.md; these numbers never change meaning."""

    OK = 0
    INTERNAL = 1
    SPEC = 2
    INPUT = 3
    STORAGE = 4
    VERIFY = 5
    ENGINE = 6
    MODEL = 7
    QUARANTINED = 8
    INTERRUPTED = 130
    TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM reached this process: `ray job stop`, Slurm and Kubernetes send it. As Ctrl-C, it is no Exception."""


class CurateError(Exception):
    """Base of all errors with a message meant for the user (what, where, which value, the way out)."""

    exit_code: ExitCode = ExitCode.INTERNAL


class Detached(CurateError):
    """Ctrl-C ended the following of a run or job, which itself goes on."""

    exit_code = ExitCode.INTERRUPTED


class SpecError(CurateError):
    """The pipeline file or a command-line option is wrong."""

    exit_code = ExitCode.SPEC


class InputError(CurateError):
    """The input is missing, empty or unreadable as a whole (a bad sample is a row with a status, not an error)."""

    exit_code = ExitCode.INPUT


class StorageError(CurateError):
    """The workspace or release cannot be read or written (permission, full disk, damaged file)."""

    exit_code = ExitCode.STORAGE


class VerifyError(CurateError):
    """A release does not match its manifest."""

    exit_code = ExitCode.VERIFY


class EngineError(CurateError):
    """Workers were lost more often than the retry limit, or the cluster cannot be reached."""

    exit_code = ExitCode.ENGINE


class ModelError(CurateError):
    """An encoder is unknown, its weights are missing or do not fit."""

    exit_code = ExitCode.MODEL
