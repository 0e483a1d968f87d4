// What people add to features. Every change names the state it is of, and throws a Problem of status 412 when another
// came first.

import { api } from './client';
import { forget } from './features';
import type { Bookmark, Explanation, FeatureList, Label, ListItem, Note, Tag } from './types';

export async function saveLabel(dict: string, feature: number, text: string, over: Label | null, explanation: string | null = null): Promise<void> {
  if (over && !explanation) await api.patch<Label>(`labels/${over.id}`, { text }, over.etag);
  else await api.post<Label>('labels', { dict, feature, text, explanation_id: explanation });
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
  if (on) await api.post<Bookmark>('bookmarks', { dict, feature });
  else {
    const found = await api.get<Bookmark[]>('bookmarks', { dict, feature });
    await Promise.all(found.map((bookmark) => api.delete(`bookmarks/${bookmark.id}`, bookmark.etag)));
  }
  forget(dict, feature);
}

export async function addTag(dict: string, feature: number, name: string): Promise<void> {
  const known = await api.get<Tag[]>('tags');
  const tag = known.find((one) => one.name === name) ?? (await api.post<Tag>('tags', { name }));
  await api.put(`tags/${tag.id}/features`, { dict, feature });
  forget(dict, feature);
}

export async function removeTag(dict: string, feature: number, name: string): Promise<void> {
  const tag = (await api.get<Tag[]>('tags')).find((one) => one.name === name);
  if (tag) await api.delete(`tags/${tag.id}/features/${encodeURIComponent(dict)}/${feature}`);
  forget(dict, feature);
}

export function getLists(): Promise<FeatureList[]> {
  return api.get<FeatureList[]>('lists');
}

export async function addToList(list: FeatureList, dict: string, feature: number): Promise<void> {
  await api.post<ListItem[]>(`lists/${list.id}/items`, { items: [{ dict, feature }] });
}

export function newList(name: string): Promise<FeatureList> {
  return api.post<FeatureList>('lists', { name });
}

export function addNote(dict: string, feature: number, markdown: string): Promise<Note> {
  return api.post<Note>('notes', { target_kind: 'feature', target_id: `${dict}/${feature}`, markdown });
}
