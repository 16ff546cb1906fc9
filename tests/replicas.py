"""Tiny networks that break in FP16 the way people reported. Each gives a model and samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Replica = Callable[[], tuple[nn.Module, list[Any]]]
REPLICAS: dict[str, Replica] = {}


def replica(make: Replica) -> Replica:
    REPLICAS[make.__name__] = make
    return make


class Net(nn.Module):
    """A module from submodules and a function of them."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self._forward = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(self, *args, **kwargs)


def scaled(module: nn.Module, factor: float) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)
    return module


def draws(*shape: int, n: int = 3, times: float = 1.0) -> list[tuple[Tensor, ...]]:
    return [(times * torch.randn(*shape),) for _ in range(n)]


class RMSNorm(nn.Module):
    """As in T5 and Llama: computed in FP32, cast back."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


class Block(nn.Module):
    """A residual block of a ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + x)


@replica
def panet_residual_sum():  # CASES 1
    blocks = nn.Sequential(Block(8), Block(8))
    for block in blocks:
        scaled(block.bn2, 1e5)
    return Net(
        lambda m, x: m.head(m.reduce(m.blocks(m.stem(x)))),
        stem=nn.Conv2d(3, 8, 3, padding=1),
        blocks=blocks,
        reduce=nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
        head=nn.Conv2d(4, 2, 1),
    ), draws(1, 3, 8, 8)


@replica
def t5_feed_forward_tied_head():  # CASES 2
    embedding = scaled(nn.Embedding(50, 16), 300.0)
    head = nn.Linear(16, 50, bias=False)
    head.weight = embedding.weight
    return Net(
        lambda m, ids: m.head(m.norm2((h := m.embedding(ids)) + m.wo(F.relu(m.wi(m.norm1(h)))))
                              * 16**-0.5),
        embedding=embedding, norm1=RMSNorm(16), norm2=RMSNorm(16),
        wi=nn.Linear(16, 32, bias=False), wo=scaled(nn.Linear(32, 16, bias=False), 1e6), head=head,
    ), [(torch.randint(0, 50, (2, 6)),) for _ in range(3)]  # fmt: skip


@replica
def gemma_gain_of_one_plus_w():  # CASES 3
    class Norm(nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.weight = nn.Parameter(gain * torch.rand(16))

        def forward(self, x: Tensor) -> Tensor:
            y = x.float()
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
            return (y * (1.0 + self.weight.float())).to(x.dtype)

    return Net(
        lambda m, ids: m.head(m.out((h := m.e(ids) * 16**0.5) + m.post(m.fc(m.pre(h))))),
        e=nn.Embedding(50, 16), pre=Norm(1.0), post=Norm(3e5), out=Norm(1.0),
        fc=nn.Linear(16, 16), head=nn.Linear(16, 50),
    ), [(torch.randint(0, 50, (2, 6)),) for _ in range(3)]  # fmt: skip


@replica
def llama_gate_times_up():  # CASES 5
    return Net(
        lambda m, x: x + m.down(F.silu(m.gate(x)) * m.up(x)),
        gate=scaled(nn.Linear(16, 32, bias=False), 30.0),
        up=scaled(nn.Linear(16, 32, bias=False), 1e5),
        down=scaled(nn.Linear(32, 16, bias=False), 1e-5),
    ), draws(4, 16)


@replica
def sdxl_vae_resblock():  # CASES 7
    return Net(
        lambda m, x: m.out(F.silu(m.n2((h := m.stem(x)) + m.c2(F.silu(m.n1(m.c1(h))))))),
        stem=scaled(nn.Conv2d(3, 8, 3, padding=1), 3e4), n1=nn.GroupNorm(2, 8),
        c1=nn.Conv2d(8, 8, 3, padding=1), c2=scaled(nn.Conv2d(8, 8, 3, padding=1), 3e5),
        n2=nn.GroupNorm(2, 8), out=nn.Conv2d(8, 3, 3, padding=1),
    ), draws(1, 3, 8, 8)  # fmt: skip


@replica
def dit_gated_residual():  # CASES 9
    def forward(m: Any, x: Tensor, t: Tensor) -> Tensor:
        shift, scale, gate = m.ada(F.silu(t)).chunk(3, dim=-1)
        h = m.norm(x) * (1 + scale) + shift
        return m.head(m.out(x + gate * m.mlp(h)))

    return Net(
        forward, ada=nn.Linear(8, 48), norm=nn.LayerNorm(16, elementwise_affine=False),
        mlp=nn.Sequential(nn.Linear(16, 32), nn.GELU(approximate="tanh"),
                          scaled(nn.Linear(32, 16), 1e6)),
        out=nn.LayerNorm(16), head=nn.Linear(16, 4),
    ), [(torch.randn(4, 16), torch.randn(4, 8)) for _ in range(3)]  # fmt: skip


@replica
def decomposed_layer_norm():  # CASES 10: x - mean squared is inf, x / inf is 0
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.fc(x)
        d = h - h.mean(-1, keepdim=True)
        return m.head(d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5) * m.gain + m.bias)

    return Net(
        forward, fc=scaled(nn.Linear(16, 16), 1000.0), head=nn.Linear(16, 4),
        gain=torch.rand(16), bias=torch.rand(16),
    ), draws(4, 16)  # fmt: skip


