"""The local web page of `curate review`: shows questions to one rater, writes answers.

It listens on this machine only, every address begins with a random token, requests that name another host or come from
another page are refused, and what it gives out is asked for by number, never by path. What never lives here: which
questions there are (review.py), and how the page looks (report/review.py).
"""

from __future__ import annotations

import io
import json
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from curate.errors import CurateError, StorageError
from curate.formats.decisions import ANSWERS, append, decision_line
from curate.pipeline.review import EXAMPLES, Review
from curate.pipeline.samples import Sample, sample_bytes
from curate.report.review import render
from curate.store.images import DecodeError, decode_rgb

_LONGEST_BODY = 10_000
_EDGE, _SMALL = 1280, 240
"""Longer sides of pictures, in pixels."""
Reply = tuple[int, str, bytes]


class ReviewServer:
    """Serves one review at ``url`` until somebody ends it on the page, or `close`.

    ``answered``: how many answers were written. ``golden``: of questions with a known answer, how many were answered,
    and how many of those as known. Memory: 200 encoded pictures.
    """

    def __init__(self, review: Review, port: int = 0) -> None:
        """Raises StorageError when the port is taken."""
        self.review, self.file, self.rater = review, review.decisions, review.asking.rater
        self.answers: dict[int, str] = {}
        self.answered = 0
        self._token, self._nonce, self._lock = secrets.token_urlsafe(18), secrets.token_urlsafe(18), threading.Lock()
        self._size = self._bytes()
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        except OSError as error:
            raise StorageError(
                f"port {port} of this machine cannot be listened on ({error.strerror}); give another --port."
            ) from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/{self._token}/"
        self._picture = lru_cache(maxsize=200)(self._encoded)

    def serve(self) -> None:
        """Answer requests until the review is ended; Ctrl-C ends it too."""
        try:
            self._server.serve_forever(poll_interval=0.1)
        finally:
            self._server.server_close()

    def close(self) -> None:
        """End `serve`, from another thread."""
        self._server.shutdown()

    @property
    def golden(self) -> tuple[int, int]:
        """Questions with a known answer: how many were answered, how many of those rightly."""
        known = [(self.review.questions[i].known, answer) for i, answer in self.answers.items()]
        told = Counter(answer == truth for truth, answer in known if truth is not None)
        return told[True] + told[False], told[True]

    # --- requests ---------------------------------------------------------------------------------------------------

    def allowed(self, host: str | None, origin: str | None, site: str | None) -> bool:
        """Whether a request comes from our own page: a name that was made to point here is not ours."""
        ours = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost")}
        if host not in ours or site not in (None, "same-origin", "none"):
            return False
        return origin is None or origin in {f"http://{name}" for name in ours}

    def get(self, path: str) -> Reply | None:
        """What is at a path; None where nothing is."""
        match self._inside(path):
            case [""]:
                page = render(self.review.run.record.name, self.rater, str(self.file), self._nonce)
                return 200, "text/html; charset=utf-8", page.encode()
            case ["questions"]:
                return _json(self._questions())
            case ["image", number] if (i := _number(number, len(self.review.questions))) is not None:
                return self._image(self.review.questions[i].sample, _EDGE)
            case ["example", number, place] if (i := _number(number, len(self.review.questions))) is not None:
                shown = self._examples(i)
                at = _number(place, len(shown))
                return None if at is None else self._image(shown[at], _SMALL)
        return None

    def post(self, path: str, body: bytes) -> Reply | None:
        """Take an answer, or the end."""
        match self._inside(path):
            case ["answer"]:
                return self._answer(body)
            case ["end"]:
                threading.Thread(target=self.close, daemon=True).start()
                return _json({"answered": self.answered})
        return None

    @property
    def policy(self) -> str:
        """What the page may do: nothing but its own script and style, and what this server gives."""
        only = f"'nonce-{self._nonce}'"
        return (
            f"default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src {only}; script-src {only}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def _inside(self, path: str) -> list[str]:
        """The pieces of a path behind the token; none for another token."""
        _, _, rest = path.partition("/")
        token, slash, inner = rest.partition("/")
        same = secrets.compare_digest(token.encode("utf-8", "replace"), self._token.encode())
        return inner.split("/") if same and slash else []

    def _questions(self) -> dict[str, Any]:
        with self._lock:
            given = dict(self.answers)
        return {
            "questions": [
                {
                    "text": one.text,
                    "name": one.name,
                    "key": one.sample.key,
                    "box": one.box,
                    "examples": len(self._examples(i)),
                    "answer": given.get(i),
                }
                for i, one in enumerate(self.review.questions)
            ]
        }

    def _examples(self, i: int) -> list[Sample]:
        """Pictures of the class of a question, without its own."""
        one = self.review.questions[i]
        return [s for s in self.review.examples.get(one.number, ()) if s.uid != one.sample.uid][:EXAMPLES]

    def _answer(self, body: bytes) -> Reply:
        try:
            value = json.loads(body)
            number, answer = value["question"], value["answer"]
        except (ValueError, KeyError, TypeError):
            return _json({"error": "wanted a question and an answer"}, 400)
        questions = self.review.questions
        if type(number) is not int or not 0 <= number < len(questions) or answer not in ANSWERS:
            return _json({"error": f"wanted a question from 0 to {len(questions) - 1}, answered {ANSWERS}"}, 400)
        one = questions[number]
        line = decision_line(one.sample.uid, one.number, answer, self.rater, golden=one.known is not None)
        try:
            with self._lock:
                before = self._bytes()
                append(self.file, line)
                self.answers[number] = answer
                self.answered += 1
                others, self._size = before != self._size, self._bytes()
            settled = self.review.settled() if others else []
        except CurateError as error:
            return _json({"error": str(error)}, 500)
        return _json({"answered": self.answered, "settled": settled})

    def _bytes(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def _image(self, sample: Sample, edge: int) -> Reply:
        data = self._picture(sample.part, sample.row, sample.uid, sample.key, edge)
        if data is None:
            return 410, "text/plain; charset=utf-8", b"this image cannot be read from the input any more"
        return 200, "image/jpeg", data

    def _encoded(self, part: int, row: int, uid: str, key: str, edge: int) -> bytes | None:
        """A picture as JPEG, whatever it was: a browser gets nothing that could hold more than pixels."""
        data = sample_bytes(self.review.run, Sample(uid, key, part, row, {}))
        try:
            image = None if data is None else decode_rgb(data, 100_000_000)
        except DecodeError:
            return None
        if image is None:
            return None
        image.thumbnail((edge, edge))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=90)
        return out.getvalue()


def _json(value: dict[str, Any], status: int = 200) -> Reply:
    return status, "application/json", json.dumps(value).encode()


def _number(text: str, below: int) -> int | None:
    found = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else below
    return found if found < below else None


def _handler(server: ReviewServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30
        server_version, sys_version = "curate", ""

        def do_GET(self) -> None:
            self._reply(lambda: server.get(self.path))

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            plain = self.headers.get("Content-Type") == "application/json"
            if not plain or not length.isascii() or not length.isdigit() or int(length) > _LONGEST_BODY:
                self._send((400, "text/plain", b"wanted JSON"))
                return
            body = self.rfile.read(int(length))
            self._reply(lambda: server.post(self.path, body))

        def _reply(self, made: Callable[[], Reply | None]) -> None:
            headers = self.headers
            if not server.allowed(headers.get("Host"), headers.get("Origin"), headers.get("Sec-Fetch-Site")):
                self._send((403, "text/plain", b"this page is for its own machine"))
                return
            self._send(made() or (404, "text/plain", b"there is nothing here"))

        def _send(self, reply: Reply) -> None:
            status, kind, body = reply
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", server.policy)
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "private, max-age=600" if kind == "image/jpeg" else "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not told: the terminal is for the rater."""

    return Handler
