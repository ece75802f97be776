"""The contestants. Each function sets one up and returns what it does when asked: (epochs, round) -> (seconds, what was extrapolated)."""
import math
import os
import time
from collections.abc import Callable
from multiprocessing import get_context

import numpy as np
import tensorflow as tf

from apr_tutorial.apr import APR
from apr_tutorial.data import Interactions, batches, epoch_triples, generator, load_dataset
from apr_tutorial.evaluator import evaluate
from apr_tutorial.model import BPRMF, fit

from .common import SEED, Play

SIZE, BATCH, RATE, EPSILON = 64, 512, 0.05, 0.5


def timed(function: Callable, *args) -> float:
    "Seconds that a call takes."
    began = time.perf_counter()
    function(*args)
    return time.perf_counter() - began


def extrapolation(done: int, of: int, what: str) -> str:
    "What a time was extrapolated from; nothing where it was measured whole."
    return "" if done >= of else f"from {done} of {of} {what}"


def data_of(dataset: str) -> Interactions:
    return load_dataset(dataset, progress=False)


def trained(data: Interactions, epochs: int = 5) -> BPRMF:
    "A model after some epochs of BPR: where adversarial training starts."
    model = BPRMF(data.num_users, data.num_items, SIZE, seed=SEED)
    fit(model, data, epochs=epochs, seed=SEED, progress=False)
    return model


# This project

def ours(dataset: str, optimizer: str = "adagrad", adversarial: bool = False) -> Play:
    "`fit`; sampling counts, compilation belongs to the set-up."
    data = data_of(dataset)
    model = trained(data) if adversarial else BPRMF(data.num_users, data.num_items, SIZE, seed=SEED)
    options = dict(learning_rate=RATE, optimizer=optimizer, batch_size=BATCH, adversary=APR(EPSILON, 1.) if adversarial else None, progress=False)
    fit(model, data, epochs=1, seed=SEED, **options)

    def play(epochs: int, number: int) -> tuple[float, str]:
        return float(fit(model, data, epochs=epochs, seed=(SEED, number), **options).frame.seconds.sum())/epochs, ""
    return play


def our_evaluation(dataset: str) -> Play:
    "`evaluate` of all users: the median of ten calls for each epoch of a round."
    data = data_of(dataset)
    model = trained(data)
    evaluate(model, data, lists=False)

    def play(epochs: int, number: int) -> tuple[float, str]:
        return float(np.median([timed(lambda: evaluate(model, data, lists=False)) for _ in range(10*epochs)])), ""
    return play


# Libraries: an epoch is the difference between 1 + n epochs and one, so that preparation cancels out

def difference(train: Callable[[int], object]) -> Play:
    "Seconds per epoch of `train(epochs)`, without what every call costs."
    train(1)

    def play(epochs: int, number: int) -> tuple[float, str]:
        short, long = timed(train, 1), timed(train, 1 + epochs)
        return (long - short)/epochs, ""
    return play


def cornac_data(data: Interactions):
    "The training pairs as Cornac takes them."
    from cornac.data import Dataset

    return Dataset.from_uir(zip(data.users.tolist(), data.items.tolist(), [1.]*len(data)))


def cornac_start(train, seed: int) -> dict[str, np.ndarray]:
    "Seeded factors of the scale that Cornac starts from; its own seed would limit it to one thread."
    rng = np.random.default_rng(seed)
    uniform = lambda n: (rng.random((n, SIZE), np.float32) - np.float32(.5))/np.float32(SIZE)
    return {"U": uniform(train.num_users), "V": uniform(train.num_items), "Bi": np.zeros(train.num_items, np.float32)}


def cornac_model(start: dict[str, np.ndarray], epochs: int, learning_rate: float = RATE, reg: float = .01):
    "Cornac's BPR on all processors; `fit` changes the arrays of `start` in place."
    from cornac.models import BPR

    return BPR(k=SIZE, max_iter=epochs, learning_rate=learning_rate, lambda_reg=reg, num_threads=os.cpu_count(), verbose=False, init_params=start)


def cornac_bpr(dataset: str) -> Play:
    "Cornac's BPR by SGD."
    train = cornac_data(data_of(dataset))
    start = cornac_start(train, SEED)
    return difference(lambda epochs: cornac_model(start, epochs).fit(train))


def implicit_bpr(dataset: str) -> Play:
    "BPR of the library implicit, by SGD on all processors."
    from implicit.cpu.bpr import BayesianPersonalizedRanking
    from scipy.sparse import csr_matrix

    data = data_of(dataset)
    matrix = csr_matrix((np.ones(len(data), np.float32), (data.users, data.items)), (data.num_users, data.num_items))
    model = BayesianPersonalizedRanking(factors=SIZE, learning_rate=RATE, regularization=.01, num_threads=os.cpu_count(), random_state=SEED)

    def train(epochs: int):
        model.iterations = epochs
        model.fit(matrix, show_progress=False)
    return difference(train)


