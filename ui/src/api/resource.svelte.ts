// A value that is fetched again whenever what it depends on changes. While it loads, the last one stays, so that
// nothing jumps; what is no longer wanted is aborted.

import { isAbort, Problem } from './client';
import { history } from './history.svelte';

export class Resource<T> {
  data: T | undefined = $state.raw(undefined);
  error: Problem | null = $state.raw(null);
  loading = $state(true);
  #again = $state(0);

  /** Fetch now, whatever changed. */
  reload(): void {
    this.#again += 1;
  }

  /** Called by `resource`; reading the counter makes `reload` run its effect again. */
  track(): number {
    return this.#again;
  }
}

/**
 * Call while a component initializes. `load` is run in an effect: the state it reads before its first await is what it
 * depends on. Returning undefined means there is nothing to fetch.
 */
export function resource<T>(load: (signal: AbortSignal) => Promise<T> | T | undefined): Resource<T> {
  const held = new Resource<T>();
  $effect(() => {
    held.track();
    void history.version;
    const abort = new AbortController();
    const started = load(abort.signal);
    if (!(started instanceof Promise)) {
      held.data = started;
      held.error = null;
      held.loading = false;
      return;
    }
    held.loading = true;
    started.then(
      (value) => {
        if (abort.signal.aborted) return;
        held.data = value;
        held.error = null;
        held.loading = false;
      },
      (error: unknown) => {
        if (abort.signal.aborted || isAbort(error)) return;
        held.error = error instanceof Problem ? error : new Problem(-1, { title: 'Something is wrong', detail: String(error) });
        held.loading = false;
      },
    );
    return () => abort.abort();
  });
  return held;
}
