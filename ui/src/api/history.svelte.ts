// What was changed last, how each change is taken back, and how it is made again.

import { api, send } from './client';
import { turns } from './turns.svelte';

export interface Change {
  what: string;
  back: () => Promise<unknown>;
  again: () => Promise<unknown>;
}

const KEPT = 50;

class History {
  /** Raised when something was taken back or made again: what is shown is then read anew. */
  version = $state(0);
  #done: Change[] = [];
  #undone: Change[] = [];

  /** Something was changed; `back` undoes that, `again` redoes it, and both fail where another has changed it since. */
  did(what: string, back: Change['back'], again: Change['again']): Change {
    const change = { what, back, again };
    this.#done = [...this.#done.slice(1 - KEPT), change];
    this.#undone = [];
    return change;
  }

  /** A row was made: taken back, it is deleted. */
  made(what: string, kind: Kind, row: Row, path = `${kind}/${row.id}`): Change {
    return this.did(what, () => api.delete(path, stateOf(row)), () => restore(kind, row));
  }

  /** A row was deleted: taken back, it is restored. */
  removed(what: string, kind: Kind, row: Row, path = `${kind}/${row.id}`): Change {
    return this.did(what, () => restore(kind, row), () => api.delete(path, stateOf(row)));
  }

  /** Take back a change, the last one as a rule; says what it was, null where there is none. */
  undo(change?: Change): Promise<string | null> {
    return this.#next(async () => {
      const last = change ?? this.#done.at(-1);
      if (!last) return null;
      this.#done = this.#done.filter((other) => other !== last);
      await last.back();
      this.#undone = [...this.#undone, last];
      return last.what;
    });
  }

  /** Make again what was taken back last; says what it was, null where there is none. */
  redo(): Promise<string | null> {
    return this.#next(async () => {
      const last = this.#undone.at(-1);
      if (!last) return null;
      this.#undone = this.#undone.slice(0, -1);
      await last.again();
      this.#done = [...this.#done, last];
      return last.what;
    });
  }

  /** One step after another, however fast the keys come, and after what still waits to be changed. */
  #next(step: () => Promise<string | null>): Promise<string | null> {
    return turns.next('history', step).finally(() => (this.version += 1));
  }
}

export const history = new History();

// What this page wrote last of each row: changes are taken back one after another, each from the state the next one left.
const etags = new Map<string, string>();
// The state that each of those writes was made to, and the one it left.
const later = new Map<string, string>();

type Kind = 'labels' | 'explanations' | 'lists' | 'items' | 'notes' | 'filters';

interface Row {
  id: string;
  etag: string;
}

/** Remember the state of a row that was just written, and the one it was written over. */
export function wrote<T extends Row>(row: T, over?: string): T {
  etags.set(row.id, row.etag);
  if (over) later.set(row.id + over, row.etag);
  return row;
}

/** What this page's own writes have made of a state that was read: where another wrote too, the server refuses it. */
export function sinceRead({ id, etag }: Row): string {
  const next = later.get(id + etag);
  return next === undefined ? etag : sinceRead({ id, etag: next });
}

/** The state of a row, as far as this page has changed it. */
export function stateOf(row: Row): string {
  return etags.get(row.id) ?? row.etag;
}

/** Bring back a row that was deleted. */
export async function restore(kind: Kind, { id }: Pick<Row, 'id'>): Promise<void> {
  const answer = await send('POST', `restore/${kind}/${id}`, { body: {} });
  etags.set(id, answer.headers.get('ETag')?.replaceAll('"', '') ?? '*');
}
