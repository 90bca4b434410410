"""The order in which GRPO meets its prompts."""

from __future__ import annotations

from collections.abc import Iterator

from trl.trainer.utils import RepeatSampler


class PromptSampler(RepeatSampler):  # type: ignore[misc]  # TRL has no types
    """TRL's order (tasks mixed, each prompt once a generation and row), with two differences.

    Rows that belong together stay together, and each epoch has an order of its own that only the
    seed and the epoch decide: a resumed run meets the prompts that an unbroken one would have met.

    Args:
        rows: how many rows the dataset has; those of a unit are neighbours.
        unit: rows that belong together, such as the two orders of a pair.
        prompts: different prompts in a generation batch, over all processes; a multiple of unit.
        generations: completions a prompt.
        repeats: how often a generation batch is gone through.
    """

    def __init__(
        self,
        rows: int,
        *,
        unit: int,
        prompts: int,
        generations: int,
        repeats: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        super().__init__(
            range(rows // unit),
            mini_repeat_count=1,
            batch_size=prompts // unit,
            repeat_count=repeats,
            shuffle=shuffle,
            seed=seed,
        )
        self.unit, self.generations = unit, generations
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader when an epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed + self.epoch)
        for number in super().__iter__():
            for row in range(number * self.unit, (number + 1) * self.unit):
                yield from [row] * self.generations

    def __len__(self) -> int:
        return int(super().__len__()) * self.unit * self.generations
