// Before the first text of a dictionary its model is loaded, which may take longer than a text is waited for.

import { untrack } from 'svelte';
import { api } from './client';
import { shelf } from './library.svelte';

const loaded = new Set<string>();

/** Wait until the worker holds some dictionaries and their model. */
export async function warm(dicts: readonly string[], signal?: AbortSignal): Promise<void> {
  const state = untrack(() => shelf.meta?.worker.state);
  if (state === 'cold' || state === 'crashed') loaded.clear();
  if (dicts.every((dict) => loaded.has(dict))) return;
  setTimeout(() => void shelf.loadMeta(), 100);
  await api.post('worker/warm', { dicts }, signal);
  for (const dict of dicts) loaded.add(dict);
}

/** A request that runs a text through some dictionaries. */
export async function live<T>(path: string, body: unknown, dicts: readonly string[], signal: AbortSignal): Promise<T> {
  await warm(dicts, signal);
  return api.post<T>(path, body, signal);
}
