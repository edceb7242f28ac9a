"""What a run recorded, read whole, from its end, and flat."""

import json
import math

import pytest

from simclr_lib.engine.records import flat_scores, last_record, read_records


def write(file, *found: dict) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in found))


STEPS = [{"kind": "step", "step": n, "loss": 1 / (n + 1)} for n in range(500)]
EPOCHS = [{"kind": "epoch", "step": n, "epoch": n // 100} for n in range(99, 500, 100)]
WHOLE = sorted(STEPS + EPOCHS, key=lambda record: record["step"])  # an epoch's comes after its last step's


@pytest.mark.parametrize("kind", ["step", "epoch", "health"])
def test_the_last_of_a_kind_is_that_of_the_whole(tmp_path, kind):
    file = tmp_path / "metrics.jsonl"
    assert last_record(file, kind) == {}
    file.touch()
    assert last_record(file, kind) == {}
    for count in (1, 2, 100, 101, 150, len(WHOLE)):
        write(file, *WHOLE[:count])
        expected = [record for record in WHOLE[:count] if record["kind"] == kind]
        assert last_record(file, kind) == (expected[-1] if expected else {})
        for cut in ('{"kind": "step", "st', '{"kind": "epoch"', '{"kind": "health", "step": 1, "'):
            write(file, *WHOLE[:count])
            file.write_text(file.read_text() + cut)  # as a crash leaves it
            assert last_record(file, kind) == (expected[-1] if expected else {})


def test_a_damaged_line_is_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"kind": "epoch", "step": 1}\n{"kind": "epoch" nothing}\n')
    for read in (read_records, lambda file: last_record(file, "epoch")):
        with pytest.raises(ValueError, match=r"metrics.jsonl: expected json in every line"):
            read(file)


def test_scores_are_flat_with_the_trained_encoder_s_by_their_own_names():
    summary = {
        "final_loss": 5.0,
        "exact_batch": True,
        "predictions": {"kNN": True},
        "retrieval": {
            "images": [7],
            "scores": {
                "trained encoder": {"precision@5": [0.5, 0.7, 0.6], "map@R": [0.25]},
                "raw pixels": {"precision@5": [0.25, 0.75, 0.5]},
            },
        },
        "layers": {"scores": {"z, dot": {"precision@5": [0.125]}}},
    }
    assert flat_scores(summary) == {
        "final_loss": 5.0,
        "exact_batch": True,
        "precision@5": pytest.approx(0.6),
        "precision@5 deviation": pytest.approx(math.sqrt(0.02 / 3)),
        "map@R": 0.25,
        "precision@5 (raw pixels)": 0.5,
        "precision@5 (z, dot)": 0.125,
    }
