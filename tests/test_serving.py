"""What `model.export` writes, loaded by a process that does not know this package."""
import json
import subprocess
import sys

import numpy as np
import pytest

LOAD = """
import json, sys
import tensorflow as tf
path, users, k = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
serve = tf.saved_model.load(path).signatures["serving_default"]
found = serve(users=tf.constant(users, tf.string if isinstance(users[0], str) else tf.int64), k=tf.constant(k))
items = [[i.decode() if isinstance(i, bytes) else i for i in row] for row in found["items"].numpy().tolist()]
assert not any(name.startswith("apr_tutorial") for name in sys.modules)
print(json.dumps([items, [[None if s == float("-inf") else s for s in row] for row in found["scores"].numpy().tolist()]]))
"""


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_served_lists_are_those_of_recommend(kind, tmp_path):
    from apr_tutorial.data import load_dataset
    from apr_tutorial.evaluator import recommend
    from apr_tutorial.model import BPRMF

    name = "{}".format if kind == "integers" else "reader <{}>".format
    rng = np.random.default_rng(1)
    rows = [f"{name(7 * u + 3)},{10**17 * i + 5},1" for u in range(30) for i in rng.choice(40, 6, replace=False)]
    (tmp_path / "ratings.csv").write_text("\n".join(rows), encoding="utf-8")
    data = load_dataset(tmp_path / "ratings.csv")
    model = BPRMF(data.num_users, data.num_items, 8, item_bias=True, seed=3)
    model.assign(model.user_factors, model.item_factors, rng.normal(size=data.num_items).astype(np.float32))
    model.export(tmp_path / "served/1", data)
    assert [p.name for p in (tmp_path / "served").iterdir()] == ["1"]
    users = [str(u) if kind == "strings" else int(u) for u in data.user_ids]
    stranger = "nobody" if kind == "strings" else 1
    answer = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path / "served/1"), json.dumps([*users, stranger]), "50"],
                            cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-2000:]
    items, scores = json.loads(answer.stdout.splitlines()[-1])
    expected = recommend(model, data, k=data.num_items)
    for user, row, score in zip(users, items, scores):
        own = expected[expected.user.astype(str) == str(user)]
        assert [str(i) for i in row[:len(own)]] == [str(i) for i in own.item]
        np.testing.assert_allclose(score[:len(own)], own.score, rtol=1e-4, atol=1e-6)
        assert set(row[len(own):]) <= {-1, ""} and set(score[len(own):]) == {None}
    assert set(items[-1]) <= {-1, ""} and set(scores[-1]) == {None}


def made(users=12, items=30):
    from apr_tutorial.data import synthetic
    from apr_tutorial.model import BPRMF

    data = synthetic(users, items, activity=6, seed=2)
    return BPRMF(data.num_users, data.num_items, 4), data


def test_equal_scores_and_held_out_items(tmp_path):
    "Exact ties stand in the order of the rows, as in `recommend`; what is held out for validation is in no list."
    import tensorflow as tf
    from apr_tutorial.data import hold_out
    from apr_tutorial.evaluator import recommend

    model, data = made()
    data = hold_out(data, 0)
    assert len(data.validation_users)
    rng = np.random.default_rng(0)
    model.assign(rng.integers(0, 2, model.P.shape).astype(np.float32), rng.integers(0, 2, model.Q.shape).astype(np.float32))
    served = tf.saved_model.load(str(model.export(tmp_path / "served", data=data)))
    found = served.serve(tf.constant(data.user_ids), data.num_items + 3)
    expected = recommend(model, data, data.num_items)
    for user, row, score in zip(data.user_ids, found["items"].numpy(), found["scores"].numpy()):
        own = expected[expected.user == user]
        assert row.tolist() == own.item.tolist() + [-1] * (data.num_items + 3 - len(own)) and np.isneginf(score[len(own):]).all()
    assert found["items"].shape == (data.num_users, data.num_items + 3)
    assert served.serve(tf.constant([], tf.int64), 3)["items"].shape == (0, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="k: expected at least 1"):
        served.serve(tf.constant(data.user_ids), 0)


def test_nothing_half_written(tmp_path, monkeypatch):
    import tensorflow as tf
    from apr_tutorial.data import DataError

    model, data = made()
    save = tf.saved_model.save

    def broken(module, folder, **more):
        save(module, folder, **more)
        assert not (tmp_path / "served").exists()
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        model.export(tmp_path / "served", data)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "served").mkdir()
    model.export(tmp_path / "served", data)  # an empty folder is no loss
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for wrong, message in ((lambda: model.export(tmp_path / "served", data), "exists already"),
                           (lambda: model.export(tmp_path / "other", data, format="onnx"), "tf_saved_model only"),
                           (lambda: model.export(tmp_path / "other", made(9, 30)[1]), "not the model of these data")):
        with pytest.raises(DataError, match=message):
            wrong()
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("call", [lambda model, path: model.export(path), lambda model, path: model.export(path, "tf_saved_model", False),
                                  lambda model, path: model.export(filepath=path, format="tf_saved_model", verbose=False)])
def test_without_data_it_is_keras_export(call, tmp_path):
    import tensorflow as tf

    model, _ = made()
    call(model, str(tmp_path / "bare"))
    bare = tf.saved_model.load(str(tmp_path / "bare"))
    rows = tf.constant([0, 3]), tf.constant([5, 1])
    np.testing.assert_allclose(bare.serve(rows), model(rows), rtol=1e-6)
