"""The page of a review: its requests, real key presses in a browser, and the command."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import corpus
import pytest
from PIL import Image
from review_run import asked, make, review

from curate.cli.review import review as command
from curate.errors import SpecError, StorageError
from curate.formats.decisions import append, decision_line, read_decisions
from curate.pipeline.api import Run, open_run
from curate.pipeline.review import Review
from curate.pipeline.review_server import ReviewServer

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with labels."""
    return make(tmp_path_factory.mktemp("review"))


@contextmanager
def served(found: Review) -> Iterator[ReviewServer]:
    server = ReviewServer(found)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(10)
        assert not thread.is_alive()


def ask(server: ReviewServer | int, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server if isinstance(server, int) else server.port, timeout=20)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    data = None
    if body is not None:
        data = json.dumps(body) if not isinstance(body, str) else body
        given = {"Content-Type": "application/json"} | given
    connection.request("GET" if body is None else "POST", path, data, given)
    reply = connection.getresponse()
    found = reply.status, reply.read()
    connection.close()
    return found


def test_only_our_own_page_gets_answers(made: Run, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    with served(review(made, file)) as server:
        home = server.url.removeprefix(f"http://127.0.0.1:{server.port}")
        status, page = ask(server, home)
        assert status == 200
        assert b"Does this image show" in page
        assert b"<b>" not in page  # names come with the questions, as text
        status, told = ask(server, f"{home}questions")
        questions = json.loads(told)["questions"]
        assert [q["name"] for q in questions] == [q.name for q in server.review.questions]
        assert "known" not in told.decode()
        for path in ("/", "/wrong/", home.rstrip("/"), f"{home}../questions", f"{home}image/-1", f"{home}image/x",
                     f"{home}image/{len(questions)}", f"{home}image/0/../../..", f"{home}example/0/99",
                     f"{home}/etc/passwd", f"{home}answer", "/%C3%A9/"):  # fmt: skip
            assert ask(server, path)[0] == 404, path
        for headers in ({"Host": "evil.example"}, {"Host": f"evil.example:{server.port}"},
                        {"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):  # fmt: skip
            assert ask(server, home, **headers)[0] == 403, headers
            assert ask(server, f"{home}answer", {"question": 0, "answer": "yes"}, **headers)[0] == 403, headers
        assert ask(server, f"{home}answer", {"question": 0, "answer": "yes"}, Content_Type="text/plain")[0] == 400
        for wrong in ("[]", "{", "7", '{"question": true, "answer": "yes"}', '{"question": 0, "answer": "sure"}',
                      '{"question": -1, "answer": "yes"}', '{"question": 0, "answer": []}', "x" * 20_000):  # fmt: skip
            assert ask(server, f"{home}answer", wrong)[0] == 400, wrong[:50]
        assert not file.exists()
        assert ask(server, f"{home}answer", {"question": 0, "answer": "yes"})[0] == 200
        assert len(read_decisions([str(file)])) == 1
        with pytest.raises(StorageError, match="give another --port"):
            ReviewServer(server.review, server.port)


def test_pictures_are_those_of_the_question(made: Run, tmp_path: Path) -> None:
    with served(review(open_run(made.workspace.url), tmp_path / "d")) as server:
        home = server.url.removeprefix(f"http://127.0.0.1:{server.port}")
        sizes = {}
        for which in ("image/0", "image/1", "example/0/0"):
            status, data = ask(server, home + which)
            assert status == 200
            sizes[which] = Image.open(io.BytesIO(data)).size
        assert sizes == {"image/0": (300, 200), "image/1": (300, 200), "example/0/0": (240, 160)}
        one = server.review.questions[0]
        photo = corpus.jpeg(int(Path(one.sample.key).stem), (300, 200))
        truth = Image.open(io.BytesIO(photo)).convert("RGB").resize((30, 20))
        shown = Image.open(io.BytesIO(ask(server, f"{home}image/0")[1])).resize((30, 20))
        apart = [abs(a - b) for a, b in zip(truth.tobytes(), shown.tobytes(), strict=True)]
        assert sum(apart) / len(apart) < 3


def test_answers_of_another_rater_settle_questions_meanwhile(made: Run, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    with served(review(made, file)) as server:
        home = server.url.removeprefix(f"http://127.0.0.1:{server.port}")
        status, told = ask(server, f"{home}answer", {"question": 0, "answer": "maybe"})
        assert (status, json.loads(told)) == (200, {"answered": 1, "settled": []})
        place = next(i for i, q in enumerate(server.review.questions) if i > 1 and (q.probability or 0) > 0.3)
        other = server.review.questions[place]
        for name in ("lee", "max"):
            append(file, decision_line(other.sample.uid, other.number, "yes", name))
        _, told = ask(server, f"{home}answer", {"question": 1, "answer": "maybe"})
        assert json.loads(told)["settled"] == [place]


# --- a browser --------------------------------------------------------------------------------------------------------


class Browser:
    """One page of a headless Chromium, driven by its DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._id, self.session, self.log = socket, 0, "", list[str]()

    async def call(self, method: str, **params: Any) -> Any:
        self._id += 1
        session: dict[str, Any] = {"sessionId": self.session} if self.session else {}
        await self._socket.send_json({"id": self._id, "method": method, "params": params} | session)
        while True:
            told = json.loads((await self._socket.receive(timeout=60)).data)
            if told.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.log.append(json.dumps(told["params"]))
            if told.get("id") == self._id:
                assert "error" not in told, told
                return told["result"]

    async def value(self, script: str) -> Any:
        return (await self.call("Runtime.evaluate", expression=script, returnByValue=True))["result"].get("value")

    async def until(self, script: str) -> None:
        for _ in range(600):
            if await self.value(script):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never: {script}; {self.log}; {await self.value('document.body.innerText')}")

    async def press(self, key: str) -> None:
        typed = {"text": key} if len(key) == 1 else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **typed)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def at(self, number: int) -> None:
        """Wait until a question is shown."""
        await self.until(f"document.body.dataset.at === '{number}' && (ready || at === questions.length)")

    async def picture(self, file: Path) -> None:
        shot = await self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """Address of a running browser."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--no-proxy-server"]
    flags += ["--disable-background-networking", "--disable-component-update", "--window-size=1200,760"]
    process = subprocess.Popen(
        [CHROMIUM, *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        found = next(m[1] for said in process.stderr if (m := re.search(r"listening on (ws://\S+)", said)))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_keys_pressed_in_a_browser_are_decisions_on_disk(made: Run, tmp_path: Path) -> None:
    aiohttp = pytest.importorskip("aiohttp")  # what reads http:// inputs; it speaks to the browser here
    file = tmp_path / "d.jsonl"
    shots = os.environ.get("CURATE_REVIEW_PICTURES")

    async def drive(address: str, server: ReviewServer) -> list[str]:
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            page = Browser(socket)
            target = await page.call("Target.createTarget", url="about:blank")
            page.session = (await page.call("Target.attachToTarget", targetId=target["targetId"], flatten=True))[
                "sessionId"
            ]
            await page.call("Log.enable")
            await page.call("Runtime.enable")
            await page.call("Page.navigate", url=server.url)
            await page.at(0)
            assert await page.value("document.getElementById('name').textContent") == server.review.questions[0].name
            for scheme in ("light", "dark") if shots else ():
                features = [{"name": "prefers-color-scheme", "value": scheme}]
                await page.call("Emulation.setEmulatedMedia", features=features)
                await page.until("[...document.images].every((i) => i.complete)")
                await page.picture(Path(str(shots)) / f"{scheme}.png")
            for number, key in enumerate(("y", "n", "M"), start=1):
                await page.press(key)
                await page.at(number)
            await page.press("x")  # no key of the page
            await page.press("ArrowLeft")
            await page.at(2)
            assert await page.value("document.querySelector('.chosen').dataset.answer") == "maybe"
            await page.press("n")  # changes her mind
            await page.at(3)
            await page.press("ArrowRight")
            await page.at(4)
            await page.press("b")
            assert await page.value("document.getElementById('marks').style.display") == "none"
            await page.press("y")
            await page.until("document.getElementById('finish').hidden === false")
            assert "1 were skipped" in await page.value("document.getElementById('more').textContent")
            if shots:
                await page.picture(Path(shots) / "end.png")
            await page.call("Page.navigate", url=server.url)  # loaded again, the page finds its place
            await page.at(3)
            await page.press("ArrowRight")
            await page.press("ArrowRight")
            await page.value("document.getElementById('stop').click()")
            await page.until("ended")
            return page.log

    found = review(made, file, questions=5)
    with served(found) as server, chromium(tmp_path / "profile") as address:
        log = asyncio.run(drive(address, server))
    assert log == []
    told = read_decisions([str(file)])
    uids = [f"{hi:016x}{lo:016x}" for hi, lo in zip(told.uid_hi.tolist(), told.uid_lo.tolist(), strict=True)]
    answers = dict(zip(zip(uids, told.classes.tolist(), strict=True), told.answers.tolist(), strict=True))
    keys = asked(found)
    assert answers == {keys[0]: 2, keys[1]: 0, keys[2]: 0, keys[4]: 2}
    assert told.names == ("kim",)
    assert len(file.read_bytes().splitlines()) == 5
    assert asked(review(made, file, questions=5))[0] == keys[3]


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_list(
    made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(made.workspace.url, rater="kim", questions=4, as_list=True) == 0
    rows = [json.loads(one) for one in capsys.readouterr().out.splitlines()]
    truth = review(made, tmp_path / "d", questions=4)
    assert [(row["uid"], row["class"]) for row in rows] == asked(truth)
    assert rows[0]["question"] == f"Does this image show: {truth.questions[0].name}?"
    assert rows[0]["priority"] == truth.questions[0].priority
    with pytest.raises(SpecError, match="--rater is empty"):
        command(made.workspace.url, rater=" ")


def test_the_command_serves_until_the_page_ends_it(
    made: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, golden = tmp_path / "d.jsonl", tmp_path / "g.jsonl"
    first = review(made, file).questions[0]
    append(golden, decision_line(first.sample.uid, first.number, "no", "expert"))
    said: list[int] = []
    options: dict[str, Any] = {"decisions": str(file), "rater": "kim", "questions": 1, "browser": False}
    thread = threading.Thread(
        target=lambda: said.append(command(made.workspace.url, golden=str(golden), golden_every=2, **options))
    )
    thread.start()
    told = ""
    while "open http" not in told:
        assert thread.is_alive()
        time.sleep(0.05)
        told += capsys.readouterr().err
    port, home = re.search(r"open http://127.0.0.1:(\d+)(/\S+/) ", told).groups()  # type: ignore[union-attr]
    for number in (0, 1):
        assert ask(int(port), f"{home}answer", {"question": number, "answer": "no"})[0] == 200
    assert ask(int(port), f"{home}end", {})[0] == 200
    thread.join(20)
    assert said == [0]
    told = capsys.readouterr().err
    assert f"2 answers saved in {file}" in told
    assert "of 1 question with a known answer 1 answered so" in told
    assert sorted(json.loads(one).get("golden", False) for one in file.read_text().splitlines()) == [False, True]
    assert read_decisions([str(file)]).golden.sum() == 1