@replica
def decomposed_rms_norm_in_half():  # CASES 11, 12
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.fc(x)
        return m.head(h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))

    return Net(forward, fc=scaled(nn.Linear(16, 16), 2000.0), head=nn.Linear(16, 4)), draws(4, 16)


@replica
def l2_normalise_large():  # CASES 13
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.fc(x)
        return m.head(h / h.pow(2).sum(-1, keepdim=True).sqrt())

    return Net(forward, fc=scaled(nn.Linear(16, 16), 3000.0), head=nn.Linear(16, 4)), draws(4, 16)


@replica
def l2_normalise_small():  # CASES 13
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(F.normalize(m.fc(x), dim=-1))

    return Net(
        lambda m, x: forward(m, x), fc=scaled(nn.Linear(16, 16), 1e-5), head=nn.Linear(16, 4)
    ), draws(4, 16)


@replica
def query_times_key():  # CASES 16
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.q(x), m.k(x), m.v(x)
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(1e10)
        return m.o(scores.softmax(-1) @ v)

    big = {name: scaled(nn.Linear(16, 16), 300.0) for name in ("q", "k")}
    return Net(forward, **big, v=nn.Linear(16, 16), o=nn.Linear(16, 4)), draws(6, 16)


@replica
def additive_mask_of_finfo_min():  # CASES 17
    def forward(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        bias = (1.0 - mask.to(x.dtype)) * torch.finfo(x.dtype).min
        q, k, v = m.q(x), m.k(x), m.v(x)
        return m.o((q @ k.transpose(-1, -2) * 0.25 + bias[:, None, :]).softmax(-1) @ v)

    parts = {name: nn.Linear(16, 16) for name in "qkvo"}
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])
    return Net(forward, **parts), [(torch.randn(2, 6, 16), mask) for _ in range(3)]


@replica
def two_masks_added():  # CASES 18
    def forward(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        causal = torch.full((6, 6), torch.finfo(x.dtype).min).triu(1).to(x.dtype)
        padding = (1.0 - mask.to(x.dtype)) * -1e30
        q, k, v = m.q(x), m.k(x), m.v(x)
        scores = q @ k.transpose(-1, -2) * 0.25 + (causal + padding[:, None, :])
        return m.o(scores.softmax(-1) @ v)

    parts = {name: nn.Linear(16, 16) for name in "qkvo"}
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])
    return Net(forward, **parts), [(torch.randn(2, 6, 16), mask) for _ in range(3)]


@replica
def masked_fill_of_minus_1e9():  # CASES 19
    def forward(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = m.q(x), m.k(x), m.v(x)
        scores = (q @ k.transpose(-1, -2) * 0.25).masked_fill(mask[:, None, :] == 0, -1e9)
        return m.o(scores.softmax(-1) @ v)

    parts = {name: nn.Linear(16, 16) for name in "qkvo"}
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])
    return Net(forward, **parts), [(torch.randn(2, 6, 16), mask) for _ in range(3)]


@replica
def softplus_written_out():  # CASES 20
    return Net(
        lambda m, x: m.o(torch.log(1 + torch.exp(m.i(x)))),
        i=scaled(nn.Linear(16, 16), 10.0), o=nn.Linear(16, 4),
    ), draws(6, 16)  # fmt: skip


@replica
def tanh_gelu_written_out():  # CASES 21
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.i(x)
        return m.o(0.5 * h * (1 + torch.tanh(0.7978845608 * (h + 0.044715 * h.pow(3)))))

    return Net(forward, i=scaled(nn.Linear(16, 16), 500.0), o=nn.Linear(16, 4)), draws(6, 16)


@replica
def gelu_beyond_range():
    return Net(
        lambda m, x: m.o(F.gelu(m.i(x))),
        i=scaled(nn.Linear(16, 16), 2e5), o=nn.Linear(16, 4),
    ), draws(6, 16)  # fmt: skip


