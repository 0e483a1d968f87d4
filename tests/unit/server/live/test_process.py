"""The worker's parts, in this process: every wiring on a text, memory, chat templates, what goes wrong."""

from __future__ import annotations

import pytest
import torch
from live_world import MODEL

from monoscope.core.errors import MismatchError, UserError
from monoscope.core.site import Site
from monoscope.dictionaries import Wiring
from monoscope.dictionaries.base import stacked
from monoscope.dictionaries.function import ActivationFunction
from monoscope.server.worker.encoded import Encoded, check_fits
from monoscope.server.worker.inbox import Called, Inbox, Task
from monoscope.server.worker.process import Loop
from monoscope.server.worker.protocol import Ask
from monoscope.server.worker.shelf import Model, Shelf, Target
from monoscope.server.worker.texts import Text, tokenized

TARGET = Target(name="x", path="/x", model=str(MODEL), model_name="bundled")
LAYERS = [f"{layer}.resid_post" for layer in range(3)]
MLPS = [f"{layer}.mlp_in" for layer in range(2)], [f"{layer}.mlp_out" for layer in range(2)]
WIRINGS = {
    "transcoder": ({"kind": "autoencoder", "n_features": 40, "skip": True}, ["1.mlp_in"], ["1.mlp_out"]),
    "crosscoder": ({"kind": "crosscoder", "n_features": 40}, LAYERS, LAYERS),
    "gates": ({"kind": "crosscoder", "n_features": 40, "gate": "per_site"}, LAYERS, LAYERS),
    "cross_layer": ({"kind": "cross_layer", "n_features": 20}, *MLPS),
    "molt": ({"kind": "molt", "n_features": 62}, ["1.mlp_in"], ["1.mlp_out"]),
}


@pytest.fixture(scope="module")
def model(lm):
    return Model("bundled", lm)


def made(model, name: str):
    wiring, *sites = WIRINGS[name]
    reads, writes = (tuple(map(Site.parse, part)) for part in sites)
    widths = {site: model.lm.width(site) for site in (*reads, *writes)}
    function = ActivationFunction.Config.from_dict({"kind": "topk", "k": 4})
    built = Wiring.from_dict(wiring).build(function, reads, writes, widths)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return built.frozen()


@pytest.mark.parametrize("name", WIRINGS)
def test_a_text_in_the_features_of_every_wiring(model, name):
    dictionary = made(model, name)
    tokens = tokenized(model, Text(text="for i in range(3):", most_tokens=99), None)
    sites = [*dictionary.reads, *dictionary.writes]
    item = Encoded(TARGET, dictionary, None, model.readings.read(tokens, sites), 1, None)
    seen = model.lm.read(tokens[None], sites)
    x = stacked(seen, dictionary.reads)
    acts = dictionary.encode(x)
    dense = acts.dense()[0].abs().amax(1) if name == "gates" else acts.dense()[0].abs()
    assert item.acts.values.shape[0] == len(tokens)
    values, features = item.strongest(3)
    torch.testing.assert_close(torch.from_numpy(abs(values)), dense.topk(3).values)
    whole = item.whole()
    strongest = dense[1:].amax(0)
    torch.testing.assert_close(
        torch.from_numpy(abs(whole["value"])), strongest[strongest > 0].sort(descending=True).values
    )
    target, recon = stacked(seen, dictionary.writes)[0], dictionary.decode(acts, x)[0]
    error = (target - recon).flatten(1).square().sum(1) / target.flatten(1).square().sum(1)
    torch.testing.assert_close(torch.from_numpy(item.error()), error, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(abs(item.of(int(features[2, 0])))), dense[:, int(features[2, 0])])


def test_a_dictionary_of_another_width_is_refused(model):
    function = ActivationFunction.Config.from_dict({"kind": "topk", "k": 4})
    site = Site.parse("1.resid_post")
    narrow = Wiring.from_dict({"kind": "autoencoder", "n_features": 40}).build(function, (site,), (site,), {site: 64})
    with pytest.raises(MismatchError, match="x expects 64 numbers at 1.resid_post, and bundled has 192"):
        check_fits(model, TARGET, narrow)