# The step of the paper's authors: gradients and Adagrad over whole tables, as their regulariser over whole tables makes them

def adagrad(variables: list[tf.Variable], sums: list[tf.Variable], gradients: list[tf.Tensor]):
    "One step over whole tables."
    for variable, total, gradient in zip(variables, sums, gradients):
        total.assign_add(gradient*gradient)
        variable.assign_sub(RATE*gradient*tf.math.rsqrt(total + 1e-7))


def dense_step(tables: list[tf.Variable], adversarial: bool, reg: float = 0.) -> Callable:
    "The compiled graph (without XLA) of one mini-batch: (users, items i, items j) changes `tables` in place."
    sums, deltas = ([tf.Variable(tf.fill(t.shape, value)) for t in tables] for value in (.1, 0.))

    def loss(users, positive, negative, moves):
        (p, q), dot = tables, lambda a, b: tf.reduce_sum(a*b, axis=1)
        look = lambda n, table, ids: tf.gather(table, ids) + (tf.gather(moves[n], ids) if moves else 0.)
        own = look(0, p, users)
        return tf.reduce_sum(tf.nn.softplus(dot(own, look(1, q, negative)) - dot(own, look(1, q, positive))))

    @tf.function(autograph=False)
    def step(users, positive, negative):
        if adversarial:
            with tf.GradientTape() as tape:
                value = loss(users, positive, negative, None)
            for delta, gradient in zip(deltas, tape.gradient(value, tables)):
                delta.assign(tf.math.l2_normalize(tf.convert_to_tensor(gradient), axis=1)*EPSILON)
        with tf.GradientTape() as tape:
            value = loss(users, positive, negative, None) + reg*sum(tf.reduce_sum(t*t) for t in tables)
            if adversarial:
                value += loss(users, positive, negative, deltas)
        adagrad(tables, sums, [tf.convert_to_tensor(g) for g in tape.gradient(value, tables)])
    return step


def dense(dataset: str, adversarial: bool = False, count: int = 100) -> Play:
    "The first `count` batches of an epoch by `dense_step`, scaled to the epoch; sampling does not count."
    data = data_of(dataset)
    model = trained(data)
    step = dense_step([tf.Variable(model.user_factors), tf.Variable(model.item_factors)], adversarial)
    of = math.ceil(len(data.pairs)/BATCH)

    def steps(triples: np.ndarray):
        for n in range(triples.shape[1]):
            step(*triples[:, n])

    def play(epochs: int, number: int) -> tuple[float, str]:
        drawn = batches(epoch_triples(data, generator(SEED, number)), BATCH)[:, :min(count, of - 1)]
        if drawn.shape[1] == of - 1:  # the last batch is padded: the full ones stand for it
            return timed(steps, tf.constant(drawn))*of/(of - 1), ""
        return timed(steps, tf.constant(drawn))*of/drawn.shape[1], extrapolation(drawn.shape[1], of, "batches")
    play(1, 0)
    return play


# The original notebook: eager steps over whole tables, sampling in Python, evaluation user by user

POOL: dict = {}  # what the processes of a pool inherit


def draw_one(number: int) -> tuple[np.ndarray, ...]:
    "Mini-batch `number`: pair by pair, negatives drawn until one is not in the user's list."
    size, columns = POOL["size"], ([], [], [])
    for place in POOL["order"][number*size:(number + 1)*size]:
        user = POOL["users"][place]
        negative = np.random.randint(POOL["num_items"])
        while negative in POOL["lists"][user]:
            negative = np.random.randint(POOL["num_items"])
        for column, value in zip(columns, (user, POOL["items"][place], negative)):
            column.append(value)
    return tuple(np.array(column)[:, None] for column in columns)


