"""Trains the detector on rendered text: ``python -m examples.panet.train``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from examples.panet.model import PAN, WEIGHTS
from examples.panet.text import Sample, all_fonts, normalise, render

SIZE = 224
"""Side of the training pictures in pixels."""

NEGATIVES = 3
"""Hard negatives kept per positive cell (OHEM, as in the paper)."""

HELD_OUT = 1_000_000
"""Seeds from here on are never trained on."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def batch(samples: list[Sample]) -> Batch:
    """Images [N, 3, H, W], region and kernel [N, H/4, W/4] in 0..1, labels [N, H/4, W/4]."""
    images = torch.cat([normalise(s.image) for s in samples])
    region, kernel = (
        torch.from_numpy(np.stack(maps)).float()
        for maps in ([s.region for s in samples], [s.kernel for s in samples])
    )
    return images, region, kernel, torch.from_numpy(np.stack([s.labels for s in samples]))


def dice(score: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """1 - dice coefficient over the cells of a mask; all [N, H, W], score after the sigmoid."""
    score, truth = score * mask, truth * mask
    overlap = (score * truth).sum((1, 2))
    total = (score**2).sum((1, 2)) + (truth**2).sum((1, 2))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def hard_mask(score: Tensor, truth: Tensor) -> Tensor:
    """All positive cells, and the highest-scoring negatives, NEGATIVES for each positive."""
    masks = []
    for s, t in zip(score.detach(), truth, strict=True):
        positive = t > 0.5
        wanted = min(int((~positive).sum()), max(NEGATIVES * int(positive.sum()), 100))
        threshold = s[~positive].topk(wanted).values[-1]
        masks.append(positive | (s >= threshold))
    return torch.stack(masks).float()


def similarity_loss(vectors: Tensor, kernel: Tensor, labels: Tensor) -> Tensor:
    """PAN's aggregation and discrimination losses (equations 1 to 4 of the paper).

    `vectors` is [N, 4, H, W]. Pixels of a word come within 0.5 of its kernel's mean vector, and
    the kernels of different words get at least 3 apart.
    """
    losses = []
    for v, k, word in zip(vectors, kernel, labels, strict=True):
        ids = [i for i in word.unique().tolist() if i and bool((k[word == i] > 0.5).any())]
        if not ids:
            continue
        means = torch.stack([v[:, (word == i) & (k > 0.5)].mean(1) for i in ids])
        for mean, i in zip(means, ids, strict=True):
            away = (v[:, word == i] - mean[:, None]).norm(dim=0)
            losses.append(torch.log1p(F.relu(away - 0.5) ** 2).mean() / len(ids))
        if len(ids) > 1:
            apart = torch.pdist(means)
            losses.append(torch.log1p(F.relu(3.0 - apart) ** 2).mean())
    return torch.stack(losses).sum() / len(vectors) if losses else vectors.sum() * 0


def loss(logits: Tensor, truth: Batch) -> Tensor:
    """Dice on region and kernel, cross-entropy to start from, 0.25 times the similarity losses."""
    _, region, kernel, labels = truth
    score = logits[:, :2].sigmoid()
    on_region = dice(score[:, 0], region, hard_mask(score[:, 0], region))
    on_kernel = dice(score[:, 1], kernel, hard_mask(score[:, 1], kernel))
    entropy = F.binary_cross_entropy_with_logits(logits[:, :2], torch.stack((region, kernel), 1))
    similar = similarity_loss(logits[:, 2:], kernel, labels)
    return on_region + 0.5 * on_kernel + 0.5 * entropy + 0.25 * similar


@torch.no_grad()
def region_iou(model: PAN, samples: list[Sample]) -> float:
    """Intersection over union of the text region, over all cells of all samples."""
    model.eval()
    hits = union = 0
    for sample in samples:
        found = model(normalise(sample.image))[0, 0].numpy() > 0
        hits += int((found & sample.region).sum())
        union += int((found | sample.region).sum())
    return hits / union


def train(steps: int, size: int, out: Path) -> PAN:
    """Trains from a fixed seed, writing the weights every 250 steps."""
    torch.manual_seed(0)
    model = PAN()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    fonts = all_fonts()
    held_out = [render(HELD_OUT + i, SIZE, SIZE, fonts) for i in range(32)]
    for step in range(steps):
        model.train()
        truth = batch([render(step * size + i, SIZE, SIZE, fonts) for i in range(size)])
        value = loss(model(truth[0]), truth)
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            iou = region_iou(model, held_out)
            print(f"step {step + 1}: loss {value.item():.3f}, held-out IoU {iou:.3f}", flush=True)
            save_file(model.state_dict(), out)
    return model.eval()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    train(arguments.steps, arguments.batch, arguments.out)


if __name__ == "__main__":
    main()
