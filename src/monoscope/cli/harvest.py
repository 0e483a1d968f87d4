"""``monoscope harvest``: activations of a language model, on disk."""

from __future__ import annotations

from monoscope.cli.session import ConfigFile, Force, Json, Out, Overrides, session, show


def harvest(
    config: ConfigFile, out: Out, overrides: Overrides = None, force: Force = False, as_json: Json = False
) -> None:
    """Read activations of a language model and store them; called again, an interrupted harvest goes on."""
    with session(as_json=as_json):
        from monoscope.cli.configs import HarvestConfig
        from monoscope.core.io import refuse_existing, write_text
        from monoscope.harvest import harvest as write
        from monoscope.harvest import shuffle

        settings = HarvestConfig.load(config, overrides or ())
        refuse_existing(out, force=force)
        lms = settings.language_models()
        sites = settings.placed(settings.sites)
        for site in sites:
            lms[site.model].resolve(site.of(""))
        windows = settings.mixed(lms, settings.seed)
        source = settings.source(lms, windows, sites)
        if windows.by_sequence:  # a store holds rows of one length, and these have many
            source = shuffle(source, seed=settings.seed)
        store = write(source, out, dtype=settings.store_dtype, shard_tokens=settings.shard_tokens, force=force)
        write_text(out / "harvest.toml", settings.to_toml())
        size = sum(shard.bytes for shard in store.shards)
        widths = {str(site): width for site, width in store.widths.items()}
        counted = {"tokens": store.n_tokens, "excluded": store.info["excluded"], "widths": widths}
        show({"store": str(out), **counted, "shards": len(store.shards), "bytes": size}, as_json=as_json)
