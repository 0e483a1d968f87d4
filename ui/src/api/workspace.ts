// What people add to features. Every change names the state it is of, and throws a Problem that carries the row as it
// stands when another came first.

import { api } from './client';
import { forget } from './features';
import { history, restore, stateOf, wrote, type Change } from './history.svelte';
import type { Explanation, Label } from './types';

const label = {
  write: async (row: Label, text: string) => wrote(await api.put<Label>(`labels/${row.id}`, { text }, stateOf(row))),
  remove: (row: Label) => api.delete(`labels/${row.id}`, stateOf(row)),
};

/** Save a label: over the row that was read, or as a new one. */
export async function saveLabel(dict: string, feature: number, text: string, over: Label | null): Promise<void> {
  const row = wrote(over ? await api.put<Label>(`labels/${over.id}`, { text }, over.etag) : await api.post<Label>('labels', { dict, feature, text }));
  const [back, again] = over
    ? [() => label.write(row, over.text), () => label.write(row, text)]
    : [() => label.remove(row), () => restore('labels', row)];
  changed(dict, feature, `the label of feature ${feature}`, back, again);
}

/** Let an explanation be the label, in place of the one this person has given. */
export async function adoptExplanation(dict: string, feature: number, explanation: Explanation, over: Label | null): Promise<void> {
  if (over) await api.delete(`labels/${over.id}`, over.etag);
  const made = api.post<Label>('labels', { dict, feature, text: explanation.text.slice(0, 2000), explanation_id: explanation.id });
  const row = await made.then(wrote, async (error: unknown) => {
    if (over) await restore('labels', over);
    throw error;
  });
  const swap = async (gone: Label | null, back: Label | null): Promise<void> => {
    if (gone) await label.remove(gone);
    if (back) await restore('labels', back);
  };
  changed(dict, feature, `the label of feature ${feature}`, () => swap(row, over), () => swap(over, row));
}

export async function removeLabel(dict: string, feature: number, row: Label): Promise<void> {
  await api.delete(`labels/${row.id}`, row.etag);
  changed(dict, feature, `removing the label of feature ${feature}`, () => restore('labels', row), () => label.remove(row));
}

export async function addExplanation(dict: string, feature: number, text: string): Promise<void> {
  const row = await api.post<Explanation>('explanations', { dict, feature, text });
  changed(dict, feature, `an explanation of feature ${feature}`, () => api.delete(`explanations/${row.id}`, stateOf(row)), () => restore('explanations', row));
}

export async function editExplanation(dict: string, feature: number, over: Explanation, text: string): Promise<void> {
  const write = async (etag: string, words: string): Promise<Explanation> => wrote(await api.put<Explanation>(`explanations/${over.id}`, { text: words }, etag));
  const row = await write(over.etag, text);
  changed(dict, feature, `an explanation of feature ${feature}`, () => write(stateOf(row), over.text), () => write(stateOf(row), text));
}

export async function removeExplanation(dict: string, feature: number, row: Explanation): Promise<void> {
  await api.delete(`explanations/${row.id}`, row.etag);
  changed(dict, feature, `removing an explanation of feature ${feature}`, () => restore('explanations', row), () => api.delete(`explanations/${row.id}`, stateOf(row)));
}

export async function setBookmark(dict: string, feature: number, on: boolean): Promise<void> {
  const set = (on: boolean): Promise<unknown> => (on ? api.post('bookmarks', { dict, feature }) : api.delete('bookmarks', null, { dict, feature }));
  await set(on);
  changed(dict, feature, `the bookmark of feature ${feature}`, () => set(!on), () => set(on));
}

export async function setTag(dict: string, feature: number, tag: string, on: boolean): Promise<Change> {
  const set = (on: boolean): Promise<unknown> => (on ? api.post('feature-tags', { dict, feature, tag }) : api.delete('feature-tags', null, { dict, feature, tag }));
  await set(on);
  return changed(dict, feature, `${on ? '' : 'removing '}the tag “${tag}”`, () => set(!on), () => set(on));
}

/** A feature has changed: what was read of it is out of date, and it can be taken back. */
function changed(dict: string, feature: number, what: string, back: Change['back'], again: Change['again']): Change {
  const anew = (step: () => Promise<unknown>) => () => step().finally(() => forget(dict, feature));
  forget(dict, feature);
  return history.did(what, anew(back), anew(again));
}
