// Lists and notes: every change names the state it is of, and throws a Problem of status 412 when another came first.

import { api, send } from './client';
import { history, restore, sinceRead, stateOf, wrote, type Change } from './history.svelte';
import type { components } from './schema';
import { turns } from './turns.svelte';

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

const pathOf = (item: ListItem): string => `lists/${item.list_id}/items/${item.id}`;

const write = {
  list: async (list: FeatureList, etag: string, name: string, description: string) => wrote(await api.put<FeatureList>(`lists/${list.id}`, { name, description }, etag)),
  note: async (item: ListItem, etag: string, note: string) => wrote(await api.put<ListItem>(pathOf(item), { note }, etag), etag),
  place: async (item: ListItem, etag: string, before: string | null) => wrote(await api.post<ListItem>(`${pathOf(item)}/move`, { before }, undefined, etag), etag),
  text: async (note: Note, etag: string, markdown: string) => wrote(await api.put<Note>(`notes/${note.id}`, { markdown }, etag)),
};

export const lists = {
  all: (signal?: AbortSignal) => pages<FeatureList>('lists', {}, signal),
  get: (id: string, signal?: AbortSignal) => api.get<FeatureList>(`lists/${id}`, {}, signal),
  items: async (id: string, signal?: AbortSignal) => (await api.get<{ items: ListItem[] }>(`lists/${id}/items`, {}, signal)).items,
  /** The features that are of one dictionary, as a page that stands alone. */
  page: async (id: string, dict: string) => (await send('GET', `lists/${id}/page`, { query: { dict }, accept: 'text/html' })).text(),

  async create(name: string): Promise<FeatureList> {
    const list = await api.post<FeatureList>('lists', { name });
    history.made(`the list “${name}”`, 'lists', list);
    return list;
  },
  async edit(list: FeatureList, name: string, description: string): Promise<void> {
    const saved = await write.list(list, list.etag, name, description);
    history.did(
      `the name of “${name}”`,
      () => write.list(saved, stateOf(saved), list.name, list.description),
      () => write.list(saved, stateOf(saved), name, description),
    );
  },
  async remove(list: FeatureList): Promise<void> {
    await api.delete(`lists/${list.id}`, list.etag);
    history.removed(`deleting “${list.name}”`, 'lists', list);
  },
  async add(id: string, features: { dict: string; feature: number }[]): Promise<void> {
    const had = new Set((await lists.items(id)).map((item) => item.id));
    const { items } = await api.post<{ items: ListItem[] }>(`lists/${id}/items`, { items: features });
    const fresh = items.filter((item) => !had.has(item.id));
    history.did(
      features.length === 1 ? `adding feature ${features[0]?.feature} to a list` : `adding ${features.length} features to a list`,
      () => Promise.all(fresh.map((item) => api.delete(pathOf(item), stateOf(item)))),
      () => Promise.all(fresh.map((item) => restore('items', item))),
    );
  },
  async note(item: ListItem, note: string): Promise<ListItem> {
    const saved = await turns.next(`note ${item.id}`, () => write.note(item, sinceRead(item), note));
    history.did(
      `the note on feature ${item.feature}`,
      () => write.note(saved, stateOf(saved), item.note),
      () => write.note(saved, stateOf(saved), note),
    );
    return saved;
  },
  /** Put an item in front of another, or at the end; `was`: what it stood in front of. */
  async move(item: ListItem, before: string | null, was: string | null): Promise<ListItem> {
    // Leaving, what the move before this one made of the item is not known yet.
    const moved = await turns.next(`place ${item.id}`, (leaving) => write.place(item, leaving ? '*' : sinceRead(item), before));
    history.did(
      `moving feature ${item.feature}`,
      () => write.place(moved, stateOf(moved), was),
      () => write.place(moved, stateOf(moved), before),
    );
    return moved;
  },
  async drop(item: ListItem): Promise<Change> {
    await turns.next(`item ${item.id}`, () => api.delete(pathOf(item), sinceRead(item)));
    return history.removed(`taking feature ${item.feature} off a list`, 'items', item, pathOf(item));
  },
};

export const notes = {
  all: (query: Record<string, string> = {}, signal?: AbortSignal) => pages<Note>('notes', query, signal),

  async create(kind: Note['target_kind'], id: string, markdown: string): Promise<Note> {
    const note = wrote(await api.post<Note>('notes', { target_kind: kind, target_id: id, markdown }));
    history.made('a note', 'notes', note);
    return note;
  },
  async edit(note: Note, markdown: string): Promise<void> {
    const saved = await write.text(note, note.etag, markdown);
    history.did(
      'changing a note',
      () => write.text(saved, stateOf(saved), note.markdown),
      () => write.text(saved, stateOf(saved), markdown),
    );
  },
  async remove(note: Note): Promise<void> {
    await api.delete(`notes/${note.id}`, note.etag);
    history.removed('deleting a note', 'notes', note);
  },
};
