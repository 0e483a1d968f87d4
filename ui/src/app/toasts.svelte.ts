// Short messages that need no answer; one that failed stays until it is closed.

import { history, type Change } from '$/api/history.svelte';

export interface Toast {
  id: number;
  text: string;
  kind: 'done' | 'failed';
  action?: { label: string; run: () => void };
}

class Toasts {
  all: Toast[] = $state([]);
  #next = 0;

  say(text: string, { kind = 'done', action }: { kind?: Toast['kind']; action?: Toast['action'] } = {}): void {
    const toast: Toast = { id: this.#next++, text, kind, ...(action ? { action } : {}) };
    this.all = [...this.all.slice(-3), toast];
    if (kind === 'done') setTimeout(() => this.close(toast.id), action ? 8000 : 3500);
  }

  close(id: number): void {
    this.all = this.all.filter((toast) => toast.id !== id);
  }
}

export const toasts = new Toasts();

/** Say what went wrong in a mutation. */
export function failed(error: unknown): void {
  toasts.say(error instanceof Error ? error.message : String(error), { kind: 'failed' });
}

/** Take back a change, the last one as a rule, and say so. */
export async function takeBack(change?: Change): Promise<void> {
  try {
    const what = await history.undo(change);
    toasts.say(what === null ? 'Nothing was changed yet' : `Took back ${what}`);
  } catch (error) {
    failed(error);
  }
}

/** Make again what was taken back last, and say so. */
export async function makeAgain(): Promise<void> {
  try {
    const what = await history.redo();
    toasts.say(what === null ? 'Nothing was taken back' : `Made again: ${what}`);
  } catch (error) {
    failed(error);
  }
}
