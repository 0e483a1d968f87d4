// What people add to features. Every change names the state it is of, and throws a Problem that carries the row as it
// stands when another came first.

import { api } from './client';
import { forget } from './features';
import { history, restore, stateOf, wrote, type Change } from './history.svelte';
import type { Explanation, Label } from './types';

/** Save a label: over the row that was read, or as a new one. */
export async function saveLabel(dict: string, feature: number, text: string, over: Label | null): Promise<void> {
  const row = wrote(over ? await api.put<Label>(`labels/${over.id}`, { text }, over.etag) : await api.post<Label>('labels', { dict, feature, text }));
  changed(dict, feature, `the label of feature ${feature}`, async () =>
    over ? wrote(await api.put<Label>(`labels/${row.id}`, { text: over.text }, stateOf(row))) : api.delete(`labels/${row.id}`, stateOf(row)),
  );
}

/** Let an explanation be the label, in place of the one this person has given. */
export async function adoptExplanation(dict: string, feature: number, explanation: Explanation, over: Label | null): Promise<void> {
  if (over) await api.delete(`labels/${over.id}`, over.etag);
  const row = wrote(await api.post<Label>('labels', { dict, feature, text: explanation.text.slice(0, 2000), explanation_id: explanation.id }));
  changed(dict, feature, `the label of feature ${feature}`, async () => {
    await api.delete(`labels/${row.id}`, stateOf(row));
    if (over) await restore('labels', over.id);
  });
}

export async function removeLabel(dict: string, feature: number, label: Label): Promise<void> {
  await api.delete(`labels/${label.id}`, label.etag);
  changed(dict, feature, `removing the label of feature ${feature}`, () => restore('labels', label.id));
}

export async function addExplanation(dict: string, feature: number, text: string): Promise<void> {
  const row = await api.post<Explanation>('explanations', { dict, feature, text });
  changed(dict, feature, `an explanation of feature ${feature}`, () => api.delete(`explanations/${row.id}`, row.etag));
}

export async function removeExplanation(dict: string, feature: number, explanation: Explanation): Promise<void> {
  await api.delete(`explanations/${explanation.id}`, explanation.etag);
  changed(dict, feature, `removing an explanation of feature ${feature}`, () => restore('explanations', explanation.id));
}

export async function setBookmark(dict: string, feature: number, on: boolean): Promise<void> {
  await bookmark(dict, feature, on);
  changed(dict, feature, `the bookmark of feature ${feature}`, () => bookmark(dict, feature, !on));
}

export async function addTag(dict: string, feature: number, tag: string): Promise<void> {
  await tagged(dict, feature, tag, true);
  changed(dict, feature, `the tag “${tag}”`, () => tagged(dict, feature, tag, false));
}

export async function removeTag(dict: string, feature: number, tag: string): Promise<Change> {
  await tagged(dict, feature, tag, false);
  return changed(dict, feature, `removing the tag “${tag}”`, () => tagged(dict, feature, tag, true));
}

function bookmark(dict: string, feature: number, on: boolean): Promise<unknown> {
  return on ? api.post('bookmarks', { dict, feature }) : api.delete('bookmarks', null, { dict, feature });
}

function tagged(dict: string, feature: number, tag: string, on: boolean): Promise<unknown> {
  return on ? api.post('feature-tags', { dict, feature, tag }) : api.delete('feature-tags', null, { dict, feature, tag });
}

/** A feature has changed: what was read of it is out of date, and it can be taken back. */
function changed(dict: string, feature: number, what: string, back: () => Promise<unknown>): Change {
  forget(dict, feature);
  return history.did(what, async () => {
    await back();
    forget(dict, feature);
  });
}