def test_the_least_recently_used_is_forgotten_first(shelf_path):
    targets = {
        name: Target(name=name, path=str(shelf_path / name / "dictionary"), model=str(MODEL), model_name="bundled")
        for name in ("topk", "jump")
    }
    roomy, tight = Shelf(1e9, "cpu"), Shelf(1.0, "cpu")
    for shelf in (roomy, tight):
        shelf.model(targets["topk"])
        first = shelf.dictionary(targets["topk"])
        assert shelf.dictionary(targets["topk"]) is first
        shelf.dictionary(targets["jump"])
    assert [item["kind"] for item in roomy.held()] == ["model", "dictionary", "dictionary"]
    assert [item["name"] for item in tight.held()] == [targets["topk"].path, targets["jump"].path]
    assert roomy.held()[0]["bytes"] > 1e6
    other = targets["jump"].model_copy(update={"model": "/elsewhere"})
    with pytest.raises(MismatchError, match="of 2 models"):
        roomy.only_model([targets["topk"], other])


def test_messages_go_through_the_chat_template(lm):
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    model = Model("chatty", lm)
    said = Text(messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], most_tokens=99)
    try:
        lm.tokenizer.chat_template = template
        ids = tokenized(model, said, None)
        assert lm.tokenizer.decode(ids.tolist()) == "<user>hi\n<assistant>ho\n"
        lm.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
        with pytest.raises(
            UserError, match=r"the chat template of chatty refuses these messages: roles must alternate"
        ):
            tokenized(model, said, None)
    finally:
        lm.tokenizer.chat_template = None


def test_texts_begin_as_in_training(model):
    text = Text(text="a b", most_tokens=99)
    assert tokenized(model, text, "window")[0] == model.lm.bos_token_id
    assert tokenized(model, text, "none").tolist() == tokenized(model, text, "document").tolist()[1:]
    with pytest.raises(UserError, match="the server takes at most 2"):
        tokenized(model, Text(text="a b c d", most_tokens=2), None)


class Told(Inbox):
    """An inbox without a connection, which notes what is told."""

    def __init__(self) -> None:
        self.told: list[tuple] = []
        self.off: set[int] = set()
        self.waiting: list[Task] = []

    def tell(self, told, arrays=None) -> None:
        if told.kind != "state":
            self.told.append((told.id, told.kind, told.name, told.body))

    def check(self, task) -> None:
        if task.ask.id in self.off:
            raise Called("cancelled")

    def urgent(self):
        return self.waiting.pop() if self.waiting else None

    def forget(self, task) -> None: ...


def task(id: int, name: str, *, background: bool = False) -> Task:
    return Task(Ask(id=id, task=name, body={}, background=background), None)


def test_whatever_a_task_raises_ends_it_alone(shelf_path):
    def failing(error):
        def job(context, body):
            raise error

        return job

    shelf = Shelf(1e9, "cpu")
    shelf.dictionary(Target(name="t", path=str(shelf_path / "topk" / "dictionary"), model="", model_name=""))
    inbox = Told()
    jobs = {
        "user": failing(UserError("no such thing")),
        "memory": failing(MemoryError("out")),
        "gpu": failing(torch.OutOfMemoryError("CUDA out of memory")),
        "bug": failing(RuntimeError("secret path")),
    }
    loop = Loop(inbox, shelf, jobs)
    for id, name in enumerate(jobs):
        loop.run(task(id, name))
    ends = [(id, name, body["detail"]) for id, kind, name, body in inbox.told if kind == "failed"]
    assert ends[0] == (0, "UserError", "no such thing")
    assert ends[1] == (1, "memory", "not enough memory while memory: out")
    assert ends[2][1] == "memory"
    assert ends[3] == (3, "internal", "RuntimeError while bug; the server's log has more")
    assert shelf.held() == [], "what it held is given up for the next one"


def test_long_tasks_let_others_pass_and_can_be_called_off():
    from monoscope.core.progress import progress

    order = []
    inbox = Told()

    def long(context, body):
        with progress("work", 4, "steps") as bar:
            for step in range(4):
                order.append(step)
                if step == 1:
                    inbox.waiting.append(task(2, "short"))
                if step == 2:
                    inbox.off.add(1)
                bar.advance(1)
        return {}, {}

    def short(context, body):
        order.append("short")
        return {"x": 1}, {}

    loop = Loop(inbox, Shelf(1e9, "cpu"), {"long": long, "short": short})
    loop.run(task(1, "long", background=True))
    assert order == [0, 1, "short", 2]
    kinds = [(id, kind) for id, kind, _, _ in inbox.told if kind != "event"]
    assert kinds == [(1, "started"), (2, "started"), (2, "done"), (1, "failed")]
    assert any(name == "progress" and body["total"] == 4 for _, _, name, body in inbox.told)
