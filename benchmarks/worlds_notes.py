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

AFTER = """
## Where it differs, and why

**Matching pursuit detects better than expected where there is room for every feature.** The literature's worst F1
is that of dictionaries with a quarter of the planted features. *W1, a quarter* has it: F1 0.67 where BatchTopK has
0.87, and the least unique features. It reconstructs better than TopK there, but not better than methods that may
spend more on one token than on another. With room for all (W1, W3) no feature is left over for residuals, and
searching among directions that are nearly right finds the support better than any linear encoder does; the
ceilings, 1.00 against 0.79, say by how much. The price appears elsewhere: on W3 it absorbs six times as much as
BatchTopK and leaks most of the methods with hard selection, and under noise (W6) it reconstructs best and has a
lower F1, one to one, than TopK. With five times the tokens (W1, one seed, not in the tables) its F1 stays at 0.77
while BatchTopK and TopK reach 0.84 and 0.83: there it is the worst of the three.

**TopK is ahead of BatchTopK with F = n.** In runs this short 5 to 12 % of BatchTopK's features stay silent, of
TopK's at most 5 %; that common features take the share of rare ones in a batch would explain it, and was not
tested. With five times the tokens (W1, one seed) BatchTopK has the better EV (0.89 against 0.87), F1 is equal
(0.84, 0.83), and MCC still lower (0.95, 0.99). Where there are more planted features than the dictionary can hold
(*W1, a quarter*, W5), the order is the usual one: BatchTopK wins F1 and EV by far.

**Twice the width is not enough for codes of one sign in a run this short.** Each half of a signed feature fires
half as often, and 9 % of 1,024 features are silent; MCC is 0.77, between 0.65 at n and 0.82 for signed codes.
AbsTopK itself is held back by the quarter of its features that stays silent, on W1 too.

**Matryoshka's gain in a hierarchy is in absorption, which it ends, and leak, which it more than halves;** what it
gains in MCC and F1 is within what seeds differ by. Without a hierarchy it costs MCC, F1 and EV on W1 and EV on W2,
and nothing that can be claimed where the dictionary is narrow.

**Gated and tanh-penalized JumpReLU** have a quarter to two fifths of their features silent: neither has a term that
revives them here. JumpReLU with a target L0, which AuxK does revive, is even with BatchTopK on W1 and ahead of it
on W3.

**ITDA** fills its 512 rows with the first 512 tokens it cannot explain, each a mixture of about six planted
features; it costs no training, and recovers next to nothing. **Variational** dictionaries are hardly above the
floor, as their authors find; its noise is the default one and was not tuned here. **GroupMax** finds directions
nearly as well as BatchTopK, and detects much worse, since features of one group cannot fire together.

Revival other than by AuxK, and penalties whose p falls, were compared apart: see [decision
8](../decisions/0008-auxk-alone-revives-and-p-stays-fixed.md).

What these tables cannot say: how methods compare in runs of millions of tokens, at other L0 than one, and at equal
time rather than equal tokens.
"""
