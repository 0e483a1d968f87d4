"""``monoscope harvest``: activations of a language model, on disk."""

from __future__ import annotations

from typing import Any

from monoscope.cli.session import ConfigFile, Force, Json, Out, Overrides, session, show


def harvest(
    config: ConfigFile, out: Out, overrides: Overrides = None, force: Force = False, as_json: Json = False
) -> None:
    """Read activations of a language model and store them; called again, an interrupted harvest goes on.

    Under torchrun each process stores a part of the text, and the first joins them.
    """
    with session(as_json=as_json):
        from monoscope.cli import memory
        from monoscope.cli.configs import HarvestConfig
        from monoscope.core.io import refuse_existing, write_text
        from monoscope.core.progress import silent
        from monoscope.core.ranks import rank_and_ranks
        from monoscope.harvest import harvest as write
        from monoscope.harvest import harvest_part, shuffle

        settings = HarvestConfig.load(config, overrides or ())
        rank, ranks = rank_and_ranks()
        refuse_existing(out, force=force)
        lms = settings.language_models()
        sites = settings.placed(settings.sites)
        for site in sites:
            lms[site.model].resolve(site.of(""))
        windows = settings.mixed(lms, settings.seed)
        source = settings.source(lms, windows, sites)
        if windows.by_sequence:  # a store holds rows of one length, and these have many
            source = shuffle(source, seed=settings.seed)
        if rank == 0:
            memory.check(settings, lambda s: memory.of_harvest(s, lms, source), memory.HARVEST, as_json=as_json)
        how: dict[str, Any] = {"dtype": settings.store_dtype, "shard_tokens": settings.shard_tokens, "force": force}
        with settings.sharing(lms.get(""), sites):
            if rank > 0:
                with silent():
                    harvest_part(source, out, rank, ranks, **how)
                return
            store = write(source, out, ranks=ranks, **how)
        write_text(out / "harvest.toml", settings.to_toml())
        size = sum(shard.bytes for shard in store.shards)
        widths = {str(site): width for site, width in store.widths.items()}
        counted = {"tokens": store.n_tokens, "excluded": store.info["excluded"], "widths": widths}
        show({"store": str(out), **counted, "shards": len(store.shards), "bytes": size}, as_json=as_json)
