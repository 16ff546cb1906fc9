import numpy as np


def load_data() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [{"x": generator.normal(size=(4, 2)).astype(np.float32)} for _ in range(3)]
