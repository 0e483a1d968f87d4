// Lists and notes: every change names the state it is of, and throws a Problem of status 412 when another came first.

import { api } from './client';
import type { components } from './schema';

type Schemas = components['schemas'];
export type FeatureList = Schemas['FeatureList'];
export type ListItem = Schemas['ListItem'];
export type Note = Schemas['Note'];

const PAGE = 1000;

async function pages<T extends { id: string }>(path: string, query: Record<string, string>, signal?: AbortSignal): Promise<T[]> {
  const out: T[] = [];
  for (let after = ''; ; after = out.at(-1)?.id ?? '') {
    const page = await api.get<{ items: T[] }>(path, { ...query, after, limit: PAGE }, signal);
    out.push(...page.items);
    if (page.items.length < PAGE) return out;
  }
}

export const lists = {
  all: (signal?: AbortSignal) => pages<FeatureList>('lists', {}, signal),
  get: (id: string, signal?: AbortSignal) => api.get<FeatureList>(`lists/${id}`, {}, signal),
  create: (name: string) => api.post<FeatureList>('lists', { name }),
  edit: (list: FeatureList, name: string, description: string) => api.put<FeatureList>(`lists/${list.id}`, { name, description }, list.etag),
  remove: (list: FeatureList) => api.delete(`lists/${list.id}`, list.etag),
  items: async (id: string, signal?: AbortSignal) => (await api.get<{ items: ListItem[] }>(`lists/${id}/items`, {}, signal)).items,
  add: (id: string, features: { dict: string; feature: number }[]) => api.post(`lists/${id}/items`, { items: features }),
  note: (item: ListItem, note: string) => api.put<ListItem>(`lists/${item.list_id}/items/${item.id}`, { note }, item.etag),
  move: (item: ListItem, before: string | null) => api.post<ListItem>(`lists/${item.list_id}/items/${item.id}/move`, { before }),
  drop: (item: ListItem) => api.delete(`lists/${item.list_id}/items/${item.id}`, item.etag),
};

export const notes = {
  all: (query: Record<string, string> = {}, signal?: AbortSignal) => pages<Note>('notes', query, signal),
  create: (kind: Note['target_kind'], id: string, markdown: string) => api.post<Note>('notes', { target_kind: kind, target_id: id, markdown }),
  edit: (note: Note, markdown: string) => api.put<Note>(`notes/${note.id}`, { markdown }, note.etag),
  remove: (note: Note) => api.delete(`notes/${note.id}`, note.etag),
};
