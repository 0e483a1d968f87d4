// What the server holds and can do: read once, and again when something was opened.

import { api, isAbort, Problem } from './client';
import type { Card, Library, Meta } from './types';

const AGAIN = 1000;

class Shelf {
  library: Library | null = $state.raw(null);
  meta: Meta | null = $state.raw(null);
  error: Problem | null = $state.raw(null);
  loading = $state(true);

  cards = $derived<Card[]>(apart(this.library?.dictionaries ?? []));
  byId = $derived(new Map(this.cards.map((card) => [card.id, card])));

  async load(): Promise<void> {
    this.loading = true;
    try {
      [this.library, this.meta] = await Promise.all([api.get<Library>('library'), api.get<Meta>('meta')]);
      this.error = null;
      // The first answer does not wait for the workspace, and so does not count its labels.
      if (this.library.dictionaries.some((card) => card.n_labels === null)) setTimeout(() => void this.load(), AGAIN);
    } catch (error) {
      if (isAbort(error)) return;
      this.error = error instanceof Problem ? error : new Problem(-1, { title: 'Something is wrong', detail: String(error) });
    } finally {
      this.loading = false;
    }
  }

  /** Only what changes by itself: the worker's state. */
  async loadMeta(): Promise<void> {
    try {
      this.meta = await api.get<Meta>('meta');
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
    }
  }

  name(dict: string): string {
    return this.byId.get(dict)?.name ?? dict;
  }
}

/** Dictionaries of the same name are told apart by their ids. */
function apart(cards: Card[]): Card[] {
  const count = new Map<string, number>();
  for (const card of cards) count.set(card.name, (count.get(card.name) ?? 0) + 1);
  return cards.map((card) => ((count.get(card.name) ?? 0) > 1 ? { ...card, name: card.id } : card));
}

export const shelf = new Shelf();