@replica
def silu_beyond_range():
    return Net(
        lambda m, x: m.o(F.silu(m.i(x))),
        i=scaled(nn.Linear(16, 16), 2e5), o=nn.Linear(16, 4),
    ), draws(6, 16)  # fmt: skip


@replica
def sigmoid_beyond_range():
    return Net(
        lambda m, x: m.o(torch.sigmoid(m.i(x)) + torch.tanh(m.j(x))),
        i=scaled(nn.Linear(16, 16), 2e5), j=scaled(nn.Linear(16, 16), 3e5), o=nn.Linear(16, 4),
    ), draws(6, 16)  # fmt: skip


@replica
def softmax_beyond_range():
    return Net(
        lambda m, x: m.o(m.i(x).softmax(-1)),
        i=scaled(nn.Linear(16, 16), 2e5), o=nn.Linear(16, 4),
    ), draws(6, 16)  # fmt: skip


@replica
def tiny_weights():  # CASES 29
    return Net(
        lambda m, x: m.b(F.relu(m.a(x))),
        a=scaled(nn.Linear(16, 16), 1e-7), b=scaled(nn.Linear(16, 4), 1e7),
    ), draws(6, 16)  # fmt: skip


@replica
def raw_sixteen_bit_image():  # CASES 28
    return Net(
        lambda m, x: m.head(F.relu(m.bn(m.conv(x)))),
        conv=nn.Conv2d(1, 4, 3), bn=nn.BatchNorm2d(4), head=scaled(nn.Conv2d(4, 2, 1), 1e-3),
    ), [(torch.randint(0, 65536, (1, 1, 8, 8)).float() * 1.5,) for _ in range(3)]  # fmt: skip


@replica
def output_beyond_range():  # CASES 30
    return Net(
        lambda m, x: m.o(F.relu(m.i(x))),
        i=nn.Linear(16, 16), o=scaled(nn.Linear(16, 4), 1e6),
    ), draws(6, 16)  # fmt: skip


@replica
def one_pass_variance():  # CASES 31
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.i(x)
        var = (h * h).mean(-1, keepdim=True) - h.mean(-1, keepdim=True) ** 2
        return m.o((h - h.mean(-1, keepdim=True)) / (var + 1e-5).sqrt())

    return Net(forward, i=scaled(nn.Linear(16, 16), 3000.0), o=nn.Linear(16, 4)), draws(6, 16)


@replica
def nms_class_offset():  # CASES 26
    def forward(m: Any, x: Tensor) -> Tensor:
        boxes = F.relu(m.box(x)) * 640
        return m.o((boxes + 91 * 4096.0) * 1e-4)

    return Net(forward, box=nn.Linear(16, 4), o=nn.Linear(4, 4)), draws(6, 16)


@replica
def std_of_large_values():
    return Net(
        lambda m, x: m.o((h := m.i(x)) / (h.std(-1, keepdim=True) + 1e-6)),
        i=scaled(nn.Linear(16, 16), 2e5), o=nn.Linear(16, 4),
    ), draws(6, 16)  # fmt: skip


@replica
def batch_norm_statistics_beyond_range():
    torch_bn = nn.BatchNorm2d(4)
    torch_bn.running_var.fill_(3e9)
    torch_bn.running_mean.normal_(0, 1e5)
    return Net(
        lambda m, x: m.head(F.relu(m.bn(m.conv(x)))),
        conv=scaled(nn.Conv2d(3, 4, 3), 1e5), bn=torch_bn, head=nn.Conv2d(4, 2, 1),
    ), draws(1, 3, 8, 8)  # fmt: skip


@replica
def clip_norm_floor_of_1e_12():  # CASES 22: zero rows
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.o(F.normalize(F.relu(x), dim=-1, eps=1e-12))

    zeros = [(torch.cat([torch.randn(3, 16), torch.zeros(1, 16)]),) for _ in range(3)]
    return Net(forward, o=nn.Linear(16, 4)), zeros


@replica
def hardtanh_on_large_stream():
    return Net(
        lambda m, x: m.o(F.hardtanh(m.i(x), -1e5, 2e5)),
        i=scaled(nn.Linear(16, 16), 4e5), o=nn.Linear(16, 4),
    ), draws(6, 16)  # fmt: skip


def build(name: str) -> tuple[nn.Module, list[Any]]:
    """A replica with fixed seeds, in eval mode."""
    torch.manual_seed(0)
    model, samples = REPLICAS[name]()
    return model.eval(), samples