def draw_all(size: int) -> list[tuple[np.ndarray, ...]]:
    "All full mini-batches of a shuffled epoch, by a pool of processes started for it."
    order = list(range(len(POOL["users"])))
    np.random.shuffle(order)
    POOL.update(order=order, size=size)
    with get_context("fork").Pool(os.cpu_count()) as pool:
        return pool.map(draw_one, range(len(order)//size))


class Eager:
    "Factors, their perturbation, and eager steps."

    def __init__(self, data: Interactions, factors: tuple[np.ndarray, np.ndarray] | None = None):
        POOL.update(users=data.users.tolist(), items=data.items.tolist(), num_items=data.num_items,
                    lists=[data.items_of(u).tolist() for u in range(data.num_users)])
        np.random.seed(SEED)
        small = lambda n: tf.random.truncated_normal([n, SIZE], stddev=.01, seed=SEED)
        self.tables = [tf.Variable(f) for f in factors or (small(data.num_users), small(data.num_items))]
        self.deltas, self.ones = self.zeros(), tf.ones([SIZE, 1])
        self.optimizer = tf.keras.optimizers.Adagrad(RATE)

    def zeros(self) -> list[tf.Variable]:
        return [tf.Variable(tf.zeros(t.shape), trainable=False) for t in self.tables]

    def infer(self, *ids: np.ndarray) -> tuple[tf.Tensor, list[tf.Tensor]]:
        "Scores [B, 1] and rows of (users, items), out of whole perturbed tables."
        rows = [tf.reduce_sum(tf.nn.embedding_lookup(t + d, n), 1) for t, d, n in zip(self.tables, self.deltas, ids)]
        return tf.matmul(rows[0]*rows[1], self.ones), rows

    def loss(self, users: np.ndarray, positive: np.ndarray, negative: np.ndarray, reg: float = 0.) -> tf.Tensor:
        "BPR loss and regulariser of a mini-batch."
        (high, (p, q_i)), (low, (_, q_j)) = self.infer(users, positive), self.infer(users, negative)
        loss = tf.reduce_sum(tf.nn.softplus(-tf.clip_by_value(high - low, -80., 1e8)))
        return loss + reg*tf.reduce_mean(tf.square(p) + tf.square(q_i) + tf.square(q_j))

    def attack(self):
        "A perturbation of whole tables from one fresh triple for every training pair."
        (triples,), self.deltas = draw_all(len(POOL["users"])), self.zeros()
        with tf.GradientTape() as tape:
            loss = self.loss(*triples)
        self.deltas = [tf.nn.l2_normalize(tf.stop_gradient(g), 1)*EPSILON for g in tape.gradient(loss, self.tables)]

    def step(self, batch: tuple[np.ndarray, ...], adversarial: bool):
        "One mini-batch; the adversary draws and attacks before each."
        with tf.GradientTape() as tape:
            loss = self.loss(*batch)
            if adversarial:
                self.attack()
                loss += self.loss(*batch)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.tables), self.tables))
        if adversarial:
            self.deltas = self.zeros()

    def evaluate_user(self, users: np.ndarray, items: np.ndarray, up_to: int = 100) -> list[list[float]]:
        "HR, nDCG and AUC at every k of a user whose test item is the last of `items`."
        scores, _ = self.infer(users, items)
        rank = (scores[:-1].numpy() >= scores[-1].numpy()).sum()
        hr, ndcg, auc = [], [], []
        for k in range(1, up_to + 1):
            hr.append(rank < k)
            ndcg.append(math.log(2)/math.log(rank + 2) if rank < k else 0)
            auc.append(1 - rank/(len(items) - 1))
        return [hr, ndcg, auc]


def notebook(dataset: str, adversarial: bool = False, count: int = 20) -> Play:
    "The drawing of an epoch, and its first `count` steps scaled to all of them."
    data = data_of(dataset)
    start = trained(data) if adversarial else None
    model = Eager(data, start and (start.user_factors, start.item_factors))

    def steps(drawn: list):
        for batch in drawn:
            model.step(batch, adversarial)

    def play(epochs: int, number: int) -> tuple[float, str]:
        began = time.perf_counter()
        drawn = draw_all(BATCH)
        drawing = time.perf_counter() - began
        return drawing + timed(steps, drawn[:count])*len(drawn)/min(count, len(drawn)), extrapolation(count, len(drawn), "batches")
    steps(draw_all(BATCH)[:min(count, 3)])
    return play


def candidates(data: Interactions, user: int, item: int) -> tuple[np.ndarray, np.ndarray]:
    "A user's row number and candidate items as columns, the test item last."
    rest = np.setdiff1d(np.arange(data.num_items), np.append(data.items_of(user), item))
    return np.full((len(rest) + 1, 1), user, np.int32), np.append(rest, item)[:, None]


def notebook_evaluation(dataset: str, count: int = 50) -> Play:
    "Evaluation of the first `count` users one by one, scaled to all; making the arrays of candidates does not count."
    data = data_of(dataset)
    model = Eager(data)
    arrays = [candidates(data, u, i) for u, i in zip(data.test_users[:count], data.test_items)]
    loop = lambda: np.array([model.evaluate_user(*pair) for pair in arrays]).mean(axis=0)
    loop()

    def play(epochs: int, number: int) -> tuple[float, str]:
        return timed(loop)*len(data.test_users)/len(arrays), extrapolation(len(arrays), len(data.test_users), "users")
    return play
