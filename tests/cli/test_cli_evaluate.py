"""`curate evaluate`: the tables and the JSON of small files, and the exit codes of what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import Cli

from curate.errors import ExitCode

N = 200
HEAD = "id,original_label,proposed_labels,unclear_multi_labels,wrong_multi_labels,is_problematic\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """200 images of 5 classes; every tenth has a second label, the model is right for those below 150."""
    truth = [number * 7 % 5 for number in range(N)]
    rows = []
    for number, label in enumerate(truth):
        second = f'"{label}, {(label + 1) % 5}"' if number % 10 == 0 else str(label)
        rows.append(f"{number:03d}.jpg,{label},{second},,,False\n")
    (tmp_path / "labels.csv").write_text(HEAD + "".join(rows))
    (tmp_path / "names.txt").write_text("".join(f"{number:03d}.jpg\n" for number in range(N)))
    best = np.array([label if number < 150 else (label + 2) % 5 for number, label in enumerate(truth)])
    np.save(tmp_path / "p.npy", np.stack([best, (best + 1) % 5], axis=1))
    mistakes = {"150.jpg": {"top_prediction": int(best[150]), "failure category": "c", "failure severity": "Major"}}
    (tmp_path / "mistakes.json").write_text(json.dumps(mistakes))
    (tmp_path / "relations.csv").write_text("a,b,relation\n2,0,synonym\n")
    return tmp_path


def test_predictions_as_tables_and_as_json(folder: Path, cli: Cli) -> None:
    words = (
        "evaluate", "predictions", folder / "p.npy", "--labels", folder / "labels.csv", "--order", folder / "names.txt",
        "--mistakes", folder / "mistakes.json", "--relations", folder / "relations.csv", "--resamples", 50,
    )  # fmt: skip
    shown = cli(*words)
    assert shown.code == ExitCode.OK, shown.err
    assert "ReaL@1" in shown.out
    assert "75.000" in shown.out
    assert "multi-label accuracy, mean over classes" in shown.out
    assert "synonym" in shown.out
    assert "makes 1 of the 1 mistakes" in shown.out
    told = cli(*words, "--json").json
    assert told["models"][0]["metrics"]["top1"]["value"] == 0.75
    assert told["models"][0]["metrics"]["variable_exact"]["images"] == N
    assert told["intervals"] == {"resamples": 50, "seed": 0, "level": 0.95}
    assert told["disagreement"]["counts"]["multi_with"] == 20


def test_two_models_as_tables_and_as_json(folder: Path, cli: Cli) -> None:
    best = np.load(folder / "p.npy")
    best[140:150] = (best[140:150] + 2) % 5  # ten more are wrong
    np.save(folder / "q.npy", best)
    words = (
        "evaluate", "predictions", folder / "p.npy", "--labels", folder / "labels.csv", "--order", folder / "names.txt",
        "--against", folder / "q.npy", "--against", folder / "p.npy", "--resamples", 500,
    )  # fmt: skip
    shown = cli(*words)
    assert shown.code == ExitCode.OK, shown.err
    told = cli(*words, "--json").json
    assert [Path(one["against"]).name for one in told["comparisons"]] == ["q.npy", "p.npy"]
    found = told["comparisons"][0]["metrics"]["top1"]
    assert found["counts"] == {"both": 140, "only_this": 10, "only_other": 0, "neither": 50, "p": 2 / 2**10}
    assert (found["this"], found["other"], found["verdict"]) == (0.75, 0.7, "better")
    assert found["difference"]["value"] == pytest.approx(0.05)
    rows = [line.split() for line in shown.out.splitlines() if line.startswith("  top-1 of the original label")]
    span = [f"{100 * found['difference'][end]:+.3f}" for end in ("low", "high")]
    assert rows[1][5:] == ["75.000", "70.000", "+5.000", span[0], "to", span[1], "better"]
    assert rows[2][5:] == ["140", "10", "0", "50", "0.002"]
    assert rows[3][5:] == ["75.000", "75.000", "+0.000", "+0.000", "to", "+0.000", "no", "difference", "shown"]
    assert rows[4][5:] == ["150", "0", "0", "50", "1"]
    assert "best predictions are the same for 95.00%" in shown.out
    assert shown.out.count("an interval of the difference that leaves out 0, and a p of at most 0.05;") == 1


def test_labels_as_tables_and_as_json(folder: Path, cli: Cli) -> None:
    pairs = "".join(f"{number:03d}.jpg,{number * 7 % 5},{0.9 if number < 100 else 0.4}\n" for number in range(N))
    (folder / "pairs.csv").write_text("image,class,score\n" + pairs)
    words = (
        "evaluate", "labels", folder / "pairs.csv", "--truth", folder / "labels.csv", "--threshold", 0.5,
        "--resamples", 20,
    )  # fmt: skip
    shown = cli(*words)
    assert shown.code == ExitCode.OK, shown.err
    assert "0 wrongly kept and 100 wrongly dropped; 20 right ones never proposed" in shown.out
    told = cli(*words, "--json").json["truth"]["measures"]
    assert (told["precision"]["value"], told["recall"]["value"]) == (1, 100 / 220)
    assert told["abstention"]["value"] == 0.5


def test_a_file_on_its_own(folder: Path, cli: Cli) -> None:
    shown = cli("evaluate", "labels", folder / "labels.csv")
    assert shown.code == ExitCode.OK
    assert "200 images, 0 without a label, 220 labels" in shown.out
    assert "the original label alone" in shown.out


def test_refusals_are_sentences_with_documented_codes(folder: Path, cli: Cli) -> None:
    answer = cli("evaluate", "predictions", folder / "p.npy", "--labels", folder / "labels.csv")
    assert answer.code == ExitCode.INPUT
    assert "say with --order which list its rows follow" in answer.err
    names = (folder / "names.txt").read_text().split()
    shuffled = [names[row] for row in np.random.default_rng(1).permutation(N)]
    (folder / "names.txt").write_text("\n".join(shuffled))
    words = ("evaluate", "predictions", folder / "p.npy", "--labels", folder / "labels.csv", "--order")
    answer = cli(*words, folder / "names.txt")
    assert answer.code == ExitCode.INPUT
    assert "In the order sorted by file name they would agree for 75.00%" in answer.err
    assert cli(*words, folder / "names.txt", "--trust-order").code == ExitCode.OK
    assert cli(*words, "by-name").code == ExitCode.OK
    answer = cli("evaluate", "labels", folder / "labels.csv", "--threshold", 0.5)
    assert answer.code == ExitCode.SPEC
    assert cli("evaluate", "predictions", folder / "p.npy").code == ExitCode.SPEC
    assert cli("evaluate", "labels", folder / "gone.json").code == ExitCode.INPUT
