// Keys of the page: one listener, and a register that the help sheet reads.

import { preferences } from './preferences.svelte';

export interface Key {
  /** As the event names it: "j", "J", "?", "Escape"; "mod+k" with Ctrl or Cmd. */
  key: string;
  label: string;
  group: string;
  run: (event: KeyboardEvent) => void;
}

class Keys {
  /** What holds now, for the help sheet. */
  bound: Key[] = $state.raw([]);
  // Not state: an effect that is torn down would read it as it was before the page changed.
  #held: Key[] = [];

  constructor() {
    addEventListener('keydown', (event) => this.#press(event));
  }

  bind(list: Key[]): void {
    this.#held = [...this.#held, ...list];
    this.bound = this.#held;
  }

  release(list: Key[]): void {
    this.#held = this.#held.filter((key) => !list.includes(key));
    this.bound = this.#held;
  }

  #press(event: KeyboardEvent): void {
    if (event.defaultPrevented || event.isComposing) return;
    const mod = event.metaKey || event.ctrlKey;
    const name = mod ? `mod+${event.key.toLowerCase()}` : event.key;
    const plain = !mod && event.key.length === 1;
    if (event.altKey || (plain && (isTyping(event) || !preferences.keys))) return;
    if (event.key !== 'Escape' && !mod && document.querySelector('dialog[open]')) return;
    const found = this.#held.findLast((key) => key.key === name);
    if (!found) return;
    if (event.key !== 'Escape') event.preventDefault();
    found.run(event);
  }
}

function isTyping(event: KeyboardEvent): boolean {
  const target = event.composedPath()[0];
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName)) &&
    !(target instanceof HTMLInputElement && ['checkbox', 'radio', 'range', 'button'].includes(target.type))
  );
}

export const keys = new Keys();

/** Keys that hold while a component is shown: call while it initializes. The last bound of equal keys wins. */
export function bindKeys(list: Key[]): void {
  $effect.pre(() => {
    keys.bind(list);
    return () => keys.release(list);
  });
}
