// What people add to features. Every change names the state it is of, and throws a Problem that carries the row as it
// stands when another came first.

import { api } from './client';
import { forget } from './features';
import type { Explanation, FeatureList, Label, ListItem, Note } from './types';

interface Items<T> {
  items: T[];
}

/** Save a label: over the row that was read, or as a new one. */
export async function saveLabel(dict: string, feature: number, text: string, over: Label | null): Promise<void> {
  if (over) await api.put<Label>(`labels/${over.id}`, { text }, over.etag);
  else await api.post<Label>('labels', { dict, feature, text });
  forget(dict, feature);
}

/** Let an explanation be the label, in place of the one this person has given. */
export async function adoptExplanation(dict: string, feature: number, explanation: Explanation, over: Label | null): Promise<void> {
  if (over) await api.delete(`labels/${over.id}`, over.etag);
  await api.post<Label>('labels', { dict, feature, text: explanation.text.slice(0, 2000), explanation_id: explanation.id });
  forget(dict, feature);
}

export async function removeLabel(dict: string, feature: number, label: Label): Promise<void> {
  await api.delete(`labels/${label.id}`, label.etag);
  forget(dict, feature);
}

export async function addExplanation(dict: string, feature: number, text: string): Promise<void> {
  await api.post<Explanation>('explanations', { dict, feature, text });
  forget(dict, feature);
}

export async function removeExplanation(dict: string, feature: number, explanation: Explanation): Promise<void> {
  await api.delete(`explanations/${explanation.id}`, explanation.etag);
  forget(dict, feature);
}

export async function setBookmark(dict: string, feature: number, on: boolean): Promise<void> {
  if (on) await api.post('bookmarks', { dict, feature });
  else await api.delete('bookmarks', null, { dict, feature });
  forget(dict, feature);
}

export async function addTag(dict: string, feature: number, tag: string): Promise<void> {
  await api.post('feature-tags', { dict, feature, tag });
  forget(dict, feature);
}

export async function removeTag(dict: string, feature: number, tag: string): Promise<void> {
  await api.delete('feature-tags', null, { dict, feature, tag });
  forget(dict, feature);
}

export async function getLists(): Promise<FeatureList[]> {
  return (await api.get<Items<FeatureList>>('lists', { limit: 1000 })).items;
}

export async function addToList(list: FeatureList, dict: string, feature: number): Promise<void> {
  await api.post<Items<ListItem>>(`lists/${list.id}/items`, { items: [{ dict, feature }] });
}

export function newList(name: string): Promise<FeatureList> {
  return api.post<FeatureList>('lists', { name });
}

export function addNote(dict: string, feature: number, markdown: string): Promise<Note> {
  return api.post<Note>('notes', { target_kind: 'feature', target_id: `${dict}/${feature}`, markdown });
}
