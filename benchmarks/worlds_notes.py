"""What ``docs/reference/worlds.md`` says beside its tables."""

from __future__ import annotations

BEFORE = """
# Worlds

How well each way of training a dictionary finds what was planted. Every activation here is a sparse sum of known
directions, so recovery is measured, not judged. `make bench-worlds` measures this page anew; numbers by seed are in
[bench_worlds.json](../../benchmarks/results/bench_worlds.json).

Every dictionary is trained on {tokens:,} tokens in batches of {batch_tokens:,} (Adam, rate {lr:g} unless its row in
[methods.py](../../src/monoscope/evals/worlds/methods.py) says otherwise) and scored on {held_out:,} fresh ones.
Values are means over {seeds} seeds of structure, draws and start, the same for every method, ± their standard
deviation. Methods are compared at one measured L0 (within 2 %); \\* marks scores interpolated between two runs
whose L0 bracket it, † rows that missed it.

*Ceilings* know the planted directions: with each token's true support and least squares; by orthogonal matching
pursuit to each token's true L0; by a linear encoder with one threshold. *Floors* know nothing: a trained
autoencoder whose decoder stays random, and random directions with a linear encoder. MCC and F1 say how well
features and planted features correspond as directions and as detectors; "one to one" and MCC use the best
assignment, F1 the nearest planted feature. "Adjusted" puts the random floor at 0.

The last column says what may be claimed against BatchTopK on the three primary metrics (MCC, F1 one to one, EV): a
difference beyond twice its standard error, beyond 0.02, of one sign in four seeds of five, with a bootstrap
interval that excludes 0, after Holm's correction. "Even" is a result.
"""

EXPECTED: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("Matryoshka absorbs less in a hierarchy", "W3", "absorption", "Matryoshka BatchTopK", "<", "BatchTopK"),
    ("its children hold less of their parents", "W3", "leak", "Matryoshka BatchTopK", "<", "BatchTopK"),
    ("it recovers more of the hierarchy", "W3", "mcc", "Matryoshka BatchTopK", ">", "BatchTopK"),
    ("matching pursuit reconstructs best", "W1", "ev", "Matching pursuit", ">", "TopK"),
    ("and detects worst", "W1", "f1_hungarian", "Matching pursuit", "<", "BatchTopK"),
    ("with too few features, too", "W1, a quarter", "f1_hungarian", "Matching pursuit", "<", "BatchTopK"),
    ("noise costs it more F1 than others", "W6", "f1_hungarian", "Matching pursuit", "<", "TopK"),
    ("signed codes recover signed worlds at width n", "W4", "mcc", "AbsTopK", ">", "TopK"),
    ("for which codes of one sign need 2n", "W4", "mcc", "AbsTopK", "~", "BatchTopK, twice as wide"),
    ("they do not win where nothing is signed", "W1", "mcc", "AbsTopK", "<", "TopK"),
    ("JumpReLU and BatchTopK are close", "W1", "mcc", "JumpReLU, target L0", "~", "BatchTopK"),
    ("also in a hierarchy", "W3", "mcc", "JumpReLU, target L0", "~", "BatchTopK"),
    ("L1 recovers less than TopK", "W1", "mcc", "ReLU + L1", "<", "TopK"),
)
"""What is expected, the world and metric that show it, a method, how it compares, and with which other one."""

AFTER = ""
