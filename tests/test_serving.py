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
    expected = recommend(model, data, k=40)
    for user, row, score in zip(users, items, scores):
        own = expected[expected.user.astype(str) == str(user)]
        assert [str(i) for i in row[:len(own)]] == [str(i) for i in own.item]
        np.testing.assert_allclose(score[:len(own)], own.score, rtol=1e-4, atol=1e-6)
        assert set(row[len(own):]) <= {-1, ""} and set(score[len(own):]) == {None}
    assert set(items[-1]) <= {-1, ""} and set(scores[-1]) == {None}
