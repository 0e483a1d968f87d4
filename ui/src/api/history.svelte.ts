// What was changed last, how each change is taken back, and how it is made again.

import { api, send } from './client';

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
  #turn: Promise<unknown> = Promise.resolve();

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

  /** One step after another, however fast the keys come. */
  #next(step: () => Promise<string | null>): Promise<string | null> {
    const done = this.#turn.then(step).finally(() => (this.version += 1));
    this.#turn = done.catch(() => undefined);
    return done;
  }
}

export const history = new History();

// What this page wrote last of each row: changes are taken back one after another, each from the state the next one left.
const etags = new Map<string, string>();

type Kind = 'labels' | 'explanations' | 'lists' | 'items' | 'notes' | 'filters';

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

/** Bring back a row that was deleted. */
export async function restore(kind: Kind, { id }: Pick<Row, 'id'>): Promise<void> {
  const answer = await send('POST', `restore/${kind}/${id}`, { body: {} });
  etags.set(id, answer.headers.get('ETag')?.replaceAll('"', '') ?? '*');
}
