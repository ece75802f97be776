"""What a notebook shows badly: another model in our place, a platform without XLA, and the original's statistics."""
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import tensorflow as tf

from apr_tutorial import model as model_module
from apr_tutorial.apr import APR
from apr_tutorial.attack import fgsm, pgd, random_noise
from apr_tutorial.data import DataError, synthetic
from apr_tutorial.defences import NoiseTraining, PGDTraining, PamaCF, SharpCF, VAT
from apr_tutorial.evaluator import evaluate, recommend
from apr_tutorial.model import BPRMF, RecommenderModel, fit


class Dictionary(RecommenderModel):
    "A model that keeps its factors in a way of its own."
    name = "dictionary"

    def __init__(self, num_users, num_items, d=4):
        rng = np.random.default_rng(0)
        self.rows = {"u": rng.normal(0, .1, (num_users, d)).astype("f4"), "i": rng.normal(0, .1, (num_items, d)).astype("f4")}

    user_factors = property(lambda self: self.rows["u"])
    item_factors = property(lambda self: self.rows["i"])

    def assign(self, user_factors, item_factors, item_bias=None):
        self.rows = {"u": user_factors, "i": item_factors}


def test_another_model_takes_its_place():
    data = synthetic(40, 80, activity=15, seed=1)
    model = Dictionary(40, 80)
    before = evaluate(model, data, k=[10]).auc
    fit(model, data, epochs=20, batch_size=64, progress=False)
    assert evaluate(model, data, k=[10]).auc > before + .05
    fit(model, data, epochs=5, batch_size=64, adversary=APR(.1), progress=False)
    for attack in (random_noise, fgsm, pgd):
        assert evaluate(model.perturbed(attack(model, data, .5)), data, k=[10]).auc < 1
    assert len(recommend(model, data, k=5)) == 40*5


def test_models_that_do_not_fit_are_refused():
    class Fixed(Dictionary):
        assign = RecommenderModel.assign

    data, other = synthetic(40, 80, activity=15, seed=1), Dictionary(50, 80)
    with pytest.raises(DataError, match="defines no assign"):
        fit(Fixed(40, 80), data, epochs=1, progress=False)
    for use in (lambda: fit(other, data, epochs=1, progress=False), lambda: evaluate(other, data, k=[5]), lambda: fgsm(other, data, .5), lambda: recommend(other, data, 5)):
        with pytest.raises(DataError, match="50 users and 80 items"):
            use()


def test_the_base_can_not_be_made():
    with pytest.raises(TypeError, match="abstract"):
        RecommenderModel()


def test_an_adversary_is_the_papers_and_does_not_change():
    assert APR() == APR(epsilon=.5, adv_reg=1.)
    with pytest.raises(FrozenInstanceError):
        APR().epsilon = 1.


OPTIMIZERS, DEFENCES = ("adagrad", "sgd", "rowwise-adagrad"), (PGDTraining(.3), NoiseTraining(.3), PamaCF(.3), VAT(.3), SharpCF(.1, epochs_back=1))


@pytest.mark.parametrize("optimizer, adversary", [(o, a) for a in (None, APR(.3)) for o in OPTIMIZERS] + [("adagrad", a) for a in DEFENCES])
def test_without_xla_the_same_step_runs_uncompiled(monkeypatch, optimizer, adversary):
    data = synthetic(40, 80, activity=15, seed=1)
    start = np.random.default_rng(0).normal(0, .3, (120, 8))
    options = dict(epochs=2, batch_size=64, optimizer=optimizer, adversary=adversary, progress=False)
    compiled, plain = (model_module.from_factors(start[:40], start[40:]) for _ in range(2))
    fit(compiled, data, **options)
    real = tf.function

    def function(f=None, jit_compile=None, **more):
        def refuse(*args):
            raise tf.errors.UnimplementedError(None, None, "no XLA on this platform")
        return refuse if jit_compile else real(f, **more)

    for cached in (model_module.epoch_function, model_module.sample_function):
        cached.cache_clear()
    monkeypatch.setattr(tf, "function", function)
    with pytest.warns(UserWarning, match="XLA can't compile here"):
        fit(plain, data, **options)
    for cached in (model_module.epoch_function, model_module.sample_function):
        cached.cache_clear()
    np.testing.assert_allclose(plain.user_factors, compiled.user_factors, rtol=0, atol=2e-6)
    np.testing.assert_allclose(plain.item_factors, compiled.item_factors, rtol=0, atol=2e-6)


@pytest.mark.parametrize("adversary", [NoiseTraining(.3), PGDTraining(.3, steps=2), PamaCF(.3), VAT(.3), SharpCF(.1, epochs_back=2)])
def test_with_an_item_bias_each_defence_trains_and_leaves_the_constant_alone(adversary):
    data = synthetic(40, 80, activity=15, seed=1)
    model = BPRMF(40, 80, 8, item_bias=True)
    model.assign(*(np.random.default_rng(0).normal(0, .3, shape).astype("f4") for shape in ((40, 8), (80, 8), (80,))))
    tables = []
    real = model_module.unpack

    def watched(t, *args):
        tables.append(t.factors.numpy())
        return real(t, *args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_module, "unpack", watched)
        fit(model, data, epochs=3, batch_size=64, adversary=adversary, reg=.01, progress=False)
    assert (tables[-1][:40, -1] == 1).all() and not tables[-1][-1].any()  # the users' constant, and the spare row
    assert np.isfinite(tables[-1]).all()


@pytest.mark.parametrize("kind, variants", [
    (PGDTraining, [PGDTraining(.5), PGDTraining(.2, .7)]), (NoiseTraining, [NoiseTraining(), NoiseTraining(.2)]),
    (VAT, [VAT(), VAT(.2, .7, .9)]), (PamaCF, [PamaCF(), PamaCF(.2, .7, .9)]), (SharpCF, [SharpCF(), SharpCF(.2)])])
def test_a_defence_compiles_once(kind, variants):
    data = synthetic(40, 80, activity=15, seed=1)
    run = model_module.epoch_function("adagrad", kind, *model_module.whole_of(variants[0]).items())
    traces = []
    for seed, adversary in enumerate(variants):  # five epochs: SharpCF's past begins to count in the fourth
        fit(BPRMF(40, 80, 8, seed=seed), data, epochs=5, batch_size=64, adversary=adversary, seed=seed, progress=False)
        traces.append(run.run.experimental_get_tracing_count())
    assert traces[0] == traces[1] >= 1


def test_compiles_once_for_many_seeds_and_rates():
    data = synthetic(40, 80, activity=15, seed=1)
    run = model_module.epoch_function("adagrad", APR)
    fit(BPRMF(40, 80, 8), data, epochs=1, batch_size=64, adversary=APR(.5), progress=False)
    traces = run.run.experimental_get_tracing_count()
    for seed, rate, epsilon in ((1, .1, .2), (2, .2, .3)):
        fit(BPRMF(40, 80, 8, seed=seed), data, epochs=2, batch_size=64, learning_rate=rate, adversary=APR(epsilon), seed=seed, progress=False)
    assert run.run.experimental_get_tracing_count() == traces
