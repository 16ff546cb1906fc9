"""The laws. Each says how the exponents of an operator's operands and outputs are tied.

Soundness of every law is proved by one loop (tests/test_rules.py): for random exponents that
satisfy the equations, op(stored operands) must be bit-equal to stored(op(operands)).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from halfsafe.rules.algebra import Equation, Exponents, Linear

Equations = list[Equation]


def movement(k: Exponents) -> Equations:
    """Entries are moved, copied or cast; further tensors lend a shape, a type or indices."""
    if set(k.attributes) == {"dtype"}:  # view(dtype) reads the same bits as another type
        return []
    x, *_ = k.all("src") or k.all_but()
    return [*(y == x for y in k.outs), *k.free(*k.tensors)]


def homogeneous(k: Exponents) -> Equations:
    """f(s x) = s f(x), for every s > 0; positions of entries, where they come out too, stay."""
    if k.attributes.get("extrapolation_value"):  # a number that lies outside the border
        return []
    (x, *_), (y, *others) = k.all_but(), k.outs
    return [y == x, *(other == x for other in others if other.terms)]


def aligned(k: Exponents) -> Equations:
    """f(s a, s b) = s f(a, b): operands share an exponent, and so does a floating output."""
    if k.attributes.get("reduce") == "multiply":  # of scatter
        return []
    if k.attributes.get("reduction") == "mul":  # of ONNX's scatter: by plain numbers
        return homogeneous(k)
    if any(k.attributes.get(name) is not None for name in ("min", "max", "value")):
        return []  # Clip and Pad before opset 11: numbers that are no operands
    first, *rest = k.all_but("alpha", "condition", "mask", "index", "indices", "axes")
    return [x == first for x in rest] + [y == first for y in k.outs if y.terms]


def thresholded(k: Exponents) -> Equations:
    """f(s x, s t) = s f(x, t) for a threshold t, or the length at which a curve bends."""
    x = k["self"]
    return [k.out == x, k.gain("threshold") == x, k["bias"] == x]


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
    if k.attributes.get("noop_with_empty_axes"):  # an identity to some engines
        return []
    x, *_ = k.all_but()
    return [k.out == 2 * x]


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


def pooled_norm(k: Exponents) -> Equations:
    """sum |s x| = s sum |x|; other orders are computed by general powers."""
    return homogeneous(k) if k.attributes.get("p") == 1 else []


def quotient(k: Exponents) -> Equations:
    """(s a) / (t b) = (s/t) (a/b)."""
    if k.attributes.get("rounding_mode") is not None:
        return []
    return [k.out == k["self"] - k["other"]]


def reciprocal(k: Exponents) -> Equations:
    """1 / (s x) = (1/s) (1/x)."""
    return [k.out == -k["self"]]


def inverse(k: Exponents) -> Equations:
    """(s A)^-1 = (1/s) A^-1, of a matrix."""
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


def whole_power(k: Exponents) -> Equations:
    """(s x)^n = s^n x^n, for the n that are computed by products alone."""
    n = k.number("exponent")
    return [k.out == int(n) * k["self"]] if n in (1, 2, 3) else []


def affine(k: Exponents) -> Equations:
    """(s x)(t W) + s t b = s t (x W + b); s and t may be in factors alpha and beta as well."""
    return _affine(k, k.out)


def activated_affine(k: Exponents) -> Equations:
    """act(s t y) = s t act(y) behind an affine y, or s t = 1 where the activation asks for it."""
    scaled = k.attributes.get("activation", "none") in ("none", "", "Relu", "LeakyRelu")
    y = k.out if scaled else Linear()
    states = [k["state"] == k["input"], *_pairs(k.outs[1:], k["input"])]
    return [*_affine(k, y), k["addend"] == y, *states]


def _affine(k: Exponents, y: Linear) -> Equations:
    alpha, beta = k.gain("alpha"), k.gain("beta")
    return [y == alpha + k["input"] + k["weight"], beta + k["bias"] == y]


def recurrent(k: Exponents) -> Equations:
    """Gates see (s x)(W / s) = x W."""
    return [k["input"] + k["weight"] == 0]


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


def dequantisation(k: Exponents) -> Equations:
    """(q - zero) (s scale) = s (q - zero) scale."""
    return [k.out == k["scale"]]


def quantisation(k: Exponents) -> Equations:
    """round(s x / (s scale)) = round(x / scale)."""
    return [k["self"] == k["scale"]]


def dynamic_quantisation(k: Exponents) -> Equations:
    """The scale is a range of x: round(s x / (s scale)) = round(x / scale)."""
    return [k.outs[1] == k["self"]]


def batch_norm(k: Exponents) -> Equations:
    """(s x - s m) / sqrt(r^2 v + r^2 eps) * t w + (s t / r) b = (s t / r) y."""
    training = k.attributes.get("training") or k.attributes.get("training_mode")
    if training or len(k.outs) > 3:  # ONNX trains with five outputs before opset 14
        return []
    x, mean, var, eps = k["input"], k["running_mean"], k["running_var"], k.gain("eps")
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
    mean_and_rstd = _pairs(statistics, x, -x)
    return [k.gain("eps") == 2 * x, y == k.gain("weight"), k["bias"] == y, *mean_and_rstd]


def _pairs(outputs: Sequence[Linear], *expected: Linear) -> Equations:
    """Optional outputs: those that the operator leaves out state nothing."""
    return [found == e for found, e in zip(outputs, expected, strict=False) if found.terms]


def rms_normalisation(k: Exponents) -> Equations:
    """x / sqrt(mean(x^2) + eps) does not see x's scale, once s^2 eps follows it."""
    x, (y, *inverses) = k["input"], k.outs
    return [k.gain("eps") == 2 * x, y == k["weight"], *_pairs(inverses, -x)]


