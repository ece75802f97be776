"""Numbers at their limits: scores that overflow, losses that diverge, and bits that must not depend on how a run is executed."""
from concurrent.futures import Future

import numpy as np
import pytest
import tensorflow as tf

from apr_tutorial import model as model_module
from apr_tutorial.apr import APR
from apr_tutorial.data import synthetic
from apr_tutorial.model import BPRMF, TrainingDiverged, bpr_loss, bpr_weights, fit, from_factors

DATA = synthetic(40, 80, activity=15, seed=1)
LARGE = [-np.inf, -3e38, -1e30, -1e4, -100., 0., 100., 1e4, 1e30, 3e38, np.inf]


def loss_and_gradient(margins):
    with tf.GradientTape() as tape:
        tape.watch(margins)
        losses = tf.map_fn(bpr_loss, margins[:, None])
    return losses, tape.gradient(losses, margins)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_loss_of_extreme_margins(compiled):
    "ln(1 + exp(-x)) is -x far below 0 and 0 far above, its gradient -1 and 0: never NaN, infinite only where -x is."
    margins = tf.constant(LARGE, tf.float32)
    loss, gradient = (x.numpy() for x in tf.function(loss_and_gradient, jit_compile=compiled)(margins))
    expected = np.where(np.array(LARGE) < 0, -np.array(LARGE, np.float32), 0)
    expected[LARGE.index(0.)] = np.log(2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-38)  # e^-100 is 4e-44, below what float32 holds in full
    np.testing.assert_allclose(gradient, [-1]*5 + [-.5] + [0]*5, rtol=0, atol=1e-38)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_weights_of_extreme_triples(compiled):
    "What training itself uses: the sigmoid of -margin, from rows whose products are large or overflow."
    q = np.array([1e4, -1e4, 1e19, -1e19, 1e38, -1e38, 0], np.float32)
    rows = tf.constant(np.r_[[100.]*len(q), q, [0.]*len(q)].astype("f4")[:, None])
    weights = tf.function(bpr_weights, jit_compile=compiled)(rows, tf.fill([len(q), 1], True), tf.ones([1, 1])).numpy()[:, 0]
    np.testing.assert_allclose(weights, [0, 1, 0, 1, 0, 1, .5], rtol=0, atol=1e-38)


@pytest.mark.parametrize("score", [1e4, 1e15])
def test_training_goes_on_from_extreme_scores(score):
    "Margins of ±score: the loss is what float64 says, the step finite, and the epoch no divergence."
    rng = np.random.default_rng(0)
    p, q = (rng.choice([-1, 1], (n, 1)).astype("f4")*np.float32(score)**.5 for n in (40, 80))
    model = from_factors(p, q)
    history = fit(model, DATA, epochs=1, batch_size=64, learning_rate=1e-3, progress=False)
    assert np.isfinite(history.frame.loss).all() and np.isfinite(model.user_factors).all() and np.isfinite(model.item_factors).all()
    assert .1*score < history.frame.loss.iloc[0] < 2*score  # about half the triples are wrong by 2 × score, or 0


@pytest.mark.parametrize("monitor", [None, lambda model: {}])
def test_factors_that_the_sampled_loss_never_sees(monitor, tmp_path, monkeypatch):
    "A row that no sampled triple touches stops being finite: the epoch in which it does is named, and nothing of it is kept."
    real, calls = model_module.Trainer.steps, []

    def steps(run, ids, count):
        real(run, ids, count)
        calls.append(count)
        if len(calls) == 4:  # the first call compiles, so this is epoch 3
            run.tables.factors[-1, 0].assign(np.inf)  # the spare row
    monkeypatch.setattr(model_module.Trainer, "steps", steps)
    model, path = BPRMF(40, 80, 8), tmp_path / "c.npz"
    with pytest.raises(TrainingDiverged, match=r"bpr-mf, epoch 3: a loss of [\d.]+, factors that are not finite\. Lower learning_rate .* The checkpoint of epoch 2 is kept"):
        fit(model, DATA, epochs=6, batch_size=64, progress=False, checkpoint=path, checkpoint_every=1, monitor=monitor)
    assert np.isfinite(model.user_factors).all()
    arrays, _, epoch, _ = model_module.read_checkpoint(path)
    assert epoch == 2 and np.isfinite(arrays["factors"]).all()
    monkeypatch.undo()
    whole = BPRMF(40, 80, 8)
    fit(whole, DATA, epochs=6, batch_size=64, progress=False)
    fit(resumed := BPRMF(40, 80, 8), DATA, epochs=6, batch_size=64, progress=False, checkpoint=path)
    np.testing.assert_array_equal(resumed.user_factors, whole.user_factors)


class NoThread:
    "Draws the next epoch when it is asked for, not beside this one."

    def __init__(self, _): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass

    def submit(self, function, *args):
        made = Future()
        made.set_result(function(*args))
        return made


@pytest.mark.parametrize("adversary", [None, APR(.5)])
def test_sampling_in_a_thread_or_not(adversary, monkeypatch):
    "The same bits, and the same ones again after other runs in this process."
    made = []
    for thread in (True, False, True):
        if not thread:
            monkeypatch.setattr(model_module, "ThreadPoolExecutor", NoThread)
            fit(BPRMF(40, 80, 4, seed=9), DATA, epochs=2, batch_size=32, seed=9, progress=False)
        model = BPRMF(40, 80, 8)
        fit(model, DATA, epochs=4, batch_size=64, adversary=adversary, progress=False)
        made.append(np.r_[model.user_factors, model.item_factors])
        monkeypatch.undo()
    assert made[0].tobytes() == made[1].tobytes() == made[2].tobytes()
