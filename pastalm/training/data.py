"""Training data as the Trainer reads it: examples in rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pastalm.data.examples import AnnotatedAnswer, Example, encode_answers, pack, read_annotated
from pastalm.files.lines import DataError
from pastalm.lang.positions import DEFAULT, PositionPolicy, position_policy
from pastalm.lang.vocabulary import Vocabulary
from pastalm.progress import track
from pastalm.training.config import SftConfig
from pastalm.training.processes import leads, processes


class PackedRows(Dataset):
    """Rows of examples, each row as many as fit into its length, or one alone where ``packed`` is off; ``dropped``
    counts those that are too long for one."""

    def __init__(self, examples: list[Example], row: int, seed: int, *, packed: bool = True) -> None:
        self.examples, self.dropped = examples, 0
        lengths = [len(example) for example in examples]
        if packed:
            self.rows = pack(lengths, row, seed, self._drop)
        else:
            self.rows = [[index] for index, length in enumerate(lengths) if length <= row]
            self.dropped = len(examples) - len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Example]:
        return [self.examples[k] for k in self.rows[index]]

    def fill(self, multiple: int) -> None:
        """Add empty rows up to a multiple of the rows in a step, so that every step of an epoch is whole: without them,
        several processes would repeat rows in the last step, and differ from one process."""
        self.rows += [[] for _ in range(-len(self.rows) % multiple)]

    def _drop(self, index: int) -> None:
        self.dropped += 1


def read_data(config: SftConfig) -> list[AnnotatedAnswer]:
    """Read the training data; needs no model. Raises ``DataError`` for data that cannot be read, or ``OSError``."""
    answers = list(read_annotated(config.data, plain=config.plain == 1))
    if not answers:
        raise DataError(f"{config.data} is empty: it needs one JSON object a line.")
    return answers


def load_rows(
    config: SftConfig,
    vocabulary: Vocabulary,
    answers: Sequence[AnnotatedAnswer] | None = None,
    window: int | None = None,
) -> PackedRows:
    """Encode and pack the training data, ``answers`` if they are read already. Examples that go beyond the model's
    ``window`` are left out. Raises ``DataError`` if nothing usable is in it."""
    answers = read_data(config) if answers is None else answers
    policy = position_policy(config.positions or DEFAULT)
    encoded = encode_answers(
        answers, vocabulary, policy, plain=config.plain, seed=config.seed, in_views=config.views == "server"
    )
    examples = list(track(encoded, "Encoding", len(answers), unit="examples", patience=1.0, enabled=leads()))
    if window is not None:
        examples = _within(window, examples, policy, config)
    rows = PackedRows(examples, config.row, config.seed, packed=config.pack)
    if not len(rows):
        raise DataError(f"{config.data}: no example fits into a row of {config.row} tokens; raise --row.")
    if rows.dropped and leads():
        print(f"{rows.dropped} of {len(examples)} examples are longer than a row of {config.row} tokens and left out.")
    rows.fill(config.batch_size * config.accumulate * processes())
    return rows


def _within(window: int, examples: list[Example], policy: PositionPolicy, config: SftConfig) -> list[Example]:
    """The examples whose positions the model has, and so can be decoded; says how many others there are."""
    kept = [example for example in examples if example.last_position(policy) < window]
    beyond = f"beyond the model's window of {window} positions, counted as --positions {policy.name} does"
    if not kept:
        raise DataError(f"{config.data}: every example reaches {beyond}; take shorter examples, or another --model.")
    if len(kept) < len(examples) and leads():
        print(f"{len(examples) - len(kept)} of {len(examples)} examples reach {beyond}, and are left out.")
    return kept


def tag_targets(tokens_BT: Tensor, targets_BT: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Bool [B, T]: whether the target of a position belongs to a tag, its topic and its length included, and is no
    text. A promise is written in one piece, so what a token inside of it predicts is inside of it too."""
    tags = torch.tensor(sorted(vocabulary.tags), device=targets_BT.device)
    opened, closed = tokens_BT == vocabulary.promise_topic, tokens_BT == vocabulary.promise_end
    inside = opened.cumsum(1) > closed.cumsum(1)
    return inside | torch.isin(targets_BT, tags)
