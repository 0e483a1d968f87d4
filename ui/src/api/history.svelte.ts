// What was changed last, and how each change is taken back.

import { api } from './client';

export interface Change {
  what: string;
  back: () => Promise<unknown>;
}

const KEPT = 50;

class History {
  /** Raised when something was taken back: what is shown is then read again. */
  version = $state(0);
  #done: Change[] = [];

  /** Something was changed; `back` undoes that, and fails where another has changed it since. */
  did(what: string, back: () => Promise<unknown>): Change {
    const change = { what, back };
    this.#done = [...this.#done.slice(1 - KEPT), change];
    return change;
  }

  /** Take back a change, the last one as a rule; says what it was, null where there is none. */
  async undo(change: Change | undefined = this.#done.at(-1)): Promise<string | null> {
    if (!change) return null;
    this.#done = this.#done.filter((other) => other !== change);
    try {
      await change.back();
    } finally {
      this.version += 1;
    }
    return change.what;
  }
}

export const history = new History();

// What this page wrote last of each row: changes are taken back one after another, each from the state the next one left.
const etags = new Map<string, string>();

interface Row {
  id: string;
  etag: string;
}

/** Remember the state of a row that was just written. */
export function wrote<T extends Row>(row: T): T {
  etags.set(row.id, row.etag);
  return row;
}

/** The state of a row, as far as this page has changed it. */
export function stateOf(row: Row): string {
  return etags.get(row.id) ?? row.etag;
}

/** Bring back a row that was deleted; whatever state it comes back in. */
export async function restore(kind: 'labels' | 'explanations' | 'lists' | 'items' | 'notes', id: string): Promise<void> {
  await api.post(`restore/${kind}/${id}`, {});
  etags.set(id, '*');
}
