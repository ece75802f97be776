"""Does the check of APR's epoch have teeth? One check, the real step, and five wrong ones that a learning curve would not betray."""
import numpy as np
import pytest
import tensorflow as tf

from apr_tutorial import model
from apr_tutorial.apr import APR
from apr_tutorial.data import generator, synthetic
from apr_tutorial.model import Adversary, Batch, Move

USERS, ITEMS, BATCH = 40, 60, 64
EPSILON, LAMBDA, REG, RATE = .4, .7, .05, .05
TOLERANCE = 5e-6  # a direction magnifies the rounding of a small gradient
DATA = synthetic(USERS, ITEMS, activity=15, seed=1)
START = np.random.default_rng(0).normal(0, .3, (USERS + ITEMS, 8))
IDS = model.batch_ids(DATA, BATCH, generator(0, 0))


def gradients(x):
    "BPR gradients of triples whose rows are x [3, B, d]."
    p, q, r = x
    w = 1/(1 + np.exp(((q - r)*p).sum(1, keepdims=True)))
    return np.stack([-w*(q - r), -w*p, w*p])


def reference():
    "The factors after one epoch of APR with Adagrad, in float64, batch by batch as the paper says."
    table, state = START.copy(), np.full_like(START, .1)
    for ids in IDS.reshape(len(IDS), 3, -1):
        rows = ids[:, ids[0] < len(table)]
        g, total = np.zeros_like(table), np.zeros_like(table)
        np.add.at(g, rows, gradients(table[rows]))
        lengths = np.linalg.norm(g, axis=1, keepdims=True)
        delta = EPSILON*np.divide(g, lengths, out=np.zeros_like(g), where=lengths > 0)
        np.add.at(total, rows, gradients(table[rows]) + LAMBDA*gradients((table + delta)[rows]) + REG*table[rows])
        state += total*total
        table -= RATE*total/np.sqrt(state + 1e-7)
    return table


def deviation():
    "The largest difference between an epoch of `fit` and the reference."
    trained = model.from_factors(START[:USERS], START[USERS:])
    model.fit(trained, DATA, epochs=1, learning_rate=RATE, batch_size=BATCH, reg=REG, adversary=APR(EPSILON, LAMBDA), seed=0, progress=False)
    return abs(np.concatenate([trained.user_factors, trained.item_factors]) - reference()).max()



def of_the_batch_before(patch):
    "Perturb by what the batch before would have needed: the mistake found in Elliot, in its adversarial half."
    eagerly(patch)
    real, memory = model.adversarial_part, []

    def part(factors, ids, batch, hyper, adversary, one):
        move = adversary.perturb(batch)
        delta = tf.tensor_scatter_nd_update(tf.zeros_like(factors), ids[:, None], move.scale*tf.gather(move.values, move.places))
        memory.append(delta)
        old = memory[-2] if len(memory) > 1 else tf.zeros_like(factors)

        class Stale(Adversary):
            adv_reg = adversary.adv_reg

            def perturb(self, batch):
                return Move(old, ids, tf.ones([ids.shape[0], 1]))
        return real(factors, ids, batch, hyper, Stale(), one)
    patch.setattr(model, "adversarial_part", part)


def eagerly(patch):
    "No mutation: run the same step in Python, where a mutant can remember."
    patch.setattr(model.Compiled, "__call__", lambda self, *args: self.function(None, *args))


def by_tape(patch, constant=True):
    "No mutation: the adversarial gradient by differentiation, the perturbation held constant."
    def part(factors, ids, batch, hyper, adversary, one):
        hold = tf.stop_gradient if constant else tf.identity
        with tf.GradientTape() as tape:
            tape.watch(batch.rows)
            own = model.bpr_gradients(batch.rows, tf.range(ids.shape[0]), model.bpr_weights(batch.rows, batch.valid, hyper.ones), None)
            move = adversary.perturb(batch._replace(gradients=own))
            moved = batch.rows + hold(move.scale*tf.gather(move.values, move.places))
            loss = tf.reduce_sum(tf.where(batch.valid, tf.nn.softplus(-model.margins_of(moved, hyper.ones)), 0.))
        gradient = adversary.adv_reg*tape.gradient(loss, batch.rows)
        return 0., [tf.where(tf.tile(batch.valid, [3, 1]), gradient, 0.)]  # the length of padding's zeros has no derivative
    patch.setattr(model, "adversarial_part", part)


def differentiated_through(patch):
    "Let the model differentiate through the adversary's choice."
    by_tape(patch, constant=False)


def with_the_regulariser(patch):
    "Take the direction from the gradient of loss and regulariser together."
    real = APR.perturb
    patch.setattr(APR, "perturb", lambda self, batch: real(self, batch._replace(gradients=batch.gradients + batch.hyper.reg*batch.rows)))


def without_lambda(patch):
    "Add the adversarial loss with weight 1, whatever lambda says."
    real = model.with_values
    patch.setattr(model, "with_values", lambda kind, values: real(kind, values | {"adv_reg": tf.constant(1.)}))


def normalised_by_the_table(patch):
    "Divide by the length of the whole gradient instead of each row's."
    def lengths(self, values):
        own = tf.equal(self.chosen, tf.range(self.chosen.shape[0]))[:, None]
        return tf.fill([self.chosen.shape[0], 1], tf.norm(tf.where(own, values, 0.)))
    patch.setattr(Batch, "lengths", lengths)


@pytest.fixture
def patch(monkeypatch):
    "Compiled epochs are kept for the next call: none of before may serve a mutant, and none of a mutant's what comes after."
    model.epoch_function.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    model.epoch_function.cache_clear()


def test_the_data_are_hard_enough():
    rows = IDS.reshape(len(IDS), 3, -1)
    assert (rows == USERS + ITEMS).any(), "no padding"
    assert all(len(np.unique(batch)) < batch.size/2 for batch in rows), "hardly a row stands in a batch twice"


@pytest.mark.parametrize("way", [lambda patch: None, eagerly, by_tape], ids=["as it is", "eagerly", "by tape"])
def test_the_real_step_passes(patch, way):
    way(patch)
    assert deviation() < TOLERANCE


@pytest.mark.parametrize("mutation", [of_the_batch_before, differentiated_through, with_the_regulariser, without_lambda, normalised_by_the_table])
def test_a_mutant_fails(patch, mutation):
    mutation(patch)
    found = deviation()
    print(f"{mutation.__name__}: {found:.1e}")
    assert found > 200*TOLERANCE  # a number, too: training that broke down would be noticed without this check