def skip_normalisation(k: Exponents) -> Equations:
    """norm(s (x + skip), s^2 eps) = norm(x + skip, eps); mean, 1/std and sum come out, too."""
    x, (y, *others) = k["input"], k.outs
    statistics = _pairs(others, x, -x, x)
    same = [k["skip"] == x, k["addend"] == x]
    return [*same, k.gain("eps") == 2 * x, y == k["weight"], k["bias"] == y, *statistics]


def embedding_normalisation(k: Exponents) -> Equations:
    """norm of a sum of rows of tables that share an exponent; the sum itself comes out last."""
    (x, *rest), (y, *others) = k.all("word", "position", "segment"), k.outs
    same = [table == x for table in rest] + [total == x for total in others if total.terms]
    return [*same, k.gain("eps") == 2 * x, y == k["weight"], k["bias"] == y]


def local_response(k: Exponents) -> Equations:
    """s x / (bias + (alpha / s^2) sum((s x)^2))^beta."""
    return [k.out == k["self"], k.gain("alpha") == -2 * k["self"]]


def weight_norm(k: Exponents) -> Equations:
    """g v / ||v|| does not see v's scale."""
    return [k.outs[0] == k["g"], *k.free(k["v"]), *(norm == k["v"] for norm in k.outs[1:])]


def attention(k: Exponents) -> Equations:
    """softmax(q k^T scale + mask) v: the scale takes q's and k's exponents, v's goes through.

    The scale's exponent is even because some kernels multiply q and k by sqrt(scale) each.
    Keys and values that are no operands of their own are packed into the operand before.
    """
    if k.all("q_norm", "k_norm", "k_scale", "v_scale"):
        return []
    query, scale = k["query"], k.gain("scale")
    key, value = k.all("query", "key")[-1], k.all("query", "key", "value")[-1]
    return [
        query + key + scale == 0,
        scale == 2 * k.integer("half"),
        k.out == value,
        *(k["bias"] == biased for biased in (query, key, value)),
        k["past_key"] == key,
        k["past_value"] == value,
        *_pairs(k.outs[1:], key, value),
    ]


def projected_attention(k: Exponents) -> Equations:
    """Attention over q, k, v = x W + b, which share an exponent."""
    qkv = k["input"] + k["weight"]
    same = [found == qkv for found in k.all("bias", "past")]
    return [2 * qkv + k.gain("scale") == 0, *same, *_pairs(k.outs, qkv, qkv)]


def softplus(k: Exponents) -> Equations:
    """log(1 + exp((b/s) s x)) / (b/s) = s log(1 + exp(b x)) / b: beta undoes x's exponent."""
    x = k["self"]
    return [k.out == x, k["beta"] == -x]


def elu(k: Exponents) -> Equations:
    """ELU(s x) with the inner slope 1/s and alpha s is s ELU(x); the outer slope is a factor."""
    x = k["self"]
    return [k["input_scale"] == -x, k["alpha"] == x, k.out == x + k["scale"]]


def swish(k: Exponents) -> Equations:
    """s x sigmoid((a/s) s x) = s (x sigmoid(a x)): the slope undoes x's exponent."""
    x = k["self"]
    return [k.gain("slope") == -x, k.out == x + k.gain("other")]


def hard_sigmoid(k: Exponents) -> Equations:
    """clip((a/s) s x + b, 0, 1): the slope undoes x's exponent."""
    return [k.gain("slope") == -k["self"]]


def suppression(k: Exponents) -> Equations:
    """Ratios of areas do not see the scale of boxes; scores and their threshold share one."""
    return [k["scores"] == k["score_threshold"], *k.free(k["boxes"])]


def fill(k: Exponents) -> Equations:
    """A tensor made of one number, which may be any number; a prototype lends only its shape."""
    numbers = k.all("fill_value", "value", "s")
    return [*(k.out == number for number in numbers), *k.free(*k.tensors)]


def zeros(k: Exponents) -> Equations:
    """0 = s 0."""
    return k.free(k.out, *k.tensors)


def branches(k: Exponents) -> Equations:
    """Both branches give an output at its exponent; a graph that is not looked into is pinned."""
    if k.attributes.get("entries") is None:
        return []
    found = k.all_but("condition")
    return [y == x for y, x in zip(k.outs * 2, found, strict=True)]


def entering(k: Exponents) -> Equations:
    """A body sees states and sequences as they are given to it."""
    given, seen = k.all_but("trips", "condition"), k.outs
    return [y == x for y, x in zip(seen[len(seen) - len(given) :], given, strict=True)]


def leaving(k: Exponents) -> Equations:
    """Outputs are as the body gives them; a state, which it reads again, as it was before."""
    entries = k.attributes.get("entries")
    if entries is None:
        return []
    given = k.all_but("again")
    again = [k.value(name) == x for name, x in zip(entries, given, strict=False)]
    return [*(y == x for y, x in zip(k.outs, given, strict=True)), *again]


def invariant(k: Exponents) -> Equations:
    """f(s x) = f(x), for every s > 0; what is not a tensor, or comes out, stays as it is."""
    return k.free(*k.tensors)


def pinned(k: Exponents) -> Equations:
    """No law is known to hold: every exponent is 0."""
    del k
    return []


def saturating(k: Exponents) -> Equations:
    """f(s x) = f(x) only beyond 2^14, where f is constant: every exponent is 0."""
    return pinned(k)


def softmax(k: Exponents) -> Equations:
    """exp(s x) = exp(x)^s, a power and no factor: every exponent is 0."""
    return pinned(k)


def logarithm(k: Exponents) -> Equations:
    """log(s x) = log(s) + log(x), a sum and no factor: every exponent is 0."""
    return pinned(k)
