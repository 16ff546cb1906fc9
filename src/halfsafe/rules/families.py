"""The laws. Each says how the exponents of an operator's operands and outputs are tied.

Soundness of every law is proved by one loop (tests/test_rules.py): for random exponents that
satisfy the equations, op(stored operands) must be bit-equal to stored(op(operands)).
"""

from __future__ import annotations

from math import inf

from halfsafe.rules.algebra import Equation, Exponents

Equations = list[Equation]


def movement(k: Exponents) -> Equations:
    """Entries are moved, copied or cast; further tensors lend a shape, a type or indices."""
    if set(k.attributes) == {"dtype"}:  # view(dtype) reads the same bits as another type
        return []
    x, *_ = k.all("src") or k.tensors
    return [*(y == x for y in k.outs), *k.free(*k.tensors)]


def homogeneous(k: Exponents) -> Equations:
    """f(s x) = s f(x), for every s > 0; positions of entries, where they come out too, stay."""
    x, (y, *others) = k.tensors[0], k.outs
    return [y == x, *(other == x for other in others if other.terms)]


def aligned(k: Exponents) -> Equations:
    """f(s a, s b) = s f(a, b): operands share an exponent, and so does a floating output."""
    if k.attributes.get("reduce") == "multiply":  # of scatter
        return []
    first, *rest = k.all_but("alpha", "condition", "mask", "index", "indices")
    return [x == first for x in rest] + [y == first for y in k.outs if y.terms]


def total(k: Exponents) -> Equations:
    """s a + s b = s (a + b)."""
    return aligned(k)


def lerp(k: Exponents) -> Equations:
    """a + w (b - a): the weight is a plain number."""
    return [k["self"] == k["end"], k.out == k["self"]]


def product(k: Exponents) -> Equations:
    """(s a)(t b) = s t (a b)."""
    total, *rest = k.all_but()
    for factor in rest:
        total = total + factor
    return [k.out == total]


def square(k: Exponents) -> Equations:
    """(s x)^2 = s^2 x^2; variances and sums of squares alike."""
    return [k.out == 2 * k.tensors[0]]


def spread_and_mean(k: Exponents) -> Equations:
    """var(s x) = s^2 var(x), mean(s x) = s mean(x)."""
    var, mean = k.outs
    (x,) = k.tensors
    return [var == 2 * x, mean == x]


def vector_norm(k: Exponents) -> Equations:
    """||s x||_p = s ||x||_p, for the p that are computed without a general power."""
    orders = (None, 1, 2, inf, -inf)
    if k.number("ord") not in orders or k.number("p") not in orders:
        return []
    return homogeneous(k)


def quotient(k: Exponents) -> Equations:
    """(s a) / (t b) = (s/t) (a/b)."""
    if k.attributes.get("rounding_mode") is not None:
        return []
    return [k.out == k["self"] - k["other"]]


def reciprocal(k: Exponents) -> Equations:
    """1 / (s x) = (1/s) (1/x)."""
    return [k.out == -k["self"]]


def square_root(k: Exponents) -> Equations:
    """sqrt(s^2 x) = s sqrt(x)."""
    return [2 * k.out == k["self"]]


def inverse_square_root(k: Exponents) -> Equations:
    """1 / sqrt(s^2 x) = (1/s) / sqrt(x)."""
    return [2 * k.out == -k["self"]]


def power(k: Exponents) -> Equations:
    """(s x)^n = s^n x^n, for the n that are computed by products and square roots alone."""
    n = k.number("exponent")
    if n not in (0.5, -0.5, -1, -2, 1, 2, 3):
        return []
    return [2 * k.out == int(2 * n) * k["self"]]


def affine(k: Exponents) -> Equations:
    """(s x)(t W) + s t b = s t (x W + b)."""
    x, weight, bias = k["input"], k["weight"], k["bias"]
    return [k.out == x + weight, bias == k.out]


def matrix_sum(k: Exponents) -> Equations:
    """s t b + (s A)(t B) = s t (b + A B)."""
    a, b = k.all("mat1", "mat2", "batch1", "batch2", "mat", "vec")
    return [k.out == a + b, k["self"] == k.out]


def grouped_product(k: Exponents) -> Equations:
    """Groups of rows, each with a matrix of its own: (s A)(t B_g) + s t b = s t (A B_g + b)."""
    return [k.out == k["self"] + k["mat2"], k["bias"] == k.out]


def embedding(k: Exponents) -> Equations:
    """Rows of s W are s times rows of W."""
    return [k.out == k["weight"]]


def batch_norm(k: Exponents) -> Equations:
    """(s x - s m) / sqrt(r^2 v + r^2 eps) * t w + (s t / r) b = (s t / r) y."""
    if k.attributes.get("training"):
        return []
    x, mean, var, eps = k["input"], k["running_mean"], k["running_var"], k["eps"]
    y = k.outs[0]
    return [
        mean == x,
        eps == var,
        2 * y == 2 * x - var + 2 * k.gain("weight"),
        k["bias"] == y,
        *k.free(*k.outs[1:]),
    ]


def normalisation(k: Exponents) -> Equations:
    """norm(s x, s^2 eps) = norm(x, eps); gain and bias carry the output's exponent."""
    x, (y, *statistics) = k["input"], k.outs
    mean_and_rstd = [
        found == expected for found, expected in zip(statistics, (x, -x), strict=False)
    ]
    return [k.gain("eps") == 2 * x, y == k.gain("weight"), k["bias"] == y, *mean_and_rstd]


def weight_norm(k: Exponents) -> Equations:
    """g v / ||v|| does not see v's scale."""
    return [k.outs[0] == k["g"], *k.free(k["v"]), *(norm == k["v"] for norm in k.outs[1:])]


def attention(k: Exponents) -> Equations:
    """softmax(q k^T scale + mask) v: the scale takes q's and k's exponents, v's goes through.

    The scale's exponent is even because some kernels multiply q and k by sqrt(scale) each.
    """
    scale = k.gain("scale")
    return [
        k["query"] + k["key"] + scale == 0,
        scale == 2 * k.integer("half"),
        k.out == k["value"],
    ]


def softplus(k: Exponents) -> Equations:
    """log(1 + exp((b/s) s x)) / (b/s) = s log(1 + exp(b x)) / b: beta undoes x's exponent."""
    x = k["self"]
    return [k.out == x, k["beta"] == -x]


def elu(k: Exponents) -> Equations:
    """ELU(s x) with the inner slope 1/s and alpha s is s ELU(x); the outer slope is a factor."""
    x = k["self"]
    return [k["input_scale"] == -x, k["alpha"] == x, k.out == x + k["scale"]]


def fill(k: Exponents) -> Equations:
    """A tensor made of one number, which may be any number; a prototype lends only its shape."""
    (number,) = k.all("fill_value", "value", "s")
    return [k.out == number, *k.free(*k.tensors)]


def zeros(k: Exponents) -> Equations:
    """0 = s 0."""
    return k.free(k.out, *k.tensors)


def invariant(k: Exponents) -> Equations:
    """f(s x) = f(x), for every s > 0; what is not a tensor, or comes out, stays as it is."""
    return k.free(*k.tensors)


def pinned(k: Exponents) -> Equations:
    """No law is known to hold: every exponent is 0."""
    del k
    return []
