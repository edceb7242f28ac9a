"""The learning rate over training: linear warm-up, then half a cosine (SimCLR, section 2.2 and appendix B.6)."""

import math

from simclr_lib.engine.checks import require


def warmup_cosine(step: int, total_steps: int, warmup_steps: int = 0) -> float:
    """The factor in [0, 1] on the learning rate at `step` (from 0), of `total_steps`, all counted in optimizer steps.

    While warming up it is (step + 1) / warmup_steps, so that the first step already moves; then it falls from 1
    along half a cosine towards 0, which it would reach at `total_steps`.

    Raises:
        ValueError: if `step` is outside [0, total_steps] or `warmup_steps` outside [0, total_steps).
    """
    require(0 <= warmup_steps < total_steps, "warmup_steps", f"0 or more, below the {total_steps} in all", warmup_steps)
    require(0 <= step <= total_steps, "step", f"0 to {total_steps}", step)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))
